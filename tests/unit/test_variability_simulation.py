"""Laws of known α̂, coverage of intervals, and tests at a matched level."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from model_metrology.variability import (
    alpha_hat,
    contaminated_alpha,
    contaminated_runs,
    energy_distance,
    interval_coverage,
    leave_one_out,
    median_bandwidth,
    mmd2,
    population_alpha,
    power,
    wilson_interval,
)

TESTS = ("ks", "alpha", "mmd", "energy")


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.2])
def test_closed_form_is_the_numerical_value(share, two_sided):
    def cdf(x):
        far = stats.norm.cdf(x, 20) if not two_sided else stats.norm.cdf(np.abs(x), 20)
        if two_sided:
            far = 0.5 * stats.norm.cdf(x, 20) + 0.5 * stats.norm.cdf(x, -20)
        return (1 - share) * stats.norm.cdf(x) + share * far

    grid = np.linspace(-30, 30, 6001)
    value = population_alpha(cdf, stats.norm.cdf, 0.02, grid)
    expected = contaminated_alpha(share, 0.02, two_sided=two_sided)
    # The laws overlap by less than 1e-20; the grid has a point where F₀ is 1 to 1e-9.
    assert value == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("two_sided", [False, True])
def test_simulated_runs_have_that_alpha(two_sided):
    candidate, reference = contaminated_runs(
        3, 100_000, contamination=0.1, two_sided=two_sided, rng=np.random.default_rng(0)
    )
    value = alpha_hat(candidate, reference.ravel(), tolerance=0.02).alpha
    # Three standard errors of a share of 0.1 in 100,000 points, and the eCDFs' noise.
    assert value == pytest.approx(contaminated_alpha(0.1, 0.02, two_sided=two_sided), abs=0.006)
    assert np.corrcoef(reference)[0, 1] == pytest.approx(0.8, abs=0.01)


def test_interval_covers_at_about_its_nominal_rate():
    share, tau = 0.1, 0.04
    result = interval_coverage(
        lambda rng: contaminated_runs(8, 1000, contamination=share, rng=rng),
        contaminated_alpha(share, tau),
        tolerance=tau,
        simulations=150,
        replicates=100,
        rng=np.random.default_rng(1),
    )
    # Bin(150, 0.95) is below 133 with probability 0.001.
    assert result.interval >= 133 / 150
    assert result.bound_holds >= 0.95
    assert result.above <= 0.05


def test_coverage_counts():
    result = interval_coverage(
        lambda rng: contaminated_runs(3, 100, contamination=0.2, rng=rng),
        0.17,
        tolerance=0.1,
        simulations=10,
        replicates=20,
        rng=np.random.default_rng(1),
    )
    inside = [low <= 0.17 <= up for low, up in zip(result.lower, result.upper, strict=True)]
    assert result.interval == np.mean(inside)
    assert result.estimate.shape == result.bound.shape == (10,)


@pytest.mark.parametrize("test", TESTS)
def test_scores_are_what_they_say(test):
    candidate, reference = contaminated_runs(
        7, 90, contamination=0.2, offset=2.0, rng=np.random.default_rng(3)
    )
    result = power(reference, candidate[None], test=test, tolerance=0.05)
    bandwidth = median_bandwidth(reference.ravel())
    single = {
        "ks": lambda a, b: alpha_hat(a, b).statistic,
        "alpha": lambda a, b: alpha_hat(a, b, tolerance=0.05).alpha,
        "mmd": lambda a, b: mmd2(a, b, bandwidth=bandwidth),
        "energy": energy_distance,
    }[test]
    # Energy's square root turns rounding of 1e-16 into 1e-8.
    assert result.observed[0] == pytest.approx(single(candidate, reference.ravel()), abs=1e-8)
    for i, run in enumerate(reference):
        others = np.delete(reference, i, axis=0).ravel()
        assert result.null[i] == pytest.approx(single(run, others), abs=1e-8)
    if test == "ks":
        assert list(result.null) == list(leave_one_out(reference).statistic)


@pytest.mark.parametrize("test", TESTS)
def test_level_is_kept_and_planted_difference_seen(test):
    rejected = []
    for seed in range(60):
        candidate, reference = contaminated_runs(19, 150, rng=np.random.default_rng([1, seed]))
        rejected.append(power(reference, candidate[None], test=test, tolerance=0.02).rate)
    # Bin(60, 0.05) exceeds 9 with probability 0.0006.
    assert np.sum(rejected) <= 9
    planted, reference = contaminated_runs(19, 400, contamination=0.3, rng=np.random.default_rng(9))
    result = power(reference, np.stack([planted, planted]), test=test, tolerance=0.02)
    assert result.rate == 1.0
    low, high = result.interval()
    assert 0 < low < high == pytest.approx(1.0)


def test_critical_value_is_conformal():
    candidate, reference = contaminated_runs(19, 100, rng=np.random.default_rng(0))
    # 19 reference runs at level 0.05: the largest of them; at a lower level, nothing rejects.
    result = power(reference, candidate[None], test="ks", level=0.05)
    assert result.critical == result.null.max()
    assert power(reference, candidate[None] + 99, test="ks", level=0.04).critical == np.inf
    second = power(reference, candidate[None], test="ks", level=0.1)
    assert second.critical == np.sort(result.null)[-2]


def test_wilson_interval_by_hand():
    low, high = wilson_interval(8, 10)
    # Wilson (1927) with z = 1.96.
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))


def test_bad_input_is_named():
    _, reference = contaminated_runs(4, 50, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="test must be one of ks, alpha, mmd, energy"):
        power(reference, reference, test="median")
    with pytest.raises(ValueError, match="49 points"):
        power(reference, reference[:, 1:], test="ks")
    with pytest.raises(ValueError, match="level"):
        power(reference, reference, test="ks", level=0.0)
    with pytest.raises(ValueError, match="two runs"):
        power(reference[:1], reference, test="mmd")
