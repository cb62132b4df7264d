"""Images out of noise: a small diffusion model, trained here and drawn from here.

An image x in [-1, 1] is mixed with noise ε ~ N(0, I) at a time t from 0 (the image) to 1 (noise):
``z = α x + σ ε``, ``α = cos(πt/2)``, ``σ = sin(πt/2)``. This is the diffusion of Ho, Jain, Abbeel
2020 (arXiv 2006.11239) under the cosine schedule of Nichol & Dhariwal 2021 (arXiv 2102.09672),
in continuous time and without their offset. A U-Net learns the velocity ``v = α ε - σ x`` of
Salimans & Ho 2022 (arXiv 2202.00512), or rather what it is beyond the best linear guess. Images
are drawn by the deterministic sampler of Song, Meng, Ermon 2021 (DDIM, arXiv 2010.02502).
"""

from __future__ import annotations

import copy
import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.fft import dct, dctn
from torch import Tensor, nn

from model_metrology import store
from model_metrology.digests import content_digest
from model_metrology.models.unet import UNet
from model_metrology.seeds import Streams

if TYPE_CHECKING:
    from model_metrology.embeddings.recipes import Generator

__all__ = ["Denoiser", "ddim", "diffuse", "draw_images", "train_generator", "velocity_loss"]

logger = logging.getLogger(__name__)

Network = Callable[[Tensor, Tensor], Tensor]
"""From mixtures (B, C, H, W) at times (B,) to velocities (B, C, H, W)."""

_WARMUP = 0.05  # share of the steps over which the step size rises
_LARGEST_GRADIENT = 1.0  # norm to which gradients are cut
_MEMORY = 6.94  # exponent of the average of weights, whose width is then a tenth of training
_REPORT_SECONDS = 20.0
_MEASURED_AT_ONCE, _DRAWN_AT_ONCE = 1000, 250


def _mixture(time: Tensor) -> tuple[Tensor, Tensor]:
    """α and σ at times (B,) or (), broadcast over images."""
    angle = (time * (math.pi / 2)).reshape(-1, 1, 1, 1)
    return angle.cos(), angle.sin()


def diffuse(images: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """Mix images with noise, α x + σ ε, both (B, C, H, W), at times (B,) or ()."""
    alpha, sigma = _mixture(time)
    return alpha * images + sigma * noise


def velocity(images: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """What the network learns, α ε - σ x; as :func:`diffuse`."""
    alpha, sigma = _mixture(time)
    return alpha * noise - sigma * images


def image_of(mixed: Tensor, velocity: Tensor, time: Tensor) -> Tensor:
    """The image in a mixture z of known velocity, α z - σ v."""
    alpha, sigma = _mixture(time)
    return alpha * mixed - sigma * velocity


def noise_of(mixed: Tensor, images: Tensor, time: Tensor) -> Tensor:
    """The noise in a mixture z of known image, (z - α x)/σ, at times above 0."""
    alpha, sigma = _mixture(time)
    return (mixed - alpha * images) / sigma


def velocity_loss(network: Network, images: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """Mean squared error of the velocities that a network predicts; as :func:`diffuse`."""
    return F.mse_loss(network(diffuse(images, noise, time), time), velocity(images, noise, time))


def ddim(network: Network, noise: Tensor, steps: int, *, bound: float | None = 1.0) -> Tensor:
    """Carry noise (B, C, H, W) to images, adding none on the way (η = 0).

    Times are squares of equal steps, as Song, Meng, Ermon 2021 have them for CIFAR-10: detail is
    made late. Predicted images are cut to ±`bound` (Ho, Jain, Abbeel 2020) unless it is None.
    """
    mixed = noise
    for now, later in pairwise(torch.linspace(1, 0, steps + 1, device=noise.device) ** 2):
        images = image_of(mixed, network(mixed, now.expand(len(mixed))), now)
        if bound is not None:
            images = images.clamp(-bound, bound)
        mixed = diffuse(images, noise_of(mixed, images, now), later)
    return mixed


class Denoiser(nn.Module):
    """The velocity of mixtures: the best guess for a Gaussian field, and what a U-Net adds to it.

    As Karras et al. 2022 (arXiv 2206.00364) start their networks from the best guess that knows
    the variance of images, this one starts from the best that knows their mean and the variance
    of each frequency (Wiener's filter), in the basis of cosines over places and colours: training
    is spent on what images have beyond that.

    Made from training images, uint8 (N, C, side, side), and the width of the U-Net.
    """

    mean: Tensor
    spectrum: Tensor
    colours: Tensor  # the matrices of the cosine transforms
    places: Tensor

    def __init__(self, images: NDArray[np.uint8], width: int) -> None:
        super().__init__()
        channels, side = images.shape[1:3]
        for name, values in zip(("mean", "spectrum"), _moments(images), strict=True):
            self.register_buffer(name, torch.from_numpy(values))
        for name, size in (("colours", channels), ("places", side)):
            cosines = dct(np.eye(size, dtype=np.float32), axis=0, norm="ortho")
            self.register_buffer(name, torch.from_numpy(cosines))
        self.learned = UNet(channels, side, width)

    def forward(self, mixed: Tensor, time: Tensor) -> Tensor:
        """Map mixtures (B, C, side, side) at times (B,) to velocities of the same shape."""
        alpha, sigma = _mixture(time)
        waves = self.places @ (mixed - alpha * self.mean) @ self.places.T
        waves = torch.einsum("dc,bchw->bdhw", self.colours, waves)
        gain = alpha * sigma * (1 - self.spectrum) / (alpha**2 * self.spectrum + sigma**2)
        waves = torch.einsum("dc,bdhw->bchw", self.colours, gain * waves)
        guess = self.places.T @ waves @ self.places - sigma * self.mean
        return guess + self.learned(mixed, time)


def _moments(images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean image, and variance of its cosine waves over places and colours; (C, side, side)."""
    mean = (images.mean(axis=0) / 127.5 - 1).astype(np.float32)
    squares = np.full(mean.shape, len(images) * (2 / 255) ** 2 / 12)  # images are rounded
    for start in range(0, len(images), _MEASURED_AT_ONCE):
        part = images[start : start + _MEASURED_AT_ONCE] / np.float32(127.5) - 1 - mean
        squares += np.square(dctn(part, axes=(1, 2, 3), norm="ortho")).sum(axis=0)
    return mean, (squares / len(images)).astype(np.float32)


def train_generator(
    options: Generator,
    images: NDArray[np.uint8],
    *,
    seed: int,
    device: torch.device | str = "cpu",
    checkpoint: Path | None = None,
    fingerprint: str = "",
) -> Denoiser:
    """Train a diffusion model on images.

    Adam on :func:`velocity_loss`; batches are drawn with replacement, their times evenly spread
    from a random start (Kingma et al. 2021, arXiv 2107.00630). Images are not mirrored: a mirrored
    digit is none. On one machine, with as many threads, the same arguments give the same weights
    bit for bit, interrupted or not.

    Parameters
    ----------
    options : Generator
        The network's width and the recipe.
    images : ndarray of uint8, shape (N, C, side, side)
        Training images; the side a multiple of 4.
    seed : int
        Seed of weights, batches and noise.
    device : torch.device or str
        Where to train.
    checkpoint : Path, optional
        File to which the state goes every 20 seconds and at the end, and from which training goes
        on if it is of the same options, seed, images and `fingerprint`.
    fingerprint : str
        Of the code.

    Returns
    -------
    Denoiser
        In evaluation mode; its weights are a mean over training in which step s has weight
        s^6.94 (Karras et al. 2024, arXiv 2312.02696).

    Raises
    ------
    ValueError
        If the images are too few, not square or of a wrong type, or the loss is not finite.
    """
    side = images.shape[-1]
    square = images.shape[2:] == (side, side) and side % 4 == 0 < side
    if images.dtype != np.uint8 or len(images) < 2 or not square:
        raise ValueError(
            f"images: {images.dtype} of shape {images.shape}; give at least two, uint8 of shape "
            "(N, C, side, side) with a side that is a multiple of 4"
        )
    pixels = hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()
    recipe = options.model_dump(exclude={"dataset", "images", "sampling_steps"})
    mark = f"{fingerprint} {content_digest([recipe, seed, images.shape, pixels])}"
    training = _Training(options, images, seed, torch.device(device))
    if saved := _saved(checkpoint, mark):
        training.load(saved)
    # Else gradients of convolutions on GPUs differ from time to time.
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        for tree in training.run():
            if checkpoint is not None:
                store.write(checkpoint, tree, kind="checkpoint", attrs={"fingerprint": mark})
    return training.average.eval()


def _saved(checkpoint: Path | None, mark: str) -> store.Tree | None:
    """What a checkpoint holds, if it is there and of this training."""
    if checkpoint is None or not checkpoint.exists():
        return None
    try:
        tree, attrs = store.read(checkpoint, kind="checkpoint")
    except store.StoreError as error:
        logger.warning("checkpoint ignored: %s", error)
        return None
    if attrs["fingerprint"] == mark:
        return tree
    logger.info("checkpoint %s is of another training; ignored", checkpoint)
    return None


class _Training:
    """A model on its way."""

    def __init__(
        self, options: Generator, images: NDArray[np.uint8], seed: int, device: torch.device
    ) -> None:
        self.options, self.device, self.done = options, device, 0
        self.streams = Streams(seed, "generator", 0, ())
        self.images = torch.from_numpy(np.ascontiguousarray(images)).to(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.streams.seed("init"))
            self.network = Denoiser(images, options.width).to(device)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.optimiser = torch.optim.Adam(self.network.parameters(), fused=True)

    def run(self) -> Iterator[store.Tree]:
        """Train to the end; from time to time say how it goes and yield the state."""
        losses: list[Tensor] = []
        reported, steps = time.monotonic(), self.options.steps
        while self.done < steps:
            losses.append(self.step())
            seconds = time.monotonic() - reported
            if self.done < steps and seconds < _REPORT_SECONDS:
                continue
            loss, rate = float(torch.stack(losses).mean()), len(losses) / seconds
            if not math.isfinite(loss):
                raise ValueError(
                    f"learning_rate: the generator's loss was {loss} by step {self.done} at "
                    f"{self.options.learning_rate:g}; lower it"
                )
            text = "generator · step %d/%d · loss %.4f · %.0f images/s"
            logger.info(text, self.done, steps, loss, rate * self.options.batch_size)
            yield self.state()
            losses, reported = [], time.monotonic()

    def step(self) -> Tensor:
        """One step; the loss before it."""
        # Each step has random numbers of its own, so that training goes on as if never stopped.
        size, order = self.options.batch_size, self.streams.generator("order", self.done)
        index = torch.from_numpy(order.integers(len(self.images), size=size)).to(self.device)
        images = self.images[index].float() / 127.5 - 1
        generator = self.streams.generator("augmentation", self.done)
        times = (np.arange(size) / size + generator.random()).astype(np.float32) % 1
        noise = generator.standard_normal(images.shape, dtype=np.float32)
        drawn = (torch.from_numpy(array).to(self.device) for array in (noise, times))
        loss = velocity_loss(self.network, images, *drawn)
        self.optimiser.param_groups[0]["lr"] = _learning_rate(self.options, self.done)
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), _LARGEST_GRADIENT)
        self.optimiser.step()
        self.done += 1
        weight = 1 - (1 - 1 / self.done) ** (_MEMORY + 1)
        averages = self.average.parameters()
        for mean, parameter in zip(averages, self.network.parameters(), strict=True):
            mean.lerp_(parameter.detach(), weight)
        return loss.detach()

    def state(self) -> store.Tree:
        """What training goes on from."""
        moments = self.optimiser.state_dict()["state"]
        return {
            "done": self.done,
            "network": _arrays(self.network.state_dict()),
            "average": _arrays(self.average.state_dict()),
            "optimiser": {f"{number:04d}": _arrays(state) for number, state in moments.items()},
        }

    def load(self, tree: store.Tree) -> None:
        """Go on from what :meth:`state` returned."""
        self.network.load_state_dict(_tensors(tree["network"]))
        self.average.load_state_dict(_tensors(tree["average"]))
        state = {int(number): _tensors(moments) for number, moments in tree["optimiser"].items()}
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": state})
        self.done = int(tree["done"])
        logger.info("generator · goes on from its checkpoint after step %d", self.done)


def _arrays(tensors: dict[str, Tensor]) -> dict[str, NDArray[np.generic]]:
    return {name: value.cpu().numpy() for name, value in tensors.items()}


def _tensors(arrays: dict[str, Any]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()}


def _learning_rate(options: Generator, step: int) -> float:
    """Step size at a step, counted from 0: up to the peak linearly, down to 0 as a cosine."""
    rising = (step + 1) / (_WARMUP * options.steps)
    falling = 0.5 * (1 + math.cos(math.pi * step / options.steps))
    return options.learning_rate * min(rising, falling)


@torch.no_grad()
def draw_images(
    model: Denoiser, number: int, *, steps: int, seed: int, device: torch.device | str = "cpu"
) -> NDArray[np.uint8]:
    """Draw images from a trained model by :func:`ddim`.

    Parameters
    ----------
    model : UNet
        From :func:`train_generator`.
    number, steps, seed : int
        Images to draw, steps from noise to each of them, and seed of the noise.
    device : torch.device or str
        Where to compute.

    Returns
    -------
    ndarray of uint8, shape (number, C, side, side)
    """
    generator = Streams(seed, "generator", 0, ()).generator("data")
    noise = generator.standard_normal((number, *model.mean.shape), dtype=np.float32)
    model, started = model.to(device).eval(), time.monotonic()
    parts: list[NDArray[np.uint8]] = []
    for chunk in torch.from_numpy(noise).split(_DRAWN_AT_ONCE):
        images = ddim(model, chunk.to(device), steps)
        parts.append(((images + 1) * 127.5).round().byte().cpu().numpy())
        drawn = sum(map(len, parts))
        rate = drawn / (time.monotonic() - started)
        logger.info("generator · %d/%d images drawn · %.1f images/s", drawn, number, rate)
    return np.concatenate(parts)
