"""Hold each reference run against the others: the null distribution of alpha-hat."""

from model_metrology import files
from model_metrology.logs import start_log
from model_metrology.variability.tables import null_table

start_log(snakemake.log[0])
how = snakemake.params.how
reference, _ = files.read_outputs(snakemake.input.reference).split(how.pop("size"))
null_table(reference, **how).to_csv(snakemake.output[0], index=False)
