"""Simulate how often the intervals of alpha-hat cover its true value."""

import numpy as np

from model_metrology.logs import start_log
from model_metrology.variability.tables import coverage_table

start_log(snakemake.log[0])
params = snakemake.params
coverage_table(
    reference_runs=params.reference_runs,
    level=params.level,
    simulations=params.simulations,
    bootstraps=params.bootstraps,
    rng=np.random.default_rng(params.seed),
).to_csv(snakemake.output[0], index=False)
