"""What a spectrum is called, against planted bulks, spikes and tails; distances against scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from model_metrology.spectra.classify import (
    KINDS,
    bulk_distance,
    classify_spectrum,
    distance_to_law,
    fitted_marchenko_pastur,
)
from model_metrology.spectra.laws import (
    conjugate_kernel_law,
    marchenko_pastur,
    neural_tangent_kernel_law,
)

TANH = {"slope_mean_squared": 0.930470, "slope_second_moment": 1.177807}


def spectrum(h, d, seed, *, spikes=(), scale=1.0):
    """Eigenvalues of WᵀW/h with N(0, scale) entries, and planted W + √h θ a uᵀ, a ⟂ a', u ⟂ u'."""
    rng = np.random.default_rng(seed)
    w = math.sqrt(scale) * rng.standard_normal((h, d))
    if spikes:
        a, u = (np.linalg.qr(rng.standard_normal((size, len(spikes))))[0] for size in (h, d))
        w += math.sqrt(h) * (a * np.array(spikes)) @ u.T
    singular = np.linalg.svd(w / math.sqrt(h), compute_uv=False)
    return np.sort(np.concatenate([np.zeros(max(d - h, 0)), singular**2]))


# -- classes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("h", "d"), [(450, 300), (200, 300)])
def test_a_bulk_is_a_bulk(h, d, seed):
    values = spectrum(h, d, seed)
    found = classify_spectrum(values, marchenko_pastur(d / h), level=0.001)
    assert found.kind == "bulk" and found.outliers == 0 and not found.broadened
    assert found.tail.tail == 0 and math.isnan(found.tail.exponent)
    # Eigenvalues repel each other: they are within some 3/d of their law, not within 1/√d.
    assert found.bulk_distance < 0.02
    assert "no eigenvalue(s) beyond" in found.reason


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("h", "d"), [(450, 300), (200, 300)])
def test_a_spike_shows_from_the_threshold_on(h, d, seed):
    """Benaych-Georges & Nadakuditi 2012: outside for θ > c^¼, at (1 + θ²)(c + θ²)/θ²."""
    c = d / h
    below, above = 0.6 * c**0.25, 1.7 * c**0.25
    law = marchenko_pastur(c)
    assert classify_spectrum(spectrum(h, d, seed, spikes=[below]), law, level=1e-3).kind == "bulk"
    values = spectrum(h, d, seed, spikes=[above])
    found = classify_spectrum(values, law)
    assert (found.kind, found.outliers) == ("bulk+spikes", 1)
    expected = (1 + above**2) * (c + above**2) / above**2
    # Of 20 draws a standard deviation of 3 % (450) and 5 % (200) and no shift: three of these.
    assert values[-1] == pytest.approx(expected, rel=0.1 if h > d else 0.15)
    assert expected > 1.1 * law.upper
    # What is below the threshold is the bulk still.
    assert found.bulk_distance < 0.02


@pytest.mark.parametrize("count", [2, 5, 9])
def test_spikes_are_counted(count):
    # 5 % apart, so that their repulsion leaves them outside.
    strengths = 2.5 * 1.05 ** np.arange(count)
    found = classify_spectrum(
        spectrum(450, 300, 0, spikes=tuple(strengths)), marchenko_pastur(2 / 3), level=0.001
    )
    assert (found.kind, found.outliers) == ("bulk+spikes", count)
    assert not found.broadened and found.tail.tail == 0


@pytest.mark.parametrize("seed", range(3))
def test_a_broadened_bulk_is_no_heavy_tail(seed):
    # All of the entries half as large again: more than ten outliers, and an edge as sharp.
    found = classify_spectrum(spectrum(450, 300, seed, scale=1.5), marchenko_pastur(2 / 3))
    assert found.kind == "bulk+spikes" and found.broadened and found.outliers >= 10
    assert "eigenvalues beyond" in found.reason


@pytest.mark.parametrize("exponent", [2.0, 2.5])
@pytest.mark.parametrize("seed", range(3))
def test_a_pareto_spectrum_is_heavy_tailed(exponent, seed):
    # Density x^−γ above 1; of twenty draws all are found.
    values = 1 + np.random.default_rng(seed).pareto(exponent - 1, size=1000)
    found = classify_spectrum(values, marchenko_pastur(0.1))
    assert found.kind == "heavy-tailed" and not found.broadened
    # Of k tail values, (γ − 1)/√k; a threshold was chosen, hence five of these.
    error = 5 * (exponent - 1) / math.sqrt(found.tail.tail)
    assert found.tail.exponent == pytest.approx(exponent, abs=error)
    assert "power law of exponent" in found.reason


@pytest.mark.parametrize("seed", range(3))
def test_weights_with_heavy_entries_are_heavy_tailed(seed):
    # Student's t of 1.5 degrees of freedom: the eigenvalues' tail has exponent 1 + 1.5/2
    # (Soshnikov 2004). The scale is told from the bulk, since the variance is infinite.
    w = np.random.default_rng(seed).standard_t(1.5, size=(900, 600))
    values = np.linalg.svd(w / 30, compute_uv=False) ** 2
    found = classify_spectrum(values, fitted_marchenko_pastur(values, 2 / 3))
    assert found.kind == "heavy-tailed"
    assert 1.4 < found.tail.exponent < 2.5


@pytest.mark.parametrize("seed", range(3))
def test_an_exponential_tail_is_not_heavy(seed):
    values = np.random.default_rng(seed).exponential(2.0, size=600)
    found = classify_spectrum(values, marchenko_pastur(0.1))
    assert found.kind == "bulk+spikes" and found.broadened


def test_order_and_unit_do_not_matter():
    values = spectrum(450, 300, 3, spikes=[2.5, 3.0])
    law = marchenko_pastur(2 / 3)
    found = classify_spectrum(values, law)
    shuffled = classify_spectrum(np.random.default_rng(0).permutation(values), law)
    assert vars(shuffled) | {"tail": None} == vars(found) | {"tail": None}
    larger = classify_spectrum(7.0 * values, marchenko_pastur(2 / 3, variance=7.0))
    assert (larger.kind, larger.outliers) == (found.kind, found.outliers)
    assert larger.threshold == pytest.approx(7 * found.threshold)
    assert larger.bulk_distance == pytest.approx(found.bulk_distance, abs=1e-9)


def test_input_is_left_as_it_was():
    values = np.random.default_rng(0).permutation(spectrum(90, 60, 0))
    before = values.copy()
    classify_spectrum(values, marchenko_pastur(2 / 3))
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize("level", [0.05, 0.2])
def test_false_alarms_of_the_edge_test_are_as_rare_as_the_level(level):
    h, d, draws = 150, 100, 400
    law = marchenko_pastur(d / h)
    alarms = [
        classify_spectrum(spectrum(h, d, seed), law, level=level).kind != "bulk"
        for seed in range(draws)
    ]
    # The largest eigenvalue lies below its limit by a shift that falls slowly: conservative at
    # this size. Above the level by three standard errors is a mistake, below a third of it too.
    error = math.sqrt(level * (1 - level) / draws)
    assert level / 3 < np.mean(alarms) < level + 3 * error


def test_threshold_is_johnstones():
    # Johnstone 2001 for 100 of 150; TW₁'s 95 % quantile is .9793.
    h, d = 150, 100
    mean = (math.sqrt(h) + math.sqrt(d)) ** 2
    scale = (math.sqrt(h) + math.sqrt(d)) * (1 / math.sqrt(h) + 1 / math.sqrt(d)) ** (1 / 3)
    found = classify_spectrum(spectrum(h, d, 0), marchenko_pastur(d / h), level=0.05)
    assert found.threshold == pytest.approx((mean + 0.9793 * scale) / h, rel=1e-5)


@pytest.mark.parametrize(
    ("values", "level", "match"),
    [
        ([], 0.01, "not empty"),
        (np.ones((3, 3)), 0.01, r"must be \(N,\)"),
        ([0.1, np.nan], 0.01, "must be finite"),
        ([0.1, np.inf], 0.01, "must be finite"),
        ([-1.0, 0.5, 0.7], 0.01, "negative"),
        ([0.5, 0.7], 0.0, r"level must lie in \(0, 1\)"),
        ([0.5, 0.7], 1.0, r"level must lie in \(0, 1\)"),
    ],
)
def test_what_is_no_spectrum_is_refused(values, level, match):
    with pytest.raises(ValueError, match=match):
        classify_spectrum(values, marchenko_pastur(0.5), level=level)


def test_negative_eigenvalues_beside_outliers_are_refused():
    values = [-5.0, *np.linspace(0.5, 40, 60)]
    with pytest.raises(ValueError, match="negative"):
        classify_spectrum(values, marchenko_pastur(0.5))


@pytest.mark.parametrize("values", [[0.0], [1.0], [50.0], [0.0] * 5, [1.0] * 40, [9.0] * 40])
def test_the_smallest_and_the_dullest_spectra(values):
    found = classify_spectrum(values, marchenko_pastur(0.5))
    assert found.kind in KINDS and found.kind != "heavy-tailed"
    assert math.isnan(found.bulk_distance) == (min(values) > 5)


# -- distances ---------------------------------------------------------------------------------

LAWS = {
    "weights": marchenko_pastur(0.6),
    "weights, other variance": marchenko_pastur(0.2, variance=0.3),
    "conjugate kernel": conjugate_kernel_law(
        points_per_dimension=0.7, points_per_unit=0.8, slope_mean_squared=0.93
    ),
    "tangent kernel": neural_tangent_kernel_law(
        points_per_dimension=0.7, points_per_unit=0.8, **TANH
    ),
}


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("size", [1, 2, 37])
def test_distance_to_a_continuous_law_is_scipys(name, size):
    law = LAWS[name]
    assert law.atom == 0
    rng = np.random.default_rng(size)
    width = law.upper - law.lower
    # Beyond both edges too.
    values = np.sort(rng.uniform(law.lower - 0.2 * width, law.upper + 0.2 * width, size))
    expected = stats.kstest(values, law.cdf).statistic
    assert distance_to_law(values, law) == pytest.approx(expected, abs=1e-12)


def test_distance_with_ties_is_scipys():
    law = LAWS["weights"]
    values = np.sort(np.repeat([0.3, 0.8, 1.5], [3, 1, 4]))
    expected = stats.kstest(values, law.cdf).statistic
    assert distance_to_law(values, law) == pytest.approx(expected, abs=1e-12)


def test_distance_to_a_law_with_an_atom_by_hand():
    # d = 2h: half of the law's mass is at 0, the rest on ((1 − √2)², (1 + √2)²) = (.17, 5.83).
    law = marchenko_pastur(2.0)
    assert law.atom == 0.5
    q = [float(law.cdf(x)) for x in (1.0, 3.0)]
    # Two zeros of four: at 0 the steps agree. Then ½ before 1.0, ¾ after, ¾ before 3.0, 1 after.
    steps = [q[0] - 0.5, 0.75 - q[0], abs(q[1] - 0.75), 1 - q[1]]
    expected = max(map(abs, steps))
    assert distance_to_law(np.array([0.0, 0.0, 1.0, 3.0]), law) == pytest.approx(expected)
    # Three zeros: the atom is exceeded by a quarter.
    expected = max(0.25, abs(q[0] - 0.75), 1 - q[0])
    assert distance_to_law(np.array([0.0, 0.0, 0.0, 1.0]), law) == pytest.approx(expected)
    # None: before the first eigenvalue half of the mass is missing, and what is up to it.
    assert distance_to_law(np.array([0.1, 5.9]), law) == pytest.approx(0.5)
    assert distance_to_law(np.array([3.0]), law) == pytest.approx(max(q[1], 1 - q[1]))
    # Below the atom: all is there too early.
    assert distance_to_law(np.array([-1.0]), law) == pytest.approx(1.0)
    assert math.isnan(distance_to_law(np.array([]), law))


@pytest.mark.parametrize("c", [2.0, 1.3])
@pytest.mark.parametrize("zeros", [0, 3, 20])
def test_distance_to_a_law_with_an_atom_on_a_grid(c, zeros):
    law = marchenko_pastur(c)
    rng = np.random.default_rng(zeros)
    values = np.sort(np.concatenate([np.zeros(zeros), rng.uniform(0, 1.2 * law.upper, 15)]))
    # Right and left of every place where either function jumps; in between both are continuous
    # or constant, and 1e-9 moves them by less than 1e-7.
    at = np.unique(np.concatenate([values, [0.0]]))
    grid = np.concatenate([at, at + 1e-9, at - 1e-9])
    empirical = np.searchsorted(values, grid, side="right") / len(values)
    expected = np.abs(empirical - law.cdf(grid)).max()
    assert distance_to_law(values, law) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("outliers", [0, 1, 5, 29])
def test_bulk_distance_is_scipys(outliers):
    rng = np.random.default_rng(outliers)
    a, b = (np.sort(rng.exponential(size=30) + shift) for shift in (0.0, 0.3))
    b[:4] = a[:4]  # ties between the two
    a, b = np.sort(a), np.sort(b)
    keep = 30 - outliers
    expected = stats.ks_2samp(a[:keep], b[:keep]).statistic
    assert bulk_distance(a, b, outliers=outliers) == pytest.approx(expected, abs=1e-12)
    assert bulk_distance(b, a, outliers=outliers) == bulk_distance(a, b, outliers=outliers)


def test_bulk_distance_with_zeros_and_of_nothing():
    a = np.array([0.0, 0.0, 0.0, 1.0, 2.0])
    b = np.array([0.0, 0.5, 0.6, 1.0, 9.0])
    # After 0: 3/4 against 1/4.
    assert bulk_distance(a, b, outliers=1) == pytest.approx(0.5)
    assert bulk_distance(a, a, outliers=0) == 0.0
    assert math.isnan(bulk_distance(a, b, outliers=5))


# -- the scale of a bulk -----------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
@pytest.mark.parametrize(("h", "d"), [(600, 300), (300, 300), (200, 300), (60, 300)])
def test_scale_is_recovered(h, d, scale):
    law = fitted_marchenko_pastur(spectrum(h, d, 0, scale=scale), d / h)
    assert law.upper / (1 + math.sqrt(d / h)) ** 2 == pytest.approx(scale, rel=0.03)
    assert law.atom == pytest.approx(max(0.0, 1 - h / d))


@pytest.mark.parametrize(("h", "d"), [(450, 300), (200, 300)])
def test_spikes_move_the_scale_little(h, d):
    # Nine of them shift the median's rank by 9/2 of min(h, d), 2 % of the mass: 4 and 6 % in scale.
    clean, spiked = (
        fitted_marchenko_pastur(spectrum(h, d, 1, spikes=spikes), d / h).upper
        for spikes in ((), tuple(np.linspace(3, 6, 9)))
    )
    assert spiked == pytest.approx(clean, rel=0.07)
    found = classify_spectrum(
        spectrum(h, d, 1, spikes=tuple(np.linspace(3, 6, 9))), marchenko_pastur(d / h)
    )
    assert found.outliers == 9


@pytest.mark.parametrize(("h", "d"), [(150, 100), (80, 120)])
def test_fitted_law_keeps_bulks_bulks(h, d):
    alarms = []
    for seed in range(100):
        values = spectrum(h, d, seed, scale=0.2)
        found = classify_spectrum(values, fitted_marchenko_pastur(values, d / h), level=0.01)
        alarms.append(found.kind != "bulk")
    # The scale is known to some 1 %, less than the edge fluctuates: measured .01 and .04.
    assert np.mean(alarms) < 0.1


def test_order_does_not_matter_to_the_scale():
    values = spectrum(200, 300, 0)
    shuffled = np.random.default_rng(0).permutation(values)
    assert fitted_marchenko_pastur(shuffled, 1.5).upper == pytest.approx(
        fitted_marchenko_pastur(values, 1.5).upper
    )


@pytest.mark.parametrize(("zeros", "ratio"), [(60, 0.5), (80, 2.0), (100, 0.5)])
def test_weights_without_half_of_their_rank_are_named(zeros, ratio):
    values = np.concatenate([np.zeros(zeros), np.linspace(1, 2, 100 - zeros)])
    with pytest.raises(ValueError, match="less than half of their rank"):
        fitted_marchenko_pastur(values, ratio)


@pytest.mark.parametrize("ratio", [0.0, -1.0, math.inf, math.nan])
def test_ratio_must_be_positive(ratio):
    with pytest.raises(ValueError, match="ratio"):
        fitted_marchenko_pastur([1.0, 2.0], ratio)
