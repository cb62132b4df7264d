r"""Blocks of tangent kernels: inner products of gradients, without the gradients where possible.

A *head* is a vector w of weights over classes; the gradients meant are those of w·f(x). The trace
kernel sums over the heads e_1, …, e_C, the pseudo kernel has the one head (1, …, 1).
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.func import functional_call, grad, vmap

from model_metrology.kernels.blocks import (
    Product,
    Progress,
    add_product,
    add_upper,
    mirrored,
    product_in,
    squared_norms,
)
from model_metrology.kernels.forms import (
    AXES,
    Axis,
    Elementwise,
    Group,
    Grouped,
    Outer,
    Table,
    as_slice,
    group_of,
)
from model_metrology.kernels.graph import Use, uses_of
from model_metrology.kernels.projections import Picked

__all__ = ["Gradients", "Plan", "make_plan"]

logger = logging.getLogger(__name__)

Signature = tuple[tuple[str, str], ...]
# Multiplications that take as long as to fill a byte of memory that is new to the process.
_PER_BYTE = 50
# Times the multiplications, where gradients are computed once instead of again for each pair of
# blocks: a small convolutional network took three times as long with half as many.
_SPARED = 5
# Patches below this share of what is computed for each head are made again for each of them.
_PATCHES = 0.1
_PROBE_SCRATCH = 1e8  # bytes of intermediate results when comparing
_DIFFERENT = 0.05  # of a gradient, between a batch and a point alone
_MAPPED = 32  # points differentiated at once by torch.func


@dataclass(frozen=True)
class Plan:
    """How each parameter's gradients are computed.

    Attributes
    ----------
    parameters : dict of str to Parameter
        Those whose gradients are meant.
    heads : Tensor, shape (Q, C)
        Weights over classes.
    groups : tuple of Group
        Groups that are read from the graph.
    rest : tuple of str
        Parameters that are left to per-sample gradients.
    mapped : bool
        Whether torch.vmap can follow the model; otherwise these go point by point.
    signature : dict
        How each parameter is used: the same in every batch, or the plan does not fit.
    kept, passing : int
        Bytes that a point of a block keeps for all heads, and those that each head under way adds.
    """

    parameters: Mapping[str, nn.Parameter]
    heads: Tensor
    groups: tuple[Group, ...] = ()
    rest: tuple[str, ...] = ()
    mapped: bool = True
    signature: Mapping[str, Signature] = field(default_factory=dict)
    kept: int = 0
    passing: int = 0

    def at_once(self, bytes_free: float, points: int) -> int:
        """How many heads to differentiate together: patches of images are made once for all."""
        if self._patch_bytes() < _PATCHES * self.passing:
            return 1
        # As many as leave room for all points; else as much for gradients as for activations.
        spare = bytes_free / points - self.kept
        fitting = int(min(spare // max(self.passing, 1), len(self.heads)))
        if fitting >= 1:
            return fitting
        return max(min(self.kept // max(self.passing, 1), len(self.heads)), 1)

    def _patch_bytes(self) -> int:
        """Bytes of a point's patches of images, where gradients are formed from these."""
        late = [g for g in self.groups if isinstance(g, Outer) and g.convolution and g.late]
        numbers = sum(group.positions * group.inputs for group in late)
        return numbers * self.heads.element_size()

    def written_bytes(self) -> int:
        """Bytes of a point's gradients when written out."""
        one = next(iter(self.parameters.values()))
        numbers = sum(parameter.numel() for parameter in self.parameters.values())
        return len(self.heads) * numbers * one.element_size()

    def best_written(self, heads_at_once: int, bytes_free: float, points: int) -> bool:
        """Whether to write gradients out: for less memory, and not too many multiplications more.

        Parameters
        ----------
        heads_at_once : int
            Heads that would be differentiated together otherwise.
        bytes_free : float
            Memory for all that is held of points.
        points : int
            How many points there are.
        """
        heads, size = len(self.heads), self.written_bytes()
        spared_bytes = self.point_bytes(heads_at_once) - size
        written = heads * sum(parameter.numel() for parameter in self.parameters.values())
        formed = sum(group.multiplied(heads) for group in self.groups)
        formed += heads * sum(self.parameters[name].numel() for name in self.rest)
        if points * size <= bytes_free < points * (size + spared_bytes):
            # Otherwise gradients are computed again for each pair of blocks.
            return written <= _SPARED * formed
        more = (written - formed) * points / 2
        return spared_bytes > 0 and more <= _PER_BYTE * spared_bytes

    def point_bytes(self, heads: int) -> int:
        """Bytes that a point of a block takes."""
        return self.kept + heads * self.passing


def make_plan(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    heads: Tensor,
    probe: Tensor,
    activations: int,
) -> Plan:
    """Find the form of each parameter's gradients, and compare it with plain gradients.

    Parameters
    ----------
    model : Module
        In evaluation mode.
    parameters : mapping of str to Parameter
        Whose gradients are meant.
    heads : Tensor, shape (Q, C)
        Weights over classes.
    probe : Tensor, shape (p, …)
        Different points, few.
    activations : int
        Bytes that differentiating one point keeps.
    """
    # One head alone, and all with random signs, so that no class's own layers are overlooked.
    signs = torch.randint(0, 2, (len(heads),), generator=torch.Generator().manual_seed(0)) * 2 - 1
    few = torch.stack([heads[0], signs.to(heads) @ heads])[: len(heads)]
    found, of_twin = _agreeing_groups(*_in_double(model, parameters, few, probe), len(heads))
    with torch.enable_grad():
        outputs = model(probe)
    used = uses_of(outputs, parameters)
    # In float64 the computation may be another, without autocast say.
    groups = [
        group
        for group in found
        if all(used[n] and _signature(used[n]) == of_twin[n] for n in group.names)
    ]
    covered = {name for group in groups for name in group.names}
    # A parameter that the outputs do not depend on at all adds nothing.
    rest = tuple(n for n in parameters if n not in covered and used[n] != [])
    if rest:
        logger.info("per-sample gradients by torch.func for %s", ", ".join(rest))
    mapped = not rest or _vmap_works(model, {n: parameters[n] for n in rest}, few[0], probe)
    signature = {name: _signature(used[name]) for name in parameters if name not in rest}
    kept = activations + _kept_bytes(groups, rest, len(heads), parameters)
    gradients = _at_nodes(outputs, heads[0], [uses or [] for uses in used.values()])
    passing = sum(g.nbytes for g in gradients.values()) // len(probe)
    return Plan(parameters, heads, tuple(groups), rest, mapped, signature, kept, passing)


def _signature(uses: Sequence[Use] | None) -> Signature:
    return tuple(use.sign() for use in uses or ())


def _kept_bytes(
    groups: Sequence[Group],
    rest: Sequence[str],
    heads: int,
    parameters: Mapping[str, nn.Parameter],
) -> int:
    """Bytes that are kept of a point for the inner products of its block."""
    numbers = sum(parameters[name].numel() for name in rest)
    for group in groups:
        if isinstance(group, Outer | Table):
            late = isinstance(group, Outer) and group.late
            numbers += group.positions * group.outputs * (1 if late else heads)
        else:
            numbers += heads * sum(parameters[name].numel() for name in group.names)
    return numbers * next(iter(parameters.values())).element_size()


def _in_double(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], heads: Tensor, probe: Tensor
) -> tuple[nn.Module, Mapping[str, nn.Parameter], Tensor, Tensor]:
    """A copy in float64, in which rounding moves no point over a kink; itself if that fails."""
    points = probe.double() if probe.is_floating_point() else probe
    try:
        twin = copy.deepcopy(model).double()
        with torch.no_grad():
            twin(points)
    except (RuntimeError, TypeError) as error:
        logger.info("forms are compared in the model's own precision: %s", error)
        return model, parameters, heads, probe
    by_name = dict(twin.named_parameters())
    return twin, {name: by_name[name] for name in parameters}, heads.double(), points


def _at_nodes(outputs: Tensor, head: Tensor, uses: Iterable[Sequence[Use]]) -> dict[Node, Tensor]:
    """Gradients of a head at the outputs of the operations of all uses."""
    edges = {use.node: use.edge for of_one in uses for use in of_one}
    if not edges:
        return {}
    with torch.enable_grad():
        total = (outputs @ head).sum()
    gradients = torch.autograd.grad(
        total, list(edges.values()), retain_graph=True, materialize_grads=True
    )
    return dict(zip(edges, gradients, strict=True))


def _plain_kernels(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], heads: Tensor, probe: Tensor
) -> dict[str, Tensor]:
    """Kernel (p, p) of each parameter alone, from gradients of single points."""
    wanted = list(parameters.values())
    kernels = {
        name: torch.zeros(len(probe), len(probe), dtype=torch.float64) for name in parameters
    }
    with torch.enable_grad():
        outputs = [model(point[None])[0] for point in probe]
    if not outputs[0].requires_grad:
        return kernels
    for head in heads:
        rows = [
            torch.autograd.grad(f @ head, wanted, retain_graph=True, materialize_grads=True)
            for f in outputs
        ]
        for i, name in enumerate(parameters):
            stacked = torch.stack([row[i].to_dense().flatten() for row in rows]).double()
            kernels[name] += (stacked @ stacked.T).cpu()
    return kernels


def _agreeing_groups(
    model: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    few: Tensor,
    probe: Tensor,
    heads: int,
) -> tuple[list[Group], dict[str, Signature]]:
    """Groups whose kernels are those of plain gradients, and how their parameters are used."""
    expected = _plain_kernels(model, parameters, few, probe)
    with torch.enable_grad():
        outputs = model(probe)
    used = uses_of(outputs, parameters)
    known = {name: uses for name, uses in used.items() if uses}
    at = _at_nodes(outputs, few[0], known.values())
    left, found = list(_with_biases(known)), []
    for axis in AXES:
        if not left:
            break
        candidates = [
            group
            for names in left
            if (group := _candidate(names, parameters, known, at, len(probe), heads, axis))
        ]
        plan = Plan(parameters, few, tuple(candidates))
        kernels = Gradients(plan, model, probe, _PROBE_SCRATCH).by_group()
        for group, kernel in zip(candidates, kernels, strict=True):
            target = torch.stack([expected[name] for name in group.names]).sum(dim=0)
            if _agree(kernel, target, few.dtype):
                found.append(group)
                left.remove(group.names)
    return found, {name: _signature(uses) for name, uses in known.items()}


def _candidate(
    names: tuple[str, ...],
    parameters: Mapping[str, nn.Parameter],
    used: Mapping[str, list[Use]],
    at: Mapping[Node, Tensor],
    n: int,
    heads: int,
    axis: Axis,
) -> Group | None:
    """A group for parameters, if shapes allow."""
    uses, shape = used[names[0]], parameters[names[0]].shape
    gradients = [at[use.node] for use in uses]
    try:
        group = group_of(names, shape, uses, gradients, n, heads=heads, axis=axis)
        if isinstance(group, Elementwise | Grouped):
            rows = group.rows(uses, [gradients], n)
            return group if rows.shape == (n, parameters[names[0]].numel()) else None
        return group
    except (RuntimeError, ValueError, IndexError, AttributeError) as error:
        # A shape that does not fit, or a tensor that was changed in place since.
        logger.debug("%s: %s", names, error)
        return None


def _agree(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    # Sums are taken in another order; a wrong form is wrong by its own size. Where the gradient
    # vanishes at all points that were tried, nothing has been seen to agree.
    size, difference = float(expected.norm()), float((found.cpu() - expected).norm())
    return size > 0 and difference <= 3 * torch.finfo(dtype).eps ** 0.5 * size


def _with_biases(used: Mapping[str, Sequence[Use]]) -> Iterator[tuple[str, ...]]:
    """Names of parameters to be handled together: a weight, and the bias of its one operation."""
    biases = {
        uses[0].node: name
        for name, uses in used.items()
        if len(uses) == 1 and uses[0].kind == "shift" and uses[0].factor == 1.0
    }
    joined: dict[str, str] = {}
    for name, uses in used.items():
        if len(uses) == 1 and uses[0].kind in ("linear", "convolution"):
            use = uses[0]
            fits = use.node.name() in ("AddmmBackward0", "ConvolutionBackward0")
            grouped = use.kind == "convolution" and use.saved("groups") > 1
            if fits and not grouped and use.node in biases and use.factor == 1.0:
                joined[name] = biases[use.node]
    for name in used:
        if name not in joined.values():
            yield (name, joined[name]) if name in joined else (name,)


# -- gradients of a block of points ------------------------------------------------------------


class Gradients:
    """Gradients of a block of points, in the forms of a plan.

    Parameters
    ----------
    plan : Plan
        How.
    model : Module
        Whose.
    points : Tensor, shape (n, …)
        Where, on the model's device.
    scratch : float
        Bytes for intermediate results.
    product : callable
        Matrix product a bᵀ, in the precision wanted.
    heads_at_once : int
        Heads to differentiate before their inner products are taken.
    """

    def __init__(
        self,
        plan: Plan,
        model: nn.Module,
        points: Tensor,
        scratch: float,
        product: Product | None = None,
        heads_at_once: int = 1,
    ) -> None:
        # A batch of one may be computed in other ways: a single point goes twice.
        self.shown = len(points)
        points = torch.cat([points, points]) if len(points) == 1 else points
        self.plan, self.model, self.points, self.scratch = plan, model, points, scratch
        self.heads_at_once = heads_at_once
        self.product: Product = product or product_in("model")
        self.n = len(points)
        with torch.enable_grad():
            computed = model(points)
        self._computed, self.outputs = computed, computed.detach()[: self.shown]
        names = dict.fromkeys(name for group in plan.groups for name in group.names)
        names |= dict.fromkeys(plan.signature)
        used = uses_of(computed, {name: plan.parameters[name] for name in names})
        self.uses = [used[group.names[0]] or [] for group in plan.groups]
        for name, expected in plan.signature.items():
            if _signature(used[name]) != expected:
                raise ValueError(
                    f"model: it uses {name} in another way for some points than for others; a "
                    "kernel needs one and the same computation for all"
                )
        self.read = [
            group.read(uses, self.n) if isinstance(group, Outer | Table) else None
            for group, uses in zip(plan.groups, self.uses, strict=True)
        ]
        self._seen = not plan.signature  # while forms are tried they are compared elsewhere

    def at_outputs(self, head: Tensor) -> list[list[Tensor]]:
        """For each group, gradients of a head at the outputs of the group's operations."""
        by_node = _at_nodes(self._computed, head, self.uses)
        at = [[by_node[use.node] for use in uses] for uses in self.uses]
        if by_node and not self._seen:
            self._seen = True
            self._compare(head, at)
        return at

    def _compare(self, head: Tensor, at: list[list[Tensor]]) -> None:
        """Raise ValueError if gradients of two points are not those of these points alone.

        What was seen at a few points when forms were chosen need not hold at others: a network may
        sort its points, or send them different ways.
        """
        names = [name for group in self.plan.groups for name in group.names]
        wanted = [self.plan.parameters[name] for name in names]
        index = sorted({self.n // 2, self.n - 1})
        plain = []
        for i in index:
            with torch.enable_grad():
                logit = self.model(self.points[i : i + 1])[0] @ head
            alone = torch.autograd.grad(logit, wanted, materialize_grads=True)
            plain.append(dict(zip(names, alone, strict=True)))
        total, different = 0.0, 0.0
        for i, group in enumerate(self.plan.groups):
            for name, values in self._of_group(group, i, at[i], index):
                expected = torch.stack([one[name].to_dense().flatten() for one in plain])
                values = values.dense() if isinstance(values, Picked) else values
                total += float(expected.double().square().sum())
                different += float((values - expected).double().square().sum())
        # Rounding moves points over kinks, single precision more of them.
        if different**0.5 > _DIFFERENT * total**0.5:
            raise ValueError(
                "model: gradients of a point change with the other points of its batch (by "
                f"{(different / total) ** 0.5:.0%}); let its forward take the points one by one"
            )

    def with_itself(self) -> Tensor:
        """Inner products (n, n) in float64, symmetric to the last bit."""
        kernel = _Sum([self])
        kernel.add_all()
        return mirrored(kernel.values)[: self.shown, : self.shown]

    def with_others(self, others: Gradients) -> tuple[Tensor, Tensor, Tensor]:
        """Inner products (n, m) with gradients of other points, and both squared norms; float64."""
        kernel = _Sum([self, others])
        kernel.add_all()
        (rows, columns), (n, m) = kernel.squares, (self.shown, others.shown)
        return kernel.values[:n, :m], rows[:n], columns[:m]

    def by_group(self) -> list[Tensor]:
        """Inner products (n, n) of each group alone."""
        kernel = _Sum([self])
        return [mirrored(values) for values in kernel.add_all(apart=True)]

    def rest(self, heads: Tensor) -> Tensor:
        """Gradients (n, q k) of q heads with respect to the parameters left to torch.func."""
        parameters = {name: self.plan.parameters[name] for name in self.plan.rest}
        compute = _by_vmap if self.plan.mapped else _one_by_one
        parts = self.points.split(_MAPPED)
        return torch.cat(
            [
                torch.cat([compute(self.model, parameters, head, part) for part in parts])
                for head in heads
            ],
            dim=1,
        )

    def rows(self, head: Tensor) -> Iterator[tuple[str, Tensor | Picked]]:
        """Gradients (n, k) of a head by parameter, each in the parameter's own layout."""
        at = self.at_outputs(head)
        for i, group in enumerate(self.plan.groups):
            yield from self._of_group(group, i, at[i], range(self.shown))
        if self.plan.rest:
            sizes = [self.plan.parameters[name].numel() for name in self.plan.rest]
            parts = self.rest(head[None])[: self.shown].split(sizes, dim=1)
            yield from zip(self.plan.rest, parts, strict=True)

    def _of_group(
        self, group: Group, i: int, at: Sequence[Tensor], index: Sequence[int]
    ) -> Iterator[tuple[str, Tensor | Picked]]:
        """Gradients of a group's parameters at some points."""
        chosen = as_slice(index)
        if isinstance(group, Elementwise | Grouped):
            yield group.names[0], group.rows(self.uses[i], [at], self.n)[chosen]
        elif isinstance(group, Table):
            g, rows = group.outer(at, self.n)[chosen], self.index(i)[chosen][..., None]
            g = g.masked_fill(rows < 0, 0.0)  # padding
            columns = torch.arange(group.outputs, device=g.device)
            coordinates = rows.clamp(min=0) * group.outputs + columns
            size = self.plan.parameters[group.names[0]].numel()
            yield group.names[0], Picked(coordinates.flatten(1), g.flatten(1), size)
        elif isinstance(group, Outer):
            g_sorted = group.sorted_gradients([at], self.n)
            # The weight's alone, so that it need not be copied from beside the bias.
            bare = replace(group, bias=False, inputs=group.inputs - group.bias)
            weight = bare.formed(self.uses[i], self.inputs(i), g_sorted, index)
            turned = self.uses[i][0].turned or group.convolution
            yield group.names[0], (weight if turned else weight.transpose(1, 2)).flatten(1)
            if group.bias:
                yield group.names[1], group.columns(g_sorted[0][chosen]).sum(dim=2)

    def patches(self, group: Outer, i: int, start: int, stop: int) -> Tensor:
        """Inputs (b, D, S) of some of the points to the operations of group `i`."""
        return group.patches(self.uses[i], self.inputs(i), slice(start, stop))

    def inputs(self, i: int) -> list[Tensor]:
        """What the operations of group `i` multiplied its weight by, points first."""
        read = self.read[i]
        assert isinstance(read, list)
        return read

    def index(self, i: int) -> Tensor:
        """Indices (n, S) of the rows of a table that group `i` is."""
        read = self.read[i]
        assert torch.is_tensor(read)
        return read


class _Sum:
    """Inner products of gradients, summed over heads and groups.

    Parameters
    ----------
    sides : sequence of Gradients
        Of the rows and of the columns; or of both, and then only what is on and above the diagonal
        is computed.
    """

    def __init__(self, sides: Sequence[Gradients]) -> None:
        self.sides, self.plan, self.symmetric = sides, sides[0].plan, len(sides) == 1
        self.values = self._zeros(sides[0].n, sides[-1].n)
        self.squares = [] if self.symmetric else [self._zeros(side.n) for side in sides]
        self.product, self.scratch = sides[0].product, sides[0].scratch
        self._rooms: dict[int, Tensor] = {}

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64, device=self.sides[0].points.device)

    def add_all(self, *, apart: bool = False) -> list[Tensor]:
        """Add everything; with `apart`, return what each group gives alone."""
        groups, plan = self.plan.groups, self.plan
        into = [torch.zeros_like(self.values) if apart else self.values for _ in groups]
        kept: list[list[list[Tensor]]] = [[[] for _ in self.sides] for _ in groups]
        progress = Progress("inner products of a block", len(plan.heads))
        for heads in plan.heads.split(self.sides[0].heads_at_once):
            at = [[side.at_outputs(head) for head in heads] for side in self.sides]
            for i, group in enumerate(groups):
                # By side, by head, by use; dropped from `at`, so that memory is free again.
                gradients = [[head[i] for head in of_side] for of_side in at]
                for of_side in at:
                    for of_head in of_side:
                        of_head[i] = []
                self._add_or_keep(into[i], group, i, gradients, kept[i])
            if plan.rest:
                self._add_rows(self.values, [side.rest(heads) for side in self.sides])
            progress.add(len(heads))
        self._rooms.clear()
        for i, group in enumerate(groups):
            if isinstance(group, Elementwise | Grouped):
                self._add_rows(into[i], [torch.cat(store, dim=1) for store in kept[i]])
            elif kept[i][0]:
                self._add_pairs(into[i], group, i, [torch.cat(store, dim=2) for store in kept[i]])
            kept[i].clear()
        return into

    def _add_or_keep(
        self,
        into: Tensor,
        group: Group,
        i: int,
        gradients: Sequence[Sequence[Sequence[Tensor]]],
        kept: Sequence[list[Tensor]],
    ) -> None:
        if isinstance(group, Elementwise | Grouped):
            for side, heads, store in zip(self.sides, gradients, kept, strict=True):
                store.append(group.rows(side.uses[i], heads, side.n))
            return
        assert isinstance(group, Outer | Table)
        if isinstance(group, Outer) and group.late:
            self._add_late(into, group, i, gradients)
            return
        for side, heads, store in zip(self.sides, gradients, kept, strict=True):
            store.append(torch.cat([group.outer(head, side.n) for head in heads], dim=2))

    def _add_rows(self, into: Tensor, rows: Sequence[Tensor]) -> None:
        """Add inner products of rows."""
        if self.symmetric:
            add_upper(into, rows[0], self.product)
            return
        add_product(into, rows[0], rows[1], self.product)
        for squares, side in zip(self.squares, rows, strict=True):
            squares += squared_norms(side)

    def _add_late(
        self,
        into: Tensor,
        group: Outer,
        i: int,
        gradients: Sequence[Sequence[Sequence[Tensor]]],
    ) -> None:
        """Add what some heads give, their gradients formed some outputs at a time."""
        g = [
            group.sorted_gradients(heads, side.n)
            for side, heads in zip(self.sides, gradients, strict=True)
        ]
        size = g[0][0].element_size() * group.inputs * sum(side.n for side in self.sides)
        outputs = group.outputs * len(gradients[0])
        step = _fit(self.scratch, size)
        for start in range(0, outputs, step):
            some = slice(start, min(start + step, outputs))
            rows = []
            for k, (side, sorted_g) in enumerate(zip(self.sides, g, strict=True)):
                out = self._room(k, sorted_g[0], side.n, some.stop - start, group.inputs)
                of_side = side.uses[i], side.inputs(i), sorted_g, range(side.n)
                rows.append(group.formed(*of_side, outputs=some, out=out).flatten(1))
            self._add_rows(into, rows)

    def _room(self, k: int, like: Tensor, *shape: int) -> Tensor:
        """Memory for the rows of a side: the same each time, as a system is slow to give new."""
        size, room = math.prod(shape), self._rooms.get(k)
        if room is None or len(room) < size or room.dtype != like.dtype:
            del room
            self._rooms.pop(k, None)  # first, so that both are not there together
            self._rooms[k] = room = like.new_empty(size)
        return room[:size].view(shape)

    def _add_pairs(self, into: Tensor, group: Group, i: int, g: Sequence[Tensor]) -> None:
        """Add Σ_pq ⟨u_ip, u_jq⟩⟨g_ip, g_jq⟩, tile by tile."""
        n, m = into.shape
        size = g[0].element_size() * g[0].shape[1] * g[-1].shape[1]
        tile = _fit(self.scratch / 2, size)  # pairs of points
        step = max(min(int(tile**0.5), max(n // 8, 64) if self.symmetric else m), 1)
        for start in range(0, m, step):
            stop = min(start + step, m)
            right = _inputs(self.sides[-1], group, i, start, stop)
            end = stop if self.symmetric else n
            height = max(tile // step, 1)
            for top in range(0, end, height):
                bottom = min(top + height, end)
                left = _inputs(self.sides[0], group, i, top, bottom)
                both = (g[0][top:bottom], g[-1][start:stop])
                into[top:bottom, start:stop] += _pairs(left, right, *both, self.product)
        for squares, side, outer in zip(self.squares, self.sides, g, strict=False):
            for start in range(0, side.n, step):
                u = _inputs(side, group, i, start, start + step)
                squares[start : start + step] += _own_pairs(u, outer[start : start + step])


def _fit(scratch: float, size: int) -> int:
    """How many things of `size` bytes fit, at least one."""
    return max(int(scratch // max(size, 1)), 1)


def _inputs(side: Gradients, group: Group, i: int, start: int, stop: int) -> Tensor:
    """Inputs (b, S, D), or indices (b, S) of a table's rows."""
    if isinstance(group, Outer):
        return side.patches(group, i, start, stop).transpose(1, 2)
    return side.index(i)[start:stop]


def _pairs(u: Tensor, v: Tensor, g: Tensor, h: Tensor, product: Product) -> Tensor:
    """Σ_pq ⟨u_ip, v_jq⟩⟨g_ip, h_jq⟩ for all i and j."""
    (n, s), (m, t) = g.shape[:2], h.shape[:2]
    weights = product(g.reshape(n * s, -1), h.reshape(m * t, -1))
    if u.ndim == 2:
        weights *= (u.reshape(-1, 1) == v.reshape(1, -1)) & (u.reshape(-1, 1) >= 0)
    else:
        weights *= product(u.reshape(n * s, -1), v.reshape(m * t, -1))
    if s == t == 1:
        return weights
    return weights.view(n, s, m * t).sum(dim=1).view(n, m, t).sum(dim=2)


def _own_pairs(u: Tensor, g: Tensor) -> Tensor:
    """Σ_pq ⟨u_ip, u_iq⟩⟨g_ip, g_iq⟩ for each i, in float64."""
    weights = g @ g.transpose(1, 2)
    if u.ndim == 2:
        weights = weights * ((u[:, :, None] == u[:, None]) & (u[:, :, None] >= 0))
    else:
        weights = weights * (u @ u.transpose(1, 2))
    return weights.sum(dim=(1, 2), dtype=torch.float64)


# -- what the graph does not give --------------------------------------------------------------


def _by_vmap(
    model: nn.Module, parameters: Mapping[str, Tensor], head: Tensor, points: Tensor
) -> Tensor:
    """Gradients (n, k) of a head."""

    def output(values: dict[str, Tensor], point: Tensor) -> Tensor:
        logit: Tensor = functional_call(model, values, (point[None],))[0] @ head
        return logit

    # no_grad keeps the module's own parameters from being recorded; `grad` works inside it.
    with torch.no_grad():
        gradients = vmap(grad(output), in_dims=(None, 0))(dict(parameters), points)
    return torch.cat([gradients[name].flatten(1) for name in parameters], dim=1)


def _one_by_one(
    model: nn.Module, parameters: Mapping[str, Tensor], head: Tensor, points: Tensor
) -> Tensor:
    """The same, for what :func:`torch.vmap` cannot follow."""
    rows, wanted = [], list(parameters.values())
    for point in points:
        with torch.enable_grad():
            output = model(point[None])[0] @ head
        row = torch.autograd.grad(output, wanted, materialize_grads=True)
        rows.append(torch.cat([g.flatten() for g in row]))
    return torch.stack(rows)


def _vmap_works(
    model: nn.Module, parameters: Mapping[str, Tensor], head: Tensor, probe: Tensor
) -> bool:
    try:
        mapped = _by_vmap(model, parameters, head, probe)
    except RuntimeError as error:
        logger.info("gradients point by point, since torch.vmap fails: %s", error)
        return False
    alone = _one_by_one(model, parameters, head, probe)
    # Loose, for gradients jump at kinks.
    return bool((mapped - alone).norm() <= 0.1 * alone.norm())
