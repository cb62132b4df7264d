"""Kernels block by block: what is held of a block of points, multiplied with that of another."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_metrology.kernels.points import Points, TooSmallError, refuse_outputs, too_small

__all__ = [
    "Block",
    "Held",
    "Product",
    "Rows",
    "add_upper",
    "assemble",
    "blocks",
    "mirrored",
    "product_in",
    "squared_norms",
]

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]

Product = Callable[[Tensor, Tensor], Tensor]
"""A matrix product a bᵀ."""

_SCRATCH_SHARE = 8  # part of the memory that intermediate results may take
_RUN = 4096  # numbers whose squares are summed in single precision
_TILE = 512  # columns of a symmetric block that are multiplied at once


class Held(Protocol):
    """Vectors of a block of points, in whatever form their inner products are taken."""

    @property
    def outputs(self) -> Tensor | None:
        """The model's outputs (n, C) at the points, if they are not known to be finite yet."""

    def with_itself(self) -> Tensor:
        """Inner products (n, n) in float64, symmetric to the last bit."""

    def with_others(self, others: Any, /) -> tuple[Tensor, Tensor, Tensor]:
        """Inner products (n, m), squared norms (n,) and those of the others (m,), in float64."""


@dataclass(frozen=True)
class Rows:
    """Vectors that are written out, in parts (n, k)."""

    parts: list[Tensor]
    product: Product
    outputs: Tensor | None = None

    def with_itself(self) -> Tensor:
        """Inner products (n, n)."""
        total = self._zeros(self)
        for part in self.parts:
            add_upper(total, part, self.product)
        return mirrored(total)

    def with_others(self, others: Rows) -> tuple[Tensor, Tensor, Tensor]:
        """Inner products (n, m), and both squared norms."""
        total = self._zeros(others)
        for a, b in zip(self.parts, others.parts, strict=True):
            total += self.product(a, b)
        return total, self._squares(), others._squares()

    def _zeros(self, others: Rows) -> Tensor:
        one, other = self.parts[0], others.parts[0]
        return torch.zeros(len(one), len(other), dtype=torch.float64, device=one.device)

    def _squares(self) -> Tensor:
        return torch.stack([squared_norms(part) for part in self.parts]).sum(dim=0)


@dataclass(frozen=True)
class Block:
    """A block of a kernel that is not normalised yet.

    Attributes
    ----------
    row, column : int
        Where it begins.
    values : ndarray of float64, shape (n, m)
        Inner products.
    row_squares, column_squares : ndarray of float64, shapes (n,) and (m,)
        Squared norms.
    """

    row: int
    column: int
    values: Array
    row_squares: Array
    column_squares: Array


@dataclass(frozen=True)
class Memory:
    """What may be held at once.

    Attributes
    ----------
    megabytes : float
        In all, kernels not counted.
    point_bytes : int
        Held of one point.
    """

    megabytes: float
    point_bytes: int

    @property
    def scratch(self) -> float:
        """Bytes for intermediate results."""
        return self.megabytes * 1e6 / _SCRATCH_SHARE

    @property
    def available(self) -> float:
        """Bytes for what is held of points."""
        return self.megabytes * 1e6 - self.scratch

    def points(self) -> int:
        """How many points can be held at once, two at least."""
        if self.available < 2 * self.point_bytes:
            raise self.too_small(2 * self.point_bytes)
        return int(self.available // max(self.point_bytes, 1))

    def too_small(self, held: float) -> TooSmallError:
        """The error of a memory that is not to hold so many bytes."""
        return too_small(self.megabytes, held * _SCRATCH_SHARE / (_SCRATCH_SHARE - 1))


def blocks(
    hold: Callable[[Tensor], Held],
    what: str,
    x: Points,
    y: Points | None,
    memory: Memory,
    place: torch.device,
) -> Iterator[Block]:
    """Yield the blocks of a kernel; with y None those on and above the diagonal.

    Parameters
    ----------
    hold : callable
        From points to what is held of them.
    what : str
        The vectors' name, for errors.
    x, y : Points
        Points of rows and columns.
    memory : Memory
        How much to hold.
    place : device
        Where.

    Raises
    ------
    ValueError
        If a vector is not finite, or memory is too small for two points.
    """
    room = memory.points()
    whole = len(x) + (0 if y is None else len(y)) <= room
    size = room if whole else max(room // 2, 1)

    def held(points: Points, start: int) -> Held:
        one = hold(points.part(start, start + size, place))
        if one.outputs is not None:
            refuse_outputs(one.outputs, points, start)
        return one

    found = _symmetric(held, what, x, size) if y is None else _cross(held, what, x, y, size)
    total = len(x) * (len(x) + 1) // 2 if y is None else len(x) * len(y)
    yield from _with_progress(found, what, total)


def _with_progress(found: Iterator[Block], what: str, total: int) -> Iterator[Block]:
    """Log how much is done, where there is more than one block."""
    done, started = 0, time.perf_counter()
    for block in found:
        n, m = block.values.shape
        done += n * (n + 1) // 2 if block.row == block.column and n == m else n * m
        yield block
        if done < total:
            rate = done / (time.perf_counter() - started)
            logger.info(
                "%s kernel: %.0f %% of %.3g pairs, %.3g pairs/s, %.0f s left",
                *(what, 100 * done / total, total, rate, (total - done) / rate),
            )


def _cross(
    held: Callable[[Points, int], Held], what: str, x: Points, y: Points, size: int
) -> Iterator[Block]:
    one = held(y, 0) if len(y) <= size else None
    for i in range(0, len(x), size):
        left = held(x, i)
        for j in range(0, len(y), size):
            right = held(y, j) if one is None else one
            values, rows, columns = left.with_others(right)
            squares = _finite(rows, what, x, i), _finite(columns, what, y, j)
            yield Block(i, j, values.cpu().numpy(), *squares)


def _symmetric(
    held: Callable[[Points, int], Held], what: str, x: Points, size: int
) -> Iterator[Block]:
    squares: dict[int, Array] = {}
    for i in range(0, len(x), size):
        left = held(x, i)
        values = left.with_itself()
        squares[i] = _finite(values.diagonal(), what, x, i)
        yield Block(i, i, values.cpu().numpy(), squares[i], squares[i])
        # Columns to the left: their squares are known by then.
        for j in range(0, i, size):
            right = held(x, j)
            above = right.with_others(left)[0].cpu().numpy()
            yield Block(j, i, above, squares[j], squares[i])


def _finite(squares: Tensor, what: str, points: Points, start: int) -> Array:
    remedy = "check the point and the weights"
    points.refuse(~squares.isfinite().cpu(), f"{what} is not finite", remedy, start)
    return np.asarray(squares.cpu().numpy())


def assemble(
    parts: Iterable[Block], what: str, x: Points, y: Points | None, normalize: bool
) -> Array:
    """Put the blocks of a kernel together, and normalise.

    Raises
    ------
    ValueError
        If a vector to normalise by is zero.
    """
    kernel = np.empty((len(x), len(x if y is None else y)))
    squares = np.empty(len(x)), np.empty(kernel.shape[1])
    for block in parts:
        rows = slice(block.row, block.row + len(block.values))
        columns = slice(block.column, block.column + block.values.shape[1])
        kernel[rows, columns] = block.values
        squares[0][rows], squares[1][columns] = block.row_squares, block.column_squares
        if y is None and rows != columns:
            kernel[columns, rows] = block.values.T
    if normalize:
        for points, norms in zip((x, y or x), squares, strict=True):
            refuse_zero(norms, what, points)
        # One after the other would leave a symmetric kernel symmetric to rounding only.
        roots = np.sqrt(squares[0]), np.sqrt(squares[1])
        for i, row in enumerate(kernel):
            row /= roots[0][i] * roots[1]
    return kernel


def refuse_zero(squares: Array, what: str, points: Points) -> None:
    """Raise ValueError if a vector has no direction."""
    zero = torch.from_numpy(squares <= 0.0)
    points.refuse(zero, f"{what} is zero", "leave it out, or set normalize=False")


def add_upper(into: Tensor, rows: Tensor, product: Product) -> None:
    """Add to a matrix (n, n), on and above its diagonal, inner products of rows (n, k)."""
    n = len(rows)
    step = max(min(_TILE, n // 8), 64)
    for start in range(0, n, step):
        stop = min(start + step, n)
        into[:stop, start:stop] += product(rows[:stop], rows[start:stop])


def squared_norms(rows: Tensor) -> Tensor:
    """Squared norms (n,) of rows (n, k) in float64, from sums of some thousand in single precision.

    Ten times faster on CPUs than norms of rows turned to float64, with errors as of the products.
    """
    kind = rows.dtype if rows.dtype == torch.float64 else torch.float32
    whole = rows.shape[1] // _RUN * _RUN
    runs = rows[:, :whole].unflatten(1, (-1, _RUN))
    norms = [
        torch.linalg.vector_norm(runs, dim=2, dtype=kind),
        torch.linalg.vector_norm(rows[:, whole:], dim=1, keepdim=True, dtype=kind),
    ]
    return torch.cat(norms, dim=1).double().square().sum(dim=1)


def mirrored(upper: Tensor) -> Tensor:
    """The symmetric matrix of what is on and above a diagonal."""
    return upper.triu() + upper.triu(1).T


def product_in(precision: str) -> Product:
    """Matrix product a bᵀ in a precision: that of its operands, or with bfloat16 operands."""
    if precision == "bfloat16":
        return lambda a, b: (a.bfloat16() @ b.bfloat16().T).to(a.dtype)
    return lambda a, b: a @ b.T
