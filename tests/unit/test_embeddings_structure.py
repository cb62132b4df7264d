"""Components, clusters and discriminant axes, against other code, closed forms and simulation."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.feature_selection import mutual_info_classif
from sklearn.metrics import adjusted_rand_score, roc_auc_score

from model_metrology.embeddings.clustering import (
    METHODS,
    adjusted_rand,
    agreement,
    cluster,
    clustering_table,
    joint_labels,
    purity,
)
from model_metrology.embeddings.components import (
    association,
    auroc,
    components_table,
    eta_squared,
    principal_components,
    separation,
)
from model_metrology.embeddings.grouping import group_folds, permuted_labels
from model_metrology.embeddings.items import Items, strings
from model_metrology.embeddings.structure_tables import structure_tables
from model_metrology.embeddings.views import Embedding
from model_metrology.embeddings.whitening import fit_discriminant, held_out_axes

KEY = {"contrast": "c", "embedder": "e"}


def paired(n=60, d=20, sources=2, shift=2.0, topic=4.0, seed=0):
    """Documents in several sources each: topic along axis 0, source along axis 1."""
    rng = np.random.default_rng(seed)
    document = np.tile(np.arange(n), sources)
    source = np.repeat(np.arange(sources), n)
    points = rng.normal(size=(n, d))[document] + rng.normal(size=(n * sources, d))
    points[:, 0] += topic * (document % 2)
    points[:, 1] += shift * source
    labels = np.array(["sport", "trade"])[document % 2]
    return points, np.array(["human", "machine", "other"])[source], document.astype(str), labels


def items_of(source, group, topic):
    n = len(source)
    return Items(
        "texts",
        strings(source),
        strings(np.arange(n)),
        strings(group),
        {"topic": strings(topic)},
        texts=strings([f"text {i}" for i in range(n)]),
    )


# -- folds and permutations ----------------------------------------------------------------------


def test_folds_keep_groups_whole_and_classes_in_proportion():
    _, source, group, _ = paired(n=53)
    fold = group_folds(group, source, 5, seed=3)
    for name in np.unique(group):
        assert len(set(fold[group == name])) == 1
    for name in np.unique(source):
        counts = np.bincount(fold[source == name])
        assert counts.max() - counts.min() <= 1
    assert_array_equal(fold, group_folds(group, source, 5, seed=3))
    assert not np.array_equal(fold, group_folds(group, source, 5, seed=4))


def test_folds_say_what_is_missing():
    with pytest.raises(ValueError, match="3 groups cannot be dealt to 5 folds"):
        group_folds(["a", "b", "c"], ["x", "y", "x"], 5)
    with pytest.raises(ValueError, match="'rare' is in 1 group"):
        group_folds(np.arange(9), ["rare"] + ["common"] * 8, 3)


def test_permutations_stay_within_mixed_groups_and_exchange_pure_ones_whole():
    groups = np.array([0, 0, 0, 1, 1, 2, 2, 3, 4, 4, 5])
    codes = np.array([0, 1, 1, 0, 2, 1, 1, 0, 2, 2, 0])
    drawn = np.concatenate(list(permuted_labels(codes, groups, 300, seed=1)))
    assert drawn.shape == (300, len(codes))
    for mixed in (0, 1):
        here = groups == mixed
        assert (np.sort(drawn[:, here], axis=1) == np.sort(codes[here])).all()
    pure = [drawn[:, np.flatnonzero(groups == g)] for g in (2, 3, 4, 5)]
    assert all((part == part[:, :1]).all() for part in pure)
    held = np.sort(np.column_stack([part[:, 0] for part in pure]), axis=1)
    assert (held == [0, 0, 1, 2]).all()
    assert len(np.unique(drawn, axis=0)) > 30


def test_permutations_are_uniform():
    # 0, 0, 1 within one group: each place has the 1 in a third of the draws.
    drawn = np.concatenate(list(permuted_labels([0, 0, 1], [7, 7, 7], 3000, seed=0)))
    assert stats.chisquare(drawn.sum(axis=0)).pvalue > 1e-3
    between = np.concatenate(list(permuted_labels([0, 0, 1], [7, 8, 9], 3000, seed=0)))
    assert stats.chisquare(between.sum(axis=0)).pvalue > 1e-3


def test_permutations_come_in_blocks_of_any_size(monkeypatch):
    codes, groups = np.arange(40) % 2, np.arange(40) // 4
    whole = list(permuted_labels(codes, groups, 10, seed=5))
    assert len(whole) == 1
    monkeypatch.setattr("model_metrology.embeddings.grouping._BLOCK", 120)
    parts = list(permuted_labels(codes, groups, 10, seed=5))
    assert [len(part) for part in parts] == [3, 3, 3, 1]


# -- components ----------------------------------------------------------------------------------


def test_components_are_those_of_a_full_decomposition():
    points = np.random.default_rng(0).normal(size=(80, 30)) * np.linspace(3, 0.5, 30)
    found = principal_components(points, 5)
    full = PCA(svd_solver="full").fit(points)
    assert_allclose(found.variance, full.explained_variance_ratio_[:5], rtol=1e-6)
    scores = full.transform(points)[:, :5]
    signs = np.sign((scores * found.scores).sum(axis=0))
    assert_allclose(found.scores, scores * signs, atol=1e-5)
    largest = np.abs(found.axes).argmax(axis=1)
    assert (found.axes[np.arange(5), largest] > 0).all()


def test_single_precision_bears_large_means():
    points = np.random.default_rng(1).normal(size=(200, 16)) * np.linspace(2, 1, 16)
    single = (points + 1000.0).astype(np.float32)
    found = principal_components(single, 3)
    reference = principal_components(single.astype(np.float64), 3)
    assert_allclose(found.scores, reference.scores, atol=1e-3)
    assert found.scores.dtype == np.float64


def test_components_that_are_rounding_are_left_out():
    rng = np.random.default_rng(2)
    flat = rng.normal(size=(50, 2)) @ rng.normal(size=(2, 10)) + 3.0
    assert principal_components(flat, 10).scores.shape == (50, 2)
    # Duplicates are no trouble, nor are fewer items than components.
    assert principal_components(np.tile(flat[:4], (3, 1)), 10).scores.shape == (12, 2)


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.full((9, 4), 0.3), "all items are embedded alike"),
        (np.full((9, 4), 0.1, dtype=np.float32), "all items are embedded alike"),
        (np.zeros((9, 4)), "all items are embedded alike"),
        (np.zeros((1, 4)), "n at least 2"),
        (np.array([[1.0, np.nan], [0.0, 1.0]]), "not finite"),
    ],
)
def test_components_say_what_is_wrong(points, message):
    with pytest.raises(ValueError, match=message):
        principal_components(points)


def test_eta_squared_is_what_analysis_of_variance_has():
    rng = np.random.default_rng(3)
    codes = rng.integers(3, size=70)
    values = rng.normal(size=(70, 4)) + codes[:, None] * [0, 0.3, 1, 5]
    for value, share in zip(values.T, eta_squared(values, codes), strict=True):
        f = stats.f_oneway(*(value[codes == c] for c in range(3))).statistic
        assert share / 2 / ((1 - share) / 67) == pytest.approx(f)
    ways = np.stack([rng.permutation(codes) for _ in range(5)])
    each = [eta_squared(values, way) for way in ways]
    assert_allclose(eta_squared(values, ways), each, rtol=1e-12)
    assert math.isnan(eta_squared(np.ones((4, 1)), [0, 0, 1, 1])[0])


def test_eta_squared_of_a_planted_shift():
    # Two equal classes a distance δ apart with variance 1 within: δ²/4 over 1 + δ²/4.
    rng = np.random.default_rng(4)
    codes = np.arange(20000) % 2
    values = rng.normal(size=(20000, 1)) + 1.5 * codes[:, None]
    assert eta_squared(values, codes)[0] == pytest.approx(0.5625 / 1.5625, abs=0.01)
    expected = stats.norm.cdf(1.5 / math.sqrt(2))
    assert auroc(values, codes == 1)[0] == pytest.approx(expected, abs=0.01)


def test_auroc_is_scikit_learns_with_ties():
    rng = np.random.default_rng(5)
    values, codes = rng.integers(6, size=(90, 3)), rng.integers(2, size=90)
    expected = [roc_auc_score(codes, value) for value in values.T]
    assert_allclose(auroc(values, codes == 1), expected)
    assert auroc(values[:, 0], codes == 1) == pytest.approx(expected[0])
    assert_allclose(separation(values, codes), np.maximum(expected, 1 - np.array(expected)))
    assert np.isnan(separation(values, rng.integers(3, size=90))).all()
    assert np.isnan(auroc(values, np.ones(90, dtype=bool))).all()


def test_association_has_the_p_values_of_independent_components():
    rng = np.random.default_rng(6)
    codes = np.arange(200) % 2
    scores = rng.normal(size=(200, 6))
    scores[:, 3] += 2 * codes
    found = association(scores, codes, np.arange(200), permutations=499)
    assert found.eta2.argmax() == 3
    assert found.p_value[3] == found.p_adjusted[3] == 1 / 500
    assert (found.p_adjusted >= found.p_value).all()
    expected = mutual_info_classif(scores, codes, random_state=0)
    assert_allclose(found.mutual_information, expected)
    # Items on their own: about the p-value of the F test, and Šidák's of six of them.
    exact = np.array([stats.f_oneway(s[codes == 0], s[codes == 1]).pvalue for s in scores.T])
    assert_allclose(found.p_value, exact, atol=0.06)
    assert_allclose(found.p_adjusted, 1 - (1 - exact) ** 6, atol=0.06)


def test_pairs_are_compared_within_themselves():
    # Documents differ a lot, their two versions by little but always: a test that ignored pairs
    # would see nothing.
    rng = np.random.default_rng(7)
    document = np.repeat(np.arange(60), 2)
    scores = 10 * rng.normal(size=60)[document] + 0.5 * (np.arange(120) % 2)
    scores = (scores + 0.2 * rng.normal(size=120))[:, None]
    codes = np.arange(120) % 2
    assert association(scores, codes, document, permutations=199).p_value[0] == 1 / 200
    assert association(scores, codes, np.arange(120), permutations=199).p_value[0] > 0.3


@pytest.mark.parametrize("design", ["single", "pairs", "whole groups"])
def test_family_wise_error_is_at_most_the_level(design):
    rng = np.random.default_rng(8)
    n, trials, rejected = 48, 120, 0
    for trial in range(trials):
        groups = np.arange(n) // {"single": 1, "pairs": 2, "whole groups": 4}[design]
        # Items of a group are alike; a label that is constant in groups meets that at its worst.
        scores = rng.normal(size=(n, 5))[groups] + 0.3 * rng.normal(size=(n, 5))
        codes = np.arange(n) % 2 if design != "whole groups" else groups % 2
        found = association(scores, codes, groups, permutations=59, seed=trial)
        rejected += found.p_adjusted.min() <= 0.05
    # 60 permutations with the labels' own: p ≤ 0.05 has probability 3/60 for the smallest.
    assert stats.binomtest(rejected, trials, 0.05, "greater").pvalue > 1e-3
    assert rejected > 0


def test_a_label_with_one_class_is_named():
    scores = principal_components(np.random.default_rng(9).normal(size=(12, 4)), 2)
    with pytest.raises(ValueError, match="label 'topic': a label needs at least two classes"):
        components_table(scores, {"topic": ["a"] * 6 + [""] * 6}, np.arange(12))
    with pytest.raises(ValueError, match="label 'id': every item is a class of its own"):
        components_table(scores, {"id": np.arange(12)}, np.arange(12))


# -- clusters ------------------------------------------------------------------------------------


def blobs(sizes=(40, 50, 60), d=12, apart=12.0, seed=0):
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(len(sizes)), sizes)
    centres = apart * np.eye(len(sizes), d)
    return centres[codes] + rng.normal(size=(len(codes), d)), codes


def test_adjusted_rand_and_purity_by_other_code():
    rng = np.random.default_rng(10)
    tables, expected = [], []
    for _ in range(20):
        a, b = rng.integers(3, size=50), rng.integers(4, size=50)
        b = np.where(rng.random(50) < 0.5, a, b)
        tables.append(np.histogram2d(a, b, bins=(range(4), range(5)))[0])
        expected.append(adjusted_rand_score(a, b))
    assert_allclose(adjusted_rand(tables), expected, atol=1e-12)
    assert_allclose(purity(tables), [table.max(axis=0).sum() / 50 for table in tables])
    assert adjusted_rand([[5.0]]) == 1.0
    assert adjusted_rand([[5.0], [5.0]]) == 0.0


@pytest.mark.parametrize("method", METHODS)
def test_what_lies_apart_is_found(method):
    points, codes = blobs()
    found = cluster(points, method, None if method == "HDBSCAN" else 3)
    assert adjusted_rand_score(codes, found) == 1.0
    assert_array_equal(found, cluster(points, method, 3))
    # The scale of an embedding is of no consequence.
    assert adjusted_rand_score(cluster(points * 1e-3, method, 3), codes) == 1.0


@pytest.mark.parametrize("method", METHODS)
def test_duplicates_are_no_trouble(method):
    points, codes = blobs((10, 10), seed=1)
    found = cluster(np.repeat(points, 3, axis=0), method, 2)
    assert adjusted_rand_score(np.repeat(codes, 3), found) == 1.0


def test_few_items_give_the_mixture_few_dimensions():
    points, codes = blobs((9, 9), d=40, apart=20)
    assert adjusted_rand_score(codes, cluster(points, "Gaussian mixture", 2)) == 1.0


def test_noise_counts_as_one_more_cluster():
    rng = np.random.default_rng(11)
    codes = np.arange(90) % 2
    clusters = np.where(np.arange(90) < 30, -1, codes)
    found = agreement(clusters, codes, np.arange(90), permutations=99)
    assert found["noise"] == pytest.approx(1 / 3)
    assert (found["classes"], found["clusters"]) == (2, 2)
    assert found["ari"] == pytest.approx(adjusted_rand_score(codes, clusters))
    assert found["purity"] == pytest.approx((15 + 60) / 90)
    assert found["p_value"] == 0.01
    unrelated = agreement(rng.integers(3, size=90), codes, np.arange(90), permutations=99)
    assert unrelated["p_value"] > 0.05


def test_chance_of_purity():
    # In one cluster: the commonest class. In two of two, of labels half and half: by simulation.
    labels = np.array([0] * 30 + [1] * 10)
    found = agreement(np.zeros(40, dtype=int), labels, np.arange(40), permutations=9)
    assert found["purity_chance"] == found["purity"] == 0.75
    assert (found["ari"], found["p_value"]) == (0.0, 1.0)
    halves = np.arange(40) % 2
    clusters = np.arange(40) // 20
    by_hand = [
        max(k, 20 - k) / 20 * weight
        for k, weight in enumerate(stats.hypergeom.pmf(np.arange(21), 40, 20, 20))
    ]
    found = agreement(clusters, halves, np.arange(40), permutations=9)
    assert found["purity_chance"] == pytest.approx(sum(by_hand), abs=0.02)


def test_a_joint_label_is_tested_for_what_it_adds():
    # Clusters know the topic alone: within documents, the joint label has nothing more.
    _, source, group, topic = paired()
    joint = joint_labels(source, topic)
    assert set(joint) == {"human × sport", "human × trade", "machine × sport", "machine × trade"}
    clusters = (topic == "trade").astype(int)
    assert agreement(clusters, topic, group, permutations=99)["p_value"] == 0.01
    assert agreement(clusters, joint, group, permutations=99)["p_value"] == 1.0
    assert joint_labels(["a", "a"], ["", "x"]).tolist() == ["", "a × x"]


def test_clusters_of_items_that_have_the_label():
    points, codes = blobs((30, 30, 30))
    label = np.array(["x", "y", ""])[codes]
    table = clustering_table(points, {"topic": label}, np.arange(90), permutations=9)
    assert table["ari"].tolist() == [1.0, 1.0, 1.0]
    assert table["classes"].tolist() == [2, 2, 2]


def test_clusters_say_what_is_wrong():
    points, codes = blobs((6, 6))
    with pytest.raises(ValueError, match=r"count must lie in 1…12"):
        cluster(points, "k-means", 13)
    with pytest.raises(ValueError, match="count must lie in"):
        cluster(points, "Gaussian mixture")
    with pytest.raises(ValueError, match="method: unknown 'mean shift'"):
        cluster(points, "mean shift", 2)
    with pytest.raises(ValueError, match="label 'source': a label needs"):
        clustering_table(points, {"source": ["a"] * 12}, codes)


# -- discriminant axes ---------------------------------------------------------------------------


def test_discriminant_is_scikit_learns_with_the_same_shrinkage():
    rng = np.random.default_rng(12)
    codes = np.arange(120) % 3
    points = rng.normal(size=(120, 15)) @ rng.normal(size=(15, 15)) + codes[:, None]
    fit = fit_discriminant(points, codes)
    assert 0 < fit.shrinkage < 1
    scaled = points / fit.scale
    reference = LinearDiscriminantAnalysis(
        solver="lsqr", shrinkage=fit.shrinkage, priors=np.full(3, 1 / 3)
    ).fit(scaled, codes)
    expected = reference.decision_function(scaled)
    scores = -fit.distances(points) / 2
    # Scores are known up to what all classes share.
    assert_allclose(np.diff(scores, axis=1), np.diff(expected, axis=1), rtol=1e-5, atol=1e-5)
    gap = scaled - reference.means_[1]
    mahalanobis = (gap * np.linalg.solve(reference.covariance_, gap.T).T).sum(axis=1)
    assert_allclose(fit.distances(points)[:, 1], mahalanobis, rtol=1e-5)


def test_scales_of_features_are_of_no_consequence():
    points, codes = blobs((30, 30), apart=2.0)
    factors = 10.0 ** np.linspace(-3, 3, points.shape[1])
    plain, scaled = fit_discriminant(points, codes), fit_discriminant(points * factors, codes)
    assert_allclose(plain.distances(points), scaled.distances(points * factors), rtol=1e-6)


def test_discriminant_bears_constant_and_copied_features():
    points, codes = blobs((30, 30), apart=2.0)
    constant = np.column_stack((points, np.full(60, 5.0), points[:, :3], np.zeros(60)))
    assert np.isfinite(fit_discriminant(constant, codes).distances(constant)).all()
    with pytest.raises(ValueError, match="no variation within classes"):
        fit_discriminant(np.eye(2)[codes], codes)
    with pytest.raises(ValueError, match="not finite"):
        fit_discriminant(np.full((60, 2), np.inf), codes)


@pytest.mark.parametrize("sources", [2, 3])
def test_axes_of_all_folds_lie_on_each_other(sources):
    points, source, group, _ = paired(n=150, d=30, sources=sources, shift=6.0)
    axes = held_out_axes(points, source, group, folds=5)
    assert axes.shape == (300 * sources // 2, sources - 1)
    fold = group_folds(group, source, 5)
    last = axes[source == np.unique(source)[-1]]
    assert last[:, 0].mean() > 1
    for name in np.unique(source):
        means = [axes[(source == name) & (fold == f)].mean(axis=0) for f in range(5)]
        assert np.std(means, axis=0).max() < 0.6
        spread = axes[source == name].std(axis=0)
        assert_allclose(spread, 1, atol=0.35)


def test_held_out_axes_see_nothing_in_noise():
    # More dimensions than items: axes fitted to all of them would part them entirely.
    rng = np.random.default_rng(13)
    points, codes = rng.normal(size=(100, 150)), np.arange(100) % 2
    group = np.arange(100) // 2
    area = auroc(held_out_axes(points, codes, group)[:, 0], codes == 1)
    assert 0.3 < area < 0.7


def test_held_out_axes_need_two_classes():
    with pytest.raises(ValueError, match="at least two classes"):
        held_out_axes(np.eye(12), ["a"] * 12, np.arange(12))


# -- tables --------------------------------------------------------------------------------------


def test_tables_have_what_was_planted():
    points, source, group, topic = paired(n=80, shift=3.0, topic=8.0)
    views = {"0 mean": points.astype(np.float32), "1 mean": points[:, ::-1].astype(np.float32)}
    tables = structure_tables(
        items_of(source, group, topic),
        Embedding(views),
        KEY,
        {"final": "1 mean", "chosen": "0 mean"},
        ["topic"],
        components=4,
        permutations=199,
    )
    front = ["contrast", "embedder", "view", "choice"]
    components = tables["components"]
    assert list(components) == [
        *front, "component", "variance", "label", "eta2", "auroc", "mutual_information",
        "p_value", "p_adjusted",
    ]  # fmt: skip
    assert len(components) == 2 * 2 * 4
    best = components.loc[components.groupby(["choice", "label"])["eta2"].idxmax()]
    assert best.set_index(["choice", "label"])["component"].to_dict() == {
        ("chosen", "source"): 2, ("chosen", "topic"): 1,
        ("final", "source"): 2, ("final", "topic"): 1,
    }  # fmt: skip
    assert (best["p_adjusted"] <= 0.01).all()
    clustering = tables["clustering"]
    assert list(clustering) == [
        *front, "method", "label", "classes", "clusters", "noise", "ari", "nmi", "purity",
        "purity_chance", "p_value",
    ]  # fmt: skip
    assert clustering["label"].unique().tolist() == ["source", "topic", "source × topic"]
    k_means = clustering[clustering["method"] == "k-means"].set_index(["choice", "label"])["ari"]
    assert k_means["final", "topic"] > 0.95
    assert k_means["final", "source"] < 0.1
    projections = tables["projections"]
    assert list(projections) == [
        *front, "item", "source", "group", "labels", "pc1", "pc2", "pc3", "lda1", "lda2",
        "excerpt",
    ]  # fmt: skip
    assert len(projections) == 2 * 160
    first = projections.iloc[0]
    assert (first["item"], first["source"], first["excerpt"]) == (0, "human", "text 0")
    assert json.loads(first["labels"]) == {"topic": "sport"}
    assert projections["lda2"].isna().all()
    held = projections[projections["choice"] == "final"]
    assert roc_auc_score(held["source"] == "machine", held["lda1"]) > 0.9


def test_one_view_for_both_choices_is_measured_once_and_told_twice():
    points, source, group, topic = paired(n=30)
    tables = structure_tables(
        items_of(source, group, topic), Embedding({"output": points.astype(np.float32)}), KEY,
        {"final": "output", "chosen": "output"}, permutations=19,
    )  # fmt: skip
    for table in tables.values():
        final, chosen = (
            table[table["choice"] == c].drop(columns="choice") for c in ("final", "chosen")
        )
        pd.testing.assert_frame_equal(final.reset_index(drop=True), chosen.reset_index(drop=True))


def test_labels_that_do_not_vary_are_left_out():
    points, source, group, topic = paired(n=30)
    items = items_of(source, group, np.where(topic == "sport", "sport", ""))
    tables = structure_tables(
        items, Embedding({"output": points}), KEY, {"final": "output"}, ["topic"], permutations=19
    )
    assert set(tables["components"]["label"]) == set(tables["clustering"]["label"]) == {"source"}
    assert json.loads(tables["projections"]["labels"][1]) == {"topic": ""}


def test_images_have_no_excerpt():
    points, source, group, _ = paired(n=20)
    n = len(source)
    items = Items(
        "images", strings(source), strings(np.arange(n)), strings(group), {},
        images=np.zeros((n, 2, 2, 3), dtype=np.uint8),
    )  # fmt: skip
    tables = structure_tables(
        items, Embedding({"output": points}), KEY, {"final": "output"}, permutations=19
    )
    assert set(tables["projections"]["excerpt"]) == {""}


def test_tables_say_what_is_wrong():
    points, source, group, topic = paired(n=20)
    embedding = Embedding({"output": points})
    items = items_of(source, group, topic)
    with pytest.raises(ValueError, match="view '3 mean' is not among output"):
        structure_tables(items, embedding, KEY, {"final": "3 mean"}, permutations=9)
    alone = items_of(np.full(len(source), "human"), group, topic)
    with pytest.raises(ValueError, match="at least two classes"):
        structure_tables(alone, embedding, KEY, {"final": "output"}, permutations=9)
