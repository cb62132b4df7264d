r"""Random projections of gradients that keep inner products, for kernels from short vectors.

A vector g ∈ R^P becomes z ∈ R^K by a *count sketch* [1]_: coordinate i is added, with a random sign
s_i, to bucket h(i). Then E ⟨z, z'⟩ = ⟨g, g'⟩ and, with signs independent and any two coordinates in
one bucket with probability at most 1/K,

.. math:: \operatorname{Var} ⟨z, z'⟩ ≤ (‖g‖² ‖g'‖² + ⟨g, g'⟩²)/K,

the bound that a dense matrix of ±1/√K meets [2]_; the error falls as K^{-1/2}. Here g is cut into
runs of K coordinates, each rotated by its own random offset: coordinates of different runs meet
with probability 1/K, those of one run never. A projection is then a sum of rotated runs, at the
speed of reading the gradient, where the dense matrix costs K operations a coordinate.

References
----------
.. [1] M. Charikar, K. Chen, M. Farach-Colton, "Finding frequent items in data streams",
   Theoretical Computer Science 312 (2004).
.. [2] D. Achlioptas, "Database-friendly random projections", J. Comput. Syst. Sci. 66 (2003).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

__all__ = ["Layout", "Picked", "Sketch"]


@dataclass(frozen=True)
class Picked:
    """Vectors (n, size) that are zero but for few of their coordinates, as gradients of tables are.

    Attributes
    ----------
    index : Tensor of int64, shape (n, m)
        Coordinates; values at one that comes twice add up.
    values : Tensor, shape (n, m)
        Their values.
    size : int
        How many coordinates there are.
    """

    index: Tensor
    values: Tensor
    size: int

    def dense(self) -> Tensor:
        """The vectors written out."""
        vectors = self.values.new_zeros(len(self.values), self.size)
        return vectors.scatter_add_(1, self.index, self.values)


class Layout:
    """Vectors that come in named parts, side by side: in place of a projection, none.

    Parameters
    ----------
    sizes : mapping of str to int
        Length of each part.
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        ends = accumulate(sizes.values())
        self._places = {name: end - sizes[name] for name, end in zip(sizes, ends, strict=True)}
        self.dim = sum(sizes.values())

    def add(self, target: Tensor, name: str, values: Tensor | Picked) -> None:
        """Add values (n, k) of a part to target (n, K)."""
        start = self._places[name]
        if isinstance(values, Picked):
            target.scatter_add_(1, start + values.index, values.values)
            return
        target[:, start : start + values.shape[1]] += values


class Sketch:
    """A count sketch of vectors that come in named parts.

    Parameters
    ----------
    dim : int
        Length K of the projected vectors.
    seed : int
        Of signs and offsets; each part has its own, derived from its name.

    Raises
    ------
    ValueError
        If there is no such length or seed.
    """

    def __init__(self, dim: int, seed: int) -> None:
        if dim < 1:
            raise ValueError(f"dim: projected gradients need at least one number, got {dim}")
        if seed < 0:
            raise ValueError(f"seed: {seed} is negative; give a whole number from 0 on")
        self.dim, self.seed = dim, seed
        self._drawn: dict[str, tuple[Tensor, list[int]]] = {}

    def add(self, target: Tensor, name: str, values: Tensor | Picked) -> None:
        """Add the projections of values (n, k) of a part to target (n, K)."""
        if isinstance(values, Picked):
            signs, offsets = self._of(name, values.values, values.size)
            turns = torch.tensor(offsets, device=signs.device)[values.index // self.dim]
            buckets = (values.index + turns) % self.dim
            target.scatter_add_(1, buckets, values.values * signs[values.index])
            return
        signs, offsets = self._of(name, values, values.shape[1])
        for run, offset in enumerate(offsets):
            start = run * self.dim
            part, sign = values[:, start : start + self.dim], signs[start : start + self.dim]
            # Where the run wraps around.
            turn = min(self.dim - offset, part.shape[1])
            target[:, offset : offset + turn].addcmul_(part[:, :turn], sign[:turn])
            if turn < part.shape[1]:
                target[:, : part.shape[1] - turn].addcmul_(part[:, turn:], sign[turn:])

    def _of(self, name: str, values: Tensor, size: int) -> tuple[Tensor, list[int]]:
        """Signs and offsets of a part, of the values' precision and on their device."""
        if name not in self._drawn:
            # By numpy: the same on every device, and torch uses only 32 bits of a seed on a CPU.
            generator = np.random.default_rng([self.seed, zlib.crc32(name.encode())])
            signs = torch.from_numpy(2 * generator.integers(0, 2, size, dtype=np.int8) - 1)
            offsets = generator.integers(0, self.dim, -(-size // self.dim)).tolist()
            self._drawn[name] = signs.to(values.device, values.dtype), offsets
        return self._drawn[name]
