"""Which test sees a planted difference first? Held-out runs without one set the base line."""

from model_metrology import files
from model_metrology.logs import start_log
from model_metrology.variability.tables import power_table

start_log(snakemake.log[0])
how = snakemake.params.how
reference, held_out = files.read_outputs(snakemake.input.reference).split(how["size"])
planted = [files.read_outputs(path) for path in snakemake.input.planted]
power_table(
    reference,
    [(0.0, held_out), *zip(snakemake.params.label_noise, planted, strict=True)],
    level=how["level"],
    tolerance=how["tolerance"],
).to_csv(snakemake.output[0], index=False)
