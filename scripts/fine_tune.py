"""Fine-tune one run of a language model."""

from pathlib import Path

import torch

from model_metrology import files, store
from model_metrology.devices import take_device
from model_metrology.logs import start_log
from model_metrology.models.language import TokenPoints, fine_tune_run, write_config
from model_metrology.seeds import Streams
from model_metrology.surrogates.recipes import LanguageInstrument

start_log(snakemake.log[0])
torch.set_num_threads(snakemake.threads)
params = snakemake.params
options = LanguageInstrument(**params.options)
device = take_device(params.device)
module, run = fine_tune_run(
    options,
    TokenPoints.from_arrays(files.read_tokens(snakemake.input.tokens)),
    Streams(params.seed, params.name, int(snakemake.wildcards.run), options.varies),
    device=device,
)
write_config(module, Path(snakemake.output.config).parent)
files.write_runs(
    snakemake.output.runs, [run], store.provenance(snakemake.config, device=str(device))
)
