"""Kernels of two-layer networks in closed form, as matrices and as operators.

The network is f(x) = vᵀ φ(W x/√d)/√h with W ∈ R^{h×d}, and its points are the rows of X ∈ R^{n×d}.
With U = X Wᵀ/√d, both normalisations are those of f itself (Wang et al. 2023, arXiv:2211.06506):

* conjugate kernel: (1/h) φ(U) φ(U)ᵀ, the Gram matrix of the gradients with respect to v;
* neural tangent kernel: (1/d) X Xᵀ ∘ (1/h) φ'(U) diag(v)² φ'(U)ᵀ + (1/h) φ(U) φ(U)ᵀ, the Gram
  matrix of the gradients with respect to W and v.

All is computed in float64. A matrix is filled tile by tile, so that beside the kernel itself
there is one array of hidden units at a time; an operator never forms the kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from model_metrology.spectra.activations import Activation
from model_metrology.spectra.activations import activation as activation_by_name

Array = NDArray[np.float64]

# Products of tiles this large run at the full speed of BLAS, and one is 2 MB.
_TILE = 512
# Activations and slopes need several temporaries of their size: few rows at a time.
_ROWS = 128


def conjugate_kernel_matrix(
    weights: ArrayLike, inputs: ArrayLike, activation: Activation | str, *, tile: int = _TILE
) -> Array:
    """Conjugate kernel (1/h) φ(U) φ(U)ᵀ.

    Parameters
    ----------
    weights
        W, (h, d).
    inputs
        X, (n, d).
    activation
        φ, or its name.
    tile
        Rows and columns of a tile; the result does not depend on it beyond rounding.

    Returns
    -------
    ndarray of float64, shape (n, n)
        Symmetric to the last bit.

    Raises
    ------
    ValueError
        If shapes do not fit each other, something is not finite, or `tile` is not positive.
    """
    return _conjugate(_Hidden(weights, inputs, activation), tile)


def ntk_matrix(
    weights: ArrayLike,
    readout: ArrayLike,
    inputs: ArrayLike,
    activation: Activation | str,
    *,
    trained: str = "both",
    tile: int = _TILE,
) -> Array:
    """Neural tangent kernel of W and v.

    Parameters
    ----------
    weights, inputs, activation, tile
        As in :func:`conjugate_kernel_matrix`.
    readout
        v, (h,).
    trained
        ``both``: gradients with respect to W and v; ``first``: to W alone, without the conjugate
        kernel.

    Returns
    -------
    ndarray of float64, shape (n, n)
        Symmetric to the last bit.

    Raises
    ------
    ValueError
        As :func:`conjugate_kernel_matrix`, or if `trained` is neither.
    """
    if trained not in ("both", "first"):
        raise ValueError(f"trained must be 'both' or 'first', got {trained!r}")
    hidden = _Hidden(weights, inputs, activation)
    v = _vector(readout, len(hidden.w))
    # One array of hidden units at a time: slopes first, activations after.
    if trained == "both":
        kernel = _conjugate(hidden, tile)
    else:
        kernel = np.zeros((len(hidden.x), len(hidden.x)))
    slopes = hidden.rows(lambda u: hidden.phi.slope(u) * v)
    for i, j in _tiles(len(slopes), tile):
        first = (hidden.x[i] @ hidden.x[j].T).div_(hidden.x.shape[1])
        first.mul_(slopes[i] @ slopes[j].T)
        _put(kernel, i, j, first.add_(torch.from_numpy(kernel[i, j])))
    return kernel


def ck_operator(
    weights: ArrayLike, inputs: ArrayLike, activation: Activation | str
) -> LinearOperator:
    """Conjugate kernel as an operator: n·h operations a product, and as much memory.

    Parameters and errors as of :func:`conjugate_kernel_matrix`.
    """
    hidden = _Hidden(weights, inputs, activation)
    features = hidden.rows(hidden.phi)
    return _operator(len(features), lambda q: features @ (features.T @ q))


def ntk_operator(
    weights: ArrayLike, readout: ArrayLike, inputs: ArrayLike, activation: Activation | str
) -> LinearOperator:
    """Neural tangent kernel of W and v as an operator: some 2n·h·d operations a product.

    The first layer's part of K q is, with S = φ'(U) diag(v), the row sums of
    (S Sᵀdiag(q) X) ∘ X/(d h): an h × d matrix in between, never n × n.

    Parameters and errors as of :func:`ntk_matrix`.
    """
    hidden = _Hidden(weights, inputs, activation)
    v = _vector(readout, len(hidden.w))
    features = hidden.rows(hidden.phi)
    slopes = hidden.rows(lambda u: hidden.phi.slope(u) * v)
    x = hidden.x

    def product(q: Tensor) -> Tensor:
        first = [
            ((slopes @ (slopes.T @ (column[:, None] * x))) * x).sum(dim=1) / x.shape[1]
            for column in q.T
        ]
        return torch.stack(first, dim=1) + features @ (features.T @ q)

    return _operator(len(x), product)


class _Hidden:
    """W, X and φ, checked, in float64."""

    def __init__(self, weights: ArrayLike, inputs: ArrayLike, activation: Activation | str) -> None:
        self.w, self.x = _matrix("weights", weights), _matrix("inputs", inputs)
        if self.w.shape[1] != self.x.shape[1]:
            raise ValueError(
                f"weights are (h, d) and inputs (n, d), got {tuple(self.w.shape)} and "
                f"{tuple(self.x.shape)}; their last axes must agree"
            )
        if isinstance(activation, str):
            activation = activation_by_name(activation)
        self.phi = activation

    def rows(self, of: Callable[[Tensor], Tensor]) -> Tensor:
        """A function of U over √h, (n, h), made block by block: temporaries stay small."""
        result = torch.empty(len(self.x), len(self.w), dtype=torch.float64)
        for start in range(0, len(self.x), _ROWS):
            block = slice(start, start + _ROWS)
            hidden = (self.x[block] @ self.w.T).div_(math.sqrt(self.x.shape[1]))
            torch.div(of(hidden), math.sqrt(len(self.w)), out=result[block])
        return result


def _conjugate(hidden: _Hidden, tile: int) -> Array:
    features = hidden.rows(hidden.phi)
    kernel = np.empty((len(features), len(features)))
    for i, j in _tiles(len(features), tile):
        _put(kernel, i, j, features[i] @ features[j].T)
    return kernel


def _matrix(name: str, values: ArrayLike) -> Tensor:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{name} must be a matrix and not empty, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite; leave out runs that diverged")
    return _tensor(array)


def _vector(readout: ArrayLike, h: int) -> Tensor:
    array = np.asarray(readout, dtype=np.float64)
    if array.shape != (h,):
        raise ValueError(f"readout must be (h,) with h = {h} as weights have it, got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("readout must be finite; leave out runs that diverged")
    return _tensor(array)


def _tensor(array: Array) -> Tensor:
    """The same memory as a tensor; a copy where torch cannot take it: read-only, or reversed."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def _tiles(n: int, tile: int) -> Iterator[tuple[slice, slice]]:
    """Tiles on and above the diagonal."""
    if tile < 1:
        raise ValueError(f"tile must be at least 1, got {tile}")
    for i in range(0, n, tile):
        for j in range(i, n, tile):
            yield slice(i, min(i + tile, n)), slice(j, min(j + tile, n))


def _put(kernel: Array, i: slice, j: slice, tile: Tensor) -> None:
    """Put a tile and its mirror image into the kernel."""
    values = tile.numpy()
    if i == j:
        # A product is symmetric to rounding only.
        values = np.triu(values) + np.triu(values, 1).T
    kernel[i, j] = values
    kernel[j, i] = values.T


def _operator(n: int, product: Callable[[Tensor], Tensor]) -> LinearOperator:
    def matmat(q: Array) -> Array:
        columns = _tensor(np.asarray(q, dtype=np.float64).reshape(n, -1))
        return product(columns).numpy().reshape(q.shape)

    return LinearOperator((n, n), matvec=matmat, matmat=matmat, rmatvec=matmat, dtype=np.float64)
