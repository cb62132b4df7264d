"""What a network's layers make of points: penultimate features, and the outputs of all modules."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["module_outputs", "penultimate"]

logger = logging.getLogger(__name__)


@torch.no_grad()
def penultimate(model: nn.Module, points: Tensor) -> Tensor:
    """Inputs (n, features) of the linear layer that is called last.

    Raises
    ------
    ValueError
        If no linear layer is called, or the last one does not read (batch, features).
    """
    features = _last_input(model, points)
    fits = features.ndim == 2 and len(features) == len(points)
    # As many rows of something else would otherwise pass for points.
    if not fits or not all(
        _same(features[i], _last_input(model, points[i : i + 1])) for i in _shown(len(points))
    ):
        raise ValueError(
            f"model: its last linear layer reads {tuple(features.shape)} for a batch of "
            f"{len(points)}, not (batch, features), so that points have no one feature vector"
        )
    return features


def _last_input(model: nn.Module, points: Tensor) -> Tensor:
    last: list[Tensor] = []

    def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # Copied, whatever is later done to it in place.
        last[:] = [next(iter((*args, *kwargs.values()))).clone()]

    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    handles = [m.register_forward_pre_hook(record, with_kwargs=True) for m in linear]
    try:
        model(points)
    finally:
        for handle in handles:
            handle.remove()
    if not last:
        raise ValueError("model: it calls no linear layer, so it has no penultimate features")
    return last[0]


@torch.no_grad()
def module_outputs(model: nn.Module, points: Tensor) -> list[Tensor]:
    """Outputs (n, k) of every call of a module that calls no other, in the order of the calls.

    Where the points are in an output of a batch is seen from what some of them give alone. If that
    does not tell, all go through the model one by one.

    Raises
    ------
    ValueError
        If no module is called, or points differ in the modules that they call.
    """
    n, shown = len(points), _shown(len(points))
    modules, together = _recorded(model, points)
    if not together:
        raise ValueError(
            "model: no module gives an output, so there is no embedding kernel; write its layers "
            "as modules"
        )
    if n == 1:
        return [output.reshape(1, -1) for output in together]
    alone = [_recorded(model, points[i : i + 1]) for i in shown]
    if all(called == modules for called, _ in alone):
        by_call = zip(together, zip(*(outputs for _, outputs in alone), strict=True), strict=True)
        rows = [_by_point(output, n, dict(zip(shown, few, strict=True))) for output, few in by_call]
        if all(row is not None for row in rows):
            return [row for row in rows if row is not None]
    logger.info("outputs of modules one point at a time, since a batch's do not show the points")
    each = [_recorded(model, point[None]) for point in points]
    if len({(*called, *(o.shape for o in outputs)) for called, outputs in each}) > 1:
        raise ValueError(
            "model: it calls other modules for some points than for others, so that there is no "
            "embedding kernel; give it one and the same computation for all"
        )
    flat = [[output.flatten() for output in outputs] for _, outputs in each]
    return [torch.stack(call) for call in zip(*flat, strict=True)]


def _shown(n: int) -> list[int]:
    """Points of a batch to look at alone."""
    return sorted({0, n // 2, n - 1}) if n > 1 else []


def _by_point(output: Tensor, n: int, alone: Mapping[int, Tensor]) -> Tensor | None:
    """Outputs (n, k) from those of a batch, such that some points have what they have alone."""
    readings = []
    if output.ndim and len(output) % n == 0:
        readings.append(output.reshape(n, -1))  # points first, or folded before another axis
        readings.append(output.reshape(-1, n, *output.shape[1:]).movedim(1, 0).flatten(1))
    if output.ndim > 1 and output.shape[1] == n:
        readings.append(output.movedim(1, 0).flatten(1))
    # The same for all points, as of positions.
    readings.append(output.reshape(1, -1).expand(n, -1))
    for rows in readings:
        if all(_same(rows[i], one) for i, one in alone.items()):
            return rows
    return None


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two vectors are the same but for rounding, whatever their shapes."""
    if a.numel() != b.numel():
        return False
    difference = torch.linalg.vector_norm(a.flatten() - b.flatten())
    return bool(difference <= torch.finfo(b.dtype).eps ** 0.5 * torch.linalg.vector_norm(b))


def _recorded(model: nn.Module, points: Tensor) -> tuple[list[nn.Module], list[Tensor]]:
    """Modules that are called and call no other, and the outputs of each call."""
    found: list[tuple[nn.Module, Tensor]] = []
    with _leaf_outputs(model, found):
        model(points)
    return [module for module, _ in found], [output for _, output in found]


@contextmanager
def _leaf_outputs(model: nn.Module, found: list[tuple[nn.Module, Tensor]]) -> Iterator[None]:
    """Collect floating-point outputs of modules during whose call no other module is called."""
    open_calls: list[bool] = []  # whether each running call has called another

    def enter(*_: Any) -> None:
        if open_calls:
            open_calls[-1] = True
        open_calls.append(False)

    def leave(module: nn.Module, _: Any, output: Any) -> None:
        called = open_calls.pop()
        if called:
            return
        for tensor in output if isinstance(output, tuple | list) else (output,):
            if torch.is_tensor(tensor) and tensor.is_floating_point() and tensor.numel():
                # Copied, whatever is later done to it in place.
                found.append((module, tensor.clone()))

    handles = [m.register_forward_pre_hook(enter) for m in model.modules()]
    handles += [m.register_forward_hook(leave) for m in model.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
