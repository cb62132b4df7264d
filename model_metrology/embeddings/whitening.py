"""Linear discriminant analysis with a shrunk covariance, in the space where it is a distance.

The covariance within classes is shrunk as Ledoit and Wolf say (J. Multivariate Analysis 88 (2004)
365–411), after each feature is scaled by its own standard deviation within classes: hidden layers
have features a hundred times as large as the rest, and a common target would be theirs alone. In
whitened coordinates the classes are round, and everything is Euclidean there: a class's score is
minus half the squared distance to its mean, discriminant axes are the principal axes of the
means, and an item far from all means is of none of the classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cholesky, orthogonal_procrustes, solve_triangular
from sklearn.covariance import ledoit_wolf

from model_metrology.embeddings.grouping import group_folds

__all__ = ["Discriminant", "fit_discriminant", "held_out_axes"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Discriminant:
    """Classes with one covariance; see :func:`fit_discriminant`."""

    classes: NDArray[np.str_]
    """(C,) names, sorted."""
    means: Array
    """(C, d) in whitened coordinates."""
    shrinkage: float
    """Weight of the diagonal in the covariance, in [0, 1]."""
    scale: Array
    """(d,) standard deviation of each feature within classes."""
    factor: Array
    """(d, d) lower Cholesky factor of the shrunk correlation within classes."""

    def whitened(self, embeddings: ArrayLike) -> Array:
        """Coordinates in which the covariance within classes is the identity, (n, d)."""
        return _whitened(np.asarray(embeddings, dtype=np.float64), self.scale, self.factor)

    def distances(self, embeddings: ArrayLike) -> Array:
        """Squared Mahalanobis distance of n items to each class's mean, (n, C)."""
        points = self.whitened(embeddings)
        # One class at a time: the expanded square would cancel far from the origin.
        return np.column_stack([((points - mean) ** 2).sum(axis=1) for mean in self.means])

    def axes(self) -> tuple[Array, Array]:
        """Discriminant axes, the most telling first.

        Returns
        -------
        axes : ndarray, shape (C − 1, d)
            Orthonormal, in whitened coordinates.
        coordinates : ndarray, shape (C, C − 1)
            The means on them, about the mean of means.
        """
        centred = self.means - self.means.mean(axis=0)
        left, values, axes = np.linalg.svd(centred, full_matrices=False)
        kept = min(len(self.means) - 1, len(values))
        return axes[:kept], left[:, :kept] * values[:kept]


def fit_discriminant(embeddings: ArrayLike, classes: ArrayLike) -> Discriminant:
    """Fit class means and the shrunk covariance that the classes share.

    Parameters
    ----------
    embeddings : array_like, shape (n, d)
        Items.
    classes : array_like, shape (n,)
        Class of each.

    Raises
    ------
    ValueError
        If shapes disagree, a value is not finite, or items do not vary within classes.
    """
    points = np.asarray(embeddings, dtype=np.float64)
    names, codes = np.unique(np.asarray(classes).astype(str), return_inverse=True)
    if points.ndim != 2 or len(points) != len(codes):
        raise ValueError(
            f"embeddings must have shape ({len(codes)}, d), one row a label, got {points.shape}"
        )
    if not np.isfinite(points).all():
        raise ValueError("embeddings hold values that are not finite; embed these items again")
    means = np.stack([points[codes == c].mean(axis=0) for c in range(len(names))])
    residuals = points - means[codes]
    scale = np.sqrt((residuals**2).mean(axis=0))
    varies = scale > 1e-9 * np.abs(points).max(axis=0)
    if not varies.any():
        raise ValueError(
            "items of a class are all embedded alike: no variation within classes to compare with; "
            "take more items, or another view"
        )
    # What does not vary within classes gets the least spread that is known of anything else.
    scale = np.where(varies, scale, scale[varies].min())
    correlation, shrinkage = ledoit_wolf(
        np.where(varies, residuals / scale, 0.0), assume_centered=True
    )
    # Rounding may leave a copied feature's correlation a hair below positive definite.
    correlation[np.diag_indices_from(correlation)] += 1e-9
    factor = cholesky(correlation, lower=True)
    return Discriminant(
        names.astype(np.str_), _whitened(means, scale, factor), float(shrinkage), scale, factor
    )


def _whitened(points: Array, scale: Array, factor: Array) -> Array:
    return solve_triangular(factor, (points / scale).T, lower=True).T


def held_out_axes(
    embeddings: ArrayLike, classes: ArrayLike, groups: ArrayLike, *, folds: int = 5, seed: int = 0
) -> Array:
    """Project every item on discriminant axes that were fitted without its fold.

    Each fold has axes of its own. To be drawn together they are turned into each other: the whole
    space of the class means, all C − 1 axes, is rotated so that the means of the fold's training
    items come to lie on those of the first fold's (orthogonal Procrustes, which with two classes
    is a sign). An item's class has no say in where it is put.

    Parameters
    ----------
    embeddings, classes, groups : array_like, shapes (n, d), (n,), (n,)
        Items, their classes, and what belongs together.
    folds, seed : int
        See :func:`~model_metrology.embeddings.grouping.group_folds`.

    Returns
    -------
    ndarray, shape (n, C − 1)
        In units of the standard deviation within classes, about the mean of class means; the last
        class in order of names is on the positive side of every axis.

    Raises
    ------
    ValueError
        If there is one class only, or groups are too few.
    """
    points = np.asarray(embeddings, dtype=np.float64)
    labels = np.asarray(classes).astype(str)
    count = len(np.unique(labels))
    if count < 2:
        raise ValueError("discriminant axes need at least two classes")
    fold = group_folds(groups, labels, folds, seed=seed)
    result = np.empty((len(points), min(count - 1, points.shape[1])))
    reference: Array | None = None
    for held in range(folds):
        test = fold == held
        model = fit_discriminant(points[~test], labels[~test])
        axes, coordinates = model.axes()
        if reference is None:
            reference = coordinates * np.where(coordinates[-1] < 0, -1.0, 1.0)
        rotation, _ = orthogonal_procrustes(coordinates, reference)
        centred = model.whitened(points[test]) - model.means.mean(axis=0)
        result[test] = centred @ axes.T @ rotation
    return result
