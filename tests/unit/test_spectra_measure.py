"""Every column of a measured run against a direct computation; tables and files come back."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import linalg, stats

from model_metrology import files, store
from model_metrology.runs import COMPLETED, DIVERGED
from model_metrology.seeds import Streams
from model_metrology.spectra.activations import activation
from model_metrology.spectra.classify import classify_spectrum
from model_metrology.spectra.laws import (
    conjugate_kernel_law,
    marchenko_pastur,
    neural_tangent_kernel_law,
)
from model_metrology.spectra.measure import (
    law_of,
    measure_run,
    measure_runs,
    target_alignment,
)
from model_metrology.spectra.recipes import Group, Sweep, WidthPopulation
from model_metrology.spectra.runs import MATRICES
from model_metrology.spectra.tables import slopes_table, summary_table
from model_metrology.spectra.training import draw_data, train_width_runs

CPU = torch.device("cpu")
WHAT = ["group", "cell", "data.points", "recipe.learning_rate", "recipe.batch_size", "width"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def population(*, data=None, network=None, recipe=None, **options):
    return WidthPopulation(
        data={"points": 36, "points_per_dimension": 2.0, **(data or {})},
        network={"width_per_dimension": 1.5, "trained": "both", **(network or {})},
        recipe={"learning_rate": 5.0, "steps": 20, **(recipe or {})},
        **options,
    )


def streams(run=0, name="p"):
    return Streams(3, name, run, ("init", "data", "order"))


def trained(of, run=0):
    return next(train_width_runs([of], [streams(run)], device=CPU))


CASES = {
    "one direction": population(data={"norm_term": 1.0}, snapshots=[1, 5]),
    "three directions": population(data={"directions": 3}, snapshots=[7]),
    "h < d, n < d": population(
        data={"points_per_dimension": 0.5, "link": "relu"},
        network={"width_per_dimension": 0.25, "activation": "softplus"},
    ),
    "large steps": population(recipe={"optimiser": "adam", "learning_rate": 0.5}),
    "n > d + h": population(
        data={"points": 60, "points_per_dimension": 5.0}, network={"activation": "relu"}
    ),
}


@pytest.fixture(scope="module", params=CASES)
def measured(request):
    of = CASES[request.param]
    run, data = trained(of), draw_data(of.data, streams())
    return of, run, data, *measure_run(of, run, data, level=0.05)


def direct(of, run, data, i):
    """The three matrices at one of the kept steps, in numpy; the kernels from a Jacobian."""
    w, v, x = (a.astype(np.float64) for a in (run.weights[i], run.readout[i], data.inputs))
    h, d = w.shape
    phi = activation(of.network.activation)

    def network(w, v):
        return phi(torch.from_numpy(x) @ w.T / math.sqrt(d)) @ v / math.sqrt(h)

    gradients = torch.func.jacrev(network, argnums=(0, 1))(*map(torch.from_numpy, (w, v)))
    of_w, of_v = (part.flatten(1).numpy() for part in gradients)
    conjugate = of_v @ of_v.T
    return {
        "weights": w.T @ w / h,
        "conjugate kernel": conjugate,
        "tangent kernel": of_w @ of_w.T + conjugate,
    }


def centred(kernel):
    h = np.eye(len(kernel)) - 1 / len(kernel)
    return h @ kernel @ h


def rows_of(table, of):
    """Rows with their matrix' name and place among the kept steps."""
    for row in table.to_dict("records"):
        yield row, row["matrix"], of.recorded.index(row["step"])


def test_one_row_a_matrix_and_kept_step(measured):
    of, _, _, spectra, table = measured
    expected = [(step, matrix) for step in of.recorded for matrix in MATRICES]
    assert list(zip(table["step"], table["matrix"], strict=True)) == expected
    assert (table["run"] == 0).all()
    assert spectra.run == 0 and spectra.steps.tolist() == of.recorded
    assert set(spectra.eigenvalues) == set(MATRICES)


def test_eigenvalues_are_numpys(measured):
    of, run, data, spectra, table = measured
    for row, matrix, i in rows_of(table, of):
        expected = np.linalg.eigvalsh(direct(of, run, data, i)[matrix])
        found = spectra.eigenvalues[matrix][i]
        # A few times n ε of the largest; zeros are made exact.
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12 * expected[-1])
        assert row["size"] == len(expected) == len(found)
        assert row["largest"] == pytest.approx(expected[-1], rel=1e-9)
        assert row["second"] == pytest.approx(expected[-2], rel=1e-9)
        assert row["trace"] == pytest.approx(expected.mean(), rel=1e-9)
    if of.width < of.data.dimension:
        # Zeros by shape lie on the law's atom only if they are zero.
        zeros = of.data.dimension - of.width
        assert (spectra.eigenvalues["weights"][:, :zeros] == 0).all()


def test_norm_changes(measured):
    of, run, data, _, table = measured
    start = direct(of, run, data, 0)
    for row, matrix, i in rows_of(table, of):
        if matrix == "weights":
            change = run.weights[i].astype(float) - run.weights[0]
            expected = np.sqrt(np.square(change).sum() / of.data.dimension)
        else:
            expected = np.sqrt(np.square(direct(of, run, data, i)[matrix] - start[matrix]).sum())
        assert row["norm_change"] == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert (row["norm_change"] == 0) == (row["step"] == 0)


def test_laws_and_classes(measured):
    of, _, _, spectra, table = measured
    n, d, h = of.data.points, of.data.dimension, of.width
    phi = activation(of.network.activation)
    b, a = phi.slope_mean_squared, phi.slope_second_moment
    kernel = {"points_per_dimension": n / d, "points_per_unit": n / h, "slope_mean_squared": b}
    laws = {
        "weights": marchenko_pastur(d / h),
        "conjugate kernel": conjugate_kernel_law(**kernel),
        "tangent kernel": neural_tangent_kernel_law(**kernel, slope_second_moment=a),
    }
    for row, matrix, i in rows_of(table, of):
        law, values = laws[matrix], spectra.eigenvalues[matrix][i]
        began = spectra.eigenvalues[matrix][0]
        assert row["edge"] == pytest.approx(law.upper, rel=1e-9)
        assert law_of(matrix, of).upper == pytest.approx(law.upper, rel=1e-9)
        # .9793 is the 95 % quantile of TW₁.
        threshold = law.upper + 0.9793 * law.edge_scale * len(values) ** (-2 / 3)
        assert row["threshold"] == pytest.approx(threshold, rel=1e-4)
        outside, at_first = (int((part > row["threshold"]).sum()) for part in (values, began))
        assert row["outliers"] == outside
        bulk = values[: len(values) - outside]
        if not law.atom:
            expected = stats.kstest(bulk, law.cdf).statistic
            assert row["law_distance"] == pytest.approx(expected, abs=1e-9)
        keep = len(values) - max(outside, at_first)
        expected = stats.ks_2samp(began[:keep], values[:keep], method="asymp").statistic
        assert row["bulk_distance"] == pytest.approx(expected, abs=1e-12)
        assert row["step"] or row["bulk_distance"] == 0
        found = classify_spectrum(values, law, level=0.05)
        assert (row["kind"], row["reason"]) == (found.kind, found.reason)
        assert row["broadened"] == found.broadened and row["tail"] == found.tail.tail
        for name in ("exponent", "misfit", "against_exponential", "p_exponential", "p_lognormal"):
            np.testing.assert_equal(row[name], getattr(found.tail, name))


def test_alignment_with_the_directions(measured):
    of, run, data, _, table = measured
    x, beta = data.inputs.astype(float), data.directions.astype(float).T
    for row, matrix, i in rows_of(table, of):
        vectors = np.linalg.eigh(direct(of, run, data, i)[matrix])[1][:, ::-1]
        planted = beta if matrix == "weights" else x @ beta
        leading = vectors[:, : beta.shape[1]]
        # Length of a projection, by least squares; β is stored in float32.
        fitted = planted @ np.linalg.lstsq(planted, vectors[:, 0])[0]
        assert row["alignment_teacher"] == pytest.approx(np.linalg.norm(fitted), abs=1e-6)
        if beta.shape[1] == 1:
            cosine = abs(vectors[:, 0] @ planted[:, 0]) / np.linalg.norm(planted)
            assert row["alignment_teacher"] == pytest.approx(cosine, abs=1e-6)
        angles = linalg.subspace_angles(leading, planted)
        assert row["alignment_subspace"] == pytest.approx(np.mean(np.cos(angles) ** 2), abs=1e-6)


def test_alignment_with_the_labels(measured):
    """|cos| with Xᵀ(y − ȳ), or with y − ȳ, as the function says."""
    of, run, data, _, table = measured
    x, y = data.inputs.astype(float), data.labels.astype(float)
    for row, matrix, i in rows_of(table, of):
        leading = np.linalg.eigh(direct(of, run, data, i)[matrix])[1][:, -1]
        target = x.T @ (y - y.mean()) if matrix == "weights" else y - y.mean()
        cosine = abs(leading @ target) / np.linalg.norm(target)
        assert row["alignment_labels"] == pytest.approx(cosine, abs=1e-8)


def test_target_alignment(measured):
    of, run, data, _, table = measured
    y = data.labels.astype(float)
    y = y - y.mean()
    for row, matrix, i in rows_of(table, of):
        if matrix == "weights":
            assert np.isnan(row["target_alignment"])
            continue
        k = centred(direct(of, run, data, i)[matrix])
        expected = np.sum(k * np.outer(y, y)) / (np.linalg.norm(k) * (y @ y))
        assert row["target_alignment"] == pytest.approx(expected, rel=1e-9)


def test_losses_are_those_of_the_step(measured):
    of, run, data, _, table = measured
    phi = activation(of.network.activation)
    x, y = torch.from_numpy(data.inputs).double(), data.labels.astype(float)
    for row, _, i in rows_of(table, of):
        w, v = (torch.from_numpy(part[i]).double() for part in (run.weights, run.readout))
        outputs = phi(x @ w.T / math.sqrt(w.shape[1])) @ v / math.sqrt(len(v))
        expected = np.square(outputs.numpy() - y).mean() / 2
        assert row["loss"] == pytest.approx(expected, rel=1e-5)  # trained in float32
        at = list(run.history["step"]).index(row["step"])
        assert row["test_r2"] == run.history["test_r2"][at]


def test_displacement_and_readout(measured):
    _, run, _, spectra, _ = measured
    s, h, d = run.weights.shape
    assert spectra.displacement.shape == (s, min(h, d)) and spectra.readout.shape == (s, 2)
    for i in range(s):
        change = run.weights[i].astype(float) - run.weights[0]
        gram = change.T @ change / h if d <= h else change @ change.T / h
        # Squares of singular values have half of their digits.
        expected = np.linalg.eigvalsh(gram)[::-1]
        found = spectra.displacement[i]
        np.testing.assert_allclose(found**2, expected, atol=1e-12 * max(1, expected[0]))
        assert (np.diff(found) <= 0).all()
        v = run.readout[i].astype(float)
        norms = np.sqrt(np.mean(v**2)), np.sqrt(np.mean((v - run.readout[0]) ** 2))
        assert spectra.readout[i] == pytest.approx(norms, rel=1e-12)
    assert (spectra.displacement[0] == 0).all() and spectra.readout[0].tolist() == [1.0, 0.0]


def test_level_moves_the_threshold_alone():
    of = CASES["one direction"]
    run, data = trained(of), draw_data(of.data, streams())
    strict, loose = (measure_run(of, run, data, level=level)[1] for level in (0.001, 0.5))
    assert (strict["threshold"] > loose["threshold"]).all()
    assert (strict["outliers"] <= loose["outliers"]).all()
    pd.testing.assert_series_equal(strict["norm_change"], loose["norm_change"])


def test_planted_weights_are_aligned():
    """W with one direction blown up: alignment 1 with β, and with all three of three."""
    for directions in (1, 3):
        of = population(data={"directions": directions})
        run, data = trained(of), draw_data(of.data, streams())
        weights = run.weights.copy()
        rng = np.random.default_rng(0)
        weights[1] += 1e4 * rng.standard_normal((of.width, directions)) @ data.directions
        _, table = measure_run(of, replace(run, weights=weights), data)
        row = table[(table["matrix"] == "weights") & (table["step"] == 20)].iloc[0]
        # What is left of the others is 1e-4.
        assert row["alignment_teacher"] == pytest.approx(1.0, abs=1e-6)
        assert row["alignment_subspace"] == pytest.approx(1.0, abs=1e-6)
        assert (row["kind"], row["outliers"]) == ("bulk+spikes", directions)


# -- target alignment --------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 17, 40])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_target_alignment_is_the_written_formula(n, offset):
    rng = np.random.default_rng(n)
    factor, y = rng.normal(size=(n, 5)), rng.normal(size=n)
    kernel, y = factor @ factor.T + offset, y - y.mean()
    k = centred(kernel)
    expected = y @ k @ y / (np.linalg.norm(k) * np.linalg.norm(np.outer(y, y)))
    # A large mean costs digits: 1e4 n² of 1e-16 under a root.
    assert target_alignment(kernel, y) == pytest.approx(expected, rel=1e-8)


def test_target_alignment_of_the_labels_own_kernel_is_one():
    y = np.random.default_rng(0).normal(size=30)
    y -= y.mean()
    assert target_alignment(np.outer(y, y), y) == pytest.approx(1.0)
    # Centring makes it blind to offsets of the features.
    assert target_alignment(np.outer(y + 3, y + 3), y) == pytest.approx(1.0)


@pytest.mark.parametrize("n", [4, 5, 7, 100])
@pytest.mark.parametrize("value", [1.0, 0.1, 1 / 3])
def test_target_alignment_of_a_constant_kernel_is_nan(n, value):
    y = np.linspace(-1, 1, n)
    assert math.isnan(target_alignment(np.full((n, n), value), y - y.mean()))


def test_constant_labels_are_aligned_with_nothing():
    of = population()
    run, data = trained(of), draw_data(of.data, streams())
    _, table = measure_run(of, run, replace(data, labels=np.full_like(data.labels, 0.1)))
    assert table["target_alignment"].isna().all()
    assert table.loc[table["matrix"] != "weights", "alignment_labels"].isna().all()
    assert table["alignment_teacher"].notna().all()


# -- many runs ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def group():
    over = {"recipe.learning_rate": [1.0, 1e9], "data.points": [20, 36]}
    base = population(network={"activation": "relu"}, snapshots=[3])
    return Group(base=base, sweep=Sweep(population="base", over=over, size=2))


@pytest.fixture(scope="module")
def runs(group):
    found = train_width_runs(
        [group.population(run) for run in range(8)],
        [streams(run, "sizes") for run in range(8)],
        device=CPU,
    )
    return sorted(found, key=lambda run: run.run)


def measure(group, runs):
    return measure_runs(group, runs, lambda run: streams(run, "sizes"))


def test_diverged_runs_are_named_and_left_out(group, runs):
    # Cells in order: (1, 20), (1, 36), (1e9, 20), (1e9, 36); runs go round.
    assert [run.status for run in runs] == ([COMPLETED] * 2 + [DIVERGED] * 2) * 2
    spectra, table, excluded = measure(group, runs)
    assert [part.run for part in spectra] == [0, 1, 4, 5]
    assert table["run"].tolist() == [run for run in (0, 1, 4, 5) for _ in range(6)]
    assert excluded["run"].tolist() == [2, 3, 6, 7]
    assert excluded["cell"].tolist() == [2, 3, 2, 3]
    assert excluded["reason"].tolist() == [runs[i].message for i in (2, 3, 6, 7)]
    assert (excluded["recipe.learning_rate"] == 1e9).all()


def test_tables_say_what_each_run_is(group, runs):
    _, table, _ = measure(group, runs)
    assert (table["group"] == "sizes").all()
    for run, part in table.groupby("run"):
        of = group.population(run)
        assert set(part["cell"]) == {run % 4}
        assert set(part["data.points"]) == {of.data.points}
        assert set(part["recipe.learning_rate"]) == {of.recipe.learning_rate}
        # All points when absent.
        assert set(part["recipe.batch_size"]) == {of.data.points}
        assert set(part["dimension"]) == {of.data.dimension}
        assert set(part["width"]) == {of.width}
        _, rows = measure_run(of, runs[run], draw_data(of.data, streams(run, "sizes")))
        pd.testing.assert_frame_equal(
            part[list(rows.columns)].reset_index(drop=True), rows, check_dtype=False
        )
    for part in ("data", "network", "recipe"):
        for key in getattr(group.base, part).model_dump():
            assert f"{part}.{key}" in table
    assert not table.columns.duplicated().any()
    phi = activation("relu")
    assert set(table["slope_mean_squared"]) == {phi.slope_mean_squared}
    assert set(table["slope_second_moment"]) == {phi.slope_second_moment}


def back(tmp_path, table, name="t"):
    table.to_csv(tmp_path / f"{name}.csv", index=False)
    return files.read_table(tmp_path / f"{name}.csv")


def test_tables_survive_csv(tmp_path, group, runs):
    for i, table in enumerate(measure(group, runs)[1:]):
        pd.testing.assert_frame_equal(
            back(tmp_path, table, str(i)), table, check_dtype=False, rtol=1e-14
        )


def test_empty_tables_keep_their_columns(tmp_path, group, runs):
    spectra, table, excluded = measure(group, [runs[2], runs[3]])
    assert spectra == [] and len(table) == 0 and len(excluded) == 2
    assert set(WHAT) <= set(table) and {"run", "step"} <= set(table)
    assert list(back(tmp_path, table)) == list(table)
    _, full, none = measure(group, [runs[0]])
    assert len(none) == 0 and list(none) == list(excluded)
    assert list(back(tmp_path, none)) == list(excluded)
    # Columns of a table without rows are those of one with.
    assert list(table) == list(full)


def test_tables_without_rows_change_nothing_beside_them(tmp_path, group, runs):
    """A block of which every run diverged is joined to the others as it comes from its file."""
    full = back(tmp_path, measure(group, [runs[0], runs[1]])[1], "full")
    empty = back(tmp_path, measure(group, [runs[2]])[1], "empty")
    for parts in ([full, empty], [empty, full]):
        joined = pd.concat(parts, ignore_index=True)
        pd.testing.assert_frame_equal(joined[list(full)].infer_objects(), full)
        # pandas makes objects of the numbers; tables must not stumble over them.
        pd.testing.assert_frame_equal(
            slopes_table(joined, ["sizes"]), slopes_table(full, ["sizes"]), check_dtype=False
        )


def test_runs_that_all_diverged_have_a_summary(tmp_path, group, runs):
    _, table, excluded = measure(group, [runs[2], runs[3]])
    table, excluded = back(tmp_path, table, "table"), back(tmp_path, excluded, "excluded")
    found = summary_table(table, excluded)
    assert found["runs"].tolist() == [0] * 3 and found["diverged"].tolist() == [2] * 3
    assert slopes_table(table, ["sizes"])["slope"].isna().all()


# -- files -------------------------------------------------------------------------------------


def test_runs_come_back(tmp_path, runs):
    path = tmp_path / "runs.h5"
    files.write_width_runs(path, iter(runs[::-1]), store.provenance(population="sizes"))
    found = list(files.read_width_runs(path))
    assert [run.run for run in found] == list(range(8))
    for a, b in zip(runs, found, strict=True):
        assert (a.status, a.message) == (b.status, b.message)
        assert type(b.status) is str and type(b.message) is str
        for name in ("steps", "weights", "readout"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
            assert getattr(a, name).dtype == getattr(b, name).dtype
        assert a.history.keys() == b.history.keys()
        for name, values in a.history.items():
            np.testing.assert_array_equal(values, b.history[name])
    assert store.read(path, kind="width runs")[1]["population"] == "sizes"
    with pytest.raises(store.StoreError, match="holds 'width runs', expected 'spectra'"):
        files.read_spectra(path)


def test_runs_come_back_in_the_order_of_their_numbers(tmp_path, runs):
    numbers = [9999, 10000, 2, 100000]
    renamed = [replace(runs[0], run=number) for number in numbers]
    files.write_width_runs(tmp_path / "runs.h5", renamed, {})
    found = [run.run for run in files.read_width_runs(tmp_path / "runs.h5")]
    assert found == sorted(numbers)


def test_measured_from_a_file_is_measured_from_memory(tmp_path, group, runs):
    files.write_width_runs(tmp_path / "runs.h5", runs, {})
    here = measure(group, runs)
    there = measure(group, files.read_width_runs(tmp_path / "runs.h5"))
    pd.testing.assert_frame_equal(here[1], there[1])
    pd.testing.assert_frame_equal(here[2], there[2])


def test_spectra_come_back(tmp_path, group, runs):
    spectra, _, _ = measure(group, runs)
    path = tmp_path / "spectra.h5"
    files.write_spectra(path, spectra, {})
    for reader in (files.read_spectra, files.read_any):
        found = reader(path)
        assert [part.run for part in found] == [0, 1, 4, 5]
        for a, b in zip(spectra, found, strict=True):
            assert set(a.eigenvalues) == set(b.eigenvalues) == set(MATRICES)
            for name in MATRICES:
                np.testing.assert_array_equal(a.eigenvalues[name], b.eigenvalues[name])
            for name in ("steps", "displacement", "readout"):
                np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_files_without_runs_come_back_empty(tmp_path):
    files.write_width_runs(tmp_path / "runs.h5", [], {})
    assert list(files.read_width_runs(tmp_path / "runs.h5")) == []
    files.write_spectra(tmp_path / "spectra.h5", [], {})
    assert files.read_spectra(tmp_path / "spectra.h5") == []
