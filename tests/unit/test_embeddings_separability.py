"""Separability against scikit-learn, closed forms, and data without an effect."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from scipy.special import expit
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import confusion_matrix, roc_auc_score

from model_metrology.embeddings.folds import grouped_folds
from model_metrology.embeddings.items import Items, strings
from model_metrology.embeddings.layers import layers_table
from model_metrology.embeddings.lda import fit_lda
from model_metrology.embeddings.separability import (
    chosen_separability,
    held_out_p_value,
    separability,
)
from model_metrology.embeddings.separation_tables import separability_tables
from model_metrology.embeddings.views import Embedding

KEY = {"contrast": "c", "embedder": "e"}


def reference():
    return LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")


def clouds(n=120, d=6, classes=2, shift=1.0, seed=0):
    """Gaussian clouds with features of unequal scale, and labels that take turns."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = shift * rng.normal(size=(classes, d))
    scales = np.exp(rng.normal(size=d))
    return (rng.normal(size=(n, d)) + centres[labels]) * scales + rng.normal(size=d), labels


def pairs(n, d, shift=0.0, noise=1.0, seed=0):
    """Pairs that share a prompt: labels "a", "b", and the group of each point."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n), 2)
    labels = np.tile(["a", "b"], n)
    points = rng.normal(size=(n, d))[groups] + noise * rng.normal(size=(2 * n, d))
    points[labels == "b", 0] += shift
    return points, labels, groups


# -- the classifier --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "d", "classes"),
    [(100, 5, 2), (60, 90, 2), (100, 40, 3), (50, 1, 2), (40, 2, 4), (30, 200, 3)],
)
def test_lda_is_scikit_learns(n, d, classes):
    points, labels = clouds(n, d, classes)
    expected = reference().fit(points, labels).decision_function(points)
    found = fit_lda(points, labels, classes)(points)
    if classes == 2:
        assert_allclose(found[:, 1] - found[:, 0], expected, rtol=1e-6, atol=1e-6)
    else:
        assert_allclose(
            found - found[:, :1], expected - expected[:, :1], rtol=1e-6, atol=1e-6
        )  # up to a constant for each point


@pytest.mark.parametrize("d", [5, 80])
def test_lda_is_scikit_learns_with_constant_features_and_unequal_classes(d):
    points, labels = clouds(60, d)
    labels[:21] = 0
    points[:, 0] = 3.0
    points[labels == 1, 1] = 0.5
    expected = reference().fit(points, labels).decision_function(points)
    found = fit_lda(points, labels, 2)(points)
    assert_allclose(found[:, 1] - found[:, 0], expected, rtol=1e-6, atol=1e-6)


def test_features_that_never_vary_say_nothing():
    result = separability(np.full((40, 3), 0.1), np.arange(40) % 2, permutations=9)
    assert result.auroc == 0.5
    assert result.accuracy == 0.5
    assert result.p_value == 1.0


def test_rounding_is_not_a_feature():
    # A first token without context, that differs by its last bit with the length of the text.
    labels = np.arange(60) % 2
    points = np.full((60, 4), 0.7, dtype=np.float32)
    points[labels == 1] = np.nextafter(np.float32(0.7), np.float32(1))
    assert separability(points, labels, permutations=0).auroc == 0.5


@pytest.mark.parametrize("classes", [2, 3])
def test_held_out_answers_are_scikit_learns_in_the_same_folds(classes):
    points, labels = clouds(90, 12, classes, shift=0.5)
    groups = np.arange(90) // (2 * classes)
    result = separability(points, labels, groups, permutations=0, bootstraps=0)
    posterior = np.empty((90, classes))
    for fold in range(5):
        test = result.folds == fold
        fitted = reference().fit(points[~test], labels[~test])
        posterior[test] = fitted.predict_proba(points[test])
    assert_allclose(expit(result.scores), posterior, atol=1e-6)
    assert_array_equal(result.predictions, posterior.argmax(axis=1).astype(str))
    assert result.accuracy == np.mean(posterior.argmax(axis=1) == labels)
    assert_array_equal(result.confusion, confusion_matrix(labels, posterior.argmax(axis=1)))
    ranked = posterior[:, 1] if classes == 2 else posterior
    expected = roc_auc_score(labels, ranked, multi_class="ovr")
    assert result.auroc == pytest.approx(expected, abs=1e-9)
    assert np.isnan([result.lower, result.auroc_upper, result.p_value]).all()


def test_accuracy_of_two_gaussians_is_that_of_their_mahalanobis_distance():
    rng = np.random.default_rng(0)
    n, d, distance = 4000, 4, 1.5
    mixing = rng.normal(size=(d, d))
    labels = np.arange(n) % 2
    shift = mixing @ np.eye(d)[0] * distance
    points = rng.normal(size=(n, d)) @ mixing.T + labels[:, None] * shift
    result = separability(points, labels, permutations=0)
    expected = stats.norm.cdf(distance / 2)
    assert result.accuracy == pytest.approx(expected, abs=3 * np.sqrt(0.25 / n))
    assert result.auroc == pytest.approx(stats.norm.cdf(distance / np.sqrt(2)), abs=0.025)
    assert result.lower < expected < result.upper
    # The interval of a share of n independent answers.
    width = 2 * 1.96 * np.sqrt(expected * (1 - expected) / n)
    assert result.upper - result.lower == pytest.approx(width, rel=0.2)


def test_saturated_posteriors_still_rank():
    points, labels = clouds(60, 2, shift=0)
    points[:, 0] += 1e4 * labels
    result = separability(points, labels, permutations=0)
    assert result.accuracy == result.auroc == 1.0
    assert len(np.unique(result.scores[:, 1])) == 60


def test_same_seed_same_result_and_another_seed_other_folds():
    points, labels = clouds(60, 4)
    first, again = (separability(points, labels, permutations=9) for _ in range(2))
    for name in vars(first):
        assert_array_equal(getattr(first, name), getattr(again, name))
    other = separability(points, labels, permutations=0, seed=1)
    assert not np.array_equal(first.folds, other.folds)


# -- groups ----------------------------------------------------------------------------------------


def test_no_group_is_on_both_sides_and_classes_are_in_proportion():
    labels = np.array(["a"] * 40 + ["b"] * 25 + ["c"] * 10)
    folds = grouped_folds(labels, folds=5)
    assert_array_equal(pd.crosstab(folds.fold, labels).to_numpy(), np.tile([8, 5, 2], (5, 1)))
    _, _, groups = pairs(23, 1)
    folds = grouped_folds(np.tile(["a", "b"], 23), groups, folds=5)
    assert all(len(np.unique(folds.fold[groups == g])) == 1 for g in range(23))


def test_duplicates_leak_unless_grouped():
    # Noise, each point four times over with one random label: told apart by recognition alone.
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 4)
    labels = rng.permutation(np.arange(60) % 2)[groups]
    points = rng.normal(size=(60, 150))[groups] + 1e-3 * rng.normal(size=(240, 150))
    assert separability(points, labels, permutations=0).accuracy > 0.9
    apart = separability(points, labels, groups, permutations=0)
    assert apart.lower < 0.5 < apart.upper
    # Sixty groups, not 240 points, are what the interval knows of.
    ungrouped = np.sqrt(0.25 / 240)
    assert apart.upper - apart.lower > 1.5 * 2 * 1.96 * ungrouped


def test_permuted_labels_stay_in_their_groups_or_folds():
    rng = np.random.default_rng(0)
    groups = np.concatenate((np.repeat(np.arange(10), 2), np.repeat(np.arange(10, 30), 3)))
    labels = np.concatenate((np.tile([0, 1], 10), np.repeat(rng.permutation(np.arange(20) % 2), 3)))
    folds = grouped_folds(labels, groups, folds=5)
    drawn = folds.permuted(50, seed=0)
    assert len(np.unique(drawn, axis=0)) == 50
    for permuted in drawn:
        for g in range(10):
            assert set(permuted[groups == g]) == {0, 1}
        for g in range(10, 30):
            assert len(set(permuted[groups == g])) == 1
        for f in range(5):
            assert permuted[folds.fold == f].sum() == labels[folds.fold == f].sum()


# -- chance ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("grouped", [True, False])
def test_p_values_without_an_effect_are_uniform_and_intervals_cover_chance(grouped):
    found = []
    for seed in range(40):
        points, labels, groups = pairs(30, 4, seed=seed)
        if not grouped:
            # Only without the scatter of prompts are single points exchangeable.
            points, groups = np.random.default_rng(seed).normal(size=(60, 4)), None
        found.append(separability(points, labels, groups, permutations=49, seed=seed))
    values = [result.p_value for result in found]
    assert stats.kstest(values, "uniform").pvalue > 0.01
    covered = [result.lower <= 0.5 <= result.upper for result in found]
    assert np.mean(covered) > 0.75  # the answers of a cross-validation depend on each other


def test_p_values_without_refits_are_valid_and_find_an_effect():
    values = []
    for seed in range(60):
        points, labels, groups = pairs(30, 4, seed=seed)
        told = separability(points, labels, groups, permutations=0, bootstraps=0, seed=seed)
        split = grouped_folds(labels, groups, seed=seed)
        assert_array_equal(split.fold, told.folds)
        values.append(held_out_p_value(told.scores, split, permutations=199, seed=seed))
    # At most as many small ones as a uniform law has, up to chance.
    for level in (0.05, 0.2):
        assert (np.array(values) <= level).sum() <= stats.binom.ppf(0.99, 60, level)
    points, labels, groups = pairs(60, 4, shift=2.0)
    told = separability(points, labels, groups, permutations=99)
    split = grouped_folds(labels, groups)
    assert told.p_value == 0.01
    assert held_out_p_value(told.scores, split) < 0.01


def test_paired_labels_are_tested_within_their_pairs():
    # The prompt's own scatter hides a shift that every pair shows.
    points, labels, groups = pairs(80, 2, shift=0.7, noise=0.3)
    assert separability(points, labels, groups, permutations=199).p_value <= 0.01


# -- choice of a view ------------------------------------------------------------------------------


def test_the_best_of_many_views_of_noise_is_not_above_chance():
    rng = np.random.default_rng(0)
    labels, groups = np.tile(["a", "b"], 60), np.repeat(np.arange(60), 2)
    nested, best = [], []
    for seed in range(5):
        views = {str(v): rng.normal(size=(120, 5)) for v in range(14)}
        nested.append(chosen_separability(views, labels, groups, seed=seed).accuracy)
        best.append(
            max(
                separability(view, labels, groups, permutations=0, bootstraps=0).accuracy
                for view in views.values()
            )
        )
    assert abs(np.mean(nested) - 0.5) < 3 * np.sqrt(0.25 / 600)
    assert np.mean(best) > 0.56  # what choosing after the fact would claim


def test_a_telling_view_is_chosen_for_every_fold_and_tested_as_if_alone():
    points, labels, groups = pairs(40, 4, shift=5.0)
    rng = np.random.default_rng(1)
    views = {"0 mean": rng.normal(size=(80, 7)), "1 mean": points, "2 mean": -points}
    found = chosen_separability(views, labels, groups)
    assert found.views == ("1 mean",) * 5  # the first of two that are as good
    alone = separability(points, labels, groups, permutations=0)
    for name in ("accuracy", "lower", "upper", "auroc", "auroc_lower", "scores", "folds"):
        assert_allclose(getattr(found, name), getattr(alone, name))
    assert found.p_value < 0.02


def test_a_view_is_chosen_as_by_cross_validation_on_the_training_folds_alone():
    points, labels, groups = pairs(40, 6, shift=1.0)
    rng = np.random.default_rng(2)
    views = {str(v): points + v * rng.normal(size=points.shape) for v in (1.0, 0.8, 1.2)}
    found = chosen_separability(views, labels, groups)
    for f, name in enumerate(found.views):
        right = dict.fromkeys(views, 0)
        for view, values in views.items():
            for g in set(range(5)) - {f}:
                train, test = ~np.isin(found.folds, (f, g)), found.folds == g
                fitted = reference().fit(values[train], labels[train])
                right[view] += (fitted.predict(values[test]) == labels[test]).sum()
        assert name == max(right, key=right.__getitem__)


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros(40)}, "two classes"),
        ({"labels": np.arange(39) % 2}, r"\(40,\)"),
        ({"groups": np.arange(39)}, r"\(40,\)"),
        ({"labels": np.arange(40) < 3}, "class 'True' has 3 group.*fewer folds"),
        ({"groups": np.arange(40) % 4}, "has 2 group"),
        ({"folds": 1}, "at least 2"),
        ({"permutations": -1}, "permutations"),
        ({"bootstraps": 1}, "bootstraps"),
        ({"level": 0.0}, "level"),
        ({"embeddings": np.full((40, 2), np.nan)}, r"embeddings\[0, 0\] is nan.*embed it again"),
        ({"embeddings": np.zeros(40)}, r"\(n, d\)"),
    ],
)
def test_what_cannot_be_measured_is_said(change, message):
    points, labels = clouds(40, 2)
    given = {"embeddings": points, "labels": labels, "groups": None} | change
    with pytest.raises(ValueError, match=message):
        separability(**given)


def test_what_cannot_be_chosen_is_said():
    points, labels = clouds(40, 2)
    with pytest.raises(ValueError, match="none to choose"):
        chosen_separability({}, labels)
    with pytest.raises(ValueError, match="at least 3"):
        chosen_separability({"a": points}, labels, folds=2)
    with pytest.raises(ValueError, match="same points"):
        chosen_separability({"a": points, "b": points[1:]}, labels)


# -- tables ----------------------------------------------------------------------------------------


def items(sources, prompts=30, seed=0):
    """Texts of sources by the same prompts, with a topic by prompt that every third lacks."""
    source = np.repeat(sources, prompts)
    group = np.tile(np.arange(prompts), len(sources))
    topics = np.array(["sport", "business", ""])[group % 3]
    return Items(
        "texts", strings(source), strings(np.arange(len(source))), strings(group),
        {"topic": strings(topics)}, strings(np.full(len(source), "a text")),
    )  # fmt: skip


def embedding(of, seed=0):
    """Layer 0 is noise, layer 1 has the topic, layer 2 the source."""
    rng = np.random.default_rng(seed)
    noise = [rng.normal(size=(len(of.source), 6)).astype(np.float32) for _ in range(3)]
    noise[1][:, 0] += 6 * (of.labels["topic"] == "sport") - 6 * (of.labels["topic"] == "business")
    noise[2][:, 0] += 6 * np.unique(of.source, return_inverse=True)[1]
    return Embedding({f"{layer} mean": values for layer, values in enumerate(noise)})


def test_tables_of_three_sources_have_all_pairs_and_all_at_once():
    of = items(["human", "gpt", "llama"])
    embeddings = {"": embedding(of), "letters": embedding(of, seed=1)}
    tables = separability_tables(of, embeddings, KEY, permutations=9, bootstraps=20)
    table = tables["separability"]
    assert list(table.columns[:4]) == ["contrast", "embedder", "view", "control"]
    assert len(table) == 2 * 2 * 4
    asked = {("human", "gpt"), ("human", "llama"), ("gpt", "llama"), ("", "")}
    assert set(zip(table["source_a"], table["source_b"], strict=True)) == asked
    final = table[table["choice"] == "final"]
    assert set(final["view"]) == {"2 mean"}
    assert (final["accuracy"] > 0.95).all()
    assert (table["groups"] == 30).all()
    every = table["source_a"] == ""
    assert set(table.loc[every, "n"]) == {90}
    assert set(table.loc[~every, "n"]) == {60}
    assert set(table.loc[~every, "chance"]) == {0.5}
    chosen = table[table["choice"] == "chosen"]
    assert set(chosen["chosen"]) == {"2 mean ×5"}
    assert set(chosen["view"]) == {""}
    assert (table["p_value"] <= 0.1).all()
    counted = tables["confusion"].groupby(["control", "choice"])["count"].sum()
    assert (counted == 90).all()
    assert len(counted) == 4


def test_of_two_sources_the_pair_is_all_there_is():
    of = items(["human", "gpt"])
    one = Embedding({"output": embedding(of).views["2 mean"]})
    table = separability_tables(of, {"": one}, KEY, permutations=9, bootstraps=20)["separability"]
    assert len(table) == 4
    assert table["accuracy"].nunique() == 1
    assert list(table["chosen"]) == ["", "", "output ×5", "output ×5"]


def test_layers_say_where_each_label_is_written():
    of = items(["human", "gpt"])
    plain = embedding(of)
    plain.views["2 cls"] = np.full((60, 6), 0.3, dtype=np.float32)
    table = layers_table(of, plain, KEY, bootstraps=20).set_index(["label", "view"])
    assert len(table) == 8
    assert table.loc[("source", "2 mean"), "accuracy"] > 0.95
    assert table.loc[("topic", "1 mean"), "accuracy"] > 0.95
    for missed in (("source", "1 mean"), ("topic", "2 mean"), ("topic", "0 mean")):
        row = table.loc[missed]
        assert row["accuracy"] < 0.75
        assert row["kmeans_ari"] < 0.2
        assert row["pc1_eta2"] < 0.2
    for told in (("source", "2 mean"), ("topic", "1 mean")):
        assert table.loc[told, "pc1_auroc"] > 0.95
        assert table.loc[told, "kmeans_ari"] > 0.8
    assert table.loc[("source", "2 mean"), "layer"] == 2
    assert np.isnan(table.loc[("source", "2 cls"), "pc1_eta2"])
    assert table.loc[("source", "2 cls"), "auroc"] == 0.5


def test_layers_leave_out_what_cannot_be_divided():
    of = items(["human", "gpt"])
    of.labels["rare"] = strings(np.where(np.array(of.group) == "3", "yes", "no"))
    table = layers_table(of, embedding(of), KEY, bootstraps=0)
    assert set(table["label"]) == {"source", "topic"}
