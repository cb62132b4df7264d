"""What a network's layers make of points: penultimate features, and the outputs of all modules."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["module_outputs", "penultimate"]


@torch.no_grad()
def penultimate(model: nn.Module, points: Tensor) -> Tensor:
    """Inputs (n, features) of the linear layer that is called last.

    Raises
    ------
    ValueError
        If no linear layer is called, or the last one does not read (batch, features).
    """
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
    if last[0].ndim != 2 or len(last[0]) != len(points):
        raise ValueError(
            f"model: its last linear layer reads {tuple(last[0].shape)} for a batch of "
            f"{len(points)}, not (batch, features), so that points have no one feature vector"
        )
    return last[0]


@torch.no_grad()
def module_outputs(model: nn.Module, points: Tensor) -> list[Tensor]:
    """Outputs (n, k) of every call of a module that calls no other, in the order of the calls.

    Raises
    ------
    ValueError
        If no output has the points as its first or second axis.
    """
    found: list[Tensor] = []
    with _leaf_outputs(model, found):
        model(points)
    n, rows = len(points), []
    for output in found:
        if output.ndim and output.shape[0] == n:
            rows.append(output.flatten(1) if output.ndim > 1 else output[:, None])
        elif output.ndim > 1 and output.shape[1] == n:
            rows.append(output.movedim(1, 0).flatten(1))
        elif output.ndim and output.shape[0] % n == 0:
            rows.append(output.reshape(n, -1))
    if not rows:
        raise ValueError(
            "model: no module gives an output for each point, so there is no embedding kernel; "
            "write its layers as modules"
        )
    return rows


@contextmanager
def _leaf_outputs(model: nn.Module, found: list[Tensor]) -> Iterator[None]:
    """Collect floating-point outputs of modules during whose call no other module is called."""
    open_calls: list[bool] = []  # whether each running call has called another

    def enter(*_: Any) -> None:
        if open_calls:
            open_calls[-1] = True
        open_calls.append(False)

    def leave(_: nn.Module, __: Any, output: Any) -> None:
        called = open_calls.pop()
        if called:
            return
        for tensor in output if isinstance(output, tuple | list) else (output,):
            if torch.is_tensor(tensor) and tensor.is_floating_point():
                # Copied, whatever is later done to it in place.
                found.append(tensor.clone())

    handles = [m.register_forward_pre_hook(enter) for m in model.modules()]
    handles += [m.register_forward_hook(leave) for m in model.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
