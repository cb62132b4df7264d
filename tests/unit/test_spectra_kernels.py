"""Closed-form kernels against Jacobians by torch.func, their operators against the matrices."""

import numpy as np
import pytest
import torch
from torch.func import jacrev

from model_metrology.spectra.activations import ACTIVATIONS, activation
from model_metrology.spectra.kernels import (
    ck_operator,
    conjugate_kernel_matrix,
    ntk_matrix,
    ntk_operator,
)


def draw(n=23, d=7, h=11, seed=0):
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal((h, d)),
        rng.choice([-1.0, 1.0], h) * rng.random(h),
        rng.standard_normal((n, d)),
    )


def by_jacobian(w, v, x, name, trained=("w", "v")):
    phi = activation(name)
    h, d = w.shape
    x = torch.from_numpy(x)

    def f(w, v):
        return phi(x @ w.T / d**0.5) @ v / h**0.5

    jacobians = jacrev(f, argnums=(0, 1))(torch.from_numpy(w), torch.from_numpy(v))
    chosen = [j.flatten(1) for j, name in zip(jacobians, "wv", strict=True) if name in trained]
    return sum(j @ j.T for j in chosen).numpy()


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("sizes", [(23, 7, 11), (1, 7, 11), (23, 1, 11), (23, 7, 1), (5, 40, 3)])
def test_kernels_are_those_of_the_jacobian(name, sizes):
    w, v, x = draw(*sizes)
    both = ntk_matrix(w, v, x, name)
    # Both are float64 sums of a few hundred terms.
    tolerance = {"rtol": 1e-10, "atol": 1e-12}
    np.testing.assert_allclose(both, by_jacobian(w, v, x, name), **tolerance)
    first = ntk_matrix(w, v, x, name, trained="first")
    np.testing.assert_allclose(first, by_jacobian(w, v, x, name, "w"), **tolerance)
    conjugate = conjugate_kernel_matrix(w, x, name)
    np.testing.assert_allclose(conjugate, by_jacobian(w, v, x, name, "v"), **tolerance)
    np.testing.assert_allclose(conjugate + first, both, **tolerance)


@pytest.mark.parametrize("tile", [1, 5, 22, 23, 1000])
def test_tiles_change_nothing_beyond_rounding(tile):
    w, v, x = draw()
    for whole, tiled in (
        (ntk_matrix(w, v, x, "tanh"), ntk_matrix(w, v, x, "tanh", tile=tile)),
        (conjugate_kernel_matrix(w, x, "relu"), conjugate_kernel_matrix(w, x, "relu", tile=tile)),
    ):
        np.testing.assert_allclose(tiled, whole, rtol=1e-13, atol=1e-14)
        assert (tiled == tiled.T).all()


def test_more_rows_than_a_block_of_features():
    w, v, x = draw(n=300)
    np.testing.assert_allclose(
        ntk_matrix(w, v, x, "softplus"), by_jacobian(w, v, x, "softplus"), rtol=1e-10, atol=1e-12
    )


def test_operators_are_the_matrices():
    w, v, x = draw()
    q = np.random.default_rng(1).standard_normal((len(x), 3))
    for operator, matrix in (
        (ck_operator(w, x, "tanh"), conjugate_kernel_matrix(w, x, "tanh")),
        (ntk_operator(w, v, x, "tanh"), ntk_matrix(w, v, x, "tanh")),
    ):
        np.testing.assert_allclose(operator @ q, matrix @ q, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(operator @ q[:, 0], matrix @ q[:, 0], rtol=1e-11, atol=1e-12)
        # What torch cannot take as it is: reversed, strided, read-only, integers.
        sealed = q[:, 0].copy()
        sealed.flags.writeable = False
        for vector in (q[::-1, 1], q[:, ::2], sealed, np.arange(len(x))):
            np.testing.assert_allclose(operator @ vector, matrix @ vector, rtol=1e-11, atol=1e-11)


@pytest.mark.filterwarnings("error")
def test_single_precision_and_read_only_arrays_are_taken():
    w, v, x = (part.astype(np.float32) for part in draw())
    expected = ntk_matrix(*(part.astype(np.float64) for part in (w, v, x)), "tanh")
    for part in (w, v, x):
        part.flags.writeable = False
    np.testing.assert_array_equal(ntk_matrix(w, v, x, activation("tanh")), expected)
    doubles = [part.astype(np.float64) for part in (w, v, x)]
    for part in doubles:
        part.flags.writeable = False
    np.testing.assert_array_equal(ntk_matrix(*doubles, "tanh"), expected)


def test_inputs_are_left_as_they_were():
    w, v, x = draw()
    before = [part.copy() for part in (w, v, x)]
    ntk_matrix(w, v, x, "tanh")
    for part, copy in zip((w, v, x), before, strict=True):
        np.testing.assert_array_equal(part, copy)


def test_constant_points_have_a_kernel_of_rank_one():
    w, v, x = draw()
    kernel = ntk_matrix(w, v, np.ones_like(x), "tanh")
    assert np.ptp(kernel) < 1e-12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w": np.ones((3, 2))}, "their last axes must agree"),
        ({"w": np.ones(3)}, "weights must be a matrix"),
        ({"x": np.full((2, 7), np.nan)}, "inputs must be finite"),
        ({"v": np.ones(4)}, r"readout must be \(h,\) with h = 11"),
        ({"v": np.full(11, np.inf)}, "readout must be finite"),
        ({"name": "tan"}, "activation: unknown 'tan'"),
        ({"trained": "second"}, "trained must be 'both' or 'first'"),
        ({"tile": 0}, "tile must be at least 1"),
        ({"tile": -1}, "tile must be at least 1"),
    ],
)
def test_what_cannot_work_is_named(change, message):
    w, v, x = draw()
    arguments = {"w": w, "v": v, "x": x, "name": "tanh", "trained": "both", "tile": 8}
    arguments |= change
    with pytest.raises(ValueError, match=message):
        ntk_matrix(
            arguments["w"], arguments["v"], arguments["x"], arguments["name"],
            trained=arguments["trained"], tile=arguments["tile"],
        )  # fmt: skip
