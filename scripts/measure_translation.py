"""The language axis of an embedding before and after translation."""

from model_metrology import files
from model_metrology.embeddings.contrasts import translation_tables
from model_metrology.logs import start_log

start_log(snakemake.log[0])
params, inputs = snakemake.params, snakemake.input
table = translation_tables(
    files.read_items(inputs.source_items),
    files.read_embeddings(inputs.embedding)[""],
    params.key,
    **params.translation,
    **params.options,
)
table.to_csv(snakemake.output[0], index=False)
