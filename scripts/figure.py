"""Draw one figure: a function of `model_metrology.plots` on the tables and files of the rule.

Inputs and the parameter `options` are the function's keyword arguments: CSV tables become one
DataFrame, HDF5 files what they hold.
"""

import importlib

import pandas as pd

from model_metrology import files
from model_metrology.logs import start_log
from model_metrology.plots import style


def load(key, source):
    paths = [source] if isinstance(source, str) else list(source)
    if paths[0].endswith(".csv"):
        return pd.concat(map(files.read_table, paths), ignore_index=True)
    loaded = [files.read_any(path) for path in paths]
    # Snakemake hands over a list of one file as that file; a plural name still means a list.
    return loaded if key.endswith("s") else loaded[0]


start_log(snakemake.log[0])
module, _, name = snakemake.params.figure.rpartition(".")
draw = getattr(importlib.import_module(module), name)
arguments = {key: load(key, source) for key, source in snakemake.input.items()}
style.save(draw(**arguments, **snakemake.params.get("options", {})), *snakemake.output)
