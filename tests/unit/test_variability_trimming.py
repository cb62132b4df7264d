"""α̂ and the trimmed distance against linear programmes, scipy and hand-made cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import optimize, stats

from model_metrology.variability import (
    alpha_hat,
    authors_tolerance,
    empirical_cdf,
    ks_tolerance,
    trimmed_ks,
)
from model_metrology.variability.trimming import smallest_cap

# HiGHS solves to 1e-7 by default and does far better on problems this small; ours is exact.
LP = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
AGREE = 1e-9


def step_cdf(points, weights):
    """CDF of a law on finitely many points, right-continuous."""
    order = np.argsort(points)
    sums = np.concatenate(([0.0], np.cumsum(np.asarray(weights)[order])))
    sums /= sums[-1]
    return lambda x: sums[np.searchsorted(np.asarray(points)[order], x, side="right")]


def reference_limits(reference, jumps, where):
    """F₀ and its left limit, by counting (two-sample) or at hand-placed points (CDF)."""
    if callable(reference):
        return reference(where), reference(np.nextafter(where, -np.inf))
    return (
        np.array([(reference <= x).mean() for x in where]),
        np.array([(reference < x).mean() for x in where]),
    )


def linear_programme(sample, reference, jumps, *, alpha=None, tolerance=None):
    """Trim by LP, one weight a point: the distance at `alpha`, or the α at `tolerance`.

    Knows nothing of knots, slopes or merged ties: F̃ and F₀ are compared at every point where
    either may jump, from the right and from the left.
    """
    sample = np.asarray(sample, dtype=float)
    n = len(sample)
    where = np.unique(np.concatenate((sample, jumps)))
    right, left = reference_limits(reference, jumps, where)
    include = np.vstack((sample <= where[:, None], sample < where[:, None])).astype(float)
    target = np.concatenate((right, left))
    ones = np.ones((len(target), 1))
    equal = np.append(np.ones(n), 0.0)[None]
    if alpha is not None:
        # Variables: weights, distance.
        rows = np.vstack((np.hstack((include, -ones)), np.hstack((-include, -ones))))
        bound = np.concatenate((target, -target))
        bounds = [(0, 1 / (n * (1 - alpha)))] * n + [(0, None)]
    else:
        # Variables: weights, cap L.
        below = np.hstack((np.eye(n), np.full((n, 1), -1 / n)))
        rows = np.vstack((np.hstack((include, 0 * ones)), np.hstack((-include, 0 * ones)), below))
        bound = np.concatenate((target + tolerance, tolerance - target, np.zeros(n)))
        bounds = [(0, None)] * n + [(1, None)]
    cost = np.append(np.zeros(n), 1.0)
    result = optimize.linprog(
        cost, rows, bound, equal, [1.0], bounds=bounds, method="highs-ds", options=LP
    )
    if result.status == 2:
        return 1.0
    assert result.status == 0, result.message
    return result.fun if alpha is not None else 1 - 1 / result.fun


def random_case(rng):
    """A sample and a reference: continuous, tied, with atoms, shifted, one- and two-sample."""
    n, m = rng.integers(1, 13, size=2)
    kind = rng.integers(5)
    if kind == 0:
        sample, other = rng.normal(size=n), rng.normal(0.7, 1.5, size=m)
    elif kind == 1:
        sample, other = rng.integers(0, 5, size=n) * 1.0, rng.integers(0, 5, size=m) * 1.0
    elif kind == 2:
        sample, other = rng.integers(0, 4, size=n) * 1.0, rng.normal(2, 1, size=m)
    elif kind == 3:
        sample = np.round(rng.normal(size=n), 1)
        return sample, stats.norm(0.4, 0.8).cdf, sample
    else:
        points = np.unique(rng.integers(-3, 4, size=m) * 0.5)
        sample = rng.integers(-6, 7, size=n) * 0.25
        return sample, step_cdf(points, rng.random(len(points)) + 0.1), points
    return sample, other, other


CASES = [random_case(np.random.default_rng([7, i])) for i in range(400)]


@pytest.mark.parametrize("block", range(8))
def test_distance_agrees_with_linear_programme(block):
    rng = np.random.default_rng([11, block])
    for sample, reference, jumps in CASES[block::8]:
        alpha = rng.choice([0.0, 0.1, 0.25, 0.5, 0.9, rng.random()])
        expected = linear_programme(sample, reference, jumps, alpha=alpha)
        assert trimmed_ks(sample, reference, alpha) == pytest.approx(expected, abs=AGREE)


@pytest.mark.parametrize("block", range(8))
def test_alpha_agrees_with_linear_programme(block):
    rng = np.random.default_rng([12, block])
    for sample, reference, jumps in CASES[block::8]:
        # Irrational-looking tolerances: at c equal to half a jump, solver rounding would decide.
        c = rng.choice([0.0123, 0.0717, 0.1371, 0.3137, rng.random()])
        expected = linear_programme(sample, reference, jumps, tolerance=c)
        assert alpha_hat(sample, reference, tolerance=c).alpha == pytest.approx(expected, abs=AGREE)


@pytest.mark.parametrize("index", range(0, 400, 4))
def test_distance_and_alpha_are_inverse(index):
    sample, reference, _ = CASES[index]
    c = 0.2137
    alpha = alpha_hat(sample, reference, tolerance=c).alpha
    if alpha == 1.0:
        assert trimmed_ks(sample, reference, 1 - 1e-9) > c
        return
    assert trimmed_ks(sample, reference, alpha) <= c + 1e-12
    if alpha > 0.0:
        assert trimmed_ks(sample, reference, alpha) == pytest.approx(c, abs=1e-12)
        assert trimmed_ks(sample, reference, alpha * (1 - 1e-6)) > c


@pytest.mark.parametrize("seed", range(20))
def test_untrimmed_distance_is_scipys(seed):
    rng = np.random.default_rng(seed)
    sample, other = rng.normal(size=50), rng.normal(0.3, 2.0, size=70)
    two = stats.ks_2samp(sample, other).statistic
    one = stats.ks_1samp(sample, stats.norm.cdf).statistic
    assert_allclose(trimmed_ks(sample, other, 0.0), two, atol=1e-14)
    assert_allclose(alpha_hat(sample, other).statistic, two, atol=1e-14)
    assert_allclose(trimmed_ks(sample, stats.norm.cdf, 0.0), one, atol=1e-14)
    tied, tied_other = np.round(sample), np.round(other)
    assert_allclose(
        trimmed_ks(tied, tied_other, 0.0), stats.ks_2samp(tied, tied_other).statistic, atol=1e-14
    )


def test_same_sample_needs_no_trimming():
    sample = np.random.default_rng(0).normal(size=500)
    result = alpha_hat(sample, sample, tolerance=0.0)
    assert result.alpha == 0.0
    assert result.statistic == 0.0
    assert_allclose(result.weights, 1 / 500, rtol=1e-12)


def test_tolerances():
    assert ks_tolerance(100) == pytest.approx(stats.kstwo.isf(0.05, 100))
    # At the critical value, scipy's own asymptotic test is at its level.
    sample = np.arange(60) / 60
    other = np.arange(90) / 90
    shift = ks_tolerance(60, 90, level=0.1)
    test = stats.ks_2samp(sample + shift, other, method="asymp")
    at_shift = stats.kstwo.sf(test.statistic, round(60 * 90 / 150))
    assert test.pvalue == pytest.approx(at_shift)
    assert stats.kstwo.sf(shift, round(60 * 90 / 150)) == pytest.approx(0.1)
    assert authors_tolerance(4000) == pytest.approx(0.03664, abs=5e-6)
    assert authors_tolerance(5000) == pytest.approx(0.03275, abs=5e-6)
    # The rule takes half of the test points.
    assert ks_tolerance(8000, tolerance="authors") == authors_tolerance(4000)
    assert ks_tolerance(5, tolerance=0.125) == 0.125


@pytest.mark.parametrize("index", range(400))
def test_weights_are_the_claimed_trimming(index):
    sample, reference, jumps = CASES[index]
    c = 0.1871
    result = alpha_hat(sample, reference, tolerance=c)
    weights = result.weights
    assert weights.shape == np.shape(sample)
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1.0)
    # Ties share equally.
    for value in np.unique(sample):
        assert np.ptp(weights[sample == value]) <= 1e-15
    where = np.unique(np.concatenate((sample, jumps)))
    right, left = reference_limits(reference, jumps, where)
    trimmed_right = np.array([weights[sample <= x].sum() for x in where])
    trimmed_left = np.array([weights[sample < x].sum() for x in where])
    distance = max(np.abs(trimmed_right - right).max(), np.abs(trimmed_left - left).max())
    if result.alpha == 1.0:
        closest = linear_programme(sample, reference, jumps, alpha=1 - 1e-6)
        assert distance == pytest.approx(closest, abs=1e-7)
        return
    assert distance <= c + 1e-12
    # The steepest slope of the taut string is L: found by the funnel, not by the pair formula.
    assert 1 - 1 / (len(sample) * weights.max()) == pytest.approx(result.alpha, abs=1e-12)


@pytest.mark.parametrize("seed", range(15))
def test_weights_are_nearest_to_uniform(seed):
    """Among all trimmings within c, the taut string has the least sum of squares."""
    rng = np.random.default_rng(seed)
    sample, other = rng.normal(-1.0, 2.0, size=14), rng.normal(size=40)
    # Between the closest any trimming comes and the untrimmed distance: 0 < α̂ < 1.
    c = (trimmed_ks(sample, other, 0.999) + trimmed_ks(sample, other, 0.0)) / 2
    result = alpha_hat(sample, other, tolerance=c)
    assert 0 < result.alpha < 1
    where = np.unique(np.concatenate((sample, other)))
    include = (sample <= where[:, None]).astype(float)
    target = np.array([(other <= x).mean() for x in where])
    # Reference jumps are 1/40 and the comparison is at right limits of all jumps of both, which
    # for step functions is the supremum.
    best = optimize.minimize(
        lambda w: 0.5 * w @ w,
        np.full(14, 1 / 14),
        jac=lambda w: w,
        bounds=[(0, 1)] * 14,
        constraints=[
            {"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(14)},
            {
                "type": "ineq",
                "fun": lambda w: np.concatenate(
                    (target + c - include @ w, include @ w - target + c)
                ),
                "jac": lambda w: np.vstack((-include, include)),
            },
        ],
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert best.success
    # SLSQP meets the constraints to about 1e-8.
    assert_allclose(result.weights, best.x, atol=1e-6)


@pytest.mark.parametrize("index", range(400))
def test_witness_attains_alpha(index):
    sample, reference, jumps = CASES[index]
    c = 0.1371
    result = alpha_hat(sample, reference, tolerance=c)
    low, high = result.witness
    assert low < high
    inside = np.mean((sample > low) & (sample < high))
    ends = np.clip([low, high], -1e9, 1e9)
    right, left = reference_limits(reference, jumps, ends)
    reference_inside = (left[1] if high < math.inf else 1.0) - (right[0] if low > -math.inf else 0)
    assert math.isinf(low) or math.isinf(high) or result.alpha > 0
    slack = c if math.isinf(low) or math.isinf(high) else 2 * c
    if result.alpha == 0.0:
        assert reference_inside - inside == pytest.approx(result.statistic, abs=1e-12)
    elif result.alpha == 1.0:
        assert inside == 0.0
        assert reference_inside > slack
    else:
        assert inside / (reference_inside - slack) == pytest.approx(1 - result.alpha, abs=1e-12)


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3])
def test_contaminated_law_recovers_alpha(alpha):
    """(1 − α) F₀ + α Q with Q beyond F₀'s support: 1 − α̂ = (1 − α)/(1 − τ), by hand."""
    n, tau = 200_000, 0.02
    rng = np.random.default_rng(3)
    sample = rng.random(n)
    sample[: int(alpha * n)] += 5.0
    result = alpha_hat(sample, stats.uniform.cdf, tolerance=tau)
    # The eCDF is within 2/√n = 0.0045 of its law, and α̂ is about as smooth as that.
    assert result.alpha == pytest.approx((alpha - tau) / (1 - tau), abs=0.005)
    two_sample = alpha_hat(sample, rng.random(n), tolerance=tau)
    assert two_sample.alpha == pytest.approx((alpha - tau) / (1 - tau), abs=0.01)
    # Contamination on both sides leaves the hole inside: twice the slack.
    sample[: int(alpha * n) : 2] -= 10.0
    both = alpha_hat(sample, stats.uniform.cdf, tolerance=tau)
    inner = (alpha - 2 * tau) / (1 - 2 * tau)
    outer = (alpha / 2 - tau) / (1 - tau)
    assert both.alpha == pytest.approx(max(0.0, inner, outer), abs=0.01)


def test_hole_in_the_middle():
    """A candidate without the middle tenth of a uniform law: α̂ = 1 unless 2c covers the hole."""
    sample = np.concatenate((np.linspace(0, 0.45, 1001), np.linspace(0.55, 1, 1001)))
    closed = alpha_hat(sample, stats.uniform.cdf, tolerance=0.04)
    assert closed.alpha == 1.0
    assert closed.witness == (0.45, 0.55)
    assert_allclose(np.interp(0.45, np.sort(sample), np.cumsum(closed.weights)), 0.5, atol=1e-12)
    assert alpha_hat(sample, stats.uniform.cdf, tolerance=0.06).alpha < 0.1


def test_step_reference_uses_left_limits():
    """A law on two points: half the mass at 0, half at 1; the sample has three quarters at 0."""
    cdf = step_cdf([0.0, 1.0], [1, 1])
    result = alpha_hat([0.0, 0.0, 0.0, 1.0], cdf, tolerance=0.0)
    # Trimming two of the three zeros leaves the reference: α = 1/2.
    assert result.alpha == pytest.approx(0.5)
    assert result.statistic == 0.25
    assert_allclose(result.weights, [1 / 6, 1 / 6, 1 / 6, 1 / 2])
    # The same law from a sample.
    assert alpha_hat([0.0, 0.0, 0.0, 1.0], [0.0, 1.0], tolerance=0.0).alpha == pytest.approx(0.5)


def test_tolerance_at_half_a_jump_counts_as_feasible():
    """One atom against a jump of exactly 2c elsewhere: the closed end of the range."""
    result = alpha_hat([0.0, 1.0], [0.5] * 2 + [0.0] * 4 + [1.0] * 4, tolerance=0.1)
    assert result.alpha < 1.0
    assert alpha_hat([0.0, 1.0], [0.5] * 2 + [0.0] * 4 + [1.0] * 4, tolerance=0.0999).alpha == 1.0


@pytest.mark.parametrize("seed", range(30))
def test_weights_of_zero_equal_points_left_out(seed):
    """The weighted core, which bootstraps use, against the sample written out."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(5, 40))
    sample = np.sort(rng.normal(size=n))
    counts = rng.multinomial(n, np.full(n, 1 / n))
    mass = np.concatenate(([0.0], np.cumsum(counts) / n))
    at = np.concatenate(([0.0], stats.norm.cdf(sample, 0.3, 0.8)))
    before = np.append(at[1:], 1.0)
    cap, start, end = smallest_cap(mass, at, before, 0.06)
    expected = alpha_hat(np.repeat(sample, counts), stats.norm(0.3, 0.8).cdf, tolerance=0.06)
    assert 1 - 1 / cap == pytest.approx(expected.alpha, abs=1e-12)
    if 0 < expected.alpha < 1:
        drawn = sample[counts > 0]
        low = (
            -math.inf
            if start == 0
            else drawn[np.searchsorted(drawn, sample[:start].max(), "right") - 1]
        )
        assert low == expected.witness[0]
        assert end == n or expected.witness[1] >= sample[end]


def test_slack_is_the_most_favourable_law_within_it():
    """Slack r lowers α̂ as if every interval held 2r, every half line r, more of the sample."""
    rng = np.random.default_rng(5)
    sample = np.sort(rng.normal(0.8, 1, size=60))
    at = np.concatenate(([0.0], stats.norm.cdf(sample)))
    before = np.append(at[1:], 1.0)
    mass = np.arange(61) / 60
    r, c = 0.03, 0.05
    ratios = []
    for s in range(61):
        for t in range(s, 61):
            lack = before[t] - at[s] - c * ((s > 0) + (t < 60))
            held = mass[t] - mass[s] + r * ((s > 0) + (t < 60))
            ratios.append(lack / held if held > 0 else 0.0)
    cap, _, _ = smallest_cap(mass, at, before, c, r)
    assert cap == pytest.approx(max(ratios), rel=1e-12)
    assert 1.0 < cap < smallest_cap(mass, at, before, c)[0]


def test_large_samples_agree_with_their_step_reference():
    """Large sizes: the one-sample value at a fine step reference equals the two-sample value."""
    rng = np.random.default_rng(1)
    sample, other = rng.normal(size=200_000), rng.normal(0.2, 1, size=150_000)
    two = alpha_hat(sample, other, tolerance=0.01)
    one = alpha_hat(sample, empirical_cdf(other), tolerance=0.01)
    assert two.alpha == one.alpha > 0
    assert two.witness == one.witness


floats = st.integers(-50, 50).map(lambda i: i / 8)
samples = st.lists(floats, min_size=1, max_size=30)


@settings(max_examples=150, deadline=None)
@given(samples, samples, st.floats(0, 0.9), st.floats(0, 0.9))
@example([0.0] * 3 + [0.125] * 6, [0.0] * 10 + [0.125] * 2, 0.5, 0.5)  # distance = tolerance
def test_distance_falls_with_alpha_and_alpha_with_tolerance(sample, other, one, two):
    low, high = sorted((one, two))
    assert trimmed_ks(sample, other, high) <= trimmed_ks(sample, other, low) + 1e-14
    strict = alpha_hat(sample, other, tolerance=low)
    loose = alpha_hat(sample, other, tolerance=high)
    assert loose.alpha <= strict.alpha + 1e-14
    assert 0.0 <= strict.alpha <= 1.0
    assert (strict.alpha == 0.0) == (strict.statistic <= low + 1e-12)


@settings(max_examples=100, deadline=None)
@given(samples, samples, st.floats(0.001, 0.5))
def test_invariant_under_increasing_maps_and_order(sample, other, c):
    sample, other = np.array(sample), np.array(other)
    plain = alpha_hat(sample, other, tolerance=c)
    mapped = alpha_hat(np.exp(sample / 4) * 3 - 1, np.exp(other / 4) * 3 - 1, tolerance=c)
    assert mapped.alpha == plain.alpha
    assert mapped.statistic == plain.statistic
    turned = alpha_hat(sample[::-1], other[::-1], tolerance=c)
    assert turned.alpha == plain.alpha
    assert_allclose(turned.weights, plain.weights[::-1], atol=1e-15)
    # Mirrored, the constraints run the other way round.
    mirrored = alpha_hat(-sample, -other, tolerance=c)
    assert mirrored.alpha == pytest.approx(plain.alpha, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(samples, st.integers(2, 5), st.floats(0.001, 0.5))
def test_repeating_every_point_changes_nothing(sample, times, c):
    other = np.linspace(-3, 3, 17)
    once = alpha_hat(sample, other, tolerance=c)
    repeated = alpha_hat(np.repeat(sample, times), other, tolerance=c)
    assert repeated.alpha == pytest.approx(once.alpha, abs=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: alpha_hat([], [1.0]), "sample is empty"),
        (lambda: alpha_hat([1.0], []), "reference is empty"),
        (lambda: alpha_hat([[1.0]], [1.0]), "one-dimensional"),
        (lambda: alpha_hat([1.0, math.nan], [1.0]), "nan at index 1"),
        (lambda: alpha_hat([1.0], [math.inf]), "reference has a value that is not finite"),
        (lambda: alpha_hat([1.0], [1.0], level=0.0), "level"),
        (lambda: alpha_hat([1.0], [1.0], level=1.0), "level"),
        (lambda: alpha_hat([1.0], [1.0], tolerance=-0.1), "tolerance"),
        (lambda: alpha_hat([1.0], [1.0], tolerance=1.0), "tolerance"),
        (lambda: alpha_hat([1.0], [1.0], tolerance=math.nan), "tolerance"),
        (lambda: alpha_hat([1.0], [1.0], tolerance="exact"), "'ks', 'authors' or a number"),
        (lambda: alpha_hat([1.0], lambda x: 0.5), "same shape"),
        (lambda: alpha_hat([1.0], lambda x: x + 1), "outside"),
        (lambda: alpha_hat([0.0, 1.0], lambda x: 1 - x), "decreases"),
        (lambda: trimmed_ks([1.0], [1.0], 1.0), "alpha"),
        (lambda: trimmed_ks([1.0], [1.0], -0.1), "alpha"),
        (lambda: ks_tolerance(0), "sizes"),
        (lambda: authors_tolerance(0), "n must"),
        (lambda: authors_tolerance(10, eta=0.0), "eta"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
