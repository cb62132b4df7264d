"""Items, vectors and drawn images come back from files as they went."""

from __future__ import annotations

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from model_metrology import files, store
from model_metrology.embeddings.items import Items, join, strings
from model_metrology.embeddings.views import Embedding, final_view

TEXTS = [
    "plain", "ümläut ß", "中文字符", "עברית RTL", "🙂👩‍👩‍👧 emoji", "e\u0301 combining", "\ufeffB",
    "quotes \" ' ` and , ; \\", "<script>&amp;</script>", "\x01 control", "x" * 70_000, "–",
]  # fmt: skip
COLUMNS = ("source", "id", "group")


def text_items(contents=TEXTS, **labels):
    n = len(contents)
    return Items(
        kind="texts",
        source=strings([["Hans; 1", "日本"][i % 2] for i in range(n)]),
        id=strings(range(1, n + 1)),
        group=strings([f"é/{i // 2}" for i in range(n)]),
        labels={name: strings(values) for name, values in labels.items()},
        texts=strings(contents),
    )


def same(found, expected):
    assert found.kind == expected.kind and len(found) == len(expected)
    assert set(found.labels) == set(expected.labels)
    pairs = [(getattr(found, name), getattr(expected, name)) for name in COLUMNS]
    pairs += [(found.labels[name], expected.labels[name]) for name in expected.labels]
    if expected.texts is not None:
        pairs.append((found.texts, expected.texts))
    for a, b in pairs:
        assert a.dtype == object and all(type(value) is str for value in a)
        assert_array_equal(a, b)
    for name in ("texts", "images"):
        assert (getattr(found, name) is None) == (getattr(expected, name) is None)


# -- items ---------------------------------------------------------------------------------------


def test_texts_round_trip(tmp_path):
    labels = ["", "übel", *[""] * (len(TEXTS) - 2)]
    items = text_items(topic=labels, none=[""] * len(TEXTS), texts=labels)
    files.write_items(tmp_path / "i.h5", items, {"study": "s"})
    same(files.read_items(tmp_path / "i.h5"), items)
    with store.open_file(tmp_path / "i.h5") as file:
        assert file.attrs["kind"] == "items" and file.attrs["study"] == "s"
        for name in (*COLUMNS, "texts"):
            assert list(file[name].attrs["axes"]) == ["item"]
        assert list(file["labels"]) == ["none", "texts", "topic"] and "images" not in file


def test_texts_without_labels_round_trip(tmp_path):
    files.write_items(tmp_path / "i.h5", text_items(), {})
    same(files.read_items(tmp_path / "i.h5"), text_items())


@given(
    st.lists(
        st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1),
        min_size=1,
        max_size=5,
    )
)
def test_any_text_round_trips(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("any") / "i.h5"
    items = text_items(texts, label=texts)
    files.write_items(path, items, {})
    same(files.read_items(path), items)


@pytest.mark.parametrize("n", [0, 3])
def test_images_round_trip(tmp_path, n):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(n, 5, 7, 3), dtype=np.uint8)
    names = strings(np.arange(n))
    items = Items("images", names, names, names, {"class": names}, images=images)
    files.write_items(tmp_path / "i.h5", items, {})
    back = files.read_items(tmp_path / "i.h5")
    same(back, items)
    assert back.images.dtype == np.uint8
    assert_array_equal(back.images, images)
    with store.open_file(tmp_path / "i.h5") as file:
        assert list(file["images"].attrs["axes"]) == ["item", "row", "column", "channel"]
        assert file["images"].attrs["unit"] == "intensity, 0 to 255"


def test_sources_are_joined_from_their_files(tmp_path):
    first, second = (
        text_items(TEXTS[:3], topic=["a", "b", "a"]),
        text_items(TEXTS[3:], other=TEXTS[3:]),
    )
    for i, items in enumerate((first, second)):
        files.write_items(tmp_path / f"{i}.h5", items, {})
    joined = join([files.read_items(tmp_path / f"{i}.h5") for i in range(2)])
    same(joined, join([first, second]))
    assert list(joined.labels["topic"]) == ["a", "b", "a", *[""] * (len(TEXTS) - 3)]


# -- vectors -------------------------------------------------------------------------------------


def embedding(seed, names):
    rng = np.random.default_rng(seed)
    sizes = {name: 2 + i for i, name in enumerate(names)}
    return Embedding({n: rng.normal(size=(4, d)).astype(np.float32) for n, d in sizes.items()})


# HDF5 sorts names: 10 would come before 2, cls before mean.
VIEWS = [f"{layer} {pooling}" for layer in range(12) for pooling in ("mean", "cls", "last")]


@pytest.mark.parametrize("names", [VIEWS, ["output"], ["3 last", "output"]])
def test_vectors_keep_views_in_order_under_every_control(tmp_path, names):
    controls = ["", "letters", "equal-length", "dropped"]
    embeddings = {control: embedding(i, names) for i, control in enumerate(controls)}
    files.write_embeddings(tmp_path / "e.h5", embeddings, {"embedder": "e"})
    back = files.read_embeddings(tmp_path / "e.h5")
    assert set(back) == set(controls)
    for control, each in embeddings.items():
        assert list(back[control].views) == names and len(back[control]) == 4
        assert final_view(back[control].views) == final_view(names)
        for name, points in each.views.items():
            assert back[control].views[name].dtype == np.float32
            assert_array_equal(back[control].views[name], points)


def test_vectors_can_be_read_without_this_package(tmp_path):
    embeddings = {
        "": embedding(0, ["0 mean", "1 mean"]),
        "dropped": embedding(1, ["0 mean", "1 mean"]),
    }
    files.write_embeddings(tmp_path / "e.h5", embeddings, {"embedder": "<e>"})
    with h5py.File(tmp_path / "e.h5") as file:
        assert file.attrs["kind"] == "embedding" and file.attrs["embedder"] == "<e>"
        assert list(file.attrs["views"]) == ["0 mean", "1 mean"]
        assert set(file) == {"plain", "dropped"}
        points = file["plain/1 mean"]
        assert list(points.attrs["axes"]) == ["item", "coordinate"]
        assert_array_equal(points[:], embeddings[""].views["1 mean"])


@pytest.mark.parametrize("channels", [1, 3])
def test_drawn_images_round_trip(tmp_path, channels):
    images = np.random.default_rng(0).integers(0, 256, (2, channels, 4, 4), dtype=np.uint8)
    files.write_generated(tmp_path / "g.h5", images, {"source": "drawn"})
    back = files.read_generated(tmp_path / "g.h5")
    assert back.dtype == np.uint8
    assert_array_equal(back, images)
    with store.open_file(tmp_path / "g.h5", kind="generated") as file:
        assert list(file["images"].attrs["axes"]) == ["image", "channel", "row", "column"]
        assert file.attrs["source"] == "drawn"


# -- other files ---------------------------------------------------------------------------------

WRITERS = {
    "items": lambda path: files.write_items(path, text_items(), {}),
    "embedding": lambda path: files.write_embeddings(path, {"": embedding(0, ["output"])}, {}),
    "generated": lambda path: files.write_generated(path, np.zeros((1, 3, 2, 2), np.uint8), {}),
}
READERS = {
    "items": files.read_items,
    "embedding": files.read_embeddings,
    "generated": files.read_generated,
}


@pytest.mark.parametrize("written", WRITERS)
@pytest.mark.parametrize("wanted", READERS)
def test_files_of_another_kind_are_refused(tmp_path, written, wanted):
    path = tmp_path / "x.h5"
    WRITERS[written](path)
    if written == wanted:
        READERS[wanted](path)
        return
    with pytest.raises(store.StoreError, match=rf"x\.h5: holds '{written}', expected '{wanted}'"):
        READERS[wanted](path)
    with pytest.raises(FileNotFoundError, match=r"none\.h5: no such file"):
        READERS[wanted](tmp_path / "none.h5")


def test_a_table_of_embeddings_keeps_names_and_what_is_empty(tmp_path):
    names = ("contrast", "embedder", "label", "source", "group", "true", "predicted")
    words = ("view", "control", "choice", "chosen", "source_a", "source_b", "excerpt")
    table = pd.DataFrame({name: ["1", "NA", "1e5"] for name in names})
    table[[*words]] = [[value] * len(words) for value in ("", "NA", "007")]
    table["labels"] = ["{}", '{"topic": ""}', '{"topic": "NA"}']
    table["auroc"] = [np.nan, 0.5, 1.0]
    table.to_csv(tmp_path / "t.csv", index=False)
    back = files.read_table(tmp_path / "t.csv")
    pd.testing.assert_frame_equal(back, table)


def test_numbers_of_other_stages_stay_numbers(tmp_path):
    # Classes in tables of surrogates, an exponent in one of spectra: names in tables of embeddings.
    table = pd.DataFrame({"population": ["1", "2"], "label": [0, 1], "predicted": [-1.0, np.nan]})
    table.to_csv(tmp_path / "t.csv", index=False)
    pd.testing.assert_frame_equal(files.read_table(tmp_path / "t.csv"), table)
