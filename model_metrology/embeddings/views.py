"""What an embedder makes of its items: vectors, one array a view.

A view is a layer and a way to pool the vectors of its tokens, e.g. ``"3 mean"``, layer 0 being the
input of the first; or ``"output"``, the one vector that a model itself gives.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["OUTPUT", "Embedding", "Views", "final_view", "parse_view"]

Views = dict[str, NDArray[np.float32]]
"""Vectors (n, d) by view."""

OUTPUT = "output"
"""The view of a model that has one vector of its own."""


@dataclass(frozen=True, eq=False)
class Embedding:
    """Vectors of items.

    Attributes
    ----------
    views : dict of str to ndarray of float32, shape (n, d)
        By view, from the first to the last layer, within a layer in the order of `pooling`.
    """

    views: Views

    def __len__(self) -> int:
        return len(next(iter(self.views.values()), ()))


def final_view(names: Iterable[str]) -> str:
    """The view that is an embedder's own: its output, else the first pooling of its last layer.

    Raises
    ------
    ValueError
        If there are no views, or a name is none.
    """
    names = list(names)
    if not names:
        raise ValueError("there are no views")
    if OUTPUT in names:
        return OUTPUT
    # Of several with the same layer, max takes the first.
    return max(names, key=lambda name: parse_view(name)[0] or 0)


def parse_view(name: str) -> tuple[int | None, str]:
    """Layer and pooling of a view: (6, "mean"), or (None, "output").

    Raises
    ------
    ValueError
        If it is no name of a view.
    """
    if name == OUTPUT:
        return None, name
    layer, _, pooling = name.partition(" ")
    if not layer.isdecimal() or not pooling:
        raise ValueError(f"{name!r} is no view; views are e.g. '3 mean', or {OUTPUT!r}")
    return int(layer), pooling
