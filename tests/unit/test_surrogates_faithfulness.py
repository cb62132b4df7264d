"""Faithfulness of surrogates, by definition, by hand and by simulation."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from model_metrology.surrogates.faithfulness import faithfulness
from model_metrology.variability import accuracy, churn

MEASURES = [
    "tad",
    "kendall_tau",
    "kendall_tau_correct",
    "kendall_tau_all",
    "r_miss",
    "agreement",
    "network_accuracy",
    "surrogate_accuracy",
]


def models(classes, n=60, seed=0, noise=1.0):
    """Logits of two related models, and labels that neither always gets right."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, classes))
    other = logits + noise * rng.normal(size=(n, classes))
    labels = (logits + 2 * rng.normal(size=(n, classes))).argmax(axis=1)
    return logits, other, labels


def probabilities(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def tau_b(x, y):
    """Kendall's τ_b, from all pairs."""
    concordance = x_untied = y_untied = 0
    for i in range(len(x)):
        for j in range(i):
            a, b = np.sign(x[i] - x[j]), np.sign(y[i] - y[j])
            concordance += a * b
            x_untied += abs(a)
            y_untied += abs(b)
    return concordance / math.sqrt(x_untied * y_untied)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_rank_correlations_are_those_of_probabilities_by_definition(classes):
    logits, other, labels = models(classes, n=40)
    result = faithfulness(logits, other, labels)
    p, q = probabilities(logits), probabilities(other)
    rows = np.arange(len(labels))
    correct = tau_b(p[rows, labels], q[rows, labels])
    assert result.kendall_tau_correct == pytest.approx(correct, abs=1e-12)
    first = tau_b(p[:, 1], q[:, 1]) if classes == 2 else correct
    assert result.kendall_tau == pytest.approx(first, abs=1e-12)
    assert result.kendall_tau_all == pytest.approx(tau_b(p.ravel(), q.ravel()), abs=1e-12)
    assert 0 < result.kendall_tau < 1


def test_ties_are_set_aside():
    # Three values only, so that most pairs tie on one side or both.
    rng = np.random.default_rng(0)
    x, y = rng.integers(3, size=50) - 1.0, rng.integers(3, size=50) - 1.0
    result = faithfulness(x[:, None], y[:, None], rng.integers(2, size=50))
    assert result.kendall_tau == pytest.approx(tau_b(x, y), abs=1e-12)


@pytest.mark.parametrize("classes", [2, 3])
def test_saturated_probabilities_keep_their_order(classes):
    # Beyond logits of 40 probabilities are 1 in float64; the surrogate ranks the points as the
    # network does and is a hundred times as confident.
    logits = np.zeros((30, classes))
    logits[:, 1] = np.random.default_rng(0).uniform(1, 10, size=30)
    labels = np.ones(30, dtype=int)
    assert np.unique(probabilities(100 * logits)[:, 1]).size < 10
    result = faithfulness(logits, 100 * logits, labels)
    assert result.kendall_tau == pytest.approx(1, abs=1e-12)
    assert result.kendall_tau_correct == pytest.approx(1, abs=1e-12)


def test_a_binary_rank_correlation_has_the_classes_in_it():
    # Both separate balanced classes, and neither knows the other's order within them: half of all
    # pairs are of two classes, and in order.
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 1000)
    sign = 2.0 * labels - 1
    network, surrogate = sign * rng.uniform(1, 2, 2000), sign * rng.uniform(1, 2, 2000)
    result = faithfulness(network[:, None], surrogate[:, None], labels)
    # Standard errors of τ within 1,000 and over 2,000 independent points: 0.02 and 0.015.
    assert result.kendall_tau == pytest.approx(0.5, abs=0.05)
    assert result.kendall_tau_correct == pytest.approx(0, abs=0.05)
    assert result.tad == 0
    assert math.isnan(result.r_miss)


def test_confusion_by_hand():
    # Point:           0  1  2  3  4  5  6  7
    labels = np.array([0, 0, 1, 1, 2, 2, 0, 1])
    network = np.array([0, 1, 1, 2, 0, 1, 1, 1])
    surrogate = np.array([0, 1, 1, 0, 0, 2, 0, 2])
    result = faithfulness(np.eye(3)[network], np.eye(3)[surrogate], labels)
    # The network errs on 1, 3, 4, 5, 6; the surrogate on 1, 3, 4, 7; alike on 1 and 4, but on 3
    # they see different wrong classes.
    assert result.network_accuracy == 3 / 8
    assert result.surrogate_accuracy == 4 / 8
    assert result.tad == 1 / 8
    assert result.r_miss == 2 / 6
    assert result.agreement == 4 / 8


@pytest.mark.parametrize("classes", [2, 4])
def test_accuracy_and_agreement_are_those_of_variability(classes):
    logits, other, labels = models(classes)
    result = faithfulness(logits, other, labels)
    assert result.network_accuracy == pytest.approx(accuracy(logits, labels), abs=1e-15)
    assert result.surrogate_accuracy == pytest.approx(accuracy(other, labels), abs=1e-15)
    assert result.tad == pytest.approx(
        accuracy(other, labels) - accuracy(logits, labels), abs=1e-15
    )
    assert result.agreement == pytest.approx(1 - churn(logits, other), abs=1e-15)


def test_a_model_is_faithful_to_itself():
    logits, _, labels = models(3)
    result = faithfulness(logits, logits, labels)
    assert (result.tad, result.agreement, result.r_miss) == (0, 1, 1)
    for tau in (result.kendall_tau, result.kendall_tau_correct, result.kendall_tau_all):
        assert tau == pytest.approx(1, abs=1e-12)


def test_one_logit_or_two_are_the_same_task():
    logits, other, labels = models(2)
    both = faithfulness(logits, other, labels)
    one, another = (x[:, 1:] - x[:, :1] for x in (logits, other))
    for network, surrogate in ((one, another), (one, other), (logits, another)):
        assert faithfulness(network, surrogate, labels) == both
    # Logits may be shifted point by point, and may be log-probabilities.
    shifted = logits + np.arange(len(labels))[:, None]
    logs = np.log(probabilities(other))
    assert_allclose(
        [getattr(faithfulness(shifted, logs, labels), name) for name in MEASURES],
        [getattr(both, name) for name in MEASURES],
        atol=1e-12,
    )


def test_measures_that_are_not_defined_are_nan():
    labels = np.array([0, 1, 1])
    right = np.array([[-1.0], [1.0], [1.0]])
    result = faithfulness(right, np.ones((3, 1)), labels, bootstraps=20)
    assert math.isnan(result.kendall_tau)
    assert not math.isnan(result.kendall_tau_all)
    assert result.r_miss == 0
    assert all(math.isnan(end) for end in result.intervals["kendall_tau"])
    perfect = faithfulness(right, right, labels, bootstraps=20)
    assert math.isnan(perfect.r_miss)
    assert all(math.isnan(end) for end in perfect.intervals["r_miss"])
    pair = faithfulness(right[:2], right[:2], labels[:2])
    assert pair.kendall_tau == 1
    single = faithfulness(right[:1], right[:1], labels[:1])
    assert math.isnan(single.kendall_tau)
    assert single.agreement == 1


@pytest.mark.parametrize("classes", [2, 3])
def test_intervals_are_quantiles_over_resampled_points(classes):
    logits, other, labels = models(classes)
    result = faithfulness(logits, other, labels, bootstraps=30, level=0.2, seed=7)
    assert list(result.intervals) == MEASURES
    rng = np.random.default_rng(7)
    replicates = []
    for _ in range(30):
        pick = rng.integers(60, size=60)
        replicates.append(faithfulness(logits[pick], other[pick], labels[pick]))
    for name in MEASURES:
        expected = np.quantile([getattr(r, name) for r in replicates], [0.1, 0.9])
        assert_allclose(result.intervals[name], expected, atol=1e-12)
        assert result.intervals[name][0] <= getattr(result, name) <= result.intervals[name][1]
    again = faithfulness(logits, other, labels, bootstraps=30, level=0.2, seed=7)
    assert again == result
    assert faithfulness(logits, other, labels, bootstraps=30, seed=8).intervals != result.intervals
    plain = faithfulness(logits, other, labels)
    assert plain.intervals == {}
    assert dataclasses.replace(result, intervals={}) == plain


def test_intervals_cover():
    # Gaussian gaps of correlation ρ have τ = (2/π) arcsin ρ, and agree with probability
    # ½ + arcsin(ρ)/π.
    rho, covered = 0.8, {"kendall_tau": 0, "agreement": 0}
    truth = {
        "kendall_tau": 2 / math.pi * math.asin(rho),
        "agreement": 0.5 + math.asin(rho) / math.pi,
    }
    rng = np.random.default_rng(0)
    for trial in range(60):
        x = rng.normal(size=(80, 1))
        y = rho * x + math.sqrt(1 - rho**2) * rng.normal(size=(80, 1))
        labels = rng.integers(2, size=80)
        result = faithfulness(x, y, labels, bootstraps=50, level=0.1, seed=trial)
        for name in covered:
            lower, upper = result.intervals[name]
            covered[name] += lower <= truth[name] <= upper
    # Nominally 54 of 60, with a standard deviation of 2.3; few replicates take one or two off.
    for count in covered.values():
        assert 45 <= count <= 59


LOGITS, OTHER, TRUTH = models(3, n=10)
SPOILED = LOGITS.copy()
SPOILED[4, 2] = np.nan
INFINITE = LOGITS.copy()
INFINITE[1, 0] = -np.inf


@pytest.mark.parametrize(
    ("network", "surrogate", "labels", "options", "message"),
    [
        (LOGITS[:9], OTHER, TRUTH, {}, r"same points and classes.*\(9, 3\) and \(10, 3\)"),
        (LOGITS, OTHER[:, :1], TRUTH, {}, r"same points and classes.*\(10, 3\) and \(10, 1\)"),
        (LOGITS[:, 0], OTHER, TRUTH, {}, r"network_logits must have shape"),
        (LOGITS, OTHER[:0], TRUTH, {}, r"surrogate_logits must have shape"),
        (SPOILED, OTHER, TRUTH, {}, r"network_logits\[4, 2\] is nan"),
        (LOGITS, INFINITE, TRUTH, {}, r"surrogate_logits\[1, 0\] is -inf"),
        (LOGITS, OTHER, TRUTH[:9], {}, r"labels must have shape \(10,\).*\(9,\)"),
        (LOGITS, OTHER, np.r_[TRUTH[:7], 3, TRUTH[8:]], {}, r"labels\[7\] is 3.*0…2"),
        (LOGITS, OTHER, np.r_[-1, TRUTH[1:]], {}, r"labels\[0\] is -1"),
        (LOGITS, OTHER, TRUTH + 0.5, {}, r"labels must be integers"),
        (LOGITS[:, :1], OTHER[:, :1], np.full(10, 2), {}, r"labels\[0\] is 2.*0…1"),
        (LOGITS, OTHER, TRUTH, {"bootstraps": 1}, r"bootstraps must be 0 or at least 2, got 1"),
        (LOGITS, OTHER, TRUTH, {"bootstraps": 5, "level": 0.0}, r"level must lie in \(0, 1\)"),
    ],
)
def test_bad_input_is_named(network, surrogate, labels, options, message):
    with pytest.raises(ValueError, match=message):
        faithfulness(network, surrogate, labels, **options)
