"""Tables of what an embedding holds without being asked: components, clusters, translations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from model_metrology.embeddings.clustering import clustering_table, joint_labels
from model_metrology.embeddings.components import (
    Components,
    components_table,
    principal_components,
)
from model_metrology.embeddings.items import Items, excerpt
from model_metrology.embeddings.translations import Texts, translation_quantities
from model_metrology.embeddings.views import Embedding
from model_metrology.embeddings.whitening import held_out_axes

__all__ = ["structure_tables", "translation_table"]

_FEWEST = 5  # items, below which there is nothing to cluster

Array = NDArray[np.float64]


def structure_tables(
    items: Items,
    embedding: Embedding,
    key: Mapping[str, Any],
    views: Mapping[str, str],
    labels: Sequence[str] = (),
    *,
    components: int = 10,
    folds: int = 5,
    permutations: int = 1000,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """Components, clusters and projections of the items of a contrast.

    Parameters
    ----------
    items : Items
        n items of two sources or more.
    embedding : Embedding
        Of the items.
    key : mapping
        Columns ``contrast`` and ``embedder``.
    views : mapping of str to str
        The view to look at by choice: ``final``, ``chosen``.
    labels : sequence of str
        Further labels to look for, beside ``source``. Of each, clusters are also held against the
        joint label ``source × LABEL``. A label that does not vary among the items is left out.
    components : int
        Leading components to look at.
    folds : int
        Of the discriminant axes.
    permutations, seed : int
        Of the tests.

    Returns
    -------
    dict of str to DataFrame
        ``components``: see :func:`~model_metrology.embeddings.components.components_table`.
        ``clustering``: see :func:`~model_metrology.embeddings.clustering.clustering_table`.
        ``projections``: an item a row: ``item`` (position), ``source``, ``group``, ``labels``
        (JSON), ``pc1`` to ``pc3``, ``lda1`` and ``lda2`` (see
        :func:`~model_metrology.embeddings.whitening.held_out_axes`; of two sources there is one
        axis, and ``lda2`` is NaN), ``excerpt``. All with the key, ``view`` and ``choice`` in front.

    Raises
    ------
    ValueError
        If there is one source only, a view is missing, or groups are too few.
    """
    further = {name: items.labels[name] for name in labels if _varies(items.labels[name])}
    sought: dict[str, ArrayLike] = {"source": items.source, **further}
    both = {f"source × {name}": joint_labels(items.source, further[name]) for name in further}
    joint = {name: values for name, values in both.items() if _varies(values)}
    # Where both choices fell on one view, nothing is measured twice.
    measured = {}
    for view in dict.fromkeys(views.values()):
        points = _view(embedding, view)
        parts = principal_components(points, components, seed=seed)
        testing: dict[str, Any] = {"permutations": permutations, "seed": seed}
        axes = held_out_axes(points, items.source, items.group, folds=folds, seed=seed)
        measured[view] = {
            "components": components_table(parts, sought, items.group, **testing),
            "clustering": clustering_table(points, {**sought, **joint}, items.group, **testing),
            "projections": _projections(items, labels, parts, axes),
        }
    return {
        name: pd.concat(
            [
                _keyed(measured[view][name], {**key, "view": view, "choice": choice})
                for choice, view in views.items()
            ],
            ignore_index=True,
        )
        for name in ("components", "clustering", "projections")
    }


def translation_table(
    original: Items,
    translated: Items,
    target: Items,
    original_embedding: Embedding,
    translated_embedding: Embedding,
    target_embedding: Embedding,
    key: Mapping[str, Any],
    views: Mapping[str, str],
    *,
    topic: str | None = None,
    bootstraps: int = 200,
    permutations: int = 1000,
    level: float = 0.05,
    seed: int = 0,
) -> pd.DataFrame:
    """The language axis and the topic before and after translation.

    Parameters
    ----------
    original, translated, target : Items
        Texts, the same translated, and texts of the other language.
    original_embedding, translated_embedding, target_embedding : Embedding
        Of these.
    key : mapping
        Columns ``contrast`` and ``embedder``.
    views : mapping of str to str
        The view to look at by choice.
    topic : str, optional
        Label that should survive.
    bootstraps, permutations, level, seed
        As in :func:`~model_metrology.embeddings.translations.translation_quantities`.

    Returns
    -------
    DataFrame
        A row for each choice and quantity: the key, ``view``, ``choice``, ``quantity``, ``value``,
        ``lower``, ``upper``, ``p_value``.

    Raises
    ------
    ValueError
        If originals lack the label `topic`, a view is missing, or groups are too few.
    """
    if topic is not None and topic not in original.labels:
        raise ValueError(
            f"topic: originals have no label {topic!r}; give it to their source by `labels` or "
            f"`fixed`; there are {', '.join(original.labels) or 'none'}"
        )
    sides = (
        (original, original_embedding),
        (translated, translated_embedding),
        (target, target_embedding),
    )
    tables = []
    for choice, view in views.items():
        texts = [
            Texts(_view(embedding, view), items.group, items.labels.get(topic) if topic else None)
            for items, embedding in sides
        ]
        quantities = translation_quantities(
            *texts, bootstraps=bootstraps, permutations=permutations, level=level, seed=seed
        )
        rows = [{"quantity": name, **asdict(found)} for name, found in quantities.items()]
        tables.append(_keyed(pd.DataFrame(rows), {**key, "view": view, "choice": choice}))
    return pd.concat(tables, ignore_index=True)


def _varies(values: NDArray[Any]) -> bool:
    """Whether a label has two classes or more, several items to a class, and enough to cluster."""
    given = values[values != ""].astype(str)
    return 2 <= len(np.unique(given)) < len(given) and len(given) >= _FEWEST


def _view(embedding: Embedding, view: str) -> NDArray[np.float32]:
    if view not in embedding.views:
        raise ValueError(f"view {view!r} is not among {', '.join(embedding.views)}")
    return embedding.views[view]


def _projections(
    items: Items, labels: Sequence[str], components: Components, axes: Array
) -> pd.DataFrame:
    n, texts = len(items), items.texts
    columns = [("pc", components.scores, 3), ("lda", axes, 2)]
    numbered = {
        f"{name}{i + 1}": values[:, i] if i < values.shape[1] else np.full(n, np.nan)
        for name, values, count in columns
        for i in range(count)
    }
    further = [{name: str(items.labels[name][i]) for name in labels} for i in range(n)]
    return pd.DataFrame(
        {
            "item": np.arange(n),
            "source": items.source,
            "group": items.group,
            "labels": [json.dumps(each, ensure_ascii=False) for each in further],
            **numbered,
            "excerpt": "" if texts is None else [excerpt(text) for text in texts],
        }
    )


def _keyed(table: pd.DataFrame, key: Mapping[str, Any]) -> pd.DataFrame:
    """The table with the same values in front of every row."""
    result = table.copy()
    for i, (name, value) in enumerate(key.items()):
        result.insert(i, name, value)
    return result
