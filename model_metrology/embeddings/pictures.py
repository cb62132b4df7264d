"""Images as items to embed: of a dataset, the same through JPEG, and those that a model drew."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model_metrology.data.datasets import Dataset, stratified_subset
from model_metrology.embeddings.items import Items, Strings, strings

if TYPE_CHECKING:
    from model_metrology.embeddings.recipes import Recompression

__all__ = ["dataset_items", "generated_items", "recompressed"]


def dataset_items(dataset: Dataset, name: str, *, limit: int | None, seed: int) -> Items:
    """A dataset's test images, each a group of its own.

    Parameters
    ----------
    dataset : Dataset
        Grey or coloured images.
    name : str
        Name of the source.
    limit : int, optional
        Keep so many images, chosen at random with each class's share; all when None.
    seed : int
        Seed of the choice.

    Returns
    -------
    Items
        With the label ``class``; ids and groups are ``test/`` and the image's place in the raw
        collection.

    Raises
    ------
    ValueError
        If there are fewer images than `limit`.
    """
    images, labels, index = dataset.test_images, dataset.test_labels, dataset.test_index
    if limit is not None:
        if limit > len(labels):
            raise ValueError(
                f"limit: {limit} images asked for, {dataset.name} has {len(labels)} test images; "
                f"lower the limit of source {name!r} or leave it out"
            )
        chosen = stratified_subset(labels, limit, np.random.default_rng(seed))
        images, labels, index = images[chosen], labels[chosen], index[chosen]
    ids = strings([f"test/{place}" for place in index])
    return _items(images, name, ids, {"class": strings(dataset.classes)[labels]})


def recompressed(items: Items, options: Recompression, name: str) -> Items:
    """Images through JPEG and back, as Pillow writes it at a quality.

    Parameters
    ----------
    items : Items
        Images.
    options : Recompression
        The quality.
    name : str
        Name of the new source.

    Returns
    -------
    Items
        The same ids, groups and labels, so that an image and its compressed self are never on
        both sides of a fold.

    Raises
    ------
    ValueError
        If the items are texts.
    """
    if items.images is None:
        raise ValueError(f"recompression: the items of {name!r} would be texts; name images")
    images = np.stack([_through_jpeg(image, options.quality) for image in items.images])
    return replace(items, source=np.full(len(items), name, dtype=object), images=images)


def _through_jpeg(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def generated_items(images: NDArray[np.uint8], name: str) -> Items:
    """Images that a model drew, each a group of its own.

    Parameters
    ----------
    images : ndarray of uint8, shape (n, C, H, W)
        Grey or coloured, as :func:`model_metrology.models.diffusion.draw_images` returns them.
    name : str
        Name of the source.

    Returns
    -------
    Items
        Without labels; ids and groups are the source's name and the image's number.
    """
    return _items(images, name, strings([f"{name}/{place}" for place in range(len(images))]), {})


def _items(images: NDArray[np.uint8], name: str, ids: Strings, labels: dict[str, Strings]) -> Items:
    """Images (n, 1 or 3, H, W) as items (n, H, W, 3), each a group of its own."""
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"source {name!r}: images of shape {images.shape}; grey or coloured ones are needed, "
            "(n, 1 or 3, height, width)"
        )
    coloured = np.ascontiguousarray(
        np.broadcast_to(images, (len(images), 3, *images.shape[2:])).transpose(0, 2, 3, 1)
    )
    return Items(
        kind="images",
        source=np.full(len(images), name, dtype=object),
        id=ids,
        group=ids,
        labels=labels,
        images=coloured,
    )
