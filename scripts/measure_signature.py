"""Which source an item is of, how sure that is, and which items are of none."""

from model_metrology import files
from model_metrology.embeddings.contrasts import named_tables
from model_metrology.logs import start_log

start_log(snakemake.log[0])
params, inputs = snakemake.params, snakemake.input
tables = named_tables(
    files.read_items(inputs.source_items),
    files.read_embeddings(inputs.embedding)[""],
    params.key,
    params.signature,
    **params.options,
)
for name, table in tables.items():
    table.to_csv(snakemake.output[name], index=False)
