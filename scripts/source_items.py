"""Texts or images of one source."""

from model_metrology import files, store
from model_metrology.embeddings.apertium import apertium_version
from model_metrology.embeddings.pictures import dataset_items, generated_items, recompressed
from model_metrology.embeddings.recipes import Source
from model_metrology.embeddings.sources import read_source, refine, translated
from model_metrology.logs import start_log

start_log(snakemake.log[0])
params, inputs = snakemake.params, snakemake.input
options, name, seed = Source(**params.options), params.name, params.seed
made_by = {}
if options.path or options.hub or options.package:
    items = read_source(options, name, seed=seed)
else:
    if options.generator:
        made = generated_items(files.read_generated(inputs.images), name)
    elif options.dataset:
        dataset = files.read_dataset(inputs.dataset)
        made = dataset_items(dataset, name, limit=options.limit, seed=seed)
    elif options.recompression:
        made = recompressed(files.read_items(inputs.origin), options.recompression, name)
    else:
        made = translated(files.read_items(inputs.origin), options.translation, name)
        made_by = {pair: apertium_version(pair) for pair in options.translation.through}
    items = refine(made, options, name, seed=seed)
files.write_items(snakemake.output[0], items, store.provenance(snakemake.config, **made_by))
