"""Items: joined, chosen, and with something taken away."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from model_metrology import store
from model_metrology.embeddings.items import (
    NO_LETTERS,
    Items,
    choose,
    control,
    excerpt,
    join,
    strings,
)


def texts(source, contents, groups=None, **labels):
    """Items of one source."""
    count = len(contents)
    return Items(
        kind="texts",
        source=strings([source] * count),
        id=strings(range(count)),
        group=strings(range(count) if groups is None else groups),
        labels={name: strings(values) for name, values in labels.items()},
        texts=strings(contents),
    )


def images(source, count, side=4):
    return Items(
        kind="images",
        source=strings([source] * count),
        id=strings(range(count)),
        group=strings(range(count)),
        labels={},
        images=np.zeros((count, side, side, 3), np.uint8),
    )


def long(count):
    return " ".join(f"w{i}" for i in range(count))


def lengths(items):
    return [len(text.split()) for text in items.texts]


def test_joined_items_keep_their_order_and_lack_labels_as_empty():
    first = texts("human", ["a", "b"], topic=["x", "y"])
    second = texts("machine", ["c"], language=["es"])
    joined = join([first, second])
    assert joined.source.tolist() == ["human", "human", "machine"]
    assert joined.texts.tolist() == ["a", "b", "c"]
    assert joined.id.tolist() == ["0", "1", "0"]
    assert {name: list(values) for name, values in joined.labels.items()} == {
        "topic": ["x", "y", ""],
        "language": ["", "", "es"],
    }
    assert len(joined) == 3
    assert join([images("a", 2), images("b", 3)]).images.shape == (5, 4, 4, 3)


def test_what_does_not_belong_together_is_not_joined():
    with pytest.raises(ValueError, match="texts with texts"):
        join([texts("a", ["x"]), images("b", 1)])
    with pytest.raises(ValueError, match="at least one part"):
        join([])
    with pytest.raises(ValueError, match="differ in size, a 4 × 4, b 8 × 8"):
        join([images("a", 1), images("b", 1, side=8)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "sounds"}, "neither 'texts' nor 'images'"),
        ({"texts": None}, "have texts and nothing else"),
        ({"images": np.zeros((2, 4, 4, 3), np.uint8)}, "have texts and nothing else"),
        ({"id": strings(["0"])}, "differ in length"),
        ({"labels": {"topic": strings(["x"])}}, "differ in length"),
        ({"texts": strings(["a", ""])}, "a text is empty"),
    ],
)
def test_items_that_contradict_themselves_are_refused(changes, message):
    columns = dict.fromkeys(("source", "id", "group"), strings(["0", "1"]))
    whole = {"kind": "texts", **columns, "labels": {}, "texts": strings(["a", "b"])}
    Items(**whole)
    with pytest.raises(ValueError, match=message):
        Items(**whole | changes)


def test_items_are_chosen_by_position_or_mask():
    items = texts("a", ["p", "q", "r"], topic=["x", "y", "z"])
    for chosen in (choose(items, [2, 0]), choose(items, np.array([2, 0]))):
        assert chosen.texts.tolist() == ["r", "p"]
        assert chosen.labels["topic"].tolist() == ["z", "x"]
        assert chosen.group.tolist() == ["2", "0"]
    assert choose(items, items.labels["topic"] != "y").texts.tolist() == ["p", "r"]
    assert len(choose(items, [])) == 0
    assert choose(images("a", 3), [1]).images.shape == (1, 4, 4, 3)


def test_a_long_text_is_not_cut_and_comes_back_from_disk(tmp_path):
    items = texts("a", ["short", "é" * 5000])
    assert [len(text) for text in items.texts] == [5, 5000]
    store.write(tmp_path / "items.h5", {"texts": items.texts}, kind="items")
    tree, _ = store.read(tmp_path / "items.h5", kind="items")
    assert tree["texts"].tolist() == items.texts.tolist()


@given(st.text(max_size=60), st.integers(2, 40))
def test_an_excerpt_is_a_beginning(text, length):
    shown = excerpt(text, length)
    assert len(shown) <= length
    assert shown == text or (shown.endswith("…") and text.startswith(shown[:-1]))


def test_an_excerpt_ends_with_a_word():
    assert excerpt("one two three", 160) == "one two three"
    assert excerpt("one two three", 10) == "one two…"
    assert excerpt("onetwothree", 5) == "onet…"


# -- controls ------------------------------------------------------------------------------------


def test_texts_are_cut_to_the_shortest_of_their_group():
    items = join(
        [
            texts("human", [long(5), long(9), long(4)], groups=["p", "q", "r"]),
            texts("gpt", [long(2), long(8), long(7)], groups=["r", "p", "q"]),
            texts("opt", [long(6), long(6), long(6)], groups=["q", "p", "r"]),
        ]
    )
    cut = control(items, "equal-length")
    assert lengths(cut) == [5, 6, 2, 2, 5, 6, 6, 5, 2]
    assert all(whole.startswith(part) for whole, part in zip(items.texts, cut.texts, strict=True))
    assert cut.group.tolist() == items.group.tolist()


def test_texts_of_one_document_are_matched_by_rank_not_all_cut_to_one():
    human = texts("human", [long(30), long(2), long(10)], groups=["d"] * 3)
    machine = texts("machine", [long(3), long(12), long(25)], groups=["d"] * 3)
    assert lengths(control(join([human, machine]), "equal-length")) == [25, 2, 10, 2, 10, 25]


@pytest.mark.parametrize("shared", [True, False])
def test_nothing_is_left_of_length(shared):
    rng = np.random.default_rng(0)
    human = texts("human", [long(n) for n in rng.integers(20, 200, 80)])
    groups = None if shared else [f"other {i}" for i in range(80)]
    machine = texts("machine", [long(n) for n in rng.integers(60, 300, 80)], groups=groups)
    items = join([human, machine])
    before, after = lengths(items), lengths(control(items, "equal-length"))
    assert stats.ks_2samp(before[:80], before[80:]).pvalue < 1e-6
    assert sorted(after[:80]) == sorted(after[80:])
    # As much is kept as the shorter source allows.
    assert np.mean(after) > 0.9 * np.mean(before[:80])


def test_sources_of_unlike_size_are_matched_by_share():
    rng = np.random.default_rng(1)
    human = texts("human", [long(n) for n in rng.integers(20, 200, 300)])
    few = [f"other {i}" for i in range(75)]
    machine = texts("machine", [long(n) for n in rng.integers(60, 300, 75)], groups=few)
    after = np.array(lengths(control(join([human, machine]), "equal-length")))
    assert stats.ks_2samp(after[:300], after[300:]).statistic < 0.02
    quartiles = [np.quantile(part, [0.25, 0.5, 0.75]) for part in (after[:300], after[300:])]
    assert quartiles[0] == pytest.approx(quartiles[1], abs=3)


def test_groups_that_lack_a_source_are_matched_together():
    human = texts("human", [long(9), long(4), long(6)], groups=["p", "q", "r"])
    machine = texts("machine", [long(5), long(7), long(3)], groups=["p", "s", "t"])
    # p by itself; q and r against s and t.
    assert lengths(control(join([human, machine]), "equal-length")) == [5, 3, 6, 5, 6, 3]


def test_letters_are_those_of_any_alphabet():
    cases = {
        "Don't — “stop”, 2.5m!": "dont stop m",
        "don’t": "dont",
        "well-known a_b": "well known a b",
        "ÇA VA, ΣΟΦΙΑ? Привет 中文": "ça va σοφια привет 中文",
        "हिन्दी।": "हिन्दी",
        "2 + 2 = 4": NO_LETTERS,
    }
    items = texts("a", list(cases))
    assert control(items, "letters").texts.tolist() == list(cases.values())
    # The two ways to write é are one.
    both = control(texts("a", ["caf\u00e9", "cafe\u0301"]), "letters").texts
    assert both[0] == both[1]


@given(st.lists(st.text(min_size=1).map(lambda t: " ".join(t.split())).filter(bool), min_size=1))
def test_what_letters_leaves(contents):
    for text in control(texts("a", contents), "letters").texts:
        assert text == " ".join(text.split())
        assert text == NO_LETTERS or all(
            sign == " " or unicodedata.category(sign)[0] in "LM" for sign in text
        )


@pytest.mark.parametrize(("count", "left"), [(1, 1), (2, 2), (11, 2), (12, 2), (13, 3), (40, 30)])
def test_the_first_words_are_dropped(count, left):
    words = long(count).split()
    dropped = control(texts("a", [long(count)]), "dropped").texts[0]
    assert dropped.split() == words[-left:]


def test_controls_that_do_not_exist_are_named():
    with pytest.raises(ValueError, match="no 'shuffled'; choose from equal-length, letters"):
        control(texts("a", ["x"]), "shuffled")
    with pytest.raises(ValueError, match="images have none"):
        control(images("a", 1), "letters")


def test_controls_are_those_that_a_study_can_name():
    from model_metrology.embeddings import items
    from model_metrology.embeddings.recipes import CONTROLS

    assert tuple(items._CONTROLS) == CONTROLS
