"""Models that embed images: of open_clip and of torchvision."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model_metrology.data.fetch import WEIGHTS, pretrained_weights
from model_metrology.embeddings.model import Model, describe, digest, identify, optional
from model_metrology.embeddings.recipes import Embedder
from model_metrology.embeddings.views import OUTPUT
from model_metrology.models.architectures import pretrained_network, split_head
from model_metrology.models.hub import check_downloaded, is_reachable

__all__ = ["load_open_clip", "load_torchvision"]


def load_open_clip(options: Embedder, root: str | os.PathLike[str], device: torch.device) -> Model:
    """The images' half of a CLIP model, of open_clip."""
    # First, as open_clip imports torchvision.
    import model_metrology.torchvision_compat  # noqa: F401

    package = optional("open_clip", options.kind)
    from PIL import Image

    assert options.model is not None
    architecture, pretrained, weights = _clip_weights(package, options.model, root)
    try:
        network, _, preprocess = package.create_model_and_transforms(
            architecture, pretrained=pretrained, device=device, weights_only=True
        )
    except (OSError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise ValueError(f"model: {options.model!r} cannot be loaded by open_clip: {error}") from (
            error
        )
    network.eval()

    @torch.inference_mode()
    def vectors(images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        batch = torch.stack([preprocess(Image.fromarray(image)) for image in images])
        return {OUTPUT: network.encode_image(batch.to(device)).float().cpu().numpy()}

    return Model(
        of="images",
        identity=identify(
            options, "open_clip_torch", f"sha256 {digest([weights])}",
            precision=str(torch.float32),
        ),
        description=describe(
            options, "open_clip_torch", dimension=int(network.visual.output_dim)
        ),
        vectors=vectors,
        normalise=options.normalise,
    )  # fmt: skip


def _clip_weights(
    package: Any, model: str, root: str | os.PathLike[str]
) -> tuple[str, str | None, Path]:
    """Architecture and weights as open_clip takes them, and the file of the weights."""
    if model.startswith("hf-hub:"):
        return model, None, _clip_download(package, model.removeprefix("hf-hub:"), None)
    architecture, _, wanted = model.partition("/")
    if architecture not in package.list_models():
        raise ValueError(
            f"model: open_clip has no architecture {architecture!r}; it has "
            f"{', '.join(package.list_models()[:12])}, …"
        )
    if not wanted:
        raise ValueError(
            f"model: {model} without weights would be a random network; give {model}/TAG or "
            f"{model}/FILE; {_tags(package, architecture)}"
        )
    file = Path(root, wanted).expanduser()
    if file.is_file():
        return architecture, str(file), file
    config = package.pretrained.get_pretrained_cfg(architecture, wanted)
    if not config:
        raise FileNotFoundError(
            f"model: there is no file {file}, and no weights {wanted!r} of {architecture}; "
            f"{_tags(package, architecture)}"
        )
    if config.get("hf_hub"):
        repository, _, name = config["hf_hub"].rpartition("/")
        return architecture, wanted, _clip_download(package, repository, name or None)
    try:
        return architecture, wanted, Path(package.pretrained.download_pretrained(config))
    except OSError as error:
        raise FileNotFoundError(
            f"model: the weights {wanted!r} of {architecture} cannot be fetched from "
            f"{config['url']}: {error}; where it cannot be reached, give {architecture}/FILE"
        ) from error


def _tags(package: Any, architecture: str) -> str:
    tags = package.list_pretrained_tags_by_model(architecture)
    return f"tags of {architecture} are {', '.join(tags)}" if tags else "it has no tags"


def _clip_download(package: Any, repository: str, name: str | None) -> Path:
    """The file of a model on the hub, in the hub's cache."""
    files = [name] if name else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    is_reachable(repository, files, remedy="the weights' file, ARCHITECTURE/FILE")
    path = Path(package.pretrained.download_pretrained_from_hf(repository, filename=name))
    check_downloaded(path)
    return path


def load_torchvision(
    options: Embedder, root: str | os.PathLike[str], device: torch.device
) -> Model:
    """A network of torchvision, pretrained on ImageNet: its blocks and its penultimate layer.

    Of each block, a picture's features averaged over places (or over a transformer's tokens).
    """
    from model_metrology.torchvision_compat import torchvision

    name = options.model
    if name not in WEIGHTS:
        raise ValueError(
            f"model: no pretrained weights of {name!r} are known; choose from {', '.join(WEIGHTS)}"
        )
    weights = pretrained_weights(name)
    network = pretrained_network(name, weights)
    preprocess = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].transforms()
    network, head = split_head(network.eval().to(device))
    blocks = _blocks(network) if options.layers == "all" else []
    pooled: dict[str, Tensor] = {}

    def keep(view: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, inputs: Any, features: Tensor) -> None:
            places = (2, 3) if features.ndim == 4 else (1,)
            pooled[view] = features.mean(dim=places)

        return hook

    for layer, block in enumerate(blocks):
        block.register_forward_hook(keep(f"{layer} mean"))

    @torch.inference_mode()
    def vectors(images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        batch = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)
        output = network(preprocess(batch).to(device))
        return {view: found.cpu().numpy() for view, found in (pooled | {OUTPUT: output}).items()}

    return Model(
        of="images",
        identity=identify(
            options, "torchvision", f"sha256 {digest([weights])}",
            layers=options.layers, precision=str(torch.float32),
        ),
        description=describe(
            options, "torchvision", dimension=head.in_features, layers=len(blocks)
        ),
        vectors=vectors,
        normalise=options.normalise,
    )  # fmt: skip


def _blocks(network: Any) -> list[nn.Module]:
    """The parts of a torchvision network that follow each other."""
    if hasattr(network, "features"):
        return list(network.features)
    if hasattr(network, "encoder"):
        return list(network.encoder.layers)
    return [network.maxpool, network.layer1, network.layer2, network.layer3, network.layer4]
