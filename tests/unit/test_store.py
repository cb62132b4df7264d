"""The HDF5 store: whole files or none, honest errors, plain h5py can read them."""

import h5py
import numpy as np
import pytest

from model_metrology import store


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


def test_flipped_bytes_in_compressed_data_are_noticed(tmp_path):
    path = tmp_path / "x.h5"
    store.write(path, {"w": np.random.default_rng(0).normal(size=100_000)}, kind="runs")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    path.write_bytes(content)
    with pytest.raises(store.StoreError, match=r"x\.h5"):
        store.read(path, kind="runs")


def test_other_kind_other_schema_and_missing_file(tmp_path, tree):
    path = tmp_path / "x.h5"
    store.write(path, tree, kind="runs")
    with pytest.raises(store.StoreError, match="holds 'runs', expected 'dataset'"):
        store.read(path, kind="dataset")
    with h5py.File(path, "r+") as file:
        file.attrs["schema_version"] = 0
    with pytest.raises(store.StoreError, match="schema version 0"):
        store.read(path, kind="runs")
    with pytest.raises(FileNotFoundError, match=r"none\.h5"):
        store.read(tmp_path / "none.h5", kind="runs")


def test_provenance_names_study_versions_and_time():
    attrs = store.provenance({"name": "s", "seed": 3}, device="cpu")
    assert attrs["study"] == "s" and attrs["root_seed"] == 3 and attrs["device"] == "cpu"
    assert "numpy" in attrs["versions"] and attrs["written"].endswith("Z")


def test_digest_follows_the_content_of_a_study_not_its_order():
    one = store.provenance({"name": "s", "seed": 3})["study_digest"]
    two = store.provenance({"seed": 3, "name": "s"})["study_digest"]
    three = store.provenance({"name": "s", "seed": 4})["study_digest"]
    assert one == two != three
