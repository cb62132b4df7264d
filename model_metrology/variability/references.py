"""Reference laws F₀ from the outputs of a population's reference runs.

Three laws can be made from M runs measured on the same n points, and they differ:

* ``pooled``: the mean of the M empirical CDFs, that is, the law of all M·n outputs. The default: a
  candidate trained in the same way is exchangeable with the runs in it, so α̂ = 0 is what it earns.
* ``mean``: the empirical CDF of the ensemble's mean output. Averaging moves every point towards
  what the runs agree on, so this is the law of a *better* model than any single run; a
  candidate can differ from it and yet be a perfectly usual run.
* ``quantile``: the average of the M quantile functions (the Wasserstein barycentre of the runs).
  It keeps the runs' common shape where they differ by shift or scale; pooling would blur it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model_metrology.variability.trimming import as_sample

__all__ = ["Law", "as_runs", "empirical_cdf", "reference_sample"]

Array = NDArray[np.float64]
Law = Literal["pooled", "mean", "quantile"]


def reference_sample(outputs: ArrayLike, law: Law = "pooled") -> Array:
    """Sample whose empirical CDF is the reference law of a population.

    Parameters
    ----------
    outputs
        (M, n) outputs, e.g. logit gaps, of M runs on the same n points.
    law
        ``"pooled"``, ``"mean"`` or ``"quantile"``; see the module's docstring.

    Returns
    -------
    array
        (M·n,) for ``"pooled"``, else (n,), to be given to
        :func:`~model_metrology.variability.alpha_hat` as `reference`.

    Raises
    ------
    ValueError
        If `outputs` is not a finite (M, n) array, or `law` is unknown.
    """
    runs = as_runs(outputs, "outputs")
    if law == "pooled":
        return runs.ravel()
    if law == "mean":
        return np.asarray(runs.mean(axis=0))
    if law == "quantile":
        return np.asarray(np.sort(runs, axis=1).mean(axis=0))
    raise ValueError(f"law must be one of {', '.join(get_args(Law))}; got {law!r}")


def empirical_cdf(sample: ArrayLike) -> Callable[[ArrayLike], Array]:
    """Right-continuous empirical CDF of a sample, as a vectorised function."""
    ordered = np.sort(as_sample(sample, "sample"))

    def cdf(x: ArrayLike) -> Array:
        return np.asarray(np.searchsorted(ordered, x, side="right") / len(ordered))

    return cdf


def as_runs(values: Any, name: str) -> Array:
    """Return `values` as a finite (runs, points) float array, or say what is wrong with it."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(
            f"{name} must have shape (runs, points), neither zero, got {array.shape}; "
            "for multi-class logits choose an output first (logit_gap or class_margins)"
        )
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise ValueError(
            f"{name}: run(s) {np.flatnonzero(~finite).tolist()} hold values that are not finite; "
            "leave out runs that diverged, and say how many"
        )
    return array
