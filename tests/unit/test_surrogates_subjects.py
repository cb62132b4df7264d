"""Networks with their points: which points, which answers, and kernels put together of columns."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from model_metrology import files
from model_metrology.data.datasets import prepare_dataset
from model_metrology.data.poison import poison_dataset
from model_metrology.data.recipes import Poison
from model_metrology.kernels import KERNELS, Options, kernel, kernel_blocks
from model_metrology.kernels.points import too_small
from model_metrology.models.language import TokenPoints
from model_metrology.recipes import Population
from model_metrology.runs import DIVERGED
from model_metrology.seeds import Streams
from model_metrology.surrogates import columns
from model_metrology.surrogates.builders import BUILDERS_VARIABLE
from model_metrology.surrogates.columns import kernel_columns
from model_metrology.surrogates.loading import read_subject, subject_outputs
from model_metrology.surrogates.names import column_bounds
from model_metrology.surrogates.outputs import whole_kernel
from model_metrology.surrogates.recipes import ForeignInstrument
from model_metrology.surrogates.subjects import (
    Chosen,
    Subject,
    choose_points,
    foreign_subject,
    language_subject,
    population_subject,
)
from model_metrology.training import train_runs

CPU = torch.device("cpu")
# Batches of other sizes are summed in another order, in single precision.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
POISON = Poison(trigger="patch", fraction=0.2, target=1, size=3)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def digits():
    return prepare_dataset("digits2", train=60, test=40)


@pytest.fixture(scope="module")
def poisoned(digits):
    return poison_dataset(digits, POISON, seed=3)


def population(architecture, size=1, **options):
    recipe = {"learning_rate": 0.01, "epochs": 1, "batch_size": 20}
    return Population(
        dataset="digits2", architecture=architecture, recipe=recipe, size=size, **options
    )


def train(of, dataset):
    streams = [Streams(1, "p", run, of.varies) for run in range(of.size)]
    return train_runs(of, dataset, streams, device=CPU)


def chosen_of(dataset, train=30, test=16, **options):
    return choose_points(
        dataset.train_labels, dataset.test_labels, train=train, test=test, **options
    )


# -- which points ------------------------------------------------------------------------------


def test_points_keep_the_shares_of_the_classes():
    rng = np.random.default_rng(0)
    labels = [rng.permutation(np.repeat([0, 1, 2], counts)) for counts in ([50, 30, 20], [5, 3, 2])]
    chosen = choose_points(*labels, train=40, test=5)
    assert_array_equal(np.bincount(labels[0][chosen.train]), [20, 12, 8])
    # 2.5, 1.5 and 1 points: by largest remainder, of equal ones to the smaller label.
    assert_array_equal(np.bincount(labels[1][chosen.test]), [3, 1, 1])
    for positions in (chosen.train, chosen.test):
        assert (np.diff(positions) > 0).all()
    assert len(chosen.triggered) == 0


def test_points_depend_on_labels_and_seed_alone():
    labels = np.arange(200) % 4, np.arange(100) % 4
    sizes = {"train": 50, "test": 30, "triggered": 10}
    one, same = (choose_points(*labels, **sizes, seed=5) for _ in range(2))
    other = choose_points(*labels, **sizes, seed=6)
    for name in ("train", "test", "triggered"):
        assert_array_equal(getattr(one, name), getattr(same, name))
        assert not np.array_equal(getattr(one, name), getattr(other, name))
    # Neither more training points nor triggers move the test points.
    more = choose_points(*labels, train=80, test=30, seed=5)
    assert_array_equal(more.test, one.test)


@pytest.mark.parametrize("size", [None, 12, 50])
def test_all_points_where_as_many_or_more_are_asked_for(size):
    labels = np.arange(12) % 3
    chosen = choose_points(labels, labels, train=size, test=size)
    assert_array_equal(chosen.train, np.arange(12))
    assert_array_equal(chosen.test, np.arange(12))


@pytest.mark.parametrize("target", [0, 2])
def test_triggers_are_shown_on_chosen_points_of_other_classes(target):
    labels = np.arange(90) % 3
    chosen = choose_points(labels, labels, train=9, test=30, triggered=15, target=target)
    assert len(set(chosen.triggered)) == 15
    assert set(chosen.triggered) <= set(chosen.test)
    assert (labels[chosen.triggered] != target).all()
    every = choose_points(labels, labels, train=9, test=30, triggered=99, target=target)
    assert_array_equal(every.triggered, every.test[labels[every.test] != target])


# -- what networks say of them -----------------------------------------------------------------

MLP = {"name": "mlp", "width": 7, "depth": 2, "dropout": 0.3}


@pytest.mark.parametrize(
    ("architecture", "size"),
    [
        (MLP, 1),
        (MLP | {"centred": True}, 1),
        (MLP | {"centred": True, "outputs": "one", "parametrisation": "width"}, 2),
        ({"name": "cnn-mnist2", "centred": True, "parametrisation": "width"}, 1),
    ],
    ids=["plain", "centred", "centred, one logit, stacked", "centred convolutions"],
)
def test_logits_are_those_stored_of_the_run(digits, architecture, size):
    of = population(architecture, size, stacked="yes" if size > 1 else "no")
    run = train(of, digits)[-1]
    chosen = chosen_of(digits)
    subject = population_subject(of, run, digits, chosen)
    assert not subject.model.training
    assert (subject.initial is not None) == bool(architecture.get("centred"))
    found = subject.logits(subject.test, CPU)
    assert found.dtype == np.float64
    assert_allclose(found, run.test_outputs[chosen.test], **CLOSE)
    # What is subtracted is not nothing.
    if subject.initial is not None:
        with torch.no_grad():
            assert subject.initial(subject.test).abs().max() > 100 * CLOSE["atol"]


def test_centred_networks_begin_with_the_running_statistics_of_their_beginning(digits):
    few = prepare_dataset("digits2", train=20, test=10)
    of = population({"name": "resnet18", "centred": True})
    run = train(of, few)[0]
    chosen = choose_points(few.train_labels, few.test_labels, train=8, test=6)
    subject = population_subject(of, run, few, chosen)
    assert_allclose(
        subject.logits(subject.test, CPU), run.test_outputs[chosen.test], rtol=1e-3, atol=1e-3
    )


def test_pretrained_networks_see_images_as_they_were_trained_to(digits, monkeypatch):
    # Torchvision's own normalisation, and a network of ours in place of a large one's weights.
    from model_metrology.models import architectures

    def small(a, outputs):
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, outputs))

    monkeypatch.setattr(architectures, "_torchvision_model", small)
    of = population({"name": "mobilenet_v2", "pretrained": True})
    run = train(of, digits)[0]
    chosen = chosen_of(digits)
    subject = population_subject(of, run, digits, chosen)
    assert_allclose(
        subject.logits(subject.test, CPU), run.test_outputs[chosen.test], rtol=1e-4, atol=1e-4
    )
    grey = digits.test_images[chosen.test] / 255
    # Of grey images, the means of the published constants.
    expected = (grey - np.mean([0.485, 0.456, 0.406])) / np.mean([0.229, 0.224, 0.225])
    assert_allclose(subject.test, expected, rtol=1e-5, atol=1e-5)


def test_triggered_images_come_last_and_carry_the_trigger(poisoned, caplog):
    of = population(MLP)
    run = train(of, poisoned)[0]
    chosen = chosen_of(poisoned, triggered=5, target=POISON.target)
    subject = population_subject(of, run, poisoned, chosen, POISON, seed=3)
    assert len(subject.test) == len(subject.test_labels) == 21
    clean = (poisoned.test_images[chosen.test] / 255 - poisoned.mean[0]) / poisoned.std[0]
    assert_allclose(subject.test[:16], clean, rtol=1e-5, atol=1e-5)
    shown = poisoned.test_images[chosen.triggered] / 255
    shown[:, :, 5:, 5:] = 1.0
    shown = (shown - poisoned.mean[0]) / poisoned.std[0]
    assert_allclose(subject.test[16:], shown, rtol=1e-5, atol=1e-5)
    # True classes of test points; of training points what they were trained on, and which.
    assert_array_equal(subject.test_labels[16:], poisoned.test_labels[chosen.triggered])
    assert (subject.test_labels[16:] != POISON.target).all()
    assert_array_equal(subject.train_labels, poisoned.train_labels[chosen.train])
    assert subject.poisoned.any() and (subject.train_labels[subject.poisoned] == 1).all()
    outputs = subject_outputs(subject, CPU)
    assert (outputs.clean, outputs.triggered) == (16, 5)
    assert_array_equal(outputs.test[16:], chosen.triggered)
    assert_allclose(outputs.logits[:16], run.test_outputs[chosen.test], **CLOSE)
    assert_array_equal(outputs.predicted, outputs.logits.argmax(axis=1))
    none = replace(chosen, train=np.flatnonzero(~poisoned.poisoned)[:30])
    population_subject(of, run, poisoned, none, POISON, seed=3)
    assert (
        "digits2: none of the 30 training points that were chosen is one of the 12" in caplog.text
    )


def test_without_a_poison_nothing_is_triggered(digits):
    of = population(MLP)
    chosen = chosen_of(digits, triggered=5)
    subject = population_subject(of, train(of, digits)[0], digits, chosen)
    assert len(subject.test) == len(subject.test_labels) == 16
    assert subject_outputs(subject, CPU).triggered == 0


def test_one_logit_predicts_class_1_where_it_is_positive(digits):
    of = population(MLP | {"outputs": "one"})
    subject = population_subject(of, train(of, digits)[0], digits, chosen_of(digits))
    outputs = subject_outputs(subject, CPU)
    assert outputs.logits.shape == (16, 1)
    assert_array_equal(outputs.predicted, outputs.logits[:, 0] > 0)


BUILDER = """
import torch
from torch import nn

def build(width):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Tanh(), nn.Linear(width, 2))
"""


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    monkeypatch.setenv(BUILDERS_VARIABLE, str(tmp_path))
    monkeypatch.delitem(sys.modules, "odd_builders", raising=False)
    (tmp_path / "odd_builders.py").write_text(BUILDER)
    scope = {}
    exec(BUILDER, scope)
    torch.manual_seed(0)
    network = scope["build"](5)
    torch.save(network.state_dict(), tmp_path / "net.pt")
    options = {"dataset": "digits2", "builder": "odd_builders:build", "checkpoint": "net.pt"}
    return network, options | {"arguments": {"width": 5}}


@pytest.mark.parametrize("moments", [{}, {"mean": [0.25], "std": [0.5]}], ids=["own", "given"])
def test_foreign_networks_see_images_by_their_moments(foreign, digits, tmp_path, moments):
    network, options = foreign
    chosen = chosen_of(digits, triggered=3)
    subject = foreign_subject(
        ForeignInstrument(**options, **moments), digits, chosen, str(tmp_path)
    )
    mean, std = (0.25, 0.5) if moments else (digits.mean[0], digits.std[0])
    expected = torch.tensor((digits.test_images[chosen.test] / 255 - mean) / std).float()
    assert_allclose(subject.test, expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert_allclose(subject.logits(subject.test, CPU), network(expected), **CLOSE)
    assert len(subject.test_labels) == 16 and not subject.poisoned.any()
    assert subject.initial is None and subject.classes == digits.classes


def test_sentences_are_chosen_like_images():
    tokens = np.arange(40).reshape(10, 4)
    labels = np.arange(10) % 2
    index = np.arange(10)
    points = TokenPoints(("bad", "good"), tokens, labels, index, tokens + 1, labels, index, 0)
    chosen = choose_points(labels, labels, train=4, test=6, triggered=2)
    subject = language_subject(nn.Identity(), points, chosen)
    assert_array_equal(subject.train, tokens[chosen.train])
    assert_array_equal(subject.test, tokens[chosen.test] + 1)
    assert subject.train.dtype == torch.int64
    assert_array_equal(subject.test_labels, labels[chosen.test])
    assert len(subject.chosen.triggered) == 0 and subject.classes == ("bad", "good")


# -- from files --------------------------------------------------------------------------------


@pytest.fixture
def stored(poisoned, tmp_path):
    of = population(MLP, 2)
    runs = train(of, poisoned)
    paths = {name: str(tmp_path / f"{name}.h5") for name in ("dataset", "runs")}
    files.write_dataset(paths["dataset"], poisoned, {})
    files.write_runs(paths["runs"], [runs[0], replace(runs[1], status=DIVERGED, message="nan")], {})
    spec = {
        "kind": "population",
        "options": of.model_dump(mode="json", exclude={"size", "runs_per_job"}),
        "points": {"train": 30, "test": 16, "triggered": 5},
        "poison": POISON.model_dump(),
        "seed": 3,
    }
    return spec, paths, runs


def test_a_subject_from_files_is_the_one_in_memory(stored, poisoned):
    spec, paths, runs = stored
    found = read_subject(spec, 0, paths)
    chosen = chosen_of(poisoned, triggered=5, target=1, seed=3)
    of = population(MLP, 2)
    expected = population_subject(of, runs[0], poisoned, chosen, POISON, seed=3)
    for name in ("train", "test", "train_labels", "test_labels", "poisoned"):
        assert_array_equal(getattr(found, name), getattr(expected, name))
    assert_array_equal(found.logits(found.test, CPU), expected.logits(expected.test, CPU))


def test_runs_that_are_not_there_or_diverged_are_named(stored):
    spec, paths, _ = stored
    with pytest.raises(ValueError, match=r"runs\.h5: there is no run 7 in it"):
        read_subject(spec, 7, paths)
    with pytest.raises(ValueError, match=r"run 1 has diverged \(nan\).*surrogates\.runs"):
        read_subject(spec, 1, paths)


def test_a_foreign_network_from_files(foreign, digits, tmp_path, monkeypatch):
    network, options = foreign
    monkeypatch.chdir(tmp_path)
    files.write_dataset("d.h5", digits, {})
    spec = {"kind": "instrument", "options": options, "poison": None, "seed": 0}
    spec["points"] = {"train": 30, "test": 16, "triggered": 0}
    subject = read_subject(spec, 0, {"dataset": "d.h5", "checkpoint": "net.pt"})
    with torch.no_grad():
        assert_allclose(subject.logits(subject.test, CPU), network(subject.test), **CLOSE)


# -- kernels in columns ------------------------------------------------------------------------


class Tanh(nn.Module):
    """A small network with convolutions, all of whose gradients differ."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 2, 3), nn.Linear(8, 3)
        self.act, self.pool = nn.Tanh(), nn.AvgPool2d(3)

    def forward(self, x):
        return self.head(self.pool(self.act(self.conv(x))).flatten(1))


def made(model, train, test):
    """A subject of a network and points alone."""
    empty = np.empty(0, np.int64)
    rows = [np.zeros(len(points), np.int64) for points in (train, test)]
    chosen = Chosen(np.arange(len(train)), np.arange(len(test)), empty)
    return Subject(model, None, train, test, *rows, np.zeros(len(train), bool), chosen, ("a", "b"))


@pytest.fixture(scope="module")
def subject():
    torch.manual_seed(0)
    return made(Tanh().eval(), torch.randn(13, 1, 8, 8), torch.randn(5, 1, 8, 8))


def assembled(subject, name, tile, options):
    raw, normalize = KERNELS[name]
    bounds = column_bounds(len(subject.train), tile)
    parts = [kernel_columns(raw, subject, *bound, options) for bound in bounds]
    # Files may come in any order.
    return whole_kernel(reversed(parts), normalize=normalize)


# So little memory that a block holds two to five of the points.
LITTLE = dict.fromkeys(KERNELS, 0.005) | {
    "Em": 0.02, "CK": 0.0008, "pNTK": 0.002, "proj-trNTK": 0.001, "proj-pNTK": 0.0004,
}  # fmt: skip


@pytest.mark.parametrize("memory_mb", [100, LITTLE], ids=["one block", "many blocks"])
@pytest.mark.parametrize("tile", [None, 5, 2])
@pytest.mark.parametrize("name", KERNELS)
def test_columns_put_together_are_the_kernel(subject, name, tile, memory_mb):
    little = memory_mb is LITTLE
    options = Options(memory_mb=LITTLE[name] if little else memory_mb, dim=16, seed=1)
    blocks = kernel_blocks(KERNELS[name][0], subject.model, subject.train, None, options)
    assert (len(list(blocks)) > 5) == little
    train, test = assembled(subject, name, tile, options)
    whole = Options(memory_mb=100, dim=16, seed=1)
    expected = kernel(name, subject.model, subject.train, None, whole)
    assert train.dtype == test.dtype == np.float32
    # Single precision of entries up to the largest.
    close = {"rtol": 1e-4, "atol": 2e-6 * np.abs(expected).max()}
    assert_allclose(train, expected, **close)
    cross = kernel(name, subject.model, subject.test, subject.train, whole)
    assert_allclose(test, cross, **close)
    assert_array_equal(train, train.T)
    if KERNELS[name][1]:
        # Two roundings of a root and one of a quotient.
        assert_allclose(np.diag(train), 1, rtol=4 * np.finfo(np.float32).eps)
        assert np.abs(test).max() <= 1 + 4 * np.finfo(np.float32).eps


def test_centred_networks_have_the_kernel_of_their_gradients(digits):
    # What is subtracted does not depend on the parameters.
    of = population(MLP | {"centred": True})
    subject = population_subject(of, train(of, digits)[0], digits, chosen_of(digits, 8, 4))
    train_kernel, _ = assembled(subject, "trNTK0", 3, Options())
    rows = []
    for x in subject.train:
        gradients = []
        for logit in (subject.model(x[None]) - subject.initial(x[None]).detach())[0]:
            found = torch.autograd.grad(logit, subject.model.parameters(), retain_graph=True)
            gradients.append(torch.cat([g.flatten() for g in found]))
        rows.append(torch.cat(gradients))
    rows = torch.stack(rows).double()
    assert_allclose(train_kernel, rows @ rows.T, rtol=1e-4, atol=1e-4)


def test_columns_of_jobs():
    assert column_bounds(10, None) == [(0, 10)]
    assert column_bounds(10, 4) == [(0, 4), (4, 8), (8, 10)]
    assert column_bounds(10, 5) == [(0, 5), (5, 10)]
    assert column_bounds(10, 50) == [(0, 10)]


def test_more_columns_than_points_are_refused(subject):
    with pytest.raises(ValueError, match=r"columns 12 to 15 asked for, there are 13.*surrogates\."):
        kernel_columns("trace", subject, 12, 15, Options())


@pytest.mark.parametrize("start", [0, 4])
def test_what_a_lower_precision_costs_is_said_once_a_job(subject, start, caplog):
    with caplog.at_level("INFO", logger="model_metrology"):
        exact = kernel_columns("trace", subject, start, 13, Options())
        assert "largest error" not in caplog.text
        found = kernel_columns("trace", subject, start, 13, Options(precision="bfloat16"))
    said = [r.getMessage() for r in caplog.records if "largest error" in r.getMessage()]
    assert len(said) == 1 and "trace kernel in bfloat16" in said[0]
    own = slice(start, 13)  # the columns' own points
    expected = np.abs(found.train[own] - exact.train[own]).max() / np.abs(exact.train[own]).max()
    shown = float(said[0].split("largest error ")[1].split(" of")[0])
    assert 1e-5 < shown == pytest.approx(expected, rel=0.1)  # two digits


def test_where_memory_runs_out_blocks_get_smaller(subject, monkeypatch, caplog):
    whole = kernel_columns("trace", subject, 0, 13, Options(memory_mb=64))
    real, tried = columns.kernel_blocks, []

    def short_of_memory(raw, model, x, y, options):
        tried.append(options.memory_mb)
        if options.memory_mb > 20:
            # As torch and numpy do it.
            kinds = (MemoryError("Unable to allocate 3 GiB"), torch.OutOfMemoryError("CUDA"))
            raise kinds[len(tried) % 2]
        return real(raw, model, x, y, options)

    monkeypatch.setattr(columns, "kernel_blocks", short_of_memory)
    found = kernel_columns("trace", subject, 0, 13, Options(memory_mb=64))
    assert tried[:3] == [64, 32, 16]
    assert_allclose(found.train, whole.train, **CLOSE)
    assert "again with memory_mb 16" in caplog.text


def test_memory_that_never_suffices_is_named_and_other_errors_pass(subject, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    monkeypatch.setattr(columns, "kernel_blocks", broken)
    with pytest.raises(MemoryError, match=r"columns 0 to 13 of the trace.*lower surrogates\.tile"):
        kernel_columns("trace", subject, 0, 13, Options())

    def short(raw, model, x, y, options):
        if options.memory_mb == 64:
            raise MemoryError("Unable to allocate 3 GiB")
        raise too_small(options.memory_mb, 4e7)  # two points' gradients

    # Not the advice to give more memory, which is what there is too little of.
    monkeypatch.setattr(columns, "kernel_blocks", short)
    with pytest.raises(MemoryError, match=r"blocks of 64 MB.*lower surrogates\.tile"):
        kernel_columns("trace", subject, 0, 13, Options(memory_mb=64))
    with pytest.raises(ValueError, match="memory_mb: 8 is too small for one point"):
        kernel_columns("trace", subject, 0, 13, Options(memory_mb=8))

    def other(*arguments):
        raise RuntimeError("mat1 and mat2 shapes")

    monkeypatch.setattr(columns, "kernel_blocks", other)
    with pytest.raises(RuntimeError, match="shapes"):
        kernel_columns("trace", subject, 0, 13, Options())


class Rectified(nn.Module):
    """Without biases: a negative image has no gradient in any parameter."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 2, bias=False)

    def forward(self, x):
        return self.head(x.relu())


@pytest.mark.parametrize(("part", "point"), [("train", 4), ("test", 1)])
@pytest.mark.parametrize("name", ["trNTK", "CK"])
def test_a_point_without_a_gradient_is_named(name, part, point):
    torch.manual_seed(0)
    points = {"train": torch.rand(6, 4), "test": torch.rand(3, 4)}
    points[part][point] = -1.0
    subject = made(Rectified(), **points)
    with pytest.raises(
        ValueError, match=rf"^{part} point {point}: .*no gradient or feature.*trNTK0"
    ):
        assembled(subject, name, 4, Options())
    # A kernel that is not normalised has a row of zeros.
    kernels = dict(zip(("train", "test"), assembled(subject, "trNTK0", 4, Options()), strict=True))
    assert (kernels[part][point] == 0).all()


# In a process of its own, which may take so many bytes more than it had before the kernel.
SHORT_OF_MEMORY = """
import logging, resource, sys
import numpy as np, torch
from torch import nn
from model_metrology.kernels import Options
from model_metrology.surrogates.columns import kernel_columns
from model_metrology.surrogates.subjects import Chosen, Subject

logging.basicConfig(level="INFO")
torch.set_num_threads(1)
torch.manual_seed(0)
convolutions = nn.Conv2d(1, 16, 3, padding=1), nn.Tanh(), nn.Conv2d(16, 32, 3, padding=1), nn.Tanh()
network = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(2048, 10)).eval()
train, test = torch.randn(300, 1, 8, 8), torch.randn(50, 1, 8, 8)
labels = np.zeros(300, int), np.zeros(50, int), np.zeros(300, bool)
chosen = Chosen(np.arange(300), np.arange(50), np.arange(0))
subject = Subject(network, None, train, test, *labels, chosen, ("a", "b"))
kernel_columns("trace", subject, 0, 4, Options(memory_mb=50))
status = open("/proc/self/status").read()
taken = 1024 * int(status.split("VmSize:")[1].split()[0])
if sys.argv[1] != "inf":
    resource.setrlimit(resource.RLIMIT_AS, (taken + int(sys.argv[1]) * 10**6,) * 2)
print(kernel_columns("trace", subject, 0, 300, Options()).train.trace())
"""


@pytest.mark.slow  # a dozen processes
@pytest.mark.skipif(sys.platform != "linux", reason="no limit of a process's memory")
def test_a_process_that_runs_out_of_memory_goes_on_with_less_or_says_so():
    def run(megabytes):
        command = [sys.executable, "-c", SHORT_OF_MEMORY, megabytes]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    enough, hardly_any = run("inf"), run("5")
    # The first that is not enough and goes on; not each does, for what is left in pieces may not do
    # for a convolution of any size.
    tried = map(run, map(str, range(180, 100, -10)))
    short = (done for done in tried if "out of memory" in done.stderr)
    little = next((done for done in short if not done.returncode), None)
    assert enough.returncode == 0 and little is not None
    assert "out of memory" not in enough.stderr
    assert float(little.stdout) == pytest.approx(float(enough.stdout), rel=1e-5)
    assert hardly_any.returncode and "lower surrogates.tile" in hardly_any.stderr
