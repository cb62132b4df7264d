"""Foreign checkpoints: read without unpickling, fitted strictly, refused with the remedy."""

import hashlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from examples.cifar_resnets import CifarResNet, ZeroPaddedShortcut, resnet20
from model_metrology.data.datasets import prepare_dataset
from model_metrology.models.foreign import (
    file_sha256,
    foreign_dataset,
    foreign_provenance,
    load_foreign,
)
from model_metrology.surrogates.builders import BUILDERS_VARIABLE
from model_metrology.surrogates.recipes import ForeignInstrument

ROOT = Path(__file__).parents[2]
WEIGHTS = Path(os.environ.get("MODEL_METROLOGY_WEIGHTS", ROOT.parent / "shared" / "weights"))
PUBLISHED = {
    "resnet20": "resnet20-12fca82f.th",
    "resnet32": "resnet32-d509ac18.th",
    "resnet44": "resnet44-014dd654.th",
    "resnet56": "resnet56-4bfd9763.th",
}
# Parameters by depth: He et al. 2016, table 6.
MILLIONS = {"resnet20": 0.27, "resnet32": 0.46, "resnet44": 0.66, "resnet56": 0.85}

BUILDERS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.hidden = nn.Linear(64, width)
        self.linear = nn.Linear(width, 10)
    def forward(self, x):
        return self.linear(self.hidden(self.norm(x).flatten(1)).relu())

def build(width=5):
    return Net(width)

def nothing():
    return 3

def fails():
    raise RuntimeError("no luck")
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project's folder with a module of builders and a trained network's weights."""
    (tmp_path / "instruments").mkdir()
    (tmp_path / "instruments" / "nets.py").write_text(BUILDERS)
    (tmp_path / "instruments" / "broken.py").write_text("import a_module_that_nobody_has\n")
    (tmp_path / "instruments" / "wrong.py").write_text("1 / 0\n")
    for name in [n for n in sys.modules if n.partition(".")[0] == "instruments"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv(BUILDERS_VARIABLE, str(tmp_path))
    yield tmp_path
    for name in [n for n in sys.modules if n.partition(".")[0] == "instruments"]:
        del sys.modules[name]


def network(width=5):
    scope = {}
    exec(BUILDERS, scope)
    torch.manual_seed(width)
    net = scope["build"](width)
    net.norm.running_mean.fill_(0.3)
    return net


def instrument(checkpoint="net.pt", builder="instruments.nets:build", **options):
    return ForeignInstrument(dataset="digits", builder=builder, checkpoint=checkpoint, **options)


def outputs(net):
    x = torch.linspace(0, 1, 3 * 64).view(3, 1, 8, 8)
    with torch.no_grad():
        return net.eval()(x).numpy()


def test_weights_come_from_the_file_and_the_network_is_in_evaluation_mode(project):
    trained = network()
    torch.save(trained.state_dict(), project / "net.pt")
    loaded = load_foreign(instrument(), root=project, image_shape=(1, 8, 8), classes=10)
    assert not loaded.training
    np.testing.assert_array_equal(outputs(loaded), outputs(trained))


def test_an_entry_a_prefix_and_arguments(project):
    trained = network(7)
    state = {f"module.{name}": value for name, value in trained.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, project / "net.pt")
    options = instrument(key="state_dict", prefix="module.", arguments={"width": 7})
    np.testing.assert_array_equal(outputs(load_foreign(options, root=project)), outputs(trained))


def test_safetensors(project):
    safetensors = pytest.importorskip("safetensors.torch")
    trained = network()
    safetensors.save_file(trained.state_dict(), project / "net.safetensors")
    loaded = load_foreign(instrument("net.safetensors"), root=project)
    np.testing.assert_array_equal(outputs(loaded), outputs(trained))
    (project / "net.safetensors").write_bytes(b"no tensors at all")
    with pytest.raises(ValueError, match=r"checkpoint: .*no whole \.safetensors"):
        load_foreign(instrument("net.safetensors"), root=project)


def test_counts_of_batches_may_be_missing(project):
    trained = network()
    state = trained.state_dict()
    torch.save({n: v for n, v in state.items() if "num_batches" not in n}, project / "net.pt")
    np.testing.assert_array_equal(
        outputs(load_foreign(instrument(), root=project)), outputs(trained)
    )


def test_loading_leaves_the_callers_generator_and_path_alone(project):
    torch.save(network().state_dict(), project / "net.pt")
    before, path = torch.get_rng_state(), list(sys.path)
    load_foreign(instrument(), root=project)
    assert torch.equal(torch.get_rng_state(), before)
    assert sys.path == path


def test_a_file_with_code_is_refused_and_its_code_not_run(project):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(project / "trapped"),))

    torch.save({"state_dict": network().state_dict(), "extra": Trap()}, project / "net.pt")
    with pytest.raises(ValueError, match=r"checkpoint: .*save its weights alone.*state_dict"):
        load_foreign(instrument(key="state_dict"), root=project)
    assert not (project / "trapped").exists()


def test_a_whole_network_is_refused(project):
    torch.save(nn.Linear(2, 2), project / "net.pt")
    with pytest.raises(ValueError, match="save its weights alone"):
        load_foreign(instrument(), root=project)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04broken"])
def test_damaged_files_are_named(project, content):
    (project / "net.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint: .*net\.pt"):
        load_foreign(instrument(), root=project)


def test_a_missing_file_is_named(project):
    with pytest.raises(FileNotFoundError, match=r"checkpoint: .*net\.pt"):
        load_foreign(instrument(), root=project)


def test_the_file_is_the_one_that_was_named(project):
    torch.save(network().state_dict(), project / "net.pt")
    digest = hashlib.sha256((project / "net.pt").read_bytes()).hexdigest()
    assert file_sha256(project / "net.pt") == digest
    assert foreign_provenance(instrument(), root=project)["checkpoint_sha256"] == digest
    load_foreign(instrument(sha256=digest[:8]), root=project)
    with pytest.raises(ValueError, match=f"sha256: .*{digest}"):
        load_foreign(instrument(sha256="01234567"), root=project)


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        ("instruments.absent:build", "the folder that has instruments/absent.py in the env"),
        ("absent_altogether.nets:build", "the folder that has absent_altogether/nets.py in the"),
        ("instruments.broken:build", "needs the module 'a_module_that_nobody_has'"),
        ("instruments.wrong:build", "importing instruments.wrong failed: ZeroDivisionError"),
        ("instruments.nets:bild", "defines no function 'bild'; it has Net, build, fails, nothing"),
        ("instruments.nets:nothing", "returned int; it must return a torch.nn.Module"),
        ("instruments.nets:fails", "failed with arguments {}: RuntimeError: no luck"),
    ],
)
def test_what_is_wrong_with_a_builder(project, builder, message):
    torch.save(network().state_dict(), project / "net.pt")
    with pytest.raises(ValueError, match=r"^builder: ") as caught:
        load_foreign(instrument(builder=builder), root=project)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "builder", ["nets", "nets.build", "nets:", ":build", "a b:c", "a:b:c", "../a:b"]
)
def test_malformed_builders_are_refused_with_the_study(builder):
    with pytest.raises(ValidationError, match=r"write package\.module:function"):
        instrument(builder=builder)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda s: s.pop("linear.bias"), {}, "1 missing from the file: linear.bias"),
        (lambda s: s.update(more=s["linear.bias"]), {}, "1 unknown to the network: more"),
        (
            lambda s: None,
            {"arguments": {"width": 6}},
            "of another shape: hidden.weight (5, 64) for",
        ),
        (lambda s: None, {"arguments": {"breadth": 6}}, "failed with arguments {'breadth': 6}"),
        (lambda s: None, {"prefix": "module."}, "prefix: no weight's name begins with 'module.'"),
        (lambda s: None, {"key": "model"}, "key: "),
        (lambda s: s.update(epoch=3), {}, "key: "),
        (lambda s: s.clear(), {}, "holds no weights"),
        (lambda s: s["linear.bias"].fill_(np.nan), {}, "not finite: linear.bias"),
    ],
)
def test_weights_that_do_not_fit(project, change, options, message):
    state = dict(network().state_dict())
    change(state)
    torch.save(state, project / "net.pt")
    with pytest.raises(ValueError) as caught:
        load_foreign(instrument(**options), root=project)
    assert message in str(caught.value)


def test_only_the_first_of_many_names_are_listed(project):
    torch.save({f"w{i}": torch.zeros(1) for i in range(9)}, project / "net.pt")
    with pytest.raises(ValueError, match=r"9 unknown to the network: w0, .* w4, … \(9 in all\)"):
        load_foreign(instrument(arguments={"width": 2}), root=project)


def test_the_network_must_fit_the_dataset(project):
    torch.save(network().state_dict(), project / "net.pt")
    with pytest.raises(ValueError, match=r"does not take images \(3, 32, 32\) of digits"):
        load_foreign(instrument(), root=project, image_shape=(3, 32, 32), classes=10)
    with pytest.raises(ValueError, match=r"returns \(2, 10\) for 2 images; digits has 7 classes"):
        load_foreign(instrument(), root=project, image_shape=(1, 8, 8), classes=7)


def test_moments_of_the_network_replace_those_of_the_dataset():
    digits = prepare_dataset("digits", train=20, test=20)
    assert foreign_dataset(instrument(), digits) is digits
    changed = foreign_dataset(instrument(mean=[0.25], std=[0.5]), digits)
    assert (changed.mean, changed.std) == (0.25, 0.5)
    assert changed.test_images is digits.test_images
    with pytest.raises(ValueError, match="mean, std: 3 values, the images of digits have 1"):
        foreign_dataset(instrument(mean=[0.1] * 3, std=[0.5] * 3), digits)


@pytest.mark.parametrize(
    "options",
    [
        {"mean": [0.5]},
        {"mean": [0.5, 0.5], "std": [0.5]},
        {"mean": [0.5], "std": [0.0]},
        {"checkpoint": "net.safetensors", "key": "state_dict"},
        {"sha256": "xyz"},
        {"colour": "red"},
    ],
)
def test_options_that_contradict_each_other_are_refused(options):
    with pytest.raises(ValidationError):
        instrument(**options)


def test_arguments_keep_their_kind():
    arguments = {"a": True, "b": 1, "c": 0.5, "d": "one"}
    read = instrument(arguments=arguments).arguments
    assert {k: type(v) for k, v in read.items()} == {k: type(v) for k, v in arguments.items()}


# -- CIFAR ResNets -------------------------------------------------------------------------------


def test_the_shortcut_takes_every_second_pixel_between_zeros():
    x = torch.arange(2 * 4 * 4.0).view(1, 2, 4, 4)
    y = ZeroPaddedShortcut(2, 4)(x)
    assert y.shape == (1, 4, 2, 2)
    assert y[0, 0].abs().max() == y[0, 3].abs().max() == 0
    np.testing.assert_array_equal(y[0, 1], [[0, 2], [8, 10]])
    np.testing.assert_array_equal(y[0, 2], [[16, 18], [24, 26]])


def test_a_resnet_written_out_by_hand():
    torch.manual_seed(0)
    net = CifarResNet(8).eval()
    x = torch.randn(2, 3, 32, 32)
    state = net.state_dict()

    def conv(x, name, stride=1):
        norm = name.replace("conv", "bn")
        x = F.conv2d(x, state[f"{name}.weight"], stride=stride, padding=1)
        mean, variance, weight, bias = (
            state[f"{norm}.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (variance + 1e-5).sqrt() * weight + bias

    h = conv(x, "conv1").relu()
    for stage, stride in ((1, 1), (2, 2), (3, 2)):
        name = f"layer{stage}.0"
        short = h
        if stride == 2:
            sides = torch.zeros(2, h.shape[1] // 2, h.shape[2] // 2, h.shape[3] // 2)
            short = torch.cat([sides, h[:, :, ::2, ::2], sides], dim=1)
        h = (conv(conv(h, f"{name}.conv1", stride).relu(), f"{name}.conv2") + short).relu()
    expected = h.mean(dim=(2, 3)) @ state["linear.weight"].T + state["linear.bias"]
    # The same sums in another order.
    torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", PUBLISHED)
def test_resnets_have_the_published_numbers_of_layers_and_parameters(name):
    from examples import cifar_resnets

    net = getattr(cifar_resnets, name)()
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == int(name.removeprefix("resnet"))
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 2) == MILLIONS[name]


@pytest.mark.parametrize("depth", [2, 18, 21])
def test_depths_that_are_not_6n_plus_2_are_refused(depth):
    with pytest.raises(ValueError, match="6n"):
        CifarResNet(depth)


def test_random_weights_of_a_resnet_come_back(tmp_path):
    torch.manual_seed(1)
    net = resnet20().eval()
    state = {f"module.{name}": value for name, value in net.state_dict().items()}
    torch.save({"state_dict": state, "best_prec1": 10.0}, tmp_path / "net.th")
    options = instrument(
        str(tmp_path / "net.th"),
        "examples.cifar_resnets:resnet20",
        key="state_dict",
        prefix="module.",
    )
    loaded = load_foreign(options, root=ROOT, image_shape=(3, 32, 32), classes=10)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(x), net(x))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_weights_fit(name):
    path = WEIGHTS / PUBLISHED[name]
    if not path.is_file():
        pytest.skip(f"no {path}; say where the weights are with MODEL_METROLOGY_WEIGHTS")
    options = instrument(
        str(path),
        f"examples.cifar_resnets:{name}",
        key="state_dict",
        prefix="module.",
        sha256=path.stem.partition("-")[2],
    )
    load_foreign(options, root=ROOT, image_shape=(3, 32, 32), classes=10)
