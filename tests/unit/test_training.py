"""Training: the same run alone, stacked and resumed; each source of randomness alone."""

import copy
from typing import get_args

import numpy as np
import pytest
import torch

from model_metrology import store
from model_metrology.data.datasets import Dataset, prepare_dataset
from model_metrology.recipes import Population, Recipe, Stream
from model_metrology.seeds import Streams
from model_metrology.training import loop, train_runs
from model_metrology.training.data import Epoch, noisy_labels, normalised_images
from model_metrology.training.stack import Stack

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    # Sums over threads may be taken in any order; the workflow sets the threads of each job.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def digits():
    return prepare_dataset("digits2", train=300, test=200)


@pytest.fixture(scope="module")
def colour():
    """Small colour images whose class is their brighter half."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, size=120)
    images = rng.integers(0, 128, size=(120, 3, 16, 16), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, 8 * label : 8 * label + 8] += 100
    index = np.arange(120)
    return Dataset(
        "colour", ("up", "down"), images[:80], labels[:80], images[80:], labels[80:],
        index[:80], index[:40], images[:80].mean((0, 2, 3)) / 255, images[:80].std((0, 2, 3)) / 255,
    )  # fmt: skip


def population(architecture=None, recipe=None, **options):
    return Population(
        dataset="digits2",
        architecture={
            "name": "mlp",
            "width": 12,
            "depth": 1,
            "dropout": 0.2,
            **(architecture or {}),
        },
        recipe={"learning_rate": 0.01, "epochs": 3, "batch_size": 32, **(recipe or {})},
        size=3,
        **options,
    )


def streams(of, runs=3, root=1):
    return [Streams(root, "p", run, of.varies) for run in range(runs)]


def train(of, dataset, runs=3, **options):
    return train_runs(of, dataset, streams(of, runs), device=CPU, **options)


def same(a, b):
    return all(np.array_equal(a.weights[name], b.weights[name]) for name in a.weights)


# -- the same run, however it is trained -------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "recipe"),
    [
        ({}, {}),
        ({"outputs": "one", "parametrisation": "ntk"}, {"optimiser": "sgd", "loss": "mse"}),
        ({"centred": True}, {"optimiser": "adamw", "weight_decay": 0.1, "schedule": "cosine"}),
        ({}, {"optimiser": "sgd", "momentum": 0.9, "schedule": "step", "warmup_epochs": 1}),
    ],
)
def test_stacked_runs_are_the_runs_alone(digits, architecture, recipe):
    alone = train(population(architecture, recipe, stacked="no"), digits)
    stacked = train(population(architecture, recipe, stacked="yes"), digits)
    for a, b in zip(alone, stacked, strict=True):
        # Some 30 steps of a smooth network amplify rounding of 1e-7 little.
        np.testing.assert_allclose(a.test_outputs, b.test_outputs, rtol=1e-3, atol=1e-4)
        assert a.weights.keys() == b.weights.keys()
        np.testing.assert_allclose(a.history["loss"], b.history["loss"], rtol=1e-4)


@pytest.mark.parametrize("name", ["cnn", "vit-small"])
def test_stacked_images_with_augmentation_are_the_runs_alone(colour, name):
    of = {
        stacked: population(
            {"name": name, "width": 16, "depth": None},
            {"epochs": 1, "augmentation": ["flip", "crop"], "optimiser": "sgd"},
            stacked=stacked,
        )
        for stacked in ("no", "yes")
    }
    alone, stacked = (train(p, colour, runs=2) for p in of.values())
    for a, b in zip(alone, stacked, strict=True):
        # Three steps of SGD in float32. (Adam divides by the root of tiny second moments, which
        # amplifies rounding.)
        np.testing.assert_allclose(a.test_outputs, b.test_outputs, rtol=1e-3, atol=1e-3)
        assert a.history["accuracy"].shape == (1,)


def test_stacked_batch_normalisation_keeps_statistics_of_each_run(colour):
    # In float64: batch normalisation amplifies float32's rounding to 10 % of an output in three
    # steps, which would hide a mistake.
    of = population({"name": "resnet18", "width": None, "depth": None})
    points = loop.Points.from_dataset(colour, CPU)
    images = points.train[:16].double()
    labels = torch.from_numpy(colour.train_labels[:16])

    def trained(stack, runs):
        optimiser = torch.optim.SGD(stack.parameters.values(), lr=0.01)
        inputs = images.expand(runs, *images.shape)
        for _ in range(3):
            logits = stack(inputs, training=True)
            optimiser.zero_grad()
            loop.loss_of("cross-entropy", logits, labels.expand(len(logits), -1)).sum().backward()
            optimiser.step()
        return stack(inputs, training=False).detach()

    def networks():
        return [loop._network(of, points, s).double() for s in streams(of, 2)]

    together = Stack(networks(), CPU)
    outputs = trained(together, 2)
    for i, network in enumerate(networks()):
        alone = Stack([network], CPU)
        torch.testing.assert_close(trained(alone, 1)[0], outputs[i], rtol=1e-8, atol=1e-10)
        for name, value in alone.state(0).items():
            np.testing.assert_allclose(together.state(i)[name], value, rtol=1e-8, atol=1e-10)


def test_a_run_does_not_depend_on_the_runs_beside_it(digits):
    of = population(stacked="no")
    alone = train_runs(of, digits, [streams(of)[2]], device=CPU)[0]
    assert same(alone, train(of, digits)[2])


class _Killed(Exception):
    pass


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize("stacked", ["no", "yes"])
@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_a_killed_training_resumes_bit_for_bit(
    digits, tmp_path, monkeypatch, name, stacked, optimiser
):
    of = population(
        {"name": name, "depth": 1 if name == "mlp" else None},
        recipe={"epochs": 4, "checkpoint_epochs": 2, "optimiser": optimiser, "momentum": 0.5},
        stacked=stacked,
    )
    undisturbed = train(of, digits)
    path, epochs = tmp_path / "c.h5", []
    original = loop._Training._epoch

    def dies_in_its_last_epoch(self, epoch):
        # Stacked: all runs at once; alone: in the second run.
        if epoch == 3 and (stacked == "yes" or self.streams[0].run == 1):
            raise _Killed
        original(self, epoch)

    def counts(self, epoch):
        epochs.append((self.streams[0].run, epoch))
        original(self, epoch)

    monkeypatch.setattr(loop._Training, "_epoch", dies_in_its_last_epoch)
    with pytest.raises(_Killed):
        train(of, digits, checkpoint=path, fingerprint="f")
    monkeypatch.setattr(loop._Training, "_epoch", counts)
    resumed = train(of, digits, checkpoint=path, fingerprint="f")
    for a, b in zip(undisturbed, resumed, strict=True):
        assert same(a, b)
        np.testing.assert_array_equal(a.test_outputs, b.test_outputs)
        np.testing.assert_array_equal(a.history["loss"], b.history["loss"])
    expected = {"yes": [(0, 2), (0, 3)], "no": [(1, 2), (1, 3), *((2, e) for e in range(4))]}
    assert epochs == expected[stacked]


def test_checkpoints_of_other_trainings_and_broken_ones_are_ignored(digits, tmp_path, caplog):
    of = population(recipe={"checkpoint_epochs": 1})
    path = tmp_path / "c.h5"
    expected = train(of, digits, checkpoint=path, fingerprint="one")
    assert path.exists()
    other = train(population(recipe={"learning_rate": 0.02}), digits)
    again = train(
        population(recipe={"learning_rate": 0.02}), digits, checkpoint=path, fingerprint="two"
    )
    assert same(other[0], again[0]) and not same(other[0], expected[0])
    path.write_bytes(path.read_bytes()[:-500])
    assert same(train(of, digits, checkpoint=path, fingerprint="one")[0], expected[0])
    assert "checkpoint ignored" in caplog.text


def test_checkpoint_is_bound_to_its_points(digits, tmp_path):
    of = population(recipe={"checkpoint_epochs": 1})
    path = tmp_path / "c.h5"
    train(of, digits, checkpoint=path)
    fewer = prepare_dataset("digits2", train=100, test=200)
    assert same(train(of, fewer, checkpoint=path)[0], train(of, fewer)[0])


# -- each source of randomness alone -----------------------------------------------------------


@pytest.mark.parametrize("stream", get_args(Stream))
def test_only_what_varies_differs(colour, stream):
    of = population(
        {"name": "cnn", "width": 2, "depth": None},
        {"epochs": 1, "augmentation": ["flip", "crop"]},
        label_noise=0.2,
        varies=[stream],
    )
    first, second = streams(of, 2)
    points = loop.Points.from_dataset(colour, CPU)
    networks = [loop._network(of, points, s) for s in (first, second)]
    weights = [next(m.parameters()) for m in networks]
    drawn = [Epoch.draw(0, [s], points.train.shape, ["flip", "crop"], CPU) for s in (first, second)]
    labels = [noisy_labels(colour.train_labels, 2, 0.2, s) for s in (first, second)]
    equal = {
        "init": torch.equal(*weights),
        "order": torch.equal(drawn[0].order, drawn[1].order),
        "augmentation": torch.equal(drawn[0].crop, drawn[1].crop),
        "dropout": first.seed("dropout") == second.seed("dropout"),
        "label_noise": np.array_equal(*labels),
    }
    assert [name for name, value in equal.items() if not value] == [stream]
    a, b = train(of, colour, runs=2)
    assert not np.array_equal(a.test_outputs, b.test_outputs)


def test_nothing_varies_nothing_differs(digits):
    a, b = train(population(varies=[], stacked="no"), digits, runs=2)
    assert same(a, b)


def test_label_noise_changes_exactly_its_share_to_other_classes():
    labels = np.random.default_rng(0).integers(0, 10, size=1000)
    noisy = noisy_labels(labels, 10, 0.123, Streams(0, "p", 0, []))
    assert (noisy != labels).sum() == 123 and set(noisy) <= set(range(10))
    # Uniform over the nine other classes: chi-square of the shifts at 1e-3.
    shifts = np.bincount((noisy - labels)[noisy != labels] % 10, minlength=10)[1:]
    assert ((shifts - 123 / 9) ** 2 / (123 / 9)).sum() < 26.1


# -- the pieces against something independent --------------------------------------------------


def crop_by_slicing(image, start, mirrored, pad):
    """Pad with the mean colour (zero), cut out, then mirror."""
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
    side = image.shape[-1]
    cut = padded[:, start[0] : start[0] + side, start[1] : start[1] + side]
    return cut[:, :, ::-1] if mirrored else cut


def test_crop_and_flip_are_those_of_plain_slicing(colour):
    points = loop.Points.from_dataset(colour, CPU)
    of = population()
    epoch = Epoch.draw(3, streams(of, 2), points.train.shape, ["flip", "crop"], CPU)
    inputs, index = next(epoch.batches(points.train, 8))
    assert inputs.shape == (2, 8, 3, 16, 16)
    for run in range(2):
        for j, i in enumerate(index[run]):
            expected = crop_by_slicing(
                points.train[i].numpy(), epoch.crop[run, i].tolist(), bool(epoch.flip[run, i]), 2
            )
            np.testing.assert_array_equal(inputs[run, j].numpy(), expected)


def test_every_epoch_visits_every_point_once(colour):
    points = loop.Points.from_dataset(colour, CPU)
    epoch = Epoch.draw(0, streams(population(), 2), points.train.shape, [], CPU)
    visited = torch.cat([index for _, index in epoch.batches(points.train, 32)], dim=1)
    assert (visited.sort(dim=1).values == torch.arange(80)).all()


def test_a_last_batch_of_one_point_is_left_out(colour):
    points = loop.Points.from_dataset(colour, CPU)
    epoch = Epoch.draw(0, streams(population(), 1), points.train.shape, [], CPU)
    assert [index.shape[1] for _, index in epoch.batches(points.train, 79)] == [79]


def test_images_are_normalised_by_channel(colour):
    images = normalised_images(colour.train_images, colour, CPU)
    # float32 means over 20,000 values.
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(images.std((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)


def test_pretrained_networks_get_the_images_they_were_trained_with(colour):
    transforms = pytest.importorskip("model_metrology.torchvision_compat").torchvision.transforms
    expected = transforms.Compose(
        [
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )(np.moveaxis(colour.train_images[0], 0, -1))
    images = normalised_images(colour.train_images, colour, CPU, pretrained=True)
    torch.testing.assert_close(images[0], expected)
    grey = normalised_images(colour.train_images[:, :1], colour, CPU, pretrained=True)
    assert grey.shape == (80, 1, 16, 16)


def test_one_step_of_sgd_by_hand(digits):
    of = population(
        {"dropout": 0.0},
        {"optimiser": "sgd", "epochs": 1, "batch_size": 300, "learning_rate": 0.5},
    )
    trained = train(of, digits, runs=1)[0]
    points = loop.Points.from_dataset(digits, CPU)
    network = loop._network(of, points, streams(of, 1)[0])
    labels = torch.from_numpy(digits.train_labels)
    torch.nn.functional.cross_entropy(network(points.train), labels).backward()
    for name, value in network.named_parameters():
        expected = (value - 0.5 * value.grad).detach().numpy()
        # One float32 step over the points in another order.
        np.testing.assert_allclose(trained.weights[name], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("classes", [1, 2, 5])
@pytest.mark.parametrize("name", ["cross-entropy", "mse"])
def test_losses_are_those_of_the_formulas(name, classes):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 7, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, max(classes, 2), (3, 7), generator=generator)
    full = torch.stack([torch.zeros_like(logits[..., 0]), logits[..., 0]], -1)
    probability = (full if classes == 1 else logits).softmax(-1)
    of_label = probability.gather(-1, labels[..., None])[..., 0]
    if name == "cross-entropy":
        expected = -of_label.log().mean(1)
    elif classes == 1:
        expected = (probability[..., 1] - labels).square().mean(1)
    else:
        one_hot = torch.eye(classes, dtype=torch.float64)[labels]
        expected = (probability - one_hot).square().sum(-1).mean(1)
    torch.testing.assert_close(loop.loss_of(name, logits, labels), expected)


def test_schedules():
    def rates(**options):
        recipe = Recipe(learning_rate=1.0, epochs=8, **options)
        return [loop.learning_rate(recipe, step, 10) for step in range(80)]

    assert set(rates()) == {1.0}
    cosine = rates(schedule="cosine")
    assert cosine[0] == 1.0 and cosine[40] == pytest.approx(0.5) and 0 < cosine[-1] < 1e-3
    steps = rates(schedule="step")
    assert steps[39] == 1.0 and steps[40] == pytest.approx(0.1) and steps[60] == pytest.approx(0.01)
    warm = rates(warmup_epochs=1)
    assert warm[:3] == pytest.approx([0.1, 0.2, 0.3]) and warm[10] == 1.0


def test_it_learns():
    dataset = prepare_dataset("digits2")
    of = population({"width": 64}, {"epochs": 15, "augmentation": []})
    run = train(of, dataset, runs=1)[0]
    accuracy = (run.test_outputs.argmax(1) == dataset.test_labels).mean()
    # Even against odd; a logistic regression reaches 0.90 on these.
    assert accuracy > 0.95
    assert list(run.history["epoch"]) == list(range(1, 16))
    assert run.history["loss"][-1] < run.history["loss"][0] / 3


def test_grey_images_go_through_with_channels_last():
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.ReLU())
    images = torch.rand(1, 4, 1, 8, 8)
    plain = network(images[0])
    outputs = Stack([network], torch.device("cpu"))(images, training=True)[0]
    assert outputs.is_contiguous(memory_format=torch.channels_last)
    # Convolutions of the two layouts sum in other orders.
    torch.testing.assert_close(outputs, plain, rtol=1e-5, atol=1e-6)


def test_rectifiers_in_place_leave_outputs_and_gradients_as_they_were():
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 3, 3), torch.nn.ReLU(),
        torch.nn.Flatten(), torch.nn.Linear(48, 5), torch.nn.ReLU(),
    )  # fmt: skip
    plain = copy.deepcopy(network).double()
    stack = Stack([network.double()], torch.device("cpu"))
    assert [m.inplace for m in network if isinstance(m, torch.nn.ReLU)] == [True, True, False]
    images = torch.randn(1, 6, 2, 8, 8, dtype=torch.float64)
    outputs = stack(images, training=True)[0]
    outputs.square().sum().backward()
    parameters = dict(plain.named_parameters())
    expected, pull = torch.func.vjp(
        lambda p: torch.func.functional_call(plain, p, (images[0],)), parameters
    )
    torch.testing.assert_close(outputs, expected, rtol=1e-12, atol=1e-12)
    for name, gradient in pull(2 * expected)[0].items():
        torch.testing.assert_close(stack.parameters[name].grad, gradient, rtol=1e-10, atol=1e-10)


def test_rectifiers_that_others_use_or_read_are_left_alone():
    class Skip(torch.nn.Sequential):
        def forward(self, x):
            h = self[0](x)
            return h + self[1](h)

    shared = torch.nn.ReLU()
    network = torch.nn.Sequential(
        Skip(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU()),
        torch.nn.Conv2d(2, 2, 3), shared, torch.nn.Sigmoid(), shared,
    )  # fmt: skip
    Stack([network], torch.device("cpu"))
    assert not any(m.inplace for m in network.modules() if isinstance(m, torch.nn.ReLU))


def test_centred_networks_start_at_zero_and_their_outputs_can_be_rebuilt(digits):
    of = population({"centred": True, "dropout": 0.0}, {"learning_rate": 1e-12, "epochs": 1})
    run = train(of, digits, runs=1)[0]
    # A step of 1e-12 moves nothing that float32 can hold.
    assert np.abs(run.test_outputs).max() < 1e-5
    assert {n for n in run.weights if n.startswith("initial.")} == {
        f"initial.{n}" for n in run.weights if not n.startswith("initial.")
    }


def test_head_is_trained_on_features(digits):
    rng = np.random.default_rng(0)
    features = {"train": rng.normal(size=(300, 20)), "test": rng.normal(size=(200, 20))}
    for part, labels in (("train", digits.train_labels), ("test", digits.test_labels)):
        features[part][:, 0] += 4 * labels
        features[part] = features[part].astype(np.float32)
    of = population(
        {"name": "mobilenet_v2", "pretrained": True, "width": None, "depth": None},
        {"trainable": "head", "epochs": 60},
    )
    runs = train(of, digits, features=features)
    assert all((r.test_outputs.argmax(1) == digits.test_labels).mean() > 0.9 for r in runs)
    assert not same(runs[0], runs[1])
    with pytest.raises(ValueError, match="features belong to"):
        train(population(), digits, features=features)
    features["train"] = features["train"][:-1]
    with pytest.raises(ValueError, match="compute them anew"):
        train(of, digits, features=features)


# -- what goes wrong ---------------------------------------------------------------------------


def test_a_diverging_run_is_marked_and_harms_no_other(digits, monkeypatch, caplog):
    of = population(stacked="yes")
    expected = train(of, digits)
    original = loop._network

    def poisoned(population, points, stream):
        network = original(population, points, stream)
        if stream.run == 1:
            with torch.no_grad():
                next(network.parameters()).fill_(float("inf"))
        return network

    monkeypatch.setattr(loop, "_network", poisoned)
    runs = train(of, digits)
    assert [run.status for run in runs] == ["completed", "diverged", "completed"]
    assert "epoch 1" in runs[1].message and "learning rate of 0.01" in runs[1].message
    assert same(runs[0], expected[0]) and same(runs[2], expected[2])
    assert "run 0001 stopped" in caplog.text


def test_a_run_whose_last_step_diverges_is_marked(digits):
    of = population(
        {"dropout": 0.0},
        {"optimiser": "sgd", "learning_rate": 1e30, "epochs": 1, "batch_size": 300},
    )
    run = train(of, digits, runs=1)[0]
    assert np.isfinite(run.history["loss"]).all()
    assert run.status == "diverged" and "after the last step" in run.message


@pytest.mark.parametrize("stacked", ["no", "yes"])
def test_a_step_size_that_diverges_stops_at_once(digits, stacked):
    of = population(
        recipe={"optimiser": "sgd", "learning_rate": 1e30, "epochs": 50}, stacked=stacked
    )
    runs = train(of, digits)
    assert all(run.status == "diverged" for run in runs)
    assert all(len(run.history["epoch"]) <= 2 for run in runs)


def test_batch_larger_than_the_data_is_named(digits):
    with pytest.raises(ValueError, match=r"recipe\.batch_size: 500 is more than the 300"):
        train(population(recipe={"batch_size": 500}), digits)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_cuda_agrees_with_the_cpu(digits):
    of = population({"dropout": 0.2}, {"epochs": 1})
    here, there = (
        train_runs(of, digits, streams(of), device=torch.device(name)) for name in ("cpu", "cuda")
    )
    for a, b in zip(here, there, strict=True):
        # Ten steps in float32 on two kinds of hardware; dropout masks are the same integers.
        np.testing.assert_allclose(a.test_outputs, b.test_outputs, rtol=1e-2, atol=1e-3)


def test_runs_are_the_same_after_a_round_trip_through_the_store(digits, tmp_path):
    from model_metrology import files

    runs = train(population(), digits)
    files.write_runs(tmp_path / "runs.h5", runs, store.provenance())
    for a, b in zip(runs, files.read_runs(tmp_path / "runs.h5"), strict=True):
        assert same(a, b) and a.run == b.run and a.status == b.status
        np.testing.assert_array_equal(a.history["loss"], b.history["loss"])
