"""Measure the runs of a population against the reference and, where asked, each other."""

import numpy as np
import pandas as pd

from model_metrology import files, store
from model_metrology.logs import start_log
from model_metrology.variability.tables import alpha_table, metrics_table, own_alpha_table

start_log(snakemake.log[0])
how = snakemake.params.how
reference, _ = files.read_outputs(snakemake.input.reference).split(how.pop("size"))
outputs = files.read_outputs(snakemake.input.outputs)

alpha, weights = alpha_table(
    outputs,
    reference,
    files.read_table(snakemake.input.null),
    **how,
    bootstraps=snakemake.params.bootstraps,
    rng=np.random.default_rng(snakemake.params.seed),
)
files.write_trimming(
    snakemake.output.trimming,
    alpha.loc[alpha["scope"] == "pooled", "run"].to_numpy(),
    weights,
    store.provenance(snakemake.config, population=outputs.population),
)
del weights  # as large as the outputs
if own_runs := snakemake.params.own_runs:
    # As many runs of each population: alpha-hat depends on how many it is held against.
    siblings, _ = outputs.split(min(own_runs, len(outputs.runs)))
    alpha = pd.concat([alpha, own_alpha_table(siblings, **how)], ignore_index=True)
alpha.to_csv(snakemake.output.alpha, index=False)
metrics_table(outputs, reference).to_csv(snakemake.output.metrics, index=False)
