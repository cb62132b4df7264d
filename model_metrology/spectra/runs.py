"""Two-layer networks as they are stored: data, runs, spectra. Nothing here needs torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

MATRICES: tuple[str, ...] = ("weights", "conjugate kernel", "tangent kernel")
"""The matrices that are measured, by name."""


@dataclass(frozen=True, eq=False)
class TeacherData:
    """Points of a planted model.

    Attributes
    ----------
    inputs, test_inputs : ndarray of float32, shape (n, d)
        x ~ N(0, I_d).
    labels, test_labels : ndarray of float32, shape (n,)
        y; test labels carry noise like the others.
    directions : ndarray of float32, shape (k, d)
        The planted β, orthonormal.
    """

    inputs: Array
    labels: Array
    test_inputs: Array
    test_labels: Array
    directions: Array


@dataclass(frozen=True, eq=False)
class WidthRun:
    """A trained two-layer network.

    Attributes
    ----------
    run : int
        Number within its population.
    status, message : str
        ``completed``; or ``diverged``, and why.
    steps : ndarray of int64, shape (s,)
        Steps after which the weights below were taken, 0 first.
    weights : ndarray of float32, shape (s, h, d)
        W. What was not finite or not reached any more is NaN.
    readout : ndarray of float32, shape (s, h)
        v.
    history : dict of str to ndarray
        ``step``, ``loss`` (½ mean squared error of the training points), ``test_loss``, and
        ``test_r2``, the explained share of the test labels' variance.
    """

    run: int
    status: str
    message: str
    steps: NDArray[np.int64]
    weights: Array
    readout: Array
    history: dict[str, NDArray[np.generic]]


@dataclass(frozen=True, eq=False)
class RunSpectra:
    """Spectra of one run.

    Attributes
    ----------
    run : int
        Number within its population or sweep.
    steps : ndarray of int64, shape (s,)
        Steps after which they were taken.
    eigenvalues : dict of str to ndarray, shape (s, d) or (s, n)
        Of each matrix, ascending.
    displacement : ndarray, shape (s, min(h, d))
        Singular values of (W_t − W_0)/√h, descending; those of step 0 are zero.
    readout : ndarray, shape (s, 2)
        ‖v_t‖/√h and ‖v_t − v_0‖/√h: the singular values of the second layer.
    """

    run: int
    steps: NDArray[np.int64]
    eigenvalues: dict[str, NDArray[np.float64]]
    displacement: NDArray[np.float64]
    readout: NDArray[np.float64]
