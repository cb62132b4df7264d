r"""Kernels of trained networks: what a network takes two points to have in common.

With f : points → R^C the logits, θ the trainable parameters and h the penultimate features:

.. math:: K^{tr}(x, x') = \sum_c ⟨∇_θ f_c(x), ∇_θ f_c(x')⟩, \qquad K^{CK}(x, x') = ⟨h(x), h(x')⟩

Normalised, each is divided by :math:`\sqrt{K(x, x) K(x', x')}`: the cosine of the concatenated
class gradients, or of the features [1]_. Both are exact: rows of gradients or features are written
out for blocks of points and multiplied block by block.

References
----------
.. [1] A. Engel, Z. Wang, N. S. Frank, I. Dumitriu, S. Choudhury, A. Sarwate, T. Chiang, "Faithful
   and efficient explanations for neural networks via neural tangent kernel surrogate models",
   ICLR 2024, arXiv:2305.14585.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call, grad, vmap

__all__ = ["conjugate_kernel", "trace_ntk"]

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]
Rows = Callable[[Tensor], Tensor]
"""From points (n, …) to vectors (n, P) whose inner products are wanted."""

_CHUNK = 32  # points differentiated at once: on a CPU no more is gained beyond
_COLUMNS = 256  # columns of a block of the kernel


def trace_ntk(
    model: nn.Module,
    x: Tensor | ArrayLike,
    y: Tensor | ArrayLike | None = None,
    *,
    normalize: bool = True,
    memory_mb: float = 1000,
    device: torch.device | str | None = None,
) -> Array:
    r"""Trace neural tangent kernel, :math:`\sum_c ⟨∇f_c(x), ∇f_c(x')⟩` over trainable parameters.

    Parameters
    ----------
    model : Module
        Returns (batch, C) for (batch, …). Computed in evaluation mode whatever mode it is in:
        dropout is off and batch normalisation uses its running statistics. Its mode comes back.
    x : array_like, shape (N, …)
        Points; floating-point ones are taken in the model's precision.
    y : array_like, shape (M, …), optional
        Points of the columns; None for those of the rows.
    normalize : bool
        Divide by the root of both diagonals: a cosine, 1 on the diagonal. Otherwise plain sums,
        divided neither by the width nor by C.
    memory_mb : float
        Memory for gradients and activations, in 10⁶ bytes, to which blocks are sized; the kernel
        comes on top. Where the gradients of all points for one class need more, they are computed
        more than once.
    device : device, optional
        Where to compute; by default where the model is, to which it returns.

    Returns
    -------
    ndarray of float64, shape (N, M)
        Inner products in the model's precision, summed over classes in float64. With y None it is
        symmetric to the last bit.

    Raises
    ------
    ValueError
        If the outputs are not (batch, C), an output or a gradient is not finite, outputs depend
        on chance or on the other points of a batch, nothing is trainable, a point to normalise by
        has no gradient, or `memory_mb` is too small for one point.
    """
    with _evaluating(model, device) as place:
        pair, memory, classes = _prepared(model, x, y, memory_mb, place)
        rows = _gradient_rows(model, _spread(pair[0].values).to(place), classes)
        return _kernel(rows, *pair, memory, "gradient", normalize)


def conjugate_kernel(
    model: nn.Module,
    x: Tensor | ArrayLike,
    y: Tensor | ArrayLike | None = None,
    *,
    normalize: bool = True,
    memory_mb: float = 1000,
    device: torch.device | str | None = None,
) -> Array:
    """Conjugate kernel: inner products of the penultimate features.

    The features are what the linear layer that is called last reads, (batch, features): after
    activation, without a 1 for the bias.

    Parameters
    ----------
    model, x, y, memory_mb, device
        As in :func:`trace_ntk`.
    normalize : bool
        Divide by the norms of both features: a cosine. Otherwise plain inner products, not
        divided by the width.

    Returns
    -------
    ndarray of float64, shape (N, M)
        Inner products in the model's precision.

    Raises
    ------
    ValueError
        If the outputs are as :func:`trace_ntk` refuses them, the model calls no linear layer, its
        last one does not read (batch, features), a point to normalise by has no feature other
        than 0, or `memory_mb` is too small for one point.
    """
    with _evaluating(model, device) as place:
        pair, memory, _ = _prepared(model, x, y, memory_mb, place)
        rows = [partial(_penultimate, model)]
        return _kernel(rows, *pair, memory, "penultimate feature vector", normalize)


# -- the model, the points, the memory ---------------------------------------------------------


@contextmanager
def _evaluating(model: nn.Module, device: torch.device | str | None) -> Iterator[torch.device]:
    """Lend a model, on a device and in evaluation mode; it returns as it was."""
    modes = {module: module.training for module in model.modules()}
    home = next((p.device for p in model.parameters()), torch.device("cpu"))
    place = home if device is None else torch.device(device)
    cudnn = torch.backends.cudnn
    # cuDNN's convolutions would otherwise keep 10 bits of float32's mantissa.
    exact = cudnn.flags(enabled=cudnn.enabled, deterministic=cudnn.deterministic, allow_tf32=False)
    try:
        model.eval().to(place)
        with torch.inference_mode(False), exact:
            yield place
    finally:
        model.to(home)
        for module, mode in modes.items():
            module.training = mode


@dataclass(frozen=True)
class _Points:
    """Points, and what the caller calls them."""

    name: str
    values: Tensor

    def refuse(self, bad: Tensor, what: str, remedy: str, start: int = 0) -> None:
        """Raise ValueError with the first bad point, if there is one."""
        if bad.any():
            first = start + int(bad.nonzero()[0])
            raise ValueError(f"{self.name}[{first}]: its {what}; {remedy}")


@dataclass(frozen=True)
class _Memory:
    """What may be held at once on the device."""

    megabytes: float
    place: torch.device
    activations: int
    """Bytes that differentiating one point keeps."""

    def plan(self, row: int = 0) -> tuple[int, int]:
        """How many points to compute at once, and how many rows of `row` bytes to hold."""
        passing = 3 * row + 2 * self.activations + 1  # rows are copied, once in float64
        available = int(self.megabytes * 1e6)
        chunk = min(max(available // 4 // passing, 1), _CHUNK)
        held = (available - chunk * passing) // max(row, 1)
        if held < 2:
            raise ValueError(
                f"memory_mb: {self.megabytes:g} is too small for one point of this model; give at "
                f"least {math.ceil((2 * row + passing) / 1e5) / 10:g}"
            )
        return chunk, held


def _prepared(
    model: nn.Module,
    x: Tensor | ArrayLike,
    y: Tensor | ArrayLike | None,
    memory_mb: float,
    place: torch.device,
) -> tuple[tuple[_Points, _Points | None], _Memory, int]:
    """Checked points, the memory's plan and the number of classes."""
    rows, columns = _points("x", x, model), None if y is None else _points("y", y, model)
    memory = _Memory(memory_mb, place, _activation_bytes(model, rows.values[:1].to(place)))
    classes = _check_outputs(model, rows, memory)
    if columns is not None:
        _check_outputs(model, columns, memory)
    return (rows, columns), memory, classes


def _points(name: str, values: Tensor | ArrayLike, model: nn.Module) -> _Points:
    tensor = torch.as_tensor(values).detach()
    if tensor.ndim < 1 or not len(tensor):
        raise ValueError(f"{name} must hold points (N, …), got shape {tuple(tensor.shape)}")
    if tensor.is_floating_point():
        kinds = (p.dtype for p in model.parameters() if p.is_floating_point())
        tensor = tensor.to(next(kinds, tensor.dtype))
    return _Points(name, tensor)


def _spread(points: Tensor) -> Tensor:
    """First, middle and last point."""
    return points[sorted({0, len(points) // 2, len(points) - 1})]


def _activation_bytes(model: nn.Module, point: Tensor) -> int:
    own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = model(point.clone())  # held, so that no address is used twice
    del outputs
    return sum(kept.values())


@torch.no_grad()
def _check_outputs(model: nn.Module, points: _Points, memory: _Memory) -> int:
    """Number of classes C, once outputs are seen to be (batch, C), finite, and f(x) of x alone."""
    size, _ = memory.plan()
    for start in range(0, len(points.values), size):
        chunk = points.values[start : start + size].to(memory.place)
        outputs = model(chunk)
        shape = tuple(outputs.shape) if torch.is_tensor(outputs) else type(outputs).__name__
        if not torch.is_tensor(outputs) or outputs.ndim != 2 or len(outputs) != len(chunk):
            raise ValueError(
                f"model: outputs must be (batch, C), got {shape} for a batch of {len(chunk)}; "
                "wrap it in a module that returns its logits"
            )
        bad = ~outputs.isfinite().all(dim=1)
        points.refuse(bad, "outputs are not finite", "check the point and the weights", start)
    probe = _spread(points.values).to(memory.place)
    together, alone = model(probe), torch.cat([model(point[None]) for point in probe])
    # Sums are taken in another order; anything but rounding is far above this.
    if (together - alone).norm() > torch.finfo(alone.dtype).eps ** 0.5 * alone.norm():
        raise ValueError(
            "model: outputs of a point change by chance or with the other points of its batch; a "
            "kernel needs f(x) of x alone (batch normalisation needs its running statistics)"
        )
    return int(outputs.shape[1])


# -- blocks of a kernel ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Term:
    """One term of a kernel's sum over classes."""

    of: Rows
    what: str
    place: torch.device
    chunk: int
    held: int

    def rows(self, points: _Points, start: int, stop: int) -> tuple[Tensor, Array]:
        """Rows of some points, and their squared norms."""
        whole, squares = None, np.empty(stop - start)
        for i in range(start, stop, self.chunk):
            part = self.of(points.values[i : min(i + self.chunk, stop)].to(self.place))
            norms = torch.linalg.vector_norm(part, dim=1, dtype=torch.float64)
            remedy = "check the point and the weights"
            points.refuse(~norms.isfinite(), f"{self.what} is not finite", remedy, i)
            if whole is None:
                whole = part.new_empty(stop - start, part.shape[1])
            here = slice(i - start, i - start + len(part))
            whole[here], squares[here] = part, norms.square().cpu().numpy()
        assert whole is not None
        return whole, squares

    def add(self, kernel: Array, squares: list[Array], x: _Points, y: _Points | None) -> None:
        """Add to a kernel (on and above its diagonal, if y is None) and to its squared norms.

        Rows are held in blocks as tall as memory allows: columns are computed anew for each.
        """
        n, columns = len(x.values), x if y is None else y
        width = max(min(self.held // 8, _COLUMNS), 1)
        height = n if y is None and n <= self.held else min(self.held - width, n)
        for i in range(0, n, height):
            end = min(i + height, n)
            left, norms = self.rows(x, i, end)
            squares[0][i:end] += norms
            if y is None:
                for j in range(i, end, _COLUMNS):
                    stop = min(j + _COLUMNS, end)
                    kernel[i:stop, j:stop] += _products(left[: stop - i], left[j - i : stop - i])
            for j in range(end if y is None else 0, len(columns.values), width):
                stop = min(j + width, len(columns.values))
                right, norms = self.rows(columns, j, stop)
                if y is not None and i == 0:
                    squares[1][j:stop] += norms
                kernel[i:end, j:stop] += _products(left, right)
                del right  # before the next rows are computed
            del left


def _products(left: Tensor, right: Tensor) -> Array:
    return np.asarray((left @ right.T).double().cpu().numpy())


def _kernel(
    terms: Sequence[Rows],
    x: _Points,
    y: _Points | None,
    memory: _Memory,
    what: str,
    normalize: bool,
) -> Array:
    """Sum the terms over all pairs of points."""
    squares = [np.zeros(len(points.values)) for points in (x, y or x)]
    kernel = np.zeros((len(squares[0]), len(squares[1])))
    row = terms[0](x.values[:1].to(memory.place)).nbytes
    for of in terms:
        _Term(of, what, memory.place, *memory.plan(row)).add(kernel, squares, x, y)
    if y is None:
        squares[1] = squares[0]
        np.fill_diagonal(kernel, squares[0])  # the same numbers, summed in float64
    if normalize:
        for points, norms in zip((x, y or x), squares, strict=True):
            zero = torch.from_numpy(norms == 0.0)
            points.refuse(zero, f"{what} is zero", "leave it out, or set normalize=False")
        kernel /= np.sqrt(squares[0])[:, None]
        kernel /= np.sqrt(squares[1])
    if y is None:
        for i in range(len(kernel)):
            kernel[i + 1 :, i] = kernel[i, i + 1 :]
    return kernel


# -- gradients and features --------------------------------------------------------------------


def _gradient_rows(model: nn.Module, probe: Tensor, classes: int) -> list[Rows]:
    """What computes the gradients of each class."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise ValueError("model: no parameter requires a gradient; unfreeze those to compare")
    compute = _by_vmap if _vmap_works(model, parameters, probe) else _one_by_one
    return [partial(compute, model, parameters, c) for c in range(classes)]


def _by_vmap(model: nn.Module, parameters: Mapping[str, Tensor], c: int, points: Tensor) -> Tensor:
    """Gradients (n, P) of the outputs of class c."""

    def output(values: dict[str, Tensor], point: Tensor) -> Tensor:
        logit: Tensor = functional_call(model, values, (point[None],))[0, c]
        return logit

    # no_grad keeps the module's own parameters from being recorded; `grad` works inside it.
    with torch.no_grad():
        gradients = vmap(grad(output), in_dims=(None, 0))(dict(parameters), points)
    return torch.cat([gradients[name].flatten(1) for name in parameters], dim=1)


def _one_by_one(
    model: nn.Module, parameters: Mapping[str, Tensor], c: int, points: Tensor
) -> Tensor:
    """The same, for what :func:`torch.vmap` cannot follow."""
    rows, wanted = [], list(parameters.values())
    for point in points:
        with torch.enable_grad():
            output = model(point[None])[0, c]
            # A parameter that the output does not use has gradient zero.
            output = output + 0 * sum(p.flatten()[0] for p in wanted)
        row = torch.autograd.grad(output, wanted)
        rows.append(torch.cat([g.flatten() for g in row]))
    return torch.stack(rows)


def _vmap_works(model: nn.Module, parameters: Mapping[str, Tensor], probe: Tensor) -> bool:
    try:
        mapped = _by_vmap(model, parameters, 0, probe)
    except RuntimeError as error:
        logger.info("gradients point by point, since torch.vmap fails: %s", error)
        return False
    alone = _one_by_one(model, parameters, 0, probe)
    # Loose, for gradients jump at kinks.
    return bool((mapped - alone).norm() <= 0.1 * alone.norm())


def _penultimate(model: nn.Module, points: Tensor) -> Tensor:
    """Inputs (n, features) of the linear layer that is called last."""
    last: list[Tensor] = []

    def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # Copied, whatever is later done to it in place.
        last[:] = [next(iter((*args, *kwargs.values()))).clone()]

    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    handles = [m.register_forward_pre_hook(record, with_kwargs=True) for m in linear]
    try:
        with torch.no_grad():
            model(points)
    finally:
        for handle in handles:
            handle.remove()
    if not last:
        raise ValueError("model: it calls no linear layer, so it has no penultimate features")
    if last[0].ndim != 2 or len(last[0]) != len(points):
        raise ValueError(
            f"model: its last linear layer reads {tuple(last[0].shape)} for a batch of "
            f"{len(points)}, not (batch, features), so that points have no one feature vector"
        )
    return last[0]
