"""All contrasts and embedders in one table each, the claims, and pages to look at."""

from pathlib import Path

import pandas as pd

from model_metrology import files
from model_metrology.embeddings.claims import claims_table
from model_metrology.embeddings.names import TABLES
from model_metrology.logs import start_log
from model_metrology.plots.interactive import interactive_page
from model_metrology.plots.tables import embeddings_page

start_log(snakemake.log[0])
inputs, output, params = snakemake.input, snakemake.output, snakemake.params
tables = {}
for name in TABLES:
    parts = [files.read_table(path) for path in inputs.get(name, [])]
    tables[name] = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
tables["claims"] = claims_table(
    tables["separability"], tables["clustering"], tables["translation"], level=params.level
)
for name, table in tables.items():
    table.to_csv(output[name], index=False)
page = embeddings_page(tables["separability"], tables["claims"], titles=params.titles)
Path(output.table).write_text(page)
Path(output.page).write_text(interactive_page(tables["projections"]))
