"""Labelled points in folds, and their labels permuted as the folds allow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model_metrology.embeddings.grouping import group_folds, permuted_labels

__all__ = ["Folds", "grouped_folds"]

Codes = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Folds:
    """Labelled points, divided so that no group is on both sides; see :func:`grouped_folds`."""

    classes: tuple[str, ...]
    """K names, in increasing order of the labels."""
    labels: Codes
    """(n,) class of each point, 0 … K − 1."""
    groups: Codes
    """(n,) group of each point, 0 … G − 1."""
    fold: Codes
    """(n,) fold in which each point is held out, 0 … F − 1."""

    def __len__(self) -> int:
        return int(self.fold.max()) + 1

    def splits(self) -> Iterator[tuple[Mask, Mask]]:
        """Training and test points of each fold."""
        for f in range(len(self)):
            test = self.fold == f
            yield ~test, test

    def permuted(self, permutations: int, seed: int) -> Codes:
        """Labels as they might have been if they had nothing to do with the points, (P, n).

        They are permuted within each fold by :func:`permuted_labels`: within groups of several
        classes, between whole groups of one. Permuted between folds, they would leave the folds
        less balanced than the true labels are.
        """
        result = np.empty((permutations, len(self.labels)), dtype=np.int64)
        for f, (_, test) in enumerate(self.splits()):
            stream = int(np.random.SeedSequence((seed, f)).generate_state(1)[0])
            blocks = permuted_labels(
                self.labels[test], self.groups[test], permutations, seed=stream
            )
            result[:, test] = np.concatenate(list(blocks))
        return result


def grouped_folds(
    labels: ArrayLike, groups: ArrayLike | None = None, *, folds: int = 5, seed: int = 0
) -> Folds:
    """Divide labelled points into folds by :func:`group_folds`.

    Parameters
    ----------
    labels : array_like, shape (n,)
        Class of each point, of any type that can be sorted.
    groups : array_like, shape (n,), optional
        What belongs together. Each point is a group of its own when absent.
    folds : int
        At least 2.
    seed : int
        Of the draw.

    Raises
    ------
    ValueError
        If lengths differ, there are fewer than two classes, a class has fewer groups than there
        are folds, or all its groups came to lie in one fold.
    """
    values = np.asarray(labels)
    if values.ndim != 1:
        raise ValueError(f"labels must have shape (n,), got {values.shape}")
    belongs = np.arange(len(values)) if groups is None else np.asarray(groups)
    if belongs.shape != values.shape:
        raise ValueError(f"groups must have shape {values.shape}, as labels, got {belongs.shape}")
    classes, codes = np.unique(values, return_inverse=True)
    names = tuple(str(name) for name in classes)
    if len(classes) < 2:
        raise ValueError(f"labels: two classes at least are to be told apart, got {list(names)}")
    _, index = np.unique(belongs, return_inverse=True)
    for c, name in enumerate(names):
        count = len(np.unique(index[codes == c]))
        if count < folds:
            raise ValueError(
                f"labels: class {name!r} has {count} group(s), fewer than the {folds} folds; take "
                "fewer folds or more groups, or leave the class out"
            )
    return Folds(names, codes, index, group_folds(index, codes, folds, seed=seed))
