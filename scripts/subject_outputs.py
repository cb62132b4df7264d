"""What a network says of the points of its kernels."""

import torch

from model_metrology import files, store
from model_metrology.devices import take_device
from model_metrology.logs import start_log
from model_metrology.surrogates.loading import read_subject, subject_outputs

start_log(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
device = take_device(snakemake.params.device)
subject = read_subject(
    snakemake.params.spec, int(snakemake.wildcards.run), dict(snakemake.input.items())
)
files.write_subject_outputs(
    snakemake.output[0],
    subject_outputs(subject, device),
    store.provenance(snakemake.config, device=str(device)),
)
