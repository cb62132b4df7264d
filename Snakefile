# Trained networks as scientific instruments: from raw data to figures and one report.
#
#   snakemake --cores 2                                    the default study, config.yaml
#   snakemake --cores 2 --configfile studies/smoke.yaml    another study
#
#   dataset -> training (one job a block of runs) -> outputs -> variability -> figures -> report
#   two-layer networks -> spectra -> forensics ------------------------------^
#   trained, foreign and language networks -> kernels -> surrogates ----------^
#   texts and images -> embeddings -> contrasts, translations, signature -----^
from snakemake.utils import min_version

min_version("9.0")


# `--configfile` names another study; it must replace the default one, not be merged into it.
if not workflow.config_settings.configfiles:

    configfile: "config.yaml"


include: "rules/common.smk"


pathvars:
    results=RESULTS,
    logs=f"{RESULTS}/logs",
    benchmarks=f"{RESULTS}/benchmarks",


report: "report/front.rst"


include: "rules/data.smk"
include: "rules/training.smk"
include: "rules/variability.smk"
include: "rules/spectra.smk"
include: "rules/surrogates.smk"
include: "rules/embeddings.smk"
include: "rules/figures.smk"


targets = [
    *figure_results,
    *(variability_results if study.variability else []),
    *(spectra_results if study.spectra else []),
    *(surrogates_results if study.surrogates else []),
    *(embeddings_results if study.embeddings else []),
]


rule all:
    default_target: True
    input:
        targets,


onstart:
    check_results()


onsuccess:
    write_report(targets)
