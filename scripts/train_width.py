"""Train a block of two-layer networks of a population or sweep."""

import time

import torch

from model_metrology import files, store
from model_metrology.devices import take_device
from model_metrology.logs import start_log
from model_metrology.recipes import block_runs
from model_metrology.seeds import Streams
from model_metrology.spectra.recipes import Group
from model_metrology.spectra.training import train_width_runs

start_log(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
params = snakemake.params
group, runs = Group(**params.group), block_runs(snakemake.wildcards.block)
device = take_device(params.device)

started = time.perf_counter()
trained = train_width_runs(
    [group.population(run) for run in runs],
    [Streams(params.seed, params.name, run, group.base.varies) for run in runs],
    device=device,
)
files.write_width_runs(
    snakemake.output[0],
    trained,
    store.provenance(
        snakemake.config,
        population=params.name,
        device=str(device),
        threads=snakemake.threads,
        wall_seconds=time.perf_counter() - started,
    ),
)
