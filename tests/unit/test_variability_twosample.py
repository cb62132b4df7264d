"""Energy distance, kernel MMD and their tests, against scipy, sklearn and naive sums."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from model_metrology.variability import (
    energy_distance,
    energy_test,
    median_bandwidth,
    mmd2,
    mmd_test,
)
from model_metrology.variability.twosample import embedding


def pair(seed, shift=0.3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=120), rng.normal(shift, 1.5, size=90)


@pytest.mark.parametrize("seed", range(5))
def test_energy_distance_is_scipys_and_the_mean_of_distances(seed):
    x, y = pair(seed)
    # The square root of a difference of sums near 1: 1e-9 is far above its rounding.
    assert energy_distance(x, y) == pytest.approx(stats.energy_distance(x, y), abs=1e-9)
    between = np.abs(x[:, None] - y).mean()
    within = np.abs(x[:, None] - x).mean() + np.abs(y[:, None] - y).mean()
    assert energy_distance(x, y) ** 2 == pytest.approx(2 * between - within, abs=1e-12)
    rounded = np.round(x), np.round(y)
    assert energy_distance(*rounded) == pytest.approx(stats.energy_distance(*rounded), abs=1e-9)
    assert energy_distance(x, x[::-1]) == pytest.approx(0.0, abs=1e-7)


# From far below the spacing of the points to far above their range.
@pytest.mark.parametrize("bandwidth", [0.003, 0.1, 1.0, 30.0, 1000.0])
def test_mmd_is_the_kernel_sum(bandwidth):
    pairwise = pytest.importorskip("sklearn.metrics.pairwise")
    x, y = pair(1)

    def mean(a, b):
        return pairwise.rbf_kernel(a[:, None], b[:, None], gamma=0.5 / bandwidth**2).mean()

    expected = mean(x, x) + mean(y, y) - 2 * mean(x, y)
    assert mmd2(x, y, bandwidth=bandwidth) == pytest.approx(expected, abs=1e-14)


def test_embeddings_are_apart_by_the_mmd():
    x, y = pair(2)
    span = min(x.min(), y.min()) - 3, max(x.max(), y.max()) + 1
    apart = embedding(x, 0.7, span) - embedding(y, 0.7, span)
    assert apart @ apart == pytest.approx(mmd2(x, y, bandwidth=0.7), abs=1e-14)


@pytest.mark.parametrize("n", [2, 3, 50, 301])
def test_median_bandwidth_is_the_median_distance(n):
    sample = np.random.default_rng(n).normal(size=n)
    distances = np.sort(np.abs(sample[:, None] - sample)[np.triu_indices(n, 1)])
    assert median_bandwidth(sample) == pytest.approx(distances[(len(distances) - 1) // 2])


@pytest.mark.parametrize("test", [energy_test, mmd_test])
def test_permutation_test_equals_permuting(test):
    """The same statistic as the plain function, and its p-value by explicit relabelling."""
    x, y = pair(3, shift=0.0)
    result = test(x, y, permutations=400, rng=np.random.default_rng(0))
    bandwidth = median_bandwidth(np.concatenate((x, y)))

    def statistic(a, b):
        return energy_distance(a, b) if test is energy_test else mmd2(a, b, bandwidth=bandwidth)

    assert result.statistic == pytest.approx(statistic(x, y), rel=1e-9)
    rng = np.random.default_rng(1)
    pooled = np.concatenate((x, y))
    null = []
    for _ in range(400):
        shuffled = rng.permutation(pooled)
        null.append(statistic(shuffled[:120], shuffled[120:]))
    expected = (1 + np.sum(np.array(null) >= result.statistic)) / 401
    # Two sets of 400 permutations: the difference of two proportions, four standard errors.
    assert result.p_value == pytest.approx(expected, abs=4 * np.sqrt(2 * 0.25 / 400))
    assert result.permutations == 400


@pytest.mark.parametrize("test", [energy_test, mmd_test])
def test_level_and_power(test):
    rng = np.random.default_rng(0)
    null = [
        test(rng.normal(size=40), rng.normal(size=30), permutations=99, rng=rng).p_value
        for _ in range(200)
    ]
    # Bin(200, 0.1) has its 0.0005 and 0.9995 quantiles near 8 and 35.
    assert 8 <= np.sum(np.array(null) <= 0.1) <= 35
    planted = test(rng.normal(size=400), rng.normal(0.4, 1, size=400), permutations=199, rng=rng)
    assert planted.p_value == pytest.approx(1 / 200)


def test_permutations_that_tie_count():
    # Two points against one: a third of the relabellings give the data's own distance.
    result = energy_test([0.0, 1.0], [5.0], permutations=600, rng=np.random.default_rng(0))
    assert result.p_value == pytest.approx(1 / 3, abs=4 * np.sqrt(2 / 9 / 600))


def test_blocks_do_not_change_the_result(monkeypatch):
    x, y = pair(5)
    whole = mmd2(x, y, bandwidth=0.2)
    monkeypatch.setattr("model_metrology.variability.twosample._CHUNK", 500)
    assert_allclose(mmd2(x, y, bandwidth=0.2), whole, atol=1e-15)
    result = mmd_test(x, y, permutations=20, rng=np.random.default_rng(0))
    assert result.permutations == 20


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: energy_distance([], [1.0]), "x is empty"),
        (lambda: mmd2([1.0], [np.nan]), "y has a value that is not finite"),
        (lambda: mmd2([1.0], [2.0], bandwidth=0.0), "bandwidth"),
        (lambda: median_bandwidth([1.0]), "at least two"),
        (lambda: median_bandwidth([1.0, 1.0, 1.0]), "coincide"),
        (
            lambda: energy_test([1.0], [2.0], permutations=0, rng=np.random.default_rng(0)),
            "permutations",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
