"""Sources told apart without a model: by length, n-grams and words, or by size and colours."""

from model_metrology import files
from model_metrology.embeddings.separation_tables import baseline_tables
from model_metrology.logs import start_log

start_log(snakemake.log[0])
params = snakemake.params
items = files.read_items(snakemake.input[0])
tables = baseline_tables(
    items, ["", *params.controls], {"contrast": params.contrast}, **params.options
)
for name, table in tables.items():
    table.to_csv(snakemake.output[name], index=False)
