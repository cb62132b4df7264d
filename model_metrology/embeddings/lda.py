"""Linear discriminant analysis with shrinkage, fast enough to be refitted a thousand times.

Within each class features are scaled to unit variance, their covariance is shrunk towards the
identity as Ledoit and Wolf say, and scaled back; the covariance that classes share is the mean of
theirs, by the classes' shares. It is what ``LinearDiscriminantAnalysis(solver="lsqr",
shrinkage="auto")`` of scikit-learn computes, to rounding. There a fit takes a singular value
decomposition of the covariance; here the covariance is diag(t) + AᵀA with a row of A for each
point, so that one Cholesky factor of the smaller side does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from scipy.special import logsumexp

__all__ = ["Lda", "fit_lda", "log_odds"]

Array = NDArray[np.float64]
Codes = NDArray[np.int64]

_ROUNDING = 1e-12
"""Variance within a class, as a share of the mean square, that is nothing but rounding."""


@dataclass(frozen=True, eq=False)
class Lda:
    """A linear function for each class; the largest names the class."""

    coefficients: Array
    """(d, K)"""
    intercepts: Array
    """(K,)"""

    def __call__(self, points: Array) -> Array:
        """Log posterior of each class, up to a constant for each point, (n, K)."""
        return np.asarray(points @ self.coefficients + self.intercepts)


def fit_lda(points: Array, labels: Codes, classes: int) -> Lda:
    """Fit linear discriminants with Ledoit–Wolf shrinkage.

    Parameters
    ----------
    points : ndarray, shape (n, d)
        Finite, and about the origin, if they are to be exact: means are not subtracted.
    labels : ndarray of int, shape (n,)
        0 … `classes` − 1, each at least once.
    classes : int
        K.

    Returns
    -------
    Lda
        With the classes' shares as prior probabilities.

    Notes
    -----
    A feature that is constant within a class keeps its scale there, as in scikit-learn. Where the
    shared covariance is singular, the solution of least norm is taken.

    References
    ----------
    O. Ledoit, M. Wolf, "A well-conditioned estimator for large-dimensional covariance matrices",
    Journal of Multivariate Analysis 88 (2004) 365–411.
    """
    n, d = points.shape
    negligible = _ROUNDING * _mean_squares(points)
    means, rows, diagonal = np.empty((classes, d)), np.empty((n, d)), np.zeros(d)
    counts = np.bincount(labels, minlength=classes)
    start = 0
    for c, count in enumerate(counts):
        members = points[labels == c]
        means[c] = members.mean(axis=0)
        members -= means[c]
        variance = _mean_squares(members)
        variance[variance <= negligible] = 1.0
        shrinkage, mean = _ledoit_wolf(members / np.sqrt(variance))
        diagonal += count / n * shrinkage * mean * variance
        np.multiply(members, np.sqrt((1.0 - shrinkage) / n), out=rows[start : start + count])
        start += count
    coefficients = _solve(diagonal, rows, means.T)
    offsets = 0.5 * np.einsum("kd,dk->k", means, coefficients)
    return Lda(coefficients, np.log(counts / n) - offsets)


def log_odds(log_posteriors: Array) -> Array:
    """Log-odds log p_k / (1 − p_k) of each class, (n, K), from log posteriors up to a constant."""
    if log_posteriors.shape[1] == 2:
        gap = log_posteriors[:, 1] - log_posteriors[:, 0]
        return np.column_stack((-gap, gap))
    others = [
        logsumexp(np.delete(log_posteriors, k, axis=1), axis=1)
        for k in range(log_posteriors.shape[1])
    ]
    return np.asarray(log_posteriors - np.column_stack(others))


def _mean_squares(points: Array) -> Array:
    return np.asarray(np.einsum("ij,ij->j", points, points) / len(points))


def _ledoit_wolf(points: Array) -> tuple[float, float]:
    """Shrinkage λ, and the mean μ of the diagonal, of centred points' covariance C."""
    n, d = points.shape
    gram = points @ points.T if n < d else points.T @ points
    squared = float(np.vdot(gram, gram)) / n**2  # ‖C‖²
    norms = np.einsum("ij,ij->i", points, points)
    mean = float(norms.sum()) / (n * d)
    distance = squared / d - mean**2
    error = min((float(norms @ norms) / n - squared) / (n * d), distance)
    return (error / distance if error > 0 else 0.0), mean


def _solve(diagonal: Array, rows: Array, targets: Array) -> Array:
    """Solve (diag(t) + AᵀA) X = B, where A's rows are given."""
    n, d = rows.shape
    try:
        if n >= d or not diagonal.all():
            factor = _cholesky(rows.T @ rows, diagonal)
            return np.asarray(linalg.cho_solve(factor, targets, check_finite=False))
        # Woodbury's identity: a system of the size of the points, not of the features.
        scaled = rows / diagonal
        factor = _cholesky(scaled @ rows.T, np.ones(n))
        inner = linalg.cho_solve(factor, scaled @ targets, check_finite=False)
        return np.asarray(targets / diagonal[:, None] - scaled.T @ inner)
    except linalg.LinAlgError:
        covariance = rows.T @ rows + np.diag(diagonal)
        return np.asarray(linalg.lstsq(covariance, targets, check_finite=False)[0])


def _cholesky(matrix: Array, diagonal: Array) -> tuple[Array, bool]:
    """Factor of the matrix, which is overwritten, with this added to its diagonal."""
    np.einsum("ii->i", matrix)[:] += diagonal
    return linalg.cho_factor(matrix.T, lower=False, overwrite_a=True, check_finite=False)
