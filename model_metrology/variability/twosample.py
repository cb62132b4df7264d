"""Kernel MMD and energy distance of one-dimensional samples, with permutation p-values.

In one dimension both are quick and exact: the energy distance is an integral of squared
differences of CDFs, and the Gaussian kernel, over a bounded range, equals a short cosine sum to
the last digit. So a test costs O(N log N + permutations · N), with no N × N matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model_metrology.variability.trimming import as_sample

__all__ = [
    "PermutationTest",
    "energy_distance",
    "energy_test",
    "median_bandwidth",
    "mmd2",
    "mmd_test",
]

Array = NDArray[np.float64]

# Work arrays (permutations × points, points × frequencies) are cut to this many numbers.
_CHUNK = 4_000_000


@dataclass(frozen=True)
class PermutationTest:
    """A two-sample test whose null law comes from permuting the labels of the pooled sample."""

    statistic: float
    p_value: float
    """(1 + number of permutations at least as extreme) / (1 + permutations)."""
    permutations: int


def energy_distance(x: ArrayLike, y: ArrayLike) -> float:
    """Energy distance √(2 ∫ (F − G)²), as ``scipy.stats.energy_distance``.

    Its square is 2 E|X − Y| − E|X − X′| − E|Y − Y′| (Székely & Rizzo, Journal of Statistical
    Planning and Inference 143 (2013) 1249–1272).

    Parameters
    ----------
    x, y
        (n,) and (m,) samples, finite.

    Returns
    -------
    float
        In units of √(unit of x).

    Raises
    ------
    ValueError
        If a sample is empty, not one-dimensional or not finite.
    """
    first, second = as_sample(x, "x"), as_sample(y, "y")
    pooled, steps = _pool(first, second)
    order = np.argsort(pooled, kind="stable")
    return float(np.sqrt(_energy(steps[order][None], np.diff(pooled[order]))[0]))


def energy_test(
    x: ArrayLike, y: ArrayLike, *, permutations: int = 999, rng: np.random.Generator
) -> PermutationTest:
    """Permutation test of equal laws by the energy distance.

    Parameters
    ----------
    x, y
        (n,) and (m,) samples, independent under the null hypothesis. (Runs measured on the same
        test points are not; calibrate on leave-one-out runs there, see
        :func:`~model_metrology.variability.power`.)
    permutations
        Number of random permutations.
    rng
        Source of the permutations.

    Returns
    -------
    PermutationTest

    Raises
    ------
    ValueError
        If a sample is empty, not one-dimensional or not finite, or `permutations` < 1.
    """
    first, second = as_sample(x, "x"), as_sample(y, "y")
    pooled, steps = _pool(first, second)
    order = np.argsort(pooled, kind="stable")
    widths = np.diff(pooled[order])
    observed = float(_energy(steps[order][None], widths)[0])
    # Which order is permuted does not matter: under the null every one is as likely.
    null = np.concatenate([_energy(block, widths) for block in _shuffles(steps, permutations, rng)])
    return _p_value(float(np.sqrt(observed)), np.sqrt(null))


def mmd2(x: ArrayLike, y: ArrayLike, *, bandwidth: float | None = None) -> float:
    """Squared maximum mean discrepancy with the Gaussian kernel exp(−d²/(2σ²)), V-statistic.

    Gretton et al., "A kernel two-sample test", JMLR 13 (2012) 723–773, equation (5).

    Parameters
    ----------
    x, y
        (n,) and (m,) samples, finite.
    bandwidth
        σ, in units of x; :func:`median_bandwidth` of the pooled sample when absent. Values at
        different bandwidths do not compare.

    Returns
    -------
    float
        In [0, 2]; right to about 1e-14.

    Raises
    ------
    ValueError
        If a sample is empty, not one-dimensional or not finite, or `bandwidth` is not positive.
    """
    first, second = as_sample(x, "x"), as_sample(y, "y")
    pooled, steps = _pool(first, second)
    return float(_mmd2(steps[None], pooled, _bandwidth(bandwidth, pooled))[0])


def mmd_test(
    x: ArrayLike,
    y: ArrayLike,
    *,
    bandwidth: float | None = None,
    permutations: int = 999,
    rng: np.random.Generator,
) -> PermutationTest:
    """Permutation test of equal laws by the Gaussian-kernel MMD².

    Parameters
    ----------
    x, y, permutations, rng
        As in :func:`energy_test`.
    bandwidth
        As in :func:`mmd2`. The default looks at the pooled sample alone, so the test keeps its
        level.

    Returns
    -------
    PermutationTest

    Raises
    ------
    ValueError
        As :func:`mmd2`, or if `permutations` < 1.
    """
    first, second = as_sample(x, "x"), as_sample(y, "y")
    pooled, steps = _pool(first, second)
    sigma = _bandwidth(bandwidth, pooled)
    observed = float(_mmd2(steps[None], pooled, sigma)[0])
    null = [_mmd2(block, pooled, sigma) for block in _shuffles(steps, permutations, rng)]
    return _p_value(observed, np.concatenate(null))


def median_bandwidth(sample: ArrayLike) -> float:
    """Median distance between two points of a sample, the usual Gaussian bandwidth.

    The lower median of the n(n − 1)/2 distances, exact to the last digits, found by bisection on
    the number of pairs within a distance: O(n log n) for each of some 60 steps.

    Parameters
    ----------
    sample
        (n,) values, n ≥ 2.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If more than half of the pairs coincide: the median distance is then 0, no bandwidth.
    """
    ordered = np.sort(as_sample(sample, "sample"))
    n = len(ordered)
    if n < 2:
        raise ValueError("sample must hold at least two points for a bandwidth")
    half = (n * (n - 1) // 2 + 1) // 2
    index = np.arange(1, n + 1)
    low, high = 0.0, float(ordered[-1] - ordered[0])
    if _pairs_within(ordered, index, 0.0) >= half:
        raise ValueError("half of the pairs of points coincide: give a bandwidth")
    while high - low > 1e-15 * high:
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        if _pairs_within(ordered, index, middle) >= half:
            high = middle
        else:
            low = middle
    return high


def _pairs_within(ordered: Array, index: NDArray[np.int64], distance: float) -> int:
    return int((np.searchsorted(ordered, ordered + distance, side="right") - index).sum())


def _pool(x: Array, y: Array) -> tuple[Array, Array]:
    """Pooled points, and the step of F − G at each."""
    steps = np.repeat([1 / len(x), -1 / len(y)], [len(x), len(y)])
    return np.concatenate((x, y)), steps


def _bandwidth(bandwidth: float | None, pooled: Array) -> float:
    if bandwidth is None:
        return median_bandwidth(pooled)
    if not 0.0 < bandwidth < np.inf:
        raise ValueError(f"bandwidth must be positive and finite, got {bandwidth!r}")
    return float(bandwidth)


def _energy(steps: Array, widths: Array) -> Array:
    """2 ∫ (F − G)² for each row of steps at sorted points."""
    difference = np.cumsum(steps[:, :-1], axis=1)
    return np.asarray(2.0 * (np.square(difference) @ widths))


def _frequencies(spread: float, bandwidth: float) -> tuple[Array, Array]:
    r"""Frequencies ω and weights a with Σ a cos(ω d) = exp(−d²/(2σ²)) for \|d\| ≤ `spread`.

    The trapezoidal rule on the kernel's Fourier integral. Its error is the kernel's periodic
    images, 8.5 σ or more away, and the frequencies past 8.5/σ: below 1e-15 both.
    """
    reach = 8.5
    step = 2 * np.pi / (spread + reach * bandwidth)
    omega = step * np.arange(int(np.ceil(reach / bandwidth / step)) + 1)
    weight = step * bandwidth * np.sqrt(2 / np.pi) * np.exp(-0.5 * (omega * bandwidth) ** 2)
    weight[0] /= 2
    return np.asarray(omega), np.asarray(weight)


def _mmd2(steps: Array, points: Array, bandwidth: float) -> Array:
    """Squared norm of each row's mean embedding: Σᵢⱼ sᵢ sⱼ k(zᵢ − zⱼ)."""
    span = float(points.min()), float(points.max())
    total = np.zeros(len(steps))
    for features in _features(points, bandwidth, span):
        total += np.square(steps @ features).sum(axis=1)
    return total


def embedding(sample: Array, bandwidth: float, span: tuple[float, float]) -> Array:
    """Mean embedding of a sample: distances between embeddings are MMDs.

    Parameters
    ----------
    sample
        (n,) values within `span`.
    bandwidth
        σ of the Gaussian kernel.
    span
        (lowest, highest) value of all samples that are to be compared.

    Returns
    -------
    array
        (D,) with D ≈ 2.7 (span/σ + 8.5).
    """
    return np.concatenate([block.mean(axis=0) for block in _features(sample, bandwidth, span)])


def _features(points: Array, bandwidth: float, span: tuple[float, float]) -> Iterator[Array]:
    """Blocks of columns Φ with Φ Φᵀ = exp(−(zᵢ − zⱼ)²/(2σ²)), over points within `span`."""
    low, high = span
    omega, weight = _frequencies(high - low, bandwidth)
    block = max(1, _CHUNK // len(points))
    for first in range(0, len(omega), block):
        phase = np.outer(points - 0.5 * (low + high), omega[first : first + block])
        scale = np.sqrt(weight[first : first + block])
        yield np.hstack((np.cos(phase) * scale, np.sin(phase) * scale))


def _shuffles(steps: Array, permutations: int, rng: np.random.Generator) -> Iterator[Array]:
    """Rows of randomly permuted steps, in blocks of bounded size."""
    if permutations < 1:
        raise ValueError(f"permutations must be at least 1, got {permutations}")
    block = max(1, _CHUNK // len(steps))
    for first in range(0, permutations, block):
        yield rng.permuted(np.tile(steps, (min(block, permutations - first), 1)), axis=1)


def _p_value(observed: float, null: Array) -> PermutationTest:
    # Permutations that tie with the data must count, though their sums round differently.
    extreme = int((null >= observed * (1 - 1e-9) - 1e-15).sum())
    return PermutationTest(observed, (1 + extreme) / (1 + len(null)), len(null))
