"""The kernels by name, whole or block by block."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from model_metrology.kernels.blocks import (
    Block,
    Held,
    Memory,
    Product,
    Progress,
    Rows,
    assemble,
    blocks,
    product_in,
)
from model_metrology.kernels.features import module_outputs, penultimate
from model_metrology.kernels.names import KERNELS, KernelName, Raw
from model_metrology.kernels.points import (
    Points,
    activation_bytes,
    as_points,
    check_finite,
    check_outputs,
    chosen_parameters,
    evaluating,
    with_channels_last,
)
from model_metrology.kernels.projections import Layout, Sketch
from model_metrology.kernels.tangent import Gradients, Plan, make_plan

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]
Precision = Literal["model", "tf32", "bfloat16"]
_AT_ONCE = 64  # points that go through the network together: more are slower, out of caches
_SHOWN = 64  # points whose kernel in full precision is compared with that in a lower one


@dataclass(frozen=True)
class Options:
    """How kernels are computed.

    Attributes
    ----------
    memory_mb : float
        Memory for what is held of points and for blocks of kernels, in 10⁶ bytes; whole kernels
        come on top.
    device : device, optional
        Where to compute; by default where the model is, to which it returns.
    only : sequence of str, optional
        Names of parameters, or of modules for all of theirs; others have no part. For kernels of
        gradients.
    precision : {"model", "tf32", "bfloat16"}
        Precision of matrix products; sums are in float32 or better. What a lower one than the
        model's costs is logged, as the largest error of a kernel of 64 points.
    dim : int
        Length K of projected gradients.
    seed : int
        Of the projection.
    """

    memory_mb: float = 4000
    device: torch.device | str | None = None
    only: Sequence[str] | None = None
    precision: Precision = "model"
    dim: int = 10_240
    seed: int = 0

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise ValueError(
                f"precision: {self.precision!r} is none of {', '.join(get_args(Precision))}"
            )


def kernel_blocks(
    raw: Raw,
    model: nn.Module,
    x: Tensor | ArrayLike,
    y: Tensor | ArrayLike | None = None,
    options: Options | None = None,
) -> Iterator[Block]:
    """Yield a kernel block by block, not normalised: for kernels that do not fit in memory.

    Parameters
    ----------
    raw : str
        Which inner products; see `KERNELS`.
    model, x, y
        As in :func:`trace_ntk`.
    options : Options, optional
        How to compute.

    Yields
    ------
    Block
        With y None, blocks on and above the diagonal.

    Raises
    ------
    ValueError
        As :func:`trace_ntk`.
    """
    with _prepared(raw, model, x, y, options or Options()) as ready:
        yield from ready.blocks()


def kernel(
    name: KernelName,
    model: nn.Module,
    x: Tensor | ArrayLike,
    y: Tensor | ArrayLike | None = None,
    options: Options | None = None,
) -> Array:
    """A kernel by the name that it has in studies, e.g. ``"trNTK"``; see :func:`trace_ntk`."""
    if name not in KERNELS:
        raise ValueError(f"name: there is no kernel {name!r}; choose from {', '.join(KERNELS)}")
    raw, normalize = KERNELS[name]
    return _whole(raw, model, x, y, normalize, options or Options())


def trace_ntk(
    model: nn.Module,
    x: Tensor | ArrayLike,
    y: Tensor | ArrayLike | None = None,
    *,
    normalize: bool = True,
    memory_mb: float = 4000,
    device: torch.device | str | None = None,
    only: Sequence[str] | None = None,
    precision: Precision = "model",
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
        Memory for gradients, activations and the block of the kernel under way, in 10⁶ bytes, to
        which blocks are sized; the whole kernel comes on top, and two gradients while forms are
        chosen. Where it does not hold all points, gradients are computed more than once.
    device : device, optional
        Where to compute; by default where the model is, to which it returns.
    only : sequence of str, optional
        Names of parameters, or of modules for all of theirs: gradients with respect to these.
    precision : {"model", "tf32", "bfloat16"}
        Precision of matrix products.

    Returns
    -------
    ndarray of float64, shape (N, M)
        Inner products in the model's precision, summed over classes and layers in float64. With y
        None it is symmetric to the last bit.

    Raises
    ------
    ValueError
        If the outputs are not (batch, C), an output or a gradient is not finite, outputs depend
        on chance or on the other points of a batch, nothing is trainable, a point to normalise by
        has no gradient, or `memory_mb` is too small for two points.

    Notes
    -----
    How each parameter enters is read from the graph that torch records (:mod:`.graph`), and the
    cheaper of two forms of its gradients' inner products is taken (:mod:`.forms`). A form is used
    only where it gives the kernel of plain gradients on three points; for all other parameters
    gradients of single points come from :mod:`torch.func`.
    """
    options = Options(memory_mb, device, only, precision)
    return _whole("trace", model, x, y, normalize, options)


def pseudo_ntk(
    model: nn.Module,
    x: Tensor | ArrayLike,
    y: Tensor | ArrayLike | None = None,
    *,
    normalize: bool = True,
    memory_mb: float = 4000,
    device: torch.device | str | None = None,
    only: Sequence[str] | None = None,
    precision: Precision = "model",
) -> Array:
    r"""Pseudo neural tangent kernel: of the gradients of the sum of the logits.

    Parameters, result and errors as those of :func:`trace_ntk`. Mohamadi, Bae, Sutherland 2023
    (arXiv:2206.12543).
    """
    options = Options(memory_mb, device, only, precision)
    return _whole("pseudo", model, x, y, normalize, options)


def projected_trace_ntk(
    model: nn.Module,
    x: Tensor | ArrayLike,
    y: Tensor | ArrayLike | None = None,
    *,
    dim: int = 10_240,
    seed: int = 0,
    normalize: bool = True,
    memory_mb: float = 4000,
    device: torch.device | str | None = None,
    only: Sequence[str] | None = None,
) -> Array:
    """Trace NTK of gradients after one random projection to `dim` numbers, shared by all classes.

    Other parameters, result and errors as those of :func:`trace_ntk`. The projection depends on
    `dim`, `seed` and the parameters' names and sizes, so that kernels of one network fit together.
    Its relative error falls as dim^{-1/2} (:mod:`.projections`).
    """
    options = Options(memory_mb, device, only, dim=dim, seed=seed)
    return _whole("projected trace", model, x, y, normalize, options)


def projected_pseudo_ntk(
    model: nn.Module,
    x: Tensor | ArrayLike,
    y: Tensor | ArrayLike | None = None,
    *,
    dim: int = 10_240,
    seed: int = 0,
    normalize: bool = True,
    memory_mb: float = 4000,
    device: torch.device | str | None = None,
    only: Sequence[str] | None = None,
) -> Array:
    """Pseudo NTK of randomly projected gradients; see :func:`projected_trace_ntk`."""
    options = Options(memory_mb, device, only, dim=dim, seed=seed)
    return _whole("projected pseudo", model, x, y, normalize, options)


def conjugate_kernel(
    model: nn.Module,
    x: Tensor | ArrayLike,
    y: Tensor | ArrayLike | None = None,
    *,
    normalize: bool = True,
    memory_mb: float = 4000,
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
        than 0, or `memory_mb` is too small for two points.
    """
    return _whole("conjugate", model, x, y, normalize, Options(memory_mb, device))


def embedding_kernel(
    model: nn.Module,
    x: Tensor | ArrayLike,
    y: Tensor | ArrayLike | None = None,
    *,
    normalize: bool = True,
    memory_mb: float = 4000,
    device: torch.device | str | None = None,
) -> Array:
    """Embedding kernel: inner products of the outputs of all modules, summed over modules.

    Akyürek et al. 2023 (arXiv:2205.11482), as Engel et al. 2024 use it. A module counts each time
    it is called, if it calls no other meanwhile: layers, activations, normalisations and pools, the
    logits included, not their containers. Parameters, result and errors as those of
    :func:`conjugate_kernel`.
    """
    return _whole("embedding", model, x, y, normalize, Options(memory_mb, device))


# -- from options to blocks --------------------------------------------------------------------


@dataclass(frozen=True)
class _Ready:
    """Everything that the blocks of a kernel are computed from."""

    hold: Callable[[Tensor], Held]
    what: str
    x: Points
    y: Points | None
    memory: Memory
    place: torch.device

    def blocks(self) -> Iterator[Block]:
        return blocks(self.hold, self.what, self.x, self.y, self.memory, self.place)


def _whole(
    raw: Raw,
    model: nn.Module,
    x: Tensor | ArrayLike,
    y: Tensor | ArrayLike | None,
    normalize: bool,
    options: Options,
) -> Array:
    with _prepared(raw, model, x, y, options) as ready:
        result = assemble(ready.blocks(), ready.what, ready.x, ready.y, normalize)
    log_error(raw, model, x, y, normalize, options, result)
    return result


def log_error(
    raw: Raw,
    model: nn.Module,
    x: Tensor | ArrayLike,
    y: Tensor | ArrayLike | None,
    normalize: bool,
    options: Options,
    result: NDArray[np.floating],
) -> None:
    """Log what a precision below the model's has cost a kernel, from the first of its points.

    Parameters
    ----------
    raw, model, x, y, options
        As of :func:`kernel_blocks`, which the kernel has come from.
    normalize : bool
        Whether the kernel is normalised.
    result : ndarray, shape (N, M)
        The kernel; more rows or columns than there are points are not looked at.
    """
    if options.precision == "model":
        return
    exact = replace(options, precision="model")
    few = [None if v is None else torch.as_tensor(v)[:_SHOWN] for v in (x, y)]
    expected = _whole(raw, model, few[0], few[1], normalize, exact)  # type: ignore[arg-type]
    error = np.abs(result[: len(expected), : expected.shape[1]] - expected).max()
    logger.info(
        "%s kernel in %s: largest error %.1e of the largest entry, on %d × %d points",
        raw, options.precision, error / np.abs(expected).max(), *expected.shape,
    )  # fmt: skip


@contextmanager
def _prepared(
    raw: Raw,
    model: nn.Module,
    x: Tensor | ArrayLike,
    y: Tensor | ArrayLike | None,
    options: Options,
) -> Iterator[_Ready]:
    """Check model and points, and choose forms; the model is lent meanwhile."""
    with evaluating(model, options.device, tf32=options.precision == "tf32") as place:
        rows = as_points("x", x, model)
        columns = None if y is None else as_points("y", y, model)
        classes = check_outputs(model, rows, place)
        if columns is not None:
            check_outputs(model, columns, place)
        rows = with_channels_last(rows, model, place)
        if columns is not None:
            columns = with_channels_last(columns, model, place)
        make = _of_features if raw in ("conjugate", "embedding") else _of_gradients
        yield make(raw, model, rows, columns, options, place, classes)


def _of_gradients(
    raw: Raw,
    model: nn.Module,
    x: Points,
    y: Points | None,
    options: Options,
    place: torch.device,
    classes: int,
) -> _Ready:
    parameters = chosen_parameters(model, options.only)
    probe = x.probe(place)
    if y is not None and y.values.shape[1:] == x.values.shape[1:] and len(x) < 3:
        probe = torch.cat([probe, y.probe(place)])
    kind = next(iter(parameters.values())).dtype
    eye = torch.eye(classes, dtype=kind, device=place)
    heads = eye if raw in ("trace", "projected trace") else eye.sum(dim=0, keepdim=True)
    activations = activation_bytes(model, probe[:1])
    plan = make_plan(model, parameters, heads, probe, activations)
    product = product_in(options.precision)
    points = len(x) + (0 if y is None else len(y))
    available = Memory(options.memory_mb).for_points(len(x), len(x if y is None else y))
    at_once = plan.at_once(available, points)
    project = raw.startswith("projected")
    if project or plan.best_written(at_once, available, points):
        sizes = {name: parameter.numel() for name, parameter in parameters.items()}
        into = Sketch(options.dim, options.seed) if project else Layout(sizes)
        rounded = 0 if product.kind is None else product.kind.itemsize
        memory = Memory(options.memory_mb, len(heads) * into.dim * (kind.itemsize + rounded))
        # What the rows of all points leave free, while gradients are computed.
        spare = max(options.memory_mb * 1e6 - points * memory.point_bytes, memory.scratch)
        write = _written(plan, model, into, memory.scratch / 4, spare / 2, product)
        return _Ready(write, f"{'projected ' * project}gradient", x, y, memory, place)
    memory = Memory(options.memory_mb, plan.point_bytes(at_once))
    scratch = memory.scratch

    def hold(points: Tensor) -> Held:
        return Gradients(plan, model, points, scratch, product, at_once)

    return _Ready(hold, "gradient", x, y, memory, place)


def _written(
    plan: Plan,
    model: nn.Module,
    into: Sketch | Layout,
    scratch: float,
    bytes_free: float,
    product: Product,
) -> Callable[[Tensor], Rows]:
    """Gradients of points as rows, projected or whole, of as many at a time as memory allows."""
    kind, heads = plan.heads.dtype, plan.heads
    largest = max(parameter.numel() for parameter in plan.parameters.values())
    each = plan.point_bytes(1) + 2 * kind.itemsize * largest
    step = min(max(int(bytes_free // each), 1), _AT_ONCE)

    def hold(points: Tensor) -> Rows:
        rows, outputs = points.new_zeros(len(points), len(heads), into.dim, dtype=kind), []
        progress = Progress(f"gradients of {len(points)} points", len(points))
        for start in range(0, len(points), step):
            block = Gradients(plan, model, points[start : start + step], scratch)
            for h, head in enumerate(heads):
                for name, values in block.rows(head):
                    into.add(rows[start : start + len(block.outputs), h], name, values)
            outputs.append(block.outputs)
            progress.add(len(block.outputs))
        return Rows([rows.flatten(1)], product, torch.cat(outputs))

    return hold


def _of_features(
    raw: Raw,
    model: nn.Module,
    x: Points,
    y: Points | None,
    options: Options,
    place: torch.device,
    classes: int,
) -> _Ready:
    product = product_in(options.precision)
    one = x.part(0, 1, place)
    passing = activation_bytes(model, one)
    step = min(max(int(Memory(options.memory_mb).scratch // max(passing, 1)), 1), _AT_ONCE)
    for points in (x, y):
        if points is not None:
            check_finite(model, points, place, step)

    if raw == "embedding":
        size = 2 * sum(part.nbytes for part in module_outputs(model, one)) + passing
        memory = Memory(options.memory_mb, size)
        hold = _held_rows(partial(module_outputs, model), product)
        return _Ready(hold, "embedding", x, y, memory, place)
    # Features are much less than what a network computes on the way to them.
    copied = one.nbytes if x.channels_last else 0
    memory = Memory(options.memory_mb, 2 * penultimate(model, one).nbytes + copied)
    if passing > memory.available:
        raise memory.too_small(passing)

    def features(points: Tensor) -> list[Tensor]:
        return [torch.cat([penultimate(model, some) for some in points.split(step)])]

    return _Ready(_held_rows(features, product), "penultimate feature vector", x, y, memory, place)


def _held_rows(
    compute: Callable[[Tensor], list[Tensor]], product: Product
) -> Callable[[Tensor], Held]:
    return lambda points: Rows(compute(points), product)
