"""Train a diffusion model on a dataset's training images, and draw images from it."""

from pathlib import Path

import torch

from model_metrology import files, store
from model_metrology.devices import take_device
from model_metrology.embeddings.recipes import Generator
from model_metrology.logs import start_log
from model_metrology.models.diffusion import draw_images, train_generator

start_log(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
params, output = snakemake.params, Path(snakemake.output[0])
options, device = Generator(**params.options), take_device(params.device)
# Not a declared output: those are deleted before a job starts, and this is what it goes on from.
checkpoint = output.with_suffix(".checkpoint")
model = train_generator(
    options,
    files.read_dataset(snakemake.input[0]).train_images,
    seed=params.seed,
    device=device,
    checkpoint=checkpoint,
    fingerprint=params.code,
)
images = draw_images(
    model, options.images, steps=options.sampling_steps, seed=params.seed, device=device
)
attrs = store.provenance(snakemake.config, device=str(device), source=params.name)
files.write_generated(output, images, attrs)
checkpoint.unlink(missing_ok=True)
