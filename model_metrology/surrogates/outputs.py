"""What is kept of a network for its surrogates: its answers, and its kernels in columns.

A kernel is computed in columns, a job each, and put together when it is used. Nothing here needs
torch: measuring goes on where there is none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["KernelColumns", "Measured", "SubjectOutputs", "whole_kernel"]

Array = NDArray[np.float64]

Indices = NDArray[np.int64]
Single = NDArray[np.float32]


@dataclass(frozen=True)
class SubjectOutputs:
    """What a network says of its points, and what is known of them.

    Attributes
    ----------
    logits : ndarray, shape (n + t, C)
        Of the test points, triggered ones last.
    labels, train_labels : ndarray of int, shapes (n + t,) and (N,)
        True classes of the test points, and those that the network was trained on.
    train, test : ndarray of int, shapes (N,) and (n + t,)
        Positions in the dataset.
    triggered : int
        Number t of triggered points.
    poisoned : ndarray of bool, shape (N,)
        Training points with a trigger.
    classes : tuple of str
        Names of the classes.
    """

    logits: Array
    labels: Indices
    train_labels: Indices
    train: Indices
    test: Indices
    triggered: int
    poisoned: NDArray[np.bool_]
    classes: tuple[str, ...]

    @property
    def clean(self) -> int:
        """Number n of test points without a trigger."""
        return len(self.labels) - self.triggered

    @property
    def predicted(self) -> Indices:
        """Predicted classes of all test points."""
        # Here, since datasets are read and written without SciPy.
        from model_metrology.variability.metrics import predicted_labels

        one = self.logits.shape[1] == 1
        return predicted_labels(self.logits[:, 0] if one else self.logits)


@dataclass(frozen=True)
class KernelColumns:
    """Some columns of a kernel between a subject's points, not normalised.

    Attributes
    ----------
    start : int
        Training point of the first column.
    train : ndarray of float32, shape (start + b, b)
        Inner products of the training points up to the last column's with those of the columns;
        the rest follows from symmetry.
    test : ndarray of float32, shape (n, b)
        Inner products of the test points with those of the columns.
    train_squares, test_squares : ndarray of float64, shapes (b,) and (n,)
        Squared norms.
    """

    start: int
    train: Single
    test: Single
    train_squares: NDArray[np.float64]
    test_squares: NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """What is measured of one kernel of one run: the kGLM and its tables.

    Attributes
    ----------
    surrogate : model_metrology.surrogates.glm.Surrogate
        The converged kGLM.
    attributions : ndarray of float32, shape (n, N), or None
        To the class that the network predicts, where they were asked for.
    tables : dict of str to DataFrame
        By the names of `TABLES`.
    """

    surrogate: Any
    attributions: NDArray[np.float32] | None
    tables: dict[str, pd.DataFrame]


def whole_kernel(columns: Iterable[KernelColumns], *, normalize: bool) -> tuple[Single, Single]:
    """Put a kernel together: between training points (N, N), and of test with training points.

    Raises
    ------
    ValueError
        If it is to be normalised, and a point's vector is zero.
    """
    parts = sorted(columns, key=lambda part: part.start)
    size, n = len(parts[-1].train), len(parts[-1].test)
    train, test = np.empty((size, size), np.float32), np.empty((n, size), np.float32)
    for part in parts:
        stop = part.start + part.test.shape[1]
        train[:stop, part.start : stop] = part.train
        train[part.start : stop, : part.start] = part.train[: part.start].T
        test[:, part.start : stop] = part.test
    if normalize:
        squares = np.concatenate([part.train_squares for part in parts]), parts[0].test_squares
        for name, values in zip(("train", "test"), squares, strict=True):
            if (values <= 0).any():
                raise ValueError(
                    f"{name} point {int((values <= 0).argmax())}: the network has no gradient or "
                    "feature there, so it has no cosine with others; leave the point out, or use a "
                    "kernel that is not normalised (trNTK0)"
                )
        roots = [np.sqrt(values).astype(np.float32) for values in squares]
        for kernel, root in ((train, roots[0]), (test, roots[1])):
            # In place, row by row: the product of both roots keeps the kernel symmetric.
            for i, row in enumerate(kernel):
                row /= root[i] * roots[0]
    return train, test
