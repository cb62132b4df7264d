"""Where in a network are labels written? Separability and structure, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from model_metrology.embeddings.clustering import cluster
from model_metrology.embeddings.components import (
    all_alike,
    encoded,
    eta_squared,
    principal_components,
    separation,
)
from model_metrology.embeddings.items import Items
from model_metrology.embeddings.separability import separability
from model_metrology.embeddings.views import Embedding, parse_view

__all__ = ["layers_table"]

COLUMNS = [
    "contrast", "embedder", "view", "layer", "pooling", "label", "accuracy", "accuracy_lower",
    "accuracy_upper", "auroc", "pc1_auroc", "pc1_eta2", "kmeans_ari", "chance",
]  # fmt: skip


def layers_table(
    items: Items,
    embedding: Embedding,
    key: Mapping[str, Any],
    *,
    folds: int = 5,
    bootstraps: int = 200,
    level: float = 0.05,
    seed: int = 0,
) -> pd.DataFrame:
    """How well each view tells each label, with labels and without.

    Parameters
    ----------
    items : Items
        n items.
    embedding : Embedding
        Their views.
    key : mapping
        Columns ``contrast`` and ``embedder``.
    folds, bootstraps, level, seed
        As in :func:`~model_metrology.embeddings.separability.separability`.

    Returns
    -------
    DataFrame
        One row a view and label (``source``, and the items' own): held-out accuracy with interval,
        ``auroc``, and ``chance``; of the first principal component ``pc1_auroc`` (either way
        round; NaN of more than two classes) and ``pc1_eta2``, the share of its variance between
        classes; ``kmeans_ari``, the adjusted Rand index of k-means with as many clusters as
        classes. The latter two look at all items and never at labels; they are NaN where items
        are all embedded alike.

        Items without a label, and classes with fewer groups than folds, are left out; so is a
        label of which fewer than two classes remain.
    """
    rows = []
    for label, values in {"source": items.source, **items.labels}.items():
        usable = _usable(values, items.group, folds)
        if len(np.unique(values[usable])) < 2:
            continue
        for view, points in embedding.views.items():
            told = separability(
                points[usable], values[usable], items.group[usable], folds=folds, permutations=0,
                bootstraps=bootstraps, level=level, seed=seed,
            )  # fmt: skip
            layer, pooling = parse_view(view)
            rows.append(
                {
                    **key, "view": view, "layer": layer, "pooling": pooling, "label": label,
                    "accuracy": told.accuracy, "accuracy_lower": told.lower,
                    "accuracy_upper": told.upper, "auroc": told.auroc, "chance": told.chance,
                    **_structure(points[usable], values[usable], seed),
                }
            )  # fmt: skip
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.astype({"layer": "Int64"})


def _usable(values: NDArray[Any], groups: NDArray[Any], folds: int) -> NDArray[np.bool_]:
    """Items that have a label, of classes that can be divided into folds."""
    usable = values != ""
    for name in np.unique(values[usable]):
        if len(np.unique(groups[values == name])) < folds:
            usable &= values != name
    return np.asarray(usable)


def _structure(points: NDArray[np.float32], labels: NDArray[Any], seed: int) -> dict[str, float]:
    """The first principal component and k-means against labels that they have not seen."""
    if all_alike(points):
        return dict.fromkeys(("pc1_auroc", "pc1_eta2", "kmeans_ari"), math.nan)
    names, codes = encoded(labels)
    first = principal_components(points, 1, seed=seed).scores
    clusters = cluster(points, "k-means", len(names), seed=seed)
    return {
        "pc1_auroc": float(separation(first, codes)[0]),
        "pc1_eta2": float(eta_squared(first, codes)[0]),
        "kmeans_ari": float(adjusted_rand_score(codes, clusters)),
    }
