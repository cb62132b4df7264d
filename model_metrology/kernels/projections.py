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
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

__all__ = ["Layout", "Sketch"]


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

    def add(self, target: Tensor, name: str, values: Tensor) -> None:
        """Add values (n, k) of a part to target (n, K)."""
        start = self._places[name]
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

    def add(self, target: Tensor, name: str, values: Tensor) -> None:
        """Add the projections of values (n, k) of a part to target (n, K)."""
        signs, offsets = self._of(name, values)
        for run, offset in enumerate(offsets):
            start = run * self.dim
            part, sign = values[:, start : start + self.dim], signs[start : start + self.dim]
            # Where the run wraps around.
            turn = min(self.dim - offset, part.shape[1])
            target[:, offset : offset + turn].addcmul_(part[:, :turn], sign[:turn])
            if turn < part.shape[1]:
                target[:, : part.shape[1] - turn].addcmul_(part[:, turn:], sign[turn:])

    def _of(self, name: str, values: Tensor) -> tuple[Tensor, list[int]]:
        if name not in self._drawn:
            # By numpy: the same on every device, and torch uses only 32 bits of a seed on a CPU.
            generator = np.random.default_rng([self.seed, zlib.crc32(name.encode())])
            size = values.shape[1]
            signs = torch.from_numpy(2 * generator.integers(0, 2, size, dtype=np.int8) - 1)
            offsets = generator.integers(0, self.dim, -(-size // self.dim)).tolist()
            self._drawn[name] = signs.to(values.device, values.dtype), offsets
        return self._drawn[name]
