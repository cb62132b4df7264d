"""Name the optimiser from the spectra of runs, and count how often that is right."""

from model_metrology import files
from model_metrology.logs import start_log
from model_metrology.spectra.forensics import evaluate, gather

start_log(snakemake.log[0])
params, output = snakemake.params, snakemake.output
spectra = {}
for group, path in zip(params.groups, snakemake.input.spectra, strict=True):
    spectra.setdefault(group, []).extend(files.read_spectra(path))
features, runs = gather(
    spectra,
    files.read_table(snakemake.input.table),
    classes=params.classes,
    unknown=params.unknown,
)
# Step sizes of two optimisers do not compare: their ranks within the optimiser do.
held_out = ["step_rank" if key == "recipe.learning_rate" else key for key in params.held_out]
tables = evaluate(features, runs, held_out=held_out, level=params.level, seed=params.seed)
for name in ("accuracy", "unknown", "confusion", "reliability", "predictions"):
    getattr(tables, name).to_csv(output[name], index=False)
