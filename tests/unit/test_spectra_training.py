"""Two-layer networks: gradients and whole trainings against autograd and torch's plain loop."""

import itertools
import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from model_metrology.runs import COMPLETED, DIVERGED
from model_metrology.seeds import Streams
from model_metrology.spectra import training
from model_metrology.spectra.activations import activation
from model_metrology.spectra.recipes import ActivationName, LinkName, WidthPopulation
from model_metrology.spectra.training import draw_data, initial_weights, train_width_runs

CPU = torch.device("cpu")
ALL = ("init", "data", "order")
PLAIN = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "softplus": nn.functional.softplus,
    "sigmoid": torch.sigmoid,
    "erf": torch.erf,
    "linear": lambda z: z,
    "quadratic": torch.square,
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    # Sums over threads may be taken in any order; the workflow sets the threads of each job.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def doubled(monkeypatch):
    """Train in float64: then rounding hides no mistake, nor does Adam's division amplify it."""

    def data(teacher, streams):
        drawn = draw_data(teacher, streams)
        names = ("inputs", "labels", "test_inputs", "test_labels")
        return replace(drawn, **{name: getattr(drawn, name).astype(np.float64) for name in names})

    def weights(population, streams):
        return tuple(part.astype(np.float64) for part in initial_weights(population, streams))

    monkeypatch.setattr(training, "draw_data", data)
    monkeypatch.setattr(training, "initial_weights", weights)


def population(*, data=None, network=None, recipe=None, **options):
    return WidthPopulation(
        data={"points": 40, "points_per_dimension": 2.5, **(data or {})},
        network={"width_per_dimension": 1.5, **(network or {})},
        recipe={"learning_rate": 1.0, "steps": 30, **(recipe or {})},
        **options,
    )


def streams(run=0, varies=ALL, root=1, name="p"):
    return Streams(root, name, run, varies)


def train(populations, runs=None, varies=ALL):
    """Runs in the order of their numbers."""
    runs = range(len(populations)) if runs is None else runs
    found = train_width_runs(populations, [streams(run, varies) for run in runs], device=CPU)
    return sorted(found, key=lambda run: run.run)


def train_one(of, run=0, varies=ALL):
    return train([of], [run], varies)[0]


def normalised(name, z):
    phi = activation(name)
    return (PLAIN[name](z) - phi.mean) / phi.deviation


class TwoLayers(nn.Module):
    """f(x) = vᵀ φ(W x/√d)/√h as it is written."""

    def __init__(self, of, stream, dtype=torch.float64):
        super().__init__()
        w, v = (torch.from_numpy(part).to(dtype) for part in initial_weights(of, stream))
        self.w = nn.Parameter(w)
        self.v = nn.Parameter(v, requires_grad=of.network.trained == "both")
        self.name = of.network.activation

    def forward(self, x):
        h, d = self.w.shape
        return normalised(self.name, x @ self.w.T / math.sqrt(d)) @ self.v / math.sqrt(h)

    def loss(self, x, y):
        return 0.5 * nn.functional.mse_loss(self(x), y)


def plain_training(of, stream, dtype=torch.float64):
    """torch's usual loop, over the minibatches of the stream `order`."""
    network, recipe, n = TwoLayers(of, stream, dtype), of.recipe, of.data.points
    data = draw_data(of.data, stream)
    x, y = (torch.from_numpy(part).to(dtype) for part in (data.inputs, data.labels))
    rules = {"adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop}
    parameters = [p for p in network.parameters() if p.requires_grad]
    if recipe.optimiser in rules:
        optimiser = rules[recipe.optimiser](parameters, lr=recipe.learning_rate)
    else:
        optimiser = torch.optim.SGD(parameters, recipe.learning_rate, recipe.momentum)
    size, batches = recipe.batch_size or n, []
    for epoch in itertools.count():
        order = stream.generator("order", epoch).permutation(n) if size < n else np.arange(n)
        # A last batch that is not full is left out.
        batches += [order[i : i + size] for i in range(0, n - size + 1, size)]
        if len(batches) >= recipe.steps:
            break
    for batch in batches[: recipe.steps]:
        optimiser.zero_grad()
        network.loss(x[batch], y[batch]).backward()
        optimiser.step()
    return network.w.detach().numpy(), network.v.detach().numpy()


# -- gradients ---------------------------------------------------------------------------------


@pytest.mark.parametrize("trained", ["first", "both"])
@pytest.mark.parametrize("name", get_args(ActivationName))
@pytest.mark.parametrize("batch", [None, 7])
def test_gradient_is_autograds(doubled, name, trained, batch):
    of = population(network={"activation": name, "trained": trained})
    members = [(of, streams(run)) for run in range(3)]
    stack = training._Stack(members, CPU)
    # Away from v = ±1, at which a forgotten v would not show.
    rng = np.random.default_rng(0)
    stack.v = torch.from_numpy(rng.normal(size=stack.v.shape))
    picked = batch and torch.from_numpy(np.stack([rng.permutation(40)[:batch] for _ in members]))
    stack._gradient(picked)
    for i, (_, stream) in enumerate(members):
        network = TwoLayers(of, stream)
        network.v.data = stack.v[i].clone()
        data = draw_data(of.data, stream)
        x, y = (torch.from_numpy(part).double() for part in (data.inputs, data.labels))
        if batch:
            x, y = x[picked[i]], y[picked[i]]
        network.loss(x, y).backward()
        # Sums of 40 products in float64, in another order.
        torch.testing.assert_close(stack.w.grad[i], network.w.grad, rtol=1e-10, atol=1e-14)
        if trained == "both":
            torch.testing.assert_close(stack.v.grad[i], network.v.grad, rtol=1e-10, atol=1e-14)
    assert (stack.v.grad is None) == (trained == "first")


# -- whole trainings ---------------------------------------------------------------------------

RECIPES = [
    {"optimiser": "gd", "learning_rate": 5.0},
    {"optimiser": "sgd", "batch_size": 8},
    {"optimiser": "sgd", "batch_size": 8, "momentum": 0.9, "learning_rate": 0.3},
    {"optimiser": "sgd", "batch_size": 15},  # does not divide 40
    {"optimiser": "sgd", "momentum": 0.5},  # all points
    {"optimiser": "adam", "learning_rate": 0.05, "batch_size": 8},
    {"optimiser": "adam", "learning_rate": 0.05},
    {"optimiser": "rmsprop", "learning_rate": 0.02, "batch_size": 8},
]


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
@pytest.mark.parametrize("trained", ["first", "both"])
def test_trainings_are_those_of_the_plain_loop(doubled, recipe, trained):
    of = population(network={"trained": trained}, recipe=recipe)
    for run in train([of] * 2):
        w, v = plain_training(of, streams(run.run))
        assert run.status == COMPLETED and run.message == ""
        assert np.abs(w - run.weights[0]).max() > 0.01  # else nothing is shown
        # Thirty steps in float64. Adam's first one divides each gradient by itself: of the
        # 10,000 here the smallest are some 1e-6, known to 1e-10 of themselves.
        np.testing.assert_allclose(run.weights[-1], w, rtol=0, atol=1e-9)
        np.testing.assert_allclose(run.readout[-1], v, rtol=0, atol=1e-9)


@pytest.mark.parametrize("recipe", RECIPES[:5], ids=str)
def test_trainings_in_single_precision(recipe):
    of = population(network={"trained": "both"}, recipe=recipe)
    run = train_one(of)
    w, v = plain_training(of, streams(), torch.float32)
    assert run.weights.dtype == run.readout.dtype == np.float32
    # Thirty steps with roundings of 6e-8 of numbers of size 1, amplified little.
    np.testing.assert_allclose(run.weights[-1], w, rtol=0, atol=2e-5)
    np.testing.assert_allclose(run.readout[-1], v, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["relu", "softplus", "sigmoid", "erf", "linear"])
def test_trainings_with_other_activations(doubled, name):
    of = population(network={"activation": name, "trained": "both"})
    w, v = plain_training(of, streams())
    run = train_one(of)
    # As above. No hidden unit of ReLU is within 1e-9 of its kink at any of the steps.
    np.testing.assert_allclose(run.weights[-1], w, rtol=0, atol=1e-9)
    np.testing.assert_allclose(run.readout[-1], v, rtol=0, atol=1e-9)


def test_second_layer_stays_when_the_first_alone_is_trained():
    run = train_one(population(snapshots=[1, 10]))
    assert (run.readout == run.readout[0]).all() and set(run.readout[0]) == {-1.0, 1.0}


@pytest.mark.parametrize("recipe", [{"batch_size": 40}, {}], ids=str)
def test_sgd_on_all_points_is_gd(recipe):
    gd, sgd = (
        train_one(population(recipe={"optimiser": "gd"})),
        train_one(population(recipe={"optimiser": "sgd", **recipe})),
    )
    assert gd.weights.tobytes() == sgd.weights.tobytes()


# -- stacks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_a_run_in_a_stack_is_the_run_alone(doubled, recipe):
    of = population(network={"trained": "both"}, recipe=recipe)
    for run in train([of] * 3):
        alone = train_one(of, run.run)
        # In float64 batched products may be summed in another order: 1e-16, amplified as above.
        np.testing.assert_allclose(run.weights, alone.weights, rtol=0, atol=1e-9)
        np.testing.assert_allclose(run.readout, alone.readout, rtol=0, atol=1e-9)
        for name, values in run.history.items():
            np.testing.assert_allclose(values, alone.history[name], rtol=1e-9)


def test_a_run_in_a_stack_is_the_run_alone_in_single_precision():
    of = population(network={"trained": "both"}, recipe={"optimiser": "sgd", "batch_size": 8})
    for run in train([of] * 5):
        # Thirty steps with roundings of 6e-8.
        np.testing.assert_allclose(run.weights, train_one(of, run.run).weights, rtol=0, atol=2e-5)


def test_unlike_runs_find_their_stacks():
    """Teachers of all kinds in one stack, other shapes and recipes in stacks of their own."""
    kinds = [
        population(),
        population(data={"link": "relu", "label_scale": 3.0}),
        population(data={"points": 80}),
        population(recipe={"steps": 20}),
        population(data={"directions": 3, "noise": 0.0, "norm_term": 1.0}),
        population(network={"activation": "erf"}),
        population(recipe={"learning_rate": 2.0}),
        population(snapshots=[4]),
        population(data={"points_per_dimension": 2.0}, network={"width_per_dimension": 1.2}),
    ]
    assert len({training._shape(of) for of in kinds}) == len(kinds) - 2
    found = train(kinds)
    assert [run.run for run in found] == list(range(len(kinds)))
    for run, of in zip(found, kinds, strict=True):
        alone = train_one(of, run.run)
        assert list(run.steps) == of.recorded
        assert run.weights.shape == (len(of.recorded), of.width, of.data.dimension)
        np.testing.assert_allclose(run.weights, alone.weights, rtol=0, atol=2e-5)
        np.testing.assert_allclose(run.history["loss"], alone.history["loss"], rtol=1e-4)


def test_stacks_that_would_be_too_large_are_split(monkeypatch):
    of = population()
    together = train([of] * 5)
    sizes = []
    original = training._Stack.train

    def counts(self):
        sizes.append(len(self.members))
        original(self)

    monkeypatch.setattr(training._Stack, "train", counts)
    n, d, h = 40, 16, 24
    monkeypatch.setattr(training, "_STACK_BYTES", 2 * 4 * (2 * n * d + 3 * n * h + 3 * h * d))
    apart = train([of] * 5)
    assert sizes == [2, 2, 1] and [run.run for run in apart] == list(range(5))
    for a, b in zip(together, apart, strict=True):
        np.testing.assert_allclose(a.weights, b.weights, rtol=0, atol=2e-5)


def test_streams_and_populations_must_be_as_many():
    with pytest.raises(ValueError, match="zip"):
        list(train_width_runs([population()], [], device=CPU))


# -- data --------------------------------------------------------------------------------------


def teacher(**options):
    return population(data=options).data


def signal(of, data, part="inputs"):
    """Σ_j g(xᵀβ_j)/√k, in float64."""
    projected = getattr(data, part).astype(np.float64) @ data.directions.T.astype(np.float64)
    values = normalised(of.link, torch.from_numpy(projected)).numpy()
    return values.sum(1) / math.sqrt(of.directions)


@pytest.mark.parametrize("link", get_args(LinkName))
@pytest.mark.parametrize("directions", [1, 3])
@pytest.mark.parametrize("part", ["", "test_"])
def test_labels_are_those_of_the_formula(link, directions, part):
    of = teacher(link=link, directions=directions, noise=0.0, norm_term=0.7, label_scale=2.5)
    data = draw_data(of, streams())
    x = getattr(data, f"{part}inputs").astype(np.float64)
    expected = 2.5 * (signal(of, data, f"{part}inputs") + 0.7 / 16 * (x**2).sum(1))
    # β is stored in float32.
    np.testing.assert_allclose(getattr(data, f"{part}labels"), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("link", get_args(LinkName))
@pytest.mark.parametrize("directions", [1, 2])
def test_signal_has_the_variance_of_the_scale(link, directions):
    of = teacher(
        points=20_000, points_per_dimension=5_000, link=link, directions=directions,
        noise=0.0, label_scale=2.0,
    )  # fmt: skip
    y = draw_data(of, streams()).labels.astype(np.float64)
    # Five standard errors of a mean and of a variance.
    assert y.mean() == pytest.approx(0.0, abs=5 * 2 / math.sqrt(len(y)))
    error = 5 * np.square(y - y.mean()).std() / math.sqrt(len(y))
    assert y.var() == pytest.approx(4.0, abs=error)


def test_noise_is_normal_and_scaled_with_the_labels():
    options = {"points": 20_000, "points_per_dimension": 5_000, "label_scale": 2.0}
    clean, noisy = (draw_data(teacher(noise=s, **options), streams()) for s in (0.0, 0.3))
    np.testing.assert_array_equal(clean.inputs, noisy.inputs)
    for part in ("", "test_"):
        noise, x = (getattr(noisy, f"{part}{name}").astype(float) for name in ("labels", "inputs"))
        noise = noise - getattr(clean, f"{part}labels")
        n = len(noise)
        # Five standard errors each.
        assert noise.std() == pytest.approx(0.6, rel=5 / math.sqrt(2 * n))
        assert noise.mean() == pytest.approx(0.0, abs=5 * 0.6 / math.sqrt(n))
        assert np.abs(x.T @ noise / n).max() < 5 * 0.6 / math.sqrt(n)


def test_points_are_standard_normal():
    x = draw_data(teacher(points=20_000, points_per_dimension=2_000), streams()).inputs
    n = len(x)
    covariance = x.T.astype(float) @ x / n
    # 55 different entries with standard errors 1/√n and √2/√n.
    assert np.abs(covariance - np.eye(10)).max() < 5 * math.sqrt(2 / n)
    assert np.abs(x.mean(0)).max() < 5 / math.sqrt(n)
    assert (x.astype(float) ** 4).mean() == pytest.approx(3.0, abs=5 * math.sqrt(96 / x.size))


@pytest.mark.parametrize("directions", [1, 4, 16])
def test_directions_are_orthonormal(directions):
    data = draw_data(teacher(directions=directions), streams())
    assert data.directions.shape == (directions, 16)
    gram = data.directions.astype(float) @ data.directions.T
    np.testing.assert_allclose(gram, np.eye(directions), atol=1e-6)  # float32


def test_directions_are_uniform():
    """Of many draws, each coordinate has mean 0 and variance 1/d: no sign or axis is preferred."""
    of = teacher(points=20, points_per_dimension=5, directions=2)
    drawn = np.stack([draw_data(of, streams(run)).directions for run in range(400)])
    # 8 means and 8 second moments; Var β₁² = 2(d − 1)/(d²(d + 2)) = 1/16 at d = 4.
    assert np.abs(drawn.mean(0)).max() < 5 / math.sqrt(4 * 400)
    assert np.abs((drawn**2).mean(0) - 0.25).max() < 5 * 0.25 / math.sqrt(400)


def test_test_points_are_others():
    of = teacher(points=2_500, points_per_dimension=125)
    data = draw_data(of, streams())
    assert data.inputs.shape == (2500, 20)
    assert data.test_inputs.shape == (2000, 20) and data.test_labels.shape == (2000,)
    everything = np.concatenate([data.inputs, data.test_inputs])
    assert len(np.unique(everything, axis=0)) == 4500
    paired = (data.inputs[:2000] * data.test_inputs).astype(float)
    assert abs(paired.mean()) < 5 / math.sqrt(paired.size)
    small = draw_data(teacher(points=40), streams())
    assert len(small.test_inputs) == 40


def test_directions_are_shared_by_runs_of_one_dimension():
    base = draw_data(teacher(), streams())
    more = draw_data(teacher(points=80, points_per_dimension=5.0), streams())
    louder = draw_data(teacher(label_scale=3.0), streams())
    for other in (more, louder):
        np.testing.assert_array_equal(base.directions, other.directions)
    np.testing.assert_array_equal(base.inputs, louder.inputs)
    np.testing.assert_allclose(3 * base.labels, louder.labels, rtol=1e-6)


# -- streams -----------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES[:2] + RECIPES[5:6], ids=str)
def test_same_seed_same_bytes(recipe):
    of = population(network={"trained": "both"}, recipe=recipe, snapshots=[3])
    for a, b in zip(train([of] * 2), train([of] * 2), strict=True):
        assert a.weights.tobytes() == b.weights.tobytes()
        assert a.readout.tobytes() == b.readout.tobytes()
        for name in a.history:
            assert a.history[name].tobytes() == b.history[name].tobytes()


@pytest.mark.parametrize("varies", [(), *((name,) for name in ALL), ALL])
def test_only_what_varies_differs(varies):
    of = population(recipe={"optimiser": "sgd", "batch_size": 8})
    first, second = (streams(run, varies) for run in range(2))
    data = [draw_data(of.data, s) for s in (first, second)]
    weights = [initial_weights(of, s) for s in (first, second)]
    stack = training._Stack([(of, first), (of, second)], CPU)
    orders = torch.stack(list(stack._batches()))
    same = {
        "init": all(np.array_equal(a, b) for a, b in zip(*weights, strict=True)),
        "data": all(np.array_equal(a, b) for a, b in zip(*map(vars_of, data), strict=True)),
        "order": torch.equal(orders[:, 0], orders[:, 1]),
    }
    assert {name for name, value in same.items() if not value} == set(varies)
    # Where they differ, in all parts.
    if "data" in varies:
        pairs = zip(*map(vars_of, data), strict=True)
        assert not any(np.array_equal(a, b) for a, b in pairs)
    a, b = train([of] * 2, varies=varies)
    assert np.array_equal(a.weights[-1], b.weights[-1]) == (not varies)


def vars_of(data):
    return list(vars(data).values())


def test_initial_weights():
    of = population(
        data={"points": 400, "points_per_dimension": 2.0}, network={"width_per_dimension": 2.0}
    )
    w, v = initial_weights(of, streams())
    assert w.shape == (400, 200) and v.shape == (400,)
    assert w.dtype == v.dtype == np.float32 and set(v) == {-1.0, 1.0}
    # Five standard errors of 80,000 entries and of 400 signs.
    assert abs(w.mean()) < 5 / math.sqrt(w.size)
    assert w.var() == pytest.approx(1.0, abs=5 * math.sqrt(2 / w.size))
    assert abs(v.mean()) < 5 / math.sqrt(len(v))
    run = train_one(of)
    np.testing.assert_array_equal(run.weights[0], w)
    np.testing.assert_array_equal(run.readout[0], v)


# -- batches -----------------------------------------------------------------------------------


def batches(size, steps, n=40, runs=3):
    of = population(
        data={"points": n, "points_per_dimension": n / 16},
        recipe={"optimiser": "sgd", "batch_size": size, "steps": steps},
    )
    stack = training._Stack([(of, streams(run)) for run in range(runs)], CPU)
    return torch.stack(list(stack._batches())).numpy()


@pytest.mark.parametrize("size", [1, 8, 20])
def test_every_point_comes_once_an_epoch(size):
    per_epoch = 40 // size
    found = batches(size, 3 * per_epoch)
    assert found.shape == (3 * per_epoch, 3, size)
    epochs = found.reshape(3, per_epoch, 3, size).transpose(0, 2, 1, 3).reshape(3, 3, 40)
    np.testing.assert_array_equal(np.sort(epochs, axis=2), np.broadcast_to(range(40), (3, 3, 40)))
    # Nine different orders.
    assert len(np.unique(epochs.reshape(9, 40), axis=0)) == 9


def test_batches_that_do_not_divide_repeat_nothing_in_an_epoch():
    found = batches(15, 8)  # two of 15 an epoch, ten points are left out of each
    epochs = found.reshape(4, 2, 3, 15).transpose(0, 2, 1, 3).reshape(12, 30)
    assert all(len(set(epoch)) == 30 for epoch in epochs)
    # Not the same ten each time.
    assert len({frozenset(epoch) for epoch in epochs}) == 12
    assert batches(39, 3).shape == (3, 3, 39)


# -- what is kept ------------------------------------------------------------------------------


def test_kept_weights_are_those_after_that_many_steps():
    recipe = {"optimiser": "sgd", "batch_size": 8}
    run = train_one(population(recipe=recipe, snapshots=[7, 1, 12, 99]))
    assert run.steps.tolist() == [0, 1, 7, 12, 30]
    for at, steps in enumerate([1, 7, 12, 30], start=1):
        shorter = train_one(population(recipe=recipe | {"steps": steps}))
        np.testing.assert_array_equal(run.weights[at], shorter.weights[-1])


def test_kept_weights_are_copies():
    run = train_one(population(snapshots=[1]))
    assert not np.array_equal(run.weights[0], run.weights[1])
    run.weights[0] += 1
    assert np.abs(run.weights[1] - run.weights[0]).min() > 0.1


@pytest.mark.parametrize("steps", [1, 2, 30, 500])
def test_history_is_of_these_steps(steps):
    of = population(
        network={"trained": "both"},
        recipe={"optimiser": "sgd", "batch_size": 8, "steps": steps},
        snapshots=[17, 333],
    )
    run, data = train_one(of), draw_data(of.data, streams())
    at = run.history["step"].tolist()
    assert at == sorted(set(at)) and at[0] == 0 and at[-1] == steps
    assert set(run.steps) <= set(at) and len(at) <= 65
    assert {len(values) for values in run.history.values()} == {len(at)}
    assert set(run.history) == {"step", "loss", "test_loss", "test_r2"}
    for i, step in enumerate(run.steps):
        now = {name: values[at.index(step)] for name, values in run.history.items()}
        network = TwoLayers(of, streams())
        network.w.data, network.v.data = (
            torch.from_numpy(part[i]).double() for part in (run.weights, run.readout)
        )
        with torch.no_grad():
            residual, test_residual = (
                network(torch.from_numpy(x).double()).numpy() - y
                for x, y in ((data.inputs, data.labels), (data.test_inputs, data.test_labels))
            )
        # float32 outputs of size 1.
        assert now["loss"] == pytest.approx((residual**2).mean() / 2, rel=1e-5)
        assert now["test_loss"] == pytest.approx((test_residual**2).mean() / 2, rel=1e-5)
        spread = ((data.test_labels - data.test_labels.mean(dtype=float)) ** 2).sum()
        expected = 1 - (test_residual**2).sum() / spread
        assert now["test_r2"] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_it_learns():
    of = population(
        data={"points": 400, "points_per_dimension": 20.0, "link": "tanh", "noise": 0.1},
        network={"trained": "both", "width_per_dimension": 2.0},
        recipe={"learning_rate": 5.0, "steps": 400},
    )
    run = train_one(of)
    # Labels have a noise of 1 % of their variance; of four runs .93 to .98 was measured.
    assert run.history["test_r2"][-1] > 0.85
    assert run.history["loss"][-1] < run.history["loss"][0] / 10


# -- what goes wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["relu", "linear", "softplus"])
def test_a_huge_step_is_named(name, caplog):
    of = population(network={"activation": name, "trained": "both"}, recipe={"learning_rate": 1e6})
    run = train_one(of)
    assert run.status == DIVERGED
    assert "at a learning rate of 1e+06" in run.message and "loss" in run.message
    assert "p, run 0" in caplog.text and run.message in caplog.text
    step = int(run.message.split("after step ")[1].split()[0])
    at = run.history["step"].tolist().index(step)
    assert not np.isfinite(run.history["loss"][at])
    assert np.isfinite(run.history["loss"][:at]).all()


@pytest.mark.parametrize("trained", ["first", "both"])
def test_weights_that_were_not_finite_are_nan(trained):
    # As WidthRun says of its weights. With the first layer alone they pass through infinity.
    of = population(
        network={"activation": "linear", "trained": trained},
        recipe={"learning_rate": 1e6},
        snapshots=list(range(1, 30)),
    )
    run = train_one(of)
    assert run.status == DIVERGED and np.isnan(run.weights[-1]).all()
    assert not np.isinf(run.weights).any() and not np.isinf(run.readout).any()


def test_a_loss_that_only_grew_is_named():
    # A saturating first layer cannot overflow; its loss stays finite.
    of = population(recipe={"learning_rate": 1e6}, data={"label_scale": 0.1})
    run = train_one(of)
    loss = run.history["loss"]
    assert np.isfinite(loss).all() and loss[-1] > 2 * loss[0]
    assert run.status == DIVERGED
    assert run.message.startswith(f"the loss grew from {loss[0]:.3g} to {loss[-1]:.3g} at a lear")


@pytest.mark.parametrize("recipe", [RECIPES[0], RECIPES[2], RECIPES[5]], ids=str)
def test_a_diverging_run_harms_no_other(recipe):
    network = {"activation": "relu", "trained": "both"}
    calm = population(network=network, recipe=recipe | {"learning_rate": 0.05})
    wild = population(
        network=network, recipe=recipe | {"learning_rate": 0.05}, data={"label_scale": 1e25}
    )
    assert training._shape(calm) == training._shape(wild)
    expected = train([calm] * 3)
    found = train([calm, wild, calm])
    if recipe["optimiser"] != "adam":  # its steps are small whatever the gradient
        assert [run.status for run in found] == [COMPLETED, DIVERGED, COMPLETED]
    for i in (0, 2):
        assert found[i].weights.tobytes() == expected[i].weights.tobytes()
        assert found[i].history["loss"].tobytes() == expected[i].history["loss"].tobytes()


def test_constant_labels_are_trained_on(monkeypatch):
    def constant(teacher, stream):
        data = draw_data(teacher, stream)
        return replace(
            data, labels=np.full_like(data.labels, 0.3),
            test_labels=np.full_like(data.test_labels, 0.3),
        )  # fmt: skip

    monkeypatch.setattr(training, "draw_data", constant)
    run = train_one(population())
    assert run.status == COMPLETED
    assert np.isfinite(run.history["loss"]).all() and np.isfinite(run.weights).all()
    # There is no variance to explain.
    assert not np.isfinite(run.history["test_r2"]).any()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_cuda_agrees_with_the_cpu():
    of = population(network={"trained": "both"}, recipe={"optimiser": "sgd", "batch_size": 8})
    here, there = (
        next(train_width_runs([of], [streams()], device=torch.device(name)))
        for name in ("cpu", "cuda")
    )
    # Thirty steps in float32 on two kinds of hardware.
    np.testing.assert_allclose(here.weights, there.weights, rtol=0, atol=1e-4)
