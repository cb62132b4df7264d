"""Signatures: confidence and abstention, on items whose law is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats
from sklearn.metrics import log_loss, roc_auc_score

from model_metrology.embeddings.items import Items, strings
from model_metrology.embeddings.signature import (
    Named,
    Signature,
    held_out_names,
    leave_one_source_out,
    reliability_table,
    signature_tables,
)
from model_metrology.variability.metrics import expected_calibration_error

KEY = {"contrast": "signature", "embedder": "e", "view": "3 mean"}
NAMES = np.array(["human", "gpt", "llama", "other"])


def answers(n=80, d=10, sources=3, apart=4.0, seed=0, draw=None):
    """Answers to the same n prompts by several sources, `apart` along an axis each."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(sources), n)
    noise = rng.normal(size=(n * sources, d)) if draw is None else draw(rng, (n * sources, d))
    points = noise + apart * np.eye(sources, d)[codes]
    return points, NAMES[codes], np.tile([f"prompt {i}" for i in range(n)], sources)


def items_of(source, group):
    n = len(source)
    return Items(
        "texts", strings(source), strings(np.arange(n)), strings(group), {},
        texts=strings([f"text {i}" for i in range(n)]),
    )  # fmt: skip


def test_sources_far_apart_are_named():
    points, source, group = answers(apart=8.0)
    named = held_out_names(points, source, group)
    assert named.sources.tolist() == ["gpt", "human", "llama"]
    assert (named.predicted == source).all()
    assert named.confidence.min() > 0.9
    assert_allclose(named.probabilities.sum(axis=1), 1)
    fresh, truth, _ = answers(apart=8.0, seed=1)
    assert (Signature.fit(points, source, group).name(fresh).predicted == truth).all()


def test_p_values_by_their_definition():
    points, source, group = answers(n=20)
    signature = Signature.fit(points, source, group)
    item = points[:1] + 0.5
    found = signature.name(item).p_values[0]
    for c in range(3):
        beyond = total = 0
        for model, held in zip(signature.models, signature.distances, strict=True):
            beyond += sum(model.distances(item)[0, c] <= held[c])
            total += len(held[c])
        assert total == 20
        assert found[c] == (1 + beyond) / 21


@pytest.mark.parametrize("law", ["normal", "heavy-tailed", "skewed"])
@pytest.mark.parametrize("d", [5, 60])
def test_known_items_go_unnamed_at_most_at_the_level(law, d):
    # 60 items a source, with as many dimensions in the second case; fresh items each time.
    laws = {
        "normal": lambda rng, size: rng.normal(size=size),
        "heavy-tailed": lambda rng, size: rng.standard_t(3, size=size),
        "skewed": lambda rng, size: rng.exponential(size=size),
    }
    level, shares, own = 0.1, [], []
    for seed in range(12):
        points, source, group = answers(n=60, d=d, sources=2, seed=seed, draw=laws[law])
        fresh, truth, _ = answers(n=500, d=d, sources=2, seed=[seed, 1], draw=laws[law])
        named = Signature.fit(points, source, group, seed=seed).name(fresh)
        for name in named.sources:
            here = truth == name
            shares.append(named.abstained(level)[here].mean())
            p_own = named.p_values[here, list(named.sources).index(name)]
            own.append((p_own <= level).mean())
    # Standard error of the mean of 24 shares: of 60 calibration items about 0.04/√24.
    assert np.mean(shares) <= level + 0.02
    assert np.mean(own) == pytest.approx(level, abs=0.03)


def test_unseen_sources_far_away_are_of_none():
    points, source, group = answers()
    far = np.random.default_rng(1).normal(size=(50, 10)) + 9.0 * np.eye(10)[7]
    named = Signature.fit(points, source, group).name(far)
    assert named.abstained(0.05).all()
    assert (named.p_known == 1 / 81).all()
    # Sure all the same, on the premise that it is one of them: hence the p-value.
    assert named.confidence.max() > 0.5


def test_confidence_is_calibrated_where_the_model_holds():
    points, source, group = answers(n=600, d=4, apart=1.5)
    fresh, truth, _ = answers(n=3000, d=4, apart=1.5, seed=1)
    signature = Signature.fit(points, source, group)
    assert signature.temperature == pytest.approx(1, abs=0.15)
    named = signature.name(fresh)
    codes = np.searchsorted(named.sources, truth)
    assert expected_calibration_error(named.probabilities, codes) < 0.03
    # And about as good as can be: the loss of the true posterior.
    order = np.argsort(NAMES[:3])
    logits = 1.5 * fresh[:, :3][:, order]
    posterior = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert log_loss(codes, named.probabilities) < log_loss(codes, posterior) + 0.01


def test_temperature_mends_what_too_few_items_spoil():
    # As many dimensions as items: discriminants are far too sure, signatures are not.
    points, source, group = answers(n=60, d=150, sources=2, apart=1.5)
    signature = Signature.fit(points, source, group)
    assert signature.temperature > 1.5
    fresh, truth, _ = answers(n=1500, d=150, sources=2, apart=1.5, seed=1)
    named = signature.name(fresh)
    codes = np.searchsorted(named.sources, truth)
    calibrated = expected_calibration_error(named.probabilities, codes)
    gap = np.mean([model.distances(fresh) for model in signature.models], axis=0)
    raw = 1 / (1 + np.exp((gap[:, 1] - gap[:, 0]) / 2))
    assert calibrated < 0.08 < expected_calibration_error(raw, codes)


def test_a_source_far_from_all_others_leaves_their_confidence_alone():
    rng = np.random.default_rng(0)
    points, source, group = answers(n=200, d=6, sources=2, apart=2.0)
    far = 60.0 * np.eye(6)[5] + rng.normal(size=(200, 6))
    names = np.concatenate([source, np.full(200, "zz far")])
    signature = Signature.fit(np.concatenate([points, far]), names, np.tile(group[:200], 3))
    fresh, truth, _ = answers(n=1500, d=6, sources=2, apart=2.0, seed=1)
    named = signature.name(fresh)
    codes = np.searchsorted(named.sources, truth)
    assert expected_calibration_error(named.probabilities, codes) < 0.05


def test_temperature_minimises_the_loss():
    points, source, group = answers(n=100, apart=1.0)
    fit = Signature.fit(points, source, group)
    scores, codes = np.empty((300, 3)), np.searchsorted(fit.sources, source)
    # The fold of each item: that whose model did not have it; found by the distances it holds.
    for model, held in zip(fit.models, fit.distances, strict=True):
        far = model.distances(points)
        for c in range(3):
            here = (codes == c) & np.isin(far[:, c], held[c])
            scores[here] = -far[here] / 2

    def loss(temperature):
        logits = scores / temperature
        return log_loss(codes, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))

    best = loss(fit.temperature)
    assert best <= loss(fit.temperature * 1.2) and best <= loss(fit.temperature / 1.2)


def test_priors_are_the_shares_of_the_sources():
    rng = np.random.default_rng(2)
    source = np.repeat(["rare", "common"], [60, 540])
    noise = rng.normal(size=(600, 3))
    signature = Signature.fit(noise, source, np.arange(600))
    assert_allclose(signature.priors, [0.9, 0.1])
    # Nothing to go by: what is left are the shares.
    mean = signature.name(rng.normal(size=(200, 3))).probabilities.mean(axis=0)
    assert_allclose(mean, [0.9, 0.1], atol=0.03)


def test_more_than_ten_sources_keep_their_order():
    rng = np.random.default_rng(3)
    codes = np.repeat(np.arange(12), 10)
    points = rng.normal(size=(120, 12)) + 12 * np.eye(12)[codes]
    source = np.array([f"source {c}" for c in codes])
    assert (held_out_names(points, source, np.arange(120)).predicted == source).all()


def test_a_source_left_out_is_not_seen():
    points, source, group = answers(apart=6.0)
    found = leave_one_source_out(points, source, group)
    assert list(found) == ["gpt", "human", "llama"]
    named = found["gpt"]
    assert named.sources.tolist() == ["human", "llama"]
    own = source == "gpt"
    assert named.abstained(0.05)[own].mean() > 0.9
    assert named.abstained(0.05)[~own].mean() < 0.12
    assert (named.predicted[~own] == source[~own]).all()
    # What the unseen source's items are has no say in the signatures.
    other = points.copy()
    other[own] += 3.0
    again = leave_one_source_out(other, source, group)["gpt"]
    assert_array_equal(named.p_values[~own], again.p_values[~own])


def test_with_two_sources_the_one_that_is_known_can_be_told_from_the_rest():
    points, source, group = answers(sources=2, apart=6.0)
    found = leave_one_source_out(points, source, group)["human"]
    assert found.sources.tolist() == ["gpt"]
    assert (found.confidence == 1).all()
    unseen = source == "human"
    assert roc_auc_score(unseen, -found.p_known) > 0.95
    single = Signature.fit(points[~unseen], source[~unseen], group[~unseen])
    assert (single.sources.tolist(), single.temperature) == (["gpt"], 1.0)


def test_held_out_names_know_nothing_of_noise():
    rng = np.random.default_rng(4)
    points = rng.normal(size=(120, 200))
    source, group = NAMES[np.arange(120) % 2], np.arange(120) // 2
    right = held_out_names(points, source, group).predicted == source
    assert stats.binomtest(int(right.sum()), 120).pvalue > 1e-3


def test_answers_to_a_prompt_are_never_on_both_sides():
    # Copies of a text in both sources: known from training, they would name each other wrong.
    rng = np.random.default_rng(5)
    texts = rng.normal(size=(60, 100))
    points, source = np.concatenate((texts, texts)), np.repeat(NAMES[:2], 60)
    named = held_out_names(points, source, np.tile(np.arange(60), 2))
    assert_allclose(named.probabilities[:60], named.probabilities[60:])
    assert np.mean(named.predicted == source) == 0.5


def test_tables():
    points, source, group = answers(apart=5.0)
    rng = np.random.default_rng(6)
    guests = items_of(["mystery"] * 30, [f"guest {i}" for i in range(30)])
    far = rng.normal(size=(30, 10)) - 9.0
    tables = signature_tables(
        items_of(source, group), points, KEY, unknown=guests, unknown_points=far
    )
    signature = tables["signature"]
    assert list(signature) == [
        "contrast", "embedder", "view", "scenario", "item", "source", "predicted", "confidence",
        "p_known", "abstained", "excerpt",
    ]  # fmt: skip
    counts = signature["scenario"].value_counts().to_dict()
    assert counts == {
        "known": 240, "without gpt": 80, "without human": 80, "without llama": 80, "unknown": 30,
    }  # fmt: skip
    without = signature[signature["scenario"] == "without gpt"]
    assert set(without["source"]) == {"gpt"}
    assert set(without["predicted"]) <= {"human", "llama"}
    assert without["excerpt"].tolist() == [f"text {i}" for i in without["item"]]
    assert signature.loc[signature["scenario"] == "unknown", "abstained"].all()
    assert (signature["abstained"] == (signature["p_known"] <= 0.05)).all()

    summary = tables["signature_summary"]
    assert list(summary) == [
        "contrast", "embedder", "scenario", "quantity", "value", "lower", "upper",
    ]  # fmt: skip
    rows = summary.set_index(["scenario", "quantity"])
    known = signature[signature["scenario"] == "known"]
    right = known["predicted"] == known["source"]
    assert rows.loc[("known", "accuracy"), "value"] == right.mean()
    named = ~known["abstained"]
    assert rows.loc[("known", "accuracy when named"), "value"] == right[named].mean()
    assert rows.loc[("known", "abstained"), "value"] == known["abstained"].mean() <= 0.08
    assert rows.loc[("unknown", "abstained"), "value"] == 1
    assert rows.loc[("without gpt", "abstained"), "value"] == without["abstained"].mean()
    assert rows.loc[("without gpt", "novelty auroc"), "value"] > 0.9
    assert ((rows["lower"] <= rows["value"]) & (rows["value"] <= rows["upper"])).all()

    reliability = tables["reliability"]
    assert list(reliability) == [
        "contrast", "embedder", "bin_lower", "bin_upper", "confidence", "accuracy", "lower",
        "upper", "count",
    ]  # fmt: skip
    gap = (reliability["accuracy"] - reliability["confidence"]).abs()
    weighted = (gap * reliability["count"]).sum() / reliability["count"].sum()
    assert rows.loc[("known", "ece"), "value"] == pytest.approx(weighted)


def test_novelty_is_measured_against_held_out_items():
    points, source, group = answers(apart=2.0)
    items = items_of(source, group)
    row = signature_tables(items, points, KEY)["signature_summary"]
    row = row[(row["scenario"] == "without human") & (row["quantity"] == "novelty auroc")].iloc[0]
    named = leave_one_source_out(points, source, group)["human"]
    assert row["value"] == pytest.approx(roc_auc_score(source == "human", -named.p_known))


def test_reliability_of_answers_as_sure_as_they_say():
    rng = np.random.default_rng(7)
    confidence = rng.uniform(0.5, 1, size=5000)
    right = rng.random(5000) < confidence
    table = reliability_table(confidence, right, bins=10)
    assert table["count"].sum() == 5000
    assert (
        (table["bin_lower"] < table["confidence"]) & (table["confidence"] <= table["bin_upper"])
    ).all()
    first = table.iloc[0]
    interval = stats.binomtest(int(right[confidence <= 0.6].sum()), int(first["count"]))
    low, high = interval.proportion_ci(method="wilson")
    assert (first["lower"], first["upper"]) == pytest.approx((low, high))
    assert (
        (table["lower"] - 0.02 < table["confidence"])
        & (table["confidence"] < table["upper"] + 0.02)
    ).all()
    assert reliability_table([1.0, 0.5], [True, False], bins=2)["bin_upper"].tolist() == [0.5, 1.0]


def test_the_same_seed_gives_the_same_tables():
    points, source, group = answers(n=20)
    first, again = (
        signature_tables(items_of(source, group), points, KEY, seed=3) for _ in range(2)
    )
    for name, table in first.items():
        pd.testing.assert_frame_equal(table, again[name])


def test_duplicates_are_no_trouble():
    points, source, group = answers(n=10)
    named = held_out_names(np.repeat(points, 2, axis=0), np.repeat(source, 2), np.repeat(group, 2))
    assert_allclose(named.probabilities[::2], named.probabilities[1::2])


def test_abstention_at_the_level_itself():
    named = Named(np.array(["a"]), np.ones((2, 1)), np.array([[0.05], [0.051]]))
    assert named.abstained(0.05).tolist() == [True, False]


def test_what_cannot_be_learnt_is_refused():
    points, source, group = answers(n=20)
    items = items_of(source, group)
    with pytest.raises(ValueError, match="at least two are to be told apart, got"):
        held_out_names(points[:20], source[:20], group[:20])
    with pytest.raises(ValueError, match="at least two are to be told apart, got"):
        leave_one_source_out(points[:20], source[:20], group[:20])
    with pytest.raises(ValueError, match="cannot be dealt to 5 folds"):
        held_out_names(points, source, np.repeat(["a", "b", "c"], 20))
    with pytest.raises(ValueError, match="all in one fold"):
        held_out_names(points, np.where(np.arange(60) == 0, "rare", source), np.arange(60))
    with pytest.raises(ValueError, match="no variation within classes"):
        Signature.fit(np.eye(3)[np.repeat(np.arange(3), 20)], source, group)
    with pytest.raises(ValueError, match="one row a source and group"):
        Signature.fit(points[:5], source, group)
    with pytest.raises(ValueError, match="level"):
        signature_tables(items, points, KEY, level=1.0)
    with pytest.raises(ValueError, match="give both, or neither"):
        signature_tables(items, points, KEY, unknown=items)
