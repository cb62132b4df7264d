"""Measure the spectra of a block of two-layer networks."""

import torch

from model_metrology import files, store
from model_metrology.logs import start_log
from model_metrology.seeds import Streams
from model_metrology.spectra.measure import measure_runs
from model_metrology.spectra.recipes import Group

start_log(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
params = snakemake.params
group = Group(**params.group)
spectra, table, excluded = measure_runs(
    group,
    files.read_width_runs(snakemake.input[0]),
    lambda run: Streams(params.seed, params.name, run, group.base.varies),
    level=params.level,
)
files.write_spectra(
    snakemake.output.spectra, spectra, store.provenance(snakemake.config, population=params.name)
)
table.to_csv(snakemake.output.table, index=False)
excluded.to_csv(snakemake.output.excluded, index=False)
