"""Vectors of items, as they are and under each control."""

import torch

from model_metrology import files, store
from model_metrology.devices import take_device
from model_metrology.embeddings.cache import embed_items
from model_metrology.embeddings.embedders import load_embedder
from model_metrology.embeddings.items import control
from model_metrology.embeddings.recipes import Embedder
from model_metrology.logs import start_log

start_log(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
params = snakemake.params
options, device = Embedder(**params.options), take_device(params.device)
items = files.read_items(snakemake.input.source_items)
model = load_embedder(options, device=device)
versions = {"": items} | {name: control(items, name) for name in params.controls}
embeddings = {
    name: embed_items(
        model,
        version.images if version.texts is None else version.texts,
        params.cache,
        batch_size=options.batch_size,
    )
    for name, version in versions.items()
}
attrs = store.provenance(snakemake.config, device=str(device), embedder=model.identity)
files.write_embeddings(snakemake.output[0], embeddings, attrs)
