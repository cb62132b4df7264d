"""Bootstraps, nulls, bounds and multiplicity against slow re-computations and known laws."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from model_metrology.variability import (
    alpha_hat,
    alpha_lower_bound,
    authors_alpha,
    authors_tolerance,
    bootstrap_alpha,
    class_conditional_alpha,
    contaminated_alpha,
    contaminated_runs,
    ensemble_size_curve,
    holm,
    leave_one_out,
    outlier_p_value,
    rank_correlation,
    reference_sample,
    trimming_scores,
)
from model_metrology.variability.inference import _reflected


def runs(seed, m=6, n=80, *, decimals=None):
    candidate, reference = contaminated_runs(
        m, n, contamination=0.1, offset=3.0, rng=np.random.default_rng(seed)
    )
    if decimals is not None:
        candidate, reference = candidate.round(decimals), reference.round(decimals)
    return candidate, reference


@pytest.mark.parametrize("decimals", [None, 1, 0])
@pytest.mark.parametrize("law", ["pooled", "mean", "quantile"])
def test_bootstrap_equals_resampling_written_out(law, decimals):
    candidate, reference = runs(1, n=200, decimals=decimals)
    candidate = candidate - (1.0 if decimals == 0 else 0.5)
    m, n = reference.shape
    result = bootstrap_alpha(
        candidate, reference, law=law, tolerance=0.1, replicates=25, rng=np.random.default_rng(2)
    )
    rng = np.random.default_rng(2)
    for value in result.replicates:
        chosen = np.repeat(np.arange(m), rng.multinomial(m, np.full(m, 1 / m)))
        points = np.repeat(np.arange(n), rng.multinomial(n, np.full(n, 1 / n)))
        sample = reference_sample(reference[chosen][:, points], law)
        assert value == pytest.approx(
            alpha_hat(candidate[points], sample, tolerance=0.1).alpha, abs=1e-12
        )
    plain = alpha_hat(candidate, reference_sample(reference, law), tolerance=0.1)
    assert result.estimate == plain.alpha
    assert 0.0 <= result.lower <= result.estimate <= result.upper <= 1.0
    # Rounded outputs against averages, which are not round, differ whatever is drawn: α̂ = 1.
    assert len(np.unique(result.replicates)) > 5 or (decimals == 0 and law != "pooled")


@pytest.mark.parametrize(
    ("estimate", "low", "high", "expected"),
    [
        (0.20, 0.18, 0.26, (0.14, 0.22)),
        # Noise moved every replicate up: the interval still holds the estimate.
        (0.20, 0.22, 0.26, (0.14, 0.20)),
        # A quantile on the boundary says nothing of how far the other end is.
        (0.01, 0.0, 0.05, (0.0, 0.05)),
        (0.0, 0.0, 0.03, (0.0, 0.03)),
        (0.95, 0.9, 1.0, (0.9, 1.0)),
    ],
)
def test_reflection_stops_at_the_boundaries(estimate, low, high, expected):
    drawn = np.concatenate((np.full(500, low), np.full(500, high)))
    assert_allclose(_reflected(estimate, drawn, 0.95), expected, atol=1e-12)


def test_bootstrap_keeps_the_pairing_of_test_points():
    """Runs that agree point by point: nothing to see, however the points are drawn."""
    shared = np.random.default_rng(0).normal(size=200)
    result = bootstrap_alpha(
        shared, np.tile(shared, (4, 1)), tolerance=1e-9, rng=np.random.default_rng(0)
    )
    assert_array_equal(result.replicates, 0.0)


@pytest.mark.parametrize("decimals", [None, 1])
@pytest.mark.parametrize("law", ["pooled", "mean", "quantile"])
def test_leave_one_out_equals_leaving_out(law, decimals):
    _, reference = runs(3, decimals=decimals)
    result = leave_one_out(reference, law=law, tolerance=0.03)
    for i, run in enumerate(reference):
        others = reference_sample(np.delete(reference, i, axis=0), law)
        expected = alpha_hat(run, others, tolerance=0.03)
        assert result.alpha[i] == pytest.approx(expected.alpha, abs=1e-12)
        assert result.statistic[i] == pytest.approx(expected.statistic, abs=1e-12)
    assert result.alpha.max() > 0


def test_leave_one_out_by_class_is_the_largest_class():
    _, reference = runs(4)
    labels = np.arange(80) % 3
    result = leave_one_out(reference, labels=labels, tolerance=0.03)
    parts = [leave_one_out(reference[:, labels == c], tolerance=0.03) for c in range(3)]
    assert_allclose(result.alpha, np.max([part.alpha for part in parts], axis=0))
    assert_allclose(result.statistic, np.max([part.statistic for part in parts], axis=0))


def test_outlier_p_value_counts_itself_and_is_valid():
    assert outlier_p_value(2.0, [0.0, 1.0, 2.0, 3.0]) == 3 / 5
    assert outlier_p_value(9.0, [0.0, 1.0, 2.0, 3.0]) == 1 / 5
    # Stacked leave-one-out is exactly exchangeable: P(p ≤ 0.2) ≤ 0.2 over fresh populations.
    small = 0
    for seed in range(300):
        _, stacked = contaminated_runs(10, 60, rng=np.random.default_rng(seed))
        statistic = leave_one_out(stacked).statistic
        small += outlier_p_value(statistic[0], statistic[1:]) <= 0.2
    # 300 draws of probability at most 0.2: the 0.999 quantile of Bin(300, 0.2) is 82.
    assert 30 <= small <= 82


@pytest.mark.parametrize("contamination", [0.0, 0.1, 0.3])
def test_lower_bound_is_below_the_truth(contamination):
    tau, truth = 0.03, contaminated_alpha(contamination, 0.03)
    bounds = []
    for seed in range(40):
        candidate, reference = contaminated_runs(
            4, 3000, contamination=contamination, rng=np.random.default_rng([8, seed])
        )
        exact = alpha_lower_bound(candidate, stats.norm.cdf, tolerance=tau)
        sampled = alpha_lower_bound(
            candidate, reference.ravel(), tolerance=tau, reference_size=3000
        )
        assert sampled <= exact + 0.01
        assert exact <= alpha_hat(candidate, stats.norm.cdf, tolerance=tau).alpha
        bounds.append(exact)
    # Fails with probability at most 0.05 each; in truth far less.
    assert np.mean(np.array(bounds) <= truth) >= 0.95
    if contamination == 0.3:
        # Informative, too: the radius at n = 3,000 is 0.025.
        assert np.median(bounds) > 0.22


def test_authors_rule_rounds_up_averages_and_caps():
    rng = np.random.default_rng(0)
    candidate, reference = contaminated_runs(4, 2000, contamination=0.2, rng=rng)
    value = authors_alpha(candidate, reference.ravel(), rng=np.random.default_rng(1))
    # By hand: the truth at the half's δ, and noise of a half of 2,000 above it.
    truth = contaminated_alpha(0.2, authors_tolerance(1000))
    assert truth - 0.03 < value < truth + 0.08
    coarse = authors_alpha(
        candidate, reference.ravel(), step=0.25, replicates=20, rng=np.random.default_rng(1)
    )
    assert coarse == pytest.approx(0.25)
    far = authors_alpha(candidate + 50, reference.ravel(), rng=np.random.default_rng(1))
    assert far == 0.5
    same = authors_alpha(candidate, candidate, rng=np.random.default_rng(1))
    assert same < 0.02


def test_authors_rule_equals_resampling_written_out():
    candidate, reference = runs(6, n=300, decimals=1)
    candidate = candidate + 1.0
    n = 150
    values = np.unique(candidate)
    share = np.array([(candidate == v).mean() for v in values])
    rng = np.random.default_rng(9)
    expected = []
    for _ in range(10):
        half = np.repeat(values, rng.multinomial(n, share / share.sum()))
        exact = alpha_hat(half, reference.ravel(), tolerance=authors_tolerance(n)).alpha
        expected.append(min(np.ceil(exact / 0.01 - 1e-9) * 0.01, 0.5))
    value = authors_alpha(candidate, reference.ravel(), replicates=10, rng=np.random.default_rng(9))
    assert value == pytest.approx(np.mean(expected), abs=1e-12)
    assert value > 0


def test_pooled_alpha_is_blind_to_labels_and_classes_see():
    rng = np.random.default_rng(0)
    n = 2000
    labels = np.repeat([0, 1], n // 2)
    gaps = np.where(labels == 1, 2.0, -2.0) + rng.normal(size=(9, n))
    reference, candidate = gaps[1:], gaps[0]
    wrong = rng.permutation(candidate)
    pooled = reference_sample(reference)
    # The law of the outputs is the same, point for point worthless.
    assert alpha_hat(wrong, pooled).alpha == alpha_hat(candidate, pooled).alpha == 0.0
    honest = class_conditional_alpha(candidate, reference, labels)
    shuffled = class_conditional_alpha(wrong, reference, labels)
    assert honest.maximum == 0.0
    assert (honest.adjusted > 0.05).all()
    assert shuffled.maximum > 0.3
    assert (shuffled.adjusted < 1e-6).all()
    assert_array_equal(shuffled.classes, [0, 1])
    one = alpha_hat(wrong[labels == 1], reference[:, labels == 1].ravel())
    assert shuffled.alpha[1] == one.alpha
    assert shuffled.statistic[1] == one.statistic
    assert shuffled.tolerance[1] == one.tolerance
    # The p-value is below the level exactly where the distance is above the tolerance.
    for result in (honest, shuffled):
        assert_array_equal(result.p_value < 0.05, result.statistic > result.tolerance)


def test_holm_by_hand():
    assert_allclose(holm([0.01, 0.04, 0.03, 0.5]), [0.04, 0.09, 0.09, 0.5])
    assert_allclose(holm([0.6, 0.7]), [1.0, 1.0])
    assert_allclose(holm([0.2]), [0.2])


@pytest.mark.parametrize("law", ["pooled", "mean", "quantile"])
def test_ensemble_curve_equals_subsets_written_out(law):
    _, both = runs(12, m=9, decimals=1)
    candidates, reference = both[:3], both[3:]
    curve = ensemble_size_curve(
        candidates,
        reference,
        [1, 4, 6],
        law=law,
        tolerance=0.06,
        replicates=5,
        rng=np.random.default_rng(3),
    )
    assert curve.alpha.shape == curve.statistic.shape == (3, 5, 3)
    rng = np.random.default_rng(3)
    for s, size in enumerate([1, 4, 6]):
        for r in range(5):
            chosen = np.sort(rng.integers(6, size=size))
            sample = reference_sample(reference[chosen], law)
            for k in range(3):
                expected = alpha_hat(candidates[k], sample, tolerance=0.06)
                assert curve.alpha[s, r, k] == pytest.approx(expected.alpha, abs=1e-12)
                assert curve.statistic[s, r, k] == pytest.approx(expected.statistic, abs=1e-12)
    mean, lower, upper = curve.mean_alpha()
    assert_allclose(mean, curve.alpha.mean(axis=(1, 2)))
    assert (lower <= mean + 1e-12).all() and (mean <= upper + 1e-12).all()
    trimmed, untrimmed = curve.accepted(0.1)[0], curve.accepted()[0]
    assert (trimmed >= untrimmed).all()
    assert_allclose(untrimmed, (curve.statistic <= 0.06).mean(axis=(1, 2)))


def test_larger_ensembles_lower_alpha():
    candidate, reference = contaminated_runs(40, 500, correlation=0.2, rng=np.random.default_rng(0))
    curve = ensemble_size_curve(
        candidate[None], reference, [1, 5, 30], tolerance=0.03, rng=np.random.default_rng(1)
    )
    mean, lower, upper = curve.mean_alpha()
    assert mean[0] > mean[1] > mean[2]
    assert upper[2] - lower[2] < upper[0] - lower[0]


def test_rank_correlation_is_scipys_with_an_interval():
    rng = np.random.default_rng(0)
    x = rng.normal(size=60)
    y = x + rng.normal(size=60)
    for method, rule in (("spearman", stats.spearmanr), ("kendall", stats.kendalltau)):
        result = rank_correlation(x, y, method=method, rng=np.random.default_rng(1))
        assert result.estimate == pytest.approx(rule(x, y).statistic, abs=1e-12)
        assert 0 < result.lower < result.estimate < result.upper < 1
    ties = rank_correlation(np.round(x), np.round(y), rng=np.random.default_rng(1))
    assert ties.estimate == pytest.approx(stats.spearmanr(np.round(x), np.round(y)).statistic)
    constant = rank_correlation(np.zeros(60), y, rng=np.random.default_rng(1))
    assert np.isnan([constant.estimate, constant.lower, constant.upper]).all()


def test_trimming_scores_find_the_surplus():
    rng = np.random.default_rng(0)
    candidate, reference = contaminated_runs(8, 400, rng=rng)
    candidates = np.stack([candidate, candidate + 0.01])
    candidates[:, :60] = 10 + rng.normal(size=(2, 60))
    scores = trimming_scores(candidates, reference, tolerance=0.02)
    assert scores.mean() == pytest.approx(1.0)
    # The planted 15 % lie above all others, where the reference has nothing: 2 % may stay.
    assert scores[:60].mean() == pytest.approx(0.02 / 0.15, abs=1e-3)
    assert scores[60:].mean() == pytest.approx(0.98 / 0.85, abs=1e-3)
    assert trimming_scores(candidates[:1], reference, tolerance=0.02) == pytest.approx(
        400 * alpha_hat(candidates[0], reference.ravel(), tolerance=0.02).weights
    )


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c, r: bootstrap_alpha(c[:-1], r, rng=RNG), "same test points"),
        (lambda c, r: bootstrap_alpha(c, r[0], rng=RNG), "shape \\(runs, points\\)"),
        (lambda c, r: bootstrap_alpha(c, r, replicates=1, rng=RNG), "replicates"),
        (lambda c, r: bootstrap_alpha(c, r, coverage=1.0, rng=RNG), "coverage"),
        (lambda c, r: bootstrap_alpha(c, np.where(r > 1, np.nan, r), rng=RNG), "not finite"),
        (lambda c, r: reference_sample(r, "median"), "law must be one of pooled"),
        (lambda c, r: leave_one_out(r[:1]), "at least two runs"),
        (lambda c, r: leave_one_out(r, labels=[0, 1]), "labels must have shape"),
        (lambda c, r: class_conditional_alpha(c, r, np.zeros(80)), "labels must be integers"),
        (lambda c, r: ensemble_size_curve(r, r, [7], rng=RNG), "sizes must lie in 1…6"),
        (lambda c, r: ensemble_size_curve(r, r, [], rng=RNG), "sizes"),
        (lambda c, r: ensemble_size_curve(r[:, 1:], r, [2], rng=RNG), "79 points"),
        (lambda c, r: rank_correlation(c, c[1:], rng=RNG), "paired"),
        (lambda c, r: rank_correlation(c, c, method="pearson", rng=RNG), "spearman"),
        (lambda c, r: outlier_p_value(np.nan, c), "finite"),
        (lambda c, r: outlier_p_value(1.0, []), "empty"),
        (lambda c, r: holm([0.1, 1.2]), "p_values"),
        (lambda c, r: authors_alpha(c, c, replicates=0, rng=RNG), "replicates"),
        (lambda c, r: authors_alpha(c, c, step=0.0, rng=RNG), "step"),
        (lambda c, r: alpha_lower_bound(c, c, tolerance=0.1, reference_size=0), "reference_size"),
        (lambda c, r: trimming_scores(r[:, 1:], r), "79 points"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(*runs(0))
