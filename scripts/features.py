"""Apply the frozen part of a pretrained network once, for all runs that train its head."""

import torch

from model_metrology import files, store
from model_metrology.devices import take_device
from model_metrology.logs import start_log
from model_metrology.recipes import Architecture
from model_metrology.training import extract_features

start_log(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
device = take_device(snakemake.params.device)
features = extract_features(
    Architecture(**snakemake.params.architecture),
    files.read_dataset(snakemake.input.dataset),
    device=device,
)
files.write_features(
    snakemake.output[0], features, store.provenance(snakemake.config, device=str(device))
)
