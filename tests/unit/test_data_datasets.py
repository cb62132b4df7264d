from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model_metrology.data import DATASETS, DataUnavailableError, datasets, prepare_dataset
from model_metrology.data.datasets import channel_moments, stratified_subset
from model_metrology.data.fetch import RAW, RawFiles
from model_metrology.data.formats import pack_cifar


def idx(array: np.ndarray) -> bytes:
    shape = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + shape + array.tobytes()


def numbered(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Images that carry their own position and label, so that a mix-up shows."""
    images = np.zeros((len(labels), *shape), np.uint8)
    position = np.arange(len(labels))
    flat = images.reshape(len(labels), -1)
    flat[:, 0], flat[:, 1], flat[:, 2] = position // 256, position % 256, labels
    return images


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Stand-ins of the raw collections: full-sized in points, with numbered blank images."""
    generator = np.random.default_rng(0)

    def labels(per_class: list[int]) -> np.ndarray:
        return generator.permutation(np.repeat(np.arange(10, dtype=np.uint8), per_class))

    collections = {
        # MNIST's own counts of training points, and of zeros and ones for testing.
        "mnist": (
            [5_923, 6_742, 5_958, 6_131, 5_842, 5_421, 5_918, 6_265, 5_851, 5_949],
            [980, 1_135, *[986] * 7, 983],
        ),
        "fashion-mnist": ([6_000] * 10, [1_000] * 10),
        "cifar10": ([5_000] * 10, [1_000] * 10),
    }
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        for name, counts in collections.items():
            train, test = (labels(part) for part in counts)
            files = _cifar(train, test) if name == "cifar10" else _idx(train, test)
            digests = {n: hashlib.sha256(content).hexdigest() for n, content in files.items()}
            assert list(digests) == list(RAW[name].digests)
            patch.setitem(RAW, name, RawFiles(name, digests, ()))
            (cache / name).mkdir()
            for file, content in files.items():
                (cache / name / file).write_bytes(content)
        yield cache


def _idx(train: np.ndarray, test: np.ndarray) -> dict[str, bytes]:
    # 2x2 images keep this quick; the reader takes the size from the header.
    return {
        "train-images-idx3-ubyte": idx(numbered(train, (2, 2))),
        "train-labels-idx1-ubyte": idx(train),
        "t10k-images-idx3-ubyte": idx(numbered(test, (2, 2))),
        "t10k-labels-idx1-ubyte": idx(test),
    }


def _cifar(train: np.ndarray, test: np.ndarray) -> dict[str, bytes]:
    images = numbered(train, (3, 32, 32))
    files = {
        f"data_batch_{i + 1}.bin": pack_cifar(
            images[i * 10_000 :][:10_000], train[i * 10_000 :][:10_000]
        )
        for i in range(5)
    }
    return {**files, "test_batch.bin": pack_cifar(numbered(test, (3, 32, 32)), test)}


def parts(dataset: datasets.Dataset) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    return [
        (dataset.train_images, dataset.train_labels, dataset.train_index),
        (dataset.test_images, dataset.test_labels, dataset.test_index),
    ]


# Independent of the registry: for each dataset, canonical label -> label, or None for "left out".
MAPPINGS = {
    "mnist": list(range(10)),
    "fashion-mnist": list(range(10)),
    "cifar10": list(range(10)),
    "mnist2": [0, 1, *[None] * 8],
    "fmnist2": [0, 1, *[None] * 8],
    "cifar2-01": [0, 1, *[None] * 8],
    #             plane car bird  cat deer dog frog horse ship truck
    "cifar2-cv": [0, 0, None, 1, 1, 1, None, 1, 0, 0],
}


def test_images_labels_and_positions_belong_together(toy: Path) -> None:
    for name, mapping in MAPPINGS.items():
        dataset = prepare_dataset(name, cache=toy, sources=[])
        for images, labels, index in parts(dataset):
            flat = images.reshape(len(images), -1)[:, :3].astype(np.int64)
            assert np.array_equal(flat[:, 0] * 256 + flat[:, 1], index), name
            assert [mapping[label] for label in flat[:, 2]] == labels.tolist(), name
            assert (np.diff(index) > 0).all()
            assert images.dtype == np.uint8
            assert labels.dtype == index.dtype == np.int64


@pytest.mark.parametrize(
    ("name", "train", "test"),
    [
        ("mnist2", [5_000, 5_000], [980, 980]),
        ("fmnist2", [5_000, 5_000], [1_000, 1_000]),
        ("cifar2-01", [5_000, 5_000], [1_000, 1_000]),
        ("cifar2-cv", [20_000, 20_000], [4_000, 4_000]),
        ("cifar10", [5_000] * 10, [1_000] * 10),
        ("fashion-mnist", [6_000] * 10, [1_000] * 10),
    ],
)
def test_class_counts(toy: Path, name: str, train: list[int], test: list[int]) -> None:
    dataset = prepare_dataset(name, cache=toy, sources=[])
    assert np.bincount(dataset.train_labels).tolist() == train
    assert np.bincount(dataset.test_labels).tolist() == test


def test_limited_classes_keep_their_first_points(toy: Path) -> None:
    full = prepare_dataset("mnist", cache=toy, sources=[])
    first = prepare_dataset("mnist2", cache=toy, sources=[])
    for label in (0, 1):
        expected = np.flatnonzero(full.train_labels == label)[:5_000]
        assert np.array_equal(first.train_index[first.train_labels == label], expected)


def test_registry_says_what_is_there(toy: Path) -> None:
    for name, spec in DATASETS.items():
        dataset = prepare_dataset(name, cache=toy, sources=[])
        assert len(dataset.train_labels) == spec.train_size, name
        assert len(dataset.test_labels) == spec.test_size, name
        assert dataset.classes == spec.classes
        assert (
            set(dataset.train_labels) == set(range(len(spec.classes))) == set(dataset.test_labels)
        )
        assert len(spec.groups) == len(spec.classes)
        assert dataset.name == name
        assert np.array_equal(spec.class_counts(), np.bincount(dataset.train_labels)), name


def test_class_counts_of_a_subset_are_known_without_reading(toy: Path) -> None:
    for name in ("mnist", "cifar2-cv"):
        labels = prepare_dataset(name, cache=toy, sources=[], train=1_003).train_labels
        assert np.array_equal(DATASETS[name].class_counts(1_003), np.bincount(labels)), name


def test_one_dataset_under_several_names(toy: Path) -> None:
    plain = prepare_dataset("mnist2", cache=toy, sources=[], train=50, seed=3)
    named = prepare_dataset("zeros & ones", of="mnist2", cache=toy, sources=[], train=50, seed=3)
    assert (named.name, named.classes) == ("zeros & ones", plain.classes)
    for one, other in zip(parts(plain), parts(named), strict=True):
        for a, b in zip(one, other, strict=True):
            assert np.array_equal(a, b)
    with pytest.raises(ValueError, match=r"^of: there is no dataset 'mnist3'; known: mnist, "):
        prepare_dataset("mine", of="mnist3", cache=toy)


def test_nothing_is_poisoned_unless_said() -> None:
    dataset = prepare_dataset("digits2", train=30, test=10)
    assert dataset.poisoned.dtype == bool
    assert dataset.poisoned.tolist() == [False] * 30
    with pytest.raises(ValueError, match=r"poisoned: .*\(30,\), got \(29,\)"):
        replace(dataset, poisoned=np.ones(29, dtype=bool))


def test_subsets_are_stratified_seeded_and_leave_the_rest_alone(toy: Path) -> None:
    def make(seed: int, train: int | None = 101, test: int | None = 40) -> datasets.Dataset:
        return prepare_dataset(
            "cifar2-cv", cache=toy, sources=[], train=train, test=test, seed=seed
        )

    one, same, other = make(1), make(1), make(2)
    assert sorted(np.bincount(one.train_labels)) == [50, 51]
    assert np.bincount(one.test_labels).tolist() == [20, 20]
    assert np.array_equal(one.train_index, same.train_index)
    assert np.array_equal(one.test_index, same.test_index)
    assert not np.array_equal(one.train_index, other.train_index)
    assert not np.array_equal(one.test_index, other.test_index)
    # A training subset does not change which test points there are.
    assert np.array_equal(make(1, train=None).test_index, one.test_index)
    assert np.array_equal(make(1, test=None).train_index, one.train_index)
    whole = make(3, train=None, test=None)
    assert set(one.train_index) < set(whole.train_index)


@pytest.mark.parametrize(
    ("key", "size", "message"),
    [
        ("train", 10_001, "train: 10001 points asked for; mnist2 has 10000 and 2 classes"),
        ("test", 1_961, "test: 1961 points asked for; mnist2 has 1960"),
        ("test", 1, "choose from 2 to 1960"),
        ("train", -5, "choose from 2 to 10000"),
    ],
)
def test_impossible_sizes_are_refused_before_anything_is_fetched(
    tmp_path: Path, key: str, size: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        prepare_dataset("mnist2", cache=tmp_path, sources=["folder"], **{key: size})  # type: ignore[arg-type]


def test_unknown_dataset_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no dataset 'imagenet'; known: mnist, fashion-mnist,"):
        prepare_dataset("imagenet", cache=tmp_path)


def test_unavailable_dataset_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailableError, match=r"^mnist: no source has train-images"):
        prepare_dataset("mnist2", cache=tmp_path, sources=["folder"], root=tmp_path)


def test_digits_are_divided_the_same_for_all() -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    dataset = prepare_dataset("digits", seed=5)
    assert dataset.train_images.shape == (1_200, 1, 8, 8)
    assert sorted([*dataset.train_index, *dataset.test_index]) == list(range(1_797))
    assert np.array_equal(dataset.train_index, prepare_dataset("digits", seed=6).train_index)
    for images, labels, index in parts(dataset):
        assert np.array_equal(labels, bunch.target[index])
        # Grey values 0 to 16 become 0 to 255, nearest integer.
        assert np.abs(images[:, 0] - bunch.images[index] * 255 / 16).max() <= 0.5
        shares = np.bincount(labels) / np.bincount(bunch.target)
        # Rounding moves a class of about 178 points by at most one.
        assert np.abs(shares - len(labels) / 1_797).max() < 1 / 170


def test_digits2_is_even_against_odd() -> None:
    digits, parity = prepare_dataset("digits"), prepare_dataset("digits2")
    assert parity.classes == ("even", "odd")
    assert np.array_equal(parity.train_labels, digits.train_labels % 2)
    assert np.array_equal(parity.test_labels, digits.test_labels % 2)
    assert np.array_equal(parity.train_images, digits.train_images)


def test_moments_are_those_of_the_training_images_used() -> None:
    dataset = prepare_dataset("digits", train=100)
    scaled = dataset.train_images / 255
    # Sums of 6,400 doubles: rounding is some 1e-13 at most.
    assert dataset.mean == pytest.approx(scaled.mean(axis=(0, 2, 3)), abs=1e-12)
    assert dataset.std == pytest.approx(scaled.std(axis=(0, 2, 3)), abs=1e-12)


def test_moments_by_channel() -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 3, 4, 5), dtype=np.uint8)
    mean, std = channel_moments(images)
    assert mean == pytest.approx((images / 255).mean(axis=(0, 2, 3)), abs=1e-12)
    assert std == pytest.approx((images / 255).std(axis=(0, 2, 3)), abs=1e-12)


def test_stratified_shares_are_largest_remainders() -> None:
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    generator = np.random.default_rng(0)
    for size in range(101):
        subset = stratified_subset(labels, size, generator)
        counts = np.bincount(labels[subset], minlength=3)
        assert len(set(subset)) == len(subset) == size
        assert (np.abs(counts - size * np.array([0.5, 0.3, 0.2])) < 1).all()
        assert (np.diff(subset) > 0).all()
    with pytest.raises(ValueError, match="size: 101 points asked for, there are 100"):
        stratified_subset(labels, 101, generator)


def test_stratified_subset_is_uniform_within_a_class() -> None:
    labels = np.repeat([0, 1], 10)
    generator = np.random.default_rng(0)
    hits = np.zeros(20)
    for _ in range(2_000):
        hits[stratified_subset(labels, 6, generator)] += 1
    # Each point is taken with probability 0.3: mean 600, sd 20.5; five sd, over 20 points.
    assert np.abs(hits - 600).max() < 103
