"""Centred activations: constants by other quadratures and closed forms, slopes by autograd."""

import math

import numpy as np
import pytest
import torch

from model_metrology.spectra.activations import ACTIVATIONS, activation

# As published, six decimals: mean, variance, (E φ')², E φ'².
PUBLISHED = {
    "softplus": (0.806059, 0.271514, 0.920761, 1.080528),
    "tanh": (0.0, 0.627928**2, 0.930470, 1.177807),
    # ReLU's slopes circulate as .733436 and 1.466907 too: .00005 of themselves too small, by the
    # closed forms π/(2(π − 1)) and π/(π − 1) below.
    "relu": (1 / math.sqrt(2 * math.pi), (math.pi - 1) / (2 * math.pi), 0.733471, 1.466942),
    "sigmoid": (0.5, None, 0.984167, 1.033592),
}
# By hand. erf: E erf(Z)² = 2/π · asin ⅔, E exp(−Z²) = 1/√3, E exp(−2Z²) = 1/√5.
_ERF = 2 / math.pi * math.asin(2 / 3)
CLOSED = {
    "relu": (
        1 / math.sqrt(2 * math.pi),
        (math.pi - 1) / (2 * math.pi),
        math.pi / (2 * (math.pi - 1)),
        math.pi / (math.pi - 1),
    ),
    "erf": (0.0, _ERF, 4 / (3 * math.pi) / _ERF, 4 / (math.pi * math.sqrt(5)) / _ERF),
    "linear": (0.0, 1.0, 1.0, 1.0),
    "quadratic": (1.0, 2.0, 0.0, 2.0),
}
PLAIN = {
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0),
    "softplus": lambda z: np.logaddexp(0, z),
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "erf": lambda z: torch.erf(torch.from_numpy(z)).numpy(),
    "linear": lambda z: z,
    "quadratic": np.square,
}


def constants(phi):
    return phi.mean, phi.deviation**2, phi.slope_mean_squared, phi.slope_second_moment


def halves():
    """Nodes and weights of N(0, 1) by Gauss–Legendre on both sides of 0: no kink is inside."""
    x, w = np.polynomial.legendre.leggauss(300)
    z, w = 6 * (x + 1), 6 * w
    z, w = np.concatenate([-z, z]), np.concatenate([w, w])
    return z, w * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


def hermite():
    z, w = np.polynomial.hermite_e.hermegauss(200)
    return z, w / math.sqrt(2 * math.pi)


@pytest.mark.parametrize("name", PUBLISHED)
def test_constants_are_the_published_ones(name):
    for found, expected in zip(constants(activation(name)), PUBLISHED[name], strict=True):
        # Six decimals were given; of a square, twice the last one's half.
        assert expected is None or found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", CLOSED)
def test_constants_are_those_in_closed_form(name):
    # Adaptive quadrature is asked for 1e-13, and a few numbers are multiplied.
    assert constants(activation(name)) == pytest.approx(CLOSED[name], abs=1e-11)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_constants_by_gauss_hermite_and_gauss_legendre(name):
    rules = [halves()]
    if name != "relu":  # its kink costs Gauss–Hermite all accuracy
        rules.append(hermite())
    phi = activation(name)
    for z, weights in rules:
        value = PLAIN[name](z)
        mean = weights @ value
        variance = weights @ (value - mean) ** 2
        # Stein: E φ'(Z) = E Z φ(Z), so that no derivative enters.
        slope = weights @ (z * value)
        # 200 nodes: tanh's poles at ±iπ/2 leave some exp(−π/2 √400) = 2e-14.
        assert phi.mean == pytest.approx(mean, abs=1e-11)
        assert phi.deviation == pytest.approx(math.sqrt(variance), abs=1e-11)
        assert phi.slope_mean_squared == pytest.approx(slope**2 / variance, abs=1e-10)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slopes_second_moment_by_differences(name):
    z, weights = halves()
    step = 1e-5
    difference = (PLAIN[name](z + step) - PLAIN[name](z - step)) / (2 * step)
    phi = activation(name)
    expected = weights @ difference**2 / phi.deviation**2
    # Central differences: rounding 1e-16/1e-5, truncation 1e-10, both times a few.
    assert phi.slope_second_moment == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_mean_zero_and_variance_one(name):
    z, weights = halves()
    value = activation(name)(torch.from_numpy(z)).numpy()
    # torch's softplus is z beyond 20: off by 2e-9 where the density is 1e-88.
    assert weights @ value == pytest.approx(0.0, abs=1e-11)
    assert weights @ value**2 == pytest.approx(1.0, abs=1e-11)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_mean_and_variance_of_drawn_variables(name):
    phi = activation(name)
    drawn = torch.from_numpy(np.random.default_rng(0).standard_normal(200_000))
    value, slope = (part.numpy() for part in phi.with_slope(drawn))
    for sample, expected in (
        (value, 0.0),
        (value**2, 1.0),
        (slope, math.sqrt(phi.slope_mean_squared)),
        (slope**2, phi.slope_second_moment),
    ):
        # Five standard errors: of 28 checks one in 60,000 would fail by chance. Linear has none.
        error = 5 * sample.std() / math.sqrt(len(sample)) + 1e-12
        assert sample.mean() == pytest.approx(expected, abs=error)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_moments_obey_the_hermite_bounds(name):
    phi = activation(name)
    b, a = phi.slope_mean_squared, phi.slope_second_moment
    # Σ cₖ² = 1 with a = Σ k cₖ² and b = c₁²: a ≥ b + 2(1 − b).
    assert -1e-12 <= b <= 1 + 1e-12 and a >= 2 - b - 1e-12
    assert (b > 1 - 1e-12) == (name == "linear")


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slope_is_autograds(name):
    phi = activation(name)
    z = torch.linspace(-41.0, 41.0, 400, dtype=torch.float64, requires_grad=True)  # not at 0
    expected = torch.autograd.grad(phi(z).sum(), z)[0]
    # torch's own derivative of softplus is 1 beyond 20, where the sigmoid lacks 2e-9.
    torch.testing.assert_close(phi.slope(z.detach()), expected, rtol=1e-12, atol=1e-8)
    value, slope = phi.with_slope(z.detach())
    assert torch.equal(value, phi(z.detach())) and torch.equal(slope, phi.slope(z.detach()))


def test_slope_of_relu_at_the_kink_is_torchs():
    z = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    expected = torch.autograd.grad(activation("relu")(z).sum(), z)[0]
    assert torch.equal(activation("relu").slope(z.detach()), expected)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_input_is_left_as_it_was_and_outputs_are_their_own(name, dtype):
    phi = activation(name)
    z = torch.linspace(-3, 3, 24, dtype=dtype).reshape(2, 3, 4)
    before = z.clone()
    value, slope = phi.with_slope(z)
    assert value.shape == slope.shape == z.shape and value.dtype == slope.dtype == dtype
    kept = value.clone()
    # Training multiplies the slope in place: neither the input nor the value may share its memory.
    slope.fill_(7.0)
    assert torch.equal(z, before) and torch.equal(value, kept)
    value.fill_(7.0)
    assert torch.equal(z, before) and torch.equal(phi(z), kept)


def test_unknown_name_is_named_with_the_choice():
    with pytest.raises(ValueError, match=r"activation: unknown 'gelu'; choose from tanh, relu"):
        activation("gelu")
