"""Eigenvalues of weights and kernels: all of them, the leading ones, or their density.

All eigenvalues cost one reduction to tridiagonal form, (4/3) n³ operations in the memory of the
matrix itself. Leading eigenvectors, where they are asked for, are carried back through that same
reduction and add a few per cent. For a few pairs, or a density, of a kernel too large for that,
:func:`leading_eigenpairs` and :func:`lanczos_density` need products with vectors alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import linalg
from scipy.linalg import lapack
from scipy.sparse.linalg import LinearOperator, aslinearoperator, eigsh

from model_metrology.spectra.activations import Activation
from model_metrology.spectra.kernels import conjugate_kernel_matrix, ntk_matrix

Array = NDArray[np.float64]

# An eigenvalue counts as zero up to n·ε·λ_max, numpy's bar for a rank, and as negative beyond so
# many times that: LAPACK's error is a small multiple of ε·λ_max, the products that made the
# kernel add more.
_NEGATIVE = 10.0
# A kernel that is given in float32 was rounded before: its zeros come out as far off as this share
# of the largest eigenvalue.
_NEGATIVE_FLOAT32 = 1e-4
# From this size on MKL's reduction to a band, then to three diagonals, is the faster one, by two
# fifths at n = 4000; below, its second pass costs more than it saves (benchmarks/spectra.py).
_LARGE = 2500
# A Lanczos node is one eigenvalue where its residual is at most this share of the distance to the
# next node.
_SHARP = 0.3
# Householder vectors that are applied together.
_PANEL = 128


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues of a positive semidefinite matrix.

    Attributes
    ----------
    eigenvalues : ndarray, shape (n,)
        Ascending; those that are zero to rounding are 0.
    vectors : ndarray, shape (n, k)
        Unit eigenvectors of the k largest, the largest first; their signs are arbitrary.
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
        (n, n), symmetric; one of its triangles is read.
    vectors
        How many leading eigenvectors; n where there are fewer.
    overwrite
        Work in the memory of `kernel`, if it is float64 and contiguous: its content is lost, and a
        second n × n array is spared.

    Returns
    -------
    Spectrum
        Zero are eigenvalues up to n·ε times the largest, and those no larger than the most
        negative one: that much is rounding.

    Raises
    ------
    ValueError
        If the matrix is not square, not symmetric, not finite, or has an eigenvalue more negative
        than rounding can make one, 10 n·ε times the largest (1e-4 times, if given in float32); or
        if `vectors` is negative.
    """
    matrix, share = _checked(kernel)
    if vectors < 0:
        raise ValueError(f"vectors must be at least 0, got {vectors}")
    values, leading = _eigen(matrix, min(vectors, len(matrix)), overwrite)
    return _spectrum(values, leading, share)


def weight_spectrum(weights: ArrayLike, *, vectors: int = 0) -> Spectrum:
    """Eigenvalues of (1/h) WᵀW, and leading eigenvectors (right singular vectors of W).

    Parameters
    ----------
    weights
        W, (h, d).
    vectors
        How many leading eigenvectors; d where there are fewer.

    Returns
    -------
    Spectrum
        Of d eigenvalues; with h < d, at least d − h of them are 0 by shape.

    Raises
    ------
    ValueError
        If W is not a matrix, or not finite.
    """
    w = np.asarray(weights, dtype=np.float64)
    if w.ndim != 2 or not w.size:
        raise ValueError(f"weights must be (h, d) and not empty, got shape {w.shape}")
    if not np.isfinite(w).all():
        raise ValueError("weights must be finite; leave out runs that diverged")
    h, d = w.shape
    # The smaller Gram matrix has the same eigenvalues, save for zeros.
    gram = (w.T @ w if h >= d else w @ w.T) / h
    small = kernel_spectrum(gram, vectors=vectors, overwrite=True)
    if h >= d:
        return small
    known = w.T @ small.vectors[:, : small.rank]
    known /= np.linalg.norm(known, axis=0)
    values = np.concatenate([np.zeros(d - h), small.eigenvalues])
    return Spectrum(values, _completed(known, min(vectors, d)), small.rank)


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
        :func:`~model_metrology.spectra.kernels.ntk_operator` that is never formed, unless n is
        no larger than the space that ARPACK would work in, max(2k + 1, 20).
    k
        How many, n at most.
    seed
        Of the starting vector, and of those ARPACK draws where it comes to an end early: the same
        seed gives the same digits.

    Returns
    -------
    eigenvalues : ndarray, shape (k,)
        Descending.
    vectors : ndarray, shape (n, k)

    Raises
    ------
    ValueError
        If k is not in 1 … n, or the matrix is not square, symmetric (an array) and finite.
    """
    linear = _linear(operator)
    n = linear.shape[0]
    if not 1 <= k <= n:
        raise ValueError(f"k must be in 1 … {n} for a matrix of side {n}, got {k}")
    if n <= max(2 * k + 1, 20):
        values, vectors = linalg.eigh(_finite(linear.matmat(np.eye(n))))
        return values[::-1][:k], vectors[:, ::-1][:, :k]
    rng = np.random.default_rng(seed)
    start = rng.standard_normal(n)
    if not _finite(linear.matvec(start)).any():
        # Only the matrix 0 takes a random vector to 0; ARPACK stops at it.
        return np.zeros(k), _completed(np.empty((n, 0)), k)
    values, vectors = eigsh(linear, k=k, which="LA", v0=start, rng=rng)
    order = np.argsort(values)[::-1]
    return values[order], vectors[:, order]


@dataclass(frozen=True, eq=False)
class LanczosDensity:
    """A spectral density as a sum of point masses, of several probes.

    Attributes
    ----------
    nodes, weights : ndarray, shape (m,)
        Where the masses are, and how large; the masses sum to 1.
    errors : ndarray, shape (m,)
        How far a node may be off where it is one eigenvalue: an outlier, or one of many
        eigenvectors, such as 0 of a kernel without full rank. Infinite for nodes that stand for
        the eigenvalues around them.
    probe : ndarray of int, shape (m,)
        The probe that a mass is of; ascending, and nodes ascend within a probe.
    """

    nodes: Array
    weights: Array
    errors: Array
    probe: NDArray[np.int64]

    def cdf(self, x: ArrayLike) -> Array:
        """Share of the eigenvalues at or below x.

        Masses of eigenvalues are jumps. Between the other nodes of a probe it runs linearly, each
        mass half at its node.
        """
        x = np.asarray(x, dtype=np.float64)
        sharp = np.isfinite(self.errors)
        # The jump at an eigenvalue is to be seen at this eigenvalue, though its node be above it.
        jumps = (self.nodes - self.errors)[sharp]
        order = np.argsort(jumps)
        sums = np.concatenate([[0.0], np.cumsum(self.weights[sharp][order])])
        result: Array = sums[np.searchsorted(jumps[order], x, side="right")]
        for probe in np.unique(self.probe[~sharp]):
            mine = (self.probe == probe) & ~sharp
            after = np.cumsum(self.weights[mine])
            middle = after - self.weights[mine] / 2.0
            result = result + np.interp(x, self.nodes[mine], middle, left=0.0, right=after[-1])
        return result

    def density(self, x: ArrayLike, width: float) -> Array:
        """Density, smoothed by a Gaussian of standard deviation `width` > 0."""
        if not width > 0:
            raise ValueError(f"width must be positive, got {width}")
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
        Lanczos steps a probe, n at most: the resolution. Zeros of a kernel without full rank are
        told from a bulk that ends near 0 only if the steps resolve the distance. Memory: 10 probes
        at a time, steps · n numbers each.
    seed
        Of the probes.

    Returns
    -------
    LanczosDensity

    Raises
    ------
    ValueError
        If `probes` or `steps` is not positive, or the matrix is not square, symmetric (an array)
        and finite.

    Notes
    -----
    Each probe z, uniform on the sphere, gives a tridiagonal T whose eigenvalues are nodes and
    whose eigenvectors' squared first components are weights of Gauss quadrature for zᵀ f(K) z
    (Ubaru, Chen & Saad 2017, SIAM J. Matrix Anal. Appl. 38; of networks: Ghorbani, Krishnan &
    Xiao 2019). With full re-orthogonalisation: the loss of orthogonality would show as copies of
    outliers. Probes go in step, ten at a time: one product with many vectors takes little longer
    than with one.
    """
    if probes < 1 or steps < 1:
        raise ValueError(f"probes and steps must be at least 1, got {probes} and {steps}")
    linear = _linear(operator)
    rng = np.random.default_rng(seed)
    found = []
    for first in range(0, probes, 10):
        start = rng.standard_normal((min(10, probes - first), linear.shape[0]))
        found += _lanczos(linear, start, steps)
    sizes = [len(nodes) for nodes, _, _ in found]
    nodes, weights, errors = (np.concatenate(part) for part in zip(*found, strict=True))
    return LanczosDensity(nodes, weights / probes, errors, np.repeat(np.arange(probes), sizes))


def _lanczos(linear: LinearOperator, start: Array, steps: int) -> list[tuple[Array, Array, Array]]:
    """Nodes, weights and errors of each probe, a row of `start`."""
    p, n = start.shape
    m = min(steps, n)
    basis = np.zeros((p, m, n))
    diagonal, beside, scale = np.zeros((p, m)), np.zeros((p, m)), np.zeros(p)
    length = np.full(p, m)
    q = start / np.linalg.norm(start, axis=1, keepdims=True)
    for i in range(m):
        basis[:, i] = q
        r = _finite(linear.matmat(q.T)).T
        diagonal[:, i] = np.einsum("pn,pn->p", q, r)
        scale = np.maximum(scale, np.linalg.norm(r, axis=1))
        seen = basis[:, : i + 1]
        for _ in range(2):  # twice is enough (Kahan)
            r = r - ((seen @ r[:, :, None]).mT @ seen)[:, 0]
        norm = np.linalg.norm(r, axis=1)
        # An invariant subspace: the quadrature is exact already. The probe goes on as 0.
        ended = norm <= 1e-12 * scale
        length = np.where(ended, np.minimum(length, i + 1), length)
        beside[:, i] = np.where(ended, 0.0, norm)
        if ended.all():
            break
        q = np.where(ended[:, None], 0.0, r) / np.where(ended, 1.0, norm)[:, None]
    return [
        _quadrature(*parts) for parts in zip(diagonal, beside, length.tolist(), scale, strict=True)
    ]


def _quadrature(
    diagonal: Array, beside: Array, length: int, scale: np.float64
) -> tuple[Array, Array, Array]:
    nodes, vectors = linalg.eigh_tridiagonal(diagonal[:length], beside[: length - 1])
    # ‖K y − θ y‖ of a Ritz pair (θ, y). An eigenvalue is within it, and, if no other is as near as
    # the next node is, within its square over that distance (Kato and Temple).
    residuals = beside[length - 1] * np.abs(vectors[-1])
    apart = np.concatenate([[np.inf], np.diff(nodes), [np.inf]])
    apart = np.minimum(apart[:-1], apart[1:])
    # Nodes of a continuous part have residuals far beyond their distances.
    sharp = (residuals == 0.0) | (residuals <= _SHARP * apart) & (length > 1)
    errors = np.square(residuals) / np.where(apart > 0.0, apart, 1.0) + 1e-10 * scale
    return nodes, np.square(vectors[0]), np.where(sharp, errors, np.inf)


def _linear(operator: ArrayLike | LinearOperator) -> LinearOperator:
    if not isinstance(operator, LinearOperator):
        return aslinearoperator(_checked(operator)[0])
    if operator.shape[0] != operator.shape[1]:
        raise ValueError(f"operator must be (n, n), got shape {operator.shape}")
    return operator


def _finite(product: Array) -> Array:
    if not np.isfinite(product).all():
        raise ValueError("operator gave values that are not finite")
    return product


def _checked(kernel: ArrayLike) -> tuple[Array, float]:
    """The matrix in float64, and how negative an eigenvalue may come out by rounding (share)."""
    given = np.asarray(kernel)
    matrix = np.asarray(given, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ValueError(f"kernel must be (n, n) and not empty, got shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise ValueError("kernel must be finite; a run diverged, or a feature overflowed")
    # A few rows are enough to find a matrix that is no kernel, and cost nothing.
    rows = np.linspace(0, len(matrix) - 1, min(len(matrix), 8)).astype(int)
    scale = np.abs(matrix[rows]).max()
    if not np.allclose(matrix[rows], matrix[:, rows].T, rtol=0.0, atol=1e-6 * scale):
        raise ValueError("kernel must be symmetric; pass a kernel of one set of points with itself")
    if matrix.flags.f_contiguous:
        matrix = matrix.T
    share = _NEGATIVE * len(matrix) * float(np.finfo(np.float64).eps)
    if given.dtype.kind == "f" and given.dtype.itemsize < 8:
        share = max(share, _NEGATIVE_FLOAT32)
    return np.ascontiguousarray(matrix), share


def _eigen(matrix: Array, k: int, overwrite: bool) -> tuple[Array, Array]:
    """All eigenvalues, ascending, and k leading eigenvectors, the largest first."""
    n = len(matrix)
    if n == 1:
        return matrix[0].copy(), np.ones((1, k))
    if not k and n >= _LARGE:
        return torch.linalg.eigvalsh(torch.from_numpy(matrix)).numpy(), np.empty((n, 0))
    # Transposed, a C-ordered matrix is in the order that LAPACK works in, without a copy.
    if k > n // 4:
        values, vectors = linalg.eigh(
            matrix.T, driver="evd", overwrite_a=overwrite, check_finite=False
        )
        return values, vectors[:, ::-1][:, :k]
    work = int(lapack.dsytrd_lwork(n, lower=1)[0])
    reflectors, diagonal, beside, tau, _ = lapack.dsytrd(
        matrix.T, lower=1, lwork=work, overwrite_a=overwrite
    )
    values, failed = lapack.dsterf(diagonal, beside)
    if failed:
        raise np.linalg.LinAlgError("dsterf: the eigenvalues did not converge")
    if not k:
        return values, np.empty((n, 0))
    _, vectors = linalg.eigh_tridiagonal(
        diagonal, beside, select="i", select_range=(n - k, n - 1), lapack_driver="stebz"
    )
    return values, _carried_back(reflectors, tau, vectors[:, ::-1])


def _carried_back(reflectors: Array, tau: Array, vectors: Array) -> Array:
    """Eigenvectors of the matrix from those of its tridiagonal form: H₁ H₂ … H_{n−1} v."""
    result = np.asfortranarray(vectors)
    n = len(result)
    # By panels: LAPACK's own routine for the whole is not in scipy, and the one for QR would copy
    # a whole kernel to shift it by a row.
    for start in reversed(range(0, n - 1, _PANEL)):
        stop = min(start + _PANEL, n - 1)
        panel, rows = reflectors[start + 1 :, start:stop], result[start + 1 :]
        # Ample for blocks of 64, LAPACK's largest.
        work = 64 * (rows.shape[1] + 65)
        rows[:], _, _ = lapack.dormqr("L", "N", panel, tau[start:stop], rows, work)
    return np.ascontiguousarray(result)


def _completed(known: Array, k: int) -> Array:
    """The first k of an orthonormal basis that begins with the columns of `known`."""
    n, r = known.shape
    if k <= r:
        return known[:, :k]
    rest = np.random.default_rng(0).standard_normal((n, k - r))
    basis = np.linalg.qr(np.concatenate([known, rest], axis=1))[0]
    return np.concatenate([known, basis[:, r:]], axis=1)


def _spectrum(values: Array, vectors: Array, share: float) -> Spectrum:
    largest = float(np.abs(values).max())
    if values[0] < -share * largest:
        raise ValueError(
            f"kernel must be positive semidefinite, its smallest eigenvalue is {values[0]:.3g} and "
            f"its largest {values[-1]:.3g}; a kernel that was centred, or a sum of differences? "
            "One that was made in float32 is to be passed in float32"
        )
    tolerance = len(values) * np.finfo(np.float64).eps * largest
    cleaned = np.where(values > max(tolerance, -float(values[0])), values, 0.0)
    return Spectrum(cleaned, vectors, int(np.count_nonzero(cleaned)))
