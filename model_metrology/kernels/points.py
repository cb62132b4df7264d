"""A model lent for measuring, its points, and what both must be for a kernel to be defined."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from model_metrology.layout import channels_last

__all__ = [
    "Points",
    "activation_bytes",
    "as_points",
    "check_finite",
    "check_outputs",
    "chosen_parameters",
    "evaluating",
    "refuse_outputs",
    "too_small",
    "with_channels_last",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Points:
    """Points, what the caller calls them, and whether models get them with channels last."""

    name: str
    values: Tensor
    channels_last: bool = False

    def __len__(self) -> int:
        return len(self.values)

    def part(self, start: int, stop: int, place: torch.device) -> Tensor:
        """Some of the points, on a device."""
        return self._lay_out(self.values[start:stop].to(place))

    def probe(self, place: torch.device) -> Tensor:
        """Two or three points, different ones if there are."""
        return self._lay_out(self.values[self._different].to(place))

    @cached_property
    def _different(self) -> list[int]:
        """Which points :meth:`probe` gives; all are compared with the first."""
        values = self.values
        different = (values != values[0]).reshape(len(values), -1).any(dim=1).nonzero().flatten()
        # If all are equal, the same one twice: a batch of one may be computed in other ways.
        return sorted({0, *different[[0, -1]].tolist()}) if len(different) else [0, 0]

    def _lay_out(self, some: Tensor) -> Tensor:
        return channels_last(some) if self.channels_last else some

    def refuse(self, bad: Tensor, what: str, remedy: str, start: int = 0) -> None:
        """Raise ValueError with the first bad point, if there is one."""
        if bad.any():
            first = start + int(bad.nonzero()[0])
            raise ValueError(f"{self.name}[{first}]: its {what}; {remedy}")


def as_points(name: str, values: Tensor | ArrayLike, model: nn.Module) -> Points:
    """Points as a tensor; floating-point ones in the model's precision."""
    tensor = torch.as_tensor(values).detach()
    if tensor.ndim < 1 or not len(tensor):
        raise ValueError(f"{name} must hold points (N, …), got shape {tuple(tensor.shape)}")
    if tensor.is_inference():
        tensor = tensor.clone()
    if tensor.is_floating_point():
        kinds = (p.dtype for p in model.parameters() if p.is_floating_point())
        tensor = tensor.to(next(kinds, tensor.dtype))
    return Points(name, tensor)


def with_channels_last(points: Points, model: nn.Module, place: torch.device) -> Points:
    """Images with channels last where convolutions are faster so and the model takes them."""
    convolves = any(isinstance(module, nn.Conv2d) for module in model.modules())
    # In double precision, convolutions in groups are slower so.
    images = points.values.ndim == 4 and points.values.dtype == torch.float32
    if place.type != "cpu" or not (convolves and images):
        return points
    probe = points.probe(place)
    with torch.no_grad():
        expected = model(probe)
    try:
        with torch.enable_grad():
            outputs = model(channels_last(probe))
            parameters = [p for p in model.parameters() if p.requires_grad]
            if outputs.requires_grad:
                torch.autograd.grad(outputs.sum(), parameters, allow_unused=True)
    except Exception as error:  # it relies on how images, or what comes of them, lie
        logger.debug("images lie as given: %s", error)
        return points
    # Only roundings may differ; outputs that are not finite are named when they are met.
    precise = torch.finfo(outputs.dtype).eps ** 0.5
    same = bool((outputs.detach() - expected).norm() <= precise * expected.norm())
    return replace(points, channels_last=True) if same else points


@contextmanager
def evaluating(
    model: nn.Module, device: torch.device | str | None, *, tf32: bool = False
) -> Iterator[torch.device]:
    """Lend a model, on a device and in evaluation mode; it returns as it was."""
    modes = {module: module.training for module in model.modules()}
    home = next((p.device for p in model.parameters()), torch.device("cpu"))
    place = home if device is None else torch.device(device)
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = matmul.allow_tf32
    # cuDNN's convolutions would otherwise keep 10 bits of float32's mantissa.
    exact = cudnn.flags(enabled=cudnn.enabled, deterministic=cudnn.deterministic, allow_tf32=False)
    try:
        model.eval().to(place)
        matmul.allow_tf32 = tf32
        with torch.inference_mode(False), exact:
            yield place
    finally:
        matmul.allow_tf32 = before
        model.to(home)
        for module, mode in modes.items():
            module.training = mode


@torch.no_grad()
def check_outputs(model: nn.Module, points: Points, place: torch.device) -> int:
    """Number of classes C, once outputs are seen to be (batch, C), and f(x) of x alone."""
    probe = points.probe(place)
    try:
        together, alone = model(probe), [model(point[None]) for point in probe]
    except ValueError as error:
        raise ValueError(
            f"model: it fails on one point alone ({error}); a kernel needs f(x) of x alone (batch "
            "normalisation needs its running statistics)"
        ) from error
    for outputs, n in ((together, len(probe)), (alone[0], 1)):
        shape = tuple(outputs.shape) if torch.is_tensor(outputs) else type(outputs).__name__
        if not torch.is_tensor(outputs) or outputs.ndim != 2 or len(outputs) != n:
            raise ValueError(
                f"model: outputs must be (batch, C), got {shape} for a batch of {n}; wrap it in a "
                "module that returns its logits"
            )
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()} | {together.dtype}
    epsilon = max(torch.finfo(kind).eps for kind in kinds)
    # Sums are taken in another order; anything but rounding is far above this.
    single = torch.cat(alone)
    finite = together.isfinite() & single.isfinite()  # others are named when they are met
    difference, size = (together - single)[finite].norm(), single[finite].norm()
    if difference > epsilon**0.5 * size:
        raise ValueError(
            "model: outputs of a point change by chance or with the other points of its batch; a "
            "kernel needs f(x) of x alone (batch normalisation needs its running statistics)"
        )
    return int(together.shape[1])


def refuse_outputs(outputs: Tensor, points: Points, start: int) -> None:
    """Raise ValueError at the first point whose outputs are not finite."""
    bad = ~outputs.isfinite().all(dim=1)
    points.refuse(bad, "outputs are not finite", "check the point and the weights", start)


@torch.no_grad()
def check_finite(model: nn.Module, points: Points, place: torch.device, step: int) -> None:
    """Raise ValueError at the first point whose outputs are not finite; `step` at a time."""
    for start in range(0, len(points), step):
        refuse_outputs(model(points.part(start, start + step, place)), points, start)


def activation_bytes(model: nn.Module, point: Tensor) -> int:
    """Bytes that differentiating one point (1, …) keeps."""
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


class TooSmallError(ValueError):
    """The memory that was asked for does not hold two points."""


def too_small(megabytes: float, needed: float) -> TooSmallError:
    """The error of a memory that does not hold two points; `needed` in bytes."""
    return TooSmallError(
        f"memory_mb: {megabytes:g} is too small for one point of this model; give at least "
        f"{math.ceil(needed / 1e5) / 10:g}"
    )


def chosen_parameters(model: nn.Module, only: Sequence[str] | None) -> dict[str, nn.Parameter]:
    """Trainable parameters by name; those that `only` names, themselves or by their module.

    Raises
    ------
    ValueError
        If nothing is trainable, or a name of `only` is that of no trainable parameter.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise ValueError("model: no parameter requires a gradient; unfreeze those to compare")
    if only is None:
        return parameters
    if isinstance(only, str):
        only = [only]
    if not only:
        raise ValueError("only: it is empty; name a parameter or a module, or leave it out")
    chosen: dict[str, nn.Parameter] = {}
    for prefix in only:
        found = {n: p for n, p in parameters.items() if n == prefix or n.startswith(f"{prefix}.")}
        if not found:
            raise ValueError(
                f"only: {prefix!r} names no trainable parameter; there are "
                f"{', '.join(list(parameters)[:8])}{', …' if len(parameters) > 8 else ''}"
            )
        chosen |= found
    return chosen
