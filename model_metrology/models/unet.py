"""U-Net from images and a time to images: the network of a diffusion model."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["UNet"]

_PATCH = 2  # side of the squares of pixels that become channels
_GROUPS, _HEADS = 8, 4


def _zero(layer: nn.Module) -> nn.Module:
    """Start a layer at 0."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class _Block(nn.Module):
    """Two convolutions around a residual; the time scales and shifts what is between them."""

    def __init__(self, inputs: int, outputs: int, time: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.GroupNorm(_GROUPS, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1)
        )
        self.time = nn.Linear(time, 2 * outputs)
        self.norm = nn.GroupNorm(_GROUPS, outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.time(time)[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm(self.first(x)), 1 + scale)
        return self.skip(x) + self.second(F.silu(h))


class _Attention(nn.Module):
    """Self-attention between all places, around a residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(_GROUPS, channels)
        self.inputs = nn.Conv2d(channels, 3 * channels, 1)
        self.outputs = _zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        # (B, 3C, H, W) to three of (B, heads, places, channels of a head). Matrix products, not
        # PyTorch's fused attention, whose gradient is not the same twice on GPUs.
        parts = self.inputs(self.norm(x)).flatten(2).unflatten(1, (3, _HEADS, -1)).transpose(3, 4)
        query, key, value = parts.unbind(1)
        weights = (query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])).softmax(dim=-1)
        return x + self.outputs((weights @ value).transpose(2, 3).reshape(x.shape))


class UNet(nn.Module):
    """U-Net from images and times to images.

    Squares of 2 x 2 pixels become channels first: a quarter of the places, and no detail is lost
    (Hoogeboom, Heek, Salimans 2023, arXiv 2301.11093). Each level halves the side (a multiple of
    4) and doubles the channels (`width`, a multiple of 8; at most four times) as long as 4 places
    are left: one block on the way down, one on the way up, attention in between at the coarsest.
    The way up adds the levels of the way down and does not append them, for a third fewer products.
    """

    def __init__(self, channels: int, side: int, width: int) -> None:
        super().__init__()
        self.width = width
        sides = [side // _PATCH]
        while sides[-1] % 2 == 0 and sides[-1] >= 8:
            sides.append(sides[-1] // 2)
        widths = [width * min(2**level, 4) for level in range(len(sides))]
        time, pixels = 4 * width, channels * _PATCH**2
        self.time = nn.Sequential(
            nn.Linear(width, time), nn.SiLU(), nn.Linear(time, time), nn.SiLU()
        )
        self.stem = nn.Conv2d(pixels, width, 3, padding=1)
        self.down = nn.ModuleList(_Block(*pair, time) for pair in pairwise([width, *widths]))
        self.attention = _Attention(widths[-1])
        self.up = nn.ModuleList(_Block(here, here, time) for here in reversed(widths))
        # What coarser levels say starts at 0: the finest learns little while it is noise.
        self.rise = nn.ModuleList(_zero(nn.Conv2d(*pair, 1)) for pair in pairwise(reversed(widths)))
        # Not normalised, as the scale of noise is part of what it must say.
        self.head = _zero(nn.Conv2d(width, pixels, 3, padding=1))

    def forward(self, images: Tensor, time: Tensor) -> Tensor:
        """Map images (B, C, side, side) and times (B,), 0 to 1, to images of the same shape."""
        # Sines and cosines of the time, their periods from 0.4 to 12.
        angles = time[:, None] * torch.logspace(1.2, -0.3, self.width // 2, device=time.device)
        at = self.time(torch.cat([angles.sin(), angles.cos()], dim=1))
        # Convolutions on CPUs are nearly twice as fast with channels last.
        h = F.pixel_unshuffle(images, _PATCH).contiguous(memory_format=torch.channels_last)
        h = self.stem(h)
        skips: list[Tensor] = []
        for block in self.down:
            h = block(F.avg_pool2d(h, 2) if skips else h, at)
            skips.append(h)
        h = self.up[0](self.attention(skips.pop()), at)
        for block, rise in zip(self.up[1:], self.rise, strict=True):
            h = block(F.interpolate(rise(h), scale_factor=2.0) + skips.pop(), at)
        return F.pixel_shuffle(self.head(h), _PATCH)
