"""Datasets ready for training: images, labels, and which of the canonical points they are.

A dataset is a choice of classes from a raw collection, each on its own or grouped into a coarser
class. It is the same for everybody: only a smaller subset, asked for by size, depends on a seed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_metrology.data.catalogue import DATASETS, shares
from model_metrology.data.fetch import KINDS, RAW, fetch
from model_metrology.data.formats import parse_cifar, parse_idx


@dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset in memory.

    Attributes
    ----------
    name : str
        Its name in `DATASETS`, or a study's own name for it.
    classes : tuple of str
        Names of the classes, by label.
    train_images, test_images : ndarray of uint8, shape (N, C, H, W)
        Images, 0 to 255.
    train_labels, test_labels : ndarray of int64, shape (N,)
        Labels, 0 to ``len(classes) - 1``.
    train_index, test_index : ndarray of int64, shape (N,)
        Ascending positions of the points in the raw collection's training and test set (for
        ``digits``, whose collection is not divided, in the collection).
    mean, std : ndarray of float64, shape (C,)
        Mean and standard deviation of each channel over the training images (before any was
        poisoned), on a scale where 255 is 1.
    poisoned : ndarray of bool, shape (N,)
        Which training points carry a planted trigger; none when left out.
    """

    name: str
    classes: tuple[str, ...]
    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    train_index: NDArray[np.int64]
    test_index: NDArray[np.int64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    poisoned: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))

    def __post_init__(self) -> None:
        points = len(self.train_labels)
        if not self.poisoned.size:
            object.__setattr__(self, "poisoned", np.zeros(points, dtype=bool))
        if self.poisoned.shape != (points,):
            raise ValueError(
                f"poisoned: one entry a training point is needed, ({points},), got "
                f"{self.poisoned.shape}"
            )


@dataclass(frozen=True, eq=False)
class _Points:
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    index: NDArray[np.int64]

    def take(self, positions: NDArray[np.int64]) -> _Points:
        return _Points(self.images[positions], self.labels[positions], self.index[positions])


def prepare_dataset(
    name: str,
    *,
    of: str | None = None,
    root: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] = "resources",
    train: int | None = None,
    test: int | None = None,
    standardise: bool = True,
    seed: int = 0,
    sources: Sequence[str] = KINDS,
) -> Dataset:
    """Fetch, verify and assemble a dataset.

    Points keep the order of the raw collection, so that a dataset is the same wherever its files
    came from. Asked for fewer points, it keeps a stratified random subset: each class has its
    share, rounded so that the total is exact.

    Parameters
    ----------
    name : str
        The dataset's name: a key of `DATASETS`, or any name where `of` says what it is.
    of : str, optional
        A key of `DATASETS`, so that one dataset can be had in several ways; `name` when absent.
    root : path, optional
        Local folder with raw files; the environment variable ``MODEL_METROLOGY_DATA`` when absent.
    cache : path
        Folder that keeps the raw files that were fetched, shared by all datasets.
    train, test : int, optional
        Number of training and test points; all when absent.
    standardise : bool
        Give the training points' moments as `mean` and `std`; otherwise 0 and 1, so that networks
        see intensities of 0 to 1.
    seed : int
        Seed of the subsets that `train` and `test` ask for.
    sources : sequence of {"folder", "download", "package"}
        Kinds of sources, in the order tried.

    Returns
    -------
    Dataset

    Raises
    ------
    DataUnavailableError
        If no source has the raw files.
    ValueError
        If `of` (or `name` in its place) is unknown, or `train` or `test` is fewer than one point a
        class or more than there are.
    """
    key, known = ("name", name) if of is None else ("of", of)
    if known not in DATASETS:
        raise ValueError(f"{key}: there is no dataset {known!r}; known: {', '.join(DATASETS)}")
    spec = DATASETS[known]
    # Before anything is fetched: a wrong number should not cost a download.
    _check_size("train", train, spec.train_size, name, len(spec.classes))
    _check_size("test", test, spec.test_size, name, len(spec.classes))
    limits = spec.per_class or (None, None)
    wanted = (train, test)
    parts = [
        _subset(_select(points, spec.groups, limit), size, np.random.default_rng([seed, part]))
        for part, (points, limit, size) in enumerate(
            zip(_load(spec.raw, root, cache, sources), limits, wanted, strict=True)
        )
    ]
    mean, std = channel_moments(parts[0].images)
    if not standardise:
        mean, std = np.zeros_like(mean), np.ones_like(std)
    return Dataset(
        name=name,
        classes=spec.classes,
        train_images=parts[0].images,
        train_labels=parts[0].labels,
        test_images=parts[1].images,
        test_labels=parts[1].labels,
        train_index=parts[0].index,
        test_index=parts[1].index,
        mean=mean,
        std=std,
    )


def stratified_subset(
    labels: NDArray[np.int64], size: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Positions of a random subset in which each class keeps its share.

    Shares are rounded by largest remainder, ties to the smaller label, so that they add up to
    `size`.

    Parameters
    ----------
    labels : ndarray of int64, shape (n,)
        Labels.
    size : int
        Number of positions, at most n.
    generator : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    ndarray of int64, shape (size,)
        Ascending positions.

    Raises
    ------
    ValueError
        If `size` is negative or more than n.
    """
    if not 0 <= size <= len(labels):
        raise ValueError(f"size: {size} points asked for, there are {len(labels)}")
    present, counts = np.unique(labels, return_counts=True)
    chosen = [
        generator.permutation(np.flatnonzero(labels == label))[:share]
        for label, share in zip(present, shares(counts.tolist(), size), strict=True)
    ]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def channel_moments(
    images: NDArray[np.uint8],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each channel, on a scale where 255 is 1.

    Parameters
    ----------
    images : ndarray of uint8, shape (N, C, H, W)
        Images.

    Returns
    -------
    mean, std : ndarray of float64, shape (C,)
    """
    # From the histogram: exact, and without a copy of all images in floating point.
    values = np.arange(256) / 255
    histograms = np.stack(
        [np.bincount(images[:, c].ravel(), minlength=256) for c in range(images.shape[1])]
    )
    shares = histograms / histograms.sum(axis=1, keepdims=True)
    mean = shares @ values
    variance = (shares * (values - mean[:, None]) ** 2).sum(axis=1)
    return mean, np.sqrt(variance)


def _check_size(key: str, wanted: int | None, there: int, name: str, classes: int) -> None:
    if wanted is not None and not classes <= wanted <= there:
        raise ValueError(
            f"{key}: {wanted} points asked for; {name} has {there} and {classes} classes, "
            f"so choose from {classes} to {there}"
        )


def _select(points: _Points, groups: Sequence[Sequence[int]], limit: int | None) -> _Points:
    """Points of the classes wanted, relabelled; the first `limit` of each new class."""
    relabelled = np.full(len(points.labels), -1, np.int64)
    for label, members in enumerate(groups):
        relabelled[np.isin(points.labels, members)] = label
    kept = [np.flatnonzero(relabelled == label)[:limit] for label in range(len(groups))]
    return replace(points, labels=relabelled).take(np.sort(np.concatenate(kept)))


def _subset(points: _Points, size: int | None, generator: np.random.Generator) -> _Points:
    if size is None:
        return points
    return points.take(stratified_subset(points.labels, size, generator))


def _load(
    raw: str,
    root: str | os.PathLike[str] | None,
    cache: str | os.PathLike[str],
    sources: Sequence[str],
) -> tuple[_Points, _Points]:
    """Return the training and the test points of a raw collection."""
    if raw == "digits":
        return _load_digits()
    files = fetch(RAW[raw], Path(cache) / raw, root=root, sources=sources)
    return _read_cifar(files) if raw == "cifar10" else _read_idx(files)


def _points(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> _Points:
    return _Points(images, labels.astype(np.int64), np.arange(len(labels), dtype=np.int64))


def _read_idx(files: Mapping[str, bytes]) -> tuple[_Points, _Points]:
    def read(part: str) -> _Points:
        images, labels = (
            parse_idx(files[name], name)
            for name in (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte")
        )
        return _points(images[:, None], labels)

    return read("train"), read("t10k")


def _read_cifar(files: Mapping[str, bytes]) -> tuple[_Points, _Points]:
    def read(names: Sequence[str]) -> _Points:
        images, labels = zip(*(parse_cifar(files[name], name) for name in names), strict=True)
        return _points(np.concatenate(images), np.concatenate(labels))

    return read([f"data_batch_{i}.bin" for i in range(1, 6)]), read(["test_batch.bin"])


def _load_digits() -> tuple[_Points, _Points]:
    from sklearn.datasets import load_digits  # slow to import, and only needed here

    bunch = load_digits()
    # The collection's grey values are 0 to 16.
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    points = _points(images, bunch.target)
    # One split for all: it is part of what the dataset is, not of a study's randomness.
    train = stratified_subset(points.labels, 1_200, np.random.default_rng(0))
    test = np.setdiff1d(points.index, train)
    return points.take(train), points.take(test)
