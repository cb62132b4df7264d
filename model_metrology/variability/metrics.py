"""What α̂ is compared against: accuracy, churn and calibration errors; and the measured outputs."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "accuracy",
    "churn",
    "class_margins",
    "debiased_calibration_error",
    "expected_calibration_error",
    "logit_gap",
    "mean_churn",
    "pairwise_churn",
    "predicted_labels",
]

Array = NDArray[np.float64]
Binning = Literal["width", "mass"]
Target = Literal["predicted", "positive"]


def logit_gap(logits: ArrayLike) -> Array:
    """Logit gap m(x) = f₁(x) − f₀(x) of a binary task.

    Parameters
    ----------
    logits
        (…, n, 2) logits, or (…, n, 1) for a model with one logit, which is its own gap.

    Returns
    -------
    array
        (…, n).

    Raises
    ------
    ValueError
        If the last axis holds more than two classes.
    """
    values = np.asarray(logits)
    if values.ndim < 2 or values.shape[-1] not in (1, 2):
        raise ValueError(
            f"logits must have shape (…, n, 2) or (…, n, 1), got {values.shape}; "
            "for more classes use class_margins"
        )
    if values.shape[-1] == 1:
        return values[..., 0].astype(np.float64)
    # In double precision without a copy of all the logits in it.
    return np.asarray(np.subtract(values[..., 1], values[..., 0], dtype=np.float64))


def class_margins(logits: ArrayLike) -> Array:
    """Margin of every class over the best of the others: a multi-class task as C binary ones.

    Parameters
    ----------
    logits
        (…, n, C) logits, C ≥ 2.

    Returns
    -------
    array
        (…, n, C); positive for the predicted class alone. With C = 2 the margin of class 1 is the
        logit gap.

    Raises
    ------
    ValueError
        If the last axis has fewer than two classes.
    """
    values = np.asarray(logits, dtype=np.float64)
    if values.ndim < 2 or values.shape[-1] < 2:
        raise ValueError(f"logits must have shape (…, n, C) with C ≥ 2, got {values.shape}")
    second, first = np.moveaxis(np.sort(values, axis=-1)[..., -2:], -1, 0)
    # The best of the others is the best overall, save for the class that is the best itself.
    is_best = values.argmax(axis=-1)[..., None] == np.arange(values.shape[-1])
    return np.asarray(values - np.where(is_best, second[..., None], first[..., None]))


def predicted_labels(outputs: ArrayLike) -> NDArray[np.int64]:
    """Predicted labels of a run.

    Parameters
    ----------
    outputs
        (n,) integers: labels, returned as they are. (n,) floats: logit gaps, class 1 where
        positive. (n, C) floats: logits, the class of the largest.

    Returns
    -------
    array
        (n,) integers.

    Raises
    ------
    ValueError
        If the shape is none of these, or a value is not finite.
    """
    values = np.asarray(outputs)
    if values.size == 0 or values.ndim not in (1, 2):
        raise ValueError(f"outputs must have shape (n,) or (n, C), n ≥ 1, got {values.shape}")
    if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
        raise ValueError("outputs hold values that are not finite; leave this run out")
    if values.ndim == 2:
        return np.asarray(values.argmax(axis=1), dtype=np.int64)
    if np.issubdtype(values.dtype, np.integer) or values.dtype == bool:
        return values.astype(np.int64)
    return np.asarray(values > 0, dtype=np.int64)


def accuracy(outputs: ArrayLike, labels: ArrayLike) -> float:
    """Share of test points predicted right; `outputs` as in :func:`predicted_labels`."""
    return 1.0 - churn(outputs, _labels(labels))


def churn(a: ArrayLike, b: ArrayLike) -> float:
    """Share of test points on which two runs predict different labels.

    Theory: between two runs of one population it is about the test error (Jiang, Nagarajan, Baek,
    Kolter, "Assessing generalization of SGD via disagreement", ICLR 2022).

    Parameters
    ----------
    a, b
        Outputs of two runs on the same n points: integer labels (n,), float logit gaps (n,), or
        logits (n, C).

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        If the numbers of points differ, or see :func:`predicted_labels`.
    """
    first, second = predicted_labels(a), predicted_labels(b)
    if first.shape != second.shape:
        raise ValueError(f"a and b must have the same points, got {len(first)} and {len(second)}")
    return float(np.mean(first != second))


def pairwise_churn(runs: ArrayLike) -> Array:
    """Churn between every two of R runs.

    Parameters
    ----------
    runs
        (R, n) integer labels or float logit gaps, or (R, n, C) logits.

    Returns
    -------
    array
        (R, R), symmetric, zero on the diagonal.

    Raises
    ------
    ValueError
        If `runs` has another shape, or see :func:`predicted_labels`.
    """
    labels = _labels_of_runs(runs)
    # Agreement is a product of one-hot matrices; one class at a time keeps memory at R·n.
    agree = np.zeros((len(labels), len(labels)))
    for label in np.unique(labels):
        hot = (labels == label).astype(np.float64)
        agree += hot @ hot.T
    result: Array = 1.0 - agree / labels.shape[1]
    return result


def _labels_of_runs(runs: ArrayLike) -> NDArray[np.int32]:
    values = np.asarray(runs)
    if values.ndim not in (2, 3) or values.shape[0] == 0:
        raise ValueError(f"runs must have shape (R, n) or (R, n, C), got {values.shape}")
    # Half the bytes: there may be ten thousand runs.
    return np.stack([predicted_labels(run).astype(np.int32) for run in values])


def mean_churn(runs: ArrayLike) -> Array:
    """Mean churn of each of R runs with the others: rows of :func:`pairwise_churn`, averaged.

    From the runs' votes at each point, in time and memory R·n where all pairs take R²·n and R².

    Parameters
    ----------
    runs
        As in :func:`pairwise_churn`.

    Returns
    -------
    array
        (R,); 0 for a single run.

    Raises
    ------
    ValueError
        See :func:`pairwise_churn`.
    """
    labels = _labels_of_runs(runs)
    others = max(len(labels) - 1, 1)
    differ = np.zeros(len(labels))
    for label in np.unique(labels):
        predicted = labels == label
        against = len(labels) - predicted.sum(axis=0)
        differ += [against[of_run].sum() for of_run in predicted]
    return differ / (others * labels.shape[1])


def expected_calibration_error(
    probabilities: ArrayLike,
    labels: ArrayLike,
    *,
    bins: int = 15,
    binning: Binning = "width",
    target: Target = "predicted",
) -> float:
    r"""Expected calibration error Σ_b (n_b/n) \|accuracy_b − confidence_b\|.

    Parameters
    ----------
    probabilities
        (n, C) class probabilities, or (n,) probabilities of class 1 of a binary task.
    labels
        (n,) true classes.
    bins
        Number of bins.
    binning
        ``"width"``: equal widths on (0, 1], as in Naeini et al. 2015. ``"mass"``: equal counts
        (the adaptive error); equal confidences may part at a bin's edge.
    target
        ``"predicted"``: confidence and correctness of the *predicted* class, the usual number; in
        a binary task the confidence is max(p, 1 − p). ``"positive"``: probability and frequency
        of class 1, another number; binary tasks only.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        If shapes disagree, probabilities leave [0, 1] or do not sum to 1, or a label is no class.

    References
    ----------
    M. P. Naeini, G. F. Cooper, M. Hauskrecht, "Obtaining well calibrated probabilities using
    Bayesian binning", AAAI 2015.
    """
    counts, confidence, hits = _binned(probabilities, labels, bins, binning, target)
    return float(np.abs(hits - confidence).sum() / counts.sum())


def debiased_calibration_error(
    probabilities: ArrayLike,
    labels: ArrayLike,
    *,
    bins: int = 15,
    binning: Binning = "mass",
    target: Target = "predicted",
) -> float:
    r"""Root-mean-square calibration error without the binning noise that inflates the plug-in.

    .. math:: \Big[\sum_b \frac{n_b}{n} \Big( (\hat y_b − \hat s_b)^2 −
              \frac{\hat y_b (1 − \hat y_b)}{n_b − 1} \Big)\Big]_+^{1/2}

    where ŷ_b is the accuracy and ŝ_b the mean confidence of bin b. The variance taken off is that
    of ŷ_b. Bins with fewer than two points are left out. On a calibrated model the plug-in
    error is positive at any finite n; the square of this one is centred at 0 (before the
    truncation).

    Parameters
    ----------
    probabilities, labels, bins, binning, target
        As in :func:`expected_calibration_error`.

    Returns
    -------
    float
        In [0, 1]. An ℓ₂ error: not to be compared with the ℓ₁ expected calibration error.

    Raises
    ------
    ValueError
        As :func:`expected_calibration_error`.

    References
    ----------
    J. Bröcker, "Estimating reliability and resolution of probability forecasts through
    decomposition of the empirical score", Climate Dynamics 39 (2012) 655–667; A. Kumar, P. Liang,
    T. Ma, "Verified uncertainty calibration", NeurIPS 2019, section 4.
    """
    counts, confidence, hits = _binned(probabilities, labels, bins, binning, target)
    kept = counts > 1
    n, rate = counts[kept], hits[kept] / counts[kept]
    squared = (rate - confidence[kept] / n) ** 2 - rate * (1 - rate) / (n - 1)
    return math.sqrt(max(float((n * squared).sum() / counts.sum()), 0.0))


def _binned(
    probabilities: ArrayLike, labels: ArrayLike, bins: int, binning: str, target: str
) -> tuple[Array, Array, Array]:
    """Points, summed confidence and summed hits of each bin."""
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    confidence, hit = _confidence(probabilities, labels, target)
    if binning == "width":
        index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    elif binning == "mass":
        rank = np.empty(len(confidence), dtype=np.int64)
        rank[np.argsort(confidence, kind="stable")] = np.arange(len(confidence))
        index = rank * bins // len(confidence)
    else:
        raise ValueError(f"binning must be 'width' or 'mass', got {binning!r}")
    sums = [
        np.bincount(index, weights=weight, minlength=bins).astype(np.float64)
        for weight in (np.ones_like(confidence), confidence, hit)
    ]
    return sums[0], sums[1], sums[2]


def _confidence(probabilities: ArrayLike, labels: ArrayLike, target: str) -> tuple[Array, Array]:
    table = _probabilities(probabilities)
    truth = _labels(labels)
    if len(truth) != len(table):
        raise ValueError(f"probabilities and labels differ in length: {len(table)}, {len(truth)}")
    if truth.min() < 0 or truth.max() >= table.shape[1]:
        raise ValueError(
            f"labels must lie in 0…{table.shape[1] - 1}, got {truth.min()}…{truth.max()}"
        )
    if target == "predicted":
        predicted = table.argmax(axis=1)
        return table.max(axis=1), (predicted == truth).astype(np.float64)
    if target != "positive":
        raise ValueError(f"target must be 'predicted' or 'positive', got {target!r}")
    if table.shape[1] != 2:
        raise ValueError(f"target='positive' is for two classes, got {table.shape[1]}")
    return table[:, 1], truth.astype(np.float64)


def _probabilities(values: Any) -> Array:
    """(n, C) probabilities; rows of a binary task are completed from P(class 1)."""
    table = np.asarray(values, dtype=np.float64)
    if table.ndim not in (1, 2) or table.size == 0:
        raise ValueError(f"probabilities must have shape (n, C) or (n,), got {table.shape}")
    # Softmax in single precision leaves 1e-7 or so.
    if not ((table >= -1e-6) & (table <= 1 + 1e-6)).all():
        raise ValueError("probabilities must lie in [0, 1]; apply softmax (or sigmoid) first")
    if table.ndim == 1:
        return np.column_stack((1.0 - table, table))
    if table.shape[1] < 2 or not np.allclose(table.sum(axis=1), 1.0, atol=1e-4):
        raise ValueError("rows of probabilities must sum to 1; apply softmax first")
    return table


def _labels(values: Any) -> NDArray[np.int64]:
    labels = np.asarray(values)
    if labels.ndim != 1 or labels.size == 0:
        raise ValueError(f"labels must have shape (n,), n ≥ 1, got {labels.shape}")
    if not np.array_equal(labels, labels.astype(np.int64)):
        raise ValueError("labels must be integers")
    return labels.astype(np.int64)
