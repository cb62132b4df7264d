"""Attributions: how much each training point counts for the answer on a test point.

A surrogate's logit of class c is a sum over the N training points, one term each,

    A_i^c(x) = V_{c,i} k(x, x_i) + b_c/N,    Σ_i A_i^c(x) = logit of c,

and the terms are its explanation of x (Engel et al. 2024, arXiv 2305.14585, section 3). Here: the
terms of one class per test point, the training points that count most, how alike two models
explain themselves, and how well attributions find training points that are known to matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Linear",
    "Retrieval",
    "attribution_agreement",
    "class_attributions",
    "precision_recall",
    "retrieval",
    "strongest",
]

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

# Ranks are made for so many values at once: 64 MiB of them.
_BLOCK = 2**23


class Linear(Protocol):
    """A surrogate: linear in the kernel, with one row of coefficients a logit."""

    @property
    def coefficients(self) -> Array:
        """V, (C', N): C' is the number of classes, or 1 for a binary surrogate."""

    @property
    def intercept(self) -> Array:
        """b, (C',)."""


def class_attributions(surrogate: Linear, cross_kernel: ArrayLike, classes: ArrayLike) -> Array:
    """Attribution of each test point to every training point, for one class per test point.

    Parameters
    ----------
    surrogate
        With coefficients V (C', N) and intercept b (C',). With C' = 1 the only logit is that of
        class 1 of two, and the attribution to class 0 is minus that to class 1.
    cross_kernel
        (n, N) kernel between test and training points, k(x, x_i).
    classes
        (n,) integers: for each test point the class whose logit is explained, e.g. the predicted.

    Returns
    -------
    array
        (n, N), in units of the logit; row sums are the surrogate's logits of `classes`. The
        attributions to the other classes, C times the memory, are not made.

    Raises
    ------
    ValueError
        If shapes disagree, or an entry of `classes` is no class.
    """
    coefficients, intercept = np.asarray(surrogate.coefficients), np.asarray(surrogate.intercept)
    if coefficients.ndim != 2 or intercept.shape != coefficients.shape[:1]:
        raise ValueError(
            "surrogate: coefficients (C', N) and intercept (C',) are needed, got "
            f"{coefficients.shape} and {intercept.shape}"
        )
    kernel, wanted = np.asarray(cross_kernel), np.asarray(classes)
    logits, points = coefficients.shape
    if kernel.ndim != 2 or kernel.shape[1] != points:
        raise ValueError(
            f"cross_kernel must have shape (n, {points}), one column a training point of the "
            f"surrogate, got {kernel.shape}; test points are its rows"
        )
    if wanted.shape != kernel.shape[:1] or wanted.dtype.kind not in "iu":
        raise ValueError(
            f"classes must be integers of shape ({len(kernel)},), one a row of cross_kernel, got "
            f"{wanted.dtype} of {wanted.shape}"
        )
    count = max(logits, 2)
    if wanted.size and not (wanted.min() >= 0 and wanted.max() < count):
        raise ValueError(f"classes must lie in 0…{count - 1}, got {wanted.min()}…{wanted.max()}")
    rows = wanted if logits > 1 else np.zeros_like(wanted)
    terms = coefficients[rows].astype(np.float64, copy=False)
    terms *= kernel
    terms += (intercept[rows] / points)[:, None]
    if logits == 1:
        terms[wanted == 0] *= -1.0
    return terms


def strongest(attributions: ArrayLike, count: int) -> tuple[Indices, Indices]:
    """Training points that count most for and against an answer.

    Parameters
    ----------
    attributions
        (N,) attributions of one test point.
    count
        How many of each, 1 to N.

    Returns
    -------
    supporting, opposing : array
        (count,) indices of training points: those of the largest attributions, the largest first,
        and those of the smallest, the smallest first; of equal ones the smaller index first. They
        are so by rank alone: where fewer than `count` points are against, the last of the opposing
        have positive attributions.

    Raises
    ------
    ValueError
        If `attributions` is not one finite row, or `count` is not in 1…N.
    """
    values = _row("attributions", attributions)
    if not 1 <= count <= len(values):
        raise ValueError(f"count must lie in 1…{len(values)}, the training points, got {count}")
    ends = (np.argsort(sign * values, kind="stable")[:count] for sign in (-1.0, 1.0))
    supporting, opposing = (end.astype(np.int64, copy=False) for end in ends)
    return supporting, opposing


def attribution_agreement(a: ArrayLike, b: ArrayLike, labels: ArrayLike | None = None) -> Array:
    """Do two models explain themselves alike? Rank correlation for each test point.

    Points of the predicted label support a prediction and others oppose it, whatever the model:
    where both models predict the same of two classes of the same size, that alone gives a
    correlation of 3/4. Within `labels` it counts for nothing.

    Parameters
    ----------
    a, b
        (n, N) attributions of two models, of the same test points to the same training points,
        N ≥ 2.
    labels
        (N,) integers, the training points' labels: correlate among the points of each label, and
        take the mean over labels, weighted by their points. Labels of one point, or of equal
        attributions, are left out.

    Returns
    -------
    array
        (n,) Spearman's correlation over the training points, in [−1, 1]; tied attributions have
        their mean rank. NaN where all attributions of a model are equal (with `labels`: those of
        each label).

    Raises
    ------
    ValueError
        If the shapes differ or are not (n, N ≥ 2), or a value is not finite.
    """
    first, second = np.asarray(a), np.asarray(b)
    if first.shape != second.shape or first.ndim != 2 or first.shape[1] < 2:
        raise ValueError(
            "a and b must have the same shape (n, N), N ≥ 2: the same test and training points; "
            f"got {first.shape} and {second.shape}"
        )
    for name, values in (("a", first), ("b", second)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name} holds values that are not finite; leave this run out")
    if labels is None:
        return _correlations(first, second)
    own = np.asarray(labels)
    if own.shape != first.shape[1:] or own.dtype.kind not in "iu":
        raise ValueError(
            f"labels must be integers of shape ({first.shape[1]},), one a training point, got "
            f"{own.dtype} of {own.shape}"
        )
    groups = [np.flatnonzero(own == label) for label in np.unique(own)]
    found = np.stack([_correlations(first[:, group], second[:, group]) for group in groups])
    weights = np.where(np.isnan(found), 0.0, np.array([[len(group)] for group in groups]))
    total, weight = (np.nan_to_num(found) * weights).sum(axis=0), weights.sum(axis=0)
    return np.divide(total, weight, out=np.full(len(total), np.nan), where=weight > 0)


def _correlations(first: NDArray[Any], second: NDArray[Any]) -> Array:
    """Spearman's correlation of each row of one with that of the other, some rows at a time."""
    step = max(_BLOCK // first.shape[1], 1)
    blocks = [
        _rank_correlation(first[start : start + step], second[start : start + step])
        for start in range(0, len(first), step)
    ]
    return np.concatenate([np.empty(0), *blocks])


def _rank_correlation(a: NDArray[np.floating], b: NDArray[np.floating]) -> Array:
    """Spearman's correlation of each row of `a` with the same row of `b`."""
    centre = (a.shape[1] + 1) / 2
    # Multiples of 1/2 about a centre that is one too: sums are exact, and 0 for equal values.
    first, second = (scipy.stats.rankdata(values, axis=1) - centre for values in (a, b))
    product, *squares = (
        np.einsum("ij,ij->i", left, right)
        for left, right in ((first, second), (first, first), (second, second))
    )
    scale = np.sqrt(squares[0]) * np.sqrt(squares[1])
    ratio = np.divide(product, scale, out=np.full(len(scale), np.nan), where=scale > 0)
    return np.clip(ratio, -1.0, 1.0)


@dataclass(frozen=True)
class Retrieval:
    """How well scores find the relevant points.

    Attributes
    ----------
    relevant : int
        Number k of relevant points.
    precision : float
        Share of relevant points among the k of highest score; equal to their recall.
    recall : float
        Share of the relevant points that are among the 2k of highest score (all, if there are
        fewer than 2k).
    average_precision : float
        Mean over the relevant points of the precision down to each.
    chance : float
        k/N, the precision of a random order.
    """

    relevant: int
    precision: float
    recall: float
    average_precision: float
    chance: float


def retrieval(scores: ArrayLike, relevant: ArrayLike) -> Retrieval:
    """Precision and recall of the points of highest score.

    Points of equal score share their places: where a cut falls among them, relevant ones are
    counted in proportion (the mean over all orders of the tied points), so that the result does
    not depend on the order of the points.

    Parameters
    ----------
    scores
        (N,) scores, e.g. the attributions of a triggered test image to the training points.
    relevant
        (N,) which of the points should be found, e.g. the poisoned ones.

    Returns
    -------
    Retrieval
        Average precision is Σ_t (R_t − R_{t−1}) P_t over the distinct scores t as thresholds, from
        the highest down, as scikit-learn's ``average_precision_score``.

    Raises
    ------
    ValueError
        If shapes disagree, `relevant` is not boolean, nothing is relevant, or a score is not
        finite.
    """
    retrieved, found = _thresholds(scores, relevant)
    points, wanted = int(retrieved[-1]), int(found[-1])
    # Between two thresholds hits grow in proportion: the mean over the orders of tied points.
    hits = np.interp([wanted, min(2 * wanted, points)], [0, *retrieved], [0, *found])
    gained = np.diff(found, prepend=0)
    return Retrieval(
        relevant=wanted,
        precision=float(hits[0] / wanted),
        recall=float(hits[1] / wanted),
        average_precision=float((gained * found / retrieved).sum() / wanted),
        chance=wanted / points,
    )


def precision_recall(scores: ArrayLike, relevant: ArrayLike, grid: ArrayLike) -> Array:
    """Interpolated precision at a grid of recalls.

    Parameters
    ----------
    scores, relevant
        As in :func:`retrieval`.
    grid
        (m,) recalls in [0, 1], in any order.

    Returns
    -------
    array
        (m,) the interpolated precision at each recall r: the highest precision at any threshold
        whose recall is at least r (Manning, Raghavan, Schütze, "Introduction to information
        retrieval", 2008, section 8.4). It never rises with r, and is k/N or more. Recalls are
        compared as counts of relevant points, so that 0.3 of ten is three, however 0.3 was
        rounded.

    Raises
    ------
    ValueError
        As :func:`retrieval`, or if a recall is outside [0, 1].
    """
    recalls = np.asarray(grid, dtype=np.float64)
    if recalls.ndim != 1 or not ((recalls >= 0) & (recalls <= 1)).all():
        raise ValueError(f"grid must be recalls in [0, 1] of shape (m,), got {grid!r}")
    retrieved, found = _thresholds(scores, relevant)
    best = np.maximum.accumulate((found / retrieved)[::-1])[::-1]
    needed = np.ceil(recalls * found[-1] - 1e-9)
    return np.asarray(best[np.searchsorted(found, needed)], dtype=np.float64)


def _thresholds(scores: ArrayLike, relevant: ArrayLike) -> tuple[Indices, Indices]:
    """Points, and relevant ones, of at least score t, for each distinct t from the highest down."""
    values, wanted = _row("scores", scores), np.asarray(relevant)
    if wanted.shape != values.shape or wanted.dtype != bool:
        raise ValueError(
            f"relevant must be boolean of shape ({len(values)},), one a score, got "
            f"{wanted.dtype} of {wanted.shape}"
        )
    if not wanted.any():
        raise ValueError("relevant: no point is relevant, so there is nothing to find")
    order = np.argsort(-values, kind="stable")
    ordered = values[order]
    last = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)
    return (last + 1).astype(np.int64), np.cumsum(wanted[order], dtype=np.int64)[last]


def _row(name: str, values: ArrayLike) -> Array:
    row = np.asarray(values, dtype=np.float64)
    if row.ndim != 1 or row.size == 0:
        raise ValueError(
            f"{name} must have shape (N,), N ≥ 1, got {row.shape}; give one test point at a time"
        )
    if not np.isfinite(row).all():
        raise ValueError(f"{name}: some values are not finite; leave this run out")
    return row
