"""Prepare a dataset: raw files from the first source that has them, as one HDF5 file."""

from model_metrology import files, store
from model_metrology.data.datasets import prepare_dataset
from model_metrology.data.poison import poison_dataset
from model_metrology.data.recipes import Poison
from model_metrology.logs import start_log
from model_metrology.study import DataOptions

start_log(snakemake.log[0])
params = snakemake.params
dataset = prepare_dataset(
    params.name,
    **params.options,
    # Where raw files come from changes nothing about them: their checksums decide.
    **DataOptions(**snakemake.config.get("data", {})).model_dump(),
)
if params.poison:
    dataset = poison_dataset(dataset, Poison(**params.poison), seed=params.options["seed"])
files.write_dataset(snakemake.output[0], dataset, store.provenance(snakemake.config))
