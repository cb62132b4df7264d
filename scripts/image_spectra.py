"""Spectra of a population's image networks: the weights of every layer, and both kernels."""

from itertools import chain

import torch

from model_metrology import files, store
from model_metrology.devices import take_device
from model_metrology.logs import start_log
from model_metrology.recipes import Population
from model_metrology.seeds import Streams
from model_metrology.spectra.images import image_spectra

start_log(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
params = snakemake.params
population = Population(**params.population, size=params.size)
spectra, table = image_spectra(
    population,
    chain.from_iterable(map(files.read_runs, snakemake.input.runs)),
    files.read_dataset(snakemake.input.dataset),
    lambda run: Streams(params.seed, params.name, run, population.varies),
    size=params.size,
    points=params.points,
    level=params.level,
    device=take_device(params.device),
)
table.insert(0, "population", params.name)
table.to_csv(snakemake.output.table, index=False)
files.write_image_spectra(
    snakemake.output.spectra, spectra, store.provenance(snakemake.config, population=params.name)
)
