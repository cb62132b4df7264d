"""Does a surrogate answer as its network does? Accuracy, ranking and mistakes, side by side.

The measures of Engel et al. 2024 (arXiv:2305.14585, section 4), on test points. Rank correlations
are Kendall's τ_b between probabilities. They are taken from log-odds, a strictly increasing map of
a probability that leaves τ as it is: a confident network's probabilities round to 1, and points
that it does rank would be tied. (The published code drops such points.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from model_metrology.variability.metrics import logit_gap, predicted_labels

__all__ = ["Faithfulness", "faithfulness"]

Array = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Faithfulness:
    """How a surrogate's answers compare with its network's; see :func:`faithfulness`."""

    tad: float
    """Test accuracy difference, surrogate − network, as a fraction."""
    kendall_tau: float
    """τ_b of P(class 1) if there are two classes, else of the correct class's probability."""
    kendall_tau_correct: float
    """τ_b of the correct class's probability, over points."""
    kendall_tau_all: float
    """τ_b of the probabilities of all classes, over points and classes together."""
    r_miss: float
    """Points on which both predict the same wrong class, over those on which either errs."""
    agreement: float
    """Share of points on which both predict the same class."""
    network_accuracy: float
    """Share of points that the network predicts right."""
    surrogate_accuracy: float
    """Share of points that the surrogate predicts right."""
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Lower and upper end of each measure's bootstrap interval, by its name; empty without."""


def faithfulness(
    network_logits: ArrayLike,
    surrogate_logits: ArrayLike,
    labels: ArrayLike,
    *,
    bootstraps: int = 0,
    level: float = 0.05,
    seed: int = 0,
) -> Faithfulness:
    """Compare a surrogate's answers on test points with its network's.

    Parameters
    ----------
    network_logits, surrogate_logits : array_like, shape (n, C) or (n, 1)
        Logits at the same points, natural-log units; of two classes one logit, class 1's, will do,
        also of one of the two only. Log-probabilities are logits too.
    labels : array_like of int, shape (n,)
        True classes, 0 … C − 1.
    bootstraps : int
        Bootstrap replicates for intervals; 0 for none. Each draws n points with replacement,
        the same for both and for all measures, and costs three τ: n C log(n C) time.
    level : float
        One minus the nominal coverage of the intervals.
    seed : int
        Of the bootstrap's draws.

    Returns
    -------
    Faithfulness
        A τ is NaN where all probabilities of one side coincide; `r_miss` is NaN where nobody errs,
        which is not a share of 0. Intervals are percentile intervals over the replicates in which
        the measure is defined; NaN where it is not at hand. They say what other test points would
        do, not another run of the network.

    Raises
    ------
    ValueError
        If shapes disagree, a logit is not finite, a label is no class, or a number is out of
        range.

    Notes
    -----
    Log-odds that still tie in float64 are ties to τ_b. P(class 1) ranks the two classes apart: of
    balanced classes that both models separate, half of all pairs agree for that reason, and τ is
    about ½ even where the order within classes is unrelated. `kendall_tau_correct` has no such
    floor: it asks whether the same points are hard.

    References
    ----------
    A. Engel, Z. Wang, N. S. Frank, I. Dumitriu, S. Choudhury, A. Sarwate, T. Chiang, "Faithful and
    efficient explanations for neural networks via neural tangent kernel surrogate models", ICLR
    2024, arXiv:2305.14585; M. G. Kendall, "The treatment of ties in ranking problems", Biometrika
    33 (1945) 239–251.
    """
    network = _checked_logits(network_logits, "network_logits")
    surrogate = _checked_logits(surrogate_logits, "surrogate_logits")
    if network.shape != surrogate.shape:
        raise ValueError(
            "network_logits and surrogate_logits must have the same points and classes, got "
            f"{np.shape(network_logits)} and {np.shape(surrogate_logits)}"
        )
    truth = _checked_labels(labels, *network.shape)
    if bootstraps < 0 or bootstraps == 1:
        raise ValueError(f"bootstraps must be 0 or at least 2, got {bootstraps}")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie in (0, 1), got {level!r}")
    sides = (_Side.of(network), _Side.of(surrogate))
    every = np.arange(len(truth))
    intervals = {}
    if bootstraps:
        rng = np.random.default_rng(seed)
        drawn = [
            _measures(*sides, truth, rng.integers(len(truth), size=len(truth)))
            for _ in range(bootstraps)
        ]
        intervals = {
            name: _percentiles(np.array([measures[name] for measures in drawn]), level)
            for name in drawn[0]
        }
    return Faithfulness(**_measures(*sides, truth, every), intervals=intervals)


@dataclass(frozen=True)
class _Side:
    """One model's answers."""

    odds: Array
    """(n, C) log-odds of each class."""
    predicted: Counts
    """(n,)"""

    @classmethod
    def of(cls, logits: Array) -> _Side:
        return cls(_log_odds(logits), predicted_labels(logits))


def _log_odds(logits: Array) -> Array:
    """Log-odds log p_c / (1 − p_c), (n, C)."""
    if logits.shape[1] == 2:
        gap = logit_gap(logits)
        return np.column_stack((-gap, gap))
    result = np.empty_like(logits)
    for c in range(logits.shape[1]):
        result[:, c] = logits[:, c] - logsumexp(np.delete(logits, c, axis=1), axis=1)
    return result


def _measures(network: _Side, surrogate: _Side, labels: Counts, points: Counts) -> dict[str, float]:
    """Every measure on the points given, which may repeat."""
    truth = labels[points]
    first, second = network.predicted[points], surrogate.predicted[points]
    odds, other = network.odds[points], surrogate.odds[points]
    rows = np.arange(len(points))
    correct = _kendall(odds[rows, truth], other[rows, truth])
    either = np.count_nonzero((first != truth) | (second != truth))
    both = np.count_nonzero((first != truth) & (first == second))
    network_accuracy = float(np.mean(first == truth))
    surrogate_accuracy = float(np.mean(second == truth))
    return {
        "tad": surrogate_accuracy - network_accuracy,
        "kendall_tau": _kendall(odds[:, 1], other[:, 1]) if odds.shape[1] == 2 else correct,
        "kendall_tau_correct": correct,
        "kendall_tau_all": _kendall(odds.ravel(), other.ravel()),
        "r_miss": both / either if either else math.nan,
        "agreement": float(np.mean(first == second)),
        "network_accuracy": network_accuracy,
        "surrogate_accuracy": surrogate_accuracy,
    }


def _kendall(x: Array, y: Array) -> float:
    if len(x) < 2:
        return math.nan
    # The p-value is not wanted, so the cheap one; of two points SciPy has the exact one only.
    method = "asymptotic" if len(x) > 2 else "auto"
    return float(scipy.stats.kendalltau(x, y, method=method).statistic)


def _percentiles(values: Array, level: float) -> tuple[float, float]:
    defined = values[np.isfinite(values)]
    if len(defined) == 0:
        return math.nan, math.nan
    lower, upper = np.quantile(defined, [level / 2, 1.0 - level / 2])
    return float(lower), float(upper)


def _checked_logits(values: ArrayLike, name: str) -> Array:
    """(n, C) logits, C ≥ 2; one logit is completed with 0 for class 0."""
    logits = np.asarray(values, dtype=np.float64)
    if logits.ndim != 2 or logits.size == 0:
        raise ValueError(f"{name} must have shape (n, C) or (n, 1), n ≥ 1, got {logits.shape}")
    bad = np.argwhere(~np.isfinite(logits))
    if len(bad):
        row, column = bad[0]
        raise ValueError(
            f"{name}[{row}, {column}] is {logits[row, column]}; every logit must be finite"
        )
    if logits.shape[1] == 1:
        return np.column_stack((np.zeros(len(logits)), logits))
    return logits


def _checked_labels(values: ArrayLike, n: int, classes: int) -> Counts:
    labels = np.asarray(values)
    if labels.shape != (n,):
        raise ValueError(f"labels must have shape ({n},), one a point, got {labels.shape}")
    if not np.array_equal(labels, labels.astype(np.int64)):
        raise ValueError("labels must be integers")
    outside = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(outside):
        raise ValueError(
            f"labels[{outside[0]}] is {labels[outside[0]]}; labels must lie in 0…{classes - 1}"
        )
    return labels.astype(np.int64)
