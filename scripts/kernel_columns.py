"""Some columns of a network's kernels.

Not named `kernels`: the folder of a script comes first where modules are looked for, and
transformers asks whether there is a package of that name.
"""

import time

import torch

from model_metrology import files, store
from model_metrology.devices import take_device
from model_metrology.kernels import KERNELS, Options
from model_metrology.logs import start_log
from model_metrology.surrogates.columns import kernel_columns
from model_metrology.surrogates.loading import read_subject

start_log(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
params, wildcards = snakemake.params, snakemake.wildcards
device = take_device(params.device)
subject = read_subject(params.spec, int(wildcards.run), dict(snakemake.input.items()))
start, stop = map(int, wildcards.columns.split("-"))
options = Options(device=device, **params.options)

raws = dict.fromkeys(KERNELS[name][0] for name in params.kernels)

started = time.perf_counter()
files.write_kernel_columns(
    snakemake.output[0],
    {raw: kernel_columns(raw, subject, start, stop, options) for raw in raws},
    store.provenance(
        snakemake.config,
        device=str(device),
        threads=snakemake.threads,
        wall_seconds=time.perf_counter() - started,
    ),
)
