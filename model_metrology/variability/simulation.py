"""Do the intervals cover, and do the tests see a difference? Simulation and real runs alike.

Coverage needs a law whose α̂ is known; :func:`contaminated_alpha` has one in closed form and
:func:`population_alpha` any other numerically. Power takes arrays of outputs, so the same
function serves simulated runs and trained ones: every test's critical value comes from the
reference runs left out in turn, so all are compared at one level.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from model_metrology.variability.inference import (
    alpha_lower_bound,
    bootstrap_alpha,
    leave_one_out,
)
from model_metrology.variability.references import as_runs
from model_metrology.variability.trimming import (
    Cdf,
    Tolerance,
    alpha_hat,
    smallest_cap,
)
from model_metrology.variability.twosample import embedding, energy_distance, median_bandwidth

__all__ = [
    "Coverage",
    "Power",
    "Test",
    "contaminated_alpha",
    "contaminated_runs",
    "interval_coverage",
    "population_alpha",
    "power",
    "wilson_interval",
]

Array = NDArray[np.float64]
Test = Literal["ks", "alpha", "mmd", "energy"]


@dataclass(frozen=True)
class Coverage:
    """How often intervals held the truth, over repeated simulations."""

    truth: float
    estimate: Array = field(repr=False)
    """(R,) α̂ of each simulation."""
    lower: Array = field(repr=False)
    """(R,) lower ends of the bootstrap intervals."""
    upper: Array = field(repr=False)
    """(R,) upper ends."""
    bound: Array = field(repr=False)
    """(R,) lower confidence bounds (Dvoretzky–Kiefer–Wolfowitz)."""

    @property
    def interval(self) -> float:
        """Share of bootstrap intervals that hold the truth."""
        return float(np.mean((self.lower <= self.truth) & (self.truth <= self.upper)))

    @property
    def above(self) -> float:
        """Share of bootstrap intervals that lie wholly above the truth."""
        return float(np.mean(self.lower > self.truth))

    @property
    def bound_holds(self) -> float:
        """Share of lower bounds at or below the truth."""
        return float(np.mean(self.bound <= self.truth))


@dataclass(frozen=True)
class Power:
    """One test's power against planted differences, at a level set by the reference runs."""

    test: Test
    level: float
    critical: float
    """A run is rejected above this value."""
    null: Array = field(repr=False)
    """(M,) statistic of each reference run against the others."""
    observed: Array = field(repr=False)
    """(K,) statistic of each candidate against the reference."""

    @property
    def rejected(self) -> NDArray[np.bool_]:
        """(K,) which candidates are rejected."""
        return np.asarray(self.observed > self.critical)

    @property
    def rate(self) -> float:
        """Share of candidates rejected."""
        return float(self.rejected.mean())

    def interval(self, coverage: float = 0.95) -> tuple[float, float]:
        """Wilson interval of the rate."""
        return wilson_interval(int(self.rejected.sum()), len(self.observed), coverage)


def contaminated_runs(
    runs: int,
    points: int,
    *,
    contamination: float = 0.0,
    correlation: float = 0.8,
    offset: float = 20.0,
    two_sided: bool = False,
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    """Reference runs with standard normal outputs, and a candidate a share of which is far off.

    Parameters
    ----------
    runs, points
        M and n.
    contamination
        Probability α that an output of the candidate is moved by `offset`.
    correlation
        Between two runs' outputs at one test point: what they share is the point.
    offset
        Distance of the contamination; beyond some 10 it is clear of the reference.
    two_sided
        Move half of the contamination down instead of up.
    rng
        Source of the draws.

    Returns
    -------
    tuple
        Candidate (n,) and reference (M, n).
    """
    shared = math.sqrt(correlation) * rng.normal(size=points)
    outputs = shared + math.sqrt(1.0 - correlation) * rng.normal(size=(runs + 1, points))
    candidate, reference = outputs[0], outputs[1:]
    moved = rng.random(points) < contamination
    sign = rng.choice([-1.0, 1.0], size=points) if two_sided else np.ones(points)
    return candidate + moved * sign * offset, reference


def contaminated_alpha(contamination: float, tolerance: float, *, two_sided: bool = False) -> float:
    """α̂ of the law (1 − α) F₀ + α Q with Q clear of F₀'s support, at a fixed tolerance τ.

    With all of Q on one side the witness is the half line up to Q, which holds 1 − α of the
    candidate and all of the reference: 1 − α̂ = (1 − α)/(1 − τ). With half of Q on each side it
    is the interval between, 1 − α̂ = (1 − α)/(1 − 2τ), or a half line with
    (1 − α/2)/(1 − τ), whichever is smaller.

    Parameters
    ----------
    contamination
        α, in [0, 1).
    tolerance
        τ, in [0, 1/2).
    two_sided
        Half of Q below, half above.

    Returns
    -------
    float
    """
    if not two_sided:
        kept = (1 - contamination) / (1 - tolerance)
    else:
        kept = min(
            (1 - contamination) / (1 - 2 * tolerance), (1 - contamination / 2) / (1 - tolerance)
        )
    return 1.0 - min(kept, 1.0)


def population_alpha(cdf: Cdf, reference_cdf: Cdf, tolerance: float, grid: ArrayLike) -> float:
    """α̂ of one continuous law against another, by their CDFs on a fine grid.

    Parameters
    ----------
    cdf, reference_cdf
        Vectorised continuous CDFs of the candidate's and the reference law.
    tolerance
        Fixed distance τ.
    grid
        Increasing points; intervals between grid points are all that is looked at, so the value
        approaches the law's from below as the grid grows finer.

    Returns
    -------
    float
    """
    points = np.asarray(grid, dtype=np.float64)
    mass = np.concatenate(([0.0], np.asarray(cdf(points), dtype=np.float64), [1.0]))
    base = np.concatenate(([0.0], np.asarray(reference_cdf(points), dtype=np.float64), [1.0]))
    return 1.0 - 1.0 / smallest_cap(mass, base, base, tolerance)[0]


def interval_coverage(
    draw: Callable[[np.random.Generator], tuple[Array, Array]],
    truth: float,
    *,
    tolerance: float,
    coverage: float = 0.95,
    replicates: int = 200,
    simulations: int = 200,
    rng: np.random.Generator,
) -> Coverage:
    """Coverage of the bootstrap interval and of the lower bound where α̂ is known.

    Parameters
    ----------
    draw
        Draws a candidate (n,) and reference runs (M, n).
    truth
        α̂ of the laws behind them, at `tolerance`.
    tolerance
        Fixed distance τ. (At a tolerance that depends on n there is no one truth.)
    coverage
        Nominal coverage of both.
    replicates
        Bootstrap replicates for each interval.
    simulations
        Number of data sets drawn.
    rng
        Source of all draws.

    Returns
    -------
    Coverage
    """
    rows = np.empty((simulations, 4))
    for i in range(simulations):
        candidate, reference = draw(rng)
        interval = bootstrap_alpha(
            candidate,
            reference,
            tolerance=tolerance,
            coverage=coverage,
            replicates=replicates,
            rng=rng,
        )
        bound = alpha_lower_bound(
            candidate,
            reference.ravel(),
            tolerance=tolerance,
            level=1.0 - coverage,
            reference_size=reference.shape[1],
        )
        rows[i] = interval.estimate, interval.lower, interval.upper, bound
    return Coverage(truth, *rows.T)


def power(
    reference: ArrayLike,
    candidates: ArrayLike,
    *,
    test: Test,
    level: float = 0.05,
    tolerance: Tolerance = "ks",
) -> Power:
    """Power of one test against planted differences, at a level that the reference runs set.

    The critical value is the order statistic of the reference runs' own values (each against the
    others) that a fresh run of the same population exceeds with probability at most `level`. So
    all tests run at one level even though runs share their test points.

    Parameters
    ----------
    reference
        (M, n) outputs of the reference runs; pooled. A level below 1/(M + 1) cannot be tested
        with M runs: the critical value is then infinite, and nothing is rejected.
    candidates
        (K, n) outputs of the candidates at the same points.
    test
        ``"ks"``: untrimmed distance. ``"alpha"``: α̂ at `tolerance`. ``"mmd"``: squared
        Gaussian-kernel MMD, the bandwidth being the reference's median distance. ``"energy"``:
        energy distance.
    level
        Probability of rejecting a run that does not differ.
    tolerance
        For ``"alpha"`` alone. If large, α̂ is 0 for all but the gravest differences, and a
        level below the share of zeros is met conservatively.

    Returns
    -------
    Power

    Raises
    ------
    ValueError
        If shapes disagree, an input is unfit, or `test` is unknown.
    """
    runs, tested = as_runs(reference, "reference"), as_runs(candidates, "candidates")
    if runs.shape[1] != tested.shape[1]:
        raise ValueError(
            f"candidates have {tested.shape[1]} points, the reference has {runs.shape[1]}"
        )
    if len(runs) < 2:
        raise ValueError("reference must hold at least two runs")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie in (0, 1), got {level!r}")
    if test in ("ks", "alpha"):
        null, observed = _trimmed_scores(runs, tested, test, tolerance, level)
    elif test == "mmd":
        null, observed = _mmd_scores(runs, tested)
    elif test == "energy":
        null, observed = _energy_scores(runs, tested)
    else:
        raise ValueError(f"test must be one of {', '.join(get_args(Test))}; got {test!r}")
    return Power(test, level, _critical(null, level), null, observed)


def _trimmed_scores(
    runs: Array, tested: Array, test: Test, tolerance: Tolerance, level: float
) -> tuple[Array, Array]:
    left_out = leave_one_out(runs, tolerance=tolerance, level=level)
    pool = np.sort(runs, axis=None)
    results = [alpha_hat(candidate, pool, tolerance=tolerance, level=level) for candidate in tested]
    if test == "ks":
        return left_out.statistic, np.array([result.statistic for result in results])
    return left_out.alpha, np.array([result.alpha for result in results])


def _mmd_scores(runs: Array, tested: Array) -> tuple[Array, Array]:
    # The bandwidth comes from the reference alone, so it is one for all candidates.
    bandwidth = median_bandwidth(runs.ravel())
    both = np.concatenate((runs, tested))
    span = float(both.min()), float(both.max())
    features = np.array([embedding(run, bandwidth, span) for run in both])
    mean = features[: len(runs)].mean(axis=0)
    distance = np.square(features - mean).sum(axis=1)
    # Run − mean of the others = (run − mean of all) · M/(M − 1).
    left_out = distance[: len(runs)] * (len(runs) / (len(runs) - 1)) ** 2
    return left_out, distance[len(runs) :]


def _energy_scores(runs: Array, tested: Array) -> tuple[Array, Array]:
    pool = np.sort(runs, axis=None)
    to_pool = [energy_distance(run, pool) for run in np.concatenate((runs, tested))]
    distance = np.array(to_pool)
    # As for the mean embedding: a run's eCDF less that of the others, by linearity.
    return distance[: len(runs)] * (len(runs) / (len(runs) - 1)), distance[len(runs) :]


def _critical(null: Array, level: float) -> float:
    """Order statistic that one more exchangeable value exceeds with probability ≤ level."""
    # Rounding must not move a whole (M + 1)(1 − level) to the next rank.
    rank = math.ceil((len(null) + 1) * (1.0 - level) - 1e-9)
    return math.inf if rank > len(null) else float(np.sort(null)[rank - 1])


def wilson_interval(successes: int, trials: int, coverage: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion (JASA 22 (1927) 209–212)."""
    interval = scipy.stats.binomtest(successes, trials).proportion_ci(coverage, method="wilson")
    return float(interval.low), float(interval.high)
