# Raw data, from the first source that has them, to one HDF5 file a dataset.


rule dataset:
    output:
        "<results>/data/{dataset}.h5",
    log:
        "<logs>/data/{dataset}.log",
    benchmark:
        "<benchmarks>/data/{dataset}.tsv"
    conda:
        "../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        options=dataset_options,
        code=code_digest("model_metrology.data"),
    script:
        "../scripts/dataset.py"
