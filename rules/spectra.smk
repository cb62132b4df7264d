# Spectra: what did the optimiser do? Two-layer networks of linear width, and the image networks.

if study.spectra:
    spectra = study.spectra

    rule train_width:
        # Two-layer networks: those of one shape and recipe are trained as one stack.
        output:
            "<results>/spectra/networks/{group}/{block}.h5",
        log:
            "<logs>/spectra/networks/{group}/{block}.log",
        benchmark:
            "<benchmarks>/spectra/networks/{group}/{block}.tsv"
        conda:
            "../envs/training.yaml"
        threads: 1
        resources:
            mem_mb=growing(3000),
            runtime=growing(720),
            gpu=GPUS,
        params:
            name=lambda w: name_of_folder(w.group),
            group=group_spec,
            seed=study.seed,
            device=study.device,
            code=code_digest("model_metrology.spectra.training"),
        script:
            "../scripts/train_width.py"

    rule measure_width:
        input:
            "<results>/spectra/networks/{group}/{block}.h5",
        output:
            spectra="<results>/spectra/measured/{group}/{block}.h5",
            table="<results>/spectra/measured/{group}/{block}.csv",
            excluded="<results>/spectra/measured/{group}/{block}.excluded.csv",
        log:
            "<logs>/spectra/measured/{group}/{block}.log",
        benchmark:
            "<benchmarks>/spectra/measured/{group}/{block}.tsv"
        conda:
            "../envs/training.yaml"
        threads: 1
        resources:
            mem_mb=growing(4000),
            runtime=growing(240),
        params:
            name=lambda w: name_of_folder(w.group),
            group=group_spec,
            level=spectra.level,
            seed=study.seed,
            code=code_digest("model_metrology.spectra.measure", "model_metrology.files"),
        script:
            "../scripts/measure_width.py"

    rule summarise_spectra:
        # One table of everything, slopes of the norms, and the claims with their counts.
        input:
            tables=spectra_files(groups, ".csv"),
            excluded=spectra_files(groups, ".excluded.csv"),
        output:
            spectra="<results>/spectra/spectra.csv",
            excluded="<results>/spectra/excluded.csv",
            slopes="<results>/spectra/slopes.csv",
            summary="<results>/spectra/summary.csv",
            claims="<results>/spectra/claims.csv",
            table=report(
                "<results>/spectra/summary.html",
                category="Spectra",
                labels={"figure": "0 · table of populations and claims"},
                caption="../report/spectra/summary.rst",
            ),
        log:
            "<logs>/spectra/summary.log",
        benchmark:
            "<benchmarks>/spectra/summary.tsv"
        conda:
            "../envs/measure.yaml"
        threads: 1
        resources:
            mem_mb=growing(2000),
            runtime=growing(30),
        params:
            populations=list(spectra.populations),
            scaling=spectra.scaling,
            expected=spectra.expected,
            seed=study.seed,
            code=code_digest(
                "model_metrology.spectra.tables", "model_metrology.plots.tables"
            ),
        script:
            "../scripts/summarise_spectra.py"

    if spectra.images:

        rule image_spectra:
            # The weights of every layer, and both kernels, of networks trained on images.
            input:
                runs=run_files,
                dataset=dataset_file,
            output:
                table="<results>/spectra/images/{population}.csv",
                spectra="<results>/spectra/images/{population}.h5",
            log:
                "<logs>/spectra/images/{population}.log",
            benchmark:
                "<benchmarks>/spectra/images/{population}.tsv"
            conda:
                "../envs/training.yaml"
            threads: 1
            resources:
                mem_mb=growing(4000),
                runtime=growing(240),
                gpu=GPUS,
            params:
                name=name_of,
                population=population_spec,
                size=spectra.images.runs,
                points=spectra.images.points,
                level=spectra.level,
                seed=study.seed,
                device=study.device,
                code=code_digest(
                    "model_metrology.spectra.images", "model_metrology.files"
                ),
            script:
                "../scripts/image_spectra.py"

    if spectra.forensics:
        known, unknown = spectra.forensics.classes, spectra.forensics.unknown
        seen = [
            name for names in [*known.values(), *unknown.values()] for name in names
        ]

        rule forensics:
            # Can the optimiser be named from the spectra of runs that the classifier has not seen?
            input:
                spectra=spectra_files(seen, ".h5"),
                table="<results>/spectra/spectra.csv",
            output:
                accuracy="<results>/spectra/forensics/accuracy.csv",
                unknown="<results>/spectra/forensics/unknown.csv",
                confusion="<results>/spectra/forensics/confusion.csv",
                reliability="<results>/spectra/forensics/reliability.csv",
                predictions="<results>/spectra/forensics/predictions.csv",
            log:
                "<logs>/spectra/forensics.log",
            benchmark:
                "<benchmarks>/spectra/forensics.tsv"
            conda:
                "../envs/training.yaml"
            threads: 1
            resources:
                mem_mb=growing(4000),
                runtime=growing(120),
            params:
                groups=[name for name in seen for _ in groups[name].blocks()],
                classes=known,
                unknown=unknown,
                held_out=spectra.forensics.held_out,
                level=spectra.forensics.level,
                seed=study.seed,
                code=code_digest(
                    "model_metrology.spectra.forensics", "model_metrology.files"
                ),
            script:
                "../scripts/forensics.py"

    # Figures: each a function of `model_metrology.plots.spectra` on tables measured above.
    table = "<results>/spectra/{}.csv".format
    named = {"populations": list(spectra.populations)}
    # One run of each population is drawn: the first block holds it.
    first_blocks = [
        f"<results>/spectra/measured/{folder_name(name)}/{next(groups[name].blocks())}.h5"
        for name in spectra.populations
    ]
    everything = {"table": table("spectra")}
    figures = {
        "densities": {
            "label": "1 · densities before and after training",
            "inputs": everything | {"runs": first_blocks},
            "options": named,
        },
        "tails": {
            "label": "2 · upper tails",
            "inputs": everything | {"runs": first_blocks},
            "options": named,
        },
        "alignment": {
            "label": "3 · spikes and alignment over training",
            "inputs": everything,
            "options": named | {"multi_index": spectra.multi_index},
        },
        "norms_time": {
            "label": "5 · norms of the change against time",
            "inputs": everything,
            "options": named,
        },
        "bulk": {
            "label": "6 · has the bulk moved",
            "inputs": everything | {"runs": first_blocks},
            "options": named,
        },
    }
    if spectra.scaling:
        figures["norms_size"] = {
            "label": "4 · norms of the change against size",
            "inputs": everything | {"slopes": table("slopes")},
        }
    if spectra.phases:
        figures["phases"] = {
            "label": "7 · phase diagrams",
            "inputs": everything | {"excluded": table("excluded")},
            "options": {"sweeps": spectra.phases},
        }
    if spectra.forensics:
        for number, part in enumerate(
            ("accuracy", "confusion", "reliability"), start=8
        ):
            figures[f"forensics_{part}"] = {
                "label": f"{number} · naming the optimiser: {part}",
                "inputs": {part: table(f"forensics/{part}")},
            }
        figures["forensics_accuracy"]["options"] = {"classes": len(known)}
    if spectra.images:
        figures["images"] = {
            "label": "11 · networks trained on images",
            "inputs": {
                "tables": collect(
                    "<results>/spectra/images/{population}.csv",
                    population=map(folder_name, spectra.images.populations),
                )
            },
        }
    add_figures("spectra", figures)
    spectra_results = rules.summarise_spectra.output
