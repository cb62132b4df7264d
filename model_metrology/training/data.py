"""What a training loop sees of a dataset: tensors on the device, epochs drawn from streams."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_metrology.data.datasets import Dataset
from model_metrology.layout import channels_last
from model_metrology.models import build_model, split_head
from model_metrology.recipes import Architecture
from model_metrology.seeds import Streams

logger = logging.getLogger(__name__)

_EVALUATION_BATCH = 500

# Of the transforms that torchvision documents with its ImageNet weights.
_IMAGENET_MEAN = np.array([0.485, 0.456, 0.406])
_IMAGENET_STD = np.array([0.229, 0.224, 0.225])


@dataclass(frozen=True, eq=False)
class Points:
    """Inputs and labels on the device.

    Attributes
    ----------
    train, test : Tensor, shape (N, C, H, W) or (N, features)
        Normalised images, or features of a frozen network.
    train_labels, test_labels : ndarray of int64, shape (N,)
        True classes, on the CPU.
    classes : int
        Number of classes.
    """

    train: Tensor
    test: Tensor
    train_labels: NDArray[np.int64]
    test_labels: NDArray[np.int64]
    classes: int

    @classmethod
    def from_dataset(
        cls,
        dataset: Dataset,
        device: torch.device,
        features: dict[str, NDArray[np.float32]] | None = None,
        *,
        pretrained: bool = False,
    ) -> Points:
        """Normalise a dataset's images, or take features in their place."""
        if features is None:
            train, test = (
                normalised_images(images, dataset, device, pretrained=pretrained)
                for images in (dataset.train_images, dataset.test_images)
            )
        else:
            train, test = (torch.from_numpy(features[part]).to(device) for part in _PARTS)
            if len(train) != len(dataset.train_labels) or len(test) != len(dataset.test_labels):
                raise ValueError(
                    f"features are of {len(train)} and {len(test)} points, {dataset.name} has "
                    f"{len(dataset.train_labels)} and {len(dataset.test_labels)}; compute them anew"
                )
        return cls(train, test, dataset.train_labels, dataset.test_labels, len(dataset.classes))


_PARTS = ("train", "test")


def normalised_images(
    images: NDArray[np.uint8], dataset: Dataset, device: torch.device, *, pretrained: bool = False
) -> Tensor:
    """Images as float32, each channel shifted and scaled.

    To mean 0 and variance 1 over the training images; for networks pretrained on ImageNet by the
    constants that they were trained with (of a grey image, their means).
    """
    mean, std = (dataset.mean, dataset.std) if not pretrained else (_IMAGENET_MEAN, _IMAGENET_STD)
    if images.shape[1] != len(mean):
        mean, std = np.mean(mean, keepdims=True), np.mean(std, keepdims=True)
    shift, scale = (
        torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
        # A channel that never varies has nothing to scale.
        for values in (mean, np.where(std > 0, std, 1.0))
    )
    scaled = (torch.from_numpy(images).float() / 255 - shift) / scale
    return channels_last(scaled).to(device)


def noisy_labels(
    labels: NDArray[np.int64], classes: int, fraction: float, streams: Streams
) -> NDArray[np.int64]:
    """Replace round(fraction · N) of the labels, each by another class drawn uniformly."""
    noisy = labels.copy()
    generator = streams.generator("label_noise")
    chosen = generator.choice(len(labels), size=round(fraction * len(labels)), replace=False)
    noisy[chosen] = (noisy[chosen] + generator.integers(1, classes, size=len(chosen))) % classes
    return noisy


@dataclass(frozen=True, eq=False)
class Epoch:
    """The order and the augmentations of one epoch, for each of k runs."""

    order: Tensor
    """(k, N) a permutation of the points for each run."""
    crop: Tensor | None
    """(k, N, 2) row and column at which each point's crop starts, in the padded image."""
    flip: Tensor | None
    """(k, N) whether each point is mirrored."""

    @classmethod
    def draw(
        cls,
        epoch: int,
        streams: Sequence[Streams],
        shape: Sequence[int],
        augmentation: Sequence[str],
        device: torch.device,
    ) -> Epoch:
        """Draw an epoch; it depends on its number and the streams alone, not on earlier ones."""
        points = shape[0]
        order = np.stack([s.generator("order", epoch).permutation(points) for s in streams])
        crop = flip = None
        if augmentation:
            generators = [s.generator("augmentation", epoch) for s in streams]
            # Both are always drawn, so that dropping one leaves the other as it was.
            flips = np.stack([g.random(points) < 0.5 for g in generators])
            span = 2 * padding(shape) + 1
            crops = np.stack([g.integers(0, span, size=(points, 2)) for g in generators])
            crop = torch.from_numpy(crops).to(device) if "crop" in augmentation else None
            flip = torch.from_numpy(flips).to(device) if "flip" in augmentation else None
        return cls(torch.from_numpy(order).to(device), crop, flip)

    def batches(self, inputs: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs (k, B, …) and the indices (k, B) of their points, batch by batch."""
        points = self.order.shape[1]
        # A last batch of one point has no variance for batch normalisation: it is left out.
        for start in range(0, points - (points % size == 1), size):
            index = self.order[:, start : start + size]
            yield self._augmented(inputs, index), index

    def _augmented(self, inputs: Tensor, index: Tensor) -> Tensor:
        if self.crop is None and self.flip is None:
            return inputs[index]
        rows, columns = self._sources(inputs.shape, index)
        images = inputs
        if self.crop is not None:
            pad = padding(inputs.shape)
            images = torch.nn.functional.pad(inputs[index.flatten()], (pad,) * 4)
            picked = torch.arange(index.numel(), device=index.device)
        else:
            picked = index.flatten()
        # One gather does crop and flip; it leaves the channels last, as they are wanted.
        gathered = images[picked[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        return gathered.permute(0, 3, 1, 2).unflatten(0, index.shape)

    def _sources(self, shape: Sequence[int], index: Tensor) -> tuple[Tensor, Tensor]:
        """(k·B, H) row and (k·B, W) column that each pixel of a batch is taken from."""
        run = torch.arange(len(index), device=index.device)[:, None]
        rows = torch.arange(shape[-2], device=index.device).expand(index.numel(), -1)
        columns = torch.arange(shape[-1], device=index.device).expand(index.numel(), -1)
        if self.flip is not None:
            mirrored = self.flip[run, index].flatten()[:, None]
            columns = torch.where(mirrored, shape[-1] - 1 - columns, columns)
        if self.crop is not None:
            start = self.crop[run, index].flatten(0, 1)
            rows, columns = rows + start[:, :1], columns + start[:, 1:]
        return rows, columns


def padding(shape: Sequence[int]) -> int:
    """Padding before a random crop: an eighth of the side, with the mean colour."""
    return max(int(shape[-1]) // 8, 1)


@torch.no_grad()
def extract_features(
    architecture: Architecture, dataset: Dataset, *, device: torch.device
) -> dict[str, NDArray[np.float32]]:
    """Apply the frozen part of a pretrained network to a dataset.

    Parameters
    ----------
    architecture : Architecture
        A pretrained one; its last linear layer is left off.
    dataset : Dataset
        Training and test images.
    device : torch.device
        Where to compute.

    Returns
    -------
    dict
        ``train`` and ``test``, float32 (points, features).
    """
    network = build_model(
        architecture,
        image_shape=dataset.train_images.shape[1:],
        classes=len(dataset.classes),
        seed=0,
    )
    body, _ = split_head(network)
    body = body.eval().to(device)
    features = {}
    for part, images in zip(_PARTS, (dataset.train_images, dataset.test_images), strict=True):
        parts = []
        for start in range(0, len(images), _EVALUATION_BATCH):
            chunk = images[start : start + _EVALUATION_BATCH]
            inputs = normalised_images(chunk, dataset, device, pretrained=architecture.pretrained)
            parts.append(body(inputs).cpu())
            logger.info("features of %s points · %d/%d", part, start + len(chunk), len(images))
        features[part] = torch.cat(parts).numpy()
    return features
