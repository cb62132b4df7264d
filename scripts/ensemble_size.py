"""Measure held-out runs of the reference population against ensembles of growing size."""

import numpy as np

from model_metrology import files
from model_metrology.logs import start_log
from model_metrology.variability.tables import ensemble_size_table

start_log(snakemake.log[0])
how = snakemake.params.how
reference, candidates = files.read_outputs(snakemake.input.reference).split(how.pop("size"))
ensemble_size_table(
    candidates,
    reference,
    **how,
    trim=snakemake.params.trim,
    replicates=snakemake.params.bootstraps,
    rng=np.random.default_rng(snakemake.params.seed),
).to_csv(snakemake.output[0], index=False)
