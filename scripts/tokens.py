"""Sentences of a language model as token ids."""

from model_metrology import files, store
from model_metrology.logs import start_log
from model_metrology.models.language import encode_texts, load_texts
from model_metrology.surrogates.recipes import LanguageInstrument

start_log(snakemake.log[0])
options = LanguageInstrument(**snakemake.params.options)
texts = load_texts(options, seed=snakemake.params.seed, needed=snakemake.params.needed)
files.write_tokens(
    snakemake.output[0], encode_texts(options, texts), store.provenance(snakemake.config)
)
