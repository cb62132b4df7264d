"""The surrogates of a run's kernels, and what they attribute to what."""

from model_metrology import files, store
from model_metrology.kernels import KERNELS
from model_metrology.logs import start_log
from model_metrology.surrogates.names import TABLES
from model_metrology.surrogates.outputs import whole_kernel
from model_metrology.surrogates.tables import joined, measure_surrogates

start_log(snakemake.log[0])
params, inputs, output = snakemake.params, snakemake.input, snakemake.output
outputs = files.read_subject_outputs(inputs.outputs)
measured = {}
for kernel in params.kernels:
    raw, normalize = KERNELS[kernel]
    columns = (files.read_kernel_columns(path, raw) for path in inputs.columns)
    train, test = whole_kernel(columns, normalize=normalize)
    examples = params.examples if kernel == params.attribution_kernel else 0
    measured[kernel] = measure_surrogates(
        train,
        test,
        outputs,
        params.key | {"kernel": kernel},
        examples=examples,
        poison=params.poison,
        seed=params.seed,
        **params.options,
    )
for name in TABLES:
    parts = [found.tables[name] for found in measured.values()]
    joined(parts).to_csv(output[name], index=False)
files.write_surrogates(
    output.surrogates, measured, store.provenance(snakemake.config, **params.key)
)
