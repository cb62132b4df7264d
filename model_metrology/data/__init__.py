"""Image datasets and pretrained weights: where they come from, and what is made of them."""

from model_metrology.data.datasets import DATASETS, Dataset, DatasetSpec, prepare_dataset
from model_metrology.data.fetch import DataUnavailableError, pretrained_weights

__all__ = [
    "DATASETS",
    "DataUnavailableError",
    "Dataset",
    "DatasetSpec",
    "prepare_dataset",
    "pretrained_weights",
]
