r"""Gradients of a batch in the forms whose inner products are cheapest, group by group.

A *group* is a set of parameters whose gradients are handled together. With positions p of a point
(one in a plain linear layer, the output's pixels in a convolution, the tokens in attention), inputs
u and gradients g of class c at the outputs, the gradient of a weight is :math:`\sum_p u_p ⊗ g^c_p`
and

.. math:: K(i, j) = \sum_{p, q} ⟨u_{ip}, u_{jq}⟩ \, \sum_c ⟨g^c_{ip}, g^c_{jq}⟩.

With S positions, D inputs, d outputs and C classes a pair of points costs S² (D + C d) so, and
C D d from gradients that are written out, class by class. Each group takes the cheaper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, get_args

import torch
from torch import Tensor

from model_metrology.kernels.graph import (
    Use,
    channel_axis,
    grouped_gradients,
    linear_input,
    normalised_input,
    weight_gradients,
    windows,
)

__all__ = [
    "AXES",
    "Axis",
    "Elementwise",
    "Group",
    "Grouped",
    "Outer",
    "Table",
    "as_slice",
    "group_of",
]


Axis = Literal["first", "second", "folded"]
"""Where points are in an operation's input: its first axis, or folded into it before others
(``first``); its second axis; or folded into the first axis behind others (``folded``), as in a
matrix product of tokens that come before points."""

AXES: tuple[Axis, ...] = get_args(Axis)

Index = slice | Sequence[int]
"""Some of the points of a block."""

# Bytes of inputs and gradients of some points that are multiplied at a time, one point at least:
# what a core's cache holds, and what keeps a card busy.
_CACHE, _CARD = 2**22, 2**26
# Up to so many outputs, convolutions give gradients faster than products with patches do: from
# timings on CPUs, as is the number of images side by side.
_FEW, _SIDE_BY_SIDE = 128, 32
_SEEN = 30  # roots of epsilon by which gradients at several uses of a parameter may differ


@dataclass(frozen=True)
class Group:
    """Parameters whose gradients are handled together.

    Attributes
    ----------
    names : tuple of str
        The parameters.
    axis : {"first", "second", "folded"}
        Where points are in the operations' inputs and outputs.
    """

    names: tuple[str, ...]
    axis: Axis = "first"

    def multiplied(self, heads: int) -> int:
        """Multiplications that a pair of points takes."""
        raise NotImplementedError

    def by_point(self, values: Tensor, n: int) -> Tensor:
        """Bring the axis of points to the front: (n, k, …)."""
        if self.axis == "first":
            return values.reshape(n, -1, *values.shape[1:])
        if self.axis == "folded":
            return values.reshape(-1, n, *values.shape[1:]).movedim(1, 0)
        if values.ndim < 2 or values.shape[1] != n:
            raise RuntimeError(f"points are not the second axis of {tuple(values.shape)}")
        return values.movedim(1, 0)


@dataclass(frozen=True)
class Elementwise(Group):
    """A parameter that is added or multiplied, broadcast over points: its gradient is a sum."""

    shape: tuple[int, ...] = ()

    def multiplied(self, heads: int) -> int:  # noqa: D102
        return heads * math.prod(self.shape)

    def rows(self, uses: Sequence[Use], heads: Sequence[Sequence[Tensor]], n: int) -> Tensor:
        """Gradients (n, q k) from those at the outputs of the uses, for each of q heads."""
        total: Tensor | float = 0.0
        for i, use in enumerate(uses):
            gradients = [head[i] for head in heads]
            x = normalised_input(use, gradients[0].shape) if use.kind == "scale" else None
            parts = [self._summed(use, g if x is None else g * x, n) for g in gradients]
            total = total + use.factor * torch.cat(parts, dim=1)
        assert torch.is_tensor(total)
        return total

    def _summed(self, use: Use, g: Tensor, n: int) -> Tensor:
        """Sum over all axes but the first that the parameter does not have, or has once."""
        axis = channel_axis(use)
        if axis is not None:
            g = g.movedim(axis, -1)
        g = self.by_point(g, n)
        shape = (1,) * (g.ndim - 1 - len(self.shape)) + self.shape
        away = [i + 1 for i, size in enumerate(shape) if size == 1 and g.shape[i + 1] != 1]
        return (g.sum(dim=away) if away else g).reshape(n, -1)


@dataclass(frozen=True)
class Grouped(Group):
    """The weight of a convolution in several groups: small, so that gradients are written out."""

    numbers: int = 0

    def multiplied(self, heads: int) -> int:  # noqa: D102
        return heads * self.numbers

    def rows(self, uses: Sequence[Use], heads: Sequence[Sequence[Tensor]], n: int) -> Tensor:
        """Gradients (n, q k) from those at the outputs of the uses, for each of q heads."""
        total: Tensor | float = 0.0
        for i, use in enumerate(uses):
            groups = use.saved("groups")
            g = torch.cat([h[i].unflatten(1, (groups, -1)) for h in heads], dim=2).flatten(1, 2)
            by_image = grouped_gradients(use, use.saved("input"), g).unflatten(1, (groups, -1))
            rows = self.by_point(by_image, n).sum(dim=1)  # (n, groups, q d, D)
            rows = rows.unflatten(2, (len(heads), -1)).transpose(1, 2)
            total = total + use.factor * rows.flatten(1)
        assert torch.is_tensor(total)
        return total


@dataclass(frozen=True)
class Outer(Group):
    """A weight whose gradient is a sum of outer products u ⊗ g over positions.

    Attributes
    ----------
    convolution : bool
        Inputs are patches of images; otherwise rows.
    bias : bool
        The bias that goes with the weight is in the group: u ends with a 1.
    positions, inputs, outputs : int
        S, D (with the bias) and d.
    late : bool
        Gradients are formed class by class; otherwise outer products are multiplied as they are.
    """

    convolution: bool = False
    bias: bool = False
    positions: int = 1
    inputs: int = 1
    outputs: int = 1
    late: bool = False

    def multiplied(self, heads: int) -> int:  # noqa: D102
        if self.late:
            return heads * self.inputs * self.outputs
        return self.positions**2 * (self.inputs + heads * self.outputs)

    def read(self, uses: Sequence[Use], n: int) -> list[Tensor]:
        """What :meth:`patches` is made of, points first."""
        if self.convolution:
            return [self.by_point(use.saved("input"), n) for use in uses]
        return [_scaled(self.by_point(linear_input(use), n), use.factor) for use in uses]

    def patches(self, uses: Sequence[Use], read: Sequence[Tensor], index: Index) -> Tensor:
        """Inputs (b, D, S) of some of the points; several uses are further positions."""
        parts = []
        for use, values in zip(uses, read, strict=True):
            some = values[index]
            if self.convolution:
                seen = windows(use, some.flatten(0, 1)).unflatten(0, some.shape[:2])
                part = seen.movedim(1, some.ndim - 1)  # (b, C, kernel…, k, positions…)
            else:
                part = some.flatten(1, -2).transpose(1, 2)
            parts.append(part)
        if len(parts) == 1 and not self.convolution and not self.bias:
            return parts[0]
        inputs = read[0].ndim - 2 if self.convolution else 1  # how many axes
        shape = parts[0].shape[1 : 1 + inputs]
        ends = list(accumulate(math.prod(part.shape[1 + inputs :]) for part in parts))
        u = parts[0].new_empty(len(parts[0]), math.prod(shape) + self.bias, ends[-1])
        u[:, math.prod(shape) :] = 1.0
        of_weight = u[:, : math.prod(shape)].unflatten(1, shape)
        for use, part, start, end in zip(uses, parts, [0, *ends[:-1]], ends, strict=True):
            place = of_weight[..., start:end].unflatten(-1, part.shape[1 + inputs :])
            place.copy_(part)
            if self.convolution and use.factor != 1.0:
                place *= use.factor
        return u

    def formed(
        self,
        uses: Sequence[Use],
        read: Sequence[Tensor],
        gradients: Sequence[Tensor],
        index: Sequence[int],
        outputs: slice = slice(None),
        out: Tensor | None = None,
    ) -> Tensor:
        """Gradients (b, d, D) of some points and some outputs; the bias is the last of D.

        Parameters
        ----------
        uses, read
            Where the weight enters, and what :meth:`read` gave for these.
        gradients : sequence of Tensor
            Of each use, points first, (n, k, d, …) for convolutions and (n, k, d) otherwise; the
            outputs of several heads may be side by side.
        index, outputs
            Which points and outputs.
        out : Tensor, shape (b, d, D), optional
            Where to write.
        """
        parts = [g[:, :, outputs] if self.convolution else g[..., outputs] for g in gradients]
        if out is None:
            d = parts[0].shape[2 if self.convolution else -1]
            out = parts[0].new_empty(len(index), d, self.inputs)
        by_convolutions = self.convolution and out.shape[1] <= _FEW
        room = _CACHE if out.device.type == "cpu" else _CARD
        each = out.element_size() * self.positions * (self.inputs + out.shape[1])
        step = _SIDE_BY_SIDE if by_convolutions else max(room // each, 1)
        for start in range(0, len(index), step):
            some, to = as_slice(index[start : start + step]), out[start : start + step]
            if by_convolutions:
                self._convolve(uses, [v[some] for v in read], [part[some] for part in parts], to)
                continue
            u = self.patches(uses, read, some)
            by_use = [self.columns(part[some]) for part in parts]
            g = by_use[0] if len(by_use) == 1 else torch.cat(by_use, dim=2)
            torch.bmm(g, u.transpose(1, 2), out=to)
        return out

    def _convolve(
        self, uses: Sequence[Use], read: Sequence[Tensor], gradients: Sequence[Tensor], out: Tensor
    ) -> None:
        """Write gradients by convolutions: where outputs are few, patches take longer to make."""
        weight = out[..., :-1] if self.bias else out
        for i, (use, u, g) in enumerate(zip(uses, read, gradients, strict=True)):
            by_image = weight_gradients(use, u.flatten(0, 1), g.flatten(0, 1))
            by_point = by_image.unflatten(0, g.shape[:2]).sum(dim=1) if g.shape[1] > 1 else by_image
            if i == 0:
                torch.mul(by_point, use.factor, out=weight)
            else:
                weight.add_(by_point, alpha=use.factor)
            if self.bias:
                out[..., -1] = g.flatten(3).sum(dim=(1, 3))

    def columns(self, g: Tensor) -> Tensor:
        """Gradients (b, d, S) at the outputs of one use."""
        if self.convolution:
            return g.flatten(3).transpose(1, 2).flatten(2)
        return g.flatten(1, -2).transpose(1, 2)

    def sorted_gradients(self, heads: Sequence[Sequence[Tensor]], n: int) -> list[Tensor]:
        """Gradients at the outputs of each use, points first, those of q heads side by side."""
        axis = 2 if self.convolution else -1
        return [
            torch.cat([self.by_point(g, n) for g in of_use], dim=axis)
            if len(of_use) > 1
            else self.by_point(of_use[0], n)
            for of_use in zip(*heads, strict=True)
        ]

    def outer(self, gradients: Sequence[Tensor], n: int) -> Tensor:
        """Gradients (n, S, d) at the outputs."""
        parts = []
        for g in gradients:
            if self.convolution:
                g = g.flatten(2).transpose(1, 2)
            parts.append(self.by_point(g, n).flatten(1, -2))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


@dataclass(frozen=True)
class Table(Group):
    """Rows of a table picked by index, as by an embedding: u is one-hot."""

    positions: int = 1
    outputs: int = 1

    def multiplied(self, heads: int) -> int:  # noqa: D102
        return self.positions**2 * heads * self.outputs

    def read(self, uses: Sequence[Use], n: int) -> Tensor:
        """Indices (n, S) of the rows picked; -1 for padding, whose row has no gradient."""
        parts = []
        for use in uses:
            index = use.saved("indices")
            if use.saved("padding_idx") >= 0:
                index = index.masked_fill(index == use.saved("padding_idx"), -1)
            parts.append(self.by_point(index, n).flatten(1))
        return torch.cat(parts, dim=1)

    def outer(self, gradients: Sequence[Tensor], n: int) -> Tensor:
        """Gradients (n, S, d) at the outputs."""
        return torch.cat([self.by_point(g, n).flatten(1, -2) for g in gradients], dim=1)


def as_slice(index: Sequence[int]) -> Index:
    """The same points without a copy, where they follow one another."""
    return slice(index.start, index.stop, index.step) if isinstance(index, range) else index


def _scaled(values: Tensor, factor: float) -> Tensor:
    return values if factor == 1.0 else factor * values


def group_of(
    names: Sequence[str],
    shape: Sequence[int],
    uses: Sequence[Use],
    gradients: Sequence[Tensor],
    n: int,
    *,
    heads: int,
    axis: Axis,
) -> Elementwise | Grouped | Outer | Table | None:
    """The group of a parameter's uses, or None if there is none.

    Parameters
    ----------
    names : sequence of str
        The parameter, and the bias that enters the same single operation.
    shape : sequence of int
        The parameter's shape.
    uses : sequence of Use
        Where the parameter enters.
    gradients : sequence of Tensor
        Of the uses, for n points.
    heads : int
        Number of classes C.
    axis : {"first", "second", "folded"}
        Where points are.
    """
    # One axis is taken for all uses, so all must be seen: one whose gradient vanishes at these
    # points, behind a dead unit say, could have another and be alive at others.
    norms = [float(torch.linalg.vector_norm(g)) for g in gradients]
    if len(uses) > 1 and min(norms) <= _SEEN * torch.finfo(gradients[0].dtype).eps ** 0.5 * max(
        norms
    ):
        return None
    name, kinds = tuple(names), {use.kind for use in uses}
    if kinds <= {"scale", "shift"}:
        return Elementwise(name, axis, tuple(shape))
    if len(kinds) > 1:
        return None
    kind = kinds.pop()
    if kind == "embedding":
        g = Table(name, axis).outer(gradients, n)
        return Table(name, axis, g.shape[1], g.shape[2])
    convolution = kind == "convolution"
    if convolution and any(use.saved("groups") > 1 for use in uses):
        return Grouped(name, axis, math.prod(shape)) if len(name) == 1 else None
    bare = Outer(name, axis, convolution, len(name) > 1)
    g, u = bare.outer(gradients, n), bare.patches(uses, bare.read(uses, n), slice(0, 1))
    (positions, outputs), inputs = g.shape[1:], u.shape[1]
    if u.shape[2] != positions:
        return None
    forms = [
        Outer(name, axis, convolution, bare.bias, positions, inputs, outputs, late)
        for late in (True, False)
    ]
    return min(forms, key=lambda form: form.multiplied(heads))
