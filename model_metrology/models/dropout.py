"""Dropout whose masks are a function of (run, step, layer, element), not of a global generator.

A run's masks must not depend on how many runs share its process, whether they are stacked by
:func:`torch.vmap`, or on the device. So each mask bit is a hash of a counter: the run's key and
the step go in through a buffer, the layer through a constant, the element through its index. The
mixer is the finaliser of MurmurHash3 (A. Appleby, public domain), two rounds of it, in 32-bit
arithmetic carried out on int64 tensors.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

_MASK = 0xFFFFFFFF
_Integer = TypeVar("_Integer", int, Tensor)


def _mix(x: _Integer) -> _Integer:
    """Finaliser of MurmurHash3: each input bit flips each output bit with probability ~1/2."""
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & _MASK
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & _MASK
    return x ^ (x >> 16)


class CounterDropout(nn.Module):
    """Inverted dropout with a reproducible mask.

    Parameters
    ----------
    p : float
        Probability of setting an element to zero, in [0, 1).
    layer : int
        Number of the layer in its network: layers of one network have different masks.

    Attributes
    ----------
    key : Tensor of int64, shape ()
        Key of the run and step; see :func:`dropout_key`. A buffer, so that stacked runs have one
        each; not part of the saved state.
    """

    key: Tensor

    def __init__(self, p: float, layer: int) -> None:
        super().__init__()
        if not 0.0 <= p < 1.0:
            raise ValueError(f"p must lie in [0, 1), got {p}")
        self.p, self.layer = p, layer
        self.register_buffer("key", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements of `x` in training mode; return it as it is otherwise."""
        if not self.training or self.p == 0.0:
            return x
        index = torch.arange(x.numel(), device=x.device, dtype=torch.int64).reshape(x.shape)
        seed = _mix((self.key + 0x9E3779B9 * (self.layer + 1)) & _MASK)
        bits = _mix(_mix(index & _MASK) ^ seed)
        return x * ((bits >= int(self.p * 2**32)).to(x.dtype) / (1.0 - self.p))

    def extra_repr(self) -> str:
        """Show probability and layer."""
        return f"p={self.p}, layer={self.layer}"


def dropout_key(seed: int, step: int) -> int:
    """Key of a run's masks at a step: 32 bits of the run's 64-bit seed and the step's number."""
    return _mix(_mix(seed & _MASK) ^ _mix((seed >> 32) + step * 0x9E3779B1 & _MASK))


def use_counter_dropout(module: nn.Module) -> nn.Module:
    """Replace every `nn.Dropout` of a network by :class:`CounterDropout`, in place.

    Raises
    ------
    ValueError
        If an attention layer drops attention weights itself, which cannot be replaced.
    """
    layer = 0
    for parent in list(module.modules()):
        if isinstance(parent, nn.MultiheadAttention) and parent.dropout > 0.0:
            raise ValueError("attention dropout is not reproducible run by run; set it to 0")
        for name, child in list(parent.named_children()):
            if type(child) is nn.Dropout:
                setattr(parent, name, CounterDropout(child.p, layer))
                layer += 1
    return module


def dropout_layers(module: nn.Module) -> list[str]:
    """Names of the key buffers of a network's dropout layers."""
    return [
        f"{name}.key" if name else "key"
        for name, child in module.named_modules()
        if isinstance(child, CounterDropout)
    ]
