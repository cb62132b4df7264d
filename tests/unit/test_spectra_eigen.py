"""Eigenvalues against numpy, Lanczos against the dense answer, and memory as promised."""

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from model_metrology.spectra.eigen import (
    ck_spectrum,
    kernel_spectrum,
    lanczos_density,
    leading_eigenpairs,
    ntk_spectrum,
    weight_spectrum,
)
from model_metrology.spectra.kernels import (
    ck_operator,
    conjugate_kernel_matrix,
    ntk_matrix,
    ntk_operator,
)


def gram(n=60, rank=90, seed=0):
    factor = np.random.default_rng(seed).standard_normal((n, rank))
    return factor @ factor.T / rank


@pytest.mark.parametrize("overwrite", [False, True])
def test_eigenvalues_are_those_of_numpy(overwrite):
    kernel = gram()
    spectrum = kernel_spectrum(kernel.copy(), vectors=4, overwrite=overwrite)
    expected = np.linalg.eigvalsh(kernel)
    np.testing.assert_allclose(spectrum.eigenvalues, expected, rtol=0, atol=1e-13 * expected[-1])
    assert spectrum.rank == 60
    np.testing.assert_allclose(
        kernel @ spectrum.vectors, spectrum.vectors * expected[:-5:-1], atol=1e-12
    )


def test_the_kernel_is_left_alone_unless_it_may_be_overwritten():
    kernel = gram()
    before = kernel.copy()
    kernel_spectrum(kernel, vectors=2)
    np.testing.assert_array_equal(kernel, before)


@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (20, 20), (1, 5), (5, 1), (1, 1)])
def test_weights_have_the_squares_of_their_singular_values(shape):
    w = np.random.default_rng(1).standard_normal(shape)
    spectrum = weight_spectrum(w, vectors=2)
    h, d = shape
    squares = np.zeros(d)
    squares[d - min(shape) :] = np.linalg.svd(w, compute_uv=False)[::-1] ** 2 / h
    np.testing.assert_allclose(spectrum.eigenvalues, squares, atol=1e-13)
    assert spectrum.rank == min(shape)
    np.testing.assert_allclose(np.linalg.norm(spectrum.vectors, axis=0), 1.0)
    top = spectrum.vectors[:, 0]
    np.testing.assert_allclose(w.T @ (w @ top) / h, squares[-1] * top, atol=1e-12)


def test_what_is_zero_to_rounding_is_zero():
    spectrum = kernel_spectrum(gram(60, rank=10))
    assert spectrum.rank == 10 and (spectrum.eigenvalues[:50] == 0.0).all()
    # Rounding in single precision is larger, of either sign; a rank is not lost for it.
    single = kernel_spectrum(gram(60, rank=10).astype(np.float32))
    assert (single.eigenvalues >= 0.0).all() and single.rank >= 10
    assert kernel_spectrum(np.zeros((3, 3))).rank == 0
    assert kernel_spectrum(np.eye(1), vectors=1).vectors.shape == (1, 1)
    np.testing.assert_allclose(kernel_spectrum(np.ones((5, 5))).eigenvalues, [0, 0, 0, 0, 5])


def test_two_layer_spectra_are_those_of_the_matrices():
    rng = np.random.default_rng(2)
    w, v, x = rng.standard_normal((20, 10)), rng.standard_normal(20), rng.standard_normal((30, 10))
    for spectrum, matrix in (
        (ck_spectrum(w, x, "tanh", vectors=1), conjugate_kernel_matrix(w, x, "tanh")),
        (ntk_spectrum(w, v, x, "tanh", vectors=1), ntk_matrix(w, v, x, "tanh")),
    ):
        np.testing.assert_allclose(spectrum.eigenvalues, np.linalg.eigvalsh(matrix), atol=1e-12)
        top = spectrum.vectors[:, 0]
        np.testing.assert_allclose(matrix @ top, spectrum.eigenvalues[-1] * top, atol=1e-11)
    # 30 points of 20 units: a third of the conjugate kernel is null.
    assert ck_spectrum(w, x, "tanh").rank == 20


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (np.diag([1.0, -0.5]), "must be positive semidefinite, its smallest eigenvalue is -0.5"),
        (np.array([[1.0, np.nan], [np.nan, 1.0]]), "must be finite"),
        (np.ones((2, 3)), r"must be \(n, n\)"),
        (np.empty((0, 0)), "not empty"),
        (np.array([[1.0, 0.5], [0.0, 1.0]]), "must be symmetric"),
    ],
)
def test_what_is_no_kernel_is_refused(kernel, message):
    with pytest.raises(ValueError, match=message):
        kernel_spectrum(kernel)


def test_other_bad_input():
    with pytest.raises(ValueError, match="vectors must be at least 0"):
        kernel_spectrum(np.eye(3), vectors=-1)
    with pytest.raises(ValueError, match="weights must be"):
        weight_spectrum(np.ones(3))
    with pytest.raises(ValueError, match=r"k must be in 1 … 2"):
        leading_eigenpairs(np.eye(3), 3)
    with pytest.raises(ValueError, match="probes and steps"):
        lanczos_density(np.eye(3), probes=0)


@pytest.fixture(scope="module")
def network():
    rng = np.random.default_rng(3)
    n, d, h = 400, 200, 300
    return rng.standard_normal((h, d)), rng.choice([-1.0, 1.0], h), rng.standard_normal((n, d))


def test_leading_pairs_without_a_matrix_are_those_of_the_matrix(network):
    w, v, x = network
    values, vectors = leading_eigenpairs(ntk_operator(w, v, x, "tanh"), 6)
    matrix = ntk_matrix(w, v, x, "tanh")
    # ARPACK iterates to machine precision.
    np.testing.assert_allclose(values, np.linalg.eigvalsh(matrix)[:-7:-1], rtol=1e-10)
    np.testing.assert_allclose(matrix @ vectors, vectors * values, atol=1e-8)
    again, _ = leading_eigenpairs(ntk_operator(w, v, x, "tanh"), 6)
    np.testing.assert_array_equal(values, again)


@pytest.mark.parametrize("kernel", ["conjugate", "tangent"])
def test_lanczos_density_agrees_with_the_dense_spectrum(network, kernel):
    w, v, x = network
    operator = ck_operator(w, x, "tanh") if kernel == "conjugate" else ntk_operator(w, v, x, "tanh")
    exact = (
        ck_spectrum(w, x, "tanh") if kernel == "conjugate" else ntk_spectrum(w, v, x, "tanh")
    ).eigenvalues
    density = lanczos_density(operator, probes=20, steps=80)
    n = len(exact)
    assert density.weights.sum() == pytest.approx(1.0)
    for order in (1, 2, 3):
        # A probe's standard deviation is √(2(m_2k − m_k²)/n) for the k-th moment; four of them.
        spread = np.sqrt(2 * np.var(exact**order) / (n * 20))
        assert density.moment(order) == pytest.approx(np.mean(exact**order), abs=4 * spread)
    # Right of the part that is narrow: there the CDF is off by the probes' scatter, which is
    # about √(2 · ¼/(20 n)) = .008 at most, and by the steps' resolution of 1/80.
    between = ((exact[1:] + exact[:-1]) / 2)[exact[1:] > np.quantile(exact, 0.4)]
    ranks = np.searchsorted(exact, between) / n
    assert np.abs(density.cdf(between) - ranks).max() < 0.04
    grid = np.linspace(-1, exact[-1] + 1, 4000)
    mass = density.density(grid, 0.05).sum() * (grid[1] - grid[0])
    assert mass == pytest.approx(1.0, abs=1e-6)


def test_lanczos_ends_where_the_space_does():
    identity = lanczos_density(np.eye(50), probes=3, steps=20)
    np.testing.assert_allclose(identity.nodes, 1.0)
    low_rank = lanczos_density(gram(50, rank=3), probes=5, steps=30)
    assert len(low_rank.nodes) <= 5 * 4
    # 47 of 50 eigenvalues are 0; a probe's share of them is Beta(47/2, 3/2), of deviation .033.
    assert low_rank.weights[np.abs(low_rank.nodes) < 1e-8].sum() == pytest.approx(0.94, abs=0.06)


def test_false_alarms_of_a_bulk_by_its_top_eigenvalue_are_as_the_law_says():
    """The spectrum and the law meet: a level of 5 % is 5 % on weights at initialisation."""
    from model_metrology.spectra.laws import marchenko_pastur

    rng = np.random.default_rng(5)
    threshold = marchenko_pastur(100 / 150).edge_quantile(100, 0.05)
    alarms = sum(
        weight_spectrum(rng.standard_normal((150, 100))).eigenvalues[-1] > threshold
        for _ in range(300)
    )
    # Tracy–Widom is approached from below at this size; the upper bar is the binomial 99.9 %.
    assert 1 <= alarms <= stats.binom.ppf(0.999, 300, 0.05)


MEMORY = """
from pathlib import Path
import numpy as np
from model_metrology.spectra.eigen import ntk_spectrum

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))

n, d, h = 3000, 600, 1200
rng = np.random.default_rng(0)
w, v, x = rng.standard_normal((h, d)), rng.standard_normal(h), rng.standard_normal((n, d))
ntk_spectrum(w[:50], v[:50], x[:100], "tanh")
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
ntk_spectrum(w, v, x, "tanh")
print(1024 * (status("VmHWM") - before) / (8 * n**2))
"""


def test_a_spectrum_takes_less_than_three_kernels():
    code = [sys.executable, "-c", MEMORY]
    result = subprocess.run(code, capture_output=True, text=True)
    if "clear_refs" in result.stderr:
        pytest.skip("this system has no resettable high-water mark of memory")
    assert not result.returncode, result.stderr
    assert 1.0 < float(result.stdout) < 3.0
