"""Naming the optimiser of a run: features, sets of names, and the tables."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import LeaveOneGroupOut, StratifiedKFold, cross_val_predict

from model_metrology.spectra import forensics
from model_metrology.spectra.forensics import (
    NONE_FITS,
    UNDECIDED,
    OptimiserClassifier,
    evaluate,
    feature_sets,
    spectral_features,
)
from model_metrology.spectra.runs import MATRICES, RunSpectra

TREES = 50
# Few runs can refuse names at a large level only.
LEVEL = 0.2
CLASSES = ("Adam", "GD", "SGD-large", "SGD-small")


def spectra_of(weights, readout, x, run=0):
    """Spectra of weights (s, h, d) and readouts (s, h) on points (n, d), by the definitions."""
    h, d = weights.shape[1:]
    eigenvalues = {name: [] for name in MATRICES}
    for w, v in zip(weights, readout, strict=True):
        hidden = x @ w.T / np.sqrt(d)
        value, slope = np.tanh(hidden), (1.0 - np.tanh(hidden) ** 2) * v
        kernel = value @ value.T / h
        matrices = w.T @ w / h, kernel, (x @ x.T / d) * (slope @ slope.T / h) + kernel
        for name, matrix in zip(MATRICES, matrices, strict=True):
            eigenvalues[name].append(np.linalg.eigvalsh(matrix))
    change = (weights - weights[0]) / np.sqrt(h)
    lengths = np.linalg.norm(readout, axis=1), np.linalg.norm(readout - readout[0], axis=1)
    return RunSpectra(
        run=run,
        steps=np.arange(len(weights)),
        eigenvalues={name: np.stack(values) for name, values in eigenvalues.items()},
        displacement=np.linalg.svd(change, compute_uv=False),
        readout=np.stack(lengths, axis=1) / np.sqrt(h),
    )


def spiked(*, n=120, d=60, h=90, spike=3.0, noise=0.1, seed=0, steps=2):
    """Weights moved by a spike and by noise."""
    rng = np.random.default_rng(seed)
    start = rng.standard_normal((h, d))
    v = rng.choice([-1.0, 1.0], h)
    left, right = rng.standard_normal(h), rng.standard_normal(d)
    direction = spike * np.sqrt(h) * np.outer(left / np.linalg.norm(left), right)
    direction = direction / np.linalg.norm(right) + noise * rng.standard_normal((h, d))
    share = np.linspace(0.0, 1.0, steps)
    weights = start + share[:, None, None] * direction
    readout = v * (1.0 + 0.2 * share[:, None])
    return weights, readout, rng.standard_normal((n, d))


def toy_runs(size=1, *, distance=4.0, seed=0, classes=CLASSES):
    """Runs whose two informative features part the classes, at all widths and step ranks."""
    rng = np.random.default_rng(seed)
    corner = {name: (i % 2, i // 2) for i, name in enumerate(CLASSES)}
    corner["RMSprop"] = (12.0, -9.0)
    rows = [
        {"label": label, "network.width_per_dimension": width, "step_rank": rank, "data.link": link}
        for label in classes
        for width in (1.0, 1.5, 2.0)
        for rank in range(3)
        for link in ("tanh", "relu")
        for _ in range(size)
    ]
    runs = pd.DataFrame(rows)
    centre = distance * np.array([corner[label] for label in runs["label"]])
    values = rng.standard_normal((len(runs), 6))
    values[:, :2] += centre
    names = ["weights: a", "weights: b", "growth: c", "displacement: d", "final e", "final f"]
    known = [label in CLASSES for label in runs["label"]]
    return pd.DataFrame(values, columns=names), runs.assign(
        group=runs["label"], run=np.arange(len(runs)), known=known,
        loss=np.exp(rng.standard_normal(len(runs))), norm_change=1.0 + rng.random(len(runs)),
    )  # fmt: skip


KEYS = ["network.width_per_dimension", "step_rank", "data.link"]


def only(monkeypatch, *names):
    """Leave out the other feature sets, for time."""
    every = forensics.feature_sets
    monkeypatch.setattr(
        forensics, "feature_sets", lambda *a: {name: every(*a)[name] for name in names}
    )


@pytest.fixture(scope="module")
def toy():
    features, runs = toy_runs(size=2, classes=(*CLASSES, "RMSprop"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        only(monkeypatch, "spectra", "weights alone", "final spectra", "final loss")
        tables = evaluate(features, runs, held_out=KEYS, level=LEVEL, trees=TREES)
    return features, runs, tables


@pytest.fixture
def main_only(monkeypatch):
    only(monkeypatch, "spectra")


# Features


def test_features_are_ratios():
    weights, readout, x = spiked()
    spectra = spectra_of(weights, readout, x)
    scaled = RunSpectra(
        run=0,
        steps=spectra.steps,
        # Another unit for the weights, and one for each kernel.
        eigenvalues={
            name: values * factor
            for (name, values), factor in zip(
                spectra.eigenvalues.items(), (9.0, 7.0, 0.2), strict=True
            )
        },
        displacement=3.0 * spectra.displacement,
        readout=3.0 * spectra.readout,
    )
    before, after = spectral_features(spectra), spectral_features(scaled)
    assert after.pop("final readout: log norm") == pytest.approx(
        before.pop("final readout: log norm") + np.log(3.0)
    )
    assert after == pytest.approx(before, abs=1e-9)


def test_features_do_not_depend_on_the_basis_or_on_steps_between():
    weights, readout, x = spiked(steps=4)
    rng = np.random.default_rng(1)
    turn = np.linalg.qr(rng.standard_normal((60, 60)))[0]
    order = rng.permutation(90)
    other = spectra_of((weights @ turn)[:, order][[0, 3]], readout[:, order][[0, 3]], x @ turn)
    expected = spectral_features(spectra_of(weights, readout, x))
    assert spectral_features(other) == pytest.approx(expected, abs=1e-6)


def test_growth_is_one_for_displacements_orthogonal_to_the_start():
    weights, readout, x = spiked(spike=0.0)
    start, change = weights[0], weights[1] - weights[0]
    change = change - start * np.sum(start * change) / np.sum(start**2)
    features = spectral_features(spectra_of(np.stack([start, start + change]), readout, x))
    assert features["growth: ‖W‖² / displacement²"] == pytest.approx(1.0)
    # v grew by a fifth along itself: (1.44 − 1)/0.04.
    assert features["growth: ‖v‖² / its displacement²"] == pytest.approx(11.0)


def test_features_of_two_sizes_are_comparable():
    small = spectral_features(spectra_of(*spiked(spike=3.0)))
    large = spectral_features(spectra_of(*spiked(n=240, d=120, h=180, spike=3.0)))
    none = spectral_features(spectra_of(*spiked(spike=0.5)))
    name = "weights: log eigenvalue 1 / initial"
    assert abs(small[name] - large[name]) < 0.2 < 0.5 < small[name] - none[name]
    share = "displacement: log share 1"
    assert none[share] < small[share] < 0.0


def test_without_the_initial_network_only_the_end_counts():
    weights, readout, x = spiked()
    spectra = spectra_of(weights, readout, x)
    end = spectra_of(weights[1:], readout[1:], x)
    features = spectral_features(end, initial=False)
    assert features == pytest.approx(spectral_features(spectra, initial=False))
    assert all(name.startswith("final ") for name in features)
    both = spectral_features(spectra)
    assert {name for name in both if name.startswith("final ")} == set(features)


def test_a_readout_that_is_not_trained_has_features():
    weights, readout, x = spiked()
    features = spectral_features(spectra_of(weights, readout[[0, 0]], x))
    assert features["growth: ‖v‖² / its displacement²"] == 0.0
    assert np.isfinite(list(features.values())).all()


def test_what_has_no_features_is_refused():
    weights, readout, x = spiked()
    with pytest.raises(ValueError, match=r"run 7: the weights have not moved.*initial=False"):
        spectral_features(spectra_of(weights[[0, 0]], readout, x, run=7))
    with pytest.raises(ValueError, match=r"run 7: the weights have not moved.*initial=False"):
        spectral_features(spectra_of(weights[:1], readout[:1], x, run=7))
    with pytest.raises(ValueError, match=r"8 eigenvalues of the weights.*larger network"):
        spectral_features(spectra_of(*spiked(d=8, h=12)))
    broken = spectra_of(weights, readout, x)
    broken.eigenvalues["conjugate kernel"][-1, -1] = np.nan
    with pytest.raises(ValueError, match=r"the spectra are not finite.*diverged"):
        spectral_features(broken)


# The classifier


def blobs(size=60, *, seed=0, distance=6.0, features=4):
    rng = np.random.default_rng(seed)
    names = np.repeat(["GD", "SGD-small", "Adam"], size)
    centres = np.repeat([[0.0, 0.0], [distance, 0.0], [0.0, 40.0]], size, axis=0)
    values = rng.standard_normal((3 * size, features))
    values[:, :2] += centres
    return values, names


def test_separable_classes_are_named_and_a_run_far_away_is_not():
    model = OptimiserClassifier(trees=TREES).fit(*blobs(distance=12.0))
    values, names = blobs(seed=1, distance=12.0)
    assert np.mean(model.predict(values) == names) == 1.0
    said = model.names(values)
    assert np.mean([len(found) == 1 for found in said]) > 0.9
    assert model.names([[200.0, -150.0, 0.0, 0.0], [6.0, 20.0, 0.0, 0.0]]) == [(), ()]


def test_classes_that_overlap_leave_runs_undecided():
    values, names = blobs(size=150, distance=0.5)
    model = OptimiserClassifier(trees=TREES).fit(values, names)
    said = model.names(blobs(seed=1, distance=0.5)[0])
    assert np.mean([found == ("GD", "SGD-small") for found in said[:120]]) > 0.75
    assert np.mean([found == ("Adam",) for found in said[120:]]) > 0.85


@pytest.mark.parametrize("level", [0.05, 0.2])
def test_sets_cover_each_class_at_the_level(level):
    covered = {"GD": [], "SGD-small": [], "Adam": []}
    for seed in range(4):
        model = OptimiserClassifier(level=level, trees=TREES, random_state=seed)
        model.fit(*blobs(size=80, seed=seed, distance=2.0))
        values, names = blobs(size=300, seed=100 + seed, distance=2.0)
        for name, found in zip(names, model.names(values), strict=True):
            covered[name].append(name in found)
    for hits in covered.values():
        # 1,200 runs a class, but four calibrations of 80: their spread is most of the margin.
        assert 1.0 - level - 0.035 < np.mean(hits) < 1.0


def test_p_values_are_uniform_for_the_own_class_and_agree_with_names():
    model = OptimiserClassifier(trees=TREES).fit(*blobs())
    values, names = blobs(seed=3)
    p_values = model.p_values(values)
    own = p_values[np.arange(len(names)), np.searchsorted(model.classes_, names)]
    # Super-uniform: for no level is the share below it far above the level.
    for level in (0.1, 0.3, 0.6):
        assert np.mean(own <= level) < level + 0.08
    fits = [tuple(model.classes_[row > 0.05]) for row in p_values]
    assert model.names(values) == fits


def test_probabilities_are_calibrated():
    model = OptimiserClassifier(trees=TREES).fit(*blobs(size=200, distance=1.5))
    values, names = blobs(size=400, seed=5, distance=1.5)
    probabilities = model.predict_proba(values)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    hits = model.predict(values) == names
    assert abs(probabilities.max(axis=1).mean() - hits.mean()) < 0.04


def test_what_suits_better_by_itself_stands_alone():
    truth = np.arange(100) % 2
    right, flat = np.eye(2)[truth], np.full((100, 2), 0.5)
    # Wrong of every fifth run, and sure of it.
    wrong = np.where((np.arange(100) % 5 == 0)[:, None], np.eye(2)[1 - truth], right)
    slight = 0.6 * right + 0.4 * (1.0 - right)
    assert forensics._weight(slight, wrong, truth) == 1.0
    assert forensics._weight(wrong, slight, truth) == 0.0
    # Where none is better, both count.
    assert forensics._weight(right, flat, truth) == forensics._weight(flat, right, truth) == 0.5
    assert OptimiserClassifier(trees=TREES).fit(*blobs()).weight_ == 0.5


def test_classifier_is_of_scikit_learn_and_reproducible():
    values, names = blobs()
    model = OptimiserClassifier(level=0.1, trees=TREES, random_state=3)
    first = model.fit(values, names).predict_proba(values)
    np.testing.assert_array_equal(first, clone(model).fit(values, names).predict_proba(values))
    assert model.get_params() == {"level": 0.1, "trees": TREES, "folds": 5, "random_state": 3}


def test_classifier_refuses_bad_input():
    values, names = blobs()
    with pytest.raises(ValueError, match=r"one class alone \(GD\)"):
        OptimiserClassifier().fit(values[:60], names[:60])
    with pytest.raises(ValueError, match=r"2 run\(s\) of 'SGD-small', and at least 5.*add seeds"):
        OptimiserClassifier().fit(values[:62], names[:62])
    broken = pd.DataFrame(values, columns=list("abcd"))
    broken.loc[3, "c"] = np.nan
    with pytest.raises(ValueError, match=r"not finite in column\(s\) c; .*diverged"):
        OptimiserClassifier().fit(broken, names)
    with pytest.raises(ValueError, match="level must lie"):
        OptimiserClassifier(level=1.0).fit(values, names)
    with pytest.raises(ValueError, match="trees must be at least 50"):
        OptimiserClassifier(trees=10).fit(values, names)


# The tables


def row(table, **where):
    for key, value in where.items():
        table = table[table[key] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_accuracies_are_those_of_cross_validation(toy):
    features, runs, tables = toy
    known = runs["known"].to_numpy()
    labels = runs.loc[known, "label"].to_numpy()
    model = OptimiserClassifier(trees=TREES)
    for name in ("spectra", "final spectra"):
        values = feature_sets(features, runs)[name][known].to_numpy()
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        said = cross_val_predict(model, values, labels, cv=folds)
        found = row(tables.accuracy, features=name, split="unseen seeds", part="all")
        assert found["accuracy"] == pytest.approx(np.mean(said == labels))
    values = feature_sets(features, runs)["weights alone"][known].to_numpy()
    rank = runs.loc[known, "step_rank"].to_numpy()
    said = cross_val_predict(model, values, labels, cv=LeaveOneGroupOut(), groups=rank)
    where = {"features": "weights alone", "split": "unseen step_rank"}
    for part, rows in (("all", rank >= 0), ("inside", rank == 1), ("beyond", rank != 1)):
        found = row(tables.accuracy, **where, part=part)
        assert found["n"] == rows.sum()
        assert found["accuracy"] == pytest.approx(np.mean((said == labels)[rows]))
        assert found["low"] < found["accuracy"] < found["high"]


def test_toy_classes_are_found_and_the_unknown_is_not_named(toy):
    tables = toy[2]
    found = row(tables.accuracy, features="spectra", split="unseen seeds", part="all")
    assert found["accuracy"] > 0.9 and found["set_contains_truth"] > 0.75
    assert row(tables.accuracy, features="final spectra", split="unseen seeds", part="all")[
        "accuracy"
    ] == pytest.approx(0.25, abs=0.12)
    unknown = row(tables.unknown, features="spectra", truth="RMSprop")
    assert unknown["none_fits"] == unknown["abstained"] == 1.0 and unknown["n"] == 36
    # Noise gives no reason to refuse a name.
    assert row(tables.unknown, features="final spectra", truth="RMSprop")["none_fits"] < 0.4


def test_shares_add_up_and_agree_with_the_predictions(toy):
    _, runs, tables = toy
    accuracy = tables.accuracy
    sums = accuracy["named"] + accuracy["undecided"] + accuracy["none_fits"]
    np.testing.assert_allclose(sums, 1.0)
    np.testing.assert_allclose(accuracy["abstained"], 1.0 - accuracy["named"])
    assert set(accuracy.loc[accuracy["split"] == "unseen data.link", "part"]) == {"all"}
    for split, part in tables.predictions.groupby("split"):
        if split == "unknown optimisers":
            assert set(part["truth"]) == {"RMSprop"}
            continue
        found = row(accuracy, features="spectra", split=split, part="all")
        assert len(part) == found["n"] == runs["known"].sum()
        assert np.mean(part["predicted"] == part["truth"]) == pytest.approx(found["accuracy"])
        one = part["verdict"].isin(CLASSES)
        assert np.mean(one) == pytest.approx(found["named"])
        hits = part.loc[one, "names"] == part.loc[one, "truth"]
        assert hits.mean() == pytest.approx(found["accuracy_named"])
        right = np.mean(~one | (part["names"] == part["truth"]))
        assert right == pytest.approx(found["right_or_abstained"])
        contains = [t in n.split(" | ") for t, n in zip(part["truth"], part["names"], strict=True)]
        assert np.mean(contains) == pytest.approx(found["set_contains_truth"])
        counts = tables.confusion[tables.confusion["split"] == split]
        assert counts["count"].sum() == len(part)
        merged = part[["truth", "predicted"]].replace({"SGD-small": "GD"})
        assert np.mean(merged["truth"] == merged["predicted"]) == pytest.approx(found["accuracy3"])


def test_confusion_has_every_pair_and_the_unknown(toy):
    confusion = toy[2].confusion
    named = [*CLASSES, UNDECIDED, NONE_FITS]
    for split, part in confusion.groupby("split"):
        truths = ["RMSprop"] if split == "unknown optimisers" else list(CLASSES)
        assert len(part) == len(truths) * len(named)
        assert set(part["named"]) == set(named) and set(part["truth"]) == set(truths)
    refused = row(confusion, split="unknown optimisers", truth="RMSprop", named=NONE_FITS)
    assert refused["count"] == 36


def test_left_out_values_are_those_of_the_run(toy):
    predictions = toy[2].predictions
    part = predictions[predictions["split"] == "unseen network.width_per_dimension"]
    assert (part["held"] == part["network.width_per_dimension"].astype(str)).all()
    keys = ["group", "run", "label"]
    assert not part[keys].duplicated().any()


def test_calibration_error_is_that_of_torchmetrics_and_of_the_reliability(main_only):
    # Makes torchvision, which torchmetrics imports, importable with a CPU build of torch.
    pytest.importorskip("model_metrology.torchvision_compat")
    torchmetrics = pytest.importorskip("torchmetrics.functional.classification")
    features, runs = toy_runs(distance=1.5)
    tables = evaluate(features, runs, held_out=[], trees=TREES)
    model = OptimiserClassifier(trees=TREES)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    labels = runs["label"].to_numpy()
    probabilities = cross_val_predict(
        model, feature_sets(features, runs)["spectra"].to_numpy(), labels, cv=folds,
        method="predict_proba",
    )  # fmt: skip
    expected = torchmetrics.multiclass_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(np.searchsorted(CLASSES, labels)),
        num_classes=4, n_bins=15, norm="l1",
    )  # fmt: skip
    found = row(tables.accuracy, features="spectra", split="unseen seeds", part="all")["ece"]
    assert found == pytest.approx(float(expected), abs=1e-6)
    bins = tables.reliability.dropna()
    error = (bins["count"] * (bins["confidence"] - bins["accuracy"]).abs()).sum()
    assert error / bins["count"].sum() == pytest.approx(found, abs=1e-9)
    assert tables.reliability["count"].sum() == len(runs)
    assert ((bins["confidence"] > bins["low"]) & (bins["confidence"] <= bins["high"])).all()
    # No run is of an unknown optimiser.
    assert tables.unknown.empty and "truth" in tables.unknown


def test_labels_without_information_give_chance(main_only):
    features, runs = toy_runs(size=2)
    rng = np.random.default_rng(0)
    # Permuted within every cell, so that each fold and value keeps all classes.
    runs["label"] = runs.groupby(KEYS)["label"].transform(lambda s: rng.permutation(s))
    tables = evaluate(features, runs, held_out=KEYS, trees=TREES)
    part = tables.accuracy[tables.accuracy["features"] == "spectra"]
    for found in part.itertuples():
        # Four standard deviations of a share of a quarter.
        assert abs(found.accuracy - 0.25) < 4.0 * np.sqrt(0.25 * 0.75 / found.n)
        assert found.set_contains_truth > 0.88


def test_feature_sets_keep_the_baselines_apart():
    features, runs = toy_runs()
    sets = feature_sets(features, runs.assign(readout_change=0.0))
    assert list(sets) == [
        "spectra", "weights alone", "final spectra", "final loss", "weight norm", "loss and norms",
    ]  # fmt: skip
    assert list(sets["weights alone"]) == ["weights: a", "weights: b"]
    assert list(sets["final spectra"]) == ["final e", "final f"]
    assert set(sets["spectra"]) == set(features) - {"final e", "final f"}
    assert list(sets["loss and norms"]) == ["loss", "norm_change", "readout_change"]
    np.testing.assert_allclose(sets["final loss"]["loss"], np.log(runs["loss"]))
    assert np.isfinite(sets["loss and norms"].to_numpy()).all()
    assert "final spectra" not in feature_sets(features[["weights: a"]], runs)


def test_evaluate_refuses_bad_input():
    features, runs = toy_runs()

    def refused(match, features=features, runs=runs, held_out=KEYS):
        with pytest.raises(ValueError, match=match):
            evaluate(features, runs, held_out=held_out, trees=TREES)

    refused("features and runs differ in length", features=features[1:])
    refused("no column data.noise", held_out=["data.noise"])
    same = runs.assign(noise=1)
    refused("noise: all known runs have one value.*vary it", runs=same, held_out=["noise"])
    refused("one class alone", runs=runs.assign(known=runs["label"] == "GD"))
    refused("or none", runs=runs.assign(known=False), held_out=[])
    few = runs["known"] & ((runs["label"] != "GD") | (runs.index % 9 == 0))
    few = runs.assign(known=few)
    refused(r"2 run\(s\) of 'GD', and at least 6", runs=few)
    broken = features.copy()
    broken.loc[5, "growth: c"] = np.inf
    refused("growth: c", features=broken)
    lonely = runs.assign(key=np.where(runs["label"] == "GD", 1, 2 + runs["run"] % 2))
    refused("key: without the runs at 1 .* 'GD'.*within every class", runs=lonely, held_out=["key"])
    assert forensics.MAIN in feature_sets(features, runs)
