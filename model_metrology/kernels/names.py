"""The kernels by name."""

from __future__ import annotations

from typing import Literal

__all__ = ["KERNELS", "KernelName", "Raw"]

Raw = Literal["trace", "pseudo", "projected trace", "projected pseudo", "conjugate", "embedding"]

KernelName = Literal["trNTK", "trNTK0", "pNTK", "proj-trNTK", "proj-pNTK", "CK", "Em"]

KERNELS: dict[KernelName, tuple[Raw, bool]] = {
    "trNTK": ("trace", True),
    "trNTK0": ("trace", False),
    "pNTK": ("pseudo", True),
    "proj-trNTK": ("projected trace", True),
    "proj-pNTK": ("projected pseudo", True),
    "CK": ("conjugate", True),
    "Em": ("embedding", True),
}
"""Kernels by the name they have in studies: which inner products, and whether normalised."""
