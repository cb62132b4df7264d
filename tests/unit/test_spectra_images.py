"""Spectra of networks trained on images: the run's own start, and kernels by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from model_metrology import files
from model_metrology.data.datasets import Dataset, prepare_dataset
from model_metrology.models.loading import initial_network, load_network
from model_metrology.recipes import Population
from model_metrology.runs import DIVERGED
from model_metrology.seeds import Streams
from model_metrology.spectra.classify import KINDS
from model_metrology.spectra.images import image_spectra
from model_metrology.spectra.laws import marchenko_pastur
from model_metrology.training import Points, train_runs

CPU = torch.device("cpu")
POINTS = 12
STAGES = ["initial", "trained"]
SIZES = {"image_shape": (1, 8, 8), "classes": 2}
KERNELS = ["conjugate kernel", "tangent kernel"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def digits():
    return prepare_dataset("digits2", train=200, test=40)


def population(architecture, recipe=None, **options):
    return Population(
        dataset="digits2",
        architecture=architecture,
        recipe={"learning_rate": 0.01, "epochs": 2, "batch_size": 20, **(recipe or {})},
        size=3,
        **options,
    )


MLP = population({"name": "mlp", "width": 20, "depth": 1, "dropout": 0.2})
CNN = population({"name": "cnn", "width": 2})
ONE = population(
    {
        "name": "mlp", "width": 9, "depth": 2, "outputs": "one", "parametrisation": "ntk",
        "centred": True,
    },
    {"optimiser": "sgd", "loss": "mse", "learning_rate": 0.5},
)  # fmt: skip


def streams(of):
    return lambda run: Streams(1, "p", run, of.varies)


def train(of, digits, runs=3):
    return train_runs(of, digits, [streams(of)(run) for run in range(runs)], device=CPU)


@pytest.fixture(scope="module", params=["mlp", "cnn", "one"])
def measured(request, digits):
    of = {"mlp": MLP, "cnn": CNN, "one": ONE}[request.param]
    runs = train(of, digits, 2)
    return (of, runs, *image_spectra(of, runs, digits, streams(of), size=2, points=POINTS))


def networks(of, run):
    """Those of both stages, in float64."""
    return {
        "initial": initial_network(of, streams(of)(run.run), **SIZES).double(),
        "trained": load_network(of, run, **SIZES).double(),
    }


def layers(network):
    """Weights as (out, in · kernel) by parameter name."""
    return {
        name: value.detach().numpy().reshape(len(value), -1)
        for name, value in network.named_parameters()
        if name.endswith("weight")
    }


def kernels(network, x):
    """Σ_c ∇f_c ∇f_cᵀ by autograd, output by output, and the Gram matrix of the last features."""
    parameters = list(network.parameters())
    rows = []
    for point in x:
        outputs = network(point[None])[0]
        rows.append(
            [
                torch.cat([g.flatten() for g in torch.autograd.grad(o, parameters, retain_graph=1)])
                for o in outputs
            ]
        )
    jacobian = torch.stack([torch.stack(row) for row in rows])  # (n, C, P)
    with torch.no_grad():
        features = network[:-1](x)
    tangent = sum(jacobian[:, c] @ jacobian[:, c].T for c in range(jacobian.shape[1]))
    found = {"conjugate kernel": features @ features.T, "tangent kernel": tangent}
    return {name: kernel.numpy() / len(x) for name, kernel in found.items()}


def matrices(of, run, digits):
    """All matrices of both stages by name and stage."""
    x = Points.from_dataset(digits, CPU).test[:POINTS].double()
    found = {}
    for stage, network in networks(of, run).items():
        for name, matrix in (layers(network) | kernels(network, x)).items():
            found.setdefault(name, {})[stage] = matrix
    return found


def eigenvalues(name, matrix):
    """Ascending, by another way than the module's."""
    if name in KERNELS:
        return np.linalg.eigvalsh(matrix)
    rows, columns = matrix.shape
    squares = np.linalg.svd(matrix, compute_uv=False) ** 2 / rows
    return np.sort(np.concatenate([np.zeros(max(columns - rows, 0)), squares]))


def test_one_row_a_run_matrix_and_stage(measured):
    of, runs, spectra, table = measured
    names = [*layers(networks(of, runs[0])["initial"]), *KERNELS]
    expected = [(run, name, stage) for run in (0, 1) for name in names for stage in STAGES]
    found = table[["run", "matrix", "stage"]].itertuples(index=False, name=None)
    assert list(found) == expected
    assert list(spectra) == [0, 1]
    for part in spectra.values():
        assert list(part) == names and all(list(stages) == STAGES for stages in part.values())


def test_spectra_are_those_of_the_networks(measured, digits):
    of, runs, spectra, _ = measured
    for run in runs:
        expected = matrices(of, run, digits)
        for name, stages in expected.items():
            for stage, matrix in stages.items():
                values = eigenvalues(name, matrix)
                found = spectra[run.run][name][stage]
                # Both in float64; the gradients are summed in another order.
                np.testing.assert_allclose(found, values, rtol=1e-7, atol=1e-11 * values[-1])


def test_columns_are_those_of_the_matrices(measured, digits):
    of, runs, _, table = measured
    y = digits.test_labels[:POINTS].astype(float)
    y -= y.mean()
    for row in table.to_dict("records"):
        run = runs[row["run"]]
        found = matrices(of, run, digits)[row["matrix"]]
        matrix, start = found[row["stage"]], found["initial"]
        values = eigenvalues(row["matrix"], matrix)
        assert (row["rows"], row["columns"]) == matrix.shape
        assert row["largest"] == pytest.approx(values[-1], rel=1e-7)
        assert row["second"] == pytest.approx(values[-2], rel=1e-7)
        assert row["trace"] == pytest.approx(values.mean(), rel=1e-7)
        assert row["top_share"] == pytest.approx(values[-1] / values.sum(), rel=1e-7)
        rank = values.sum() ** 2 / (values**2).sum()
        assert row["effective_rank"] == pytest.approx(rank, rel=1e-7)
        assert 1 <= row["effective_rank"] <= len(values)
        change = np.sqrt(((matrix - start) ** 2).sum() / (start**2).sum())
        assert row["change"] == pytest.approx(change, rel=1e-6)
        assert (row["change"] == 0) == (row["stage"] == "initial")
        if row["matrix"] in KERNELS:
            h = np.eye(POINTS) - 1 / POINTS
            k = h @ matrix @ h
            aligned = y @ k @ y / (np.linalg.norm(k) * (y @ y))
            assert row["target_alignment"] == pytest.approx(aligned, rel=1e-6)
        else:
            assert np.isnan(row["target_alignment"])


def test_the_start_is_that_of_the_training(digits):
    # Steps too small for float32 to hold: what is stored is the start.
    of = population({"name": "mlp", "width": 5, "depth": 1}, {"optimiser": "sgd"})
    still = of.model_copy(update={"recipe": of.recipe.model_copy(update={"learning_rate": 1e-30})})
    spectra, table = image_spectra(
        still, train(still, digits, 2), digits, streams(of), size=2, points=POINTS
    )
    assert (table["change"] == 0).all()
    for part in spectra.values():
        for stages in part.values():
            np.testing.assert_array_equal(stages["initial"], stages["trained"])
    assert not np.array_equal(spectra[0]["1.weight"]["initial"], spectra[1]["1.weight"]["initial"])


def test_convolutions_are_output_channels_by_kernels(digits):
    runs = train(CNN, digits, 1)
    spectra, table = image_spectra(CNN, runs, digits, streams(CNN), size=1, points=POINTS)
    shapes = table[table["stage"] == "trained"].set_index("matrix")[["rows", "columns"]]
    assert shapes.loc["0.weight"].tolist() == [2, 9]
    assert shapes.loc["3.weight"].tolist() == [4, 18]
    w = runs[0].weights["3.weight"].astype(float).reshape(4, 18)
    found = spectra[0]["3.weight"]["trained"]
    assert (found[:14] == 0).all()  # by shape
    np.testing.assert_allclose(found[14:], np.linalg.eigvalsh(w @ w.T / 4), rtol=1e-10)


def test_small_layers_are_held_against_no_law(measured):
    _, _, _, table = measured
    weights = table[~table["matrix"].isin(KERNELS)]
    small = weights[["rows", "columns"]].min(axis=1) < 16
    law = ["scale", "threshold", "outliers", "kind", "reason"]
    if set(law) <= set(table):
        assert weights.loc[small, law].isna().all(axis=None)
        assert weights.loc[~small, law].notna().all(axis=None)
        assert table.loc[table["matrix"].isin(KERNELS), law].isna().all(axis=None)
    else:
        assert small.all()


def test_a_large_layer_is_a_bulk_of_the_scale_of_its_start(digits):
    # Weights of the 'ntk' parametrisation start as N(0, 1).
    of = population(
        {"name": "mlp", "width": 120, "depth": 1, "parametrisation": "ntk"}, {"epochs": 1}
    )
    runs = train(of, digits, 1)
    _, table = image_spectra(of, runs, digits, streams(of), size=1, points=POINTS)
    row = table[(table["matrix"] == "1.weight") & (table["stage"] == "initial")].iloc[0]
    assert (row["kind"], row["outliers"]) == ("bulk", 0)
    # Told from the median of 64 eigenvalues.
    assert row["scale"] == pytest.approx(1.0, rel=0.05)
    law = marchenko_pastur(64 / 120, variance=row["scale"])
    assert row["threshold"] == pytest.approx(law.edge_quantile(64, 0.01))
    assert set(table["kind"].dropna()) <= set(KINDS)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_first_completed_runs_are_measured(digits, size):
    runs = train(MLP, digits)
    runs[0] = replace(runs[0], status=DIVERGED, message="?")
    spectra, table = image_spectra(MLP, iter(runs), digits, streams(MLP), size=size, points=5)
    expected = [1, 2][:size]
    assert list(spectra) == expected and list(table["run"].unique()) == expected


def test_runs_beyond_those_measured_are_not_read(digits):
    runs = train(MLP, digits, 2)

    def lazily():
        yield runs[0]
        raise AssertionError("one run was asked for")

    spectra, _ = image_spectra(MLP, lazily(), digits, streams(MLP), size=1, points=5)
    assert list(spectra) == [0]


def test_a_table_without_runs_keeps_its_columns(digits, tmp_path):
    runs = [replace(run, status=DIVERGED) for run in train(MLP, digits, 1)]
    spectra, table = image_spectra(MLP, runs, digits, streams(MLP), size=1, points=5)
    assert spectra == {} and len(table) == 0
    table.to_csv(tmp_path / "t.csv", index=False)
    assert {"run", "matrix", "stage", "change"} <= set(files.read_table(tmp_path / "t.csv"))


def test_level_is_that_of_the_edge_test(digits):
    of = population({"name": "mlp", "width": 40, "depth": 1})
    runs = train(of, digits, 1)
    strict, loose = (
        image_spectra(of, runs, digits, streams(of), size=1, points=5, level=level)[1]
        for level in (0.001, 0.5)
    )
    known = strict["threshold"].notna()
    assert known.any() and (strict["threshold"] > loose["threshold"])[known].all()
    pd.testing.assert_series_equal(strict["change"], loose["change"])


def test_points_are_the_first_test_images(digits):
    runs = train(MLP, digits, 1)
    few = replace(
        digits, test_images=digits.test_images[:5], test_labels=digits.test_labels[:5],
        test_index=digits.test_index[:5],
    )  # fmt: skip
    a, b = (
        image_spectra(MLP, runs, dataset, streams(MLP), size=1, points=5)[1]
        for dataset in (digits, few)
    )
    pd.testing.assert_frame_equal(a, b)


def test_colour_and_several_classes():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = rng.integers(0, 256, size=(60, 3, 8, 8), dtype=np.uint8)
    index = np.arange(60)
    colour = Dataset(
        "colour", ("a", "b", "c"), images[:40], labels[:40], images[40:], labels[40:],
        index[:40], index[:20], images[:40].mean((0, 2, 3)) / 255,
        images[:40].std((0, 2, 3)) / 255,
    )  # fmt: skip
    runs = train(CNN, colour, 1)
    spectra, _ = image_spectra(CNN, runs, colour, streams(CNN), size=1, points=6)
    network = load_network(CNN, runs[0], image_shape=(3, 8, 8), classes=3).double()
    x = Points.from_dataset(colour, CPU).test[:6].double()
    for name, kernel in kernels(network, x).items():
        values = np.linalg.eigvalsh(kernel)
        found = spectra[0][name]["trained"]
        np.testing.assert_allclose(found, values, rtol=1e-7, atol=1e-11 * values[-1])


def test_spectra_come_back_from_their_file(measured, tmp_path):
    _, _, spectra, _ = measured
    files.write_image_spectra(tmp_path / "s.h5", spectra, {})
    found = files.read_any(tmp_path / "s.h5")["runs"]
    assert list(found) == ["0000", "0001"]
    for run, part in spectra.items():
        for name, stages in part.items():
            for stage, values in stages.items():
                np.testing.assert_array_equal(found[f"{run:04d}"][name][stage], values)
