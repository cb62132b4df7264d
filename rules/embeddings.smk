# Embeddings: what large models see of texts and images. From sources to vectors to tables.

if study.embeddings:
    embeddings = study.embeddings
    COLLECTION = "<results>/embeddings/{collection}"
    EMBEDDED = f"{COLLECTION}/{{embedder}}"
    MEASURING = {
        "folds": embeddings.folds,
        "permutations": embeddings.permutations,
        "bootstraps": embeddings.bootstraps,
        "level": embeddings.level,
        "seed": study.seed,
    }

    if any(source.generator for source in embeddings.sources.values()):

        rule generate_images:
            # A diffusion model trained on a dataset, and what it draws.
            input:
                lambda w: data_file(source_options(w)["generator"]["dataset"]),
            output:
                "<results>/embeddings/generated/{source}.h5",
            log:
                "<logs>/embeddings/generated/{source}.log",
            benchmark:
                "<benchmarks>/embeddings/generated/{source}.tsv"
            conda:
                "../envs/training.yaml"
            threads: 2
            resources:
                mem_mb=growing(4000),
                runtime=growing(1440),
                gpu=GPUS,
            params:
                name=lambda w: name_of_folder(w.source),
                options=lambda w: source_options(w)["generator"],
                seed=study.seed,
                device=study.device,
                code=code_digest(
                    "model_metrology.models.diffusion", "model_metrology.seeds"
                ),
            script:
                "../scripts/generate_images.py"

    rule source_items:
        # Texts or images of one source, in one form wherever they come from.
        input:
            unpack(source_inputs),
        output:
            "<results>/embeddings/sources/{source}.h5",
        log:
            "<logs>/embeddings/sources/{source}.log",
        benchmark:
            "<benchmarks>/embeddings/sources/{source}.tsv"
        conda:
            "../envs/embeddings.yaml"
        threads: 1
        resources:
            mem_mb=growing(4000),
            runtime=growing(120),
        params:
            name=lambda w: name_of_folder(w.source),
            options=source_options,
            seed=study.seed,
            code=code_digest(
                "model_metrology.embeddings.sources",
                "model_metrology.embeddings.pictures",
            ),
        script:
            "../scripts/source_items.py"

    rule collect_items:
        # The sources of a contrast, side by side.
        input:
            lambda w: source_files(
                embeddings.collections()[name_of_folder(w.collection)]
            ),
        output:
            f"{COLLECTION}/items.h5",
        log:
            "<logs>/embeddings/{collection}/items.log",
        benchmark:
            "<benchmarks>/embeddings/{collection}/items.tsv"
        conda:
            "../envs/measure.yaml"
        threads: 1
        resources:
            mem_mb=growing(4000),
            runtime=growing(30),
        params:
            code=code_digest("model_metrology.embeddings.items"),
        script:
            "../scripts/collect_items.py"

    rule embed:
        # Vectors of all layers, of the items as they are and under each control.
        input:
            source_items=f"{COLLECTION}/items.h5",
            model=embedder_files,
        output:
            f"{EMBEDDED}/embedding.h5",
        log:
            "<logs>/embeddings/{collection}/{embedder}/embed.log",
        benchmark:
            "<benchmarks>/embeddings/{collection}/{embedder}/embed.tsv"
        conda:
            "../envs/embeddings.yaml"
        threads: 2
        resources:
            mem_mb=growing(6000),
            runtime=growing(1440),
            gpu=GPUS,
        params:
            options=embedder_options,
            controls=controls_of,
            cache=embeddings.cache,
            device=study.device,
            code=code_digest(
                "model_metrology.embeddings.cache",
                "model_metrology.embeddings.embedders",
                "model_metrology.embeddings.items",
            ),
        script:
            "../scripts/embed.py"

    rule measure_contrast:
        # Can the sources be told apart, by which layers and components, and without labels?
        input:
            source_items=f"{COLLECTION}/items.h5",
            embedding=f"{EMBEDDED}/embedding.h5",
        output:
            **{name: f"{EMBEDDED}/{name}.csv" for name in CONTRAST_TABLES},
        log:
            "<logs>/embeddings/{collection}/{embedder}/measure.log",
        benchmark:
            "<benchmarks>/embeddings/{collection}/{embedder}/measure.tsv"
        conda:
            "../envs/measure.yaml"
        threads: 1
        resources:
            mem_mb=growing(4000),
            runtime=growing(240),
        params:
            key=embedding_key,
            labels=lambda w: embeddings.contrasts[name_of_folder(w.collection)].labels,
            options=MEASURING,
            code=code_digest("model_metrology.embeddings.contrasts"),
        script:
            "../scripts/measure_contrast.py"

    rule measure_baselines:
        # What length, n-grams and words tell apart without any model.
        input:
            f"{COLLECTION}/items.h5",
        output:
            **{
                name: f"{COLLECTION}/{BASELINES}/{name}.csv"
                for name in SEPARATION_TABLES
            },
        log:
            f"<logs>/embeddings/{{collection}}/{BASELINES}/measure.log",
        benchmark:
            f"<benchmarks>/embeddings/{{collection}}/{BASELINES}/measure.tsv"
        conda:
            "../envs/measure.yaml"
        threads: 1
        resources:
            mem_mb=growing(4000),
            runtime=growing(120),
        params:
            contrast=lambda w: name_of_folder(w.collection),
            controls=controls_of,
            options=MEASURING,
            code=code_digest("model_metrology.embeddings.separation_tables"),
        script:
            "../scripts/measure_baselines.py"

    rule measure_translation:
        # The language axis before and after translation.
        input:
            source_items=f"{COLLECTION}/items.h5",
            embedding=f"{EMBEDDED}/embedding.h5",
        output:
            f"{EMBEDDED}/translation.csv",
        log:
            "<logs>/embeddings/{collection}/{embedder}/translation.log",
        benchmark:
            "<benchmarks>/embeddings/{collection}/{embedder}/translation.tsv"
        conda:
            "../envs/measure.yaml"
        threads: 1
        resources:
            mem_mb=growing(4000),
            runtime=growing(60),
        params:
            key=embedding_key,
            translation=lambda w: embeddings.translations[
                name_of_folder(w.collection)
            ].model_dump(exclude={"title"}),
            options=MEASURING,
            code=code_digest("model_metrology.embeddings.contrasts"),
        script:
            "../scripts/measure_translation.py"

    rule measure_signature:
        # Which source, how sure, and when to say none.
        input:
            source_items=f"{COLLECTION}/items.h5",
            embedding=f"{EMBEDDED}/embedding.h5",
        output:
            **{name: f"{EMBEDDED}/{name}.csv" for name in SIGNATURE_TABLES},
        log:
            "<logs>/embeddings/{collection}/{embedder}/signature.log",
        benchmark:
            "<benchmarks>/embeddings/{collection}/{embedder}/signature.tsv"
        conda:
            "../envs/measure.yaml"
        threads: 1
        resources:
            mem_mb=growing(4000),
            runtime=growing(120),
        params:
            key=embedding_key,
            signature=embeddings.signature and embeddings.signature.model_dump(),
            options={"folds": embeddings.folds, "seed": study.seed},
            code=code_digest("model_metrology.embeddings.contrasts"),
        script:
            "../scripts/measure_signature.py"

    rule summarise_embeddings:
        # All contrasts and embedders in one table each, the claims counted, texts to point at.
        input:
            **{name: embedding_tables(name) for name in EMBEDDING_TABLES},
        output:
            **{
                name: f"<results>/embeddings/{name}.csv"
                for name in [*EMBEDDING_TABLES, "claims"]
            },
            table=report(
                "<results>/embeddings/summary.html",
                category="Embeddings",
                labels={"figure": "0 · tables and claims"},
                caption="../report/embeddings/summary.rst",
            ),
            page=report(
                "<results>/embeddings/interactive.html",
                category="Embeddings",
                labels={"figure": "1 · every item, to point at"},
                caption="../report/embeddings/interactive.rst",
            ),
        log:
            "<logs>/embeddings/summary.log",
        benchmark:
            "<benchmarks>/embeddings/summary.tsv"
        conda:
            "../envs/figures.yaml"
        threads: 1
        resources:
            mem_mb=growing(4000),
            runtime=growing(60),
        params:
            titles={
                name: each.title
                for name, each in [
                    *embeddings.contrasts.items(),
                    *embeddings.translations.items(),
                ]
            },
            level=embeddings.level,
            code=[
                code_digest("model_metrology.embeddings.claims"),
                code_digest(
                    "model_metrology.plots.tables", "model_metrology.plots.interactive"
                ),
            ],
        script:
            "../scripts/summarise_embeddings.py"

    # Figures: each a function of `model_metrology.plots.embeddings` on tables measured above.
    table = "<results>/embeddings/{}.csv".format
    figures = {}
    if embeddings.contrasts:
        figures |= {
            "separability": {
                "label": "2 · told apart, beside the baselines",
                "inputs": {"separability": table("separability")},
            },
            "controls": {
                "label": "3 · with length, signs or first words taken away",
                "inputs": {"separability": table("separability")},
            },
            "pairs": {
                "label": "4 · source against source",
                "inputs": {"separability": table("separability")},
            },
            "principal": {
                "label": "5 · first two principal components",
                "figure": "scatter",
                "inputs": {"projections": table("projections")},
            },
            "discriminant": {
                "label": "6 · discriminant axes",
                "inputs": {"projections": table("projections")},
            },
            "layers": {
                "label": "7 · where in the network",
                "inputs": {"layers": table("layers")},
            },
            "components": {
                "label": "8 · which component carries which label",
                "inputs": {"components": table("components")},
            },
            "clustering": {
                "label": "9 · clusters against labels",
                "inputs": {"clustering": table("clustering")},
            },
        }
    if len(embeddings.contrasts) > CONTRASTS_SHOWN:
        # These show no more at once: each contrast by itself, too.
        for (i, name), key in product(
            enumerate(embeddings.contrasts, start=1),
            ("principal", "discriminant", "layers"),
        ):
            figures[f"{key}_{i:02d}"] = (
                {"figure": key}
                | figures[key]
                | {
                    "label": f"{figures[key]['label']}: {name}",
                    "options": {"contrast": name},
                }
            )
    if embeddings.translations:
        figures["translation"] = {
            "label": "10 · before and after translation",
            "inputs": {"translation": table("translation")},
        }
    if embeddings.signature:
        figures |= {
            "signature": {
                "label": "11 · sources named",
                "inputs": {"signature": table("signature")},
            },
            "reliability": {
                "label": "12 · is its confidence right?",
                "inputs": {
                    "reliability": table("reliability"),
                    "signature_summary": table("signature_summary"),
                },
            },
        }
    add_figures("embeddings", figures)
    embeddings_results = rules.summarise_embeddings.output
