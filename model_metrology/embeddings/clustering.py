"""Clusters of embeddings, found without labels, against labels.

k-means works on the embedding itself. The Gaussian mixture and HDBSCAN work on the leading
principal components: densities and full covariances in hundreds of dimensions are not to be had
from hundreds of items. k-means and the mixture are told how many classes there are, and nothing
else; HDBSCAN is not told even that. Items that HDBSCAN calls noise count as one more cluster:
leaving them out would reward a method for leaving out what is hard.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.cluster import HDBSCAN, KMeans
from sklearn.metrics import normalized_mutual_info_score
from sklearn.mixture import GaussianMixture

from model_metrology.embeddings.components import encoded, principal_components
from model_metrology.embeddings.grouping import permuted_labels

__all__ = [
    "METHODS",
    "adjusted_rand",
    "agreement",
    "cluster",
    "clustering_table",
    "joint_labels",
    "purity",
]

Array = NDArray[np.float64]
Codes = NDArray[np.int64]
Method = Literal["k-means", "Gaussian mixture", "HDBSCAN"]

METHODS: tuple[Method, ...] = ("k-means", "Gaussian mixture", "HDBSCAN")
"""Ways to find clusters."""

_COMPONENTS = 10  # for the mixture and HDBSCAN
_PER_PARAMETER = 5  # items a cluster and component that the mixture is to have
_SHUFFLES = 200  # random labels whose purity is chance


def cluster(
    embeddings: ArrayLike, method: Method, count: int | None = None, *, seed: int = 0
) -> Codes:
    """Find clusters.

    Parameters
    ----------
    embeddings : array_like, shape (n, d)
        Items.
    method : {"k-means", "Gaussian mixture", "HDBSCAN"}
        k-means: the best of ten starts. Gaussian mixture: full covariances on the 10 leading
        components, or as many as leave 5 items a cluster and component, at least 2; the first
        component is scaled to standard deviation 1, all others by the same number, and 10⁻³ is
        added to variances. HDBSCAN: on the 10 leading components; a cluster has at least 1/50 of
        the items, and at least 5.
    count : int
        Clusters to find; HDBSCAN finds its own number.
    seed : int
        Of random starts.

    Returns
    -------
    ndarray of int, shape (n,)
        Cluster of each item, from 0; −1 is noise (HDBSCAN).

    Raises
    ------
    ValueError
        If `count` is missing or exceeds the items, the method is unknown, or all items are alike.
    """
    points = np.asarray(embeddings)
    if method not in METHODS:
        raise ValueError(f"method: unknown {method!r}; choose from {', '.join(METHODS)}")
    if method == "HDBSCAN":
        scores = principal_components(points, _COMPONENTS, seed=seed).scores
        smallest = max(5, len(points) // 50)
        found = HDBSCAN(min_cluster_size=smallest, min_samples=5, copy=True).fit_predict(scores)
        return np.asarray(found, dtype=np.int64)
    if count is None or not 1 <= count <= len(points):
        raise ValueError(f"count must lie in 1…{len(points)}, the number of items, got {count}")
    if method == "k-means":
        found = KMeans(count, n_init=10, random_state=seed).fit_predict(points)
        return np.asarray(found, dtype=np.int64)
    room = max(2, len(points) // (_PER_PARAMETER * count))
    scores = principal_components(points, min(_COMPONENTS, room), seed=seed).scores
    mixture = GaussianMixture(count, reg_covar=1e-3, n_init=5, random_state=seed)
    found = mixture.fit_predict(scores / scores[:, 0].std())
    return np.asarray(found, dtype=np.int64)


def joint_labels(first: ArrayLike, second: ArrayLike) -> NDArray[np.str_]:
    """Two labels as one, "a × b"; "" where one of them is ""."""
    pairs = zip(np.asarray(first).astype(str), np.asarray(second).astype(str), strict=True)
    return np.array([f"{a} × {b}" if a and b else "" for a, b in pairs], dtype=np.str_)


def _counts(codes: Codes, clusters: Codes) -> Array:
    """Items of each class in each cluster, for each of b ways to assign classes: (b, C, K)."""
    member = (clusters[:, None] == np.arange(clusters.max() + 1)).astype(np.float64)
    classes = range(int(codes.max()) + 1)
    return np.stack([(codes == c).astype(np.float64) @ member for c in classes], axis=1)


def adjusted_rand(counts: ArrayLike) -> Array:
    """Adjusted Rand index of contingency tables (Hubert and Arabie, J. Classification 2 (1985)).

    Parameters
    ----------
    counts : array_like, shape (…, C, K)
        Items of each class in each cluster.

    Returns
    -------
    ndarray, shape (…)
        1 for equal partitions, 0 on average for independent ones.
    """
    table = np.asarray(counts, dtype=np.float64)
    both, classes, clusters, total = (
        _pairs(part).sum(axis=tuple(range(table.ndim - 2, part.ndim)))
        for part in (table, table.sum(-1), table.sum(-2), table.sum((-1, -2)))
    )
    expected = classes * clusters / total
    most = (classes + clusters) / 2
    same = most == expected  # one class and one cluster, or each item its own of both
    return np.where(same, 1.0, (both - expected) / np.where(same, 1.0, most - expected))


def _pairs(sizes: Array) -> Array:
    return np.asarray(sizes * (sizes - 1) / 2)


def purity(counts: ArrayLike) -> Array:
    """Share of items that belong to the commonest class of their cluster.

    Parameters
    ----------
    counts : array_like, shape (…, C, K)
        Items of each class in each cluster.

    Returns
    -------
    ndarray, shape (…)
        In [1/C, 1]; grows with the number of clusters whatever these are, hence the level that
        chance gives beside it in tables.
    """
    table = np.asarray(counts, dtype=np.float64)
    return np.asarray(table.max(axis=-2).sum(axis=-1) / table.sum(axis=(-1, -2)))


def agreement(
    clusters: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike,
    *,
    permutations: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """How well clusters agree with a label.

    Parameters
    ----------
    clusters, labels, groups : array_like, shape (n,)
        Clusters (integers; −1, noise, counts as one more), the label, and what belongs together.
    permutations : int
        Of the labels by :func:`permuted_labels`, for the p-value.
    seed : int
        Of the permutations.

    Returns
    -------
    dict
        ``classes``; ``clusters`` without noise; ``noise``, its share of the items; ``ari``;
        ``nmi``, over the arithmetic mean of the entropies; ``purity``; ``purity_chance``, of
        labels shuffled over all items; ``p_value`` of the ARI.

    Raises
    ------
    ValueError
        If shapes disagree, or see :func:`encoded`.

    Notes
    -----
    Labels that vary within groups are permuted there only. For a joint label whose one half is the
    same in all of a group, the p-value therefore asks what the other half adds.
    """
    given, (names, codes) = np.asarray(clusters), encoded(labels)
    if given.shape != codes.shape:
        raise ValueError(f"clusters and labels differ in length: {given.shape}, {codes.shape}")
    found = np.unique(given, return_inverse=True)[1]
    table = _counts(codes[None], found)[0]
    index = float(adjusted_rand(table))
    reached = sum(
        int((adjusted_rand(_counts(ways, found)) >= index - 1e-12).sum())
        for ways in permuted_labels(codes, groups, permutations, seed=seed)
    )
    everything = np.zeros(len(codes))
    shuffled = permuted_labels(codes, everything, _SHUFFLES, seed=seed)
    chance = np.concatenate([purity(_counts(ways, found)) for ways in shuffled])
    return {
        "classes": len(names),
        "clusters": len(np.unique(given[given >= 0])),
        "noise": float((given < 0).mean()),
        "ari": index,
        "nmi": float(normalized_mutual_info_score(codes, found)),
        "purity": float(purity(table)),
        "purity_chance": float(chance.mean()),
        "p_value": (1 + reached) / (1 + permutations),
    }


def clustering_table(
    embeddings: ArrayLike,
    labels: Mapping[str, ArrayLike],
    groups: ArrayLike,
    *,
    permutations: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Clusters by every method against every label.

    Parameters
    ----------
    embeddings : array_like, shape (n, d)
        Items.
    labels : mapping
        Labels by name, (n,) each; where some items have none (""), clusters are sought among the
        others.
    groups : array_like, shape (n,)
        What belongs together.
    permutations, seed : int
        See :func:`agreement`.

    Returns
    -------
    DataFrame
        One row a label and method: ``method``, ``label``, and what :func:`agreement` gives.

    Raises
    ------
    ValueError
        If a label has one class only; the message names it.
    """
    points, together = np.asarray(embeddings), np.asarray(groups)
    known: dict[tuple[Any, ...], Codes] = {}
    rows = []
    for name, values in labels.items():
        label = np.asarray(values).astype(str)
        has = label != ""
        count = len(np.unique(label[has]))
        for method in METHODS:
            asked = (method, None if method == "HDBSCAN" else count, has.tobytes())
            try:
                if asked not in known:
                    known[asked] = cluster(points[has], method, count, seed=seed)
                found = agreement(
                    known[asked], label[has], together[has], permutations=permutations, seed=seed
                )
            except ValueError as error:
                raise ValueError(f"label {name!r}: {error}") from error
            rows.append({"method": method, "label": name, **found})
    return pd.DataFrame(rows)
