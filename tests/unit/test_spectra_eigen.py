"""Eigenvalues against numpy, Lanczos against the dense answer, and memory as promised."""

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from model_metrology.spectra.eigen import (
    _lanczos,
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


# One vector, several, more than a panel of reflectors, most and all; below and at what is large.
@pytest.mark.parametrize(
    ("n", "k"),
    [(2, 1), (3, 3), (60, 1), (60, 15), (60, 16), (60, 60), (700, 150), (2500, 0), (2500, 2)],
)
def test_every_way_to_the_eigenvalues_agrees(n, k):
    kernel = gram(n, rank=n + 7, seed=n)
    # Fortran's order and a window of a larger array are other ways through memory.
    window = np.pad(kernel, ((0, 2), (0, 3)))[:n, :n]
    variants = [kernel] if n > 100 else [kernel, np.asfortranarray(kernel), window]
    expected = np.linalg.eigvalsh(kernel)
    for variant in variants:
        spectrum = kernel_spectrum(variant, vectors=k)
        # LAPACK's bound is a small multiple of n·ε·λ_max; one tenth of n·ε is already ample.
        tolerance = max(n, 40) / 10 * np.finfo(float).eps * expected[-1]
        np.testing.assert_allclose(spectrum.eigenvalues, expected, rtol=0, atol=tolerance)
        u = spectrum.vectors
        assert u.shape == (n, k)
        np.testing.assert_allclose(u.T @ u, np.eye(k), atol=1e-12)
        np.testing.assert_allclose(kernel @ u, u * expected[::-1][:k], atol=10 * tolerance)


def test_eigenvectors_of_repeated_eigenvalues_are_orthonormal():
    for values in ([1.0] * 30, [0.0] * 30, [1.0] * 10 + [2.0] * 20):
        kernel = np.diag(values)
        u = kernel_spectrum(kernel, vectors=5).vectors
        np.testing.assert_allclose(u.T @ u, np.eye(5), atol=1e-14)
        np.testing.assert_allclose(kernel @ u, values[-1] * u, atol=1e-14)


def test_vectors_of_weights_are_orthonormal_where_the_rank_ends():
    rng = np.random.default_rng(4)
    w = rng.standard_normal((6, 2)) @ rng.standard_normal((2, 9))
    for weights, rank in ((w, 2), (np.zeros((2, 4)), 0)):
        spectrum = weight_spectrum(weights, vectors=4)
        assert spectrum.rank == rank and spectrum.vectors.shape == (weights.shape[1], 4)
        np.testing.assert_allclose(spectrum.vectors.T @ spectrum.vectors, np.eye(4), atol=1e-13)
        images = np.linalg.norm(weights @ spectrum.vectors, axis=0) ** 2 / len(weights)
        np.testing.assert_allclose(images, spectrum.eigenvalues[:-5:-1], atol=1e-13)


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
        # No rounding in float64, though it may be in float32.
        (np.diag([1.0, 0.5, -5e-5]), "its smallest eigenvalue is -5e-05"),
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
    with pytest.raises(ValueError, match="weights must be finite"):
        weight_spectrum(np.array([[1.0, np.nan]]))
    with pytest.raises(ValueError, match=r"k must be in 1 … 3"):
        leading_eigenpairs(np.eye(3), 4)
    with pytest.raises(ValueError, match=r"operator must be \(n, n\)"):
        leading_eigenpairs(aslinearoperator(np.ones((3, 2))), 1)
    for n in (5, 50):
        bad = LinearOperator((n, n), matvec=lambda q: np.nan * q, dtype=np.float64)
        with pytest.raises(ValueError, match="values that are not finite"):
            leading_eigenpairs(bad, 2)
        with pytest.raises(ValueError, match="values that are not finite"):
            lanczos_density(bad)
    with pytest.raises(ValueError, match="width must be positive"):
        lanczos_density(np.eye(3)).density(0.0, 0.0)
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


@pytest.mark.parametrize(
    ("kernel", "k"),
    [
        (np.eye(1), 1), ([[2, 0], [0, 3]], 2), (gram(), 59), (gram(), 60), (np.zeros((40, 40)), 3),
        # One start sees one vector of many: the others come from restarts, by the seed.
        (np.eye(40), 3), (gram(60, rank=2), 5),
    ],
)  # fmt: skip
def test_leading_pairs_have_an_answer_at_every_size_and_rank(kernel, k):
    values, vectors = leading_eigenpairs(kernel, k)
    expected = np.linalg.eigvalsh(kernel)[::-1][:k]
    np.testing.assert_allclose(values, expected, atol=1e-12 * max(1.0, expected[0]))
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(k), atol=1e-10)
    np.testing.assert_allclose(kernel @ vectors, vectors * values, atol=1e-10)
    for once, again in zip((values, vectors), leading_eigenpairs(kernel, k), strict=True):
        np.testing.assert_array_equal(once, again)


@pytest.mark.parametrize("kernel", ["conjugate", "tangent"])
def test_lanczos_density_agrees_with_the_dense_spectrum(network, kernel):
    w, v, x = network
    operator = ck_operator(w, x, "tanh") if kernel == "conjugate" else ntk_operator(w, v, x, "tanh")
    exact = (
        ck_spectrum(w, x, "tanh") if kernel == "conjugate" else ntk_spectrum(w, v, x, "tanh")
    ).eigenvalues
    # A product with the tangent kernel costs h·n·d operations: fewer of them.
    probes, steps = (20, 80) if kernel == "conjugate" else (5, 60)
    density = lanczos_density(operator, probes=probes, steps=steps)
    n = len(exact)
    assert density.weights.sum() == pytest.approx(1.0)
    for order in (1, 2, 3):
        # A probe's standard deviation is √(2(m_2k − m_k²)/n) for the k-th moment; four of them.
        spread = np.sqrt(2 * np.var(exact**order) / (n * probes))
        assert density.moment(order) == pytest.approx(np.mean(exact**order), abs=4 * spread)
    # At the eigenvalues, the zeros (a quarter of the conjugate kernel's) included, and between. The
    # probes' scatter is that of the KS statistic of a sample of probes · n/2: z is Gaussian, so
    # its shares of the eigenvectors are as spread as χ²₁. 1 % of draws exceed the quantile below;
    # one step's share of the mass comes on top.
    places = np.concatenate([exact, (exact[1:] + exact[:-1]) / 2])
    error = np.abs(density.cdf(places) - np.searchsorted(exact, places, side="right") / n).max()
    assert error < stats.kstwobign.isf(0.01) / np.sqrt(probes * n / 2) + 1 / steps
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
    assert low_rank.cdf(0.0) == pytest.approx(0.94, abs=0.06)
    np.testing.assert_allclose(identity.cdf([0.999, 1.0, 1.001]), [0, 1, 1], atol=1e-12)
    for kernel, value in ((np.zeros((4, 4)), 0.0), (np.array([[2.0]]), 2.0)):
        density = lanczos_density(kernel, probes=2, steps=3)
        np.testing.assert_allclose(density.nodes, value)
        np.testing.assert_allclose(density.cdf([value - 1, value]), [0, 1])


def test_lanczos_probes_may_end_at_different_steps():
    """One probe in an invariant subspace, one outside: neither disturbs the other."""
    kernel = np.diag(np.arange(1.0, 11.0))
    start = np.zeros((2, 10))
    start[0, [2, 5]] = 1.0
    start[1] = 1.0
    (nodes, weights, errors), (others, shares, _) = _lanczos(aslinearoperator(kernel), start, 10)
    np.testing.assert_allclose(nodes, [3, 6])
    np.testing.assert_allclose(weights, [0.5, 0.5])
    assert (errors < 1e-8).all()
    np.testing.assert_allclose(others, np.arange(1, 11), atol=1e-12)
    np.testing.assert_allclose(shares, 0.1, atol=1e-12)


def test_moments_of_lanczos_are_unbiased():
    """The mean over many densities of few steps: the quadrature is exact up to 2 · steps − 1."""
    exact = np.linspace(0.0, 2.0, 12)
    kernel = np.diag(exact)
    found = [lanczos_density(kernel, probes=10, steps=2, seed=seed) for seed in range(300)]
    for order in (0, 1, 2, 3):
        moments = np.array([density.moment(order) for density in found])
        error = moments.std(ddof=1) / np.sqrt(len(moments))
        assert moments.mean() == pytest.approx(np.mean(exact**order), abs=4 * error + 1e-12)


def test_a_spike_is_a_jump_of_the_cdf():
    values = np.append(np.linspace(0.0, 1.0, 199), 20.0)
    density = lanczos_density(np.diag(values), probes=10, steps=30)
    top = density.nodes > 10
    np.testing.assert_allclose(density.nodes[top], 20.0)
    assert np.isfinite(density.errors[top]).all()
    below, at = density.cdf([19.9, 20.0])
    assert at == pytest.approx(1.0)
    assert at - below == pytest.approx(density.weights[top].sum())


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
