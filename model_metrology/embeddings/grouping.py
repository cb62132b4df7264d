"""What belongs together stays together: folds, and permutations of labels, by group."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["group_folds", "permuted_labels"]

Codes = NDArray[np.int64]

# Permuted labels are made for so many entries at once: 32 MiB of them.
_BLOCK = 2**22


def group_folds(groups: ArrayLike, classes: ArrayLike, folds: int, *, seed: int = 0) -> Codes:
    """Deal groups to folds, so that every fold has its share of every class.

    Groups with the same classes are shuffled and dealt one after another, as cards are: folds
    differ by at most one group.

    Parameters
    ----------
    groups : array_like, shape (n,)
        What belongs together: one fold holds all items of a group.
    classes : array_like, shape (n,)
        What every training part must hold.
    folds : int
        At least 2.
    seed : int
        Of the shuffle.

    Returns
    -------
    ndarray of int, shape (n,)
        The fold of each item, 0 … folds − 1.

    Raises
    ------
    ValueError
        If there are fewer groups than folds, or a class is found in one fold only, so that nothing
        else would know it.
    """
    if folds < 2:
        raise ValueError(f"folds must be at least 2, got {folds}")
    names, index = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    kinds, codes = np.unique(np.asarray(classes).astype(str), return_inverse=True)
    if len(names) < folds:
        raise ValueError(
            f"{len(names)} groups cannot be dealt to {folds} folds; take more groups or fewer folds"
        )
    holds = np.zeros((len(names), len(kinds)), dtype=bool)
    holds[index, codes] = True
    alike = np.unique(holds, axis=0, return_inverse=True)[1].ravel()
    order = np.lexsort((np.random.default_rng(seed).random(len(names)), alike))
    dealt = np.empty(len(names), dtype=np.int64)
    dealt[order] = np.arange(len(names)) % folds
    for kind, held in zip(kinds, holds.T, strict=True):
        if len(np.unique(dealt[held])) < 2:
            raise ValueError(
                f"{str(kind)!r} is in {held.sum()} group(s), all in one fold; it needs more groups"
            )
    return dealt[index]


def permuted_labels(
    codes: ArrayLike, groups: ArrayLike, permutations: int, *, seed: int = 0
) -> Iterator[Codes]:
    """Labels as they might have been if they had nothing to do with the items.

    Groups that hold several classes have their labels permuted within them; groups that hold one
    class each exchange it as a whole. So items of a group may depend on each other in any way: what
    is exchangeable without an effect is all that is exchanged.

    Parameters
    ----------
    codes : array_like of int, shape (n,)
        Class of each item.
    groups : array_like, shape (n,)
        What belongs together.
    permutations : int
        How many.
    seed : int
        Of the draws; the same seed, codes and groups give the same permutations.

    Yields
    ------
    ndarray of int, shape (b, n)
        Permuted codes, a block of permutations at a time.
    """
    labels = np.asarray(codes, dtype=np.int64)
    index = np.unique(np.asarray(groups).astype(str), return_inverse=True)[1]
    highest = np.zeros(index.max() + 1, dtype=np.int64)
    np.maximum.at(highest, index, labels)
    lowest = highest.copy()
    np.minimum.at(lowest, index, labels)
    mixed = (lowest != highest)[index]
    within = np.flatnonzero(mixed)
    within = within[np.argsort(index[within], kind="stable")]
    pure = np.flatnonzero(lowest == highest)
    whole = np.flatnonzero(~mixed)
    place = np.searchsorted(pure, index[whole])
    rng = np.random.default_rng(seed)
    step = max(_BLOCK // len(labels), 1)
    for start in range(0, permutations, step):
        count = min(step, permutations - start)
        result = np.empty((count, len(labels)), dtype=np.int64)
        # Sorting by group and a random number leaves groups in place and shuffles within them.
        order = np.argsort(index[within] + rng.random((count, len(within))), axis=1)
        result[:, within] = labels[within[order]]
        shuffled = rng.permuted(np.tile(lowest[pure], (count, 1)), axis=1)
        result[:, whole] = shuffled[:, place]
        yield result
