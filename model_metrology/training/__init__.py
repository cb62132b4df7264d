"""Training of populations: runs alone or many at once, resumed bit for bit."""

from model_metrology.training.data import Points, extract_features
from model_metrology.training.loop import train_runs

__all__ = ["Points", "extract_features", "train_runs"]
