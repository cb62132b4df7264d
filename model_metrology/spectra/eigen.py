"""Eigenvalues of weights and kernels: all of them, the leading ones, or their density."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg
from scipy.sparse.linalg import LinearOperator, aslinearoperator, eigsh

from model_metrology.spectra.activations import Activation
from model_metrology.spectra.kernels import conjugate_kernel_matrix, ntk_matrix

Array = NDArray[np.float64]

# An eigenvalue counts as zero up to this many times n·ε·λ_max: LAPACK's error is a small multiple
# of ε·λ_max, the products that made the kernel add more.
_ROUNDING = 10.0
# More negative than this share of the largest is no rounding, also of a kernel made in float32.
_NEGATIVE = 1e-4


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues of a positive semidefinite matrix.

    Attributes
    ----------
    eigenvalues : ndarray, shape (n,)
        Ascending; those that are zero to rounding are 0.
    vectors : ndarray, shape (n, k)
        Unit eigenvectors of the k largest, the largest first.
    rank : int
        Number of eigenvalues that are not zero.
    """

    eigenvalues: Array
    vectors: Array
    rank: int


def kernel_spectrum(kernel: ArrayLike, *, vectors: int = 0, overwrite: bool = False) -> Spectrum:
    """All eigenvalues of a symmetric positive semidefinite matrix, and leading eigenvectors.

    Parameters
    ----------
    kernel
        (n, n), symmetric; the lower triangle is read.
    vectors
        How many leading eigenvectors, n at most. They are found by a second reduction, which
        costs about as much as the eigenvalues.
    overwrite
        Work in the memory of `kernel`, which is destroyed: no second n × n array.

    Returns
    -------
    Spectrum

    Raises
    ------
    ValueError
        If the matrix is not square, not symmetric, not finite, or has an eigenvalue more negative
        than rounding can make one; or if `vectors` is negative.
    """
    matrix = _checked(kernel)
    k = min(vectors, len(matrix))
    if vectors < 0:
        raise ValueError(f"vectors must be at least 0, got {vectors}")
    leading = np.empty((len(matrix), 0))
    if k:
        subset = (len(matrix) - k, len(matrix) - 1)
        leading = linalg.eigh(matrix, subset_by_index=subset, check_finite=False)[1][:, ::-1]
    # Transposed, a C-ordered matrix is in the order that LAPACK works in, without a copy.
    values = linalg.eigvalsh(
        matrix.T, lower=False, driver="evr", overwrite_a=overwrite, check_finite=False
    )
    return _spectrum(values, leading)


def weight_spectrum(weights: ArrayLike, *, vectors: int = 0) -> Spectrum:
    """Eigenvalues of (1/h) WᵀW, and leading eigenvectors (right singular vectors of W).

    Parameters
    ----------
    weights
        W, (h, d).
    vectors
        How many leading eigenvectors.

    Returns
    -------
    Spectrum
        Of d eigenvalues; with h < d, at least d − h of them are 0 by shape. Of these, no
        eigenvectors are given: at most min(h, d).

    Raises
    ------
    ValueError
        If W is not a matrix, or not finite.
    """
    w = np.asarray(weights, dtype=np.float64)
    if w.ndim != 2 or not w.size:
        raise ValueError(f"weights must be (h, d) and not empty, got shape {w.shape}")
    h, d = w.shape
    # The smaller Gram matrix has the same eigenvalues, save for zeros.
    gram = (w.T @ w if h >= d else w @ w.T) / h
    small = kernel_spectrum(gram, vectors=vectors, overwrite=True)
    if h >= d:
        return small
    lifted = w.T @ small.vectors
    # A vector of eigenvalue 0 is lifted to rounding; it has no direction.
    norms = np.linalg.norm(lifted, axis=0)
    lifted /= np.where(norms > 0, norms, 1.0)
    return Spectrum(np.concatenate([np.zeros(d - h), small.eigenvalues]), lifted, small.rank)


def ck_spectrum(
    weights: ArrayLike, inputs: ArrayLike, activation: Activation | str, *, vectors: int = 0
) -> Spectrum:
    """Spectrum of the conjugate kernel of a two-layer network.

    Parameters and normalisation as of
    :func:`~model_metrology.spectra.kernels.conjugate_kernel_matrix`; `vectors` as of
    :func:`kernel_spectrum`.
    """
    kernel = conjugate_kernel_matrix(weights, inputs, activation)
    return kernel_spectrum(kernel, vectors=vectors, overwrite=True)


def ntk_spectrum(
    weights: ArrayLike,
    readout: ArrayLike,
    inputs: ArrayLike,
    activation: Activation | str,
    *,
    vectors: int = 0,
) -> Spectrum:
    """Spectrum of the neural tangent kernel of a two-layer network, of W and v.

    Parameters and normalisation as of :func:`~model_metrology.spectra.kernels.ntk_matrix`;
    `vectors` as of :func:`kernel_spectrum`.
    """
    kernel = ntk_matrix(weights, readout, inputs, activation)
    return kernel_spectrum(kernel, vectors=vectors, overwrite=True)


def leading_eigenpairs(
    operator: ArrayLike | LinearOperator, k: int, *, seed: int = 0
) -> tuple[Array, Array]:
    """The k largest eigenvalues and their eigenvectors, by Lanczos iteration (ARPACK).

    Parameters
    ----------
    operator
        Symmetric (n, n): an array, or an operator such as
        :func:`~model_metrology.spectra.kernels.ntk_operator` that is never formed.
    k
        How many, below n.
    seed
        Of the starting vector: the same seed gives the same digits.

    Returns
    -------
    eigenvalues : ndarray, shape (k,)
        Descending.
    vectors : ndarray, shape (n, k)

    Raises
    ------
    ValueError
        If k is not in 1 … n − 1.
    """
    linear = aslinearoperator(operator)
    n = linear.shape[0]
    if not 1 <= k < n:
        raise ValueError(f"k must be in 1 … {n - 1} for a matrix of side {n}, got {k}")
    start = np.random.default_rng(seed).standard_normal(n)
    values, vectors = eigsh(linear, k=k, which="LA", v0=start)
    order = np.argsort(values)[::-1]
    return values[order], vectors[:, order]


@dataclass(frozen=True, eq=False)
class LanczosDensity:
    """A spectral density as a sum of point masses.

    Attributes
    ----------
    nodes, weights : ndarray, shape (m,)
        Where the masses are, ascending, and how large; the masses sum to 1.
    """

    nodes: Array
    weights: Array

    def cdf(self, x: ArrayLike) -> Array:
        """Share of the eigenvalues at or below x; each mass counts half at its own node."""
        before = np.concatenate([[0.0], np.cumsum(self.weights)])
        middle = before[:-1] + self.weights / 2.0
        # Between nodes linear: a mass stands for the eigenvalues around its node.
        return np.interp(np.asarray(x, dtype=np.float64), self.nodes, middle, left=0.0, right=1.0)

    def density(self, x: ArrayLike, width: float) -> Array:
        """Density, smoothed by a Gaussian of standard deviation `width`."""
        z = (np.asarray(x, dtype=np.float64)[..., None] - self.nodes) / width
        return np.exp(-(z**2) / 2.0) @ self.weights / (width * np.sqrt(2.0 * np.pi))

    def moment(self, order: int) -> float:
        """Estimate of the mean of the eigenvalues to a power; unbiased up to 2 · steps − 1."""
        return float(self.weights @ self.nodes**order)


def lanczos_density(
    operator: ArrayLike | LinearOperator, *, probes: int = 10, steps: int = 80, seed: int = 0
) -> LanczosDensity:
    """Spectral density by stochastic Lanczos quadrature.

    Parameters
    ----------
    operator
        Symmetric (n, n), an array or an operator.
    probes
        Random starting vectors; the error of a moment falls as 1/√(probes · n).
    steps
        Lanczos steps a probe, n at most: the resolution.
    seed
        Of the probes.

    Returns
    -------
    LanczosDensity

    Raises
    ------
    ValueError
        If `probes` or `steps` is not positive.

    Notes
    -----
    Each probe z, uniform on the sphere, gives a tridiagonal T whose eigenvalues are nodes and
    whose eigenvectors' squared first components are weights of Gauss quadrature for zᵀ f(K) z
    (Ubaru, Chen & Saad 2017, SIAM J. Matrix Anal. Appl. 38). With full re-orthogonalisation: the
    loss of orthogonality would show as copies of outliers.
    """
    if probes < 1 or steps < 1:
        raise ValueError(f"probes and steps must be at least 1, got {probes} and {steps}")
    linear = aslinearoperator(operator)
    rng = np.random.default_rng(seed)
    found = [_lanczos(linear, rng.standard_normal(linear.shape[0]), steps) for _ in range(probes)]
    nodes, weights = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.argsort(nodes)
    return LanczosDensity(nodes[order], weights[order] / probes)


def _lanczos(linear: LinearOperator, start: Array, steps: int) -> tuple[Array, Array]:
    """Nodes and weights of one probe."""
    n = len(start)
    basis = np.empty((min(steps, n), n))
    diagonal, beside = [], []
    q = start / np.linalg.norm(start)
    scale = 0.0
    for i in range(len(basis)):
        basis[i] = q
        r = linear.matvec(q)
        diagonal.append(float(q @ r))
        scale = max(scale, float(np.linalg.norm(r)))
        for _ in range(2):  # twice is enough (Kahan)
            r = r - basis[: i + 1].T @ (basis[: i + 1] @ r)
        norm = float(np.linalg.norm(r))
        # An invariant subspace: the quadrature is exact already.
        if norm <= 1e-12 * scale:
            break
        beside.append(norm)
        q = r / norm
    nodes, vectors = linalg.eigh_tridiagonal(diagonal, beside[: len(diagonal) - 1])
    return nodes, np.square(vectors[0])


def _checked(kernel: ArrayLike) -> Array:
    matrix = np.asarray(kernel, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ValueError(f"kernel must be (n, n) and not empty, got shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise ValueError("kernel must be finite; a run diverged, or a feature overflowed")
    # A few rows are enough to find a matrix that is no kernel, and cost nothing.
    rows = np.linspace(0, len(matrix) - 1, min(len(matrix), 8)).astype(int)
    scale = np.abs(matrix[rows]).max()
    if not np.allclose(matrix[rows], matrix[:, rows].T, rtol=0.0, atol=1e-6 * scale):
        raise ValueError("kernel must be symmetric; pass a kernel of one set of points with itself")
    return np.ascontiguousarray(matrix)


def _spectrum(values: Array, vectors: Array) -> Spectrum:
    largest = float(np.abs(values).max())
    if values[0] < -_NEGATIVE * largest:
        raise ValueError(
            f"kernel must be positive semidefinite, its smallest eigenvalue is {values[0]:.3g} and "
            f"its largest {values[-1]:.3g}; a kernel that was centred, or a sum of differences?"
        )
    tolerance = _ROUNDING * len(values) * np.finfo(np.float64).eps * largest
    cleaned = np.where(values > max(tolerance, -float(values[0])), values, 0.0)
    return Spectrum(cleaned, vectors, int(np.count_nonzero(cleaned)))
