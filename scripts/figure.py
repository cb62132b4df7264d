"""Draw one figure: a function of `model_metrology.plots` on the tables and files of the rule.

Inputs and the parameter `options` are the function's keyword arguments: a CSV table becomes a
DataFrame, an HDF5 file a nested dict of arrays, several tables one.
"""

import importlib

import pandas as pd

from model_metrology import store
from model_metrology.logs import start_log
from model_metrology.plots import style


def load(source):
    if isinstance(source, str) and source.endswith(".csv"):
        return pd.read_csv(source, keep_default_na=False, na_values=[""])
    if isinstance(source, str):
        return store.read(source)[0]
    return pd.concat([load(path) for path in source], ignore_index=True)


start_log(snakemake.log[0])
module, _, name = snakemake.params.figure.rpartition(".")
draw = getattr(importlib.import_module(module), name)
arguments = {key: load(source) for key, source in snakemake.input.items()}
figure = draw(**arguments, **snakemake.params.get("options", {}))
style.save(figure, *snakemake.output)
