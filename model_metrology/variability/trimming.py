r"""Trimmed Kolmogorov–Smirnov distance and α̂, exactly and without an optimiser.

An α-trimming of a law F is any law F̃ with dF̃/dF ≤ L, L = 1/(1 − α): up to a share α of F's mass
is taken away and the rest scaled up [1]_. The trimmed distance to a reference F₀ is

.. math:: ε(α) = \min_{F̃ ∈ R_α(F)} \|F̃ − F_0\|_∞

and α̂ is the smallest α with ε(α) ≤ c: the share of a model's outputs that must be set aside before
the rest is within c of the reference [2]_.

Every quantity here follows from one set of difference constraints. Let x₁ < … < x_k be the
distinct sample values and tᵢ the share of the sample at or below xᵢ (t₀ = 0). A trimming is known
by hᵢ = F̃(xᵢ); on [xᵢ, xᵢ₊₁) F₀ runs from uᵢ = F₀(xᵢ) to lᵢ = F₀(xᵢ₊₁⁻). So F̃ is within c of F₀ if
and only if

* lᵢ − c ≤ hᵢ ≤ uᵢ + c, with h₀ = 0 and h_k = 1 (a tube), and
* 0 ≤ h_t − h_s ≤ L (t_t − t_s) for s < t (a slope of at most L).

Such an h exists if and only if no pair of knots asks for a steeper climb than L, hence the closed
forms of :func:`trimmed_ks` and :func:`alpha_hat`. ``docs/variability.md`` has the derivation.

References
----------
.. [1] P. C. Álvarez-Esteban, E. del Barrio, J. A. Cuesta-Albertos, C. Matrán, "Similarity of
   samples and trimming", Bernoulli 18 (2012) 606–634.
.. [2] S. Banerjee, T. Marrinan, R. Cannon, T. Chiang, A. D. Sarwate, "Measuring training
   variability from stochastic optimization using robust nonparametric testing",
   arXiv:2406.08307 (2024).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

__all__ = ["AlphaHat", "Tolerance", "alpha_hat", "authors_tolerance", "ks_tolerance", "trimmed_ks"]

Array = NDArray[np.float64]
Cdf = Callable[[Array], ArrayLike]
Tolerance = Literal["ks", "authors"] | float
"""A rule for the distance c that counts as equal, or that distance itself."""

# All compared numbers are probabilities, right to a few units of 1e-16; a tube that closes by less
# than this closes by rounding alone.
_ROUNDING = 1e-12


class Knots(NamedTuple):
    """The tube of one sample about one reference, before it is widened by a tolerance."""

    values: Array
    """(k,) distinct sample values, increasing."""
    mass: Array
    """(k + 1,) share of the sample at or below each value; starts at 0, ends at 1."""
    at: Array
    """(k + 1,) reference CDF at each value; starts at 0."""
    before: Array
    """(k + 1,) left limit of the reference CDF at the *next* value; ends at 1."""

    @property
    def statistic(self) -> float:
        """Untrimmed Kolmogorov–Smirnov distance."""
        return max(float(np.max(self.before - self.mass)), float(np.max(self.mass - self.at)))

    @property
    def closest(self) -> float:
        """Smallest distance that any trimming of the sample attains."""
        ends = max(float(self.before[0]), 1.0 - float(self.at[-1]))
        return max(ends, float(np.max(self.before - self.at)) / 2, 0.0)

    def interval(self, start: int, end: int) -> tuple[float, float]:
        """Open interval (x_start, x_{end+1}) that two knots span, infinite past the last value."""
        lower = -math.inf if start == 0 else float(self.values[start - 1])
        upper = math.inf if end == len(self.values) else float(self.values[end])
        return lower, upper


@dataclass(frozen=True)
class AlphaHat:
    """α̂ of a sample against a reference, with its evidence."""

    alpha: float
    """Smallest trimming share that brings the sample within `tolerance` of the reference; in
    [0, 1]. 1 means that no trimming does."""
    statistic: float
    """Untrimmed Kolmogorov–Smirnov distance."""
    tolerance: float
    """The distance c that counts as equal. Compare α̂ only at equal c."""
    witness: tuple[float, float]
    """Open interval I where the sample lacks mass, which alone forces α̂: with F the sample's law,
    1 − α̂ = F(I) / (F₀(I) − 2c), and c in place of 2c where one end of I is infinite. If α̂ = 0 it
    is the half line I where F₀(I) − F(I) equals `statistic`. If α̂ = 1 it is an interval that
    holds no sample point, though the reference has more than 2c (half line: c) of its mass there.
    """
    _sample: Array = field(repr=False, compare=False)
    _knots: Knots = field(repr=False, compare=False)

    @cached_property
    def weights(self) -> Array:
        """Optimal trimming: a weight for each sample point, in the order of the sample, sum 1.

        Weights below 1/n mark points that are trimmed. Optimal trimmings are many; this is the
        *taut string* through the tube, the one nearest to uniform weights for every convex
        penalty at once, and the only one with that property. Its largest weight is L/n with
        L = 1/(1 − α̂). Ties share the weight of their common value equally. If α̂ = 1 the tube is
        widened to the smallest distance that any trimming attains.

        Computed on first use, in O(n).
        """
        knots = self._knots
        radius = max(self.tolerance, knots.closest)
        lower, upper = _tube(knots.at, knots.before, radius)
        # Where the tube narrows to a point, rounding may turn it inside out.
        height = _taut_string(knots.mass, lower, np.maximum(lower, upper))
        climb = np.maximum(np.diff(height), 0.0)
        atom = np.searchsorted(knots.values, self._sample)
        shared = climb / np.bincount(atom, minlength=len(climb))
        weights = shared[atom]
        return np.asarray(weights / weights.sum())


def alpha_hat(
    sample: ArrayLike,
    reference: ArrayLike | Cdf,
    *,
    tolerance: Tolerance = "ks",
    level: float = 0.05,
) -> AlphaHat:
    r"""Smallest share of a sample to trim so that the rest agrees with a reference.

    .. math:: α̂ = 1 − 1/L^*, \quad L^* = \max\Big\{1,\ \max_{s<t} \frac{l_t − u_s − 2c}{t_t − t_s},
              \ \max_t \frac{l_t − c}{t_t},\ \max_s \frac{1 − u_s − c}{1 − t_s}\Big\}

    in the notation of the module's docstring. Exact: O(n log n) to sort, then a handful of linear
    passes (Newton's iteration on L, which ends because ε is convex and piecewise linear in L).

    Parameters
    ----------
    sample
        (n,) measured outputs of the candidate, e.g. logit gaps; finite, ties allowed.
    reference
        Either (m,) outputs of the reference, whose empirical CDF is F₀ (two-sample), or a
        vectorised CDF (one-sample). A callable's left limit at x is its value at the next smaller
        double, so CDFs with jumps are right as they are.
    tolerance
        The distance c that counts as equal: ``"ks"``, ``"authors"`` (see :func:`ks_tolerance`)
        or a number in [0, 1).
    level
        Level of the Kolmogorov–Smirnov test when `tolerance` is ``"ks"``.

    Returns
    -------
    AlphaHat
        α̂, the untrimmed distance, c, the witness interval and the optimal trimming.

    Raises
    ------
    ValueError
        If an argument is empty, not one-dimensional or not finite, or out of its range.

    Notes
    -----
    α̂ at a tolerance that shrinks with n grows with n for one and the same difference; only at a
    fixed tolerance does it converge. Compare values at equal n and equal tolerance only.

    α̂ sees the law of the outputs, not which point has which output: permuting a candidate's
    outputs over the test points leaves it as it is. See
    :func:`~model_metrology.variability.class_conditional_alpha`.

    "ks" takes the sample and the reference as independent. Runs measured on one and the same test
    set are closer than that, so the test is conservative there, and
    :func:`~model_metrology.variability.leave_one_out` calibrates it.

    Examples
    --------
    >>> result = alpha_hat([0.1, 0.2, 0.3, 9.0], [0.1, 0.2, 0.3], tolerance=0.0)
    >>> round(result.alpha, 12)
    0.25
    >>> result.weights.round(12)
    array([0.33333333, 0.33333333, 0.33333333, 0.        ])
    """
    values = as_sample(sample, "sample")
    if callable(reference):
        knots, m = one_sample_knots(values, reference), None
    else:
        other = as_sample(reference, "reference")
        knots, m = two_sample_knots(values, other), len(other)
    c = ks_tolerance(len(values), m, tolerance=tolerance, level=level)
    alpha, witness = _solve(knots, c)
    return AlphaHat(alpha, knots.statistic, c, witness, values, knots)


def trimmed_ks(sample: ArrayLike, reference: ArrayLike | Cdf, alpha: float) -> float:
    r"""Smallest Kolmogorov–Smirnov distance to a reference after trimming a share of the sample.

    .. math:: ε(α) = \max\{\tfrac12 \max_{s ≤ t} [l_t − u_s − L (t_t − t_s)],\
              \max_t (l_t − L t_t),\ \max_s (1 − u_s − L (1 − t_s)),\ 0\}, \quad L = 1/(1 − α)

    Parameters
    ----------
    sample, reference
        As in :func:`alpha_hat`.
    alpha
        Share that may be trimmed, in [0, 1). At 0 this is the Kolmogorov–Smirnov distance.

    Returns
    -------
    float
        ε(α), non-increasing in α.

    Raises
    ------
    ValueError
        If an argument is empty, not one-dimensional or not finite, or out of its range.
    """
    if not 0.0 <= alpha < 1.0:
        raise ValueError(f"alpha must lie in [0, 1), got {alpha!r}")
    values = as_sample(sample, "sample")
    if callable(reference):
        knots = one_sample_knots(values, reference)
    else:
        knots = two_sample_knots(values, as_sample(reference, "reference"))
    cap = 1.0 / (1.0 - alpha)
    rise = knots.before - cap * knots.mass
    base = knots.at - cap * knots.mass
    pairs = float(np.max(rise - np.minimum.accumulate(base))) / 2
    tails = max(float(np.max(rise)), 1.0 - cap - float(np.min(base)))
    return max(pairs, tails, 0.0)


def ks_tolerance(
    n: int, m: int | None = None, *, tolerance: Tolerance = "ks", level: float = 0.05
) -> float:
    """Distance c that counts as equal, for a sample of n against a CDF or a sample of m.

    Parameters
    ----------
    n
        Number of sample points.
    m
        Number of reference points; None when the reference is a CDF that is known.
    tolerance
        ``"ks"``: critical value of the two-sided Kolmogorov–Smirnov test at `level`, exact for
        one sample; for two, the law at the effective size round(n m / (n + m)), which is what
        ``scipy.stats.ks_2samp(method="asymp")`` takes.
        ``"authors"``: :func:`authors_tolerance` of half the points, as in Banerjee et al. 2024.
        A number in [0, 1): that number.
    level
        Level of the test when `tolerance` is ``"ks"``; not used otherwise.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If a size is below 1, a number out of range, or the rule's name unknown.
    """
    if n < 1 or (m is not None and m < 1):
        raise ValueError(f"sizes must be at least 1, got n={n}, m={m}")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie in (0, 1), got {level!r}")
    if isinstance(tolerance, str):
        if tolerance == "ks":
            return _critical_value(level, effective_size(n, m))
        if tolerance == "authors":
            return authors_tolerance(max(n // 2, 1))
        raise ValueError(f"tolerance must be 'ks', 'authors' or a number, got {tolerance!r}")
    if not 0.0 <= tolerance < 1.0:
        raise ValueError(f"tolerance must lie in [0, 1), got {tolerance!r}")
    return float(tolerance)


def authors_tolerance(n: int, *, eta: float = 0.01) -> float:
    """Tolerance δ = √(log(2/η)/n) + 1/n of Banerjee et al. 2024 (arXiv:2406.08307).

    Parameters
    ----------
    n
        Points a bootstrap sample holds; the authors take half of the test points.
    eta
        Probability that their bound leaves.

    Returns
    -------
    float
        0.03664 for n = 4,000 and 0.03275 for n = 5,000.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if not 0.0 < eta < 1.0:
        raise ValueError(f"eta must lie in (0, 1), got {eta!r}")
    return math.sqrt(math.log(2.0 / eta) / n) + 1.0 / n


def effective_size(n: int, m: int | None) -> int:
    """Size of the one-sample test that a test of n against m points is like."""
    return n if m is None else max(round(n * m / (n + m)), 1)


@lru_cache(maxsize=256)
def _critical_value(level: float, n: int) -> float:
    return float(scipy.stats.kstwo.isf(level, n))


def as_sample(values: Any, name: str) -> Array:
    """Return `values` as a one-dimensional float array, or say what is wrong with it."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(
            f"{name} must be one-dimensional, got shape {array.shape}; pass one run's outputs "
            "(for several runs, see model_metrology.variability.reference_sample)"
        )
    if array.size == 0:
        raise ValueError(f"{name} is empty")
    if not np.isfinite(array).all():
        bad = int(np.flatnonzero(~np.isfinite(array))[0])
        raise ValueError(
            f"{name} has a value that is not finite ({array[bad]} at index {bad}); "
            "a run that diverged or overflowed must be left out, not ranked"
        )
    return array


def atoms(values: Array) -> tuple[Array, NDArray[np.int64]]:
    """Distinct values, and how many points lie at or below each (counts, starting with 0)."""
    ordered = np.sort(values)
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    return ordered[last], np.concatenate(([0], last + 1))


def two_sample_knots(sample: Array, reference: Array) -> Knots:
    """Knots of a sample against the empirical CDF of another."""
    values, counts = atoms(sample)
    ordered = np.sort(reference)
    at = np.zeros(len(counts))
    before = np.ones(len(counts))
    at[1:] = np.searchsorted(ordered, values, side="right") / len(ordered)
    before[:-1] = np.searchsorted(ordered, values, side="left") / len(ordered)
    return Knots(values, counts / len(sample), at, before)


def one_sample_knots(sample: Array, cdf: Cdf) -> Knots:
    """Knots of a sample against a CDF given as a function."""
    values, counts = atoms(sample)
    at = _evaluate(cdf, values)
    left = _evaluate(cdf, np.nextafter(values, -np.inf))
    ranges = np.ravel(np.column_stack((left, at)))
    if np.any(np.diff(ranges) < -_ROUNDING):
        raise ValueError("reference is not a CDF: it decreases between two sample points")
    return Knots(
        values, counts / len(sample), np.concatenate(([0.0], at)), np.concatenate((left, [1.0]))
    )


def _evaluate(cdf: Cdf, points: Array) -> Array:
    result = np.asarray(cdf(points), dtype=np.float64)
    if result.shape != points.shape:
        raise ValueError(
            f"reference must map an array of shape {points.shape} to the same shape, "
            f"got {result.shape}; vectorise it"
        )
    if not ((result >= -_ROUNDING) & (result <= 1 + _ROUNDING)).all():
        raise ValueError("reference is not a CDF: it returns values outside [0, 1]")
    return np.clip(result, 0.0, 1.0)


def _solve(knots: Knots, tolerance: float) -> tuple[float, tuple[float, float]]:
    """α̂ and its witness interval."""
    cap, start, end = smallest_cap(knots.mass, knots.at, knots.before, tolerance)
    # Where the distance is the tolerance itself, rounding may leave a cap just above 1.
    if cap > 1.0 and knots.statistic > tolerance + _ROUNDING:
        return 1.0 - 1.0 / cap, knots.interval(start, end)
    lack_below = knots.before - knots.mass
    lack_above = knots.mass - knots.at
    below, above = int(np.argmax(lack_below)), int(np.argmax(lack_above))
    if lack_below[below] >= lack_above[above]:
        return 0.0, knots.interval(0, below)
    return 0.0, knots.interval(above, len(knots.values))


def smallest_cap(
    mass: Array, at: Array, before: Array, tolerance: float, slack: float = 0.0
) -> tuple[float, int, int]:
    """Smallest slope L of a path through the tube, and the knots (s, t) that force it.

    Parameters
    ----------
    mass, at, before
        As in :class:`Knots`, for any weights of the sample points, zero included.
    tolerance
        Half-width c of the tube.
    slack
        A radius r within which the sample's empirical CDF is known to lie about its law's. The
        cap then is the smallest over all laws within r: a lower bound. It enters the
        denominators, twice for an interval and once for a half line.

    Returns
    -------
    tuple
        (L, s, t); L = inf where the tube is closed, 1 if no trimming is needed.
    """
    # Points of weight zero: F̃ is flat across them, so their knots merge to the tightest one.
    rises = np.flatnonzero(mass[1:] > mass[:-1])
    first = np.concatenate(([0], rises + 1))
    last = np.append(rises, len(mass) - 1)
    if len(first) < len(mass):
        mass, at, before = mass[first], at[first], before[last]
    lower, upper = _tube(at, before, tolerance)
    if slack > 0.0:
        ends, starts, skip = mass + slack, mass - slack, 0
        ends[-1], starts[0] = 1.0, 0.0
    else:
        closed = lower - upper
        worst = int(np.argmax(closed))
        if closed[worst] > _ROUNDING:
            return math.inf, int(first[worst]), int(last[worst])
        ends, starts, skip = mass, mass, 1
    cap, start, end = 1.0, 0, len(mass) - 1
    while True:
        # The pair most in excess of slope `cap` gives the next one: Newton on the convex excess.
        rise = lower - cap * ends
        base = upper - cap * starts
        floor = np.minimum.accumulate(base)
        t = int(np.argmax(rise[skip:] - floor[: len(floor) - skip])) + skip
        s = int(np.argmin(base[: t + 1 - skip]))
        slope = float((lower[t] - upper[s]) / (ends[t] - starts[s]))
        if not slope > cap:
            return cap, int(first[start]), int(last[end])
        cap, start, end = slope, s, t


def _tube(at: Array, before: Array, radius: float) -> tuple[Array, Array]:
    """Lower and upper bound of F̃ at each knot; F̃ itself is 0 at the first, 1 at the last."""
    lower, upper = before - radius, at + radius
    lower[-1], upper[0] = 1.0, 0.0
    return lower, upper


def _taut_string(times: Array, lower: Array, upper: Array) -> Array:
    """Heights of the shortest path through the gates [lower, upper], from (0, 0) to (1, 1).

    The funnel algorithm (Davies & Kovac, Annals of Statistics 29 (2001) 1–65): two chains leave
    the last fixed vertex, the convex minorant of the upper bounds and the concave majorant of the
    lower ones; where they would cross, the path bends. Each gate enters and leaves a chain at
    most once, so the whole is O(k).
    """
    position = times.tolist()
    # Both chains start at the origin and meet at (1, 1).
    top, bottom = upper.tolist(), lower.tolist()
    top[0] = bottom[0] = 0.0
    top[-1] = bottom[-1] = 1.0
    over: deque[tuple[float, float]] = deque([(0.0, 0.0)])
    under: deque[tuple[float, float]] = deque([(0.0, 0.0)])
    path = [(0.0, 0.0)]
    for i in range(1, len(position)):
        _extend(over, under, (position[i], top[i]), 1.0, path)
        if i < len(position) - 1:
            _extend(under, over, (position[i], bottom[i]), -1.0, path)
    path.extend(list(over)[1:])
    corners = np.array(path)
    return np.asarray(np.interp(times, corners[:, 0], corners[:, 1]))


def _extend(
    chain: deque[tuple[float, float]],
    other: deque[tuple[float, float]],
    point: tuple[float, float],
    side: float,
    path: list[tuple[float, float]],
) -> None:
    """Add a gate's end to its chain; bend the path where the chain would cross the other."""
    while len(chain) > 1 and side * _turn(chain[-2], chain[-1], point) <= 0.0:
        chain.pop()
    if len(chain) == 1:
        while len(other) > 1 and side * _turn(chain[0], other[1], point) < 0.0:
            other.popleft()
            chain[0] = other[0]
            path.append(other[0])
    chain.append(point)


def _turn(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    """Positive where the way a → b → c turns upwards."""
    return (b[0] - a[0]) * (c[1] - b[1]) - (b[1] - a[1]) * (c[0] - b[0])
