"""An embedder, of whatever package, behind one interface."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from model_metrology.embeddings.recipes import Embedder
from model_metrology.embeddings.views import Views

__all__ = ["Model", "describe", "digest", "identify", "not_installed", "optional"]

_VERSION = 1  # part of identities: raised when the code makes other vectors of the same model


@dataclass(frozen=True, eq=False)
class Model:
    """An embedder, ready to run.

    Attributes
    ----------
    of : {"texts", "images"}
        What it embeds.
    identity : str
        All that decides the vectors, as JSON: package and version, model, SHA-256 of its files,
        prefix, pooling, layers, most tokens, precision.
    description : dict
        For readers: ``package``, ``model``, ``dimension``, ``layers`` (0 where there is only one
        vector), ``licence`` ("" where the model does not say).
    vectors : callable
        Maps a batch to vectors by view; :meth:`embed` is what to call.
    counts : callable or None
        Maps texts to their numbers of tokens, uncut; None for images.
    max_tokens : int or None
        Longer texts are cut to it.
    normalise : bool
        Whether vectors are scaled to length 1.
    """

    of: Literal["texts", "images"]
    identity: str
    description: dict[str, Any]
    vectors: Callable[[Any], Mapping[str, NDArray[Any]]]
    counts: Callable[[Sequence[str]], Sequence[int]] | None = None
    max_tokens: int | None = None
    normalise: bool = False

    def embed(self, batch: Any, positions: Sequence[int] | None = None) -> Views:
        """Embed a batch.

        Parameters
        ----------
        batch : sequence of str, or ndarray of uint8, shape (n, height, width, 3)
            Texts or images.
        positions : sequence of int, optional
            What errors call the items; 0, 1, … when absent.

        Returns
        -------
        dict of str to ndarray of float32, shape (n, d)
            Vectors by view, from the first to the last layer.

        Raises
        ------
        ValueError
            If the batch is not of what this embeds, a text is empty, or a vector is not finite;
            the message names the item.
        """
        names = range(len(batch)) if positions is None else positions
        self.check(batch, names)
        views = {
            view: np.asarray(vectors, dtype=np.float32)
            for view, vectors in self.vectors(batch).items()
        }
        for view, vectors in views.items():
            wrong = ~np.isfinite(vectors).all(axis=1)
            if wrong.any():
                at = int(wrong.argmax())
                raise ValueError(
                    f"{self.of[:-1]} {names[at]} has a vector that is not finite (view {view!r})"
                    f"{_opening(batch[at])}; take it out, or choose another embedder"
                )
        if self.normalise:
            views = {view: _unit(vectors) for view, vectors in views.items()}
        return views

    def lengths(self, items: Any) -> NDArray[np.int64]:
        """Numbers of tokens of texts before they are cut, (n,); 1 for each image."""
        if self.counts is None:
            return np.ones(len(items), dtype=np.int64)
        return np.asarray(self.counts(items), dtype=np.int64)

    def check(self, items: Any, positions: Sequence[int] | None = None) -> None:
        """Refuse items that cannot be embedded, as :meth:`embed` does."""
        if self.of == "images":
            wanted = isinstance(items, np.ndarray) and items.dtype == np.uint8
            if not wanted or items.ndim != 4 or items.shape[-1] != 3:
                raise ValueError(
                    f"{self.description['model']} embeds images, uint8 of shape (n, height, width, "
                    f"3), and was given {_what(items)}"
                )
            return
        names = range(len(items)) if positions is None else positions
        for name, text in zip(names, items, strict=True):
            if not isinstance(text, str):
                raise ValueError(
                    f"{self.description['model']} embeds texts, and was given {_what(items)}"
                )
            if not text.strip():
                raise ValueError(f"text {name} is empty; take it out")


def _what(items: Any) -> str:
    if isinstance(items, np.ndarray):
        return f"an array of {items.dtype}, shape {items.shape}"
    return f"{type(items).__name__} of {', '.join(sorted({type(item).__name__ for item in items}))}"


def _opening(item: Any) -> str:
    return f": {item[:60]!r}" if isinstance(item, str) else ""


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(norms, np.finfo(np.float32).tiny)


def optional(package: str, kind: str) -> Any:
    """A package that not everyone has."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise not_installed(package, kind) from error


def not_installed(package: str, kind: str) -> ImportError:
    """The error that names a package and what installs it."""
    return ImportError(
        f"kind: {kind} needs the package {package}: in a checkout, pip install -e '.[embeddings]'"
    )


def identify(options: Embedder, package: str, weights: str, **more: Any) -> str:
    """What decides the vectors, as JSON."""
    own = {
        "version": _VERSION,
        "package": f"{package} {metadata.version(package)}",
        "model": options.model,
        "weights": weights,
        "prefix": options.prefix,
        "normalise": options.normalise,
    }
    return json.dumps(own | more, sort_keys=True)


def describe(
    options: Embedder, package: str, *, dimension: int, layers: int = 0, licence: str = ""
) -> dict[str, Any]:
    """What :class:`Model` says of itself to readers."""
    return {
        "package": f"{package} {metadata.version(package)}",
        "model": options.model or options.kind,
        "dimension": dimension,
        "layers": layers,
        "licence": licence,
    }


def digest(paths: Iterable[Path]) -> str:
    """SHA-256 of files, by name and content."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        with open(path, "rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}".encode())
    return digest.hexdigest()
