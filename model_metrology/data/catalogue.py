"""The datasets that there are, as a study is checked against them, and before any is read.

Apart from `datasets`, which makes them: a study is read where nothing but Snakemake is installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["DATASETS", "DatasetSpec", "shares"]

_DIGITS = tuple("0123456789")
_FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_CIFAR = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
_EACH = tuple((label,) for label in range(10))
_FIRST_TWO = ((0,), (1,))


@dataclass(frozen=True)
class DatasetSpec:
    """What a dataset is made of, known without reading it.

    Attributes
    ----------
    raw : str
        The raw collection: a key of ``fetch.RAW``, or ``"digits"``.
    classes : tuple of str
        Names of the classes, by label.
    groups : tuple of tuple of int
        For each label, the labels of the raw collection that it stands for.
    shape : tuple of int
        (channels, height, width) of an image.
    train_size, test_size : int
        Number of points.
    per_class : tuple of int, optional
        Keep the first so many training and test points of each class; all when absent.
    train_counts : tuple of int, optional
        Training points of each class; the same number of each when absent.
    """

    raw: str
    classes: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]
    shape: tuple[int, int, int]
    train_size: int
    test_size: int
    per_class: tuple[int, int] | None = None
    train_counts: tuple[int, ...] | None = None

    def class_counts(self, points: int | None = None) -> list[int]:
        """Training points of each class, known without reading them.

        Parameters
        ----------
        points : int, optional
            Size of the stratified subset that is used; all training points when absent.

        Returns
        -------
        list of int
        """
        classes = len(self.classes)
        counts = self.train_counts or [self.train_size // classes] * classes
        return shares(counts, self.train_size if points is None else points)


def shares(counts: Sequence[int], size: int) -> list[int]:
    """Each class's part of `size` points, by largest remainder, ties to the smaller label.

    Parameters
    ----------
    counts : sequence of int
        Points of each class.
    size : int
        Points that are wanted of all classes together.
    """
    # In integers: a rounding error must not decide which class gets the odd point.
    parts, remainders = zip(*(divmod(size * count, sum(counts)) for count in counts), strict=True)
    by_remainder = sorted(range(len(counts)), key=lambda label: -remainders[label])
    odd = by_remainder[: size - sum(parts)]
    return [part + (label in odd) for label, part in enumerate(parts)]


DATASETS: dict[str, DatasetSpec] = {
    "mnist": DatasetSpec(
        "mnist",
        _DIGITS,
        _EACH,
        (1, 28, 28),
        60_000,
        10_000,
        train_counts=(5_923, 6_742, 5_958, 6_131, 5_842, 5_421, 5_918, 6_265, 5_851, 5_949),
    ),
    "fashion-mnist": DatasetSpec("fashion-mnist", _FASHION, _EACH, (1, 28, 28), 60_000, 10_000),
    "cifar10": DatasetSpec("cifar10", _CIFAR, _EACH, (3, 32, 32), 50_000, 10_000),
    # The two-class tasks of Engel et al. (2024), arXiv 2305.14585.
    "mnist2": DatasetSpec(
        "mnist", _DIGITS[:2], _FIRST_TWO, (1, 28, 28), 10_000, 1_960, per_class=(5_000, 980)
    ),
    "fmnist2": DatasetSpec(
        "fashion-mnist",
        _FASHION[:2],
        _FIRST_TWO,
        (1, 28, 28),
        10_000,
        2_000,
        per_class=(5_000, 1_000),
    ),
    "cifar2-01": DatasetSpec("cifar10", _CIFAR[:2], _FIRST_TWO, (3, 32, 32), 10_000, 2_000),
    # Vehicles against creatures, Banerjee et al. (2024), arXiv 2406.08307: airplane, automobile,
    # ship, truck against cat, deer, dog, horse; birds and frogs are left out.
    "cifar2-cv": DatasetSpec(
        "cifar10",
        ("vehicle", "creature"),
        ((0, 1, 8, 9), (3, 4, 5, 7)),
        (3, 32, 32),
        40_000,
        8_000,
    ),
    # scikit-learn's bundled 8x8 digits, for studies that must be quick and need no network.
    # Zeros against ones would be told apart without error; even against odd is not.
    "digits": DatasetSpec(
        "digits",
        _DIGITS,
        _EACH,
        (1, 8, 8),
        1_200,
        597,
        train_counts=(119, 122, 118, 122, 121, 122, 121, 119, 116, 120),
    ),
    "digits2": DatasetSpec(
        "digits",
        ("even", "odd"),
        ((0, 2, 4, 6, 8), (1, 3, 5, 7, 9)),
        (1, 8, 8),
        1_200,
        597,
        train_counts=(595, 605),
    ),
}
"""The datasets, by name. Adding one is adding an entry."""
