# Figures: each a function of `model_metrology.plots.<stage>` on tables that a stage has measured.

for key, figure in FIGURES.items():

    rule:
        name:
            f"figure_{key.partition('/')[2]}"
        input:
            **figure["inputs"],
        output:
            png=report(
                f"<results>/figures/{key}.png",
                category=figure["stage"].capitalize(),
                labels={"figure": figure["label"]},
                caption=f"../report/{figure['stage']}/{figure['figure']}.rst",
            ),
            pdf=f"<results>/figures/{key}.pdf",
        log:
            f"<logs>/figures/{key}.log",
        benchmark:
            f"<benchmarks>/figures/{key}.tsv"
        group:
            f"figures_{figure['stage']}"
        conda:
            "../envs/figures.yaml"
        threads: 1
        resources:
            mem_mb=growing(figure.get("mem_mb", 3000)),
            runtime=growing(20),
        params:
            figure=f"model_metrology.plots.{figure['stage']}.{figure['figure']}_figure",
            options=figure.get("options", {}),
            code=code_digest(
                f"model_metrology.plots.{figure['stage']}", "model_metrology.files"
            ),
        script:
            "../scripts/figure.py"


figure_results = [
    f"<results>/figures/{key}.{kind}" for key in FIGURES for kind in ("png", "pdf")
]
