"""The HDF5 store: whole files or none, honest errors, plain h5py can read them."""

import hashlib
import shutil

import h5py
import numpy as np
import pytest

from model_metrology import store, verify


@pytest.fixture
def tree():
    generator = np.random.default_rng(0)
    return {
        "runs": {"0000": {"weights": generator.normal(size=(300, 100)), "status": "completed"}},
        "names": np.array(["α", "<b>", "plain"]),
        "count": np.int64(3),
    }


def test_round_trip(tmp_path, tree):
    store.write(tmp_path / "a" / "x.h5", tree, kind="runs", attrs={"seed": 4})
    back, attrs = store.read(tmp_path / "a" / "x.h5", kind="runs")
    np.testing.assert_array_equal(back["runs"]["0000"]["weights"], tree["runs"]["0000"]["weights"])
    assert back["runs"]["0000"]["status"] == "completed"
    assert list(back["names"]) == ["α", "<b>", "plain"]
    assert back["count"] == 3
    assert attrs["seed"] == 4 and attrs["kind"] == "runs"


def test_axes_and_units_are_written_for_readers_without_this_package(tmp_path, tree):
    path = tmp_path / "x.h5"
    store.write(
        path, tree, kind="runs", axes={"weights": ("row", "column")}, units={"weights": "logit"}
    )
    with h5py.File(path) as file:
        weights = file["runs/0000/weights"]
        assert list(weights.attrs["axes"]) == ["row", "column"]
        assert weights.attrs["unit"] == "logit"
        assert weights.compression == "gzip"


def test_same_content_same_bytes_in_every_dataset(tmp_path, tree):
    for name in ("a", "b"):
        store.write(tmp_path / name, tree, kind="runs")
    with h5py.File(tmp_path / "a") as a, h5py.File(tmp_path / "b") as b:
        raw = [f["runs/0000/weights"].id.read_direct_chunk((0, 0))[1] for f in (a, b)]
    assert raw[0] == raw[1]


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, tree):
    path = tmp_path / "x.h5"
    store.write(path, tree, kind="runs")
    before = path.read_bytes()
    with pytest.raises(TypeError):
        store.write(path, {"bad": object()}, kind="runs")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.h5"]


def test_truncated_file_is_named_with_the_remedy(tmp_path, tree):
    path = tmp_path / "x.h5"
    store.write(path, tree, kind="runs")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(store.StoreError, match=r"x\.h5.*delete it"):
        store.read(path, kind="runs")


def same(a, b):
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return (
        type(a) is type(b) and np.asarray(a).dtype == np.asarray(b).dtype and np.array_equal(a, b)
    )


def test_no_flipped_byte_becomes_another_number(tmp_path, tree):
    path = tmp_path / "x.h5"
    store.write(path, tree | {"empty": np.empty((0, 3))}, kind="runs", attrs={"seed": 4})
    content, whole = path.read_bytes(), store.read(path, kind="runs")[0]
    noticed = 0
    # Structure, data, texts and the last line alike.
    places = [*range(0, len(content) - 300, 211), *range(len(content) - 300, len(content))]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 0x55
        path.write_bytes(damaged)
        try:
            assert same(store.read(path, kind="runs")[0], whole)
        except store.StoreError as error:
            assert "x.h5" in str(error) and "delete it" in str(error)
            noticed += 1
    # That the last line is no such line may go unnoticed: then the rest is whole.
    assert noticed >= sum(place < len(content) - 74 for place in places)


def test_every_length_that_a_file_is_cut_to_is_noticed_or_harmless(tmp_path, tree):
    path = tmp_path / "x.h5"
    store.write(path, tree, kind="runs")
    content, whole = path.read_bytes(), store.read(path, kind="runs")[0]
    for length in (0, 1, 512, *range(1000, len(content), 7919), len(content) - 75):
        path.write_bytes(content[:length])
        with pytest.raises(store.StoreError, match=r"x\.h5.*delete it"):
            store.read(path, kind="runs")
    path.write_bytes(content[:-74])  # HDF5 as it was
    assert same(store.read(path, kind="runs")[0], whole)


def test_the_last_line_is_the_sha256_of_all_before_it(tmp_path, tree):
    path = tmp_path / "x.h5"
    store.write(path, tree, kind="runs")
    content, _, line = path.read_bytes().rpartition(b"\nSHA-256 ")
    assert line.decode() == hashlib.sha256(content).hexdigest() + "\n"


def test_a_disk_without_room_is_named_before_anything_is_written(tmp_path, tree, monkeypatch):
    path = tmp_path / "x.h5"
    store.write(path, tree, kind="runs")
    whole = store.read(path, kind="runs")[0]
    usage = shutil.disk_usage(tmp_path)._replace(free=300_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(store.StoreError, match=r"x\.h5: no space left.*make room and run again"):
        store.write(path, tree | {"more": np.zeros(10_000)}, kind="runs")
    with pytest.raises(store.StoreError, match="no space left"):
        store.write(path, {"texts": np.array(["long " * 20_000], dtype=object)}, kind="items")
    assert [p.name for p in tmp_path.iterdir()] == ["x.h5"]
    assert same(store.read(path, kind="runs")[0], whole)


def test_other_kind_other_schema_and_missing_file(tmp_path, tree, monkeypatch):
    path = tmp_path / "x.h5"
    store.write(path, tree, kind="runs")
    with pytest.raises(store.StoreError, match="holds 'runs', expected 'dataset'"):
        store.read(path, kind="dataset")
    monkeypatch.setattr(store, "SCHEMA_VERSION", store.SCHEMA_VERSION + 1)
    with pytest.raises(store.StoreError, match="schema version 1, this package reads 2; delete"):
        store.read(path, kind="runs")
    with pytest.raises(FileNotFoundError, match=r"none\.h5"):
        store.read(tmp_path / "none.h5", kind="runs")


def test_verify_names_what_is_damaged_below_a_folder(tmp_path, tree, monkeypatch, capsys):
    for name in ("a/whole.h5", "a/b/cut.h5", "other.h5"):
        store.write(tmp_path / name, tree, kind="runs")
    cut = tmp_path / "a" / "b" / "cut.h5"
    monkeypatch.setattr("sys.argv", ["verify", str(tmp_path / "a"), str(tmp_path)])
    assert verify.main() == 0
    cut.write_bytes(cut.read_bytes()[:-2000])
    assert verify.main() == 1
    said = capsys.readouterr()
    # Once in each of the folders.
    assert said.out.count("cut.h5") == 2 and "whole.h5" not in said.out
    assert said.err.splitlines()[-1] == "2 damaged"


def test_provenance_names_study_versions_and_time():
    attrs = store.provenance({"name": "s", "seed": 3}, device="cpu")
    assert attrs["study"] == "s" and attrs["root_seed"] == 3 and attrs["device"] == "cpu"
    assert "numpy" in attrs["versions"] and attrs["written"].endswith("Z")


def test_digest_follows_the_content_of_a_study_not_its_order():
    one = store.provenance({"name": "s", "seed": 3})["study_digest"]
    two = store.provenance({"seed": 3, "name": "s"})["study_digest"]
    three = store.provenance({"name": "s", "seed": 4})["study_digest"]
    assert one == two != three
