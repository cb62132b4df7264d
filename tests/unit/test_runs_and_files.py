"""Files of each kind come back as they went; what diverged is left out by name; logs hold all."""

import subprocess
import sys
from dataclasses import fields

import numpy as np
import pandas as pd
import pytest

from model_metrology import files, store
from model_metrology.data.datasets import prepare_dataset
from model_metrology.data.poison import poison_dataset
from model_metrology.data.recipes import Poison
from model_metrology.models.language import TokenPoints
from model_metrology.runs import (
    COMPLETED,
    DIVERGED,
    Outputs,
    TooManyDivergedError,
    TrainedRun,
    collect_outputs,
)
from model_metrology.surrogates.glm import fit_surrogate
from model_metrology.surrogates.outputs import KernelColumns, Measured, SubjectOutputs

LABELS, CLASSES = np.array([0, 1, 1]), ("cat", "dog")


def trained(run, status=COMPLETED):
    history = {
        "epoch": np.arange(1, 3),
        "loss": np.array([0.7, 0.5]),
        "accuracy": np.array([0.5, 0.6]),
        "learning_rate": np.full(2, 0.1),
        "seconds": np.ones(2),
    }
    message = "" if status == COMPLETED else "the loss was nan in epoch 2"
    weights = {"0.weight": np.full((2, 3), run, dtype=np.float32)}
    return TrainedRun(run, status, message, weights, np.full((3, 2), run, np.float32), history)


def test_dataset_round_trip(tmp_path):
    dataset = prepare_dataset("digits2", train=40, test=20)
    files.write_dataset(tmp_path / "d.h5", dataset, {})
    back = files.read_any(tmp_path / "d.h5")
    assert (back.name, back.classes) == (dataset.name, dataset.classes)
    for field in [f.name for f in fields(dataset) if f.name not in ("name", "classes")]:
        np.testing.assert_array_equal(getattr(back, field), getattr(dataset, field))


def test_poisoned_dataset_round_trip(tmp_path):
    clean = prepare_dataset("mine: 1", of="digits2", train=40, test=20)
    dataset = poison_dataset(clean, Poison(trigger="patch", fraction=0.25))
    files.write_dataset(tmp_path / "d.h5", dataset, {})
    back = files.read_dataset(tmp_path / "d.h5")
    assert back.name == "mine: 1" and back.poisoned.dtype == bool and back.poisoned.sum() == 10
    np.testing.assert_array_equal(back.poisoned, dataset.poisoned)
    np.testing.assert_array_equal(back.train_images, dataset.train_images)
    with store.open_file(tmp_path / "d.h5") as file:
        assert list(file["poisoned"].attrs["axes"]) == ["train point"]


def test_dataset_files_from_before_poisons_are_read_as_clean(tmp_path):
    dataset = prepare_dataset("digits2", train=40, test=20)
    tree = {name: value for name, value in vars(dataset).items() if name != "poisoned"}
    store.write(tmp_path / "d.h5", tree, kind="dataset", attrs={})
    assert files.read_dataset(tmp_path / "d.h5").poisoned.tolist() == [False] * 40


def test_outputs_features_and_trimming_round_trip(tmp_path):
    logits = np.random.default_rng(0).normal(size=(2, 3, 2)).astype(np.float32)
    outputs = Outputs("a <b> ü", np.array([0, 2]), logits, LABELS, CLASSES)
    files.write_outputs(tmp_path / "o.h5", outputs, {})
    back = files.read_any(tmp_path / "o.h5")
    assert back.population == "a <b> ü" and back.classes == CLASSES
    np.testing.assert_array_equal(back.runs, [0, 2])
    np.testing.assert_array_equal(back.logits, logits)
    np.testing.assert_array_equal(back.labels, LABELS)
    assert back.logits.dtype == np.float32
    files.write_features(tmp_path / "f.h5", {"train": np.eye(3), "test": np.eye(2)}, {})
    np.testing.assert_array_equal(files.read_features(tmp_path / "f.h5")["test"], np.eye(2))
    weights = np.array([[0.5, 0.5, 0.0]])
    files.write_trimming(tmp_path / "t.h5", np.array([1]), weights, {})
    trimming = files.read_any(tmp_path / "t.h5")
    np.testing.assert_array_equal(trimming["runs"], [1])
    np.testing.assert_array_equal(trimming["weights"], weights)


def test_sentences_as_tokens_round_trip(tmp_path):
    index = np.array([0, 2, 5])
    tokens = np.arange(12).reshape(3, 4)
    points = TokenPoints(("übel", "gut"), tokens, LABELS, index, tokens[:2], LABELS[:2], index, 7)
    files.write_tokens(tmp_path / "t.h5", points, {})
    back = TokenPoints.from_arrays(files.read_tokens(tmp_path / "t.h5"))
    assert (back.classes, back.padding) == (("übel", "gut"), 7)
    for name in [f.name for f in fields(points) if f.name not in ("classes", "padding")]:
        found, expected = getattr(back, name), getattr(points, name)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    with store.open_file(tmp_path / "t.h5") as file:
        assert list(file["test_tokens"].attrs["axes"]) == ["test point", "token"]
        assert list(file["train_labels"].attrs["axes"]) == ["train point"]


def subject_outputs(classes, triggered):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, size=5)
    return SubjectOutputs(
        logits=rng.normal(size=(5, classes)),
        labels=labels,
        train_labels=np.array([0, 1, 1]),
        train=np.array([0, 4, 9]),
        test=np.arange(5),
        triggered=triggered,
        poisoned=np.array([False, True, False]),
        classes=("a <b>", "ü"),
    )


@pytest.mark.parametrize(("classes", "triggered"), [(2, 2), (1, 0)])
def test_outputs_of_subjects_round_trip(tmp_path, classes, triggered):
    outputs = subject_outputs(classes, triggered)
    files.write_subject_outputs(tmp_path / "o.h5", outputs, {})
    back = files.read_subject_outputs(tmp_path / "o.h5")
    assert back.classes == outputs.classes and type(back.triggered) is int
    assert (back.triggered, back.clean) == (triggered, 5 - triggered)
    for name in ("logits", "labels", "train_labels", "train", "test", "poisoned", "predicted"):
        found, expected = getattr(back, name), getattr(outputs, name)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    with store.open_file(tmp_path / "o.h5") as file:
        assert file.attrs["kind"] == "subject outputs"
        assert file["logits"].attrs["unit"] == "logit"
        assert list(file["poisoned"].attrs["axes"]) == ["train point"]


def test_columns_of_kernels_round_trip(tmp_path):
    rng = np.random.default_rng(0)
    kernels = {}
    for raw in ("trace", "projected pseudo"):
        train, test = (rng.normal(size=(n, 2)).astype(np.float32) for n in (5, 4))
        kernels[raw] = KernelColumns(3, train, test, rng.random(2), rng.random(4))
    files.write_kernel_columns(tmp_path / "k.h5", kernels, {"device": "cpu"})
    for raw, columns in kernels.items():
        back = files.read_kernel_columns(tmp_path / "k.h5", raw)
        assert back.start == 3 and type(back.start) is int
        for name in ("train", "test", "train_squares", "test_squares"):
            found, expected = getattr(back, name), getattr(columns, name)
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)
    with store.open_file(tmp_path / "k.h5") as file:
        assert list(file["trace/test"].attrs["axes"]) == [
            "test point",
            "train point of the columns",
        ]


def test_surrogates_round_trip(tmp_path):
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(12, 12))
    fit = fit_surrogate(kernel, np.arange(12) % 3, l2=0.1)
    attributions = rng.normal(size=(4, 12)).astype(np.float32)
    measured = {"trNTK": Measured(fit, attributions, {}), "proj-pNTK": Measured(fit, None, {})}
    files.write_surrogates(tmp_path / "s.h5", measured, {})
    for name, found in measured.items():
        back = files.read_surrogate(tmp_path / "s.h5", name)
        np.testing.assert_array_equal(back["coefficients"], fit.coefficients)
        np.testing.assert_array_equal(back["intercept"], fit.intercept)
        for key in ("l2", "gradient_norm", "iterations", "converged"):
            assert back[key] == getattr(fit, key)
        assert ("attributions" in back) == (found.attributions is not None)
    back = files.read_surrogate(tmp_path / "s.h5", "trNTK")
    np.testing.assert_array_equal(back["attributions"], attributions)
    assert back["attributions"].dtype == np.float32
    with store.open_file(tmp_path / "s.h5") as file:
        assert list(file["trNTK/attributions"].attrs["axes"]) == ["test point", "train point"]
        assert file["trNTK/attributions"].attrs["unit"] == "logit"


def test_runs_with_slashes_in_parameter_names(tmp_path):
    run = trained(4)
    run.weights["a/b"] = np.arange(3.0)
    files.write_runs(tmp_path / "r.h5", [run, trained(11)], {"population": "p"})
    back = list(files.read_runs(tmp_path / "r.h5"))
    assert [r.run for r in back] == [4, 11]
    assert set(back[0].weights) == {"0.weight", "a/b"}
    assert store.read(tmp_path / "r.h5", kind="runs")[1]["population"] == "p"


def collect(runs, **options):
    return collect_outputs(runs, LABELS, CLASSES, population="p", **options)


def test_diverged_runs_are_left_out_by_name():
    runs = [trained(0), trained(1, DIVERGED), trained(2)]
    outputs, history, excluded = collect(runs, max_excluded=0.4)
    np.testing.assert_array_equal(outputs.runs, [0, 2])
    np.testing.assert_array_equal(outputs.logits[:, 0, 0], [0, 2])
    assert excluded.to_dict("records") == [
        {"population": "p", "run": 1, "reason": "the loss was nan in epoch 2"}
    ]
    assert sorted(history["run"].unique()) == [0, 1, 2]


def test_more_diverged_runs_than_allowed_stop_the_study():
    runs = [trained(0), trained(1, DIVERGED), trained(2)]
    with pytest.raises(TooManyDivergedError, match=r"1 of 3 runs diverged \(run 1: the loss was"):
        collect(runs, max_excluded=0.3)
    with pytest.raises(TooManyDivergedError, match="max_excluded"):
        collect([trained(0, DIVERGED)], max_excluded=0.99)


def test_too_few_completed_runs_for_the_reference_are_named():
    outputs, _, _ = collect([trained(0), trained(1)])
    first, rest = outputs.split(1)
    assert list(first.runs) == [0] and list(rest.runs) == [1]
    with pytest.raises(ValueError, match="3 reference runs are asked for, 2 were completed"):
        outputs.split(3)


def test_log_keeps_messages_warnings_and_the_exception(tmp_path):
    log = tmp_path / "job.log"
    code = f"""
import warnings
from model_metrology.logs import start_log
start_log({str(log)!r}).info("epoch %d", 3)
warnings.warn("odd")
raise ValueError("it broke")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode != 0
    text = log.read_text()
    assert "epoch 3" in text and "odd" in text
    assert "Traceback" in text and "ValueError: it broke" in text
    assert "epoch 3" in result.stderr and "it broke" in result.stderr


@pytest.mark.parametrize("name", ["1", "NA", "1e5", "null", "True", "ü %"])
def test_names_that_look_like_something_else_stay_names(tmp_path, name):
    table = pd.DataFrame({"population": [name, name], "run": [0, 1], "alpha": [0.5, np.nan]})
    others = ["population_a", "population_b", "dataset", "candidates", "scope", "group"]
    table[others] = name
    table.to_csv(tmp_path / "t.csv", index=False)
    back = files.read_table(tmp_path / "t.csv")
    assert (back[["population", *others]] == name).all().all()
    assert back["alpha"].isna().tolist() == [False, True] and back["run"].dtype == np.int64
