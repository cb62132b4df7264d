"""Prepare a dataset: raw files from the first source that has them, as one HDF5 file."""

from model_metrology import files, store
from model_metrology.data import prepare_dataset
from model_metrology.logs import start_log

start_log(snakemake.log[0])
dataset = prepare_dataset(
    snakemake.wildcards.dataset, **snakemake.params.options, **snakemake.params.data
)
files.write_dataset(snakemake.output[0], dataset, store.provenance(snakemake.config))
