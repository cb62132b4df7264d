"""Kernels against the full Jacobian, closed forms and features by hand."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, jacrev

from model_metrology.kernels import (
    conjugate_kernel,
    functions,
    projected_trace_ntk,
    pseudo_ntk,
    tangent,
    trace_ntk,
)
from model_metrology.kernels import points as kernel_points
from model_metrology.kernels.blocks import Rows
from model_metrology.kernels.forms import Outer
from model_metrology.kernels.points import as_points, with_channels_last
from model_metrology.kernels.tangent import Gradients
from model_metrology.layout import channels_last
from model_metrology.models import build_model
from model_metrology.recipes import Architecture

GREY, COLOUR = (1, 8, 8), (3, 8, 8)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def built(shape, classes=3, **architecture):
    return build_model(Architecture(**architecture), image_shape=shape, classes=classes, seed=0)


class Shared(nn.Module):
    """One matrix in two layers, and its transpose once more by hand."""

    def __init__(self):
        super().__init__()
        self.read = nn.Linear(64, 10)
        self.first, self.second = nn.Linear(10, 10), nn.Linear(10, 10)
        self.second.weight = self.first.weight
        self.out = nn.Linear(10, 3)

    def forward(self, x):
        h = self.second(self.first(self.read(x.flatten(1))).tanh()).tanh()
        return self.out(h + h @ self.first.weight.T)


class Residual(nn.Module):
    """A layer called twice, a skip, activations in place, and a parameter that is not used."""

    def __init__(self):
        super().__init__()
        self.read, self.twice, self.out = nn.Linear(64, 10), nn.Linear(10, 10), nn.Linear(10, 2)
        self.idle = nn.Parameter(torch.ones(4))

    def forward(self, x):
        h = F.relu(self.read(x.flatten(1)), inplace=True)
        h = h + F.relu(self.twice(h), inplace=True)
        return self.out(h + self.twice(h))


def normalised_by_batches():
    """Batch normalisation whose running statistics are not those it began with."""
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(36, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3),
    )  # fmt: skip
    for _ in range(3):
        network(2 * points(COLOUR, 20) + 1)
    return network


class Recurrent(nn.Module):
    """torch.vmap cannot follow torch's own GRU on every device."""

    def __init__(self):
        super().__init__()
        self.gru, self.out = nn.GRU(8, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x):
        return self.out(self.gru(x[:, 0])[0][:, -1])


NETWORKS = {
    "mlp": (GREY, lambda: built(GREY, name="mlp", width=12, depth=2, dropout=0.3)),
    "one logit": (
        GREY, lambda: built(GREY, 2, name="mlp", width=12, parametrisation="ntk", outputs="one"),
    ),
    "cnn": (COLOUR, lambda: built(COLOUR, name="cnn", width=2)),
    "average pooling": (GREY, lambda: built(GREY, name="cnn-mnist2")),
    "attention": (COLOUR, lambda: built(COLOUR, name="vit-small", width=32, depth=1)),
    "batch norm": (COLOUR, normalised_by_batches),
    "shared": (GREY, Shared),
    "residual": (GREY, Residual),
    "recurrent": (GREY, Recurrent),
}  # fmt: skip


def points(shape, n, seed=1):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


def network(name, dtype=torch.float64):
    shape, make = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().to(dtype), shape


def by_jacobian(model, x):
    """Σ_c J_c J_cᵀ from the full Jacobian, in float64; one point at a time."""
    model = model.double().eval()
    parameters = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    rows = []
    for point in x.double():
        jacobian = jacrev(lambda p, point=point: functional_call(model, p, (point[None],))[0])(
            parameters
        )
        rows.append(torch.cat([j.flatten(1) for j in jacobian.values()], dim=1))
    stacked = torch.stack(rows)
    return torch.einsum("icp,jcp->ij", stacked, stacked).numpy()


def relative_error(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


# -- exactness ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("name", NETWORKS)
def test_trace_ntk_is_the_contraction_of_the_full_jacobian(name, dtype, tolerance):
    model, shape = network(name, dtype)
    x = points(shape, 9)
    kernel = trace_ntk(model, x, normalize=False)
    cosine = trace_ntk(model, x)
    expected = by_jacobian(model, x)
    assert kernel.dtype == np.float64
    assert relative_error(kernel, expected) < tolerance
    assert np.abs(kernel - expected).max() < 10 * tolerance * np.abs(expected).max()
    scale = np.sqrt(np.diag(expected))
    np.testing.assert_allclose(cosine, expected / np.outer(scale, scale), atol=tolerance)


class TwoLayers(nn.Module):
    """vᵀ φ(W x/√d)/√h, with parameters that belong to no layer."""

    def __init__(self, d, h):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.W = nn.Parameter(torch.randn(h, d, generator=generator, dtype=torch.float64))
        self.v = nn.Parameter(torch.randn(h, generator=generator, dtype=torch.float64))

    def forward(self, x):
        hidden = torch.tanh(x @ self.W.T / math.sqrt(self.W.shape[1]))
        return (hidden @ self.v / math.sqrt(len(self.v)))[:, None]


def test_trace_ntk_of_two_layers_is_the_closed_form():
    n, d, h = 70, 11, 17
    model, x = TwoLayers(d, h), points((d,), n).double()
    w, v = model.W.detach().numpy(), model.v.detach().numpy()
    u = w @ x.numpy().T / np.sqrt(d)
    slope, value = 1 - np.tanh(u) ** 2, np.tanh(u)
    first = (x.numpy() @ x.numpy().T / d) * (slope.T @ np.diag(v**2) @ slope / h)
    np.testing.assert_allclose(
        trace_ntk(model, x, normalize=False), first + value.T @ value / h, rtol=1e-12, atol=1e-13
    )


def test_a_linear_model_has_the_kernel_of_its_inputs():
    # f_c = w_c·x + b_c, so each class adds <x, x'> + 1.
    model, x = nn.Linear(6, 4).double(), points((6,), 5).double()
    kernel = trace_ntk(model, x, normalize=False)
    np.testing.assert_allclose(kernel, 4 * (x @ x.T + 1).numpy(), rtol=1e-13)
    model.bias.requires_grad_(False)
    kernel = trace_ntk(model, x, normalize=False)
    np.testing.assert_allclose(kernel, 4 * (x @ x.T).numpy(), rtol=1e-13)


def test_frozen_parameters_have_no_part():
    model, shape = network("cnn")
    model[0].requires_grad_(False)
    x = points(shape, 6)
    expected = by_jacobian(model, x)
    assert relative_error(trace_ntk(model, x, normalize=False), expected) < 1e-12
    model[0].requires_grad_(True)
    assert relative_error(by_jacobian(model, x), expected) > 1e-3


@pytest.mark.parametrize("vmap", [True, False])
@pytest.mark.parametrize("name", ["residual", "batch norm", "attention"])
def test_without_the_graph_it_is_the_same(name, vmap, monkeypatch):
    model, shape = network(name)
    x, y = points(shape, 7), points(shape, 4, seed=2)
    expected, cross = trace_ntk(model, x), trace_ntk(model, x, y)
    monkeypatch.setattr(tangent, "_agreeing_groups", lambda *_: ([], {}))
    if not vmap:
        monkeypatch.setattr(tangent, "_vmap_works", lambda *_: False)
    np.testing.assert_allclose(trace_ntk(model, x), expected, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(trace_ntk(model, x, y), cross, rtol=1e-12, atol=1e-13)


def test_what_vmap_gets_wrong_is_computed_point_by_point(monkeypatch):
    model, shape = network("mlp")
    x = points(shape, 5)
    expected = trace_ntk(model, x)
    monkeypatch.setattr(tangent, "_agreeing_groups", lambda *_: ([], {}))
    original = tangent._by_vmap
    monkeypatch.setattr(tangent, "_by_vmap", lambda *args: 2 * original(*args))
    np.testing.assert_allclose(trace_ntk(model, x), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("per_byte", [-1e9, 1e9])
def test_gradients_written_out_give_the_same_kernel(per_byte, monkeypatch):
    model = build_model(
        Architecture(name="cnn-cifar2", outputs="one"), image_shape=(3, 16, 16), classes=2, seed=0
    )
    model, x = model.double(), points((3, 16, 16), 70)  # more than are written out together
    held = []
    monkeypatch.setattr(tangent, "_PER_BYTE", per_byte)
    rows = Rows.with_itself
    monkeypatch.setattr(Rows, "with_itself", lambda self: held.append(self) or rows(self))
    kernel = trace_ntk(model, x, normalize=False)
    assert bool(held) == (per_byte > 0)
    assert relative_error(kernel[:5, :5], by_jacobian(model, x[:5])) < 1e-10
    # The last points, in another part, against the first.
    cross = by_jacobian(model, torch.cat([x[:2], x[-2:]]))
    assert relative_error(kernel[np.ix_([0, 1, 68, 69], [0, 1, 68, 69])], cross) < 1e-10


@pytest.mark.parametrize("memory_mb", [26, 4000])
def test_gradients_that_memory_holds_only_written_out_are(memory_mb, monkeypatch):
    model = build_model(
        Architecture(name="cnn-mnist2", outputs="one"), image_shape=(1, 24, 24), classes=2, seed=0
    )
    model, x = model.double(), points((1, 24, 24), 70)
    written = 70 * 8e-6 * sum(p.numel() for p in model.parameters())
    assert written < 7 / 8 * 26, "the test is of memory that holds them"
    monkeypatch.setattr(tangent, "_PER_BYTE", -1e9)  # not for the sake of memory alone
    blocks = []
    for kind in (Gradients, Rows):
        itself = kind.with_itself
        monkeypatch.setattr(
            kind,
            "with_itself",
            lambda self, itself=itself: blocks.append(type(self)) or itself(self),
        )
    kernel = trace_ntk(model, x, normalize=False, memory_mb=memory_mb)
    # In one block each: no gradient is computed twice.
    assert blocks == [Rows if memory_mb == 26 else Gradients]
    assert relative_error(kernel[:5, :5], by_jacobian(model, x[:5])) < 1e-10


def test_a_form_that_is_wrong_is_not_used(monkeypatch):
    model, shape = network("cnn")
    x = points(shape, 5)
    expected = trace_ntk(model, x)
    original = Outer.outer
    monkeypatch.setattr(Outer, "outer", lambda *args: 1.001 * original(*args))
    np.testing.assert_allclose(trace_ntk(model, x), expected, rtol=1e-12, atol=1e-13)


# -- properties --------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [trace_ntk, conjugate_kernel])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kernels_are_symmetric_positive_and_one_on_the_diagonal(function, dtype):
    model, shape = network("cnn", dtype)
    kernel = function(model, points(shape, 50), memory_mb=1)
    np.testing.assert_array_equal(kernel, kernel.T)
    np.testing.assert_allclose(np.diag(kernel), 1.0, rtol=1e-15)
    assert np.linalg.eigvalsh(kernel)[0] > -50 * torch.finfo(dtype).eps
    assert np.abs(kernel).max() <= 1 + 1e-6


@pytest.mark.parametrize("function", [trace_ntk, pseudo_ntk, projected_trace_ntk, conjugate_kernel])
@pytest.mark.parametrize("normalize", [True, False])
def test_memory_changes_only_the_blocks(function, normalize, monkeypatch):
    model, shape = network("cnn")
    x, y = points(shape, 41), points(shape, 23, seed=2)
    sizes = []
    original = functions.blocks

    def counts(hold, *args):
        def counted(points):
            sizes.append(len(points))
            return hold(points)

        return original(counted, *args)

    monkeypatch.setattr(functions, "blocks", counts)
    options = {"normalize": normalize} | ({"dim": 64} if function is projected_trace_ntk else {})
    kernel = function(model, x, **options)
    assert sizes == [41]
    cross = function(model, x, y, **options)
    assert sizes[1:] == [23, 41]
    with pytest.raises(ValueError, match="too small"):
        function(model, x, memory_mb=0.001, **options)
    for memory in (4, 2, 1, 0.5, 0.25, 0.12, 0.06, 0.03):
        sizes.clear()
        again = function(model, x, memory_mb=memory, **options)
        np.testing.assert_allclose(again, kernel, rtol=1e-12, atol=1e-13)
        again = function(model, x, y, memory_mb=memory, **options)
        np.testing.assert_allclose(again, cross, rtol=1e-12, atol=1e-13)
        if 1 < max(sizes) < 23:  # several blocks, each of several points
            break
    else:
        pytest.fail("no memory gave several blocks")


@pytest.mark.parametrize("function", [trace_ntk, conjugate_kernel])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("name", ["mlp", "batch norm"])
def test_a_cross_kernel_is_a_block_of_the_whole(function, normalize, name):
    model, shape = network(name)
    x = points(shape, 40)
    whole = function(model, x, normalize=normalize)
    cross = function(model, x[:13], x[13:].numpy(), normalize=normalize)
    assert cross.shape == (13, 27)
    np.testing.assert_allclose(cross, whole[:13, 13:], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("function", [trace_ntk, conjugate_kernel])
def test_the_model_comes_back_as_it_was(function):
    model, shape = network("batch norm", torch.float32)
    model.train()
    model[1].eval()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    x = points(shape, 6)
    for context in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with context():
            kernel = function(model, x)
        np.testing.assert_array_equal(kernel, function(model, x.requires_grad_(False)))
    with pytest.raises(ValueError):
        function(model, torch.full((2, *shape), torch.nan))
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert model[0].weight.grad.eq(1).all() and model[5].weight.grad is None
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    assert x.grad is None
    np.testing.assert_array_equal(kernel, function(model.eval(), x))


class Viewing(nn.Module):
    """Pixels of what a convolution gives, in the order in which they lie in memory."""

    def __init__(self, order):
        super().__init__()
        self.order = order
        self.convolution, self.out = nn.Conv2d(3, 4, 3), nn.Linear(144, 2)

    def forward(self, x):
        h = torch.tanh(self.convolution(x))
        h = h.view(len(x), -1) if self.order == "usual" else h.as_strided((len(x), 144), (144, 1))
        return self.out(h)


class ViewingBack(torch.autograd.Function):
    """The identity, whose gradient must lie in the usual order."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return g.view(-1).view(g.shape)


class Backward(nn.Module):
    """Reads pixels in any order, and gradients in the usual one."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.out = nn.Linear(64, 2)

    def forward(self, x):
        return self.out(self.second(ViewingBack.apply(self.first(x))).flatten(1))


CPU = torch.device("cpu")


@pytest.mark.parametrize("make", [lambda: Viewing("usual"), lambda: Viewing("memory"), Backward])
def test_images_lie_as_given_where_the_model_looks_at_their_order(make):
    torch.manual_seed(0)
    model, x = make(), points(COLOUR, 5)
    assert not with_channels_last(as_points("x", x, model), model, CPU).channels_last
    kernel = trace_ntk(model, x, normalize=False)
    assert relative_error(kernel, by_jacobian(model, x)) < 1e-5


@pytest.mark.parametrize("shape", [GREY, COLOUR])
def test_images_go_through_convolutions_with_channels_last(shape):
    model, x, seen = built(shape, name="cnn").eval(), points(shape, 5), []
    laid = with_channels_last(as_points("x", x, model), model, CPU)
    assert laid.channels_last and torch.equal(laid.part(1, 4, CPU), x[1:4])
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    first.register_forward_hook(lambda _, inputs, outputs: seen.append(outputs))
    for function in (trace_ntk, conjugate_kernel):
        function(model, x)
        assert seen[-1].is_contiguous(memory_format=torch.channels_last)


def test_images_that_are_copied_count_as_memory(monkeypatch):
    copied = []

    def copying(images):
        copied.append(images.nbytes)
        return channels_last(images)

    monkeypatch.setattr(kernel_points, "channels_last", copying)
    model, x = built((3, 16, 16), name="cnn").eval(), points((3, 16, 16), 200)  # 0.6 MB
    small = conjugate_kernel(model, x, memory_mb=0.5)
    assert len(copied) > 5 and max(copied) < 0.5e6 / 2
    np.testing.assert_allclose(small, conjugate_kernel(model, x), atol=1e-6)


class Tokens(nn.Module):
    """Pixels as tokens: how they lie decides how the product of the linear layer is recorded."""

    def __init__(self, channels):
        super().__init__()
        self.convolution = nn.Conv2d(channels, 6, 3)
        self.linear, self.out = nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x):
        tokens = self.convolution(x).flatten(2).transpose(1, 2)
        return self.out(torch.tanh(self.linear(tokens)).mean(dim=1))


@pytest.mark.parametrize("shape", [GREY, COLOUR])
def test_one_point_alone_lies_as_many_do(shape):
    torch.manual_seed(0)
    model, x = Tokens(shape[0]), points(shape, 9)
    expected = by_jacobian(copy.deepcopy(model), x)
    for found, part in (
        (trace_ntk(model, x, x[:1], normalize=False), expected[:, :1]),
        (trace_ntk(model, x[:1], normalize=False), expected[:1, :1]),
        # In blocks of few points, of which the last has one.
        (trace_ntk(model, x, normalize=False, memory_mb=0.07), expected),
        (trace_ntk(model, x, normalize=False, memory_mb=0.05), expected),
    ):
        assert relative_error(found, part) < 1e-5


def test_arrays_are_taken_in_the_precision_of_the_model():
    model, shape = network("mlp", torch.float32)
    x = points(shape, 4)
    expected = trace_ntk(model, x)
    np.testing.assert_array_equal(trace_ntk(model, x.numpy().astype(np.float64)), expected)
    words = nn.Sequential(nn.Embedding(9, 5), nn.Flatten(), nn.Linear(10, 2)).double()
    ids = np.array([[0, 1], [1, 2], [8, 8]])
    features = words[0](torch.from_numpy(ids)).flatten(1).detach().numpy()
    np.testing.assert_allclose(
        conjugate_kernel(words, ids, normalize=False), features @ features.T, rtol=1e-13
    )
    kernel = trace_ntk(words, ids, normalize=False)
    # The last point shares no word with the first: only the last layer sees both.
    assert kernel[0, 2] == pytest.approx(2 * (features[0] @ features[2] + 1), rel=1e-12)


# -- conjugate kernel --------------------------------------------------------------------------


def test_conjugate_kernel_is_of_the_penultimate_features():
    model, shape = network("mlp")
    x = points(shape, 6).double()
    h = x.flatten(1)
    for i in (1, 4):
        h = (h @ model[i].weight.T + model[i].bias).clamp(min=0)
    expected = (h @ h.T).detach().numpy()
    np.testing.assert_allclose(conjugate_kernel(model, x, normalize=False), expected, rtol=1e-12)
    norms = np.sqrt(np.diag(expected))
    np.testing.assert_allclose(
        conjugate_kernel(model, x), expected / np.outer(norms, norms), rtol=1e-12
    )


def test_the_last_layer_is_the_one_called_last():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.out, self.first = nn.Linear(5, 2), nn.Linear(4, 5)

        def forward(self, x):
            h = self.first(input=x).tanh()
            logits = self.out(input=h)
            h.zero_()  # too late to matter
            return logits

    model, x = Backwards().double(), points((4,), 3).double()
    h = model.first(x).tanh().detach().numpy()
    np.testing.assert_allclose(conjugate_kernel(model, x, normalize=False), h @ h.T, rtol=1e-13)


# -- what goes wrong ---------------------------------------------------------------------------


class Function(nn.Module):
    """Any function of the outputs of a linear layer."""

    def __init__(self, function):
        super().__init__()
        self.layer, self.function = nn.Linear(4, 3), function

    def forward(self, x):
        return self.function(self.layer(x))


X = points((4,), 5)


@pytest.mark.parametrize("function", [trace_ntk, conjugate_kernel])
@pytest.mark.parametrize(
    ("of", "message"),
    [
        (lambda h: h[:, 0], r"outputs must be \(batch, C\), got \(3,\) for a batch of 3; wrap"),
        (lambda h: h[:2], r"got \(2, 3\) for a batch of 3"),
        (lambda h: (h, h), r"got tuple for a batch of 3"),
        (lambda h: h - h.mean(0), "with the other points of its batch"),
        (lambda h: F.dropout(h), "change by chance"),
        (lambda h: h / (torch.arange(len(h))[:, None] != 3), r"x\[3\]: its outputs are not finite"),
    ],
)
def test_outputs_that_have_no_kernel_are_refused(function, of, message):
    with pytest.raises(ValueError, match=message):
        function(Function(of), X)


def test_points_without_a_kernel_are_named():
    relu = nn.Sequential(nn.Linear(4, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False))
    relu[0].weight.data.abs_()
    alive = X.abs()
    dead = alive.clone()
    dead[2] = 0.0
    with pytest.raises(ValueError, match=r"x\[2\]: its gradient is zero; leave it out, or set nor"):
        trace_ntk(relu, dead)
    with pytest.raises(ValueError, match=r"y\[2\]: its penultimate feature vector is zero"):
        conjugate_kernel(relu, alive, dead)
    assert trace_ntk(relu, dead, normalize=False)[2].tolist() == [0.0] * 5
    with pytest.raises(ValueError, match=r"y\[4\]: its outputs are not finite; check the point"):
        trace_ntk(relu, alive, torch.cat([X[:4], torch.full((1, 4), torch.inf)]))
    root = Function(lambda h: (h - h).abs().sqrt())
    with pytest.raises(ValueError, match=r"x\[0\]: its gradient is not finite"):
        trace_ntk(root, X)
    with pytest.raises(ValueError, match=r"x must hold points \(N, …\), got shape \(0, 4\)"):
        trace_ntk(relu, X[:0])


def test_models_without_a_kernel_are_named():
    model = nn.Linear(4, 2).requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter requires a gradient; unfreeze"):
        trace_ntk(model, X)
    with pytest.raises(ValueError, match="it calls no linear layer"):
        conjugate_kernel(TwoLayers(4, 3), X)
    tokens = nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Linear(2, 3), nn.Flatten())
    with pytest.raises(ValueError, match=r"last linear layer reads \(1, 2, 2\) for a batch of 1"):
        conjugate_kernel(tokens, X)
    two = Function(lambda h: h.detach() * 1.0)
    with pytest.raises(ValueError, match=r"x\[0\]: its gradient is zero"):
        trace_ntk(two, X)


def test_too_little_memory_names_what_is_enough():
    model, shape = network("cnn", torch.float32)
    x = points(shape, 5)
    with pytest.raises(ValueError, match=r"memory_mb: 0\.001 is too small.*at least ") as caught:
        trace_ntk(model, x, memory_mb=0.001)
    enough = float(str(caught.value).rsplit(" ", 1)[1])
    np.testing.assert_allclose(
        trace_ntk(model, x, memory_mb=enough), trace_ntk(model, x), atol=1e-6
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("name", NETWORKS)
def test_cuda_agrees_with_the_jacobian(name):
    model, shape = network(name, torch.float32)
    x = points(shape, 9)
    kernel = trace_ntk(model, x, normalize=False, device="cuda")
    assert next(model.parameters()).device.type == "cpu"
    assert relative_error(kernel, by_jacobian(model, x)) < 1e-5
