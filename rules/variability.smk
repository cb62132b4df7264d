# Variability: are two models meaningfully different? From outputs to alpha-hat, tables, figures.

options = study.variability
MEASURING = code_digest("model_metrology.variability.tables", "model_metrology.files")

if options:
    reference = folder_name(options.reference.population)
    compared = [name for c in options.comparisons.values() for name in c.populations]
    measured = dict.fromkeys(
        map(folder_name, [options.reference.population, *options.planted, *compared])
    )
    # Populations whose runs are held against each other, all by the same number of runs.
    own = [
        name
        for comparison in options.comparisons.values()
        if comparison.against == "own"
        for name in comparison.populations
    ]
    own_runs = min((study.populations[name].size for name in own), default=0)
    # What reads the outputs of the reference population reads all of its runs.
    reference_mb = 3000 + 4 * outputs_mb(options.reference.population)
    all_outputs_mb = sum(map(outputs_mb, map(name_of_folder, measured)))

    rule leave_one_out:
        # Each reference run against the others: what alpha-hat is when nothing is different.
        input:
            reference=f"<results>/outputs/{reference}.h5",
        output:
            "<results>/variability/null.csv",
        log:
            "<logs>/variability/null.log",
        benchmark:
            "<benchmarks>/variability/null.tsv"
        conda:
            "../envs/measure.yaml"
        threads: 1
        resources:
            mem_mb=growing(reference_mb),
            runtime=growing(60),
        params:
            how=options.how(),
            code=MEASURING,
        script:
            "../scripts/leave_one_out.py"

    rule measure:
        # The runs of a population against the reference (and, where asked, against each other).
        input:
            outputs="<results>/outputs/{population}.h5",
            reference=f"<results>/outputs/{reference}.h5",
            null="<results>/variability/null.csv",
        output:
            alpha="<results>/variability/{population}/alpha.csv",
            metrics="<results>/variability/{population}/metrics.csv",
            trimming="<results>/variability/{population}/trimming.h5",
        log:
            "<logs>/variability/populations/{population}.log",
        benchmark:
            "<benchmarks>/variability/populations/{population}.tsv"
        conda:
            "../envs/measure.yaml"
        threads: 1
        resources:
            mem_mb=growing(lambda w: reference_mb + 4 * outputs_mb(name_of(w))),
            runtime=growing(lambda w: 60 + 0.02 * population_of(w).size),
        params:
            how=options.how(),
            own_runs=lambda w: own_runs if name_of(w) in own else 0,
            bootstraps=options.bootstraps,
            seed=study.seed,
            code=MEASURING,
        script:
            "../scripts/measure.py"

    rule summarise:
        # One table of everything, rank correlations, and the claims with their counts.
        input:
            alpha=collect(
                "<results>/variability/{population}/alpha.csv", population=measured
            ),
            metrics=collect(
                "<results>/variability/{population}/metrics.csv", population=measured
            ),
            excluded=collect(
                "<results>/outputs/{population}.excluded.csv", population=measured
            ),
        output:
            alpha="<results>/variability/alpha.csv",
            metrics="<results>/variability/metrics.csv",
            correlations="<results>/variability/correlations.csv",
            claims="<results>/variability/claims.csv",
            summary="<results>/variability/summary.csv",
            table=report(
                "<results>/variability/summary.html",
                category="Variability",
                labels={"figure": "0 · table of populations and claims"},
                caption="../report/summary.rst",
            ),
        log:
            "<logs>/variability/summary.log",
        benchmark:
            "<benchmarks>/variability/summary.tsv"
        conda:
            "../envs/measure.yaml"
        threads: 1
        resources:
            mem_mb=growing(2000),
            runtime=growing(30),
        params:
            reference=options.reference.population,
            sources=[name for name in own if len(study.populations[name].varies) == 1],
            level=options.level,
            seed=study.seed,
            code=[MEASURING, code_digest("model_metrology.plots.tables")],
        script:
            "../scripts/summarise.py"

    rule ensemble_size:
        # How many reference runs does a decision need, with and without trimming?
        input:
            reference=f"<results>/outputs/{reference}.h5",
        output:
            "<results>/variability/ensemble_size.csv",
        log:
            "<logs>/variability/ensemble_size.log",
        benchmark:
            "<benchmarks>/variability/ensemble_size.tsv"
        conda:
            "../envs/measure.yaml"
        threads: 1
        resources:
            mem_mb=growing(reference_mb),
            runtime=growing(120),
        params:
            how=options.how(),
            trim=options.trim,
            bootstraps=options.bootstraps,
            seed=study.seed,
            code=MEASURING,
        script:
            "../scripts/ensemble_size.py"

    rule power:
        # Which test sees a planted difference first, all tests held at the same level?
        input:
            reference=f"<results>/outputs/{reference}.h5",
            planted=collect(
                "<results>/outputs/{population}.h5",
                population=map(folder_name, options.planted),
            ),
        output:
            "<results>/variability/power.csv",
        log:
            "<logs>/variability/power.log",
        benchmark:
            "<benchmarks>/variability/power.tsv"
        conda:
            "../envs/measure.yaml"
        threads: 1
        resources:
            mem_mb=growing(reference_mb + 4 * all_outputs_mb),
            runtime=growing(120),
        params:
            how=options.how(),
            label_noise=[
                study.populations[name].label_noise for name in options.planted
            ],
            seed=study.seed,
            code=MEASURING,
        script:
            "../scripts/power.py"

    rule coverage:
        # Does the interval of alpha-hat cover the truth as often as it says? By simulation.
        output:
            "<results>/variability/coverage.csv",
        log:
            "<logs>/variability/coverage.log",
        benchmark:
            "<benchmarks>/variability/coverage.tsv"
        conda:
            "../envs/measure.yaml"
        threads: 1
        resources:
            mem_mb=growing(2000),
            runtime=growing(120),
        params:
            simulations=options.simulations,
            bootstraps=options.bootstraps,
            reference_runs=options.reference.size,
            level=options.level,
            seed=study.seed,
            code=MEASURING,
        script:
            "../scripts/coverage.py"

    # Figures: each a function of `model_metrology.plots.variability` on tables measured above.
    table = "<results>/variability/{}.csv".format
    figures = {
        "ecdf": {
            "label": "1 · distributions of the logit gap",
            "inputs": {
                "reference": f"<results>/outputs/{reference}.h5",
                "alpha": table("alpha"),
                "populations": collect(
                    "<results>/outputs/{population}.h5", population=measured
                ),
            },
            "options": {
                "reference_size": options.reference.size,
                "law": options.reference.law,
            },
            "mem_mb": 3000 + 3 * all_outputs_mb,
        },
        "metrics": {
            "label": "2 · alpha-hat against accuracy, churn and calibration",
            "inputs": {
                name: table(name) for name in ("alpha", "metrics", "correlations")
            },
        },
        "null": {
            "label": "4 · leave-one-out null and outliers",
            "inputs": {"null": table("null"), "alpha": table("alpha")},
            "options": {"level": options.level},
        },
        "ensemble_size": {
            "label": "5 · how large must the ensemble be",
            "inputs": {"ensemble_size": table("ensemble_size")},
        },
        "coverage": {
            "label": "7 · coverage of the interval",
            "inputs": {"coverage": table("coverage")},
        },
        "trimmed_images": {
            "label": "8 · images trimmed most often",
            "inputs": {
                "dataset": data_file(
                    study.populations[options.reference.population].dataset
                ),
                "trimmings": collect(
                    "<results>/variability/{population}/trimming.h5",
                    population=measured,
                ),
            },
            "mem_mb": 3000 + 3 * all_outputs_mb,
        },
    }
    if options.planted:
        figures["power"] = {
            "label": "6 · power of the tests",
            "inputs": {"power": table("power")},
        }
    for key, comparison in options.comparisons.items():
        figures[f"comparison_{folder_name(key)}"] = {
            "label": f"3 · {comparison.title}",
            "inputs": {"alpha": table("alpha")},
            "options": comparison.model_dump(),
            "figure": "comparison",
        }
    add_figures("variability", figures)
    variability_results = rules.summarise.output
