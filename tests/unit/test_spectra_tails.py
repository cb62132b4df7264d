"""Power-law tails against closed forms, scipy, the package's own fits and known spectra."""

from __future__ import annotations

import math
import warnings

import numpy as np
import powerlaw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import optimize, stats

from model_metrology.spectra.tails import TailFit, _against_lognormal, fit_tail

# Stephens' 5 % point of `misfit`.
REJECTED = 1.094


def pareto(seed, exponent, n=1000):
    return stats.pareto(exponent - 1).rvs(n, random_state=np.random.default_rng(seed))


def bulk(seed, n, ratio):
    """n eigenvalues, all of the bulk, of a Marchenko–Pastur law of aspect ratio `ratio`."""
    rows = round(n / ratio)
    noise = np.random.default_rng(seed).standard_normal((rows, n))
    return np.linalg.eigvalsh(noise.T @ noise / rows)


def with_spikes(seed, n, *spikes):
    values = bulk(seed, n, 2 / 3)
    values[-len(spikes) :] = np.array(spikes) * (1 + math.sqrt(2 / 3)) ** 2
    return values


def heavy_bulk(seed, n, exponent, rank):
    """Noise plus a low rank whose eigenvalues alone would have a power law."""
    rng = np.random.default_rng(seed)
    rows = round(1.5 * n)
    left = np.linalg.qr(rng.standard_normal((rows, rank)))[0]
    right = np.linalg.qr(rng.standard_normal((n, rank)))[0]
    quantiles = stats.pareto(exponent - 1).ppf((np.arange(rank) + 0.5) / rank)
    weights = rng.standard_normal((rows, n)) + (left * np.sqrt(1.5 * rows * quantiles)) @ right.T
    return np.linalg.eigvalsh(weights.T @ weights / rows)


SPECTRA = {
    "pareto 2": pareto(1, 2.0),
    "pareto 4": pareto(2, 4.0),
    "lognormal": np.random.default_rng(3).lognormal(0.0, 1.0, 1000),
    "exponential": np.random.default_rng(5).exponential(1.0, 1000),
    "bulk": bulk(4, 300, 2 / 3),
    "spikes": with_spikes(6, 300, 1.5, 2.0, 4.0, 7.0, 11.0),
    "heavy bulk": heavy_bulk(7, 300, 2.5, 60),
}
every_spectrum = pytest.mark.parametrize("values", SPECTRA.values(), ids=SPECTRA.keys())


def tail_of(values, fit):
    return np.sort(values)[-fit.tail :]


@pytest.mark.parametrize("exponent", [1.5, 2.0, 3.0, 4.0, 8.0])
@pytest.mark.parametrize("seed", range(5))
def test_exponent_of_a_power_law_is_recovered(seed, exponent):
    fit = fit_tail(7.0 * pareto([10, seed], exponent))
    assert abs(fit.exponent - exponent) < 3 * fit.exponent_error
    assert fit.misfit < REJECTED
    assert fit.p_lognormal > 0.01


@every_spectrum
def test_fit_is_the_closed_form_above_its_threshold(values):
    fit = fit_tail(values)
    tail = values[values >= fit.xmin]
    assert fit.tail == len(tail)
    assert fit.exponent == pytest.approx(1 + len(tail) / np.sum(np.log(tail / fit.xmin)), rel=1e-12)
    assert fit.exponent_error == pytest.approx((fit.exponent - 1) / math.sqrt(len(tail)), rel=1e-12)
    # scipy's own estimate of the shape, with the threshold held.
    shape, _, _ = stats.pareto.fit(tail, floc=0, fscale=fit.xmin)
    assert fit.exponent == pytest.approx(1 + shape, rel=1e-6)


@every_spectrum
def test_distance_is_scipys(values):
    fit = fit_tail(values)
    law = stats.pareto(fit.exponent - 1, scale=fit.xmin)
    expected = stats.kstest(values[values >= fit.xmin], law.cdf).statistic
    assert fit.distance == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["pareto 4", "exponential", "bulk", "heavy bulk"])
def test_threshold_is_the_best_of_all(name):
    values = np.sort(SPECTRA[name])[::4]
    sizes = range(10, len(values) - len(values) // 2 + 1)

    def distance(size):
        tail = values[-size:]
        shape = size / np.sum(np.log(tail / tail[0]))
        return stats.kstest(tail, stats.pareto(shape, scale=tail[0]).cdf).statistic

    best = min(sizes, key=distance)
    fit = fit_tail(values, min_tail=10, candidates=5000)
    assert (fit.tail, fit.xmin) == (best, values[-best])
    # Fewer candidates cannot do better, and a hundred hardly do worse.
    assert fit.distance <= fit_tail(values, min_tail=10).distance < 1.1 * fit.distance


@every_spectrum
def test_ratio_to_the_exponential_is_vuongs(values):
    fit = fit_tail(values)
    tail = tail_of(values, fit)
    power = stats.pareto(fit.exponent - 1, scale=fit.xmin).logpdf(tail)
    exponential = stats.expon(fit.xmin, tail.mean() - fit.xmin).logpdf(tail)
    gain = power - exponential
    expected = gain.sum() / (math.sqrt(len(tail)) * gain.std())
    assert fit.against_exponential == pytest.approx(expected, abs=1e-8)
    assert fit.p_exponential == pytest.approx(2 * stats.norm.sf(abs(expected)), rel=1e-6)


def lognormal_log_likelihood(tail, mu, sigma):
    """Of a lognormal law cut off at the smallest value."""
    law = stats.lognorm(sigma, scale=math.exp(mu))
    return np.sum(law.logpdf(tail) - law.logsf(tail[0]))


@pytest.mark.parametrize("name", ["lognormal", "exponential", "bulk"])
def test_ratio_to_the_lognormal_is_that_of_a_numerical_fit(name):
    fit = fit_tail(SPECTRA[name])
    tail = tail_of(SPECTRA[name], fit) / fit.xmin
    best = min(
        optimize.minimize(
            lambda p: -lognormal_log_likelihood(tail, -p[0] * math.exp(2 * p[1]), math.exp(p[1])),
            (slope, log_sigma),
            bounds=[(-100.0, 20.0), (-4.0, 1.5)],
            method="Nelder-Mead",
            options={"xatol": 1e-9, "fatol": 1e-11, "maxiter": 5000},
        ).fun
        for slope in (-5.0, 0.0, 2.0)
        for log_sigma in (-1.0, 0.0)
    )
    power = np.sum(stats.pareto(fit.exponent - 1).logpdf(tail))
    twice = 2 * (-best - power)
    assert twice > 0.01
    assert fit.against_lognormal == pytest.approx(-math.sqrt(twice), rel=1e-5)
    assert fit.p_lognormal == pytest.approx(stats.chi2(1).sf(twice) / 2, rel=1e-4)


def test_lognormal_that_is_no_better_says_so():
    fits = [(values, fit_tail(values)) for values in (pareto([20, s], 3.0) for s in range(20))]
    at_bound = [(values, fit) for values, fit in fits if fit.against_lognormal == 0.0]
    assert 4 <= len(at_bound) <= 16
    for values, fit in at_bound[:3]:
        assert fit.p_lognormal == 1.0
        tail = tail_of(values, fit) / fit.xmin
        power = np.sum(stats.pareto(fit.exponent - 1).logpdf(tail))
        for sigma in np.geomspace(0.05, 4.0, 40):
            for slope in np.linspace(0.0, 3.0, 13) * (fit.exponent - 1):
                # Near ever wider lognormals with that slope at the threshold lies the power law.
                assert lognormal_log_likelihood(tail, -slope * sigma**2, sigma) < power + 1e-6


def test_lognormal_is_asked_at_the_level_it_claims():
    rng = np.random.default_rng(21)
    samples = np.column_stack((np.zeros(2000), rng.exponential(0.5, (2000, 80))))
    p_values = np.array([_against_lognormal(np.expm1(logs))[1] for logs in samples])
    for level in (0.01, 0.05):
        assert stats.binomtest(int(np.sum(p_values < level)), 2000, level).pvalue > 0.001


def test_misfit_is_asked_at_the_level_it_claims():
    rng = np.random.default_rng(22)
    for size in (20, 200):
        rejected = 0
        for _ in range(1000):
            logs = rng.exponential(1.0, size)
            distance = stats.kstest(logs, stats.expon(scale=logs.mean()).cdf, method="asymp")
            fit = TailFit(2.0, 0.1, 1.0, size, distance.statistic, 0.0, 1.0, 0.0, 1.0)
            rejected += fit.misfit > REJECTED
        assert stats.binomtest(rejected, 1000, 0.05).pvalue > 0.001


@pytest.mark.filterwarnings("ignore")
@every_spectrum
def test_agrees_with_the_package(values):
    fit = fit_tail(values)
    theirs = powerlaw.Fit(values, xmin=fit.xmin, parameter_ranges={"alpha": [1.0, None]}, verbose=0)
    assert theirs.n == fit.tail
    assert theirs.power_law.alpha == pytest.approx(fit.exponent, rel=1e-4)
    assert theirs.power_law.standard_err == pytest.approx(fit.exponent_error, rel=1e-3)
    # It looks at one end only of each jump.
    assert abs(theirs.power_law.D - fit.distance) < 1.01 / fit.tail
    ratio, p = theirs.distribution_compare("power_law", "exponential", normalized_ratio=True)
    assert fit.against_exponential == pytest.approx(ratio, abs=0.01)
    assert fit.p_exponential == pytest.approx(p, rel=0.05)
    # Where the power law is rejected: close to it the normaliser of their lognormal underflows.
    if fit.p_lognormal < 0.01:
        total, _ = theirs.distribution_compare("power_law", "lognormal")
        assert fit.against_lognormal == pytest.approx(-math.sqrt(-2 * total), rel=1e-3)


@pytest.mark.parametrize("ratio", [0.3, 2 / 3, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_bulk_is_no_power_law(seed, ratio):
    fit = fit_tail(bulk([30, seed], 300, ratio))
    assert fit.against_exponential < 0.0
    assert fit.p_lognormal < 0.2


def test_bulk_has_a_large_exponent():
    fit = fit_tail(bulk(31, 1000, 0.5))
    assert fit.exponent > 6.0
    assert fit.against_exponential < -2.0
    assert fit.p_exponential < 0.05
    assert fit.p_lognormal < 0.01


@pytest.mark.parametrize("spikes", [(3.0, 4.0, 5.0), tuple(np.geomspace(1.5, 20, 10))])
def test_spikes_give_a_small_exponent_and_a_misfit(spikes):
    fit = fit_tail(with_spikes(32, 300, *spikes))
    assert fit.exponent < 4.0
    assert fit.against_exponential > 0.0
    assert fit.misfit > REJECTED


@pytest.mark.parametrize("seed", range(3))
def test_one_spike_alone_turns_the_comparison(seed):
    values = with_spikes([34, seed], 600, 6.0)
    fit, without = fit_tail(values), fit_tail(np.sort(values)[:-1])
    assert 0.0 < fit.against_exponential < 1.5
    assert fit.p_exponential > 0.1
    assert without.against_exponential < -2.0
    # A power law does not hang on its largest value.
    values = pareto([35, seed], 3.0)
    assert fit_tail(np.sort(values)[:-1]).against_exponential > 1.5


@pytest.mark.parametrize("seed", range(3))
def test_heavy_bulk_passes_for_a_power_law(seed):
    fit = fit_tail(heavy_bulk([33, seed], 300, 2.5, 60))
    assert fit.exponent < 6.0
    assert fit.against_exponential > 0.0
    assert fit.misfit < REJECTED
    assert fit.p_lognormal > 0.05


@every_spectrum
@pytest.mark.parametrize("unit", [1000.0, 1e-9, 1e200])
def test_unit_does_not_matter(values, unit):
    fit, scaled = fit_tail(values), fit_tail(unit * values)
    assert scaled.tail == fit.tail
    assert scaled.xmin == pytest.approx(unit * fit.xmin)
    for name in ("exponent", "exponent_error", "distance", "against_exponential", "p_exponential"):
        assert_allclose(getattr(scaled, name), getattr(fit, name), rtol=1e-9, err_msg=name)
    for name in ("against_lognormal", "p_lognormal"):
        assert_allclose(getattr(scaled, name), getattr(fit, name), atol=1e-6, err_msg=name)


@every_spectrum
def test_same_answer_twice_and_in_any_order(values):
    given = values.copy()
    shuffled = np.random.default_rng(0).permutation(values)
    assert fit_tail(given) == fit_tail(given) == fit_tail(shuffled) == fit_tail(list(values))
    np.testing.assert_array_equal(given, values)


def test_zeros_are_left_out():
    values = pareto(40, 3.0, 200)
    fit = fit_tail(values)
    rounding = 1e-15 * np.random.default_rng(0).standard_normal(100)
    assert fit_tail(np.concatenate((values, np.zeros(100)))) == fit
    assert fit_tail(np.concatenate((rounding, values))) == fit


def test_zeros_of_single_precision_are_left_out():
    features = np.random.default_rng(41).standard_normal((60, 240)).astype(np.float32)
    gram = (features.T @ features / np.float32(60)).astype(np.float64)
    values = np.linalg.eigvalsh(gram)
    assert values.min() < 0.0
    exact = np.linalg.eigvalsh(features.astype(np.float64) @ features.T.astype(np.float64) / 60)
    fit, expected = fit_tail(values), fit_tail(exact)
    assert fit.tail == expected.tail
    assert fit.exponent == pytest.approx(expected.exponent, rel=1e-4)


def test_ties_stay_together():
    values = np.concatenate((pareto(42, 2.5, 300), np.full(30, 2.0)))
    fit = fit_tail(values)
    assert fit.tail == np.sum(values >= fit.xmin)
    rounded = np.floor(4 * pareto(43, 2.5, 1000))
    fit = fit_tail(rounded)
    assert fit.tail == np.sum(rounded >= fit.xmin)


@pytest.mark.parametrize(
    "values",
    [
        [],
        [3.0],
        np.zeros(100),
        np.full(100, 2.5),
        pareto(44, 3.0, 39),
        np.concatenate((pareto(44, 3.0, 39), np.zeros(500))),
        np.concatenate((np.ones(30), np.full(70, 2.0))),
    ],
    ids=["empty", "one", "zeros", "equal", "few", "few and zeros", "equal above the median"],
)
def test_no_tail_is_an_answer(values):
    fit = fit_tail(values)
    assert fit.tail == 0
    numbers = [getattr(fit, name) for name in TailFit.__dataclass_fields__ if name != "tail"]
    assert np.isnan([*numbers, fit.misfit]).all()


def test_as_few_as_can_be():
    values = pareto(45, 3.0, 40)
    assert fit_tail(values).tail == 20
    assert fit_tail(values, min_tail=21).tail == 0
    assert fit_tail(values, candidates=1).tail == 20
    assert fit_tail([1.0, 2.0, 3.0, 4.0], min_tail=2).tail == 2


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([1.0, math.nan, 2.0], {}, "eigenvalue 1 is not finite"),
        ([1.0, 2.0, math.inf], {}, "eigenvalue 2 is not finite"),
        (np.append(pareto(46, 3.0), -0.5), {}, r"eigenvalue 1000 is negative \(-0.5\)"),
        (np.ones((3, 3)), {}, r"one-dimensional, got shape \(3, 3\)"),
        (np.ones(3), {"min_tail": 1}, "min_tail must be at least 2"),
        (np.ones(3), {"candidates": 0}, "candidates must be at least 1"),
    ],
)
def test_what_cannot_be_fitted(values, options, message):
    with pytest.raises(ValueError, match=message):
        fit_tail(values, **options)


@pytest.mark.parametrize(
    "values",
    [
        np.arange(1, 400),
        pareto(47, 1.5, 300),
        np.append(1.0 + 1e-7 * np.random.default_rng(1).random(1000), 1e6),
        1.0 + 1e-15 * np.random.default_rng(2).random(100),
        np.append(np.ones(100), [5.0, 5.0, 5.0]),
        1e-310 * pareto(48, 3.0),
    ],
    ids=["integers", "γ = 1.5", "a spike on ones", "rounding", "ties and spikes", "subnormal"],
)
def test_silent_and_finite_on_odd_spectra(values, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = fit_tail(values)
    assert capfd.readouterr() == ("", "")
    assert fit.tail >= 20
    assert all(math.isfinite(getattr(fit, name)) for name in TailFit.__dataclass_fields__)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.floats(1e-6, 1e6) | st.sampled_from([0.0, 1.0, 2.0]), max_size=60),
    st.integers(2, 15),
    st.integers(1, 40),
)
def test_any_spectrum_has_an_answer_that_makes_sense(values, min_tail, candidates):
    fit = fit_tail(values, min_tail=min_tail, candidates=candidates)
    if fit.tail == 0:
        return
    assert min_tail <= fit.tail == sum(value >= fit.xmin for value in values)
    assert fit.exponent > 1.0
    assert 0.0 < fit.distance < 1.0
    assert fit.against_lognormal <= 0.0
    assert 0.0 <= fit.p_lognormal <= 1.0
    assert 0.0 <= fit.p_exponential <= 1.0
