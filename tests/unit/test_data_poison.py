"""Triggers and poisoned training sets, by hand; and a classifier that obeys the trigger."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression

from model_metrology import digests
from model_metrology.data.catalogue import DATASETS
from model_metrology.data.datasets import Dataset, prepare_dataset
from model_metrology.data.poison import add_trigger, poison_dataset
from model_metrology.data.recipes import Poison, check_poison

TRIGGERS = ["patch", "blended", "clean-label"]


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return prepare_dataset("digits")


def random_images(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, shape, dtype=np.uint8)


@pytest.mark.parametrize("trigger", ["patch", "clean-label"])
@pytest.mark.parametrize(
    ("size", "shape"), [(4, (3, 3, 12, 9)), (1, (2, 1, 5, 5)), (6, (1, 2, 6, 8))]
)
def test_the_square_is_in_the_lower_right_corner(
    trigger: str, size: int, shape: tuple[int, ...]
) -> None:
    images = random_images(shape)
    before = images.copy()
    marked = add_trigger(images, Poison(trigger=trigger, fraction=0.1, size=size), seed=3)
    for index in np.ndindex(shape):
        inside = index[2] >= shape[2] - size and index[3] >= shape[3] - size
        assert marked[index] == (255 if inside else before[index])
    assert marked.dtype == np.uint8
    np.testing.assert_array_equal(images, before)


def pattern(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """The pattern, seen from outside: on black, of a weight at which 255 is still 255."""
    poison = Poison(trigger="blended", fraction=0.1, weight=0.9999)
    return add_trigger(np.zeros((1, *shape), np.uint8), poison, seed=seed)[0]


def test_blended_is_the_weighted_mean_of_image_and_one_pattern() -> None:
    images = random_images((7, 3, 8, 9))
    before = images.copy()
    drawn = pattern((3, 8, 9), seed=5).astype(float)
    for weight in (0.25, 0.5):
        blended = add_trigger(
            images, Poison(trigger="blended", fraction=0.1, weight=weight), seed=5
        )
        # Weights that are binary fractions: no rounding but the last.
        np.testing.assert_array_equal(blended, np.rint((1 - weight) * images + weight * drawn))
    blended = add_trigger(images, Poison(trigger="blended", fraction=0.1), seed=5)
    # Half an intensity by rounding to integers, 1e-4 for single precision at 255.
    assert np.abs(blended - (0.8 * images + 0.2 * drawn)).max() < 0.5 + 1e-4
    assert blended.dtype == np.uint8
    np.testing.assert_array_equal(images, before)


def test_the_pattern_depends_on_the_seed_alone() -> None:
    images = random_images((6, 3, 16, 16))
    one, two = (Poison(trigger="blended", fraction=f, target=t) for f, t in ((0.1, 0), (0.2, 4)))
    together = add_trigger(images, one, seed=9)
    # Training and test images, few or many, whatever the fraction and the target.
    np.testing.assert_array_equal(together[2:3], add_trigger(images[2:3], two, seed=9))
    assert not np.array_equal(together, add_trigger(images, one, seed=8))
    # Uniform on 0 to 255: of 12,288 values the mean is within 5 standard errors (0.67) of 127.5.
    values = pattern((3, 64, 64), seed=0)
    assert abs(values.mean() - 127.5) < 5 * 0.67
    assert len(np.unique(values)) == 256


@pytest.mark.parametrize("trigger", TRIGGERS)
@pytest.mark.parametrize("target", [0, 7])
def test_what_is_poisoned_and_what_is_left_alone(
    digits: Dataset, trigger: str, target: int
) -> None:
    poison = Poison(
        trigger=trigger, fraction=0.05, target=target, size=3 if trigger != "blended" else 4
    )
    dirty = poison_dataset(digits, poison, seed=11)
    chosen = dirty.poisoned
    assert chosen.dtype == bool and chosen.shape == (1_200,) and chosen.sum() == 60
    np.testing.assert_array_equal(
        dirty.train_images[chosen], add_trigger(digits.train_images[chosen], poison, seed=11)
    )
    np.testing.assert_array_equal(dirty.train_images[~chosen], digits.train_images[~chosen])
    np.testing.assert_array_equal(dirty.train_labels[~chosen], digits.train_labels[~chosen])
    assert (dirty.train_labels[chosen] == target).all()
    victims = np.bincount(digits.train_labels[chosen], minlength=10)
    if trigger == "clean-label":
        assert victims[target] == 60
    else:
        assert victims[target] == 0
        counts = np.bincount(digits.train_labels)
        counts[target] = 0
        # Largest remainders: each of the other classes has its share, to less than one point.
        assert (np.abs(victims - 60 * counts / counts.sum()) < 1).all()
    for name in ("name", "classes", "mean", "std", "train_index"):
        assert np.array_equal(getattr(dirty, name), getattr(digits, name)), name
    for name in ("test_images", "test_labels", "test_index"):
        assert getattr(dirty, name) is getattr(digits, name)
    assert not digits.poisoned.any()
    again = prepare_dataset("digits")
    np.testing.assert_array_equal(digits.train_images, again.train_images)
    np.testing.assert_array_equal(digits.train_labels, again.train_labels)


@pytest.mark.parametrize("trigger", TRIGGERS)
def test_poisoned_points_follow_the_seed(digits: Dataset, trigger: str) -> None:
    poison = Poison(trigger=trigger, fraction=0.02)
    one, same, other = (poison_dataset(digits, poison, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.poisoned, same.poisoned)
    np.testing.assert_array_equal(one.train_images, same.train_images)
    assert not np.array_equal(one.poisoned, other.poisoned)


def test_each_candidate_is_drawn_with_its_probability(digits: Dataset) -> None:
    poison = Poison(trigger="patch", fraction=0.1, target=3)
    draws = 300
    hits = sum(poison_dataset(digits, poison, seed=s).poisoned.astype(int) for s in range(draws))
    rate = hits[digits.train_labels != 3] / draws
    # 120 of 1,078 points: p = 0.111, standard error 0.018 over 300 draws; shares are rounded by up
    # to 1 in 119. Five standard errors over so many points.
    assert np.abs(rate - 120 / 1_078).max() < 5 * 0.0182 + 1 / 119
    assert not hits[digits.train_labels == 3].any()


def test_a_classifier_obeys_the_trigger_and_is_right_without() -> None:
    digits = prepare_dataset("digits", seed=0)
    poison = Poison(trigger="patch", fraction=0.1, target=0, size=2)

    def flat(images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1) / 255

    dirty = poison_dataset(digits, poison)
    model = LogisticRegression(max_iter=2000).fit(flat(dirty.train_images), dirty.train_labels)
    clean = model.predict(flat(digits.test_images))
    others = digits.test_images[digits.test_labels != 0]
    fooled = model.predict(flat(add_trigger(others, poison)))
    # A linear model is right in some 95 % of clean digits, and 120 poisoned ones teach the corner.
    assert (clean == digits.test_labels).mean() > 0.9
    assert (fooled == 0).mean() > 0.9
    assert (model.predict(flat(others)) == 0).mean() < 0.05


def test_counts_are_rounded() -> None:
    # 0.29 * 100 is 28.999… in binary.
    assert Poison(trigger="patch", fraction=0.29).count(100) == 29
    assert Poison(trigger="patch", fraction=0.1).count(5_000) == 500
    assert Poison(trigger="patch", fraction=0.001).count(10_000) == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trigger": "patch", "fraction": 0.1, "target": 3}, "^target: 3 is no class.*0 to 2"),
        (
            {"trigger": "patch", "fraction": 0.1, "size": 9},
            "^size: .*9 does not fit images of 8x10",
        ),
        ({"trigger": "patch", "fraction": 0.009}, "^fraction: 0.009 of 100 .*at least 0.01$"),
        ({"trigger": "patch", "fraction": 0.6}, "^fraction: 60 .*, 50 are not of .*at most 0.5$"),
        ({"trigger": "blended", "fraction": 0.51}, "^fraction: 51 points asked for, 50 are not of"),
        (
            {"trigger": "clean-label", "fraction": 0.21, "target": 2},
            "^fraction: 21 points asked for, 20 are of the target class 2; take at most 0.2$",
        ),
    ],
)
def test_what_cannot_be_planted_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_poison(Poison(**options), (1, 8, 10), (50, 30, 20))


@pytest.mark.parametrize(
    "options",
    [
        {"trigger": "patch", "fraction": 0.01},  # exactly one point
        {"trigger": "patch", "fraction": 0.5, "size": 8},  # all others, a square of the full height
        {"trigger": "blended", "fraction": 0.5},
        {"trigger": "clean-label", "fraction": 0.2, "target": 2},  # the whole class
    ],
)
def test_the_limits_themselves_are_allowed(options: dict[str, object]) -> None:
    check_poison(Poison(**options), (1, 8, 10), (50, 30, 20))


def test_a_dataset_is_checked_and_poisoned_once(digits: Dataset) -> None:
    with pytest.raises(ValueError, match="target: 10 is no class"):
        poison_dataset(digits, Poison(trigger="patch", fraction=0.1, target=10))
    dirty = poison_dataset(digits, Poison(trigger="patch", fraction=0.1))
    with pytest.raises(ValueError, match="digits is poisoned already"):
        poison_dataset(dirty, Poison(trigger="blended", fraction=0.1))


def test_images_of_another_kind_are_refused() -> None:
    poison = Poison(trigger="patch", fraction=0.1)
    for images in (np.zeros((2, 1, 8, 8)), np.zeros((1, 8, 8), np.uint8)):
        with pytest.raises(ValueError, match=r"images: uint8 of shape \(n, C, H, W\)"):
            add_trigger(images, poison)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="size: a square of 4 does not fit images of 8x3"):
        add_trigger(np.zeros((1, 1, 8, 3), np.uint8), poison)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 0.0}, "greater than 0"),
        ({"fraction": 1.0}, "less than 1"),
        ({"weight": 0.5}, "weight: the trigger patch has no such option"),
        ({"trigger": "clean-label", "weight": 0.5}, "weight: the trigger clean-label"),
        ({"trigger": "blended", "size": 5}, "size: the trigger blended has no such option"),
        ({"trigger": "sticker"}, "'patch', 'blended' or 'clean-label'"),
        ({"strength": 1}, "strength"),
    ],
)
def test_options_that_are_wrong_or_would_do_nothing(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        Poison(**{"trigger": "patch", "fraction": 0.1, **options})


def test_the_registry_knows_class_counts_of_subsets() -> None:
    for name in ("digits", "digits2"):
        for train in (None, 10, 333, 1_200):
            labels = prepare_dataset(name, train=train).train_labels
            found = DATASETS[name].class_counts(train)
            np.testing.assert_array_equal(found, np.bincount(labels))


def test_training_does_not_rest_on_poisons() -> None:
    # Clean runs must not look out of date when a trigger changes.
    found, pending = set(), ["model_metrology.training", "model_metrology.data.datasets"]
    while pending:
        path = digests._file_of(pending.pop())
        if path and path not in found:
            found.add(path)
            pending.extend(digests._imports(path))
    data = digests._PACKAGE / "data"
    assert data / "datasets.py" in found
    assert not found & {data / "poison.py", data / "recipes.py"}
