"""How sure is α̂? Intervals, bounds, null distributions and multiplicity.

All functions take outputs as arrays: a candidate's (n,) and the reference runs' (M, n), measured
on the same n test points in the same order. α̂ itself needs no such pairing; bootstraps and
leave-one-out do, because runs that share test points are dependent: a hard test point is hard for
every run. Critical values for independent samples are therefore conservative here, and the null
distribution that holds is that of the reference runs themselves, each left out in turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from model_metrology.variability.references import Law, as_runs, reference_sample
from model_metrology.variability.trimming import (
    Cdf,
    Knots,
    Tolerance,
    alpha_hat,
    as_sample,
    atoms,
    authors_tolerance,
    effective_size,
    ks_tolerance,
    one_sample_knots,
    smallest_cap,
    two_sample_knots,
)

__all__ = [
    "ClassConditional",
    "EnsembleSizeCurve",
    "Interval",
    "LeaveOneOut",
    "alpha_lower_bound",
    "authors_alpha",
    "bootstrap_alpha",
    "class_conditional_alpha",
    "ensemble_size_curve",
    "holm",
    "leave_one_out",
    "outlier_p_value",
    "rank_correlation",
    "trimming_scores",
]

Array = NDArray[np.float64]
Counts = NDArray[np.int64]
_PairRule = Callable[[Array, Array], float]


@dataclass(frozen=True)
class Interval:
    """An estimate with its bootstrap interval."""

    estimate: float
    lower: float
    upper: float
    coverage: float
    """Nominal coverage of [lower, upper]."""
    replicates: Array = field(repr=False, compare=False)
    """(B,) values of the replicates, in the order drawn."""


@dataclass(frozen=True)
class LeaveOneOut:
    """Each reference run held against the others: what α̂ is when nothing differs."""

    alpha: Array
    """(M,) α̂ of run i against the other M − 1 (with labels: the largest over classes)."""
    statistic: Array
    """(M,) untrimmed Kolmogorov–Smirnov distance (with labels: the largest over classes)."""


@dataclass(frozen=True)
class ClassConditional:
    """α̂ within each true class."""

    classes: Counts
    """(C,) class labels, increasing."""
    alpha: Array
    """(C,) α̂ over the test points of each class."""
    statistic: Array
    """(C,) untrimmed Kolmogorov–Smirnov distances."""
    tolerance: Array
    """(C,) distance that counts as equal; by ``"ks"`` it depends on the number of points."""
    p_value: Array
    """(C,) Kolmogorov–Smirnov p-values; conservative for runs on shared test points."""
    adjusted: Array
    """(C,) the same after Holm's correction over the classes."""

    @property
    def maximum(self) -> float:
        """Largest α̂ over the classes."""
        return float(self.alpha.max())


@dataclass(frozen=True)
class EnsembleSizeCurve:
    """α̂ of the candidates against ensembles of growing size."""

    sizes: Counts
    """(S,) number M of reference runs."""
    alpha: Array
    """(S, R, K) α̂ for each size, random choice of reference runs, and candidate."""
    statistic: Array
    """(S, R, K) untrimmed Kolmogorov–Smirnov distances."""
    tolerance: Array
    """(S,) distance that counts as equal."""

    def mean_alpha(self, coverage: float = 0.95) -> tuple[Array, Array, Array]:
        """Mean α̂ over candidates: (S,) mean, lower and upper quantile over choices of runs."""
        return _summary(self.alpha.mean(axis=2), coverage)

    def accepted(self, trim: float = 0.0, coverage: float = 0.95) -> tuple[Array, Array, Array]:
        """Share of candidates with α̂ ≤ `trim`: (S,) mean, lower and upper, as `mean_alpha`.

        `trim` = 0 is the untrimmed test, since α̂ = 0 exactly when the untrimmed distance is
        within the tolerance.
        """
        return _summary((self.alpha <= trim).mean(axis=2), coverage)


def _summary(values: Array, coverage: float) -> tuple[Array, Array, Array]:
    tail = (1.0 - coverage) / 2
    lower, upper = np.quantile(values, [tail, 1.0 - tail], axis=1)
    return np.asarray(values.mean(axis=1)), lower, upper


def bootstrap_alpha(
    candidate: ArrayLike,
    reference: ArrayLike,
    *,
    law: Law = "pooled",
    tolerance: Tolerance = "ks",
    level: float = 0.05,
    coverage: float = 0.95,
    replicates: int = 200,
    rng: np.random.Generator,
) -> Interval:
    """Bootstrap interval of α̂ over test points and reference runs.

    Each replicate draws n test points and M runs with replacement. Candidate and reference see
    the same test points, as they do in the measurement, so what the runs share cancels.

    Parameters
    ----------
    candidate
        (n,) outputs of the candidate.
    reference
        (M, n) outputs of the reference runs at the same test points.
    law, tolerance, level
        As in :func:`~model_metrology.variability.reference_sample` and
        :func:`~model_metrology.variability.alpha_hat`. The distance c is that of the sizes at hand,
        the same in every replicate.
    coverage
        Nominal coverage.
    replicates
        Number of bootstrap replicates.
    rng
        Source of the draws.

    Returns
    -------
    Interval
        The basic (reflected) bootstrap interval, [2α̂ − q_high, 2α̂ − q_low] with q the quantiles
        of the replicates, kept within [0, 1] and around α̂. α̂ is a maximum over intervals of gaps,
        so resampling noise moves it up on average; the percentile interval would lie above the
        truth about half of the time. Where a quantile sits on a boundary (0 or 1) it cannot be
        reflected, and the percentile end of the other side is taken: wider. Coverage by
        simulation is in ``docs/variability.md``; it holds if the tolerance is not far below the
        sampling noise, c of ``"ks"``.

    Raises
    ------
    ValueError
        If shapes disagree, a value is not finite, or a number is out of range.

    Notes
    -----
    With the pooled law nothing is sorted again: a replicate reweights sorted points, in
    O(M n) for its sums and O(n) for α̂.
    """
    values, runs = _paired(candidate, reference)
    _check_fraction(coverage, "coverage")
    if replicates < 2:
        raise ValueError(f"replicates must be at least 2, got {replicates}")
    observed = alpha_hat(values, reference_sample(runs, law), tolerance=tolerance, level=level)
    replicate = _pooled_replicate(values, runs) if law == "pooled" else None
    m, n = runs.shape
    drawn = np.empty(replicates)
    for i in range(replicates):
        run_counts = rng.multinomial(m, np.full(m, 1 / m))
        point_counts = rng.multinomial(n, np.full(n, 1 / n))
        if replicate is not None:
            knots = replicate(run_counts, point_counts)
        else:
            points = np.repeat(np.arange(n), point_counts)
            chosen = np.repeat(np.arange(m), run_counts)
            resampled = reference_sample(runs[np.ix_(chosen, points)], law)
            knots = two_sample_knots(values[points], resampled)
        drawn[i] = _alpha(knots, observed.tolerance)
    return Interval(observed.alpha, *_reflected(observed.alpha, drawn, coverage), coverage, drawn)


def _reflected(estimate: float, drawn: Array, coverage: float) -> tuple[float, float]:
    """Basic bootstrap interval of a share that is biased upwards and bounded by 0 and 1."""
    tail = (1.0 - coverage) / 2
    low, high = (float(q) for q in np.quantile(drawn, [tail, 1.0 - tail]))
    lower = 2 * estimate - high if high < 1.0 else low
    upper = 2 * estimate - low if low > 0.0 else high
    return max(min(lower, estimate), 0.0), min(max(upper, estimate), 1.0)


def _pooled_replicate(values: Array, runs: Array) -> Callable[[Counts, Counts], Knots]:
    """Return a function from counts of runs and points to the knots of that resample."""
    m, n = runs.shape
    distinct, _ = atoms(values)
    k = len(distinct)
    atom = np.searchsorted(distinct, values)
    # The first knot whose `before`, and whose `at`, counts each reference output.
    before = np.searchsorted(distinct, runs, side="right")
    at = np.searchsorted(distinct, runs, side="left") + 1

    def replicate(run_counts: Counts, point_counts: Counts) -> Knots:
        # Counts are whole numbers, so the sums are exact in any order.
        mass = np.cumsum(np.bincount(atom, point_counts, k)) / n
        drawn = np.flatnonzero(run_counts)
        weight = np.outer(run_counts[drawn], point_counts).ravel()
        return Knots(
            distinct,
            np.concatenate(([0.0], mass)),
            np.cumsum(np.bincount(at[drawn].ravel(), weight, k + 2)[: k + 1]) / (m * n),
            np.cumsum(np.bincount(before[drawn].ravel(), weight, k + 1)) / (m * n),
        )

    return replicate


def alpha_lower_bound(
    sample: ArrayLike,
    reference: ArrayLike | Cdf,
    *,
    tolerance: float,
    level: float = 0.05,
    reference_size: int | None = None,
) -> float:
    """Lower confidence bound of the population's α̂ at a fixed tolerance.

    By the Dvoretzky–Kiefer–Wolfowitz inequality (Massart, Annals of Probability 18 (1990)
    1269–1283) the candidate's law lies within r = √(log(2/δ)/(2n)) of its empirical CDF, so an
    interval holds at most 2r more of it than of the sample, a half line r more: this radius is
    multiplied by L. The reference's own radius adds to the tolerance. With probability at least
    1 − `level` the α̂ of the laws is no smaller than what is returned. `level` is split evenly
    when both are samples.

    Parameters
    ----------
    sample, reference
        As in :func:`~model_metrology.variability.alpha_hat`.
    tolerance
        The fixed distance τ.
    level
        Probability of error δ.
    reference_size
        Number of *independent* points behind a reference sample; its length when absent. For M
        runs pooled over n shared test points, n is the safe choice.

    Returns
    -------
    float
        In [0, 1).

    Raises
    ------
    ValueError
        As :func:`~model_metrology.variability.alpha_hat`, or if `reference_size` < 1.
    """
    values = as_sample(sample, "sample")
    _check_fraction(level, "level")
    tau = ks_tolerance(len(values), tolerance=tolerance)
    if callable(reference):
        knots = one_sample_knots(values, reference)
        return _alpha(knots, tau, _dkw_radius(len(values), level))
    other = as_sample(reference, "reference")
    size = len(other) if reference_size is None else reference_size
    if size < 1:
        raise ValueError(f"reference_size must be at least 1, got {size}")
    knots = two_sample_knots(values, other)
    widened = tau + _dkw_radius(size, level / 2)
    return _alpha(knots, widened, _dkw_radius(len(values), level / 2))


def _dkw_radius(n: int, level: float) -> float:
    return math.sqrt(math.log(2.0 / level) / (2.0 * n))


def authors_alpha(
    sample: ArrayLike,
    reference: ArrayLike | Cdf,
    *,
    replicates: int = 100,
    step: float = 0.01,
    cap: float = 0.5,
    eta: float = 0.01,
    rng: np.random.Generator,
) -> float:
    """α̂ by the rule of Banerjee et al. 2024 (arXiv:2406.08307).

    In each replicate half of the test points are drawn with replacement, and α is the first value
    of a grid at which the trimmed distance is within :func:`authors_tolerance` of that half;
    `cap` if there is none. The result is the mean over replicates. Two things of the published
    code are left out on purpose: outputs beyond ±15 are not set to zero, and F₀ is not
    interpolated; both inflate α̂ (``docs/variability.md``).

    Parameters
    ----------
    sample, reference
        As in :func:`~model_metrology.variability.alpha_hat`; the reference is held fixed.
    replicates
        Bootstrap replicates.
    step
        Grid step (our choice of a fine one).
    cap
        Largest α tried.
    eta
        η of the tolerance.
    rng
        Source of the draws.

    Returns
    -------
    float
        In [0, cap].

    Raises
    ------
    ValueError
        If an input is unfit or a number out of range.
    """
    values = as_sample(sample, "sample")
    if replicates < 1:
        raise ValueError(f"replicates must be at least 1, got {replicates}")
    _check_fraction(step, "step")
    _check_fraction(cap, "cap")
    if callable(reference):
        knots = one_sample_knots(values, reference)
    else:
        knots = two_sample_knots(values, as_sample(reference, "reference"))
    half = max(len(values) // 2, 1)
    c = authors_tolerance(half, eta=eta)
    share = np.diff(knots.mass)
    found = np.empty(replicates)
    for i in range(replicates):
        counts = rng.multinomial(half, share / share.sum())
        mass = np.concatenate(([0.0], np.cumsum(counts) / half))
        exact = _alpha(knots._replace(mass=mass), c)
        # A grid value is accepted exactly when it reaches the exact α̂.
        found[i] = min(math.ceil(exact / step - 1e-9) * step, cap)
    return float(found.mean())


def leave_one_out(
    reference: ArrayLike,
    *,
    labels: ArrayLike | None = None,
    law: Law = "pooled",
    tolerance: Tolerance = "ks",
    level: float = 0.05,
) -> LeaveOneOut:
    """Null distribution of α̂: every reference run against the others.

    Parameters
    ----------
    reference
        (M, n) outputs of the reference runs, M ≥ 2.
    labels
        (n,) true classes. When given, α̂ and the distance are taken within each class, and the
        largest over classes is returned: one statistic, so it needs no further correction.
    law, tolerance, level
        As in :func:`bootstrap_alpha`.

    Returns
    -------
    LeaveOneOut

    Raises
    ------
    ValueError
        If there are fewer than two runs, or an input is unfit.

    Notes
    -----
    A candidate is held against M runs, these against M − 1. For exact exchangeability call this
    on the candidate and the reference stacked, (M + 1, n): under the null all M + 1 values are
    exchangeable, and :func:`outlier_p_value` of the first among the rest is valid at any M.
    """
    runs = as_runs(reference, "reference")
    if len(runs) < 2:
        raise ValueError(f"reference must hold at least two runs, got {len(runs)}")
    groups = [slice(None)] if labels is None else _groups(labels, runs.shape[1])[1]
    alpha = np.zeros(len(runs))
    statistic = np.zeros(len(runs))
    for group in groups:
        part = runs[:, group]
        m, n = part.shape
        c = ks_tolerance(n, _law_size(law, m - 1, n), tolerance=tolerance, level=level)
        for i, knots in enumerate(_left_out_knots(part, law)):
            alpha[i] = max(alpha[i], _alpha(knots, c))
            statistic[i] = max(statistic[i], knots.statistic)
    return LeaveOneOut(alpha, statistic)


def _left_out_knots(runs: Array, law: Law) -> Iterator[Knots]:
    """Knots of each run against the others' law."""
    m, n = runs.shape
    if law != "pooled":
        for i, run in enumerate(runs):
            yield two_sample_knots(run, reference_sample(np.delete(runs, i, axis=0), law))
        return
    # Pool once; a run's own points are then taken off its counts.
    pool = np.sort(runs, axis=None)
    for run in runs:
        values, counts = atoms(run)
        at = np.zeros(len(counts))
        before = np.ones(len(counts))
        others = (m - 1) * n
        at[1:] = (np.searchsorted(pool, values, side="right") - counts[1:]) / others
        before[:-1] = (np.searchsorted(pool, values, side="left") - counts[:-1]) / others
        yield Knots(values, counts / n, at, before)


def outlier_p_value(observed: float, null: ArrayLike) -> float:
    """Share of runs at least as extreme, (1 + #{null ≥ observed}) / (M + 1).

    Parameters
    ----------
    observed
        A candidate's statistic, e.g. α̂; larger is more extreme.
    null
        (M,) the same statistic of the reference runs, from :func:`leave_one_out`.

    Returns
    -------
    float
        At least 1/(M + 1). Valid if candidate and reference runs are exchangeable under the null;
        ties make it conservative, and α̂ ties at 0: the untrimmed distance's p-value has more
        resolution there.

    Raises
    ------
    ValueError
        If a value is not finite or `null` is empty.
    """
    values = as_sample(null, "null")
    if not math.isfinite(observed):
        raise ValueError(f"observed must be finite, got {observed!r}")
    return float((1 + np.count_nonzero(values >= observed)) / (1 + len(values)))


def class_conditional_alpha(
    candidate: ArrayLike,
    reference: ArrayLike,
    labels: ArrayLike,
    *,
    law: Law = "pooled",
    tolerance: Tolerance = "ks",
    level: float = 0.05,
) -> ClassConditional:
    """α̂ within each true class, which pooled α̂ cannot see.

    Pooled α̂ compares the laws of all outputs. Exchange a candidate's outputs between two test
    points of different classes and it stays the same, while accuracy falls. Within classes such
    an exchange shows.

    Parameters
    ----------
    candidate
        (n,) outputs.
    reference
        (M, n) outputs of the reference runs at the same test points.
    labels
        (n,) true classes.
    law, tolerance, level
        As in :func:`bootstrap_alpha`; "ks" uses each class's own number of points.

    Returns
    -------
    ClassConditional
        Report `maximum` beside the pooled α̂. For an exact test of it, use
        :func:`leave_one_out` with labels.

    Raises
    ------
    ValueError
        If shapes disagree or an input is unfit.
    """
    values, runs = _paired(candidate, reference)
    classes, groups = _groups(labels, len(values))
    results = [
        alpha_hat(
            values[group],
            reference_sample(runs[:, group], law),
            tolerance=tolerance,
            level=level,
        )
        for group in groups
    ]
    p_value = np.array(
        [
            scipy.stats.kstwo.sf(
                result.statistic,
                effective_size(len(group), _law_size(law, len(runs), len(group))),
            )
            for result, group in zip(results, groups, strict=True)
        ]
    )
    return ClassConditional(
        classes=classes,
        alpha=np.array([result.alpha for result in results]),
        statistic=np.array([result.statistic for result in results]),
        tolerance=np.array([result.tolerance for result in results]),
        p_value=p_value,
        adjusted=holm(p_value),
    )


def holm(p_values: ArrayLike) -> Array:
    """P-values adjusted for multiplicity by Holm's step-down rule.

    Parameters
    ----------
    p_values
        (k,) p-values.

    Returns
    -------
    array
        (k,), in the order given; reject where at most the level, and the chance of any false
        rejection is at most the level, however the tests depend.

    Raises
    ------
    ValueError
        If a value is outside [0, 1].

    References
    ----------
    S. Holm, Scandinavian Journal of Statistics 6 (1979) 65–70.
    """
    p = as_sample(p_values, "p_values")
    if p.min() < 0.0 or p.max() > 1.0:
        raise ValueError("p_values must lie in [0, 1]")
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def ensemble_size_curve(
    candidates: ArrayLike,
    reference: ArrayLike,
    sizes: Sequence[int],
    *,
    law: Law = "pooled",
    tolerance: Tolerance = "ks",
    level: float = 0.05,
    replicates: int = 50,
    rng: np.random.Generator,
) -> EnsembleSizeCurve:
    """α̂ of candidates against random ensembles of each size: how many runs are enough?

    Parameters
    ----------
    candidates
        (K, n) outputs of the candidates.
    reference
        (M, n) outputs of the runs that ensembles are drawn from, on the same points.
    sizes
        Ensemble sizes, each in 1…M. Runs are drawn with replacement: drawn without, ensembles
        near M would overlap, and their spread understate that of fresh ones, to 0 at M.
    law, tolerance, level
        As in :func:`bootstrap_alpha`. By ``"ks"`` the tolerance shrinks slightly with the size;
        give a number to keep it fixed.
    replicates
        Ensembles drawn at each size.
    rng
        Source of the draws.

    Returns
    -------
    EnsembleSizeCurve

    Raises
    ------
    ValueError
        If shapes disagree or a size is out of range.
    """
    runs = as_runs(reference, "reference")
    tested = as_runs(candidates, "candidates")
    m, n = runs.shape
    if tested.shape[1] != n:
        raise ValueError(f"candidates have {tested.shape[1]} points, the reference has {n}")
    bad = [size for size in sizes if not 1 <= size <= m]
    if bad or len(sizes) == 0:
        raise ValueError(f"sizes must lie in 1…{m} (the reference runs), got {list(sizes)}")
    if replicates < 1:
        raise ValueError(f"replicates must be at least 1, got {replicates}")
    c = np.array(
        [ks_tolerance(n, _law_size(law, s, n), tolerance=tolerance, level=level) for s in sizes]
    )
    # In order, so that equal sets of runs give equal means to the last digit.
    chosen = [[np.sort(rng.integers(m, size=size)) for _ in range(replicates)] for size in sizes]
    alpha = np.empty((len(sizes), replicates, len(tested)))
    statistic = np.empty_like(alpha)
    for k, candidate in enumerate(tested):
        knots_of = _subset_knots(candidate, runs, law)
        for s in range(len(sizes)):
            for r in range(replicates):
                knots = knots_of(chosen[s][r])
                alpha[s, r, k] = _alpha(knots, float(c[s]))
                statistic[s, r, k] = knots.statistic
    return EnsembleSizeCurve(np.asarray(sizes, dtype=np.int64), alpha, statistic, c)


def _subset_knots(candidate: Array, runs: Array, law: Law) -> Callable[[Counts], Knots]:
    """Return a function from chosen runs to the candidate's knots against their law."""
    if law != "pooled":
        return lambda chosen: two_sample_knots(candidate, reference_sample(runs[chosen], law))
    # Counts of each run's outputs at the candidate's values add up over the chosen runs.
    values, counts = atoms(candidate)
    n = runs.shape[1]
    ordered = np.sort(runs, axis=1)
    at = np.array([np.searchsorted(run, values, side="right") for run in ordered])
    before = np.array([np.searchsorted(run, values, side="left") for run in ordered])

    def knots(chosen: Counts) -> Knots:
        total = len(chosen) * n
        return Knots(
            values,
            counts / len(candidate),
            np.concatenate(([0.0], at[chosen].sum(axis=0) / total)),
            np.concatenate((before[chosen].sum(axis=0) / total, [1.0])),
        )

    return knots


def rank_correlation(
    x: ArrayLike,
    y: ArrayLike,
    *,
    method: Literal["spearman", "kendall"] = "spearman",
    coverage: float = 0.95,
    replicates: int = 1000,
    rng: np.random.Generator,
) -> Interval:
    """Rank correlation with a percentile bootstrap interval over the pairs.

    Parameters
    ----------
    x, y
        (k,) paired values, k ≥ 3.
    method
        ``"spearman"`` or ``"kendall"`` (τ_b).
    coverage
        Nominal coverage.
    replicates
        Bootstrap replicates. Those in which all values of x or of y coincide have no correlation
        and are left out.
    rng
        Source of the draws.

    Returns
    -------
    Interval
        All NaN if x or y is constant: no correlation is defined, which is not a correlation of 0.

    Raises
    ------
    ValueError
        If lengths differ, k < 3, or a number is out of range.
    """
    first, second = as_sample(x, "x"), as_sample(y, "y")
    if len(first) != len(second) or len(first) < 3:
        raise ValueError(
            f"x and y must be paired, at least 3 pairs; got {len(first)} and {len(second)}"
        )
    _check_fraction(coverage, "coverage")
    if replicates < 2:
        raise ValueError(f"replicates must be at least 2, got {replicates}")
    rules: dict[str, _PairRule] = {"spearman": _spearman, "kendall": _kendall}
    if method not in rules:
        raise ValueError(f"method must be 'spearman' or 'kendall', got {method!r}")
    rule = rules[method]
    drawn = np.empty(replicates)
    for i in range(replicates):
        pick = rng.integers(len(first), size=len(first))
        drawn[i] = rule(first[pick], second[pick])
    estimate = rule(first, second)
    defined = drawn[np.isfinite(drawn)]
    if math.isnan(estimate) or len(defined) == 0:
        return Interval(math.nan, math.nan, math.nan, coverage, drawn)
    tail = (1.0 - coverage) / 2
    lower, upper = np.quantile(defined, [tail, 1.0 - tail])
    return Interval(estimate, float(lower), float(upper), coverage, drawn)


def _spearman(x: Array, y: Array) -> float:
    a, b = scipy.stats.rankdata(x), scipy.stats.rankdata(y)
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale > 0.0 else math.nan


def _kendall(x: Array, y: Array) -> float:
    return float(scipy.stats.kendalltau(x, y).statistic)


def trimming_scores(
    candidates: ArrayLike,
    reference: ArrayLike,
    *,
    law: Law = "pooled",
    tolerance: Tolerance = "ks",
    level: float = 0.05,
) -> Array:
    """Mean relative weight n·wᵢ that each test point keeps over the candidates' trimmings.

    Parameters
    ----------
    candidates
        (K, n) outputs.
    reference
        (M, n) outputs of the reference runs at the same test points.
    law, tolerance, level
        As in :func:`bootstrap_alpha`.

    Returns
    -------
    array
        (n,), mean 1. The smallest scores belong to the points trimmed most often: those whose
        outputs the candidates have in excess of the reference.

    Raises
    ------
    ValueError
        If shapes disagree or an input is unfit.
    """
    runs = as_runs(reference, "reference")
    tested = as_runs(candidates, "candidates")
    if tested.shape[1] != runs.shape[1]:
        raise ValueError(
            f"candidates have {tested.shape[1]} points, the reference has {runs.shape[1]}"
        )
    # Sorted once here, so that each candidate's sort of it is nearly free.
    sample = np.sort(reference_sample(runs, law))
    total = np.zeros(tested.shape[1])
    for candidate in tested:
        total += alpha_hat(candidate, sample, tolerance=tolerance, level=level).weights
    return np.asarray(total * (tested.shape[1] / len(tested)))


def _alpha(knots: Knots, tolerance: float, slack: float = 0.0) -> float:
    return 1.0 - 1.0 / smallest_cap(knots.mass, knots.at, knots.before, tolerance, slack)[0]


def _law_size(law: Law, m: int, n: int) -> int:
    """Number of points in the sample that stands for the law of m runs on n points."""
    return m * n if law == "pooled" else n


def _paired(candidate: ArrayLike, reference: ArrayLike) -> tuple[Array, Array]:
    values, runs = as_sample(candidate, "candidate"), as_runs(reference, "reference")
    if runs.shape[1] != len(values):
        raise ValueError(
            f"candidate has {len(values)} points, the reference has {runs.shape[1]}; both must "
            "be measured on the same test points"
        )
    return values, runs


def _groups(labels: ArrayLike, n: int) -> tuple[Counts, list[Counts]]:
    """Classes, and the indices of each class's points."""
    truth = np.asarray(labels)
    if truth.shape != (n,):
        raise ValueError(f"labels must have shape ({n},), got {truth.shape}")
    if not np.issubdtype(truth.dtype, np.integer):
        raise ValueError(f"labels must be integers, got {truth.dtype}")
    classes = np.unique(truth).astype(np.int64)
    return classes, [np.flatnonzero(truth == label) for label in classes]


def _check_fraction(value: float, name: str) -> None:
    if not 0.0 < value < 1.0:
        raise ValueError(f"{name} must lie in (0, 1), got {value!r}")
