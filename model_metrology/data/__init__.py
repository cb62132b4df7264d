"""Image datasets and pretrained weights: where they come from, and what is made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from model_metrology.lazy import lazy_names

if TYPE_CHECKING:
    from model_metrology.data.catalogue import DATASETS, DatasetSpec
    from model_metrology.data.datasets import Dataset, prepare_dataset
    from model_metrology.data.fetch import DataUnavailableError, pretrained_weights

__all__ = [
    "DATASETS",
    "DataUnavailableError",
    "Dataset",
    "DatasetSpec",
    "prepare_dataset",
    "pretrained_weights",
]

# Imported when first used: what a study is checked against needs no numpy.
__getattr__ = lazy_names(
    __name__,
    {
        "catalogue": ["DATASETS", "DatasetSpec"],
        "datasets": ["Dataset", "prepare_dataset"],
        "fetch": ["DataUnavailableError", "pretrained_weights"],
    },
)
