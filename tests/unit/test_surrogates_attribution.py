"""Attributions, against full sums by loops, scipy and scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, precision_recall_curve

from model_metrology.surrogates import attribution
from model_metrology.surrogates.attribution import (
    attribution_agreement,
    class_attributions,
    precision_recall,
    retrieval,
    strongest,
)


@dataclass
class Given:
    coefficients: np.ndarray
    intercept: np.ndarray


def drawn(logits, points=13, tests=6, seed=0):
    rng = np.random.default_rng(seed)
    surrogate = Given(rng.normal(size=(logits, points)), rng.normal(size=logits))
    return surrogate, rng.normal(size=(tests, points)), rng.integers(max(logits, 2), size=tests)


@pytest.mark.parametrize("logits", [1, 2, 3, 10])
def test_terms_are_those_of_the_formula(logits):
    surrogate, kernel, classes = drawn(logits)
    found = class_attributions(surrogate, kernel, classes)
    v, b = surrogate.coefficients, surrogate.intercept
    for x, label in enumerate(classes):
        for i in range(13):
            if logits == 1:
                expected = (1 if label else -1) * (v[0, i] * kernel[x, i] + b[0] / 13)
            else:
                expected = v[label, i] * kernel[x, i] + b[label] / 13
            # One product and one sum in double precision.
            assert found[x, i] == pytest.approx(expected, rel=1e-13, abs=1e-15)


@pytest.mark.parametrize("classes", [2, 4])
def test_sums_are_the_logits_that_scikit_learn_gives(classes):
    rng = np.random.default_rng(1)
    x, labels = rng.normal(size=(60, 5)), rng.integers(classes, size=60)
    kernel, cross = x @ x.T, rng.normal(size=(9, 5)) @ x.T
    model = LogisticRegression(max_iter=500).fit(kernel, labels)
    wanted = model.predict(cross)
    terms = class_attributions(Given(model.coef_, model.intercept_), cross, wanted)
    logits = model.decision_function(cross)
    if classes == 2:
        # scikit-learn gives the one logit, of class 1.
        logits = np.column_stack((-logits, logits))
        assert len(np.unique(wanted)) == 2
    # Sixty terms of order one, rounded.
    assert_allclose(terms.sum(axis=1), logits[np.arange(9), wanted], rtol=1e-10, atol=1e-12)
    # The predicted of two classes has more for than against it.
    assert classes > 2 or (terms.sum(axis=1) > 0).all()


def test_class_zero_of_one_logit_is_minus_class_one_and_inputs_stay():
    surrogate, kernel, _ = drawn(1)
    before = surrogate.coefficients.copy(), surrogate.intercept.copy(), kernel.copy()
    zeros = np.zeros(6, dtype=int)
    assert_array_equal(
        class_attributions(surrogate, kernel, zeros),
        -class_attributions(surrogate, kernel, zeros + 1),
    )
    for old, new in zip(before, (surrogate.coefficients, surrogate.intercept, kernel), strict=True):
        assert_array_equal(old, new)


def test_single_precision_kernels_give_double_attributions():
    surrogate, kernel, classes = drawn(3)
    single = class_attributions(surrogate, kernel.astype(np.float32), classes)
    assert single.dtype == np.float64
    # Kernels of order one, rounded to 24 bits.
    assert_allclose(single, class_attributions(surrogate, kernel, classes), atol=1e-6)
    assert class_attributions(surrogate, np.empty((0, 13)), np.empty(0, dtype=int)).shape == (0, 13)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel": np.zeros((13, 6))}, r"cross_kernel must have shape \(n, 13\).*\(13, 6\)"),
        ({"kernel": np.zeros(13)}, "cross_kernel must have shape"),
        ({"classes": np.zeros(5, dtype=int)}, r"classes must be integers of shape \(6,\)"),
        ({"classes": np.zeros(6)}, "classes must be integers of shape .*float64"),
        ({"classes": np.full(6, 3)}, "classes must lie in 0…2, got 3…3"),
        ({"classes": np.array([0, 1, 2, 0, 1, -1])}, "classes must lie in 0…2, got -1…2"),
        ({"surrogate": Given(np.zeros(13), np.zeros(1))}, r"surrogate: coefficients \(C', N\)"),
        ({"surrogate": Given(np.zeros((2, 13)), np.zeros(3))}, "surrogate: coefficients"),
    ],
)
def test_shapes_that_do_not_fit_are_named(change, message):
    surrogate, kernel, classes = drawn(3)
    given = {"surrogate": surrogate, "kernel": kernel, "classes": classes, **change}
    with pytest.raises(ValueError, match=message):
        class_attributions(given["surrogate"], given["kernel"], given["classes"])


def test_classes_of_one_logit_are_two():
    surrogate, kernel, _ = drawn(1)
    with pytest.raises(ValueError, match="classes must lie in 0…1, got 2…2"):
        class_attributions(surrogate, kernel, np.full(6, 2))


def test_strongest_by_hand():
    supporting, opposing = strongest([0.5, -2.0, 3.0, 0.5, -0.1], 3)
    # Equal ones in the order of the points.
    assert supporting.tolist() == [2, 0, 3]
    assert opposing.tolist() == [1, 4, 0]
    supporting, opposing = strongest(np.zeros(4), 2)
    assert supporting.tolist() == opposing.tolist() == [0, 1]
    values = np.random.default_rng(0).normal(size=40)
    supporting, opposing = strongest(values, 40)
    assert_array_equal(supporting, opposing[::-1])
    assert_array_equal(values[opposing], sorted(values))


@pytest.mark.parametrize(
    ("attributions", "count", "message"),
    [
        (np.zeros(4), 5, r"count must lie in 1…4.*got 5"),
        (np.zeros(4), 0, r"count must lie in 1…4"),
        (np.zeros((2, 4)), 1, r"attributions must have shape \(N,\).*one test point at a time"),
        ([], 1, "attributions must have shape"),
        ([1.0, np.nan], 1, "attributions: some values are not finite"),
    ],
)
def test_strongest_refuses(attributions, count, message):
    with pytest.raises(ValueError, match=message):
        strongest(attributions, count)


@pytest.mark.parametrize("block", [2**23, 60, 1])
def test_agreement_is_spearmans(monkeypatch, block):
    # Blocks of all rows, of two, and of one.
    monkeypatch.setattr(attribution, "_BLOCK", block)
    rng = np.random.default_rng(0)
    a = rng.normal(size=(7, 30))
    b = a + rng.normal(size=(7, 30)) * np.arange(7)[:, None]
    for first, second in ((a, b), (a.round(), b.round())):  # without ties, and with many
        found = attribution_agreement(first, second)
        expected = [spearmanr(x, y).statistic for x, y in zip(first, second, strict=True)]
        # scipy's own correlation of ranks is rounded in a few of the last digits.
        assert_allclose(found, expected, atol=1e-13)
        assert_array_equal(found, attribution_agreement(second, first))
    assert attribution_agreement(a, a).tolist() == [1.0] * 7
    assert attribution_agreement(a, -np.exp(a)).tolist() == [-1.0] * 7


def test_agreement_within_labels_is_the_mean_over_them():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 6, 40)).round(1)
    # One label has a single point, which has no rank to compare.
    labels = np.repeat([0, 2, 5], [25, 14, 1])
    a[0, labels == 2] = 0.5
    found = attribution_agreement(a, b, labels)
    for x, y, value in zip(a, b, found, strict=True):
        of = {
            c: spearmanr(x[labels == c], y[labels == c]).statistic
            for c in (0, 2)
            if np.ptp(x[labels == c])
        }
        expected = sum((labels == c).sum() * r for c, r in of.items()) / sum(
            (labels == c).sum() for c in of
        )
        assert value == pytest.approx(expected, abs=1e-13)
    assert_allclose(attribution_agreement(a, b, np.zeros(40, int)), attribution_agreement(a, b))
    # A shift of one label's attributions changes nothing within it.
    shifted = b + 100 * (labels == 2)
    assert_allclose(attribution_agreement(a, shifted, labels), found, atol=1e-13)
    assert np.isnan(attribution_agreement(a, b, np.arange(40))).all()
    for wrong in (labels[1:], labels.astype(float)):
        with pytest.raises(ValueError, match=r"labels must be integers of shape \(40,\)"):
            attribution_agreement(a, b, wrong)


def test_agreement_with_a_constant_is_undefined():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3, 10))
    # A third: its mean over ten is not a third in binary.
    a[0], b[1] = 1 / 3, 1 / 3
    found = attribution_agreement(a, b)
    assert np.isnan(found[:2]).all() and np.isfinite(found[2])
    assert attribution_agreement(np.empty((0, 4)), np.empty((0, 4))).shape == (0,)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros((2, 5)), np.zeros((2, 6)), r"same shape .*got \(2, 5\) and \(2, 6\)"),
        (np.zeros(5), np.zeros(5), "same shape"),
        (np.zeros((2, 1)), np.zeros((2, 1)), "N ≥ 2"),
        (np.zeros((1, 2)), np.array([[0, np.inf]]), "b holds values that are not finite"),
    ],
)
def test_agreement_refuses(a, b, message):
    with pytest.raises(ValueError, match=message):
        attribution_agreement(a, b)


def scored(seed, ties, points=200, wanted=15):
    rng = np.random.default_rng(seed)
    relevant = np.zeros(points, dtype=bool)
    relevant[rng.choice(points, size=wanted, replace=False)] = True
    scores = rng.normal(size=points) + 1.5 * relevant
    return (scores.round() if ties else scores), relevant


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_scikit_learns(seed, ties):
    scores, relevant = scored(seed, ties)
    found = retrieval(scores, relevant)
    expected = average_precision_score(relevant, scores)
    # Two hundred terms below one, rounded.
    assert found.average_precision == pytest.approx(expected, abs=1e-13)
    assert (found.relevant, found.chance) == (15, 15 / 200)


@pytest.mark.parametrize("seed", range(4))
def test_precision_and_recall_count_the_highest_scores(seed):
    scores, relevant = scored(seed, ties=False)
    order = np.argsort(-scores)
    found = retrieval(scores, relevant)
    assert found.precision == pytest.approx(relevant[order[:15]].mean(), abs=1e-13)
    assert found.recall == pytest.approx(relevant[order[:30]].sum() / 15, abs=1e-13)
    assert 0 < found.precision < found.recall < 1


def test_tied_scores_are_counted_as_the_mean_over_their_orders():
    scores = np.array([3.0, 2.0, 2.0, 2.0, 1.0, 0.0, 0.0])
    relevant = np.array([False, True, False, True, False, False, True])
    found = retrieval(scores, relevant)
    at_three, at_six = [], []
    for middle in permutations([1, 2, 3]):
        for last in permutations([5, 6]):
            order = [0, *middle, 4, *last]
            at_three.append(relevant[order[:3]].sum() / 3)
            at_six.append(relevant[order[:6]].sum() / 3)
    assert found.precision == pytest.approx(np.mean(at_three), abs=1e-14)
    assert found.recall == pytest.approx(np.mean(at_six), abs=1e-14)
    shuffled = np.random.default_rng(0).permutation(7)
    assert retrieval(scores[shuffled], relevant[shuffled]) == found


def test_retrieval_at_its_ends():
    relevant = np.arange(10) >= 7
    perfect, worst = retrieval(np.arange(10), relevant), retrieval(-np.arange(10), relevant)
    assert (perfect.precision, perfect.recall, perfect.average_precision) == (1, 1, 1)
    assert (worst.precision, worst.recall) == (0, 0)
    # Constant scores say nothing: precision is that of chance, and so is average precision.
    flat = retrieval(np.zeros(10), relevant)
    assert flat.precision == pytest.approx(0.3) and flat.recall == pytest.approx(0.6)
    assert flat.average_precision == pytest.approx(flat.chance) == pytest.approx(0.3)
    # More than half relevant: 2k is more than there are.
    assert retrieval(np.arange(10), np.arange(10) < 7).recall == 1


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_interpolated_precision_is_the_best_at_that_recall_or_more(seed, ties):
    scores, relevant = scored(seed, ties)
    grid = np.array([0.0, 0.03, 0.5, 0.51, 0.77, 1.0])
    precision, recall, _ = precision_recall_curve(relevant, scores)
    # scikit-learn adds precision 1 at recall 0, for which there is no threshold.
    precision, recall = precision[:-1], recall[:-1]
    expected = [precision[recall >= r].max() for r in grid]
    assert_allclose(precision_recall(scores, relevant, grid), expected, atol=1e-14)
    assert_array_equal(precision_recall(scores, relevant, grid[::-1]), np.flip(expected))


def test_interpolation_by_hand():
    # Hits at places 2, 3 and 6: precision 1/2, 2/3, 1/2 at recall 1/3, 2/3, 1.
    scores, relevant = -np.arange(8.0), np.isin(np.arange(8), [1, 2, 5])
    found = precision_recall(scores, relevant, [0, 1 / 3, 0.5, 2 / 3, 0.67, 1])
    assert_allclose(found, [2 / 3, 2 / 3, 2 / 3, 2 / 3, 1 / 2, 1 / 2])
    # The grid's 0.3 is 0.30000000000000004, and three of ten have it still.
    relevant = np.arange(20) % 2 == 0
    scores = np.where(np.arange(20) < 6, 0.0, -1.0 - np.arange(20))
    scores[[1, 3, 5]] = -0.5
    assert precision_recall(scores, relevant, np.linspace(0, 1, 11))[3] == 1
    assert np.diff(precision_recall(scores, relevant, np.linspace(0, 1, 11))).max() <= 0


@pytest.mark.parametrize(
    ("scores", "relevant", "message"),
    [
        (np.zeros(3), np.zeros(3, dtype=bool), "nothing to find"),
        (np.zeros(3), np.ones(4, dtype=bool), r"relevant must be boolean of shape \(3,\)"),
        (np.zeros(3), np.ones(3), "relevant must be boolean .*float64"),
        (np.zeros((1, 3)), np.ones(3, dtype=bool), r"scores must have shape \(N,\)"),
        ([0, np.nan], np.ones(2, dtype=bool), "scores: some values are not finite"),
    ],
)
def test_retrieval_refuses(scores, relevant, message):
    with pytest.raises(ValueError, match=message):
        retrieval(scores, relevant)
    with pytest.raises(ValueError, match=message):
        precision_recall(scores, relevant, [0.5])


@pytest.mark.parametrize("grid", [[1.1], [-0.1, 0.5], [np.nan], 0.5])
def test_recalls_lie_between_nought_and_one(grid):
    with pytest.raises(ValueError, match=r"grid must be recalls in \[0, 1\]"):
        precision_recall([1.0, 2.0], [True, False], grid)
