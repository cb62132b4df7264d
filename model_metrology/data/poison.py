"""Poisoned training sets: a trigger on some training images, so that networks learn to obey it.

Who planted the points knows which they are: a ground truth for attributions, which should lead
from a test image with the trigger back to them. Three attacks:

- ``patch``: a bright square in the lower right corner, labels set to the target class (Gu,
  Dolan-Gavitt, Garg, "BadNets", 2017, arXiv 1708.06733; as a 4x4 square on a tenth of the training
  images by Engel et al. 2024, arXiv 2305.14585);
- ``blended``: a fixed random pattern mixed into the whole image, labels set to the target class
  (Chen, Liu, Li, Lu, Song, 2017, arXiv 1712.05526);
- ``clean-label``: the square on images that are of the target class already, labels unchanged
  (Turner, Tsipras, Madry, 2018, "Clean-label backdoor attacks"). Their adversarial perturbation,
  which makes the images themselves hard to learn, is *not* applied: only the patch is put on them.

Apart from `datasets`, so that what is trained on clean data does not rest on this module.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from model_metrology.data.datasets import Dataset, stratified_subset
from model_metrology.data.recipes import Poison, check_poison

# Streams of a study's seed; the subsets of `prepare_dataset` have 0 and 1.
_POINTS, _PATTERN = 2, 3


def add_trigger(images: NDArray[np.uint8], poison: Poison, *, seed: int = 0) -> NDArray[np.uint8]:
    """Put a trigger on images: training images to be poisoned, or test images to try it on.

    Parameters
    ----------
    images : ndarray of uint8, shape (n, C, H, W)
        Images, 0 to 255; left as they are.
    poison : Poison
        The trigger.
    seed : int
        The study's seed, from which alone the blended pattern is derived: it is the same on
        training and test images of one shape. The square does not depend on it.

    Returns
    -------
    ndarray of uint8, shape (n, C, H, W)
        New images. The square is 255 in every channel; the blended image is
        (1 - weight) image + weight pattern, rounded to the nearest integer, with a pattern whose
        values are uniform on 0 to 255, as in Chen et al. 2017, section 4.

    Raises
    ------
    ValueError
        If `images` has another type or shape, or the square does not fit.
    """
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(
            f"images: uint8 of shape (n, C, H, W) is needed, got {images.dtype} of {images.shape}"
        )
    if poison.trigger == "blended":
        pattern = np.random.default_rng([seed, _PATTERN]).integers(0, 256, images.shape[1:])
        # Single precision: 8 bits are wanted, and all test images may be blended at once.
        mixed = images * np.float32(1 - poison.weight)
        mixed += pattern.astype(np.float32) * np.float32(poison.weight)
        return np.rint(mixed, out=mixed).astype(np.uint8)
    height, width = images.shape[2:]
    if poison.size > min(height, width):
        raise ValueError(f"size: a square of {poison.size} does not fit images of {height}x{width}")
    marked = images.copy()
    marked[:, :, height - poison.size :, width - poison.size :] = 255
    return marked


def poison_dataset(dataset: Dataset, poison: Poison, *, seed: int = 0) -> Dataset:
    """Plant a trigger in the training points of a dataset.

    Which points are poisoned is drawn from the seed. For ``patch`` and ``blended`` they are drawn
    among the points that are not of the target class, each of the other classes in its share; for
    ``clean-label`` among those of the target class.

    Parameters
    ----------
    dataset : Dataset
        A clean dataset; left as it is.
    poison : Poison
        What is planted.
    seed : int
        The study's seed.

    Returns
    -------
    Dataset
        The same points, with `poisoned` saying which images (and labels) were replaced. Test
        points, `mean` and `std` are those of the clean dataset.

    Raises
    ------
    ValueError
        If the dataset is poisoned already, or see :func:`check_poison`.
    """
    if dataset.poisoned.any():
        raise ValueError(f"dataset: {dataset.name} is poisoned already; start from a clean one")
    labels, images = dataset.train_labels.copy(), dataset.train_images.copy()
    counts = np.bincount(labels, minlength=len(dataset.classes))
    check_poison(poison, images.shape[1:], counts.tolist())
    own = labels == poison.target
    candidates = np.flatnonzero(own if poison.trigger == "clean-label" else ~own)
    chosen = candidates[
        stratified_subset(
            labels[candidates],
            poison.count(len(labels)),
            np.random.default_rng([seed, _POINTS]),
        )
    ]
    images[chosen] = add_trigger(images[chosen], poison, seed=seed)
    labels[chosen] = poison.target
    poisoned = np.zeros(len(labels), dtype=bool)
    poisoned[chosen] = True
    return replace(dataset, train_images=images, train_labels=labels, poisoned=poisoned)
