"""Train a block of runs of one population."""

import time
from pathlib import Path

import torch

from model_metrology import files, store
from model_metrology.devices import take_device
from model_metrology.digests import content_digest
from model_metrology.logs import start_log
from model_metrology.recipes import Population, block_runs
from model_metrology.seeds import Streams
from model_metrology.training import train_runs

start_log(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
params = snakemake.params
runs = block_runs(snakemake.wildcards.block)
population = Population(**params.population, size=len(runs))
device = take_device(params.device)
checkpoint = Path(params.checkpoint)
features = snakemake.input.get("features")

started = time.perf_counter()
trained = train_runs(
    population,
    files.read_dataset(snakemake.input.dataset),
    [Streams(params.seed, params.name, run, population.varies) for run in runs],
    device=device,
    features=files.read_features(features) if features else None,
    checkpoint=checkpoint,
    fingerprint=content_digest([params.population, params.seed, params.code]),
)
files.write_runs(
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
checkpoint.unlink(missing_ok=True)
