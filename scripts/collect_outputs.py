"""Collect a population's outputs on the test points, its histories, and what diverged."""

from itertools import chain

from model_metrology import files, store
from model_metrology.logs import start_log
from model_metrology.runs import collect_outputs

start_log(snakemake.log[0])
dataset = files.read_dataset(snakemake.input.dataset)
outputs, history, excluded = collect_outputs(
    chain.from_iterable(files.read_runs(path, weights=False) for path in snakemake.input.runs),
    dataset.test_labels,
    dataset.classes,
    population=snakemake.params.name,
    max_excluded=snakemake.params.max_excluded,
)
files.write_outputs(snakemake.output.outputs, outputs, store.provenance(snakemake.config))
history.to_csv(snakemake.output.history, index=False)
excluded.to_csv(snakemake.output.excluded, index=False)
