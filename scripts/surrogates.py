"""The surrogates of a run's kernels, and what they attribute to what."""

import pandas as pd

from model_metrology import files, store
from model_metrology.kernels import KERNELS
from model_metrology.logs import start_log
from model_metrology.surrogates.outputs import whole_kernel
from model_metrology.surrogates.tables import measure_surrogates

start_log(snakemake.log[0])
params, inputs, output = snakemake.params, snakemake.input, snakemake.output
outputs = files.read_subject_outputs(inputs.outputs)
measured = {}
for kernel in params.kernels:
    raw, normalize = KERNELS[kernel]
    columns = (files.read_kernel_columns(path, raw) for path in inputs.columns)
    train, test = whole_kernel(columns, normalize=normalize)
    options = params.options | {"examples": params.examples}
    if kernel != params.attribution_kernel:
        options |= {"solvers": [], "examples": 0}
    measured[kernel] = measure_surrogates(
        train,
        test,
        outputs,
        params.key | {"kernel": kernel},
        poison=params.poison,
        seed=params.seed,
        **options,
    )
for name in next(iter(measured.values())).tables:
    parts = [found.tables[name] for found in measured.values()]
    # Empty tables have no types to agree with the others'.
    pd.concat([p for p in parts if len(p)] or parts[:1]).to_csv(output[name], index=False)
files.write_surrogates(
    output.surrogates, measured, store.provenance(snakemake.config, **params.key)
)
