# Populations of runs: one job trains a block of `runs_per_job` runs of one population.


rule features:
    # The frozen part of a pretrained network, applied once for all runs that train its head.
    input:
        dataset=dataset_file,
    output:
        "<results>/features/{population}.h5",
    log:
        "<logs>/features/{population}.log",
    benchmark:
        "<benchmarks>/features/{population}.tsv"
    conda:
        "../envs/training.yaml"
    threads: 2
    resources:
        mem_mb=growing(4000),
        runtime=growing(120),
        gpu=GPUS,
    params:
        architecture=lambda w: population_of(w).architecture.model_dump(),
        device=study.device,
        code=code_digest("model_metrology.models", "model_metrology.training"),
    script:
        "../scripts/features.py"


rule train:
    input:
        unpack(training_inputs),
    output:
        "<results>/training/{population}/{block}/runs.h5",
    log:
        "<logs>/training/{population}/{block}.log",
    benchmark:
        "<benchmarks>/training/{population}/{block}.tsv"
    conda:
        "../envs/training.yaml"
    threads: 1
    resources:
        mem_mb=growing(3000),
        runtime=growing(720),
        gpu=GPUS,
    params:
        name=name_of,
        population=population_spec,
        seed=study.seed,
        device=study.device,
        # Not an output: Snakemake deletes outputs of failed jobs, a checkpoint must outlive them.
        checkpoint=f"{RESULTS}/checkpoints/{{population}}/{{block}}.h5",
        code=code_digest("model_metrology.training"),
    script:
        "../scripts/train.py"


rule collect_outputs:
    # The outputs of all runs of a population on the test points, and which runs diverged.
    input:
        runs=run_files,
        dataset=dataset_file,
    output:
        outputs="<results>/outputs/{population}.h5",
        history="<results>/outputs/{population}.history.csv",
        excluded="<results>/outputs/{population}.excluded.csv",
    log:
        "<logs>/outputs/{population}.log",
    benchmark:
        "<benchmarks>/outputs/{population}.tsv"
    conda:
        "../envs/measure.yaml"
    threads: 1
    resources:
        mem_mb=growing(lambda w: 2000 + 3 * outputs_mb(name_of(w))),
        # Each run's file is read whole, as its checksum is.
        runtime=growing(lambda w: 30 + 0.05 * population_of(w).size),
    params:
        name=name_of,
        max_excluded=study.max_excluded,
        code=code_digest("model_metrology.runs", "model_metrology.files"),
    script:
        "../scripts/collect_outputs.py"


if study.populations:
    add_figures(
        "training",
        {
            "training": {
                "label": "loss and accuracy",
                "inputs": {
                    "history": collect(
                        "<results>/outputs/{population}.history.csv",
                        population=map(folder_name, study.populations),
                    )
                },
            }
        },
    )
