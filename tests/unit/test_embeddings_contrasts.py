"""All tables of a contrast, a translation, a signature, on embeddings whose answers are known."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from model_metrology.embeddings.components import encoded, eta_squared, principal_components
from model_metrology.embeddings.contrasts import (
    contrast_tables,
    named_tables,
    one_half,
    telling_view,
    translation_tables,
)
from model_metrology.embeddings.items import Items, choose, strings
from model_metrology.embeddings.names import CONTRAST_TABLES, SIGNATURE_TABLES
from model_metrology.embeddings.views import Embedding

KEY = {"contrast": "c", "embedder": "e"}
MEASURING = {"folds": 3, "permutations": 19, "bootstraps": 20, "level": 0.1, "seed": 0}
VIEWS = [f"{layer} {pooling}" for layer in range(4) for pooling in ("mean", "cls")]

SEPARABILITY = [
    "contrast", "embedder", "view", "control", "choice", "source_a", "source_b", "n", "groups",
    "chance", "accuracy", "accuracy_lower", "accuracy_upper", "auroc", "auroc_lower",
    "auroc_upper", "p_value", "chosen",
]  # fmt: skip
COLUMNS = {
    "separability": SEPARABILITY,
    "confusion": ["contrast", "embedder", "control", "choice", "true", "predicted", "count"],
    "layers": [
        "contrast", "embedder", "view", "layer", "pooling", "label", "accuracy", "accuracy_lower",
        "accuracy_upper", "auroc", "pc1_auroc", "pc1_eta2", "kmeans_ari", "chance",
    ],
    "components": [
        "contrast", "embedder", "view", "choice", "component", "variance", "label", "eta2",
        "auroc", "mutual_information", "p_value", "p_adjusted",
    ],
    "clustering": [
        "contrast", "embedder", "view", "choice", "method", "label", "classes", "clusters",
        "noise", "ari", "nmi", "purity", "purity_chance", "p_value",
    ],
    "projections": [
        "contrast", "embedder", "view", "choice", "item", "source", "group", "labels", "pc1",
        "pc2", "pc3", "lda1", "lda2", "excerpt",
    ],
}  # fmt: skip


def items_of(source, group, **labels):
    n = len(source)
    return Items(
        "texts",
        strings(source),
        strings(np.arange(n)),
        strings(group),
        {name: strings(values) for name, values in labels.items()},
        texts=strings([f"text {i}" for i in range(n)]),
    )


def planted(groups=60, sources=2, telling="1 mean", seed=0):
    """Texts in pairs: sources along an axis of one view, topics along one of all later views."""
    rng = np.random.default_rng(seed)
    group, source = np.tile(np.arange(groups), sources), np.repeat(np.arange(sources), groups)
    topic = group % 2
    n = len(group)
    views = {}
    for view in VIEWS:
        points = rng.normal(size=(n, 6))
        if view == "0 cls":  # the same first token of all texts, but for rounding
            points = np.ones((n, 6)) * (1 + 1e-7 * rng.integers(0, 2, size=(n, 6)))
        if view == telling:
            points[:, 2] += 8 * source
        if view >= "2":
            points[:, 0] += 8 * topic
        views[view] = points.astype(np.float32)
    names, topics = np.array(["human", "machine", "other"]), np.array(["sport", "trade"])
    items = items_of(names[source], [f"doc {g}" for g in group], topic=topics[topic])
    return items, Embedding(views)


def tables_of(items, embedding, labels=("topic",), **options):
    return contrast_tables(items, {"": embedding}, KEY, labels=labels, **MEASURING | options)


@pytest.fixture(scope="module")
def measured():
    items, embedding = planted()
    return items, embedding, tables_of(items, embedding)


# -- which view ----------------------------------------------------------------------------------


def test_halves_hold_whole_groups():
    group = np.repeat([f"g{i}" for i in range(31)], [1 + i % 3 for i in range(31)])
    half = one_half(group, 3)
    chosen, rest = set(group[half]), set(group[~half])
    assert len(chosen) == 15 and len(rest) == 16 and not chosen & rest
    assert_array_equal(half, one_half(group, 3))
    assert not np.array_equal(half, one_half(group, 4))


@pytest.mark.parametrize("telling", ["1 mean", "1 cls", "3 cls"])
def test_the_view_that_tells_sources_is_chosen(telling):
    items, embedding = planted(telling=telling)
    half = one_half(items.group, 0)
    assert telling_view(embedding, items, half) == telling
    assert telling_view(embedding, items, ~half) == telling


def test_tables_have_the_final_view_and_the_chosen_one(measured):
    _, _, tables = measured
    for name in ("components", "clustering", "projections"):
        views = tables[name][["choice", "view"]].drop_duplicates().to_numpy().tolist()
        assert views == [["final", "3 mean"], ["chosen", "1 mean"]]
    told = tables["separability"].drop_duplicates("choice").set_index("choice")
    assert told["view"].to_dict() == {"final": "3 mean", "chosen": ""}
    assert told["chosen"].to_dict() == {"final": "", "chosen": "1 mean ×3"}


def test_what_is_measured_has_no_say_in_the_choice():
    # The half that is measured shouts in one view, the half that chooses whispers in another.
    items, embedding = planted(telling="1 mean")
    half = one_half(items.group, MEASURING["seed"])
    machine = items.source == "machine"
    embedding.views["2 cls"][machine & ~half] += 50
    chosen = tables_of(items, embedding)["components"].query("choice == 'chosen'")
    assert set(chosen["view"]) == {"1 mean"}
    # Nor have its labels: sources exchanged there leave the choice as it is.
    exchanged = np.where(half, items.source, np.where(machine, "human", "machine"))
    other = items_of(exchanged, items.group, topic=items.labels["topic"])
    assert telling_view(embedding, other, half) == "1 mean"
    embedding.views["2 cls"][machine & half] += 50
    assert telling_view(embedding, items, half) == "2 cls"


def test_the_half_that_is_measured_is_that_which_has_not_chosen(measured):
    items, embedding, tables = measured
    half = one_half(items.group, MEASURING["seed"])
    shown = tables["projections"]
    final, chosen = (shown[shown["choice"] == choice] for choice in ("final", "chosen"))
    assert len(final) == len(items) and set(chosen["group"]) == set(items.group[~half])
    assert list(chosen["excerpt"]) == list(items.texts[~half])
    for rows, view, part in ((final, "3 mean", half | ~half), (chosen, "1 mean", ~half)):
        points = embedding.views[view][part].astype(float)
        left, values, _ = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
        pcs = rows[["pc1", "pc2", "pc3"]].to_numpy()
        # Single precision, up to the sign of each axis.
        assert_allclose(np.abs(pcs), np.abs(left * values)[:, :3], atol=2e-4)


def test_in_noise_the_chosen_view_is_at_chance():
    n, views, draws = 40, 60, 60
    source, group = np.repeat(["a", "b"], n // 2), np.tile(np.arange(n // 2), 2)
    items = items_of(source, group)
    _, codes = encoded(source)
    rng = np.random.default_rng(0)
    honest, greedy = [], []
    for seed in range(draws):
        noise = rng.normal(size=(views, n, 8))
        embedding = Embedding({f"{i} mean": points for i, points in enumerate(noise)})
        half = one_half(items.group, seed)
        for found, part in ((honest, half), (greedy, ~half)):
            view = telling_view(embedding, items, part)
            scores = principal_components(embedding.views[view][~half], 3).scores
            found.append(eta_squared(scores, codes[~half]))
    # In 20 points in two classes, where labels say nothing, E[η²] = 1/19.
    honest = np.array(honest)
    assert honest.mean() == pytest.approx(1 / 19, abs=3 * honest.std() / honest.size**0.5)
    # With the same points as judge and party, it would be several times that.
    assert np.max(greedy, axis=1).mean() > 2 * honest.max(axis=1).mean()


def test_in_noise_tables_of_the_chosen_view_are_at_chance():
    found, aris, p_values = [], [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        items, _ = planted(groups=24)
        noise = {f"{i} mean": rng.normal(size=(48, 4)).astype(np.float32) for i in range(10)}
        tables = tables_of(items, Embedding(noise), labels=(), seed=seed)
        chosen = tables["components"].query("choice == 'chosen'")
        found += list(chosen["eta2"])
        p_values.append(chosen["p_adjusted"].min())
        clusters = tables["clustering"].query("choice == 'chosen' and method == 'k-means'")
        aris += list(clusters["ari"])
    # 24 items are measured; 48 numbers of variance about 2/23², then twelve about 0.
    assert np.mean(found) == pytest.approx(1 / 23, abs=0.025)
    assert abs(np.mean(aris)) < 0.04
    assert np.mean(np.array(p_values) <= 0.05) <= 0.25


# -- what the tables say -------------------------------------------------------------------------


def test_columns_are_those_agreed_on(measured):
    _, _, tables = measured
    assert set(tables) == set(CONTRAST_TABLES) == set(COLUMNS)
    for name, table in tables.items():
        assert list(table.columns) == COLUMNS[name], name
        assert (table["contrast"] == "c").all() and (table["embedder"] == "e").all()


def test_sources_are_found_where_they_were_planted(measured):
    _, _, tables = measured
    told = tables["separability"].set_index(["choice", "source_a"])
    assert told.loc[("chosen", "human"), "auroc"] > 0.99
    assert told.loc[("final", "human"), "auroc"] < 0.75
    assert told.loc[("chosen", "human"), "accuracy"] == told.loc[("chosen", ""), "accuracy"]
    layers = tables["layers"].query("label == 'source'").set_index("view")
    assert layers["accuracy"].idxmax() == "1 mean" and layers.loc["1 mean", "kmeans_ari"] > 0.95
    assert layers.drop(index="1 mean")["accuracy"].max() < 0.75
    first = tables["components"].query("component == 1").set_index(["choice", "label"])["eta2"]
    # Means 8 apart, variance 1: 16/17 of the variance is between two classes of the same size.
    assert first["chosen", "source"] == pytest.approx(16 / 17, abs=0.03)
    assert first["final", "topic"] == pytest.approx(16 / 17, abs=0.03)
    assert first["final", "source"] < 0.05 and first["chosen", "topic"] < 0.15


def test_clusters_are_those_of_the_topic_in_the_final_view(measured):
    _, _, tables = measured
    found = tables["clustering"].query("method == 'k-means'").set_index(["choice", "label"])["ari"]
    assert found["final", "topic"] > 0.95 > 0.1 > abs(found["final", "source"])
    assert found["chosen", "source"] > 0.95 > 0.1 > abs(found["chosen", "topic"])
    # Joint labels have four classes, of which either view holds one half.
    assert 0.2 < found["final", "source × topic"] < 0.8


def test_confusion_adds_up_to_the_accuracy(measured):
    items, _, tables = measured
    for choice, rows in tables["confusion"].groupby("choice"):
        assert rows["count"].sum() == len(items) and len(rows) == 4
        right = rows.loc[rows["true"] == rows["predicted"], "count"].sum()
        told = tables["separability"].query(f"choice == '{choice}' and source_a == ''")
        assert_allclose(told["accuracy"], right / len(items))


def test_labels_go_with_the_items(measured):
    items, _, tables = measured
    final = tables["projections"].query("choice == 'final'")
    assert [json.loads(text) for text in final["labels"]] == [
        {"topic": topic} for topic in items.labels["topic"]
    ]
    assert list(final["item"]) == list(range(len(items))) and final["lda2"].isna().all()


def test_a_view_without_variation_survives(measured):
    _, embedding, tables = measured
    assert np.ptp(embedding.views["0 cls"], axis=0).max() > 0
    rows = tables["layers"].query("view == '0 cls'")
    assert list(rows["label"]) == ["source", "topic"]
    assert rows[["pc1_auroc", "pc1_eta2", "kmeans_ari"]].isna().all(axis=None)
    assert rows["accuracy"].between(0.25, 0.75).all()


def test_views_that_are_all_the_same_but_one():
    items, embedding = planted(telling="none")
    same = {name: np.ones((len(items), 3), np.float32) for name in VIEWS}
    one = Embedding(same | {"2 mean": embedding.views["2 mean"]})
    assert telling_view(one, items, one_half(items.group, 0)) == "2 mean"


def test_labels_that_are_not_asked_for_are_left_out(measured):
    items, embedding, _ = measured
    tables = tables_of(items, embedding, labels=())
    assert set(tables["layers"]["label"]) == {"source"}
    assert set(tables["clustering"]["label"]) == {"source"}
    assert set(tables["projections"]["labels"]) == {"{}"}


def test_a_label_that_no_source_has_is_named():
    items, embedding = planted(groups=12)
    message = (
        "embeddings.contrasts.c.labels: no source has 'tpic'; give it to one by `labels` or "
        "`fixed`; there are topic"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        tables_of(items, embedding, labels=("topic", "tpic"))
    bare = items_of(items.source, items.group)
    with pytest.raises(ValueError, match=r"no source has 'topic'.*there are none"):
        tables_of(bare, embedding)


def test_a_label_of_one_source_alone_is_measured_among_its_items():
    items, embedding = planted()
    topic = np.where(items.source == "human", items.labels["topic"], "")
    tables = tables_of(items_of(items.source, items.group, topic=topic), embedding)
    found = tables["clustering"].query("choice == 'final' and method == 'k-means'")
    found = found.set_index("label")
    assert found.loc["topic", "ari"] > 0.95 and found.loc["topic", "classes"] == 2
    assert found.loc["source × topic", "ari"] == found.loc["topic", "ari"]
    layers = tables["layers"].query("label == 'topic'").set_index("view")
    assert layers.loc["3 mean", "accuracy"] > 0.95


def test_a_label_that_is_the_group_itself():
    # A prompt, say: its joint label with the source has one item each, and is not looked for.
    items, embedding = planted()
    tables = tables_of(
        items_of(items.source, items.group, prompt=items.group), embedding, ("prompt",)
    )
    assert {"source", "prompt"} <= set(tables["components"]["label"])
    assert {"source", "prompt"} <= set(tables["clustering"]["label"])


def test_controls_have_rows_in_separability_and_nowhere_else():
    items, embedding = planted(sources=3)
    _, other = planted(sources=3, telling="none", seed=1)
    embeddings = {"": embedding, "letters": other}
    tables = contrast_tables(items, embeddings, KEY, labels=[], **MEASURING)
    told = tables["separability"].set_index(["control", "choice", "source_a", "source_b"])["auroc"]
    # Three pairs and all at once, twice two times.
    assert len(told) == 16
    assert told["", "chosen", "human", "machine"] > 0.99
    assert told["letters", "chosen", "human", "machine"] < 0.75
    assert len(tables["confusion"]) == 4 * 9
    assert len(tables["layers"]) == len(VIEWS)
    for name, table in tables_of(items, embedding, labels=[]).items():
        if name not in ("separability", "confusion"):
            assert table.equals(tables[name]), name


def test_same_seed_same_tables():
    items, embedding = planted(groups=18)
    first, second, third = (tables_of(items, embedding, seed=seed) for seed in (1, 1, 2))
    assert all(first[name].equals(second[name]) for name in first)
    assert not first["projections"].equals(third["projections"])


# -- translations --------------------------------------------------------------------------------


def translations(n=60, axis=3.0, share=1.0, seed=0):
    """Originals, the same texts moved by a share of the language axis, and texts of the language.

    All that in the final view; in an earlier one nothing moves. In an order of their own.
    """
    rng = np.random.default_rng(seed)
    names = np.repeat(["es", "en by machine", "en"], n)
    topic, document = np.tile(np.arange(n) % 2, 3), np.tile(np.arange(n), 3)
    points = rng.normal(size=(3 * n, 5))
    points[n : 2 * n] = points[:n]
    points[:, 1] += 4 * topic
    early = points.copy()
    points[:, 0] += axis * np.repeat([0.0, share, 1.0], n)
    topics = np.array(["sport", "trade"])[topic]
    order = rng.permutation(3 * n)
    items = items_of(names, [f"doc {d}" for d in document], topic=topics)
    views = {"0 mean": early, "1 mean": points, "1 cls": early}
    shuffled = {name: each[order].astype(np.float32) for name, each in views.items()}
    return choose(items, order), Embedding(shuffled)


def translated(items, embedding, topic="topic", **options):
    sides = {"original": "es", "translated": "en by machine", "target": "en"}
    given = {**sides, "topic": topic, "embedders": [], **MEASURING, **options}
    return translation_tables(items, embedding, KEY, **given)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_translation_moves_texts_along_the_axis(share):
    table = translated(*translations(share=share, n=200))
    assert list(table.columns) == [
        "contrast", "embedder", "view", "choice", "quantity", "value", "lower", "upper", "p_value",
    ]  # fmt: skip
    assert set(table["view"]) == {"1 mean"} and set(table["choice"]) == {"final"}
    found = table.set_index("quantity")["value"]
    assert found["paired shift"] == pytest.approx(share, abs=0.08)
    for when, left in (("before", 1.0), ("after", 1 - share)):
        expected = stats.norm.cdf(3 * left / 2**0.5)
        assert found[f"language auroc {when}"] == pytest.approx(expected, abs=0.06)
    # Topics are 4 apart, and every text is moved alike.
    assert found["topic auroc original"] == pytest.approx(stats.norm.cdf(4 / 2**0.5), abs=0.02)
    assert found["topic auroc translated"] == found["topic auroc original"]
    assert found["topic cosine"] == pytest.approx(1, abs=1e-3)
    p_value = table.set_index("quantity").loc["paired shift", "p_value"]
    assert (p_value == 1 / 20) == (share > 0)


def test_a_translation_without_topics():
    quantities = set(translated(*translations(), topic=None)["quantity"])
    assert len(quantities) == 6 and not any("topic" in name for name in quantities)
    with pytest.raises(ValueError, match=r"originals have no label 'theme'.*there are topic"):
        translated(*translations(), topic="theme")


# -- signatures ----------------------------------------------------------------------------------


def known_and_unknown(n=60, seed=0):
    """Three sources apart in an early view, not in the final one; more like a, and elsewhere."""
    rng = np.random.default_rng(seed)
    names = np.repeat(["a", "b", "c", "like a", "elsewhere"], [n, n, n, 20, 20])
    place = {"a": (0, 0), "b": (12, 0), "c": (0, 12), "like a": (0, 0), "elsewhere": (30, 30)}
    early = rng.normal(size=(len(names), 4))
    early[:, :2] += [place[name] for name in names]
    late = rng.normal(size=(len(names), 4))
    items = items_of(names, [f"{name} {i}" for i, name in enumerate(names)])
    order = rng.permutation(len(names))
    views = {"0 mean": early, "1 mean": late}
    shuffled = {name: each[order].astype(np.float32) for name, each in views.items()}
    return choose(items, order), Embedding(shuffled)


def named(items, embedding, unknown=("like a", "elsewhere"), level=0.1):
    options = {
        "sources": ["a", "b", "c"],
        "unknown": list(unknown),
        "level": level,
        "embedders": [],
    }
    return named_tables(items, embedding, KEY, options, folds=3, seed=0)


def test_sources_are_named_in_the_view_that_tells_them():
    items, embedding = known_and_unknown()
    tables = named(items, embedding)
    assert set(tables) == set(SIGNATURE_TABLES)
    signature = tables["signature"]
    assert list(signature.columns) == [
        "contrast", "embedder", "view", "scenario", "item", "source", "predicted", "confidence",
        "p_known", "abstained", "excerpt",
    ]  # fmt: skip
    assert set(signature["view"]) == {"0 mean"}
    assert list(signature["scenario"].unique()) == [
        "known", "without a", "without b", "without c", "unknown",
    ]  # fmt: skip
    known = signature[signature["scenario"] == "known"]
    # The half of the groups that did not choose the view.
    half = one_half(items.group, 0)
    kept = np.isin(items.source, ["a", "b", "c"]) & ~half
    assert sorted(known["excerpt"]) == sorted(items.texts[kept])
    assert (known["predicted"] == known["source"]).all() and known["confidence"].mean() > 0.95
    # The level of the signature, not that of the intervals.
    assert_array_equal(signature["abstained"], signature["p_known"] <= 0.1)
    assert known["abstained"].mean() < 0.25


def test_what_is_unknown_is_named_or_not():
    signature = named(*known_and_unknown())["signature"].query("scenario == 'unknown'")
    like, elsewhere = (signature[signature["source"] == s] for s in ("like a", "elsewhere"))
    assert len(like) == len(elsewhere) == 20
    assert (like["predicted"] == "a").all() and like["abstained"].mean() < 0.4
    assert elsewhere["abstained"].all()
    # A source that is left out lies far from the others.
    for name in "abc":
        left_out = named(*known_and_unknown())["signature"].query(f"scenario == 'without {name}'")
        assert set(left_out["source"]) == {name} and left_out["abstained"].all()


def test_summaries_have_their_keys():
    tables = named(*known_and_unknown())
    assert list(tables["signature_summary"].columns) == [
        "contrast", "embedder", "scenario", "quantity", "value", "lower", "upper",
    ]  # fmt: skip
    assert list(tables["reliability"].columns) == [
        "contrast", "embedder", "bin_lower", "bin_upper", "confidence", "accuracy", "lower",
        "upper", "count",
    ]  # fmt: skip
    found = tables["signature_summary"].set_index(["scenario", "quantity"])["value"]
    # Conformal p-values of some twenty items a source have ties.
    assert found["known", "accuracy"] == 1 and found["without a", "novelty auroc"] > 0.95
    assert (
        tables["reliability"]["count"].sum() == (tables["signature"]["scenario"] == "known").sum()
    )


def test_nothing_need_be_unknown():
    items, embedding = known_and_unknown()
    known = np.isin(items.source, ["a", "b", "c"])
    part = Embedding({name: points[known] for name, points in embedding.views.items()})
    tables = named(choose(items, known), part, unknown=())
    assert "unknown" not in set(tables["signature"]["scenario"])


def test_unknown_items_have_no_say_in_the_view():
    items, embedding = known_and_unknown()
    embedding.views["1 mean"][items.source == "elsewhere"] += 100
    assert set(named(items, embedding)["signature"]["view"]) == {"0 mean"}
