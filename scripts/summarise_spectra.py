"""One table of all spectra; slopes of the norms against size; the claims with their counts."""

from pathlib import Path

import numpy as np
import pandas as pd

from model_metrology import files
from model_metrology.logs import start_log
from model_metrology.plots.tables import spectra_page
from model_metrology.spectra.tables import claims_table, slopes_table, summary_table

start_log(snakemake.log[0])
params, output = snakemake.params, snakemake.output
table, excluded = (
    pd.concat(map(files.read_table, snakemake.input[name]), ignore_index=True).infer_objects()
    for name in ("tables", "excluded")
)
slopes = slopes_table(table, params.scaling)
summary = summary_table(table, excluded)
claims = claims_table(
    table, slopes, expected=params.expected, rng=np.random.default_rng(params.seed)
)
tables = {"spectra": table, "excluded": excluded, "slopes": slopes, "summary": summary}
for name, content in (tables | {"claims": claims}).items():
    content.to_csv(output[name], index=False)
Path(output.table).write_text(
    spectra_page(summary, slopes, claims, excluded, populations=params.populations),
    encoding="utf-8",
)
