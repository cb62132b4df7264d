"""Principal components of embeddings, and which of them carries which label.

Components are found without labels. How much of a component's variance a label explains is η²;
whether it is more than chance would give is asked by permuting labels, and as many components are
looked at, of the largest η² among them (Westfall and Young, *Resampling-based multiple testing*,
1993, single-step max T). That is conservative for a component along which groups differ much: what
labels could explain there by chance, permuted within groups, is less than elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy
from numpy.typing import ArrayLike, NDArray
from sklearn.decomposition import PCA
from sklearn.feature_selection import mutual_info_classif

from model_metrology.embeddings.grouping import permuted_labels

__all__ = [
    "Association",
    "Components",
    "all_alike",
    "association",
    "auroc",
    "components_table",
    "encoded",
    "eta_squared",
    "principal_components",
    "separation",
]

Array = NDArray[np.float64]
Codes = NDArray[np.int64]

# Spread, as a share of the largest value, that is rounding.
_ALIKE = 2e-6
# A component with less of the variance than this is rounding.
_NOTHING = 1e-10


@dataclass(frozen=True, eq=False)
class Components:
    """Leading principal components."""

    scores: Array
    """(n, k) of the items, centred."""
    axes: Array
    """(k, d) orthonormal."""
    variance: Array
    """(k,) share of the total variance."""


@dataclass(frozen=True, eq=False)
class Association:
    """What each of k components has to do with one label."""

    eta2: Array
    """(k,) share of the component's variance that lies between classes."""
    auroc: Array
    """(k,) max(a, 1 − a), of two classes; NaN of more."""
    mutual_information: Array
    """(k,) nats, by nearest neighbours."""
    p_value: Array
    """(k,) of η² by permutation."""
    p_adjusted: Array
    """(k,) the same for the largest η² of all components: holds for all of them at once."""


def principal_components(embeddings: ArrayLike, count: int = 10, *, seed: int = 0) -> Components:
    """Leading principal components.

    Parameters
    ----------
    embeddings : array_like, shape (n, d)
        Single precision stays single: 10⁵ × 1,024 are decomposed in seconds (scikit-learn takes
        a randomised SVD when few components of a large matrix are wanted).
    count : int
        How many at most; fewer come back if the rest is rounding.
    seed : int
        Of the randomised SVD.

    Returns
    -------
    Components
        The largest loading of each axis is positive, which settles its sign.

    Raises
    ------
    ValueError
        If there are fewer than two items, a value is not finite, or all items are embedded alike.
    """
    points = np.asarray(embeddings)
    points = points if points.dtype == np.float32 else points.astype(np.float64)
    if points.ndim != 2 or len(points) < 2:
        raise ValueError(f"embeddings must have shape (n, d), n at least 2, got {points.shape}")
    if not np.isfinite(points).all():
        raise ValueError("embeddings hold values that are not finite; embed these items again")
    # Centred in double precision first: large means would cancel in single precision.
    centred = points - points.mean(axis=0, dtype=np.float64).astype(points.dtype)
    if not np.abs(centred).max() > 1e-6 * np.abs(points).max():
        raise ValueError("all items are embedded alike: there are no components; see the embedder")
    fitted = PCA(min(count, *points.shape), random_state=seed).fit(centred)
    kept = fitted.explained_variance_ratio_ > _NOTHING
    scores = centred @ fitted.components_[kept].T
    return Components(
        scores.astype(np.float64),
        fitted.components_[kept].astype(np.float64),
        fitted.explained_variance_ratio_[kept].astype(np.float64),
    )


def all_alike(points: NDArray[np.floating]) -> bool:
    """Whether points (n, d) differ by rounding alone, as first tokens of texts before any layer."""
    return bool(np.ptp(points, axis=0).max() <= _ALIKE * np.abs(points).max())


def encoded(labels: ArrayLike) -> tuple[NDArray[np.str_], Codes]:
    """Names of the classes, sorted, and the number of each item's class.

    Raises
    ------
    ValueError
        If there is one class only, or every item is a class of its own.
    """
    names, codes = np.unique(np.asarray(labels).astype(str), return_inverse=True)
    if len(names) < 2:
        raise ValueError(
            f"a label needs at least two classes, found {names.tolist() or 'no items'}"
        )
    if len(names) == len(codes):
        raise ValueError("every item is a class of its own: such a label cannot be looked for")
    return names, codes.astype(np.int64)


def eta_squared(values: ArrayLike, codes: ArrayLike) -> Array:
    """η², the share of variance that lies between classes (one-way analysis of variance).

    Parameters
    ----------
    values : array_like, shape (n, k)
        k measured quantities of n items.
    codes : array_like of int, shape (n,) or (b, n)
        Classes from 0, or b ways to assign them.

    Returns
    -------
    ndarray, shape (k,) or (b, k)
        In [0, 1]; NaN where a quantity is constant.
    """
    points, given = np.asarray(values, dtype=np.float64), np.asarray(codes)
    points = points - points.mean(axis=0)
    ways = np.atleast_2d(given)
    between = np.zeros((len(ways), points.shape[1]))
    for c in range(int(ways.max()) + 1):
        member = (ways == c).astype(np.float64)
        size = np.maximum(member.sum(axis=1), 1.0)
        between += (member @ points) ** 2 / size[:, None]
    total = (points**2).sum(axis=0)
    share = np.divide(between, total, out=np.full_like(between, np.nan), where=total > 0)
    return share if given.ndim == 2 else share[0]


def auroc(values: ArrayLike, positive: ArrayLike) -> Array:
    """Area under the ROC curve: P(positive > negative), ties by half.

    Parameters
    ----------
    values : array_like, shape (n,) or (n, k)
        One or several scores of n items.
    positive : array_like of bool, shape (n,)
        Which are of the positive class.

    Returns
    -------
    ndarray, shape () or (k,)
        NaN if one class is empty.
    """
    chosen = np.asarray(positive, dtype=bool)
    ranks = scipy.stats.rankdata(values, axis=0)
    count, other = chosen.sum(), (~chosen).sum()
    if count == 0 or other == 0:
        return np.full(ranks.shape[1:], np.nan)
    return np.asarray((ranks[chosen].mean(axis=0) - (count + 1) / 2) / other)


def separation(values: ArrayLike, codes: ArrayLike) -> Array:
    """max(AUROC, 1 − AUROC) of two classes: a component has no direction. NaN of more classes."""
    classes = np.asarray(codes)
    if classes.max() != 1:
        return np.full(np.shape(values)[1:], np.nan)
    area = auroc(values, classes == 1)
    return np.maximum(area, 1.0 - area)


def association(
    scores: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike,
    *,
    permutations: int = 1000,
    seed: int = 0,
) -> Association:
    """What components have to do with a label, with permutation tests.

    Parameters
    ----------
    scores : array_like, shape (n, k)
        Components, or other quantities of the items.
    labels, groups : array_like, shape (n,)
        The label, and what belongs together: see :func:`permuted_labels`.
    permutations : int
        A p-value is at least 1/(permutations + 1).
    seed : int
        Of the permutations, and of the noise that breaks ties in the mutual information.

    Raises
    ------
    ValueError
        See :func:`encoded`.

    Notes
    -----
    Mutual information: B. C. Ross, "Mutual information between discrete and continuous data sets",
    PLoS ONE 9 (2014) e87357, as scikit-learn has it.
    """
    values = np.asarray(scores, dtype=np.float64)
    _, codes = encoded(labels)
    observed = eta_squared(values, codes)
    # Rounding must not tell a permutation that changes nothing from the labels as they are.
    bar = observed * (1.0 - 1e-9)
    reached, topped = np.zeros(values.shape[1]), np.zeros(values.shape[1])
    for ways in permuted_labels(codes, groups, permutations, seed=seed):
        chance = eta_squared(values, ways)
        reached += (chance >= bar).sum(axis=0)
        topped += (chance.max(axis=1)[:, None] >= bar).sum(axis=0)
    information = mutual_info_classif(values, codes, discrete_features=False, random_state=seed)
    return Association(
        observed,
        separation(values, codes),
        np.asarray(information),
        (1.0 + reached) / (1.0 + permutations),
        (1.0 + topped) / (1.0 + permutations),
    )


def components_table(
    components: Components,
    labels: Mapping[str, ArrayLike],
    groups: ArrayLike,
    *,
    permutations: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Which component carries which label.

    Parameters
    ----------
    components : Components
        Of n items.
    labels : mapping
        Labels by name, (n,) each; items with "" have no such label and are left out of it.
    groups : array_like, shape (n,)
        What belongs together.
    permutations, seed : int
        See :func:`association`.

    Returns
    -------
    DataFrame
        One row a label and component: ``component`` (from 1), ``variance``, ``label``, ``eta2``,
        ``auroc``, ``mutual_information``, ``p_value``, ``p_adjusted``.

    Raises
    ------
    ValueError
        If a label has one class only; the message names it.
    """
    tables = []
    for name, values in labels.items():
        label = np.asarray(values).astype(str)
        has = label != ""
        try:
            found = association(
                components.scores[has], label[has], np.asarray(groups)[has],
                permutations=permutations, seed=seed,
            )  # fmt: skip
        except ValueError as error:
            raise ValueError(f"label {name!r}: {error}") from error
        count = len(components.variance)
        shown = {"component": np.arange(1, count + 1), "variance": components.variance}
        tables.append(pd.DataFrame({**shown, "label": name, **vars(found)}))
    return pd.concat(tables, ignore_index=True)
