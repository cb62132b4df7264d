"""Residual networks for 32x32 images: He, Zhang, Ren, Sun 2016 (arXiv 1512.03385), section 4.2.

Depth 6n + 2: a 3x3 convolution, then three stages of n blocks with 16, 32 and 64 channels, the
second and third of which halve the image; global average pooling and a linear layer. Shortcuts have
no parameters (option A): where a stage begins, they take every second pixel and pad the channels
with zeros, as many on either side.

Parameters are called ``conv1``, ``bn1``, ``layer1.0.conv1``, …, ``linear``, as in checkpoints that
are widely passed around. In a study::

    builder: examples.cifar_resnets:resnet20
    checkpoint: /data/resnet20-12fca82f.th
    key: state_dict
    prefix: module.
    dataset: cifar10
    mean: [0.485, 0.456, 0.406]
    std: [0.229, 0.224, 0.225]
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CifarResNet", "resnet20", "resnet32", "resnet44", "resnet56"]

_CHANNELS = (16, 32, 64)


class ZeroPaddedShortcut(nn.Module):
    """Option A: every second pixel in both directions, new channels zero on either side."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.before = (outputs - inputs) // 2
        self.after = outputs - inputs - self.before

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, inputs, H, W) to (batch, outputs, ⌈H/2⌉, ⌈W/2⌉)."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


class Block(nn.Module):
    """Two 3x3 convolutions with batch normalisation, beside a shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        halves = inputs != outputs
        stride = 2 if halves else 1
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = ZeroPaddedShortcut(inputs, outputs) if halves else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, inputs, H, W) to (batch, outputs, …), H and W halved where channels grow."""
        hidden = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(hidden)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """Residual network of depth 6n + 2.

    Parameters
    ----------
    depth : int
        Number of layers with weights; 6n + 2.
    classes : int
        Number of logits.
    """

    def __init__(self, depth: int, classes: int = 10) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth: {depth} is not 6n + 2; choose 8, 14, 20, 26, 32, …")
        first, second, third = _CHANNELS
        self.conv1 = nn.Conv2d(3, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = _stage(first, first, blocks)
        self.layer2 = _stage(first, second, blocks)
        self.layer3 = _stage(second, third, blocks)
        self.linear = nn.Linear(third, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images (batch, 3, H, W) to logits (batch, classes)."""
        hidden = F.relu(self.bn1(self.conv1(x)))
        hidden = self.layer3(self.layer2(self.layer1(hidden)))
        logits: Tensor = self.linear(hidden.mean(dim=(2, 3)))
        return logits


def _stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(
        Block(inputs, outputs), *(Block(outputs, outputs) for _ in range(blocks - 1))
    )


def resnet20(classes: int = 10) -> CifarResNet:
    """20 layers, 0.27 million parameters."""
    return CifarResNet(20, classes)


def resnet32(classes: int = 10) -> CifarResNet:
    """32 layers, 0.46 million parameters."""
    return CifarResNet(32, classes)


def resnet44(classes: int = 10) -> CifarResNet:
    """44 layers, 0.66 million parameters."""
    return CifarResNet(44, classes)


def resnet56(classes: int = 10) -> CifarResNet:
    """56 layers, 0.85 million parameters."""
    return CifarResNet(56, classes)
