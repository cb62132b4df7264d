"""Put the populations' tables together; rank correlations, claims, and a table for the report."""

from pathlib import Path

import numpy as np
import pandas as pd

from model_metrology import files
from model_metrology.logs import start_log
from model_metrology.plots.tables import summary_page
from model_metrology.variability.tables import claims_table, correlations_table, summary_table

start_log(snakemake.log[0])
params, output = snakemake.params, snakemake.output
alpha, metrics, excluded = (
    pd.concat(map(files.read_table, snakemake.input[name]), ignore_index=True)
    for name in ("alpha", "metrics", "excluded")
)
summary = summary_table(alpha, metrics, excluded, level=params.level)
claims = claims_table(
    alpha, metrics, reference=params.reference, sources=params.sources, level=params.level
)
correlations = correlations_table(
    alpha, metrics, level=params.level, rng=np.random.default_rng(params.seed)
)
tables = {"alpha": alpha, "metrics": metrics, "correlations": correlations, "claims": claims}
for name, table in (tables | {"summary": summary}).items():
    table.to_csv(output[name], index=False)
Path(output.table).write_text(summary_page(summary, claims, excluded, alpha), encoding="utf-8")
