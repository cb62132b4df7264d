"""The architectures. Images come in as (batch, C, H, W), normalised; logits go out."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_metrology.models.dropout import use_counter_dropout
from model_metrology.recipes import Architecture

Shape = tuple[int, int, int]


class NTKLinear(nn.Linear):
    """Linear layer in NTK parametrisation: N(0, 1) parameters, an explicit 1/√fan-in.

    Jacot, Gabriel, Hongler 2018 (arXiv 1806.07572), with the bias scaled by β = 1.
    """

    def reset_parameters(self) -> None:
        """Draw weights and bias from N(0, 1)."""
        nn.init.normal_(self.weight)
        nn.init.normal_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return x Wᵀ/√d + b."""
        return F.linear(x, self.weight / math.sqrt(self.in_features), self.bias)


class Scale(nn.Module):
    """Division by a constant."""

    def __init__(self, divisor: float) -> None:
        super().__init__()
        self.divisor = divisor

    def forward(self, x: Tensor) -> Tensor:
        """Return x / divisor."""
        return x / self.divisor

    def extra_repr(self) -> str:
        """Show the divisor in the module's representation."""
        return f"{self.divisor:g}"


def scale_by_width(network: nn.Module) -> nn.Sequential:
    """Draw all parameters from N(0, 1) and divide hidden activations by √(units · kernel).

    As the released code of Engel et al. 2024 (arXiv 2305.14585) does: a layer is scaled by its own
    width, not by its fan-in, so that the first layer's inputs are not scaled at all. Where pooling
    follows, its outputs are divided: they are fewer, and become the same numbers.
    """
    layers: list[nn.Module] = []
    divisor = 1.0
    for layer in network.children():
        if (
            layers
            and isinstance(layer, nn.AvgPool2d | nn.MaxPool2d)
            and isinstance(layers[-1], Scale)
        ):
            layers.insert(-1, layer)
            continue
        layers.append(layer)
        if isinstance(layer, nn.Conv2d | nn.Linear):
            for parameter in layer.parameters():
                nn.init.normal_(parameter)
            divisor = math.sqrt(len(layer.weight) * math.prod(layer.weight.shape[2:]))
        elif isinstance(layer, nn.ReLU):
            layers.append(Scale(divisor))
    return nn.Sequential(*layers)


class PatchEmbedding(nn.Module):
    """Patches of an image as tokens behind a class token, with positions added."""

    def __init__(self, shape: Shape, patch: int, dim: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.project = nn.Conv2d(channels, dim, patch, stride=patch)
        tokens = (height // patch) * (width // patch) + 1
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.position = nn.Parameter(torch.empty(1, tokens, dim).normal_(std=0.02))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, C, H, W) to (batch, tokens, dim)."""
        patches = self.project(x).flatten(2).transpose(1, 2)
        token = self.token.expand(len(x), -1, -1)
        return torch.cat([token, patches], dim=1) + self.position


class EncoderBlock(nn.Module):
    """Pre-norm transformer block (attention, then an MLP), written with plain linear layers.

    ``nn.MultiheadAttention`` has fast paths that :func:`torch.vmap` cannot follow.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, 2 * dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * dim, dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, tokens, dim) to the same shape."""
        batch, tokens, dim = x.shape
        parts = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, dim // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        scores = (query @ key.transpose(-2, -1)) / math.sqrt(dim // self.heads)
        mixed = (scores.softmax(dim=-1) @ value).transpose(1, 2).reshape(batch, tokens, dim)
        x = x + self.out(mixed)
        return x + self.mlp(self.norm2(x))


class ClassToken(nn.Module):
    """Take the class token of (batch, tokens, dim)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, dim)."""
        return x[:, 0]


class AsColour(nn.Module):
    """Bring images to what pretrained networks take: three channels, a given side."""

    def __init__(self, side: int | None) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """Repeat a single channel three times, and resize."""
        if x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        if self.side is not None and x.shape[-2:] != (self.side, self.side):
            x = F.interpolate(x, (self.side, self.side), mode="bilinear", antialias=True)
        return x


def _mlp(a: Architecture, shape: Shape, outputs: int) -> nn.Module:
    width, depth = a.width or 100, a.depth or 3
    layer = NTKLinear if a.parametrisation == "ntk" else nn.Linear
    layers: list[nn.Module] = [nn.Flatten()]
    fan_in = math.prod(shape)
    for _ in range(depth):
        layers += [layer(fan_in, width), nn.ReLU(), nn.Dropout(a.dropout)]
        fan_in = width
    return nn.Sequential(*layers, layer(fan_in, outputs))


def _cnn(a: Architecture, shape: Shape, outputs: int) -> nn.Module:
    width = a.width or 8
    channels, height, breadth = shape
    return nn.Sequential(
        *_conv(channels, width, nn.MaxPool2d(2)),
        *_conv(width, 2 * width, nn.MaxPool2d(2)),
        *_conv(2 * width, 2 * width, nn.MaxPool2d(2)),
        nn.Flatten(),
        nn.Dropout(a.dropout),
        nn.Linear(2 * width * (height // 8) * (breadth // 8), 64),
        nn.ReLU(),
        nn.Linear(64, outputs),
    )


def _conv(fan_in: int, fan_out: int, pool: nn.Module | None = None) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Conv2d(fan_in, fan_out, 3, padding=1), nn.ReLU()]
    return [*layers, pool] if pool is not None else layers


def _cnn_mnist2(a: Architecture, shape: Shape, outputs: int) -> nn.Module:
    # Engel et al. 2024 (arXiv 2305.14585), small models for MNIST2 and FMNIST2.
    return nn.Sequential(
        *_conv(shape[0], 64, nn.AvgPool2d(2)),
        *_conv(64, 32, nn.AvgPool2d(2)),
        *_conv(32, 8, nn.AvgPool2d(2)),
        nn.Flatten(),
        *_dense(8 * (shape[1] // 8) * (shape[2] // 8), a.dropout, outputs),
    )


def _cnn_cifar2(a: Architecture, shape: Shape, outputs: int) -> nn.Module:
    # Engel et al. 2024, small model for CIFAR2: two convolutions before each pool.
    layers: list[nn.Module] = []
    fan_in = shape[0]
    for width in (64, 32, 8):
        layers += [*_conv(fan_in, width), *_conv(width, width, nn.MaxPool2d(2))]
        fan_in = width
    size = 8 * (shape[1] // 8) * (shape[2] // 8)
    return nn.Sequential(*layers, nn.Flatten(), *_dense(size, a.dropout, outputs))


def _dense(fan_in: int, dropout: float, outputs: int) -> list[nn.Module]:
    return [
        nn.Linear(fan_in, 128),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, outputs),
    ]


def _resnet(a: Architecture, shape: Shape, outputs: int) -> nn.Module:
    network = _torchvision_model(a, outputs)
    if not a.pretrained:
        # The stem for small images (He et al. 2016, section 4.2): no stride, no pool.
        network.conv1 = nn.Conv2d(shape[0], 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        network.maxpool = nn.Identity()
        return network
    return nn.Sequential(AsColour(a.image_size), network)


def _torchvision_model(a: Architecture, outputs: int) -> nn.Module:
    """A torchvision network with our number of outputs, pretrained where asked for."""
    from model_metrology.torchvision_compat import torchvision

    build = getattr(torchvision.models, a.name)
    if not a.pretrained:
        options: dict[str, Any] = {}
        if not a.name.startswith("resnet"):
            options["dropout"] = a.dropout
        if a.name == "vit_b_16":
            options["image_size"] = a.image_size
        network: nn.Module = build(num_classes=outputs, **options)
        return network
    from model_metrology.data.fetch import pretrained_weights

    network = pretrained_network(a.name, pretrained_weights(a.name))
    _replace_head(network, outputs)
    for child in network.modules():
        if isinstance(child, nn.Dropout):
            child.p = a.dropout
    return network


def pretrained_network(name: str, weights: Path) -> nn.Module:
    """A torchvision network with weights from a file, which torchvision itself would unpickle."""
    from model_metrology.torchvision_compat import torchvision

    network: nn.Module = torchvision.models.get_model(name)
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return network


def _replace_head(network: nn.Module, outputs: int) -> None:
    """Put a fresh last layer, with the right number of outputs, in the old one's place."""
    name, old = _last_linear(network)
    parent, _, attribute = name.rpartition(".")
    fresh = nn.Linear(old.in_features, outputs)
    setattr(network.get_submodule(parent), attribute, fresh)


def _last_linear(network: nn.Module) -> tuple[str, nn.Linear]:
    linear = [(name, m) for name, m in network.named_modules() if isinstance(m, nn.Linear)]
    return linear[-1]


def _mobilenet(a: Architecture, shape: Shape, outputs: int) -> nn.Module:
    return nn.Sequential(AsColour(a.image_size), _torchvision_model(a, outputs))


def _vit(a: Architecture, shape: Shape, outputs: int) -> nn.Module:
    dim, depth, patch = a.width or 64, a.depth or 4, 4
    heads = max(dim // 32, 1)
    if dim % heads or shape[1] % patch or shape[2] % patch:
        raise ValueError(
            f"architecture: vit-small needs a width divisible by {heads} and sides divisible by "
            f"{patch}, got width {dim} and images of {shape[1]} x {shape[2]}"
        )
    return nn.Sequential(
        PatchEmbedding(shape, patch, dim),
        *(EncoderBlock(dim, heads, a.dropout) for _ in range(depth)),
        nn.LayerNorm(dim),
        ClassToken(),
        nn.Linear(dim, outputs),
    )


def _vit_b_16(a: Architecture, shape: Shape, outputs: int) -> nn.Module:
    sized = a if a.image_size else a.model_copy(update={"image_size": 224})
    return nn.Sequential(AsColour(sized.image_size), _torchvision_model(sized, outputs))


_BUILDERS: dict[str, Callable[[Architecture, Shape, int], nn.Module]] = {
    "mlp": _mlp,
    "cnn": _cnn,
    "cnn-mnist2": _cnn_mnist2,
    "cnn-cifar2": _cnn_cifar2,
    "resnet18": _resnet,
    "resnet34": _resnet,
    "mobilenet_v2": _mobilenet,
    "vit-small": _vit,
    "vit_b_16": _vit_b_16,
}


def build_model(
    architecture: Architecture, *, image_shape: Shape, classes: int, seed: int
) -> nn.Module:
    """Build a network and draw its initial parameters.

    Parameters
    ----------
    architecture : Architecture
        Name and sizes.
    image_shape : tuple of int
        (C, H, W) of the images.
    classes : int
        Number of classes C of the task.
    seed : int
        Seed of the initialisation, drawn on the CPU whatever the device.

    Returns
    -------
    Module
        Maps normalised images (batch, C, H, W) to logits (batch, classes), or (batch, 1) if
        the architecture has one output. Its dropout layers are
        :class:`~model_metrology.models.CounterDropout`.

    Raises
    ------
    ValueError
        If the sizes do not fit each other, or one output is asked of more than two classes.
    """
    if architecture.outputs == "one" and classes != 2:
        raise ValueError(
            f"architecture.outputs: one logit needs two classes, there are {classes}; use 'classes'"
        )
    if architecture.name in ("cnn", "cnn-mnist2", "cnn-cifar2") and min(image_shape[1:]) < 8:
        raise ValueError(
            f"architecture.name: {architecture.name} halves images three times and needs sides of "
            f"at least 8, got {image_shape[1]} x {image_shape[2]}"
        )
    outputs = 1 if architecture.outputs == "one" else classes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _BUILDERS[architecture.name](architecture, image_shape, outputs)
        if architecture.parametrisation == "width":
            network = scale_by_width(network)
    return use_counter_dropout(network)


def split_head(network: nn.Module) -> tuple[nn.Module, nn.Linear]:
    """Split a network into what computes features and the linear layer that reads them.

    Returns
    -------
    tuple
        (network with its last linear layer replaced by the identity, that layer). The network is
        changed in place.
    """
    name, head = _last_linear(network)
    parent, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(parent), attribute, nn.Identity())
    return network, head
