"""Tables of surrogates: what they hold is what direct computation gives."""

from __future__ import annotations

import html
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from scipy.special import expit, softmax
from sklearn.metrics import average_precision_score

from model_metrology.kernels import KERNELS
from model_metrology.plots.tables import surrogates_page
from model_metrology.surrogates.faithfulness import faithfulness
from model_metrology.surrogates.glm import fit_surrogate
from model_metrology.surrogates.outputs import SubjectOutputs
from model_metrology.surrogates.published import PUBLISHED
from model_metrology.surrogates.tables import (
    METRICS,
    RECALLS,
    Attributed,
    agreement_table,
    mean_curves,
    measure_surrogates,
    summary_table,
)

KEY = {"population": "p", "run": 3, "dataset": "d", "kernel": "trNTK"}


def example(classes=3, points=60, tests=40, triggered=0, logits=None, seed=0):
    """Points in clouds, one a class; a noisy network's logits; a Gaussian kernel."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, 4))
    labels = [np.arange(n) % classes for n in (points, tests)]
    x, y = (centres[own] + rng.normal(size=(len(own), 4)) for own in labels)
    scores = -((y[:, None] - centres) ** 2).sum(axis=2) / 2 + rng.normal(size=(tests, classes))
    if logits == 1:
        scores = scores[:, 1:] - scores[:, :1]

    def kernel(a):
        return np.exp(-((a[:, None] - x) ** 2).sum(axis=2) / 8)

    outputs = SubjectOutputs(
        logits=scores,
        labels=labels[1],
        train_labels=labels[0],
        train=10 * np.arange(points),
        test=7 * np.arange(tests) + 1,
        triggered=triggered,
        poisoned=np.zeros(points, bool),
        classes=tuple("abcdefgh"[:classes]),
    )
    return kernel(x), kernel(y), outputs


def measure(case, **options):
    return measure_surrogates(*case, KEY, **{"l2": 1e-3, "bootstraps": 0} | options)


# -- one run -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("classes", "logits"), [(2, None), (2, 1), (4, None)])
def test_faithfulness_is_that_of_direct_calls(classes, logits):
    train, test, outputs = case = example(classes, logits=logits, triggered=5)
    found = measure(case, solvers=["sgd", "svm"], bootstraps=20, level=0.2, seed=4)
    table = found.tables["faithfulness"]
    assert list(table.columns[:4]) == list(KEY)
    assert (table[list(KEY)] == list(KEY.values())).all().all()
    assert list(table["surrogate"].unique()) == ["glm", "sgd", "svm"]
    for solver, method in {"glm": "newton", "sgd": "sgd", "svm": "svm"}.items():
        l2 = 1e-3 if solver == "glm" else "auto"
        fit = fit_surrogate(train, outputs.train_labels, l2=l2, method=method, seed=4)
        # Triggered points, the last five, are no test of faithfulness.
        expected = faithfulness(
            outputs.logits[:35], fit.logits(test[:35]), outputs.labels[:35],
            bootstraps=20, level=0.2, seed=4,
        )  # fmt: skip
        rows = table[table["surrogate"] == solver].set_index("metric")
        assert list(rows.index) == list(METRICS)
        for metric in METRICS:
            interval = expected.intervals[metric]
            wanted = [getattr(expected, metric), *interval]
            assert_array_equal(rows.loc[metric, ["value", "lower", "upper"]].astype(float), wanted)
        row = found.tables["fits"].set_index("surrogate").loc[solver]
        assert row["l2"] == fit.l2 and row["iterations"] == fit.iterations
        assert row["converged"] == fit.converged and row["seconds"] > 0
        assert_array_equal(row["gradient_norm"], fit.gradient_norm)
        wanted = fit.logits(train).argmax(axis=1) if classes > 2 else fit.logits(train)[:, 0] > 0
        assert row["train_accuracy"] == np.mean(wanted == outputs.train_labels)
    assert found.surrogate.method == "newton"


def test_accuracies_by_hand():
    _, _, outputs = case = example(3)
    rows = measure(case).tables["faithfulness"].set_index("metric")["value"]
    right = outputs.logits.argmax(axis=1) == outputs.labels
    assert rows["network_accuracy"] == right.mean() < 1
    assert rows["tad"] == pytest.approx(rows["surrogate_accuracy"] - right.mean(), abs=1e-15)


def test_the_glm_is_always_fitted_and_once():
    case = example(2)
    for solvers in ((), ["glm"], ["svm"]):
        fits = measure(case, solvers=solvers).tables["fits"]["surrogate"]
        assert list(fits) == list(dict.fromkeys(["glm", *solvers]))


@pytest.mark.parametrize(("classes", "logits"), [(2, None), (2, 1), (4, None)])
def test_scores_are_probabilities(classes, logits):
    _, test, outputs = case = example(classes, logits=logits, triggered=5)
    found = measure(case)
    scores = found.tables["scores"]
    assert_array_equal(scores["point"], outputs.test[:35])
    assert_array_equal(scores["label"], outputs.labels[:35])
    theirs = found.surrogate.probabilities(test[:35])
    network = outputs.logits[:35]
    ours = expit(network[:, 0]) if logits == 1 else softmax(network, axis=1)
    if classes == 2:
        # P(class 1), whatever the true class.
        ours, theirs = ours if logits == 1 else ours[:, 1], theirs[:, 1]
    else:
        ours, theirs = (p[np.arange(35), outputs.labels[:35]] for p in (ours, theirs))
    # Some rounding of exponentials in double precision.
    assert_allclose(scores["network"], ours, rtol=1e-12, atol=1e-15)
    assert_allclose(scores["surrogate"], theirs, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("classes", "logits"), [(2, None), (2, 1), (4, None)])
def test_attributions_sum_to_the_logit_of_the_predicted_class(classes, logits):
    _, test, outputs = case = example(classes, logits=logits, triggered=5)
    found = measure(case, examples=3)
    table, values = found.tables["attribution"], found.surrogate.logits(test)
    if classes == 2:
        values = np.column_stack([-values, values])  # the only logit is class 1's
    predicted = outputs.predicted
    assert found.attributions.dtype == np.float32 and found.attributions.shape == (35, 60)
    # Sixty terms of about 1 in single precision.
    wanted = values[np.arange(35), predicted[:35]]
    assert_allclose(found.attributions.sum(axis=1, dtype=float), wanted, rtol=1e-5, atol=1e-5)
    positions = {point: i for i, point in enumerate(outputs.test)}
    groups = table.groupby("point", sort=False)
    assert len(groups) == 6
    for point, rows in groups:
        i = positions[point]
        assert set(rows["predicted"]) == {predicted[i]} and set(rows["label"]) == {
            outputs.labels[i]
        }
        role = "right" if predicted[i] == outputs.labels[i] else "wrong"
        assert set(rows["role"]) == {role}
        assert_array_equal(rows["train_point"], outputs.train)
        assert_array_equal(rows["train_label"], outputs.train_labels)
        assert rows["attribution"].sum() == pytest.approx(values[i, predicted[i]], rel=1e-10)
    assert table.groupby("role")["point"].nunique().to_dict() == {"right": 3, "wrong": 3}


def test_the_strongest_are_the_extreme_ones():
    case = example(3)
    found = measure(case, examples=2)
    table = found.tables["strongest"]
    for point, own in table.groupby("point"):
        every = found.tables["attribution"]
        every = every[every["point"] == point]
        ordered = every.sort_values("attribution", kind="stable")
        for sign, expected in (("opposing", ordered[:5]), ("supporting", ordered[:-6:-1])):
            rows = own[own["sign"] == sign]
            assert list(rows["rank"]) == [1, 2, 3, 4, 5]
            for name in ("train_point", "train_label", "attribution", "role", "predicted"):
                assert_array_equal(rows[name], expected[name])


def test_few_training_points_and_no_mistakes():
    train, test, outputs = example(2, points=4, tests=6)
    right = replace(outputs, logits=10.0 * np.eye(2)[outputs.labels])
    found = measure((train, test, right), examples=3)
    assert list(found.tables["strongest"]["rank"].unique()) == [1, 2, 3, 4]
    assert set(found.tables["attribution"]["role"]) == {"right"}
    rows = found.tables["faithfulness"].set_index("metric")["value"]
    assert rows["network_accuracy"] == 1


def test_without_examples_nothing_is_kept_but_columns_are():
    found = measure(example(2))
    assert found.attributions is None
    for name in ("attribution", "strongest", "poison", "poison_curves"):
        assert found.tables[name].empty and list(found.tables[name].columns[:4]) == list(KEY)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.arange(60) % 2, "no point of class 2; each of the 3 classes"),
        (np.full(60, 1), r"at least two classes, got \[1\]"),
        (np.where(np.arange(60) == 7, 2, np.arange(60) % 2), "one point of class 2; l2='auto'"),
    ],
)
def test_a_class_without_training_points_is_named(labels, message):
    train, test, outputs = example(3)
    case = train, test, replace(outputs, train_labels=labels)
    with pytest.raises(ValueError, match=message):
        measure(case, l2="auto")


def test_the_penalty_is_chosen_where_it_is_asked_for():
    train, _, outputs = case = example(3)
    found = measure(case, l2="auto", seed=2)
    assert found.surrogate.l2 == fit_surrogate(train, outputs.train_labels, seed=2).l2
    assert len(found.surrogate.selection) > 1
    table = found.tables["selection"]
    assert dict(zip(table["l2"], table["held_out_loss"], strict=True)) == found.surrogate.selection
    assert measure(case, l2=0.1).tables["selection"].empty


def test_each_solver_has_its_own_penalty():
    found = measure(example(3), l2=0.1, sgd_l2=0.01, solvers=("sgd", "svm"))
    penalties = found.tables["fits"].set_index("surrogate")["l2"]
    # Of support vectors 1/N.
    assert penalties.to_dict() == pytest.approx({"glm": 0.1, "sgd": 0.01, "svm": 1 / 60})


# -- poison ------------------------------------------------------------------------------------

POISON = {"trigger": "patch", "fraction": 0.1, "target": 1}


def poisoned(points=100, shown=8, near=True, seed=0):
    """Triggered points whose kernel is large with the poisoned points, or anything."""
    rng = np.random.default_rng(seed)
    labels = np.arange(points) % 2
    marked = np.zeros(points, bool)
    marked[rng.permutation(np.flatnonzero(labels == 1))[: points // 10]] = True
    kernel = 0.1 * (labels[:, None] == labels) + 0.05 * rng.random((points, points))
    kernel = (kernel + kernel.T) / 2
    kernel[np.ix_(marked, marked)] += 0.8
    np.fill_diagonal(kernel, 1.0)
    clean = kernel[:20] + 0.01
    if near:
        triggered = np.where(marked, 0.9, 0.05) + 0.01 * rng.random((shown, points))
    else:
        triggered = rng.random((shown, points))
    predicted = np.r_[labels[:20], np.ones(shown - 2, int), [0, 0]]
    outputs = SubjectOutputs(
        logits=np.eye(2)[predicted],
        labels=np.r_[labels[:20], np.zeros(shown, int)],
        train_labels=labels,
        train=np.arange(points),
        test=np.r_[:20, 40 : 40 + shown],
        triggered=shown,
        poisoned=marked,
        classes=("a", "b"),
    )
    return kernel, np.vstack([clean, triggered]), outputs


def test_poisoned_points_that_are_the_nearest_are_found():
    case = poisoned()
    found = measure(case, poison=POISON)
    table = found.tables["poison"]
    assert list(table["point"]) == list(range(40, 48))
    assert (table["poisoned"] == 10).all() and (table["chance"] == 0.1).all()
    assert list(table["fooled"]) == 6 * [True] + 2 * [False]
    fooled = table[table["fooled"]]
    # To the target, which poisoned points support; to the other class they are the last.
    assert (fooled[["precision", "recall", "average_precision"]] == 1).all().all()
    assert (table.loc[~table["fooled"], "precision"] == 0).all()
    # Of the 50 points of the label that is predicted ten are poisoned, or none: 2k = 20 of 50, and
    # of the other label's 50 none before all of these.
    assert_allclose(fooled["precision_by_label"], 0.2)
    assert_allclose(fooled["recall_by_label"], 0.4)
    others = table[~table["fooled"]]
    assert (others[["precision_by_label", "recall_by_label"]] == 0).all().all()
    curves = found.tables["poison_curves"]
    assert_array_equal(curves["recall"], np.tile(RECALLS, 8))
    assert_allclose(curves.loc[curves["fooled"], "by_label"], 0.2)
    assert_array_equal(curves.groupby("point")["fooled"].first(), table["fooled"])
    assert (curves.loc[curves["point"] < 46, "precision"] == 1).all()
    # Of the worst order, the last relevant point is found with all others.
    worst = curves[curves["point"] == 46].set_index("recall")["precision"]
    assert worst[1.0] == pytest.approx(0.1)


def test_points_that_nothing_marks_are_found_by_chance():
    train, test, outputs = poisoned(points=200, shown=20, near=False)
    rng = np.random.default_rng(5)
    train = rng.random((200, 200))
    precisions = []
    for _ in range(10):
        marked = np.isin(np.arange(200), rng.permutation(200)[:20])
        given = replace(outputs, poisoned=marked)
        found = measure((train + train.T, test, given), l2=1.0, poison=POISON)
        table = found.tables["poison"]
        precisions.append(table["precision"].mean())
    # All images share the coefficients, so a draw of the points is one of about 20 of 200, whose
    # share has a standard deviation of 0.07 about 0.1: the mean of ten, 0.02.
    assert np.mean(precisions) == pytest.approx(0.1, abs=0.06)
    # The last draw's, by another's definition and by sorting.
    scores = found.surrogate.attributions(test[20:])[:, :, 0]
    for own, row in zip(scores, table.itertuples(), strict=True):
        order = np.argsort(-own if row.fooled else own)
        expected = average_precision_score(marked, own if row.fooled else -own)
        assert row.average_precision == pytest.approx(expected, rel=1e-12)
        assert row.precision == pytest.approx(marked[order[:20]].mean())
        assert row.recall == pytest.approx(marked[order[:40]].sum() / 20)


def test_without_a_poison_there_is_nothing_to_find():
    train, test, outputs = poisoned()
    assert measure((train, test, outputs)).tables["poison"].empty
    # Nor where none of the training points is poisoned.
    none = replace(outputs, poisoned=np.zeros(100, bool))
    assert measure((train, test, none), poison=POISON).tables["poison"].empty


# -- over runs ---------------------------------------------------------------------------------


def attributed(population="p", run=0, dataset="d", seed=0, **changes):
    _, _, outputs = example(3, triggered=5)
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(35, 60)).astype(np.float32)
    outputs = replace(outputs, **changes)
    return Attributed(population, run, dataset, "mlp", "sgd", outputs, values)


def test_runs_alike_agree_and_relations_are_named():
    first = attributed()
    runs = [
        first,
        replace(first, run=1),
        replace(first, population="other streams"),
        replace(first, population="other recipe", recipe="adam"),
        replace(first, population="other net", architecture="cnn"),
    ]
    table = agreement_table(runs, "trNTK")
    assert len(table) == 10 * 35 and (table["kernel"] == "trNTK").all()
    assert_allclose(table["correlation"], 1.0, rtol=1e-12)
    assert table["same_prediction"].all()
    keys = ["population_a", "run_a", "population_b", "run_b"]
    relations = table.groupby(keys, sort=False)["relation"].unique().map(list).to_dict()
    assert relations == {
        ("p", 0, "p", 1): ["same population"],
        ("p", 0, "other streams", 0): ["same recipe"],
        ("p", 0, "other recipe", 0): ["other recipe"],
        ("p", 0, "other net", 0): ["other architecture"],
        ("p", 1, "other streams", 0): ["same recipe"],
        ("p", 1, "other recipe", 0): ["other recipe"],
        ("p", 1, "other net", 0): ["other architecture"],
        ("other streams", 0, "other recipe", 0): ["other recipe"],
        ("other streams", 0, "other net", 0): ["other architecture"],
        ("other recipe", 0, "other net", 0): ["other architecture"],
    }


def test_agreement_is_the_rank_correlation_at_each_point():
    a = attributed()
    b = replace(a, run=1, attributions=attributed(seed=1).attributions + 0.5 * a.attributions)
    b = replace(b, outputs=replace(b.outputs, logits=b.outputs.logits[:, ::-1]))
    table = agreement_table([a, b], "CK")
    assert_array_equal(table["point"], a.outputs.test[:35])
    assert_array_equal(table["label"], a.outputs.labels[:35])
    for i, row in enumerate(table.itertuples()):
        expected = stats.spearmanr(a.attributions[i], b.attributions[i]).statistic
        assert row.correlation == pytest.approx(expected, abs=1e-12)
        same = a.outputs.logits[i].argmax() == b.outputs.logits[i].argmax()
        assert row.same_prediction == same


def test_labels_alone_agree_among_all_points_and_not_within_labels():
    rng = np.random.default_rng(2)
    a = attributed()
    # Two models whose attributions have the sign of the label in common, and nothing else.
    sign = np.where(a.outputs.train_labels == 0, 1, -1)
    runs = [
        replace(a, run=run, attributions=(sign * rng.exponential(size=(35, 60))))
        for run in range(2)
    ]
    table = agreement_table(runs, "trNTK")
    # A third of the points oppose. Ranks of a group are about its mean; means are apart by N/2.
    share = 1 / 3
    between = 12 * share * (1 - share) / 4
    # Each of 35 has a standard deviation of 0.09 or 0.18 at most: the mean .015, .03.
    assert table["correlation"].mean() == pytest.approx(between, abs=0.06)
    assert table["within_labels"].mean() == pytest.approx(0.0, abs=0.09)


def test_other_points_and_datasets_are_not_compared():
    a = attributed()
    others = [
        replace(a, run=1, dataset="e"),
        attributed(run=2, train=10 * np.arange(60) + 1),
        attributed(run=3, test=7 * np.arange(40)),
    ]
    table = agreement_table([a, *others], "trNTK")
    assert table.empty
    assert list(table.columns) == list(agreement_table([a, replace(a, run=1)], "trNTK").columns)


def test_triggered_points_may_differ_between_runs_that_are_compared():
    a = attributed()
    fewer = replace(
        a.outputs,
        logits=a.outputs.logits[:35],
        labels=a.outputs.labels[:35],
        test=a.outputs.test[:35],
        triggered=0,
    )
    table = agreement_table([a, replace(a, run=1, outputs=fewer)], "trNTK")
    assert len(table) == 35


def measured(population, kernel="trNTK", surrogate="glm", **values):
    """The table of faithfulness of runs with given values of each metric."""
    rows = [
        {"population": population, "run": run, "kernel": kernel, "surrogate": surrogate,
         "metric": metric, "value": value, "lower": np.nan, "upper": np.nan}
        for metric, given in values.items()
        for run, value in enumerate(given)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_summary_holds_means_errors_and_what_is_published():
    taus = [0.70, 0.72, 0.66, 0.71]
    table = summary_table(
        pd.concat(
            [
                measured("MLP MNIST2", "trNTK", "sgd", kendall_tau=taus, tad=[0.001, 0, 0, 0.002]),
                measured("MLP MNIST2", "trNTK", "sgd", r_miss=[0.1, np.nan, 0.3, np.nan]),
                measured("MLP MNIST2", "CK", "sgd", kendall_tau=taus),
                measured("MLP MNIST2", kendall_tau=taus),
                measured("mine", "trNTK", "sgd", kendall_tau=[0.5]),
                measured("ResNet18 CIFAR10", kendall_tau=[0.8, 0.7], network_accuracy=[0.9, 0.92]),
            ]
        )
    )
    rows = table.set_index(["population", "kernel", "surrogate", "metric"])
    row = rows.loc[("MLP MNIST2", "trNTK", "sgd", "kendall_tau")]
    assert row["runs"] == 4 and row["mean"] == pytest.approx(np.mean(taus))
    error = stats.sem(taus)
    assert row["standard_error"] == pytest.approx(error)
    # Engel et al. 2024, small models: 0.708(3).
    assert (row["published"], row["published_error"]) == (0.708, 0.003)
    expected = (np.mean(taus) - 0.708) / math.sqrt(error**2 + 0.003**2)
    assert row["difference"] == pytest.approx(expected)
    row = rows.loc[("MLP MNIST2", "trNTK", "sgd", "tad")]
    # In percent there: +0.03(5).
    assert row["published"] == pytest.approx(0.0003) and row["published_error"] == 0.0005
    # Undefined for two of four runs.
    row = rows.loc[("MLP MNIST2", "trNTK", "sgd", "r_miss")]
    assert row["runs"] == 2 and row["mean"] == pytest.approx(0.2)
    assert row["standard_error"] == pytest.approx(stats.sem([0.1, 0.3]))
    assert np.isnan(row["published"])
    # Neither of another kernel, nor of another solver than theirs, nor of another name.
    for key in (("CK", "sgd"), ("trNTK", "glm")):
        row = rows.loc[("MLP MNIST2", *key, "kendall_tau")]
        assert row[["published", "published_error", "difference"]].isna().all()
    row = rows.loc[("mine", "trNTK", "sgd", "kendall_tau")]
    assert row["runs"] == 1 and row["mean"] == 0.5 and np.isnan(row["standard_error"])
    # One published model: no error, so no difference in errors. Its accuracy is of no solver.
    row = rows.loc[("ResNet18 CIFAR10", "trNTK", "glm", "network_accuracy")]
    assert row["published"] == pytest.approx(0.9307) and np.isnan(row["published_error"])
    assert np.isnan(row["difference"])


@pytest.mark.parametrize(
    ("key", "metric", "value"),
    [
        (("CNN MNIST2", "trNTK"), "kendall_tau", (0.857, 0.007)),
        (("CNN CIFAR2", "trNTK"), "tad", (-0.021, 0.005)),
        (("CNN FMNIST2", "trNTK"), "network_accuracy", (0.9795, 0.0004)),
        (("ResNet18 CIFAR10", "proj-pNTK"), "kendall_tau", (0.407, math.nan)),
        (("ResNet18 CIFAR10", "Em"), "r_miss", (0.80, math.nan)),
        (("BERT-base CoLA", "CK"), "r_miss", (0.91, 0.02)),
        (("BERT-base CoLA", "trNTK"), "kendall_tau", (0.809, 0.009)),
    ],
)
def test_published_values_are_those_of_the_paper(key, metric, value):
    assert PUBLISHED[key][metric] == pytest.approx(value, nan_ok=True)


def test_published_kernels_and_metrics_are_ours():
    assert {kernel for _, kernel in PUBLISHED} <= set(KERNELS)
    assert {metric for row in PUBLISHED.values() for metric in row} <= set(METRICS)


def test_curves_are_averaged_over_images_and_runs():
    rng = np.random.default_rng(0)
    precision = rng.random((2, 2, 7, 5))  # population, run, image, recall
    recalls = np.linspace(0, 1, 5)
    fooled = np.arange(7) < 4
    rows = [
        {"population": "ba"[p], "run": run, "kernel": "trNTK", "point": point,
         "fooled": fooled[point], "recall": recalls[r],
         "precision": precision[p, run, point, r], "by_label": 0.1 * p + run}
        for p in range(2) for run in range(2) for point in range(7) for r in range(5)
    ]  # fmt: skip
    table = mean_curves(pd.DataFrame(rows))
    for which, rows_of in table.groupby("fooled"):
        assert list(rows_of["population"]) == 5 * ["b"] + 5 * ["a"]
        assert_array_equal(rows_of["recall"], np.tile(recalls, 2))
        chosen = precision[:, :, fooled == which]
        every = chosen.reshape(2, -1, 5)
        assert set(rows_of["images"]) == {every.shape[1]}
        assert_allclose(rows_of["precision"], every.mean(axis=1).ravel())
        assert_allclose(rows_of["lower"], np.quantile(every, 0.1, axis=1).ravel())
        assert_allclose(rows_of["upper"], np.quantile(every, 0.9, axis=1).ravel())
        assert_allclose(rows_of["by_label"], np.repeat([0.5, 0.6], 5))
    nothing = mean_curves(pd.DataFrame(columns=list(rows[0])))
    assert nothing.empty and list(nothing.columns) == list(table.columns)


# -- the page ----------------------------------------------------------------------------------


def fits_of(summary):
    keys = summary[["population", "kernel", "surrogate"]].drop_duplicates().to_dict("records")
    numbers = {
        "l2": 1e-3,
        "l2_at_end": True,
        "gradient_norm": 2e-8,
        "iterations": 7,
        "train_accuracy": 0.875,
    }
    rows = [
        key | numbers | {"run": run, "converged": bool(run), "seconds": 0.5}
        for key in keys
        for run in range(2)
    ]
    return pd.DataFrame(rows)


def page_of(*tables):
    summary = summary_table(pd.concat(tables))
    return surrogates_page(summary, fits_of(summary))


def test_page_shows_published_values_in_brackets_and_escapes_names():
    name = "<script>alert(1)</script>"
    page = page_of(
        measured("MLP MNIST2", "trNTK", "sgd", tad=[0.001, 0.003], kendall_tau=[0.7, 0.72]),
        measured(name, tad=[-0.01, 0.0], kendall_tau=[0.5, 0.6], network_accuracy=[0.9, 0.95]),
        measured(name, surrogate="svm", tad=[0.0, 0.0], kendall_tau=[0.4, 0.5]),
        measured("ResNet18 CIFAR10", "Em", "sgd", kendall_tau=[0.75]),
    )
    assert "<script>" not in page and html.escape(name) in page
    # Percent for the difference of accuracies.
    assert "0.20 ± 0.10 (0.03 ± 0.05)" in page and "0.710 ± 0.010 (0.708 ± 0.003)" in page
    # A single run has no error, nor has the published model.
    assert "0.750 (0.768)" in page
    assert "92.50 ± 2.50" in page and "-0.50 ± 0.50" in page
    assert "svm" in page and "1 of" not in page


def test_page_has_one_row_a_population_though_a_measure_is_undefined():
    page = page_of(
        measured("p", tad=[0.0, 0.1, 0.2], r_miss=[np.nan, 0.1, np.nan]),
        measured("q", tad=[0.0, 0.1, 0.2], r_miss=[np.nan, np.nan, np.nan]),
    )
    networks = page.split("<h2>Networks</h2>")[1].split("<h2>")[0]
    assert networks.count("<tr>") == 2 and "<td>3</td>" in networks
    # What nobody has is a dash.
    assert "<td>–</td>" in networks


def test_page_of_kernels_without_the_trace_ntk():
    page = page_of(measured("p", "CK", tad=[0.01]), measured("p", "Em", tad=[0.02]))
    networks = page.split("<h2>Networks</h2>")[1].split("<h2>")[0]
    assert "1.00" in networks and "2.00" not in networks
    kernels = page.split("<h2>Kernels</h2>")[1].split("<h2>")[0]
    assert "1.00" in kernels and "2.00" in kernels


def test_page_says_how_the_surrogates_were_fitted():
    page = page_of(measured("p", tad=[0.01, 0.02]))
    fits = page.split("<h2>Fits</h2>")[1]
    for shown in ("<td>0.001</td>", "<td>2e-08</td>", "<td>0.875</td>", "<td>7</td>"):
        assert shown in fits
    # One of the two runs has converged.
    assert "<td>2</td>" in fits and "<td>1</td>" in fits
