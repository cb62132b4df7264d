"""All tables of a contrast, a translation or a signature with one embedder.

A view other than the final one is never chosen by the labels of the items that it is measured on:
for LDA it is chosen on training folds, for what has no folds — components, clusters, translations,
signatures — on one half of the groups, and measured on the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from model_metrology.embeddings.components import (
    all_alike,
    encoded,
    eta_squared,
    principal_components,
)
from model_metrology.embeddings.items import Items, choose
from model_metrology.embeddings.layers import layers_table
from model_metrology.embeddings.separation_tables import separability_tables
from model_metrology.embeddings.signature import signature_tables
from model_metrology.embeddings.structure_tables import structure_tables, translation_table
from model_metrology.embeddings.views import Embedding, final_view

__all__ = ["contrast_tables", "named_tables", "telling_view", "translation_tables"]

Key = Mapping[str, Any]
Mask = NDArray[np.bool_]
_LEADING = 3  # components that may tell sources apart


def contrast_tables(
    items: Items,
    embeddings: Mapping[str, Embedding],
    key: Key,
    *,
    labels: Sequence[str],
    folds: int,
    permutations: int,
    bootstraps: int,
    level: float,
    seed: int,
) -> dict[str, pd.DataFrame]:
    """Tables of sources held against each other.

    Parameters
    ----------
    items : Items
        Of all sources.
    embeddings : mapping of str to Embedding
        By control; ``""`` is the items as they are.
    key : mapping
        Columns ``contrast`` and ``embedder``.
    labels : sequence of str
        Further labels to look for.
    folds, permutations, bootstraps, level, seed
        As a study has them.

    Returns
    -------
    dict of str to DataFrame
        ``separability``, ``confusion``, ``layers``, ``components``, ``clustering`` and
        ``projections``.

    Raises
    ------
    ValueError
        If no item has one of the labels, or see the functions that measure.
    """
    missing = [label for label in labels if label not in items.labels]
    if missing:
        raise ValueError(
            f"embeddings.contrasts.{key['contrast']}.labels: no source has {missing[0]!r}; give it "
            f"to one by `labels` or `fixed`; there are {', '.join(items.labels) or 'none'}"
        )
    items = replace(items, labels={label: items.labels[label] for label in labels})
    measuring: dict[str, Any] = {
        "folds": folds, "bootstraps": bootstraps, "level": level, "seed": seed,
    }  # fmt: skip
    plain = embeddings[""]
    tables = separability_tables(items, embeddings, key, permutations=permutations, **measuring)
    tables["layers"] = layers_table(items, plain, key, **measuring)
    final, half = final_view(list(plain.views)), one_half(items.group, seed)
    chosen = telling_view(plain, items, half)
    parts = [
        structure_tables(
            choose(items, part), _part(plain, part), key, {choice: view}, labels,
            permutations=permutations, folds=folds, seed=seed,
        )
        for choice, view, part in (
            ("final", final, np.ones(len(items), dtype=bool)),
            ("chosen", chosen, ~half),
        )
    ]  # fmt: skip
    # Of all items, not of those of the half.
    parts[1]["projections"]["item"] = np.flatnonzero(~half)[parts[1]["projections"]["item"]]
    return tables | {name: pd.concat([p[name] for p in parts]) for name in parts[0]}


def one_half(groups: NDArray[Any], seed: int) -> Mask:
    """Which items are of one half of the groups, chosen at random, shape (n,)."""
    names, index = np.unique(groups.astype(str), return_inverse=True)
    chosen = np.random.default_rng(seed).permutation(len(names)) < len(names) // 2
    return chosen[index]


def telling_view(embedding: Embedding, items: Items, part: Mask) -> str:
    """The view whose leading component tells the sources of some items apart best.

    By the largest share of variance between sources along any of the leading components.
    """
    _, codes = encoded(items.source[part])

    def told(view: str) -> float:
        points = embedding.views[view][part]
        if all_alike(points):
            return 0.0
        return float(eta_squared(principal_components(points, _LEADING).scores, codes).max())

    return max(embedding.views, key=told)


def _part(embedding: Embedding, part: Mask) -> Embedding:
    return Embedding({name: points[part] for name, points in embedding.views.items()})


def translation_tables(
    items: Items,
    embedding: Embedding,
    key: Key,
    *,
    original: str,
    translated: str,
    target: str,
    topic: str | None,
    bootstraps: int,
    permutations: int,
    level: float,
    seed: int,
    **_: Any,
) -> pd.DataFrame:
    """Table of a translation: the language axis before and after, in the final view.

    Parameters
    ----------
    items : Items
        Of the three sources.
    embedding : Embedding
        Of the items.
    key : mapping
        Columns ``contrast`` and ``embedder``.
    original, translated, target : str
        Names of the sources.
    topic : str, optional
        Label that should survive.
    bootstraps, permutations, level, seed
        As a study has them.
    """
    named = [items.source == name for name in (original, translated, target)]
    texts, texts_after, others = (choose(items, mask) for mask in named)
    before, after, goal = (_part(embedding, mask) for mask in named)
    views = {"final": final_view(list(embedding.views))}
    return translation_table(
        texts, texts_after, others, before, after, goal, key, views, topic=topic,
        bootstraps=bootstraps, permutations=permutations, level=level, seed=seed,
    )  # fmt: skip


def named_tables(
    items: Items,
    embedding: Embedding,
    key: Key,
    signature: Mapping[str, Any],
    *,
    folds: int,
    seed: int,
) -> dict[str, pd.DataFrame]:
    """Tables of the signature, in the view that tells sources apart on one half of the groups.

    Parameters
    ----------
    items : Items
        Of the known sources and of those of unknown origin.
    embedding : Embedding
        Of the items.
    key : mapping
        Columns ``contrast`` and ``embedder``.
    signature : mapping
        `sources`, `unknown` and `level`, as a study has them.
    folds, seed
        As a study has them.
    """
    known = np.isin(items.source.astype(str), signature["sources"])
    half = known & one_half(items.group, seed)
    view = telling_view(embedding, items, half)
    points, kept, rest = embedding.views[view], known & ~half, ~known
    return signature_tables(
        choose(items, kept), points[kept], {**key, "view": view},
        level=signature["level"], folds=folds, seed=seed,
        unknown=choose(items, rest) if rest.any() else None,
        unknown_points=points[rest] if rest.any() else None,
    )  # fmt: skip
