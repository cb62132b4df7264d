"""Where parameters enter a computation, read off the graph that torch records.

A parameter's gradient at a point needs two things of each place where it is used: the gradient at
the output of that operation, and what the operation multiplied the parameter by. Both are there in
the graph: the operation is a node, its output's gradient is what autograd computes for the node,
and its other operand is a tensor that the node has saved. So one forward pass and one backward
pass a class, down to the operations and no further, give the gradients of a whole batch point by
point. Reading the graph, not the modules, covers functional calls, layers that are called twice,
shared weights and torch's own attention alike.

What is not recognised here is left to exact per-sample gradients elsewhere; what is recognised is
compared with plain gradients of single points before it is used (:mod:`.forms`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node
from torch.nn.grad import conv1d_weight, conv2d_weight

__all__ = ["Use", "uses_of"]

# The operand of each operation that is a parameter we know the gradient of, by its position.
_WEIGHT = {
    ("AddmmBackward0", 2): "linear",
    ("MmBackward0", 1): "linear",
    ("ConvolutionBackward0", 1): "convolution",
    ("EmbeddingBackward0", 0): "embedding",
    ("NativeBatchNormBackward0", 1): "scale",
    ("CudnnBatchNormBackward0", 1): "scale",
    ("NativeLayerNormBackward0", 1): "scale",
    ("NativeGroupNormBackward0", 1): "scale",
    ("MulBackward0", 0): "scale",
    ("MulBackward0", 1): "scale",
    ("AddmmBackward0", 0): "shift",
    ("ConvolutionBackward0", 2): "shift",
    ("NativeBatchNormBackward0", 2): "shift",
    ("CudnnBatchNormBackward0", 2): "shift",
    ("NativeLayerNormBackward0", 2): "shift",
    ("NativeGroupNormBackward0", 2): "shift",
    ("AddBackward0", 0): "shift",
    ("AddBackward0", 1): "shift",
    ("ExpandBackward0", 0): "shift",
}
# Between a weight and its matrix product: a transpose leaves ⟨gradient, gradient⟩ as it is.
_TRANSPOSES = {"TBackward0", "TransposeBackward0", "PermuteBackward0"}  # .t(), .mT, .T
# Weights with more elements go image by image: from timings of convolutions on CPUs.
_ONE_BY_ONE = 2**15
_CONSTANTS = {"MulBackward0": 1, "DivBackward0": -1}


@dataclass(frozen=True)
class Use:
    """One operation that a parameter enters.

    Attributes
    ----------
    kind : {"linear", "convolution", "embedding", "scale", "shift"}
        A matrix product, a convolution or the rows of a table, whose gradients are sums of outer
        products; or what is multiplied or added elementwise (the parameters of normalisations,
        biases, positions, tokens).
    node : Node
        The operation.
    factor : float
        The operation uses the parameter times this.
    slot : int
        Which operand of the operation it is.
    turned : bool
        The operation uses the parameter's transpose.
    """

    kind: str
    node: Node
    factor: float
    slot: int
    turned: bool = False

    @property
    def edge(self) -> GradientEdge:
        """Where autograd gives the gradient at the operation's output."""
        return GradientEdge(self.node, 0)

    def sign(self) -> tuple[str, str]:
        """What must be the same in every batch for one plan to fit all."""
        return self.kind, self.node.name()

    def saved(self, name: str) -> Any:
        """Return what the node has saved under a name."""
        value = getattr(self.node, f"_saved_{name}")
        return value.detach() if torch.is_tensor(value) else value


def uses_of(outputs: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, list[Use] | None]:
    """Uses of parameters in what has led to outputs; None for one that is used in other ways too.

    Parameters
    ----------
    outputs : Tensor
        With the graph that led to them.
    parameters : mapping of str to Tensor
        Parameters by name.

    Returns
    -------
    dict
        For each name its uses, in an order that is the same for the same computation; an empty
        list where the outputs do not depend on it.
    """
    consumers, leaves = _consumers(outputs)
    found: dict[str, list[Use] | None] = {}
    for name, parameter in parameters.items():
        leaf = leaves.get(id(parameter))
        found[name] = [] if leaf is None else _follow(leaf, 1.0, False, consumers)
    return found


Consumers = dict[Node, list[tuple[Node, int]]]


def _consumers(outputs: Tensor) -> tuple[Consumers, dict[int, Node]]:
    """For each node the operations that read it and as which operand; and the leaves by tensor."""
    consumers: Consumers = defaultdict(list)
    leaves: dict[int, Node] = {}
    stack = [outputs.grad_fn] if outputs.grad_fn is not None else []
    seen = set(stack)
    while stack:
        node = stack.pop()
        for slot, (source, _) in enumerate(node.next_functions):
            if source is None:
                continue
            consumers[source].append((node, slot))
            if source in seen:
                continue
            seen.add(source)
            if type(source).__name__ == "AccumulateGrad":
                leaves[id(source.variable)] = source  # type: ignore[attr-defined]
            else:
                stack.append(source)
    return consumers, leaves


def _follow(source: Node, factor: float, turned: bool, consumers: Consumers) -> list[Use] | None:
    """Uses of a parameter, or of a constant times it or its transpose."""
    uses: list[Use] = []
    for node, slot in consumers[source]:
        name = type(node).__name__
        constant = _constant(node, name)
        if name in _TRANSPOSES:
            further = _follow(node, factor, not turned, consumers)
        elif constant is not None:
            further = _follow(node, factor * constant, turned, consumers)
        elif (name, slot) in _WEIGHT:
            further = _use(node, name, slot, factor, turned)
        else:
            further = None
        if further is None:
            return None
        uses += further
    return uses


def _constant(node: Node, name: str) -> float | None:
    """The number that a node multiplies or divides by, if that is what it does."""
    if name not in _CONSTANTS or len([s for s, _ in node.next_functions if s is not None]) != 1:
        return None
    other = getattr(node, "_saved_other", None)
    if torch.is_tensor(other) and other.ndim == 0 and node.next_functions[0][0] is not None:
        return float(other) ** _CONSTANTS[name]
    return None


def _use(node: Node, name: str, slot: int, factor: float, turned: bool) -> list[Use] | None:
    use = Use(_WEIGHT[name, slot], node, factor, slot, turned)
    if use.kind != "linear" and turned:
        return None
    plain = use.kind != "convolution" or not use.saved("transposed")
    if not plain or (use.kind == "convolution" and use.saved("input").ndim not in (3, 4)):
        return None
    if use.kind == "embedding" and use.saved("scale_grad_by_freq"):
        return None
    if name == "AddBackward0" and slot == 1:
        return [replace(use, factor=factor * float(use.saved("alpha")))]
    return [use]


# -- the other operand -------------------------------------------------------------------------


def linear_input(use: Use) -> Tensor:
    """Rows (m, D) that a matrix product multiplied the weight by."""
    saved: Tensor = use.saved("mat1" if use.node.name() == "AddmmBackward0" else "self")
    return saved


def normalised_input(use: Use, shape: torch.Size) -> Tensor:
    """What a weight that acts elementwise was multiplied by, in the shape of the output."""
    name = use.node.name()
    if name == "MulBackward0":
        saved: Tensor = use.saved("other" if use.slot == 0 else "self")
        return saved
    x: Tensor = use.saved("input")
    if name == "NativeLayerNormBackward0":
        return (x - use.saved("result1")) * use.saved("result2")
    if name == "NativeGroupNormBackward0":
        groups = use.saved("group")
        mean, scale = (
            use.saved(result).view(len(x), groups, 1) for result in ("result1", "result2")
        )
        return ((x.reshape(len(x), groups, -1) - mean) * scale).view(shape)
    # Batch normalisation in evaluation mode.
    column = (1, -1, *[1] * (x.ndim - 2))
    mean, variance = use.saved("running_mean").view(column), use.saved("running_var").view(column)
    epsilon = use.saved("eps" if name == "NativeBatchNormBackward0" else "epsilon")
    return (x - mean) * (variance + epsilon).rsqrt()


def channel_axis(use: Use) -> int | None:
    """Axis of an operation's output along which its parameter lies; None: the last axes."""
    name = use.node.name()
    batch = ("NativeBatchNormBackward0", "CudnnBatchNormBackward0", "NativeGroupNormBackward0")
    return 1 if name in batch or name == "ConvolutionBackward0" else None


def windows(use: Use, x: Tensor) -> Tensor:
    """What a convolution reads of images or signals, as a view.

    Parameters
    ----------
    use : Use
        The convolution.
    x : Tensor, shape (n, C, …)
        Its inputs.

    Returns
    -------
    Tensor, shape (n, C, kernel…, positions…)
        The axes of the weight, then those of the output. A copy of this view takes a third of the
        time of :func:`torch.nn.functional.unfold` on CPUs.
    """
    kernel = use.saved("weight").shape[2:]
    strides, padding, dilation = (
        tuple(use.saved(k)) * (1 if len(use.saved(k)) == len(kernel) else len(kernel))  # or once
        for k in ("stride", "padding", "dilation")
    )
    if any(padding):
        x = F.pad(x, [side for p in reversed(padding) for side in (p, p)])
    positions = [
        (side - d * (k - 1) - 1) // stride + 1
        for side, k, d, stride in zip(x.shape[2:], kernel, dilation, strides, strict=True)
    ]
    steps = x.stride()[2:]
    within = [step * d for step, d in zip(steps, dilation, strict=True)]
    between = [step * stride for step, stride in zip(steps, strides, strict=True)]
    shape = (*x.shape[:2], *kernel, *positions)
    return x.as_strided(shape, (*x.stride()[:2], *within, *between), x.storage_offset())


def grouped_gradients(use: Use, x: Tensor, g: Tensor) -> Tensor:
    """Gradients (m, d, D) of the weight of a convolution in groups, at each of m images.

    Parameters
    ----------
    use : Use
        The convolution.
    x, g : Tensor, shapes (m, C, …) and (m, d, …)
        Inputs, and gradients at outputs; d may be any multiple of the number of groups.
    """
    groups = use.saved("groups")
    # (m, groups, D, S)
    patches = windows(use, x).reshape(len(x), groups, -1, g[0, 0].numel())
    return (g.flatten(2).unflatten(1, (groups, -1)) @ patches.transpose(2, 3)).flatten(1, 2)


def weight_gradients(use: Use, x: Tensor, g: Tensor) -> Tensor:
    """Gradients (m, d, D) of a convolution's weight at each of m images, by convolutions.

    Parameters
    ----------
    use : Use
        The convolution, of one group.
    x, g : Tensor, shapes (m, C, …) and (m, d, …)
        Inputs, and gradients at outputs; d may be any number.
    """
    compute: Any = conv1d_weight if x.ndim == 3 else conv2d_weight
    options = [use.saved(name) for name in ("stride", "padding", "dilation")]
    m, d, kernel = len(x), g.shape[1], tuple(use.saved("weight").shape[1:])
    if d * math.prod(kernel) > _ONE_BY_ONE:
        each = zip(x.split(1), g.split(1), strict=True)
        return torch.stack([compute(a, (d, *kernel), b, *options).flatten(1) for a, b in each])
    # Images side by side, as the groups of one convolution.
    wide = (v.reshape(1, -1, *v.shape[2:]) for v in (x, g))
    rows: Tensor = compute(next(wide), (m * d, *kernel), next(wide), *options, m)
    return rows.view(m, d, -1)
