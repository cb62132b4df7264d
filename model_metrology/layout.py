"""How images lie in memory."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["channels_last"]


def channels_last(images: Tensor) -> Tensor:
    """Images (n, C, H, W) with channels last in memory, in which CPUs convolve and pool faster.

    With one channel both layouts are the same numbers, and strides alone tell a convolution how
    its outputs shall lie: these say channels last.
    """
    channels, height, width = images.shape[1:]
    laid = images.contiguous(memory_format=torch.channels_last)
    strides = (channels * height * width, 1, channels * width, channels)
    return laid.as_strided(images.shape, strides)
