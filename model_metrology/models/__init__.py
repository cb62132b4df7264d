"""Networks by name: from an :class:`~model_metrology.recipes.Architecture` to a module."""

from model_metrology.models.architectures import build_model, split_head
from model_metrology.models.dropout import CounterDropout, dropout_key, dropout_layers

__all__ = ["CounterDropout", "build_model", "dropout_key", "dropout_layers", "split_head"]
