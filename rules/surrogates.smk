# Surrogates: do two models explain themselves alike? From networks to kernels, kGLMs, attributions.

if study.surrogates:
    surrogates = study.surrogates
    subjects = surrogates.subjects(study.populations)
    SUBJECT = "<results>/surrogates/{subject}/{run}"
    # How files are read is left out: a change to those of other stages would redo hours of kernels.
    KERNEL_CODE = code_digest(
        "model_metrology.surrogates.columns",
        "model_metrology.surrogates.loading",
        without="model_metrology.files",
    )
    MEASURE_CODE = code_digest(
        "model_metrology.surrogates.tables", "model_metrology.files"
    )

    if surrogates.language:

        rule tokens:
            # Sentences as token ids.
            input:
                token_inputs,
            output:
                "<results>/surrogates/{subject}/tokens.h5",
            log:
                "<logs>/surrogates/{subject}/tokens.log",
            benchmark:
                "<benchmarks>/surrogates/{subject}/tokens.tsv"
            conda:
                "../envs/kernels.yaml"
            threads: 1
            resources:
                mem_mb=growing(4000),
                runtime=growing(60),
            params:
                options=language_options,
                # Only checked. What takes `output` is not compared with what it was: other points
                # of the kernels make no other sentences, and train no network again.
                needed=lambda w, output: subject_points(name_of_folder(w.subject)),
                seed=study.seed,
                code=code_digest("model_metrology.models.language"),
            script:
                "../scripts/tokens.py"

        rule fine_tune:
            input:
                tokens="<results>/surrogates/{subject}/tokens.h5",
                model=lambda w: model_files(
                    language_of(w).model, "config.json", "*.safetensors*"
                ),
            output:
                runs=f"{SUBJECT}/runs.h5",
                config=f"{SUBJECT}/config.json",
            log:
                "<logs>/surrogates/{subject}/{run}/fine_tune.log",
            benchmark:
                "<benchmarks>/surrogates/{subject}/{run}/fine_tune.tsv"
            conda:
                "../envs/kernels.yaml"
            threads: 2
            resources:
                mem_mb=growing(8000),
                runtime=growing(720),
                gpu=GPUS,
            params:
                name=lambda w: name_of_folder(w.subject),
                options=language_options,
                seed=study.seed,
                device=study.device,
                code=code_digest("model_metrology.models.language"),
            script:
                "../scripts/fine_tune.py"

    rule subject_outputs:
        # What a network says of the points of its kernels.
        input:
            unpack(subject_inputs),
        output:
            f"{SUBJECT}/outputs.h5",
        log:
            "<logs>/surrogates/{subject}/{run}/outputs.log",
        benchmark:
            "<benchmarks>/surrogates/{subject}/{run}/outputs.tsv"
        conda:
            "../envs/kernels.yaml"
        threads: 1
        resources:
            mem_mb=growing(4000),
            runtime=growing(60),
            gpu=GPUS,
        params:
            spec=subject_spec,
            device=study.device,
            code=KERNEL_CODE,
        script:
            "../scripts/subject_outputs.py"

    rule kernel_columns:
        # Some columns of all kernels, not normalised: one job a run, or many on a cluster.
        input:
            unpack(subject_inputs),
        output:
            kept_kernels(f"{SUBJECT}/kernels/{{columns}}.h5"),
        log:
            "<logs>/surrogates/{subject}/{run}/kernels/{columns}.log",
        benchmark:
            "<benchmarks>/surrogates/{subject}/{run}/kernels/{columns}.tsv"
        conda:
            "../envs/kernels.yaml"
        threads: 1
        resources:
            # Points and blocks keep to memory_mb; beside them the columns of all kernels, until they
            # are written.
            mem_mb=growing(
                lambda w: (
                    surrogates.memory_mb
                    + 2000
                    + len(surrogates.kernels)
                    * kernel_mb(name_of_folder(w.subject), surrogates.tile)
                )
            ),
            runtime=growing(720),
            gpu=GPUS,
        params:
            spec=subject_spec,
            kernels=surrogates.kernels,
            options={
                "memory_mb": surrogates.memory_mb,
                "precision": surrogates.precision,
                "dim": surrogates.projection,
                "seed": study.seed,
            },
            device=study.device,
            code=KERNEL_CODE,
        script:
            "../scripts/kernel_columns.py"

    rule surrogates:
        # The kGLM of each kernel: how faithful it is, and what it attributes to what.
        input:
            outputs=f"{SUBJECT}/outputs.h5",
            columns=kernel_files,
        output:
            **{name: f"{SUBJECT}/{name}.csv" for name in SURROGATE_TABLES},
            surrogates=f"{SUBJECT}/surrogates.h5",
        log:
            "<logs>/surrogates/{subject}/{run}/surrogates.log",
        benchmark:
            "<benchmarks>/surrogates/{subject}/{run}/surrogates.tsv"
        conda:
            "../envs/measure.yaml"
        threads: 1
        resources:
            # One kernel at a time, beside it at most as much again; time grows as its entries do.
            mem_mb=growing(lambda w: 4000 + 3 * kernel_mb(name_of_folder(w.subject))),
            runtime=growing(lambda w: 60 + 0.1 * kernel_mb(name_of_folder(w.subject))),
        params:
            key=subject_key,
            kernels=surrogates.kernels,
            attribution_kernel=surrogates.attribution_kernel,
            options=measure_options,
            examples=attribution_examples,
            poison=lambda w: subject_spec(w)["poison"],
            seed=study.seed,
            code=MEASURE_CODE,
        script:
            "../scripts/surrogates.py"

    rule summarise_surrogates:
        # All runs and kernels in one table each, runs against each other, and what is published.
        input:
            **{name: subject_results(f"{name}.csv") for name in SURROGATE_TABLES},
            outputs=subject_results("outputs.h5", surrogates.compared),
            surrogates=subject_results("surrogates.h5", surrogates.compared),
        output:
            **{
                name: f"<results>/surrogates/{name}.csv"
                for name in [*SURROGATE_TABLES, "agreement", "summary"]
            },
            table=report(
                "<results>/surrogates/summary.html",
                category="Surrogates",
                labels={"figure": "0 · tables of faithfulness"},
                caption="../report/surrogates/summary.rst",
            ),
        log:
            "<logs>/surrogates/summary.log",
        benchmark:
            "<benchmarks>/surrogates/summary.tsv"
        conda:
            "../envs/measure.yaml"
        threads: 1
        resources:
            mem_mb=growing(4000 + attributions_mb()),
            runtime=growing(120),
        params:
            compared=compared_keys(),
            kernel=surrogates.attribution_kernel,
            code=[MEASURE_CODE, code_digest("model_metrology.plots.tables")],
        script:
            "../scripts/summarise_surrogates.py"

    # Figures: each a function of `model_metrology.plots.surrogates` on tables measured above.
    table = "<results>/surrogates/{}.csv".format
    kernel = {"kernel": surrogates.attribution_kernel}
    figures = {
        "faithfulness": {
            "label": "1 · faithfulness by kernel",
            "inputs": {"faithfulness": table("faithfulness")},
        },
        "scatter": {
            "label": "2 · scores of network and surrogate",
            "inputs": {
                "scores": table("scores"),
                "faithfulness": table("faithfulness"),
            },
            "options": kernel,
        },
        "published": {
            "label": "3 · beside the published values",
            "inputs": {"summary": table("summary")},
        },
        "attribution_classes": {
            "label": "5 · attributions by class",
            "inputs": {"attribution": table("attribution")},
        },
    }
    # Networks that read sentences decide by no images.
    seeing = [name for name in subjects if subject_kind(name) != "language"]
    if seeing:
        figures["strongest"] = {
            "label": "6 · the training images that decide",
            "inputs": {
                "strongest": table("strongest"),
                "datasets": list(map(data_file, subject_datasets())),
            },
            "options": {"populations": seeing},
        }
    if surrogates.solvers:
        figures["solvers"] = {
            "label": "4 · surrogates by solver",
            "inputs": {"faithfulness": table("faithfulness")},
            "options": kernel,
        }
    if sum(subjects.values()) > 1:
        figures["agreement"] = {
            "label": "7 · do attributions agree between models",
            "inputs": {"agreement": table("agreement")},
        }
    if any(poison_of(name) for name in surrogates.populations):
        figures["poison"] = {
            "label": "8 · poisoned points found",
            "inputs": {"poison": table("poison")},
        }
        figures["poison_curves"] = {
            "label": "9 · precision and recall of poison",
            "inputs": {"poison_curves": table("poison_curves")},
        }
    add_figures("surrogates", figures)
    surrogates_results = rules.summarise_surrogates.output
