"""Images as items: of datasets, through JPEG, and generated."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from model_metrology.data.datasets import prepare_dataset
from model_metrology.embeddings.items import join
from model_metrology.embeddings.pictures import dataset_items, generated_items, recompressed


def jpeg(quality):
    return SimpleNamespace(of="real", quality=quality)


@pytest.fixture(scope="module")
def digits():
    return prepare_dataset("digits")


@pytest.fixture(scope="module")
def photographs():
    """Smooth coloured images, as JPEG is made for."""
    noise = np.random.default_rng(0).normal(size=(5, 3, 32, 32))
    smooth = gaussian_filter(noise, (0, 0, 3, 3))
    scaled = 127.5 + 60 * smooth / smooth.std()
    return generated_items(np.clip(scaled, 0, 255).astype(np.uint8), "real")


def test_a_datasets_test_images_are_items(digits):
    items = dataset_items(digits, "real", limit=None, seed=0)
    assert items.kind == "images" and items.texts is None
    assert items.images.shape == (597, 8, 8, 3) and items.images.dtype == np.uint8
    for channel in range(3):
        np.testing.assert_array_equal(items.images[..., channel], digits.test_images[:, 0])
    assert list(items.id) == [f"test/{i}" for i in digits.test_index]
    assert list(items.group) == list(items.id) and len(set(items.id)) == 597
    assert set(items.source) == {"real"}
    assert list(items.labels["class"]) == [digits.classes[label] for label in digits.test_labels]


def test_colours_stay_where_they_are():
    images = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
    items = generated_items(images, "drawn")
    assert items.images.shape == (2, 4, 5, 3)
    assert items.images[1, 2, 3].tolist() == images[1, :, 2, 3].tolist()
    assert items.labels == {} and set(items.source) == {"drawn"}
    assert len(set(items.group)) == 2


def test_a_limit_keeps_a_random_share_of_each_class(digits):
    few = dataset_items(digits, "real", limit=100, seed=1)
    assert len(few.images) == len(set(few.id)) == 100
    counts = np.unique(few.labels["class"], return_counts=True)[1]
    assert len(counts) == 10 and counts.min() >= 9
    places = dict(zip(digits.test_index, digits.test_images[:, 0], strict=True))
    for name, image in zip(few.id, few.images[..., 0], strict=True):
        np.testing.assert_array_equal(image, places[int(name.removeprefix("test/"))])
    again, other = (dataset_items(digits, "real", limit=100, seed=seed) for seed in (1, 2))
    assert list(few.id) == list(again.id) != list(other.id)
    with pytest.raises(ValueError, match="limit: 598 images asked for, digits has 597"):
        dataset_items(digits, "real", limit=598, seed=1)


def test_jpeg_keeps_what_an_image_is_and_loses_more_at_lower_quality(photographs):
    before = photographs.images.copy()
    errors = []
    for quality in (100, 75, 10):
        items = recompressed(photographs, jpeg(quality), "compressed again")
        assert set(items.source) == {"compressed again"}
        assert list(items.id) == list(photographs.id)
        assert list(items.group) == list(photographs.group)
        assert items.images.shape == before.shape and items.images.dtype == np.uint8
        errors.append(np.abs(items.images.astype(float) - before).mean())
    assert 0 < errors[0] < errors[1] < errors[2]
    # Without colours, of which JPEG keeps a quarter, its best is all but exact.
    grey = replace(photographs, images=np.repeat(before[..., :1], 3, axis=-1))
    best = recompressed(grey, jpeg(100), "best").images
    assert np.abs(best.astype(int) - grey.images).max() <= 2
    np.testing.assert_array_equal(photographs.images, before)
    assert set(photographs.source) == {"real"}


def test_compressed_images_keep_their_labels_and_join_with_their_origins(digits):
    real = dataset_items(digits, "real", limit=20, seed=0)
    compressed = recompressed(real, jpeg(50), "a longer name")
    drawn = generated_items(digits.test_images[:5], "drawn")
    joined = join([real, compressed, drawn])
    assert list(joined.source) == ["real"] * 20 + ["a longer name"] * 20 + ["drawn"] * 5
    assert list(joined.group[:20]) == list(joined.group[20:40])
    assert not set(joined.group[40:]) & set(joined.group[:40])
    assert list(joined.labels["class"][20:]) == [*real.labels["class"], *[""] * 5]


def test_what_is_no_image_is_refused(photographs):
    with pytest.raises(ValueError, match="source 'drawn': images of shape"):
        generated_items(np.zeros((2, 8, 8, 3), np.uint8), "drawn")
    texts = SimpleNamespace(images=None, texts=np.array(["a"]))
    with pytest.raises(ValueError, match="name images"):
        recompressed(texts, jpeg(50), "compressed")
