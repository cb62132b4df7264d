"""All surrogates in one table each, runs against each other, and the tables of the report."""

from pathlib import Path

from model_metrology import files
from model_metrology.logs import start_log
from model_metrology.plots.tables import surrogates_page
from model_metrology.surrogates.names import TABLES
from model_metrology.surrogates.tables import (
    Attributed,
    agreement_table,
    joined,
    mean_curves,
    summary_table,
)

start_log(snakemake.log[0])
inputs, output = snakemake.input, snakemake.output
kernel = snakemake.params.kernel
tables = {name: joined([files.read_table(path) for path in inputs[name]]) for name in TABLES}
runs = [
    Attributed(
        **key,
        outputs=files.read_subject_outputs(outputs),
        attributions=files.read_surrogate(surrogate, kernel)["attributions"],
    )
    for key, outputs, surrogate in zip(
        snakemake.params.compared, inputs.outputs, inputs.surrogates, strict=True
    )
]
tables["poison_curves"] = mean_curves(tables["poison_curves"])
tables["agreement"] = agreement_table(runs, kernel)
tables["summary"] = summary_table(tables["faithfulness"])
for name, table in tables.items():
    table.to_csv(output[name], index=False)
Path(output.table).write_text(surrogates_page(tables["summary"], tables["fits"]))
