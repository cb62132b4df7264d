"""Limiting laws against closed forms, an independent solver and matrices; Tracy–Widom's edge."""

from __future__ import annotations

import math
import pickle
import time

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy import integrate, linalg, stats

from model_metrology.spectra.activations import activation
from model_metrology.spectra.laws import (
    SpectralLaw,
    conjugate_kernel_law,
    marchenko_pastur,
    neural_tangent_kernel_law,
    tracy_widom_cdf,
    tracy_widom_quantile,
)

TANH = activation("tanh")
RATIOS = [
    (0.5, 2 / 3),
    (2.0, 4 / 3),
    (2.0, 0.3),
    (0.4, 3.0),
    (5.0, 4.0),  # n > d + h: an atom in the tangent kernel
    (1.0, 1.0),
    (2.0, 2.0),  # n = 2d = 2h: the tangent kernel's atom is about to appear
    (1.6, 0.43),  # two bulks of the tangent kernel that have just merged
    (0.02, 50.0),
    (50.0, 0.02),
]
SLOPES = [0.0, 1e-4, 0.3, TANH.slope_mean_squared, 0.999, 1.0]


def ck(c, r, b) -> SpectralLaw:
    return conjugate_kernel_law(points_per_dimension=c, points_per_unit=r, slope_mean_squared=b)


def ntk(c, r, b, a) -> SpectralLaw:
    return neural_tangent_kernel_law(
        points_per_dimension=c,
        points_per_unit=r,
        slope_mean_squared=b,
        slope_second_moment=a,
    )


def integral(law, f):
    """∫ f over the continuous part, by a quadrature that knows nothing of ours."""
    total = 0.0
    for left, right in law.support:
        half = (right - left) / 2

        def integrand(angle, left=left, half=half):
            x = left + half * (1 - math.cos(angle))
            return float(law.density(x)) * f(x) * half * math.sin(angle)

        total += integrate.quad(integrand, 0, math.pi, limit=400, epsabs=1e-10)[0]
    return total


def draw(n, d, h, seed, name="tanh"):
    """Weights' covariance, conjugate kernel and tangent kernel of a random network, v = ±1."""
    rng = np.random.default_rng(seed)
    w, x = rng.standard_normal((h, d)), rng.standard_normal((d, n))
    u = torch.from_numpy(w @ x / math.sqrt(d))
    value, slope = (part.numpy() for part in activation(name).with_slope(u))
    conjugate = value.T @ value / h
    return w.T @ w / h, conjugate, (x.T @ x / d) * (slope.T @ slope / h) + conjugate


def largest(matrix):
    last = len(matrix) - 1
    return linalg.eigh(matrix, eigvals_only=True, subset_by_index=[last, last])[0]


def ks_distance(eigenvalues, law, *, above=-math.inf):
    """Distance of CDFs at and right of `above`; zeros but for rounding count as the atom."""
    values = np.sort(np.where(np.abs(eigenvalues) < 1e-9, 0.0, eigenvalues))
    expected = law.cdf(values)
    at = np.searchsorted(values, values, side="right") / len(values)
    before = np.searchsorted(values, values, side="left") / len(values)
    left = np.where(values == law.atom_at, expected - law.atom, expected)
    kept = values > above
    return max(np.abs(at - expected)[kept].max(), np.abs(before - left)[kept].max())


# Marchenko–Pastur


@pytest.mark.parametrize("c", [0.01, 0.3, 1.0, 2.5, 40.0])
@pytest.mark.parametrize("variance", [1.0, 0.3])
def test_marchenko_pastur_moments(c, variance):
    law = marchenko_pastur(c, variance)
    # Narayana polynomials. At c = 1 the density is x^{−1/2} at 0, the rest converges further.
    moments = [1.0, 1.0, 1 + c, 1 + 3 * c + c**2]
    for order, moment in enumerate(moments):
        assert law.moment(order) == pytest.approx(moment * variance**order, rel=1e-9)
    assert integral(law, lambda x: x) == pytest.approx(variance, rel=1e-7)
    assert law.atom == max(0.0, 1 - 1 / c)
    assert (law.lower, law.upper) == pytest.approx(
        [variance * (1 - math.sqrt(c)) ** 2, variance * (1 + math.sqrt(c)) ** 2]
    )


@pytest.mark.parametrize("c", [0.3, 1.0, 2.5])
def test_marchenko_pastur_cdf(c):
    law = marchenko_pastur(c)
    for share in (0.001, 0.2, 0.5, 0.9):
        x = law.lower + share * (law.upper - law.lower)
        # Twice the square root: a density x^{−1/2} is smooth in it.
        below = integrate.quad(
            lambda s: 2 * s * float(law.density(s * s)),
            math.sqrt(law.lower),
            math.sqrt(x),
            epsabs=1e-12,
        )[0]
        assert float(law.cdf(x)) == pytest.approx(law.atom + below, abs=1e-9)
    assert law.cdf([-1.0, 0.0, law.upper, 99.0]).tolist() == [0.0, law.atom, 1.0, 1.0]
    assert np.isnan(law.cdf(math.nan))


def test_marchenko_pastur_edge_scale_is_johnstones():
    """μ and σ of Johnstone (2001), n − 1 → n, for the largest eigenvalue of WᵀW."""
    d, h = 300, 470
    sigma = (math.sqrt(h) + math.sqrt(d)) * (1 / math.sqrt(h) + 1 / math.sqrt(d)) ** (1 / 3)
    law = marchenko_pastur(d / h)
    assert law.edge_scale * d ** (-2 / 3) == pytest.approx(sigma / h, rel=1e-12)
    threshold = law.edge_quantile(d, 0.05)
    assert threshold == pytest.approx(law.upper + sigma / h * tracy_widom_quantile(0.95), rel=1e-12)


# Kernels, by themselves


@pytest.mark.parametrize(("c", "r"), RATIOS)
@pytest.mark.parametrize("b", SLOPES)
def test_moments(c, r, b):
    """Free products: m₁ and m₂ of ν ⊠ MP(r) and of ν ⊠ (1 + MP(r)), m₁(ν) = 1, m₂(ν) = 1 + b²c.

    m₂(A ⊠ B) = m₂(A) m₁(B)² + m₁(A)² m₂(B) − m₁(A)² m₁(B)² (Nica & Speicher 2006), by hand. That
    ours come out, and that the mass is 1, says that no part of the support is missed.
    """
    a = 2 - b + 0.3 * (1 - b)
    conjugate, tangent = ck(c, r, b), ntk(c, r, b, a)
    # The worst are the narrow bulks beside a wide one, of 1e-4 its width.
    assert conjugate.moment(1) == pytest.approx(1, rel=1e-7)
    assert conjugate.moment(2) == pytest.approx(1 + b**2 * c + r, rel=1e-7)
    assert tangent.moment(1) == pytest.approx(1 + a, rel=1e-7)
    assert tangent.moment(2) == pytest.approx((1 + a) ** 2 + 4 * b**2 * c + r, rel=1e-7)
    for law in (conjugate, tangent):
        mass = sum(float(bulk.mass.sum()) for bulk in law._bulks)
        assert mass + law.atom == pytest.approx(1.0, abs=1e-6)
        grid = np.linspace(0, 1.1 * law.upper, 1001)
        rise = np.diff(law.cdf(grid))
        assert rise.min() >= 0
        assert (law.density(grid) >= 0).all()
        assert law.cdf(law.upper) == 1.0


@pytest.mark.parametrize(("c", "r"), RATIOS)
def test_third_moment_of_a_product_of_wisharts(c, r):
    # From moments ↔ free cumulants; at c = r = 1 it is the Fuss–Catalan number 12.
    third = 1 + 3 * c + 3 * r + c**2 + r**2 + 3 * c * r
    assert ck(c, r, 1.0).moment(3) == pytest.approx(third, rel=1e-7)
    assert ck(1.0, 1.0, 1.0).moment(3) == pytest.approx(12.0, rel=1e-7)


@pytest.mark.parametrize("r", [0.2, 1.0, 3.0])
def test_kernels_without_slope_are_marchenko_pastur(r):
    plain = marchenko_pastur(r)
    conjugate, tangent = ck(0.7, r, 0.0), ntk(0.7, r, 0.0, 2.5)
    x = np.linspace(1e-3, 1.1 * plain.upper, 500)
    assert conjugate.atom == tangent.atom == plain.atom
    for law, moved in ((conjugate, x), (tangent, x + 2.5)):
        assert_allclose(law.density(moved), plain.density(x), rtol=1e-7, atol=1e-9)
        assert_allclose(law.cdf(moved), plain.cdf(x), atol=1e-8)
        assert law.edge_scale == pytest.approx(plain.edge_scale, rel=1e-9)


@pytest.mark.parametrize(("c", "r"), [(0.5, 2 / 3), (2.0, 4 / 3), (5.0, 4.0), (0.4, 3.0)])
@pytest.mark.parametrize("tangent", [False, True])
def test_stieltjes_transform_solves_the_fixed_point(c, r, tangent):
    """e and m off the real axis, by plain iteration with Gauss quadrature over μ₀.

    Neither the closed form, nor the polynomial, nor the uniformisation enters.
    """
    b, a = TANH.slope_mean_squared, TANH.slope_second_moment
    law = ntk(c, r, b, a) if tangent else ck(c, r, b)
    # Chebyshev's second kind: √((u − x)(x − l)) dx is the weight of μ₀, 1/x is smooth.
    angle = np.arange(1, 400) * math.pi / 400
    middle, half = 1 + c, 2 * math.sqrt(c)
    x = middle + half * np.cos(angle)
    weight = half**2 * np.sin(angle) ** 2 / x / (2 * math.pi * c) * (math.pi / 400)
    x, weight = np.append(x, 0.0), np.append(weight, max(0.0, 1 - 1 / c))
    assert weight.sum() == pytest.approx(1.0, abs=1e-12)
    alpha = b * x + 1 - b
    delta = alpha + a - 1 if tangent else np.zeros_like(x)
    for z in (law.lower + 0.4j, (law.lower + law.upper) / 2 + 0.2j, law.upper + 0.3j):
        e = 1j
        for _ in range(2000):
            e = 0.5 * e + 0.5 * r * np.sum(weight * alpha / (delta + alpha / (1 + e) - z))
        expected = np.sum(weight / (delta + alpha / (1 + e) - z))
        real = integral(law, lambda s, z=z: (1 / (s - z)).real)
        imaginary = integral(law, lambda s, z=z: (1 / (s - z)).imag)
        found = real + 1j * imaginary + law.atom / (law.atom_at - z)
        assert abs(found - expected) < 1e-7 * abs(expected)


@pytest.mark.parametrize(
    ("c", "r", "b", "conjugate", "tangent"),
    [
        (0.5, 0.5, 0.9, 0.0, 0.0),
        (0.5, 4.0, 0.9, 0.75, 0.0),
        (4.0, 0.5, 0.9, 0.0, 0.0),
        (4.0, 2.0, 0.9, 0.5, 0.25),  # n = 4d = 2h: rank of XᵀX and Y together is 3n/4
        (4.0, 2.0, 1.0, 0.75, 0.75),  # linear: both kernels have the rank of X
        (2.0, 4.0, 0.0, 0.75, 0.75),  # no slope: Y + a, Y of rank h
    ],
)
def test_atoms(c, r, b, conjugate, tangent):
    a = 2.0 - b
    assert ck(c, r, b).atom == conjugate
    law = ntk(c, r, b, a)
    assert (law.atom, law.atom_at) == (tangent, pytest.approx(a - b))
    below, at = law.cdf([a - b - 1e-9, a - b + 1e-9])
    assert at - below == pytest.approx(tangent, abs=1e-4)


def test_gap_holds_no_mass_and_parts_it_by_rank():
    """n > d: what XᵀX does not reach is a bulk of its own, with n − d of the n eigenvalues."""
    law = ntk(2.0, 4 / 3, TANH.slope_mean_squared, TANH.slope_second_moment)
    (_, left), (right, _) = law.support
    inside = np.linspace(left, right, 50)
    assert not law.density(inside).any()
    assert_allclose(law.cdf(inside), 0.5, atol=1e-9)
    # The conjugate kernel with many units: nearly α(S), whose null space is at 1 − b.
    law = ck(2.0, 0.02, TANH.slope_mean_squared)
    assert len(law.support) == 2
    assert float(law.cdf(law.support[0][1])) == pytest.approx(0.5, abs=1e-9)
    assert law.support[0][0] < 1 - TANH.slope_mean_squared < law.support[0][1]


@pytest.mark.parametrize(("c", "r"), RATIOS)
@pytest.mark.parametrize("tangent", [False, True])
def test_density_near_the_right_edge(c, r, tangent):
    """(s^{3/2}/π) √(upper − x): the scale comes from derivatives, the density from roots."""
    b = TANH.slope_mean_squared
    law = ntk(c, r, b, TANH.slope_second_moment) if tangent else ck(c, r, b)
    step = np.array([1.0, 4.0]) * 1e-6 * law.edge_scale
    ratio = law.density(law.upper - step) * math.pi * law.edge_scale**1.5 / np.sqrt(step)
    # The next term is of order `step`: extrapolate it away. Roots near double are right to 1e-8,
    # over √step = 1e-3.
    assert (4 * ratio[0] - ratio[1]) / 3 == pytest.approx(1.0, abs=1e-4)
    assert not law.density([law.upper, law.upper + 1e-6, 2 * law.upper]).any()


def test_laws_are_cheap_and_can_be_sent_to_a_process():
    start = time.perf_counter()
    laws = [ck(2.0, 1.3, 0.9), ntk(2.0, 1.3, 0.9, 1.2), marchenko_pastur(0.7)]
    for law in laws:
        law.cdf(1.0)
    # 0.03 s each on one core; the bar is for a machine in use.
    assert time.perf_counter() - start < 3 * 0.2
    for law in laws:
        copy = pickle.loads(pickle.dumps(law))
        assert copy == law
        assert_allclose(copy.cdf([1.0, 2.0]), law.cdf([1.0, 2.0]))


# Kernels, against matrices


@pytest.mark.parametrize("name", ["tanh", "softplus"])
@pytest.mark.parametrize(("n", "d", "h"), [(1000, 500, 750), (1000, 2000, 1500)])
def test_spectra_follow_the_laws(name, n, d, h):
    """Over seeds 0–2: W .002–.007, CK .003–.006, NTK .003 (n < d) and .076–.097 (n > d)."""
    phi = activation(name)
    weights, conjugate, tangent = draw(n, d, h, 0, name)
    assert ks_distance(linalg.eigvalsh(weights), marchenko_pastur(d / h)) < 0.012
    law = ck(n / d, n / h, phi.slope_mean_squared)
    assert ks_distance(linalg.eigvalsh(conjugate), law) < 0.01
    law = ntk(n / d, n / h, phi.slope_mean_squared, phi.slope_second_moment)
    values = linalg.eigvalsh(tangent)
    # For n > d the narrow bulk at a − b converges as n^−0.4; right of the gap all is well.
    assert ks_distance(values, law) < (0.12 if n > d else 0.01)
    assert ks_distance(values, law, above=law.support[-1][0]) < 0.02


# Tracy–Widom


def test_tracy_widom_is_as_tabulated():
    assert_allclose(
        [tracy_widom_quantile(p) for p in (0.90, 0.95, 0.99)], [0.4501, 0.9793, 2.0234], atol=5e-5
    )
    for p in (1e-6, 0.01, 0.5, 0.999999):
        assert tracy_widom_cdf(tracy_widom_quantile(p)) == pytest.approx(p, rel=1e-6, abs=1e-12)
    assert [tracy_widom_cdf(s) for s in (-math.inf, -60.0, 60.0, math.inf)] == [0, 0, 1, 1]
    assert math.isnan(tracy_widom_cdf(math.nan))


def test_tracy_widom_moments():
    """Mean −1.2065335745820 and variance 1.6077810345810 (Bornemann 2010, table 5)."""
    s = np.linspace(-11, 15, 521)
    cdf = np.array([tracy_widom_cdf(float(x)) for x in s])
    # Rounding of the determinant.
    assert np.diff(cdf).min() > -1e-13
    # By parts; Simpson's rule on functions that are flat or straight at both ends.
    mean = 15 - integrate.simpson(cdf, x=s)
    square = 15**2 - 2 * integrate.simpson(s * cdf, x=s)
    assert mean == pytest.approx(-1.2065335745820, abs=1e-9)
    assert square - mean**2 == pytest.approx(1.6077810345810, abs=1e-8)


# What counts as a spike


def test_false_alarms_of_the_weights():
    """600 draws of W at d = 100, h = 150."""
    d, h, draws = 100, 150, 600
    law = marchenko_pastur(d / h)
    rng = np.random.default_rng(0)
    top = []
    for _ in range(draws):
        w = rng.standard_normal((h, d))
        top.append(largest(w.T @ w / h))
    top = np.array(top)
    for level in (0.05, 0.01):
        alarms = int(np.sum(top > law.edge_quantile(d, level)))
        # Conservative at this size (mean −1.3 in place of −1.21): only the upper bar is at the
        # level, and it is passed once in 1,000 by chance.
        assert alarms <= stats.binom.isf(1e-3, draws, level)
        assert alarms >= stats.binom.ppf(1e-3, draws, level / 2.5)
    scaled = (top - law.upper) * d ** (2 / 3) / law.edge_scale
    # Standard errors .05 and .04; the rest is finite size.
    assert scaled.mean() == pytest.approx(-1.2065, abs=0.3)
    assert scaled.std() == pytest.approx(math.sqrt(1.6078), abs=0.2)


@pytest.mark.parametrize(("n", "d", "h"), [(160, 80, 120), (160, 320, 240)])
def test_false_alarms_of_the_kernels_stay_below_the_level(n, d, h):
    """200 draws, tanh: the 5 % level has .01–.02 at n = 250–500 and .03 at n = 1000."""
    draws = 200
    laws = (
        ck(n / d, n / h, TANH.slope_mean_squared),
        ntk(n / d, n / h, TANH.slope_mean_squared, TANH.slope_second_moment),
    )
    top = np.array([[largest(k) for k in draw(n, d, h, seed)[1:]] for seed in range(draws)])
    for law, values in zip(laws, top.T, strict=True):
        alarms = int(np.sum(values > law.edge_quantile(n, 0.05)))
        assert alarms <= 0.05 * draws
        # And the edge is where it should be: within two scales, not two edges.
        scaled = (values - law.upper) * n ** (2 / 3) / law.edge_scale
        assert -2.6 < scaled.mean() < -1.2


def test_even_activation_has_outliers():
    """φ(z) = (z² − 1)/√2: b = 0, and E φ'' ≠ 0 leaves terms of finite rank that the law lacks."""
    phi = activation("quadratic")
    n, d, h = 200, 100, 150
    _, conjugate, tangent = draw(n, d, h, 0, "quadratic")
    assert largest(conjugate) > 1.2 * ck(n / d, n / h, phi.slope_mean_squared).upper
    law = ntk(n / d, n / h, phi.slope_mean_squared, phi.slope_second_moment)
    assert largest(tangent) > 1.2 * law.upper


@pytest.mark.parametrize("strength", [0.6, 1.5, 2.5])
@pytest.mark.parametrize("c", [0.4, 1.5])
def test_planted_spike_is_found_where_theory_says(strength, c):
    """W + θ√h uvᵀ: an outlier at (1 + θ²)(c + θ²)/θ² if and only if θ > c^¼.

    Benaych-Georges & Nadakuditi 2012. `strength` is θ/c^¼.
    """
    h = 900
    d = round(c * h)
    theta = strength * c**0.25
    rng = np.random.default_rng(1)
    u, v = rng.standard_normal(h), rng.standard_normal(d)
    spike = theta * math.sqrt(h) * np.outer(u / linalg.norm(u), v / linalg.norm(v))
    w = rng.standard_normal((h, d)) + spike
    top = largest(w.T @ w / h)
    law = marchenko_pastur(c)
    assert (top > law.edge_quantile(d, 0.01)) == (strength > 1)
    if strength > 1:
        # Fluctuations are of order h^{−1/2} = .03 of the outlier.
        location = (1 + theta**2) * (c + theta**2) / theta**2
        assert top == pytest.approx(location, rel=0.08)
    assert (1 + c**0.5) ** 2 == pytest.approx(law.upper)


# Bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: marchenko_pastur(0.0), "ratio must be positive and finite, got 0.0; pass d/h"),
        (lambda: marchenko_pastur(math.inf), "ratio"),
        (lambda: marchenko_pastur(1.0, -2.0), "variance must be positive and finite, got -2.0"),
        (lambda: ck(-1.0, 1.0, 0.5), "points_per_dimension .* got -1.0; pass n/d"),
        (lambda: ck(1.0, math.nan, 0.5), "points_per_unit .* got nan; pass n/h"),
        (lambda: ck(1.0, 1.0, 1.5), r"slope_mean_squared must lie in \[0, 1\], got 1.5; centre"),
        (lambda: ck(1.0, 1.0, -0.1), "slope_mean_squared"),
        (lambda: ck(1.0, 1.0, math.nan), "slope_mean_squared"),
        (
            lambda: ntk(1.0, 1.0, 0.5, 0.4),
            "slope_second_moment must be at least .* got 0.4; centre",
        ),
        (lambda: ntk(1.0, 1.0, 0.5, 1.4), "at least 2 - slope_mean_squared = 1.500000"),
        (lambda: ntk(1.0, 1.0, 0.5, math.inf), "slope_second_moment"),
        (lambda: marchenko_pastur(1.0).edge_quantile(0, 0.05), "size must be at least 1, got 0"),
        (lambda: marchenko_pastur(1.0).edge_quantile(9, 1.0), r"level must lie in \(0, 1\)"),
        (lambda: marchenko_pastur(1.0).moment(-1), "order"),
        (lambda: tracy_widom_quantile(1.0), r"p must lie in \(0, 1\), got 1.0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("name", ["tanh", "relu", "softplus", "sigmoid", "erf", "linear"])
def test_every_activation_is_taken(name):
    phi = activation(name)
    law = ntk(2.0, 1.5, phi.slope_mean_squared, phi.slope_second_moment)
    assert law.moment(1) == pytest.approx(1 + phi.slope_second_moment, rel=1e-6)
    assert ck(2.0, 1.5, phi.slope_mean_squared).moment(1) == pytest.approx(1.0, rel=1e-6)
