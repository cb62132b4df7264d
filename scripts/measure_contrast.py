"""Sources told apart in an embedding: with labels, by layers and components, and without labels."""

from model_metrology import files
from model_metrology.embeddings.contrasts import contrast_tables
from model_metrology.logs import start_log

start_log(snakemake.log[0])
params, inputs = snakemake.params, snakemake.input
tables = contrast_tables(
    files.read_items(inputs.source_items),
    files.read_embeddings(inputs.embedding),
    params.key,
    labels=params.labels,
    **params.options,
)
for name, table in tables.items():
    table.to_csv(snakemake.output[name], index=False)
