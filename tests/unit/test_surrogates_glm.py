"""Kernel generalised linear models, against scikit-learn's solvers, autograd and by hand."""

from __future__ import annotations

import dataclasses
import logging
import tracemalloc

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.metrics import log_loss
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import SVC

from model_metrology.surrogates import glm
from model_metrology.surrogates.glm import L2_GRID, _split, fit_surrogate


def problem(classes, n=240, seed=0, noise=1.0, dtype=np.float64):
    """A Gaussian kernel, its diagonal 1, of points with noisy labels; and one to 50 new points."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n + 50, 5))
    scores = x @ rng.normal(size=(5, classes)) + noise * rng.normal(size=(n + 50, classes))
    squares = ((x[:, None] - x[None]) ** 2).sum(axis=-1)
    full = np.exp(-squares / 10).astype(dtype)
    return full[:n, :n].copy(), scores[:n].argmax(axis=1), full[n:, :n].copy()


def converged_sklearn(kernel, labels, l2):
    solver = LogisticRegression(
        C=1 / (len(labels) * l2), solver="newton-cg", tol=1e-10, max_iter=10_000
    )
    return solver.fit(kernel, labels)


def objective(kernel, labels, l2, coefficients, intercept):
    """The objective written down anew, with torch; and its gradient by autograd."""
    weights = torch.tensor(coefficients, requires_grad=True)
    bias = torch.tensor(intercept, requires_grad=True)
    logits = torch.tensor(np.asarray(kernel, dtype=np.float64)) @ weights.T + bias
    if logits.shape[1] == 1:
        logits = torch.cat((torch.zeros_like(logits), logits), dim=1)
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(labels))
    loss = loss + l2 / 2 * (weights**2).sum()
    loss.backward()
    return loss.item(), torch.cat((weights.grad.ravel(), bias.grad)).numpy()


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("l2", [1e-1, 1e-3, 1e-5])
def test_the_minimum_is_that_of_logistic_regression(classes, l2):
    kernel, labels, cross = problem(classes)
    expected = converged_sklearn(kernel, labels, l2)
    result = fit_surrogate(kernel, labels, l2=l2, tolerance=1e-9)
    assert result.converged
    # Both stop at a gradient g that leaves V off by up to g/λ, here 1e-4 at λ = 1e-5 if g = 1e-9;
    # mostly it is far less.
    assert_allclose(result.coefficients, expected.coef_, atol=1e-5)
    intercept = expected.intercept_ - (expected.intercept_.mean() if classes > 2 else 0)
    assert_allclose(result.intercept, intercept, atol=1e-5)
    assert_allclose(result.probabilities(cross), expected.predict_proba(cross), atol=1e-5)
    assert_array_equal(result.predict(cross), expected.predict(cross))


@pytest.mark.parametrize("classes", [2, 3])
def test_the_gradient_is_automatic_differentiation_s_and_vanishes(classes):
    kernel, labels, _ = problem(classes)
    loose = fit_surrogate(kernel, labels, l2=1e-4, max_iterations=2)
    loss, gradient = objective(kernel, labels, 1e-4, loose.coefficients, loose.intercept)
    assert not loose.converged
    assert loose.iterations == 2
    # Not converged, so the norm is that of numbers far from rounding.
    assert loose.gradient_norm > 1e-5
    assert loose.gradient_norm == pytest.approx(np.linalg.norm(gradient), rel=1e-9)
    tight = fit_surrogate(kernel, labels, l2=1e-4)
    least, gradient = objective(kernel, labels, 1e-4, tight.coefficients, tight.intercept)
    assert tight.converged
    assert np.linalg.norm(gradient) <= 1e-6
    assert least < loss
    # No step of V leads lower; of two classes nor does one of the intercept.
    rng = np.random.default_rng(1)
    for _ in range(5):
        moved = tight.coefficients + 1e-3 * rng.normal(size=tight.coefficients.shape)
        assert objective(kernel, labels, 1e-4, moved, tight.intercept)[0] > least


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_v_is_within_the_promised_share_of_the_minimum_s_at_a_small_penalty(dtype):
    kernel, labels, _ = problem(3, dtype=dtype)
    result = fit_surrogate(kernel, labels, l2=1e-8)
    reference = fit_surrogate(kernel, labels, l2=1e-8, tolerance=1e-10)
    assert result.converged
    error = np.linalg.norm(result.coefficients - reference.coefficients)
    # 0.1 %, by the strong convexity of the objective.
    assert error <= 1e-3 * np.linalg.norm(reference.coefficients)


def test_where_quick_products_get_no_further_exact_ones_do(monkeypatch):
    # As of a large kernel at a small penalty: errors of quick products, of .1 here, hide how
    # little flat directions bend. The basis is small, so that iteration is left something.
    kernel, labels, _ = problem(2, dtype=np.float32)
    monkeypatch.setattr(glm, "_BASIS", 5)
    expected = fit_surrogate(kernel, labels, l2=1e-7)
    sandwich = glm._Design.sandwich
    quick = []

    def rough(self, right, between, *, exact):
        result = sandwich(self, right, between, exact=exact)
        quick.append(not exact)
        noise = np.random.default_rng(len(quick)).normal(size=result.shape)
        return result if exact else result + 0.1 * np.abs(result).max() * noise

    monkeypatch.setattr(glm._Design, "sandwich", rough)
    result = fit_surrogate(kernel, labels, l2=1e-7)
    assert any(quick)
    assert result.converged
    error = np.linalg.norm(result.coefficients - expected.coefficients)
    # Both are within 0.1 % of the minimum.
    assert error <= 2e-3 * np.linalg.norm(expected.coefficients)


def test_a_kernel_larger_than_the_basis_that_is_solved_exactly():
    # 700 points and 3 logits: the basis has 200 directions, the rest is left to iteration; a
    # diagonal of 0.3 keeps the kernel from having few directions only.
    kernel, labels, cross = problem(3, n=700, dtype=np.float32)
    kernel = 0.7 * kernel
    kernel[np.diag_indices(700)] += np.float32(0.3)
    result = fit_surrogate(kernel, labels, l2=1e-5)
    assert result.converged
    _, gradient = objective(kernel, labels, 1e-5, result.coefficients, result.intercept)
    assert np.linalg.norm(gradient) <= 1e-6
    expected = converged_sklearn(kernel.astype(np.float64), labels, 1e-5)
    # V is promised to 1e-3 of its norm, which is 40 here; the logits sum 700 entries of it.
    assert_allclose(
        result.logits(cross)[:, 0] - result.logits(cross)[:, 1],
        np.subtract(*expected.decision_function(cross).T[:2]),
        atol=1e-2,
    )


def test_separable_classes_and_a_start_far_from_the_minimum():
    # Without noise the data are separable, and V is kept by the penalty alone.
    kernel, labels, cross = problem(2, noise=0.0)
    result = fit_surrogate(kernel, labels, l2=1e-7)
    assert result.converged
    assert_array_equal(result.predict(kernel), labels)
    expected = converged_sklearn(kernel, labels, 1e-7)
    logits = expected.decision_function(cross)
    # Logits are up to 100; V is exact to 0.1 %.
    assert_allclose(result.logits(cross)[:, 0], logits, atol=1e-3 * np.abs(logits).max())


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("method", ["newton", "sgd", "svm"])
def test_attributions_sum_to_the_logits(classes, method):
    kernel, labels, cross = problem(classes)
    result = fit_surrogate(kernel, labels, l2=1e-3, method=method)
    logits = result.logits(cross)
    attributions = result.attributions(cross)
    assert logits.shape == (50, 1 if classes == 2 else 3)
    assert attributions.shape == (50, 240, logits.shape[1])
    assert_allclose(attributions.sum(axis=1), logits, atol=1e-10)
    i, j, c = 7, 11, logits.shape[1] - 1
    assert attributions[i, j, c] == pytest.approx(
        result.coefficients[c, j] * cross[i, j] + result.intercept[c] / 240, rel=1e-12
    )


def test_probabilities_and_predictions_are_those_of_the_logits():
    kernel, labels, cross = problem(2)
    two = fit_surrogate(kernel, labels, l2=1e-3)
    assert two.classes == 2
    p = two.probabilities(cross)
    assert_allclose(p[:, 1], 1 / (1 + np.exp(-two.logits(cross)[:, 0])), rtol=1e-12)
    assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
    assert_array_equal(two.predict(cross), p.argmax(axis=1))
    kernel, labels, cross = problem(4)
    four = fit_surrogate(kernel, labels, l2=1e-3)
    exponentials = np.exp(four.logits(cross))
    assert_allclose(
        four.probabilities(cross), exponentials / exponentials.sum(axis=1, keepdims=True)
    )
    assert_array_equal(four.predict(cross), exponentials.argmax(axis=1))


def test_gauge():
    kernel, labels, _ = problem(4)
    result = fit_surrogate(kernel, labels, l2=1e-4)
    assert_allclose(result.coefficients.sum(axis=0), 0, atol=1e-12)
    assert result.intercept.sum() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("method", ["newton", "sgd", "svm"])
def test_the_same_bits_twice(method):
    kernel, labels, _ = problem(3, dtype=np.float32)
    before = kernel.copy()
    first = fit_surrogate(kernel, labels, method=method, seed=3)
    second = fit_surrogate(kernel, labels, method=method, seed=3)
    assert_array_equal(first.coefficients, second.coefficients)
    assert_array_equal(first.intercept, second.intercept)
    assert first.iterations == second.iterations
    assert_array_equal(kernel, before)


def test_order_and_unit_do_not_matter():
    kernel, labels, _ = problem(3)
    result = fit_surrogate(kernel, labels, l2=1e-3, tolerance=1e-9)
    order = np.random.default_rng(0).permutation(len(labels))
    moved = fit_surrogate(kernel[np.ix_(order, order)], labels[order], l2=1e-3, tolerance=1e-9)
    # To what the tolerance leaves, 1e-9/λ.
    assert_allclose(moved.coefficients, result.coefficients[:, order], atol=1e-6)
    # k → s k, λ → s² λ leaves the model as it is, V → V/s.
    scaled = fit_surrogate(1000 * kernel, labels, l2=1e3, tolerance=1e-9)
    assert_allclose(1000 * scaled.coefficients, result.coefficients, atol=1e-6)
    _, gradient = objective(1000 * kernel, labels, 1e3, scaled.coefficients, scaled.intercept)
    # In the kernel's own units a gradient is 1000 times as large, and so is what rounding leaves.
    assert scaled.gradient_norm == pytest.approx(np.linalg.norm(gradient), abs=1e-9)


def test_an_asymmetric_kernel_is_features_like_any_other():
    kernel, labels, _ = problem(2)
    kernel = kernel + 0.1 * np.random.default_rng(0).normal(size=kernel.shape)
    result = fit_surrogate(kernel, labels, l2=1e-2, tolerance=1e-9)
    expected = converged_sklearn(kernel, labels, 1e-2)
    assert_allclose(result.coefficients, expected.coef_, atol=1e-5)


def test_precision_and_layout_of_the_kernel_do_not_matter():
    kernel, labels, cross = problem(3)
    single = kernel.astype(np.float32)
    result = fit_surrogate(single, labels, l2=1e-3, tolerance=1e-9)
    # The float32 kernel, converted beforehand: the same problem to the last digit.
    double = fit_surrogate(single.astype(np.float64), labels, l2=1e-3, tolerance=1e-9)
    assert_allclose(result.coefficients, double.coefficients, atol=1e-6)
    columns = fit_surrogate(np.asfortranarray(single), labels, l2=1e-3, tolerance=1e-9)
    assert_allclose(columns.coefficients, double.coefficients, atol=1e-6)
    assert_allclose(result.logits(cross.astype(np.float32)), result.logits(cross), atol=1e-5)
    whole = np.round(10 * kernel).astype(np.int64)
    integers = fit_surrogate(whole, labels, l2=1e-1)
    same = fit_surrogate(whole.astype(np.float64), labels, l2=1e-1)
    assert_allclose(integers.coefficients, same.coefficients, atol=1e-9)


def test_the_penalty_chosen_is_that_of_brute_force():
    for classes, noise in ((2, 1.0), (3, 0.5)):
        kernel, labels, _ = problem(classes, noise=noise)
        result = fit_surrogate(kernel, labels, seed=5)
        kept, held = _split(labels, classes, 5)
        losses = []
        for l2 in L2_GRID:
            solver = converged_sklearn(kernel[np.ix_(kept, kept)], labels[kept], l2)
            p = solver.predict_proba(kernel[np.ix_(held, kept)])
            losses.append(log_loss(labels[held], p, labels=np.arange(classes)))
        best = int(np.argmin(losses))
        # An inner value, so that the end of the search is put to the test as well.
        assert 0 < best < len(L2_GRID) - 2
        assert result.l2 == L2_GRID[best]
        tried = list(result.selection)
        assert tried == list(L2_GRID[: len(tried)])
        assert len(tried) == best + 3
        # V's promised 0.1 % times logits of up to 10.
        assert_allclose(list(result.selection.values()), losses[: len(tried)], rtol=1e-2)
        expected = fit_surrogate(kernel, labels, l2=result.l2)
        assert expected.selection == {}
        assert_allclose(
            result.coefficients,
            expected.coefficients,
            atol=2e-3 * np.linalg.norm(expected.coefficients),
        )


def test_a_penalty_at_the_end_of_the_grid_is_said(caplog):
    # Two clusters far apart: the smaller the penalty, the surer and the better.
    labels = np.arange(40) % 2
    kernel = np.where(labels[:, None] == labels, 1.0, -1.0)
    result = fit_surrogate(kernel, labels)
    assert result.l2 == L2_GRID[-1] and result.l2_at_end
    assert "l2 = 1e-08 is an end of the grid" in caplog.text
    caplog.clear()
    kernel, labels, _ = problem(2, noise=1.0)
    assert not fit_surrogate(kernel, labels, seed=5).l2_at_end
    assert not fit_surrogate(kernel, labels, l2=L2_GRID[-1]).l2_at_end
    assert "end of the grid" not in caplog.text


def test_held_out_points_are_a_share_of_each_class_and_leave_no_trace_in_the_fit():
    labels = np.repeat([0, 1, 2], [100, 50, 3])
    kept, held = _split(labels, 3, 0)
    assert_array_equal(np.bincount(labels[held]), [20, 10, 1])
    assert_array_equal(np.sort(np.concatenate((kept, held))), np.arange(153))
    assert not np.array_equal(held, _split(labels, 3, 1)[1])
    # The losses tried stay the same if the held-out points' own columns are anything else.
    kernel, labels, _ = problem(2)
    kept, held = _split(labels, 2, 0)
    other = kernel.copy()
    other[:, held] = np.random.default_rng(0).uniform(-1, 1, size=(len(labels), len(held)))
    first, second = (fit_surrogate(k, labels, seed=0).selection for k in (kernel, other))
    assert first == second


def test_a_grid_in_the_kernel_s_unit():
    kernel, labels, _ = problem(2)
    plain, large = fit_surrogate(kernel, labels), fit_surrogate(1000 * kernel, labels)
    assert large.l2 == pytest.approx(1e6 * plain.l2, rel=1e-12)
    assert_allclose(
        1000 * large.coefficients,
        plain.coefficients,
        atol=2e-3 * np.linalg.norm(plain.coefficients),
    )


@pytest.mark.parametrize("classes", [2, 3])
def test_the_authors_solver_is_scikit_learn_s(classes):
    kernel, labels, cross = problem(classes, dtype=np.float32)
    result = fit_surrogate(kernel, labels, method="sgd", seed=4)
    solver = SGDClassifier(
        loss="log_loss", penalty="l2", alpha=1e-4, class_weight="balanced", random_state=4
    ).fit(kernel, labels)
    assert_array_equal(result.coefficients, solver.coef_)
    assert_array_equal(result.intercept, solver.intercept_)
    assert (result.l2, result.iterations, result.converged) == (1e-4, solver.n_iter_, True)
    assert_array_equal(result.predict(cross), solver.predict(cross))
    other = fit_surrogate(kernel, labels, l2=1e-2, method="sgd", seed=5)
    assert other.l2 == 1e-2
    # The gradient of its own objective: class c against the rest, its points weighed N/(C N_c);
    # of two classes the other's likewise.
    k, total = torch.tensor(kernel, dtype=torch.float64), 0.0
    balance = len(labels) / (classes * np.bincount(labels))
    for c, (row, bias) in enumerate(zip(result.coefficients, result.intercept, strict=True)):
        target = labels == (1 if classes == 2 else c)
        negative = balance[0] if classes == 2 else 1.0
        positive = balance[1] if classes == 2 else balance[c]
        v = torch.tensor(row, requires_grad=True)
        b = torch.tensor(bias, requires_grad=True)
        signed = torch.tensor(np.where(target, 1.0, -1.0)) * (k @ v + b)
        weight = torch.tensor(np.where(target, positive, negative))
        loss = (weight * torch.nn.functional.softplus(-signed)).mean() + 1e-4 / 2 * (v**2).sum()
        loss.backward()
        total += (v.grad**2).sum().item() + b.grad.item() ** 2
    assert result.gradient_norm == pytest.approx(np.sqrt(total), rel=1e-9)
    # It is far from the minimum, which is the reason for the other solver.
    assert result.gradient_norm > 1e-3


def test_support_vector_machines_are_scikit_learn_s():
    kernel, labels, cross = problem(2)
    result = fit_surrogate(kernel, labels, method="svm")
    solver = SVC(kernel="precomputed").fit(kernel, labels)
    # The same sum in another order.
    assert_allclose(result.logits(cross)[:, 0], solver.decision_function(cross), atol=1e-12)
    assert_array_equal(result.predict(cross), solver.predict(cross))
    assert result.l2 == pytest.approx(1 / 240)
    assert np.isnan(result.gradient_norm)
    assert result.converged
    harder = fit_surrogate(kernel, labels, method="svm", l2=1 / (240 * 7))
    solver = SVC(kernel="precomputed", C=7).fit(kernel, labels)
    # The solver stops at 1e-3; C differs in the last digit.
    assert_allclose(harder.logits(cross)[:, 0], solver.decision_function(cross), atol=1e-2)
    kernel, labels, cross = problem(3)
    result = fit_surrogate(kernel, labels, method="svm")
    solver = OneVsRestClassifier(SVC(kernel="precomputed")).fit(kernel, labels)
    assert_allclose(result.logits(cross), solver.decision_function(cross), atol=1e-12)


def test_what_has_not_converged_says_so(caplog):
    kernel, labels, _ = problem(2)
    for method in ("newton", "sgd", "svm"):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            result = fit_surrogate(kernel, labels, l2=1e-4, method=method, max_iterations=1)
        assert not result.converged
        assert f"surrogate ({method}" in caplog.text
        assert "has not converged" in caplog.text
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        assert fit_surrogate(kernel, labels, l2=1e-4).converged
        assert caplog.text == ""
    with pytest.warns(ConvergenceWarning):  # what is turned into the message above
        SGDClassifier(loss="log_loss", max_iter=1).fit(kernel, labels)


def test_constant_kernels():
    # No feature tells points apart: the prediction is the classes' shares.
    labels = np.repeat([0, 1, 2], [10, 20, 30])
    for value in (0.0, 1.0):
        kernel = np.full((60, 60), value)
        for l2 in (1e-2, "auto"):
            result = fit_surrogate(kernel, labels, l2=l2)
            assert result.converged
            # A gradient of 1e-6 is a probability's error of that order.
            assert_allclose(result.probabilities(kernel[:1])[0], [1 / 6, 1 / 3, 1 / 2], atol=1e-5)


def test_memory_is_far_less_than_a_second_kernel():
    # NumPy reports its arrays to tracemalloc. A basis of 200 of 3,000 numbers and a tile are
    # about all; a copy in float64 would be twice the kernel.
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(3000, 20)).astype(np.float32)
    factors /= np.linalg.norm(factors, axis=1, keepdims=True)
    kernel, labels = factors @ factors.T, (factors[:, 0] > 0).astype(int)
    tracemalloc.start()
    fit_surrogate(kernel, labels, l2=1e-3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # 32 MiB of tile here, whatever the kernel's size, and up to 8 arrays of (3000, 200).
    assert peak < 2**25 + 8 * 3000 * 200 * 8
    assert kernel.dtype == np.float32


def test_read_only_and_mapped_kernels(tmp_path):
    kernel, labels, _ = problem(2, dtype=np.float32)
    np.save(tmp_path / "kernel.npy", kernel)
    mapped = np.load(tmp_path / "kernel.npy", mmap_mode="r")
    result = fit_surrogate(mapped, labels, l2=1e-3)
    assert_array_equal(result.coefficients, fit_surrogate(kernel, labels, l2=1e-3).coefficients)
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.l2 = 1.0


KERNEL, LABELS, CROSS = problem(3, n=30)


def spoiled(value, where=(4, 7)):
    kernel = KERNEL.copy()
    kernel[where] = value
    return kernel


@pytest.mark.parametrize(
    ("kernel", "labels", "options", "message"),
    [
        (KERNEL[:, :20], LABELS, {}, r"kernel must be square.*\(30, 20\)"),
        (KERNEL[0], LABELS, {}, r"kernel must be square"),
        (KERNEL.astype(complex), LABELS, {}, r"real numbers"),
        (spoiled(np.nan), LABELS, {}, r"kernel\[4, 7\] is nan"),
        (spoiled(-np.inf).astype(np.float32), LABELS, {}, r"kernel\[4, 7\] is -inf"),
        (KERNEL, LABELS[:29], {}, r"labels must have shape \(30,\).*\(29,\)"),
        (KERNEL, np.eye(3)[LABELS], {}, r"labels must have shape"),
        (KERNEL, LABELS + 0.5, {}, r"labels must be integers"),
        (KERNEL, np.ones(30, dtype=int), {}, r"at least two classes"),
        (KERNEL, LABELS, {"classes": 5}, r"no point of class 3"),
        (KERNEL, 2 * (LABELS > 0), {}, r"no point of class 1"),
        (KERNEL, LABELS, {"classes": 2}, r"must lie in 0…1"),
        (KERNEL, LABELS - 1, {}, r"must lie in 0…1, got -1"),
        (KERNEL, LABELS, {"l2": -1e-3}, r"l2 must be 'auto' or a positive number, got -0.001"),
        (KERNEL, LABELS, {"l2": 0.0}, r"l2 must be"),
        (KERNEL, LABELS, {"l2": np.nan}, r"l2 must be"),
        (KERNEL, LABELS, {"l2": "best"}, r"l2 must be"),
        (KERNEL, LABELS, {"tolerance": 0.0}, r"tolerance must be positive"),
        (KERNEL, LABELS, {"max_iterations": 0}, r"max_iterations must be at least 1"),
        (KERNEL, LABELS, {"method": "lbfgs"}, r"method must be .*'lbfgs'"),
        (KERNEL, np.r_[np.zeros(29, dtype=int), 1], {}, r"one point of class 1.*number for l2"),
    ],
)
def test_bad_input_is_named(kernel, labels, options, message):
    with pytest.raises(ValueError, match=message):
        fit_surrogate(kernel, labels, **options)


def test_bad_cross_kernels_are_named():
    result = fit_surrogate(KERNEL, LABELS, l2=1e-2)
    for call in (result.logits, result.probabilities, result.predict, result.attributions):
        with pytest.raises(ValueError, match=r"cross_kernel must have shape \(n, 30\).*\(50, 29\)"):
            call(CROSS[:, :29])
        spoiled = CROSS.copy()
        spoiled[3, 2] = np.nan
        with pytest.raises(ValueError, match=r"cross_kernel\[3, 2\] is nan"):
            call(spoiled)
    assert result.logits(CROSS[:0]).shape == (0, 3)


def test_an_entry_is_found_beyond_the_first_tile(monkeypatch):
    monkeypatch.setattr("model_metrology.surrogates.glm._TILE", 30 * 4)
    with pytest.raises(ValueError, match=r"kernel\[21, 5\] is inf"):
        fit_surrogate(spoiled(np.inf, (21, 5)), LABELS)
    # And tiles of rows do not change a fit.
    tiled = [fit_surrogate(k, LABELS, l2=1e-2) for k in (KERNEL, KERNEL.astype(np.float32))]
    monkeypatch.undo()
    whole = [fit_surrogate(k, LABELS, l2=1e-2) for k in (KERNEL, KERNEL.astype(np.float32))]
    for a, b in zip(tiled, whole, strict=True):
        # Sums in another order, and fits that stop at 1e-6/λ.
        assert_allclose(a.coefficients, b.coefficients, atol=1e-4)
