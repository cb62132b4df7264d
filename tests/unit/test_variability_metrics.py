"""Churn, accuracy and calibration errors, against torchmetrics and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from model_metrology.variability import (
    accuracy,
    churn,
    class_margins,
    debiased_calibration_error,
    empirical_cdf,
    expected_calibration_error,
    logit_gap,
    mean_churn,
    pairwise_churn,
    predicted_labels,
    reference_sample,
)


def table(seed, n=700, classes=4, sharpness=2.0):
    rng = np.random.default_rng(seed)
    logits = sharpness * rng.normal(size=(n, classes))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probabilities, rng.integers(classes, size=n)


@pytest.fixture(scope="module")
def torchmetrics():
    # First, as it makes torchvision importable where its build does not match torch's.
    pytest.importorskip("model_metrology.torchvision_compat")
    return pytest.importorskip("torchmetrics.classification", exc_type=RuntimeError)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_expected_calibration_error_is_torchmetrics(torchmetrics, bins):
    torch = pytest.importorskip("torch")
    probabilities, labels = table(0)
    metric = torchmetrics.MulticlassCalibrationError(num_classes=4, n_bins=bins, norm="l1")
    expected = metric(torch.tensor(probabilities), torch.tensor(labels)).item()
    # torchmetrics bins and sums in single precision.
    value = expected_calibration_error(probabilities, labels, bins=bins)
    assert value == pytest.approx(expected, abs=1e-5)
    assert value > 0.1
    positive, truth = probabilities[:, 0], labels % 2
    binary = torchmetrics.BinaryCalibrationError(n_bins=bins, norm="l1")
    expected = binary(torch.tensor(positive), torch.tensor(truth)).item()
    value = expected_calibration_error(positive, truth, bins=bins, target="positive")
    assert value == pytest.approx(expected, abs=1e-5)


def test_expected_calibration_error_by_hand():
    p = np.array([0.9, 0.8, 0.3, 0.45, 0.9])
    labels = np.array([1, 0, 0, 1, 1])
    # Two bins: predicted class 1, 1, 0, 0, 1 with confidence .9, .8, .7, .55, .9, all above 1/2;
    # right in 3 of 5.
    assert expected_calibration_error(p, labels, bins=2) == pytest.approx(3.85 / 5 - 3 / 5)
    # Of the positive class: below 1/2 (.3, .45; one of two), above (.9, .8, .9; two of three).
    assert expected_calibration_error(p, labels, bins=2, target="positive") == pytest.approx(
        (abs(0.75 - 1) + abs(2.6 - 2)) / 5
    )
    # Equal counts: (.55, .7, .8) with one hit, (.9, .9) with two.
    assert expected_calibration_error(p, labels, bins=2, binning="mass") == pytest.approx(
        (abs(2.05 - 1) + abs(1.8 - 2)) / 5
    )
    # A column of P(class 1) and the two columns are the same task.
    both = np.column_stack((1 - p, p))
    assert expected_calibration_error(both, labels) == expected_calibration_error(p, labels)


def test_edges_and_certainty():
    assert expected_calibration_error([1.0, 0.0], [1, 0]) == 0.0
    assert expected_calibration_error([1.0, 0.0], [0, 1]) == 1.0
    # The bins are (a, b]: 0.6 belongs with 0.55, not with 0.65.
    assert expected_calibration_error([0.6, 0.55], [1, 0], bins=10) == pytest.approx(0.15 / 2)


def test_debiased_error_is_centred_on_calibrated_models_and_plain_is_not():
    rng = np.random.default_rng(0)
    squared, plain = [], []
    for _ in range(200):
        p = rng.uniform(0.05, 0.95, size=300)
        labels = (rng.random(300) < p).astype(int)
        value = debiased_calibration_error(p, labels, target="positive")
        squared.append(value)
        plain.append(expected_calibration_error(p, labels, target="positive"))
    # Half of the truncated roots are 0, and the plug-in sees error where there is none.
    assert np.mean(np.array(squared) == 0) > 0.3
    assert np.median(squared) < 0.5 * np.median(plain)
    # A known miscalibration is recovered: P(y = 1) = p/2 has root mean square error ½ (E p²)^½.
    p = rng.uniform(0, 1, size=200_000)
    labels = (rng.random(200_000) < p / 2).astype(int)
    # Fifteen bins lose the spread of p within a bin (1e-3), sampling adds as much.
    assert debiased_calibration_error(p, labels, target="positive") == pytest.approx(
        0.5 / np.sqrt(3), abs=0.004
    )


def test_debiased_error_by_hand():
    # One bin, mean confidence 0.7, hits 1 of 4.
    value = debiased_calibration_error([0.7] * 4, [1, 0, 0, 0], bins=1, target="positive")
    assert value == pytest.approx(np.sqrt((0.25 - 0.7) ** 2 - 0.25 * 0.75 / 3))


def test_predictions_churn_and_accuracy():
    assert_array_equal(predicted_labels([-1.0, 0.0, 2.0]), [0, 0, 1])
    assert_array_equal(predicted_labels([[0.0, 3.0], [2.0, 1.0]]), [1, 0])
    assert_array_equal(predicted_labels([3, 1]), [3, 1])
    assert churn([0, 1, 1, 2], [0, 1, 2, 1]) == 0.5
    assert churn([-1.0, 2.0], [[0.0, 1.0], [0.0, 1.0]]) == 0.5
    assert accuracy([-1.0, 2.0, 3.0, -2.0], [0, 1, 0, 0]) == 0.75
    rng = np.random.default_rng(0)
    runs = rng.integers(4, size=(6, 50))
    matrix = pairwise_churn(runs)
    for i in range(6):
        for j in range(6):
            assert matrix[i, j] == pytest.approx(churn(runs[i], runs[j]), abs=1e-15)
    gaps = rng.normal(size=(3, 20))
    assert pairwise_churn(gaps)[0, 2] == pytest.approx(churn(gaps[0], gaps[2]))
    logits = rng.normal(size=(3, 20, 5))
    assert pairwise_churn(logits)[0, 2] == pytest.approx(churn(logits[0], logits[2]))


def test_mean_churn_is_that_of_all_pairs():
    rng = np.random.default_rng(1)
    for runs in (
        rng.integers(4, size=(7, 50)),
        rng.normal(size=(5, 20)),
        rng.normal(size=(4, 9, 3)),
    ):
        pairs = pairwise_churn(runs)
        assert_allclose(mean_churn(runs), pairs.sum(axis=1) / (len(runs) - 1), atol=1e-15)
    assert_array_equal(mean_churn(rng.normal(size=(1, 20))), [0.0])


def test_gaps_and_margins():
    logits = np.random.default_rng(0).normal(size=(3, 40, 2))
    assert_array_equal(logit_gap(logits), logits[..., 1] - logits[..., 0])
    assert_array_equal(logit_gap(logits[..., :1]), logits[..., 0])
    assert_array_equal(class_margins(logits)[..., 1], logit_gap(logits))
    many = np.random.default_rng(1).normal(size=(2, 30, 5))
    margins = class_margins(many)
    for c in range(5):
        others = np.delete(many, c, axis=-1).max(axis=-1)
        assert_allclose(margins[..., c], many[..., c] - others)
    # Tied best classes: nobody is ahead.
    assert_array_equal(class_margins([[1.0, 1.0, 0.0]]), [[0.0, 0.0, -1.0]])


def test_references():
    outputs = np.array([[3.0, 1.0], [0.0, 4.0], [6.0, 1.0]])
    assert_array_equal(np.sort(reference_sample(outputs)), [0, 1, 1, 3, 4, 6])
    assert_array_equal(reference_sample(outputs, "mean"), [3.0, 2.0])
    assert_allclose(reference_sample(outputs, "quantile"), [2 / 3, 13 / 3])
    # The pooled CDF is the mean of the runs' CDFs.
    grid = np.linspace(-1, 7, 33)
    mean = np.mean([empirical_cdf(run)(grid) for run in outputs], axis=0)
    assert_allclose(empirical_cdf(reference_sample(outputs))(grid), mean)
    assert empirical_cdf([1.0, 2.0])(1.0) == 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: churn([0, 1], [0]), "same points"),
        (lambda: churn([], []), "shape"),
        (lambda: churn([np.nan], [1.0]), "not finite"),
        (lambda: accuracy([1.0], [0.5]), "labels must be integers"),
        (lambda: pairwise_churn([1, 2]), "runs must have shape"),
        (lambda: mean_churn([1, 2]), "runs must have shape"),
        (lambda: expected_calibration_error([0.5], [0, 1]), "differ in length"),
        (lambda: expected_calibration_error([2.5], [1]), "apply softmax"),
        (lambda: expected_calibration_error([np.nan], [1]), r"\[0, 1\]"),
        (lambda: expected_calibration_error([[0.2, 0.2]], [1]), "sum to 1"),
        (lambda: expected_calibration_error([0.5], [2]), "labels must lie in 0…1"),
        (lambda: expected_calibration_error([0.5], [1], bins=0), "bins"),
        (lambda: expected_calibration_error([0.5], [1], binning="even"), "binning"),
        (lambda: expected_calibration_error([0.5], [1], target="true"), "target"),
        (
            lambda: expected_calibration_error([[0.2, 0.3, 0.5]], [1], target="positive"),
            "two classes",
        ),
        (lambda: logit_gap(np.zeros((4, 3))), "class_margins"),
        (lambda: class_margins(np.zeros((4, 1))), "C ≥ 2"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
