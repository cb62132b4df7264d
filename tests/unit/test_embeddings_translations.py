"""The language axis before and after translation, on texts whose axis is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats
from sklearn.metrics import roc_auc_score

from model_metrology.embeddings.items import Items, strings
from model_metrology.embeddings.structure_tables import translation_table
from model_metrology.embeddings.translations import (
    Texts,
    sign_flip_p_value,
    translation_quantities,
)
from model_metrology.embeddings.views import Embedding

QUANTITIES = [
    "language auroc before", "language variance before", "language auroc after",
    "language variance after", "paired shift", "shift along axis",
]  # fmt: skip
TOPICS = ["topic auroc original", "topic auroc translated", "topic cosine"]


def corpora(n=160, d=12, shift=3.0, topic=4.0, parallel=False, seed=0):
    """Originals, target texts, and the language axis: the first. Topic: the second."""
    rng = np.random.default_rng(seed)
    axis = np.eye(d)[0] * shift
    names = np.array(["sport", "trade"])[np.arange(n) % 2]
    themes = topic * np.eye(d)[1] * (np.arange(n) % 2)[:, None]
    groups = np.array([f"doc {i}" for i in range(n)])
    x = rng.normal(size=(n, d)) + themes
    y = rng.normal(size=(n, d)) + themes + axis
    if parallel:
        y = x + axis + 0.3 * rng.normal(size=(n, d))
    others = groups if parallel else np.char.add("other ", groups)
    return Texts(x, groups, names), Texts(y, others, names), axis


def moved(texts, by, topics=True):
    return Texts(texts.embeddings + by, texts.groups, texts.topics if topics else None)


@pytest.mark.parametrize("parallel", [False, True])
def test_a_translation_that_carries_texts_all_the_way(parallel):
    original, target, axis = corpora(parallel=parallel)
    found = translation_quantities(original, moved(original, axis), target)
    assert list(found) == QUANTITIES + TOPICS
    # Normal laws of variance 1, at distance 3 along the axis, then at none.
    assert found["language auroc before"].value == pytest.approx(
        stats.norm.cdf(3 / math.sqrt(2)), abs=0.02
    )
    assert found["language variance before"].value == pytest.approx(2.25 / 3.25, abs=0.05)
    after = found["language auroc after"]
    assert after.value == pytest.approx(0.5, abs=0.06)
    assert after.lower < 0.5 < after.upper
    assert found["language variance after"].value < 0.03
    shift = found["paired shift"]
    assert shift.value == pytest.approx(1, abs=0.08)
    assert shift.lower < 1 < shift.upper
    assert shift.p_value == pytest.approx(1 / 1001)
    assert found["shift along axis"].value == pytest.approx(1, abs=0.05)
    assert found["topic cosine"].value == pytest.approx(1, abs=1e-6)
    for name, quantity in found.items():
        assert quantity.lower <= quantity.value + 1e-9, name
        assert quantity.upper >= quantity.value - 1e-9, name
        assert math.isnan(quantity.p_value) == (name != "paired shift")


def test_parallel_texts_moved_onto_their_own_translations():
    # Y is X' itself: the axis is exact, so is the shift, and texts of other groups tie on average.
    original, _, axis = corpora(topic=0.0)
    end = moved(original, axis)
    found = translation_quantities(original, end, end, bootstraps=20)
    assert found["paired shift"].value == pytest.approx(1, abs=1e-12)
    assert found["shift along axis"].value == pytest.approx(1, abs=1e-12)
    assert found["language auroc after"].value == pytest.approx(0.5, abs=0.05)
    # Held against itself, every text would tie with its own translation.
    same = translation_quantities(original, original, end, bootstraps=2)
    assert same["language auroc before"].value == same["language auroc after"].value


@pytest.mark.parametrize("share", [0.0, 0.5, 1.5])
def test_a_translation_that_goes_part_of_the_way(share):
    original, target, axis = corpora(n=400)
    noise = 0.5 * np.random.default_rng(1).normal(size=original.embeddings.shape)
    found = translation_quantities(original, moved(original, share * axis + noise), target)
    assert found["paired shift"].value == pytest.approx(share, abs=0.06)
    # x' is normal with variance 1.25, y with 1.
    expected = stats.norm.cdf(3 * (1 - share) / math.sqrt(2.25))
    assert found["language auroc after"].value == pytest.approx(expected, abs=0.05)
    assert (found["paired shift"].p_value < 0.01) == (share > 0)


def test_a_shift_across_the_axis():
    original, target, axis = corpora(n=400)
    across = 4.0 * np.eye(12)[2]
    found = translation_quantities(original, moved(original, axis + across), target)
    # 3² along, 4² across; the fitted axis is a little off.
    assert found["shift along axis"].value == pytest.approx(9 / 25, abs=0.08)
    assert found["paired shift"].value == pytest.approx(1, abs=0.12)


def test_share_of_the_shift_is_not_biased_by_noise():
    # The mean of noise has a length too, in as many dimensions as there are.
    values = []
    for seed in range(20):
        original, target, axis = corpora(n=60, d=200, shift=8.0, topic=0.0, seed=seed)
        noise = np.random.default_rng([seed, 9]).normal(size=original.embeddings.shape)
        plain = Texts(original.embeddings, original.groups)
        moved_there = Texts(original.embeddings + axis + 3 * noise, original.groups)
        found = translation_quantities(plain, moved_there, target, bootstraps=0, permutations=1)
        # Of the axis that was fitted: its part along the true one is known from the means' noise.
        values.append(found["shift along axis"].value)
    angle = 64 / (64 + 199 * 2 / 30)
    assert np.mean(values) == pytest.approx(angle, abs=0.03)
    # As squares were, the share would be smaller: 64 over 64 + 200 · 9/30 = 124.


def test_areas_are_scikit_learns():
    # With d = 1 and no parallel texts the axis is ±1, whatever the halves.
    rng = np.random.default_rng(2)
    n = 96
    groups = np.array([f"{i}" for i in range(n)])
    x = Texts(rng.normal(size=(n, 1)), groups)
    y = Texts(1.0 + rng.normal(size=(n, 1)), np.char.add("y", groups))
    x2 = Texts(0.3 + rng.normal(size=(n, 1)), groups)
    found = translation_quantities(x, x2, y, bootstraps=0, permutations=1)
    labels = np.repeat((0, 1), n)
    for when, side in (("before", x), ("after", x2)):
        whole = roc_auc_score(labels, np.concatenate((side.embeddings, y.embeddings))[:, 0])
        # The mean over two halves of the groups is near that over all.
        assert found[f"language auroc {when}"].value == pytest.approx(whole, abs=0.03)
    way = y.embeddings.mean() - x.embeddings.mean()
    shift = (x2.embeddings - x.embeddings).mean() / way
    assert found["paired shift"].value == pytest.approx(shift, abs=1e-9)
    assert math.isnan(found["paired shift"].lower)


def test_topics_that_survive_and_topics_that_do_not():
    original, target, axis = corpora()
    kept = translation_quantities(original, moved(original, axis), target)
    expected = stats.norm.cdf(4 / math.sqrt(2))
    assert kept["topic auroc original"].value == pytest.approx(expected, abs=0.02)
    assert kept["topic auroc translated"].value == kept["topic auroc original"].value
    # Turned: topics lie along another axis, as far apart as before.
    turn = np.eye(12)[:, [0, 3, 2, 1, *range(4, 12)]]
    turned = Texts(original.embeddings @ turn + axis, original.groups, original.topics)
    found = translation_quantities(original, turned, target)
    assert found["topic auroc original"].value == kept["topic auroc original"].value
    assert found["topic auroc translated"].value == pytest.approx(0.5, abs=0.12)
    assert found["topic cosine"].value == pytest.approx(0, abs=0.12)
    assert found["topic cosine"].lower < 0 < found["topic cosine"].upper


def test_noise_takes_nothing_from_the_cosine():
    # Independent texts of the same topics: the plain cosine of noisy means is well below 1.
    values, plain = [], []
    for seed in range(20):
        original, target, axis = corpora(n=200, d=100, topic=2.0, seed=seed)
        noise = np.random.default_rng([seed, 7]).normal(size=original.embeddings.shape)
        theme = 2.0 * np.eye(100)[1] * (original.topics == "trade")[:, None]
        other = Texts(noise + theme + axis, original.groups, original.topics)
        found = translation_quantities(original, other, target, bootstraps=0, permutations=1)
        values.append(found["topic cosine"].value)
        gaps = [
            t.embeddings[t.topics == "trade"].mean(0) - t.embeddings[t.topics == "sport"].mean(0)
            for t in (original, other)
        ]
        plain.append(gaps[0] @ gaps[1] / np.linalg.norm(gaps[0]) / np.linalg.norm(gaps[1]))
    assert np.mean(plain) < 0.75
    assert np.mean(values) == pytest.approx(1, abs=0.06)


def test_translations_have_the_topics_of_their_originals():
    original, target, axis = corpora(n=80)
    with_topics = translation_quantities(original, moved(original, axis), target, bootstraps=5)
    without = translation_quantities(
        original, moved(original, axis, topics=False), target, bootstraps=5
    )
    assert with_topics == without
    plain = Texts(original.embeddings, original.groups)
    assert list(translation_quantities(plain, moved(plain, axis), target)) == QUANTITIES


def test_groups_of_several_texts_count_once_and_unpaired_ones_not():
    rng = np.random.default_rng(3)
    n, d = 40, 6
    axis = 2.0 * np.eye(d)[0]
    groups = np.repeat([f"g{i}" for i in range(n)], 1 + np.arange(n) % 3)
    x = rng.normal(size=(n, d))[np.repeat(np.arange(n), 1 + np.arange(n) % 3)]
    y = Texts(rng.normal(size=(n, d)) + axis, np.array([f"y{i}" for i in range(n)]))
    # Groups shift by different amounts: the mean is over groups, not over texts.
    sizes = (np.array([int(g[1:]) for g in groups]) % 3)[:, None]
    found = translation_quantities(
        Texts(x, groups), Texts(x + sizes * axis, groups), y, bootstraps=0, permutations=1
    )
    more = Texts(np.concatenate((x, 99 * np.ones((1, d)))), np.append(groups, "lonely"))
    assert (
        translation_quantities(
            more, Texts(x + sizes * axis, groups), y, bootstraps=0, permutations=1
        )
        == found
    )
    one_each = np.array([x[groups == f"g{i}"][0] for i in range(n)])
    names = np.array([f"g{i}" for i in range(n)])
    by = (np.arange(n) % 3)[:, None] * axis
    once = translation_quantities(
        Texts(one_each, names), Texts(one_each + by, names), y, bootstraps=0, permutations=1
    )
    assert found["paired shift"].value == pytest.approx(once["paired shift"].value, abs=1e-9)


def test_sign_flips_are_an_exact_test():
    rng = np.random.default_rng(4)
    assert sign_flip_p_value(np.ones(20), 199) == 1 / 200
    assert sign_flip_p_value(np.zeros(20), 199) == 1.0
    values = rng.normal(size=40) + 0.3
    expected = stats.ttest_1samp(values, 0).pvalue
    assert sign_flip_p_value(values, 4000) == pytest.approx(expected, abs=0.02)
    null = [sign_flip_p_value(rng.standard_t(3, size=12), 99, seed=s) for s in range(300)]
    assert stats.binomtest(sum(p <= 0.05 for p in null), 300, 0.05).pvalue > 1e-3


def test_intervals_cover():
    # Over groups, the axis held fixed: the AUROC's interval covers what many texts would give.
    truth, covered = stats.norm.cdf(2 / math.sqrt(2)), 0
    for seed in range(40):
        original, target, axis = corpora(n=100, d=3, shift=2.0, topic=0.0, seed=seed)
        plain = Texts(original.embeddings, original.groups)
        found = translation_quantities(
            plain, moved(plain, axis), target, bootstraps=60, permutations=1, level=0.1, seed=seed
        )
        before = found["language auroc before"]
        covered += before.lower <= truth <= before.upper
    assert stats.binomtest(covered, 40, 0.9).pvalue > 1e-3


def test_the_same_seed_gives_the_same_numbers():
    original, target, axis = corpora(n=40, topic=1.0)
    first, again = (
        translation_quantities(original, moved(original, axis), target, seed=5) for _ in range(2)
    )
    assert first == again
    assert first != translation_quantities(original, moved(original, axis), target, seed=6)


def test_what_cannot_be_measured_is_refused():
    original, target, axis = corpora(n=40)
    few = Texts(original.embeddings[:7], original.groups[:7])
    with pytest.raises(ValueError, match="originals and translations share 7 group"):
        translation_quantities(few, moved(few, axis), target)
    with pytest.raises(ValueError, match="target texts have 1 group"):
        translation_quantities(original, original, Texts(target.embeddings, np.full(40, "y")))
    with pytest.raises(ValueError, match="share 0 group"):
        translation_quantities(original, target, target)
    copy = Texts(original.embeddings, original.groups)
    with pytest.raises(ValueError, match="no language axis"):
        translation_quantities(copy, copy, copy)
    one = Texts(original.embeddings, original.groups, np.full(40, "sport"))
    with pytest.raises(ValueError, match="fewer than two topics"):
        translation_quantities(one, one, target)
    rare = Texts(original.embeddings, original.groups, np.array(["rare"] + ["sport"] * 39))
    with pytest.raises(ValueError, match="rare"):
        translation_quantities(rare, rare, target)
    with pytest.raises(ValueError, match="level"):
        translation_quantities(original, original, target, level=0.0)
    with pytest.raises(ValueError, match="one row a text"):
        translation_quantities(Texts(original.embeddings[:3], original.groups), original, target)


def test_table_has_the_columns_and_choices_asked_for():
    original, target, axis = corpora(n=40)
    translated = moved(original, axis)

    def as_items(texts, name, labels):
        n = len(texts.groups)
        return Items(
            "texts", strings([name] * n), strings(np.arange(n)), strings(texts.groups), labels,
            texts=strings(["text"] * n),
        )  # fmt: skip

    topic = {"topic": strings(original.topics)}
    items = (
        as_items(original, "en", topic), as_items(translated, "es by machine", {}),
        as_items(target, "es", {}),
    )  # fmt: skip
    embeddings = [
        Embedding({"0 mean": np.zeros_like(t.embeddings), "output": t.embeddings})
        for t in (original, translated, target)
    ]
    key = {"contrast": "c", "embedder": "e"}
    table = translation_table(*items, *embeddings, key, {"final": "output"}, topic="topic")
    assert list(table) == [
        "contrast", "embedder", "view", "choice", "quantity", "value", "lower", "upper", "p_value",
    ]  # fmt: skip
    assert table["quantity"].tolist() == QUANTITIES + TOPICS
    assert set(table["view"]) == {"output"}
    found = translation_quantities(original, translated, target)
    assert_allclose(table["value"], [quantity.value for quantity in found.values()])
    with pytest.raises(ValueError, match="originals have no label 'theme'"):
        translation_table(*items, *embeddings, key, {"final": "output"}, topic="theme")
    with pytest.raises(ValueError, match="no language axis"):
        translation_table(*items, *embeddings, key, {"final": "0 mean"})
