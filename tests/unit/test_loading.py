"""Networks of stored runs: their outputs, their beginning, their weights as matrices."""

import numpy as np
import pytest
import torch
from torch import nn

from model_metrology import files, store
from model_metrology.data.datasets import prepare_dataset
from model_metrology.models import build_model
from model_metrology.models.loading import initial_network, load_network, weight_matrices
from model_metrology.recipes import Population
from model_metrology.runs import TrainedRun
from model_metrology.seeds import Streams
from model_metrology.training import Points, train_runs

CPU = torch.device("cpu")
SIZES = {"image_shape": (1, 8, 8), "classes": 2}
# Batches of other sizes are summed in another order.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def digits():
    return prepare_dataset("digits2", train=60, test=40)


def population(architecture, recipe=None, **options):
    return Population(
        dataset="digits2",
        architecture=architecture,
        recipe={"learning_rate": 0.01, "epochs": 1, "batch_size": 20, **(recipe or {})},
        size=2,
        **options,
    )


def streams(of):
    return [Streams(1, "p", run, of.varies) for run in range(of.size)]


def train(of, digits, **options):
    return train_runs(of, digits, streams(of), device=CPU, **options)


def outputs(network, x):
    with torch.no_grad():
        return network(x).numpy()


MLP = {"name": "mlp", "width": 7, "depth": 2, "dropout": 0.3}


@pytest.mark.parametrize("stacked", ["no", "yes"])
@pytest.mark.parametrize(
    "architecture",
    [
        MLP,
        MLP | {"parametrisation": "ntk", "outputs": "one"},
        {"name": "cnn", "width": 2},
        {"name": "vit-small", "width": 32, "depth": 1},
        {"name": "resnet18"},
    ],
)
def test_a_stored_run_gives_its_outputs_again(digits, tmp_path, architecture, stacked):
    of = population(architecture, stacked=stacked)
    trained = train(of, digits)
    files.write_runs(tmp_path / "runs.h5", trained, store.provenance())
    x = Points.from_dataset(digits, CPU).test
    for run in files.read_runs(tmp_path / "runs.h5"):
        network = load_network(of, run, **SIZES)
        assert not network.training
        np.testing.assert_allclose(outputs(network, x), run.test_outputs, **CLOSE)
        for name, value in network.state_dict().items():
            np.testing.assert_array_equal(value, run.weights[name])


def test_a_network_has_weights_of_its_own(digits):
    of = population(MLP)
    run = train(of, digits)[0]
    before = {name: value.copy() for name, value in run.weights.items()}
    with torch.no_grad():
        for parameter in load_network(of, run, **SIZES).parameters():
            parameter.zero_()
    for name, value in run.weights.items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("stacked", ["no", "yes"])
def test_centred_outputs_are_those_now_less_those_at_the_start(digits, stacked):
    of = population(MLP | {"centred": True}, stacked=stacked)
    x = Points.from_dataset(digits, CPU).test
    for run, stream in zip(train(of, digits), streams(of), strict=True):
        start = initial_network(of, stream, **SIZES)
        assert not start.training
        for name, value in start.named_parameters():
            np.testing.assert_array_equal(value.detach(), run.weights[f"initial.{name}"])
        now = load_network(of, run, **SIZES)
        np.testing.assert_allclose(outputs(now, x) - outputs(start, x), run.test_outputs, **CLOSE)


def test_the_start_is_that_of_the_run(digits):
    # Steps too small for float32 to hold.
    of = population({"name": "cnn", "width": 2}, {"optimiser": "sgd", "learning_rate": 1e-30})
    first, second = train(of, digits)
    for run, stream in zip((first, second), streams(of), strict=True):
        for name, value in initial_network(of, stream, **SIZES).state_dict().items():
            np.testing.assert_array_equal(value, run.weights[name])
    assert not np.array_equal(first.weights["0.weight"], second.weights["0.weight"])


def test_heads_act_on_features(digits):
    rng = np.random.default_rng(0)
    sizes = {"train": 60, "test": 40}
    features = {part: rng.normal(size=(n, 9)).astype(np.float32) for part, n in sizes.items()}
    for kind, size in (("classes", 2), ("one", 1)):
        of = population(
            {"name": "mobilenet_v2", "pretrained": True, "dropout": 0.5, "outputs": kind},
            {"trainable": "head", "optimiser": "sgd", "learning_rate": 1e-30},
        )
        for run, stream in zip(train(of, digits, features=features), streams(of), strict=True):
            head = load_network(of, run, **SIZES)
            found = outputs(head, torch.from_numpy(features["test"]))
            assert found.shape == (40, size)
            np.testing.assert_allclose(found, run.test_outputs, **CLOSE)
            start = initial_network(of, stream, features=9, **SIZES)
            assert torch.equal(start[1].weight, head[1].weight)
            assert torch.equal(start[1].bias, head[1].bias)
        with pytest.raises(ValueError, match="features: their number belongs to recipe"):
            initial_network(of, stream, **SIZES)
    with pytest.raises(ValueError, match="features: their number belongs to recipe"):
        initial_network(population(MLP), stream, features=9, **SIZES)


def stored(weights):
    return TrainedRun(4, "completed", "", weights, np.zeros((1, 2), np.float32), {})


def test_weights_of_something_else_are_named():
    of = population(MLP)
    network = build_model(of.architecture, seed=0, **SIZES)
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    load_network(of, stored(weights), **SIZES)
    message = r"run 4: its weights do not fit mlp for images of \(1, 9, 9\) and 2 classes"
    with pytest.raises(ValueError, match=message):
        load_network(of, stored(weights), image_shape=(1, 9, 9), classes=2)
    with pytest.raises(ValueError, match=r"(?s)run 4: .*Unexpected key.*strange"):
        load_network(of, stored(weights | {"strange": np.zeros(2)}), **SIZES)
    missing = {name: value for name, value in weights.items() if name != "1.bias"}
    with pytest.raises(ValueError, match=r"(?s)run 4: .*Missing key.*1\.bias"):
        load_network(of, stored(missing), **SIZES)
    head = population({"name": "mobilenet_v2", "pretrained": True}, {"trainable": "head"})
    with pytest.raises(ValueError, match=r"run 4: .* where those of a head are expected"):
        load_network(head, stored({"0.0.weight": np.zeros((2, 3))}), **SIZES)


def test_weights_as_matrices():
    network = nn.Sequential(
        nn.Conv2d(3, 4, (2, 5)), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, groups=2), nn.Flatten(),
        nn.Linear(6, 2),
    )  # fmt: skip
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    weights |= {f"initial.{name}": value for name, value in weights.items()}
    matrices = weight_matrices(weights)
    assert {name: matrix.shape for name, matrix in matrices.items()} == {
        "0.weight": (4, 30), "2.weight": (6, 18), "4.weight": (2, 6),
    }  # fmt: skip
    # A convolution is its matrix times the unfolded image.
    x = torch.randn(1, 3, 6, 7)
    unfolded = nn.functional.unfold(x, (2, 5))[0]
    by_matrix = torch.from_numpy(matrices["0.weight"]) @ unfolded + network[0].bias[:, None]
    torch.testing.assert_close(by_matrix, network[0](x)[0].flatten(1), rtol=1e-4, atol=1e-5)


def test_tokens_and_positions_are_no_matrices():
    vit = build_model(population({"name": "vit-small", "depth": 1}).architecture, seed=0, **SIZES)
    names = set(weight_matrices({n: p.detach().numpy() for n, p in vit.named_parameters()}))
    assert names == {
        "0.project.weight", "1.qkv.weight", "1.out.weight", "1.mlp.0.weight", "1.mlp.3.weight",
        "4.weight",
    }  # fmt: skip
