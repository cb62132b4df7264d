"""Kernels block by block: what is held of a block of points, multiplied with that of another."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
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
    "Progress",
    "Rows",
    "add_product",
    "add_upper",
    "assemble",
    "blocks",
    "mirrored",
    "product_in",
    "squared_norms",
]

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]

_SCRATCH_SHARE = 8  # part of the memory that intermediate results may take
_BLOCK_SHARE = 4  # part of the rest that blocks of a kernel may take from points
_STRIPS = 8  # strips in which inner products are added to a block
_STRIP = 256  # rows of one at least: products of fewer are slower
# An entry of a block in float64, as much of the block before, which its reader still has, and of a
# strip in single precision and its copy in float64 what a block of some 800 rows has.
_PAIR_BYTES = 20
_RUN = 4096  # numbers whose squares are summed in single precision
_TILE = 512  # columns of a symmetric block that are multiplied at once
_MIRRORED = 64  # columns of it that are filled at once
_SAID_EVERY = 10  # seconds


@dataclass(frozen=True)
class Product:
    """Matrix product a bᵀ, in the precision of its operands or of operands that are rounded.

    Attributes
    ----------
    kind : dtype, optional
        What operands are rounded to.
    """

    kind: torch.dtype | None = None

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Inner products (n, m) of rows (n, k) and (m, k), in the precision of the former."""
        return (self.rounded(a) @ self.rounded(b).T).to(a.dtype)

    def rounded(self, a: Tensor) -> Tensor:
        """An operand as it is multiplied: rounded once, where it enters several products."""
        return a if self.kind is None else a.to(self.kind)


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
            add_product(total, a, b, self.product)
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
        In all, whole kernels not counted.
    point_bytes : int
        Held of one point.
    """

    megabytes: float
    point_bytes: int = 0

    @property
    def scratch(self) -> float:
        """Bytes for intermediate results."""
        return self.megabytes * 1e6 / _SCRATCH_SHARE

    @property
    def available(self) -> float:
        """Bytes for what is held of points, and for blocks of a kernel."""
        return self.megabytes * 1e6 - self.scratch

    def for_points(self, rows: int, columns: int) -> float:
        """Bytes for points beside a kernel in one block, or in blocks where it takes too much."""
        return self.available - min(_PAIR_BYTES * rows * columns, self.available / _BLOCK_SHARE)

    def side(self) -> int:
        """How many points a block may have, with those of two blocks held."""
        if self.available < 2 * self.point_bytes:
            raise self.too_small(2 * self.point_bytes)
        # The root of 2 · point_bytes · side + _PAIR_BYTES · side² = available.
        root = math.sqrt(self.point_bytes**2 + _PAIR_BYTES * self.available)
        return max(int(self.available / (self.point_bytes + root)), 1)

    def side_beside(self, points: int, rows: int, columns: int) -> int:
        """How many points a block of a kernel may have, with so many points held in all."""
        pairs = int((self.available - points * self.point_bytes) / _PAIR_BYTES)
        return max(rows, columns) if rows * columns <= pairs else max(math.isqrt(pairs), 1)

    def too_small(self, held: float) -> TooSmallError:
        """The error of a memory that is not to hold so many bytes."""
        return too_small(self.megabytes, held * _SCRATCH_SHARE / (_SCRATCH_SHARE - 1))


_Take = Callable[[Points, int], Held]
"""What is held of a block of points that begins somewhere."""


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
    rows, columns = len(x), len(x if y is None else y)
    total = rows if y is None else rows + columns
    size = memory.side()
    whole = total * memory.point_bytes <= memory.for_points(rows, columns)

    def held(points: Points, start: int) -> Held:
        one = hold(points.part(start, start + size, place))
        if one.outputs is not None:
            refuse_outputs(one.outputs, points, start)
        return one

    take: _Take = held
    if whole:
        # All points fit, in one block or several: nothing of them is computed twice.
        size, take = memory.side_beside(total, rows, columns), cache(held)
    found = _symmetric(take, what, x, size) if y is None else _cross(take, what, x, y, size)
    pairs = rows * (rows + 1) // 2 if y is None else rows * columns
    yield from _with_progress(found, what, pairs)


class Progress:
    """Log now and then how far long work is, and how long the rest will take.

    Parameters
    ----------
    what : str
        The work.
    total : int
        How much it is, in any unit.
    """

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.done = what, total, 0
        self.started = self.said = time.monotonic()

    def add(self, amount: int) -> None:
        """Count so much more as done."""
        self.done += amount
        now = time.monotonic()
        if self.done < self.total and now - self.said >= _SAID_EVERY:
            self.said = now
            left = (now - self.started) * (self.total / self.done - 1)
            logger.info(
                "%s: %.0f %%, some %.0f s left", self.what, 100 * self.done / self.total, left
            )


def _with_progress(found: Iterator[Block], what: str, pairs: int) -> Iterator[Block]:
    progress = Progress(f"{what} kernel", pairs)
    for block in found:
        n, m = block.values.shape
        yield block
        progress.add(n * (n + 1) // 2 if block.row == block.column and n == m else n * m)


# What the two generators below have named, they drop before they go on: no more is held than two
# blocks of points, and one of the kernel beside the one that its reader still has.


def _cross(take: _Take, what: str, x: Points, y: Points, size: int) -> Iterator[Block]:
    one = take(y, 0) if len(y) <= size else None
    for i in range(0, len(x), size):
        left = take(x, i)
        for j in range(0, len(y), size):
            yield _across(left, take(y, j) if one is None else one, what, x, y, i, j)
        del left


def _across(
    left: Held, right: Held, what: str, x: Points, y: Points, row: int, column: int
) -> Block:
    values, rows, columns = left.with_others(right)
    squares = _finite(rows, what, x, row), _finite(columns, what, y, column)
    return Block(row, column, values.cpu().numpy(), *squares)


def _symmetric(take: _Take, what: str, x: Points, size: int) -> Iterator[Block]:
    squares: dict[int, Array] = {}
    for i in range(0, len(x), size):
        left = take(x, i)
        block = _itself(left, what, x, i)
        squares[i] = block.row_squares
        yield block
        del block
        # Columns to the left: their squares are known by then.
        for j in range(0, i, size):
            above = take(x, j).with_others(left)[0].cpu().numpy()
            yield Block(j, i, above, squares[j], squares[i])
            del above
        del left


def _itself(one: Held, what: str, x: Points, start: int) -> Block:
    values = one.with_itself()
    squares = _finite(values.diagonal(), what, x, start)
    return Block(start, start, values.cpu().numpy(), squares, squares)


def _finite(squares: Tensor, what: str, points: Points, start: int) -> Array:
    remedy = "check the point and the weights"
    points.refuse(~squares.isfinite().cpu(), f"{what} is not finite", remedy, start)
    # A copy: a view of a diagonal would keep all of its block.
    return squares.cpu().numpy().copy()


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
    n, rows = len(rows), product.rounded(rows)
    step = max(min(_TILE, n // _STRIPS), 64)
    for start in range(0, n, step):
        stop = min(start + step, n)
        into[:stop, start:stop] += product(rows[:stop], rows[start:stop])


def add_product(into: Tensor, rows: Tensor, columns: Tensor, product: Product) -> None:
    """Add to a matrix (n, m) inner products of rows (n, k) and columns (m, k)."""
    rows, columns = product.rounded(rows), product.rounded(columns)
    step = max(len(rows) // _STRIPS, _STRIP)
    # A product in one piece, and its copy in float64, would take more than the matrix does.
    for start in range(0, len(rows), step):
        into[start : start + step] += product(rows[start : start + step], columns)


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
    """The symmetric matrix of what is on and above a diagonal, in the memory of that."""
    # In place, as another (n, n) would take as much again; in tiles that caches hold.
    for start in range(0, len(upper), _MIRRORED):
        stop = start + _MIRRORED
        corner = upper[start:stop, start:stop]
        corner.copy_(corner.triu() + corner.triu(1).T)
        upper[stop:, start:stop] = upper[start:stop, stop:].T
    return upper


def product_in(precision: str) -> Product:
    """Matrix product a bᵀ in a precision: that of its operands, or with bfloat16 operands."""
    return Product(torch.bfloat16 if precision == "bfloat16" else None)
