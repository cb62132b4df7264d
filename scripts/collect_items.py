"""The sources of a contrast, one after another."""

from model_metrology import files, store
from model_metrology.embeddings.items import join
from model_metrology.logs import start_log

start_log(snakemake.log[0])
items = join([files.read_items(path) for path in snakemake.input])
files.write_items(snakemake.output[0], items, store.provenance(snakemake.config))
