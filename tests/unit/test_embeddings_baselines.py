"""Baselines: what they look at, and that nothing of the test fold is in the training."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from model_metrology.embeddings import baselines
from model_metrology.embeddings.baselines import (
    baseline_features,
    baseline_separability,
)
from model_metrology.embeddings.items import Items, choose, control, strings
from model_metrology.embeddings.names import BASELINE_NAMES
from model_metrology.embeddings.separability import separability
from model_metrology.embeddings.separation_tables import baseline_tables

WORDS = np.array(
    [
        "the",
        "cat",
        "sat",
        "on",
        "a",
        "mat",
        "and",
        "saw",
        "its",
        "dog",
        "run",
        "far",
        "from",
        "here",
        "to",
        "there",
    ]
)


def texts_of(lengths, words=WORDS, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(words, size=size)) for size in lengths]


def of_texts(first, second):
    """Texts of two sources on the same prompts."""
    n = len(first)
    return Items(
        "texts", strings(np.repeat(["a", "b"], n)), strings(np.arange(2 * n)),
        strings(np.tile(np.arange(n), 2)), {}, strings([*first, *second]),
    )  # fmt: skip


def of_images(first, second):
    n = len(first)
    return Items(
        "images", strings(np.repeat(["a", "b"], n)), strings(np.arange(2 * n)),
        strings(np.arange(2 * n)), {}, None, np.concatenate((first, second)).astype(np.uint8),
    )  # fmt: skip


def asked(items, name, **options):
    features = baseline_features(items, name)
    return baseline_separability(features, items.source, items.group, **options)


def test_length_tells_texts_by_their_length_and_by_nothing_else():
    rng = np.random.default_rng(0)
    items = of_texts(
        texts_of(rng.integers(30, 60, size=60)), texts_of(rng.integers(50, 90, size=60), seed=1)
    )
    found = asked(items, "length", permutations=99)
    assert found.accuracy > 0.8
    assert found.p_value == 0.01
    assert_allclose(
        baseline_features(items, "length")[0],
        np.log([len(items.texts[0].split()), len(items.texts[0])]),
    )
    cut = asked(control(items, "equal-length"), "length", permutations=99)
    assert cut.lower < 0.5 < cut.upper
    assert cut.p_value > 0.05
    other_words = of_texts(
        texts_of(rng.integers(30, 60, size=60)),
        texts_of(rng.integers(30, 60, size=60), words=WORDS[::-1][:8], seed=1),
    )
    assert asked(other_words, "word tf-idf").accuracy > 0.95


@pytest.mark.parametrize("name", ["character n-grams", "word tf-idf"])
@pytest.mark.parametrize("sources", [2, 3])
def test_terms_are_scikit_learns_pipeline_on_the_training_folds(name, sources):
    # Every text has words of its own, so that the vocabulary of the test fold would show.
    rng = np.random.default_rng(0)
    texts = [f"{text} w{i} x{i}" for i, text in enumerate(texts_of(rng.integers(5, 20, size=60)))]
    labels = np.arange(60) % sources
    items = of_texts(texts[:30], texts[30:])
    found = baseline_separability(baseline_features(items, name), labels)
    analysis = (
        {"analyzer": "char_wb", "ngram_range": (2, 4)}
        if name == "character n-grams"
        else {"ngram_range": (1, 2), "token_pattern": r"\b\w+\b"}
    )
    posterior = np.empty((60, sources))
    for fold in range(5):
        test = found.folds == fold
        pipeline = make_pipeline(
            TfidfVectorizer(sublinear_tf=True, max_features=20_000, **analysis),
            LogisticRegression(C=10, max_iter=1000),
        )
        pipeline.fit(np.array(texts)[~test], labels[~test])
        posterior[test] = pipeline.predict_proba(np.array(texts)[test])
    assert_allclose(1 / (1 + np.exp(-found.scores)), posterior, atol=2e-3)
    assert_array_equal(found.predictions, posterior.argmax(axis=1).astype(str))


def test_terms_are_the_most_frequent_of_the_training_folds(monkeypatch):
    monkeypatch.setattr(baselines, "_TERMS", 2)
    # "red" and "blue" tell nothing; the rarer words would.
    items = of_texts(["red blue red blue one"] * 20, ["red blue red blue two"] * 20)
    assert asked(items, "word tf-idf").auroc == 0.5
    monkeypatch.setattr(baselines, "_TERMS", 9)
    assert asked(items, "word tf-idf").auroc == 1.0


def test_terms_of_noise_are_not_above_chance():
    lengths = np.full(60, 30)
    items = of_texts(texts_of(lengths), texts_of(lengths, seed=1))
    found = asked(items, "word tf-idf")
    assert found.lower < 0.5 < found.upper
    assert found.p_value > 0.05
    assert np.isnan(asked(items, "word tf-idf", permutations=0).p_value)


def test_all_baselines_answer_in_the_folds_of_embeddings():
    items = of_texts(texts_of(np.full(30, 9)), texts_of(np.full(30, 9), seed=1))
    points = np.random.default_rng(0).normal(size=(60, 3))
    folds = separability(points, items.source, items.group, permutations=0, seed=3).folds
    for name in BASELINE_NAMES["texts"]:
        assert_array_equal(asked(items, name, permutations=0, seed=3).folds, folds)


def test_file_size_and_pixels_of_images():
    rng = np.random.default_rng(0)
    smooth = np.repeat(np.repeat(rng.integers(256, size=(40, 4, 4, 3)), 4, axis=1), 4, axis=2)
    rough = rng.integers(256, size=(40, 16, 16, 3))
    items = of_images(smooth, rough)
    sizes = baseline_features(items, "file size")
    assert sizes.shape == (80, 2)
    assert (sizes[:40, 0] < sizes[40:, 0]).all()
    assert asked(items, "file size", permutations=0).accuracy > 0.95
    pixels = baseline_features(items, "pixels")
    assert pixels.shape == (80, 3 + 3 + 8)
    assert_allclose(pixels[:, :3], items.images.mean(axis=(1, 2)) / 255)
    assert_allclose(pixels[:, 3:6], items.images.std(axis=(1, 2)) / 255)
    assert asked(items, "pixels", permutations=0).accuracy > 0.95
    alike = of_images(rough, rng.integers(256, size=(40, 16, 16, 3)))
    for name in BASELINE_NAMES["images"]:
        told = asked(alike, name, permutations=0)
        assert told.auroc_lower < 0.5 < told.auroc_upper


def test_a_wave_is_in_its_ring_of_the_spectrum():
    rows = np.mgrid[:16, :24][0]
    for cycles in (1, 3, 8):  # down the image's shorter side, of 16
        wave = 128 + 100 * np.cos(2 * np.pi * cycles * rows / 16)
        images = np.repeat(wave[None, :, :, None], 3, axis=3)
        spectrum = baseline_features(of_images(images, images), "pixels")[0, 6:]
        assert spectrum.argmax() == cycles - 1
    # White noise of variance v has power v at all frequencies.
    noise = 128 + 20 * np.random.default_rng(0).normal(size=(64, 32, 32, 1))
    images = np.repeat(noise, 3, axis=3)
    spectrum = baseline_features(of_images(images, images), "pixels")[:, 6:].mean(axis=0)
    assert_allclose(np.exp(spectrum)[4:], (20 / 255) ** 2, rtol=0.1)
    flat = np.full((2, 8, 8, 3), 7)
    assert np.isfinite(baseline_features(of_images(flat, flat), "pixels")).all()


def test_a_baseline_of_the_other_kind_is_refused():
    items = of_texts(["a b"] * 5, ["c d"] * 5)
    with pytest.raises(ValueError, match="'pixels' is not one of texts"):
        baseline_features(items, "pixels")
    with pytest.raises(ValueError, match="10 rows"):
        baseline_separability(baseline_features(items, "word tf-idf"), np.arange(20) % 2)


def test_tables_have_baselines_in_place_of_embedders():
    rng = np.random.default_rng(0)
    items = of_texts(
        texts_of(rng.integers(15, 30, size=25)), texts_of(rng.integers(28, 50, size=25), seed=1)
    )
    mixed = choose(items, rng.permutation(50))
    tables = baseline_tables(mixed, ["", "equal-length"], {"contrast": "c"}, permutations=19)
    table = tables["separability"]
    assert set(table["embedder"]) == set(BASELINE_NAMES["texts"])
    assert len(table) == 3 * 2 * 2
    assert set(table["choice"]) == {"baseline"}
    assert set(table["view"]) == {""}
    length = table[table["embedder"] == "length"].set_index("control")["accuracy"]
    assert length[""].min() > 0.8
    assert length["equal-length"].max() < 0.75
    assert set(tables["confusion"]["embedder"]) == set(BASELINE_NAMES["texts"])
    assert tables["confusion"].groupby(["embedder", "control"])["count"].sum().eq(50).all()
