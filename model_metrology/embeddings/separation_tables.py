"""Tables of separability: embedders and baselines, by pair of sources and by control."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from model_metrology.embeddings.baselines import (
    baseline_features,
    baseline_separability,
)
from model_metrology.embeddings.items import Items, control
from model_metrology.embeddings.names import BASELINE_NAMES
from model_metrology.embeddings.separability import (
    HELD_OUT_PERMUTATIONS,
    Separability,
    chosen_separability,
    separability,
)
from model_metrology.embeddings.views import Embedding, final_view

__all__ = ["baseline_tables", "separability_tables"]

SEPARABILITY = [
    "contrast", "embedder", "view", "control", "choice", "source_a", "source_b", "n", "groups",
    "chance", "accuracy", "accuracy_lower", "accuracy_upper", "auroc", "auroc_lower",
    "auroc_upper", "p_value", "chosen",
]  # fmt: skip
CONFUSION = [
    "contrast", "embedder", "control", "choice", "true", "predicted", "count",
]  # fmt: skip

_ALL = ("", "")  # in place of a pair of sources


def separability_tables(
    items: Items,
    embeddings: Mapping[str, Embedding],
    key: Mapping[str, Any],
    *,
    folds: int = 5,
    permutations: int = 200,
    bootstraps: int = 200,
    level: float = 0.05,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """Separability of sources in an embedding, as they are and under each control.

    Parameters
    ----------
    items : Items
        n items of two sources or more.
    embeddings : mapping of str to Embedding
        By control; ``""`` is the items as they are.
    key : mapping
        Columns ``contrast`` and ``embedder``.
    folds, permutations, bootstraps, level, seed
        As in :func:`~model_metrology.embeddings.separability.separability`.

    Returns
    -------
    dict of str to DataFrame
        ``separability``: a row for each control, pair of sources (and all at once, ``""``), and
        choice of view: the ``final`` one, and the one ``chosen`` on training folds alone, whose
        `view` is "" as it may differ between folds; `chosen` counts them. P-values of ``final`` are
        from refits, for items as they are; all others from permuted held-out labels, which is
        conservative, see
        :func:`~model_metrology.embeddings.separability.held_out_p_value`. ``confusion``: of all
        sources at once.
    """
    options: dict[str, Any] = {
        "folds": folds, "bootstraps": bootstraps, "level": level, "seed": seed,
    }  # fmt: skip
    rows = _Rows(items)
    for name, embedding in embeddings.items():
        final = final_view(list(embedding.views))
        for pairs, which in _questions(items):
            labels, groups = items.source[which], items.group[which]
            views = {view: points[which] for view, points in embedding.views.items()}
            # A thousand fits for each control as well would be most of a study's time.
            drawn = _cheap(permutations) if name else permutations
            told = separability(
                views[final], labels, groups, permutations=drawn, refit=not name, **options
            )
            rows.add({**key, "view": final, "control": name, "choice": "final"}, pairs, which, told)
            chosen = [final] * folds
            if len(views) > 1:
                best = chosen_separability(
                    views, labels, groups, permutations=_cheap(permutations), **options
                )
                told, chosen = best, list(best.views)
            rows.add(
                {**key, "view": "", "control": name, "choice": "chosen"}, pairs, which, told, chosen
            )
    return rows.tables()


def baseline_tables(
    items: Items,
    controls: Sequence[str],
    key: Mapping[str, Any],
    *,
    folds: int = 5,
    permutations: int = 200,
    bootstraps: int = 200,
    level: float = 0.05,
    seed: int = 0,
) -> dict[str, pd.DataFrame]:
    """The tables of :func:`separability_tables` for what needs no model, as `embedder` "length" …

    Parameters
    ----------
    items : Items
        n items of two sources or more, as they are.
    controls : sequence of str
        Names of controls, which are applied here; ``""`` for none.
    key : mapping
        Column ``contrast``.
    folds, permutations, bootstraps, level, seed
        As in :func:`~model_metrology.embeddings.baselines.baseline_separability`.

    Returns
    -------
    dict of str to DataFrame
        ``separability`` and ``confusion``, with ``choice`` "baseline" and ``view`` "".
    """
    rows = _Rows(items)
    for name in controls:
        seen = control(items, name) if name else items
        for baseline in BASELINE_NAMES[items.kind]:
            features = baseline_features(seen, baseline)
            whose = {"contrast": key["contrast"], "embedder": baseline}
            for pairs, which in _questions(items):
                told = baseline_separability(
                    features[which], items.source[which], items.group[which], folds=folds,
                    permutations=permutations, bootstraps=bootstraps, level=level, seed=seed,
                )  # fmt: skip
                rows.add(
                    {**whose, "view": "", "control": name, "choice": "baseline"}, pairs, which, told
                )
    return rows.tables()


class _Rows:
    """Rows of both tables as they come in."""

    def __init__(self, items: Items) -> None:
        self._items = items
        self._separability: list[dict[str, Any]] = []
        self._confusion: list[dict[str, Any]] = []

    def add(
        self,
        start: Mapping[str, Any],
        pairs: Sequence[tuple[str, str]],
        which: NDArray[np.int64],
        told: Separability,
        chosen: Sequence[str] = (),
    ) -> None:
        groups = len(np.unique(self._items.group[which]))
        for a, b in pairs:
            self._separability.append(
                {
                    **start, "source_a": a, "source_b": b, "n": len(which),
                    "groups": groups, "chance": told.chance,
                    "accuracy": told.accuracy, "accuracy_lower": told.lower,
                    "accuracy_upper": told.upper, "auroc": told.auroc,
                    "auroc_lower": told.auroc_lower, "auroc_upper": told.auroc_upper,
                    "p_value": told.p_value, "chosen": _counted(chosen),
                }
            )  # fmt: skip
        if _ALL in pairs:
            named = {column: start[column] for column in CONFUSION if column in start}
            for true, counts in zip(told.classes, told.confusion, strict=True):
                for predicted, count in zip(told.classes, counts, strict=True):
                    self._confusion.append(
                        {**named, "true": true, "predicted": predicted, "count": int(count)}
                    )

    def tables(self) -> dict[str, pd.DataFrame]:
        return {
            "separability": pd.DataFrame(self._separability, columns=SEPARABILITY),
            "confusion": pd.DataFrame(self._confusion, columns=CONFUSION),
        }


def _questions(items: Items) -> Iterator[tuple[list[tuple[str, str]], NDArray[np.int64]]]:
    """Pairs of sources and the positions of their items; all at once last, of two the same."""
    sources = [str(name) for name in dict.fromkeys(items.source)]
    every = np.arange(len(items.source))
    if len(sources) == 2:
        yield [(sources[0], sources[1]), _ALL], every
        return
    for pair in combinations(sources, 2):
        yield [pair], np.flatnonzero(np.isin(items.source, pair))
    yield [_ALL], every


def _cheap(permutations: int) -> int:
    return HELD_OUT_PERMUTATIONS if permutations else 0


def _counted(views: Sequence[str]) -> str:
    """Views by how often they were chosen: "2 mean ×4, 3 mean ×1"."""
    return ", ".join(f"{view} ×{count}" for view, count in Counter(views).most_common())
