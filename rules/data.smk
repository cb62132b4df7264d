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
        mem_mb=growing(4000),
        runtime=growing(60),
    params:
        name=lambda w: name_of_folder(w.dataset),
        options=dataset_options,
        poison=dataset_poison,
        code=dataset_code,
    script:
        "../scripts/dataset.py"
