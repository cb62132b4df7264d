"""Kernels layer by layer: against the full Jacobian, and where a number could quietly be wrong."""

import copy
import functools
import itertools
import logging
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

from model_metrology.kernels import (
    conjugate_kernel,
    embedding_kernel,
    forms,
    functions,
    projected_pseudo_ntk,
    projected_trace_ntk,
    pseudo_ntk,
    tangent,
    trace_ntk,
)
from model_metrology.kernels.points import (
    as_points,
    check_outputs,
    chosen_parameters,
    evaluating,
)
from model_metrology.kernels.projections import Layout, Picked, Sketch

pytestmark = [
    pytest.mark.filterwarnings("ignore:There is a performance drop"),  # of torch.vmap
    pytest.mark.filterwarnings("ignore:Using padding='same'"),
]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def same_numbers():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def points(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def identifiers(*shape, below, seed=1):
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(seed))


def parameter(*shape):
    return nn.Parameter(torch.randn(shape))


class Network(nn.Module):
    """Any function of points and of parts: modules and parameters."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.function(self, x)


def jacobian(model, x):
    """Gradients (n, C, P) in float64: one logit of one point at a time, by plain autograd."""
    model = copy.deepcopy(model).double().eval()
    wanted = [p for p in model.parameters() if p.requires_grad]
    x = x.double() if x.is_floating_point() else x
    rows = []
    for point in x:
        logits = model(point[None])[0]
        by_logit = [
            torch.autograd.grad(f, wanted, retain_graph=True, materialize_grads=True)
            for f in logits
        ]
        rows.append(torch.stack([torch.cat([g.flatten() for g in gs]) for gs in by_logit]))
    return torch.stack(rows)


def by_jacobian(model, x, y=None):
    left = jacobian(model, x)
    right = left if y is None else jacobian(model, y)
    return torch.einsum("icp,jcp->ij", left, right).numpy()


def relative_error(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def slow_parameters(model, x):
    """Parameters that are left to per-sample gradients."""
    with evaluating(model, None) as place:
        chosen, taken = chosen_parameters(model, None), as_points("x", x, model)
        heads = torch.eye(check_outputs(model, taken, place), dtype=next(model.parameters()).dtype)
        return tangent.make_plan(model, chosen, heads, taken.probe(place), 0).rest


# -- layers ------------------------------------------------------------------------------------

N = 7  # not a multiple of the 3 tokens


def tokens(of, **parts):
    """A network of 3 tokens of 4 numbers; `of` gives 5 numbers for each."""
    return Network(
        lambda s, x: s.out(of(s, x).tanh().reshape(len(x), -1)), out=nn.Linear(15, 3), **parts
    )


def images(layer, features, channels=2, size=8):
    """A layer of images, read out by a linear layer."""
    model = nn.Sequential(layer, nn.Tanh(), nn.Flatten(), nn.Linear(features, 3))
    return model, points(N, channels, size, size)


def signals(layer, features):
    model = nn.Sequential(layer, nn.Tanh(), nn.Flatten(), nn.Linear(features, 2))
    return model, points(N, 2, 9)


def normalised(layer, shape, features):
    """A layer with statistics and parameters that are not those it began with."""
    generator = torch.Generator().manual_seed(2)
    for name, value in (*layer.named_parameters(), *layer.named_buffers()):
        if value.is_floating_point():
            noise = torch.rand(value.shape, generator=generator)
            value.data = 0.5 + noise if "var" in name or "weight" in name else noise
    conv = nn.Conv2d(2, 4, 3) if len(shape) == 3 else nn.Linear(*shape, 4)
    return nn.Sequential(conv, layer, nn.Flatten(), nn.Tanh(), nn.Linear(features, 3)), points(
        N, *shape
    )


def attend(batch_first, crossed):
    def function(s, x):
        x = x if batch_first else x.transpose(0, 1)
        other = torch.cat([x, x.sin()], dim=1 if batch_first else 0) if crossed else x
        h = s.attention(x, other, other, need_weights=False)[0] + x
        h = h if batch_first else h.transpose(0, 1)
        return s.out(h.tanh().flatten(1))

    attention = nn.MultiheadAttention(4, 2, batch_first=batch_first)
    return Network(function, attention=attention, out=nn.Linear(12, 2)), points(N, 3, 4)


def heads(s, x):
    q, k, v = (t.unflatten(-1, (2, 2)).transpose(1, 2) for t in s.qkv(x).chunk(3, dim=-1))
    return s.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def tied_layers(s, x):
    return s.out(s.second(s.first(x).tanh()).tanh())


def tied(first, second):
    second.weight = first.weight
    return Network(tied_layers, first=first, second=second, out=nn.Linear(4, 2)), points(N, 4)


def frozen(model, *names):
    for name in names:
        model.get_parameter(name).requires_grad_(False)
    return model


def looped(s, x):
    start = x.new_zeros(len(x), 3)
    return s.out(functools.reduce(lambda h, token: s.cell(token, h), x.unbind(1), start))


def language(**options):
    """Tokens, positions and a mean."""

    def function(s, x):
        h = s.words(x) + s.places.weight[: x.shape[1]]
        return s.out(s.layer(h).tanh().mean(1))

    parts = {"words": nn.Embedding(9, 4, **options), "places": nn.Embedding(5, 4)}
    return Network(function, layer=nn.Linear(4, 6), out=nn.Linear(6, 3), **parts)


def mlp(*sizes, activation=nn.Tanh):
    pairs = itertools.pairwise(sizes)
    layers = [layer for a, b in pairs for layer in (nn.Linear(a, b), activation())]
    return nn.Sequential(*layers[:-1])


def in_place(s, x):
    h = s.a(x).mul_(2).add_(s.b)
    h[:, 0] = h[:, 0] * 3
    return s.out(F.relu(h, inplace=True))


X, T, IMAGES = points(N, 4), points(N, 3, 4), points(N, 2, 8, 8)  # vectors, tokens, images

# Each a network and its points, and the parameters that are left to per-sample gradients.
FAST = {
    "linear": lambda: (mlp(4, 6, 5, 3), X),
    "linear without bias": lambda: (
        nn.Sequential(nn.Linear(4, 6, bias=False), nn.Tanh(), nn.Linear(6, 3, bias=False)), X,
    ),
    "tokens": lambda: (tokens(lambda s, x: s.a(x), a=nn.Linear(4, 5)), T),
    "tokens without bias": lambda: (tokens(lambda s, x: s.a(x), a=nn.Linear(4, 5, False)), T),
    "tokens transposed": lambda: (
        tokens(lambda s, x: s.a(x.reshape(-1, 4, 3).transpose(1, 2)), a=nn.Linear(4, 5)), T,
    ),
    "tokens first": lambda: (
        tokens(lambda s, x: s.a(x.transpose(0, 1)).transpose(0, 1), a=nn.Linear(4, 5)), T,
    ),
    "tokens first, no bias": lambda: (
        tokens(lambda s, x: s.a(x.transpose(0, 1)).transpose(0, 1), a=nn.Linear(4, 5, False)), T,
    ),
    "images as tokens": lambda: (
        Network(
            lambda s, x: s.out(s.a(x.permute(0, 2, 3, 1)).tanh().mean((1, 2))),
            a=nn.Linear(2, 5), out=nn.Linear(5, 2),
        ), IMAGES,
    ),
    "patches folded into points": lambda: (
        Network(
            lambda s, x: s.out(s.a(x.flatten(1).reshape(-1, 16)).tanh().reshape(len(x), -1)),
            a=nn.Linear(16, 3), out=nn.Linear(24, 2),
        ), IMAGES,
    ),
    "patches before points": lambda: (
        Network(
            lambda s, x: s.out(
                s.a(x.flatten(1).unflatten(1, (8, 16)).transpose(0, 1).reshape(-1, 16))
                .tanh().unflatten(0, (8, -1)).transpose(0, 1).flatten(1)
            ),
            a=nn.Linear(16, 3), out=nn.Linear(24, 2),
        ), IMAGES,
    ),
    "conv1d": lambda: signals(nn.Conv1d(2, 3, 4, stride=2, padding=1, dilation=2), 9),
    "conv1d grouped": lambda: signals(nn.Conv1d(2, 4, 3, groups=2), 28),
    "conv2d": lambda: images(nn.Conv2d(2, 3, 3), 108),
    "conv2d grouped": lambda: images(nn.Conv2d(4, 6, 3, groups=2), 216, channels=4),
    "conv2d depthwise": lambda: images(nn.Conv2d(2, 4, 3, groups=2), 144),
    "conv2d strided, padded, dilated": lambda: images(
        nn.Conv2d(2, 3, (3, 2), stride=(2, 3), padding=(2, 1), dilation=(2, 3)), 36
    ),
    "conv2d strides of one number": lambda: images(
        nn.Conv2d(2, 3, 3, stride=(2,), dilation=(1,)), 27
    ),
    "conv2d grouped, strided": lambda: images(
        nn.Conv2d(2, 2, 3, stride=2, padding=1, groups=2, bias=False), 32
    ),
    "conv2d same": lambda: images(nn.Conv2d(2, 3, (4, 3), padding="same"), 192),
    "conv2d circular": lambda: images(nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), 192),
    "conv2d 1x1": lambda: images(nn.Conv2d(2, 3, 1, bias=False), 192),
    "conv2d 1x1 strided": lambda: images(nn.Conv2d(2, 3, 1, stride=(2, 3)), 36),
    "conv2d 1x1 padded": lambda: images(nn.Conv2d(2, 3, 1, padding=1), 300),
    "conv2d of patches": lambda: (
        Network(
            lambda s, x: s.out(s.a(x.reshape(-1, 1, 8, 8)).tanh().reshape(len(x), -1)),
            a=nn.Conv2d(1, 2, 5), out=nn.Linear(64, 2),
        ), IMAGES,
    ),
    "conv2d pixel by pixel": lambda: (
        nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Conv2d(3, 2, 6), nn.Flatten()),
        points(N, 1, 8, 8),
    ),
    "batch norm 1d": lambda: normalised(nn.BatchNorm1d(4), (3,), 4),
    "batch norm 2d": lambda: normalised(nn.BatchNorm2d(4), (2, 8, 8), 144),
    "layer norm": lambda: normalised(nn.LayerNorm(4), (3,), 4),
    "layer norm of images": lambda: normalised(nn.LayerNorm([4, 6, 6]), (2, 8, 8), 144),
    "layer norm without bias": lambda: normalised(nn.LayerNorm(4, bias=False), (3,), 4),
    "rms norm": lambda: normalised(nn.RMSNorm(4), (3,), 4),
    "group norm": lambda: normalised(nn.GroupNorm(2, 4), (2, 8, 8), 144),
    "layer norm, points folded": lambda: (
        tokens(lambda s, x: s.a(s.norm(x.reshape(-1, 4))).reshape(-1, 3, 5),
               norm=nn.LayerNorm(4), a=nn.Linear(4, 5)), T,
    ),
    "attention, batch first": lambda: attend(True, False),
    "attention, tokens first": lambda: attend(False, False),
    "encoder, batch first": lambda: (
        Network(lambda s, x: s.out(s.layer(x).mean(1)), out=nn.Linear(4, 3),
                layer=nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)), T,
    ),
    "encoder, tokens first": lambda: (
        Network(lambda s, x: s.out(s.layer(x.transpose(0, 1)).mean(0)), out=nn.Linear(4, 3),
                layer=nn.TransformerEncoderLayer(4, 2, 8, norm_first=True)), T,
    ),
    "attention from linear layers": lambda: (
        Network(lambda s, x: s.out(heads(s, x).mean(1)),
                qkv=nn.Linear(4, 12), o=nn.Linear(4, 4), out=nn.Linear(4, 3)), T,
    ),
    "tied linear layers": lambda: tied(nn.Linear(4, 4), nn.Linear(4, 4, bias=False)),
    "convolution called twice": lambda: (
        Network(lambda s, x: s.out(s.a(s.a(x).tanh()[:, :, ::2]).tanh().flatten(1)),
                a=nn.Conv2d(2, 2, 3), out=nn.Linear(8, 2)), IMAGES,
    ),
    "residual": lambda: (
        Network(lambda s, x: s.out(x + s.a(x).tanh() + s.a(x.tanh())),
                a=nn.Linear(4, 4), out=nn.Linear(4, 2)), X,
    ),
    "positions and a class token": lambda: (
        Network(
            lambda s, x: s.out(s.a(
                torch.cat([s.token.expand(len(x), -1, -1), x], dim=1) + s.place
            ).tanh().prod(1)),
            token=parameter(1, 1, 4), place=parameter(1, 4, 4), a=nn.Linear(4, 5),
            out=nn.Linear(5, 2),
        ), T,
    ),
    "layer scale": lambda: (
        Network(lambda s, x: s.out((x + s.scale * s.a(x).tanh()) * s.gain),
                a=nn.Linear(4, 4), scale=parameter(4), gain=parameter(1), out=nn.Linear(4, 2)), X,
    ),
    "ntk parametrisation": lambda: (
        Network(
            lambda s, x: F.linear((F.linear(x, s.a / 2.0) + 0.1 * s.b).tanh(), s.v * 6**-0.5),
            a=parameter(6, 4), b=parameter(6), v=parameter(2, 6),
        ), X,
    ),
    "transposed for and by a product": lambda: (
        Network(lambda s, x: (x @ s.a.T).tanh() @ s.v, a=parameter(6, 4), v=parameter(6, 2)), X,
    ),
    "frozen weight": lambda: (frozen(mlp(4, 6, 5, 3), "0.weight", "2.weight"), X),
    "frozen bias": lambda: (frozen(mlp(4, 6, 5, 3), "0.bias", "2.bias"), X),
    "frozen weights of images": lambda: (
        frozen(normalised(nn.BatchNorm2d(4), (2, 8, 8), 144)[0], "0.weight", "1.weight"), IMAGES,
    ),
    "frozen biases of images": lambda: (
        frozen(normalised(nn.GroupNorm(2, 4), (2, 8, 8), 144)[0], "0.bias", "1.bias"), IMAGES,
    ),
    "checkpointed": lambda: (
        Network(
            lambda s, x: s.out(checkpoint(lambda h: s.b(h.tanh()), s.a(x), use_reentrant=False)),
            a=nn.Linear(4, 6), b=nn.Linear(6, 5), out=nn.Linear(5, 2),
        ), X,
    ),
    "in place": lambda: (
        Network(in_place, a=nn.Linear(4, 6), b=parameter(6), out=nn.Linear(6, 2)), X,
    ),
    "added twice over": lambda: (
        Network(lambda s, x: s.out(torch.add(s.a(x), s.b, alpha=3.0).tanh()),
                a=nn.Linear(4, 6), b=parameter(6), out=nn.Linear(6, 2)), X,
    ),
    "embedding": lambda: (language_fast(), identifiers(N, 5, below=9)),
    "embedding with padding": lambda: (
        language_fast(padding_idx=2), identifiers(N, 5, below=4),
    ),
    "gru": lambda: (
        Network(lambda s, x: s.out(s.gru(x)[0][:, -1]),
                gru=nn.GRU(4, 3, batch_first=True), out=nn.Linear(3, 2)), T,
    ),
    "gru cell in a loop": lambda: (
        Network(looped, cell=nn.GRUCell(4, 3), out=nn.Linear(3, 2)), T,
    ),
}  # fmt: skip


def language_fast(**options):
    """Words and their mean."""
    return Network(
        lambda s, x: s.out(s.layer(s.words(x)).tanh().mean(1)),
        words=nn.Embedding(9, 4, **options), layer=nn.Linear(4, 6), out=nn.Linear(6, 3),
    )  # fmt: skip


# What is not recognised must still be right. With each the parameters that are left over.
SLOW = {
    "sliced positions": (lambda: (language(), identifiers(N, 4, below=9)), {"places.weight"}),
    "tied embedding and decoder": (
        lambda: (
            Network(lambda s, x: s.layer(s.words(x)).tanh().mean(1) @ s.words.weight.T,
                    words=nn.Embedding(9, 4), layer=nn.Linear(4, 4)),
            identifiers(N, 5, below=9),
        ), {"words.weight"},
    ),
    "attention across": (
        lambda: attend(True, True), {"attention.in_proj_weight", "attention.in_proj_bias"},
    ),
    "attention across, tokens first": (
        lambda: attend(False, True), {"attention.in_proj_weight", "attention.in_proj_bias"},
    ),
    "square matrix used both ways": (
        lambda: (Network(lambda s, x: ((x @ s.w.T).tanh() @ s.w).tanh(), w=parameter(4, 4)), X),
        {"w"},
    ),
    "weight norm": (
        lambda: (nn.Sequential(weight_norm(nn.Linear(4, 6)), nn.Tanh(), nn.Linear(6, 2)), X),
        {"0.parametrizations.weight.original0", "0.parametrizations.weight.original1"},
    ),
    "transposed convolution": (
        lambda: images(nn.ConvTranspose2d(2, 3, 3, stride=2), 867), {"0.weight"},
    ),
    "bilinear": (
        lambda: (Network(lambda s, x: s.b(x, x.tanh()), b=nn.Bilinear(4, 4, 2)), X), {"b.weight"},
    ),
    "einsum": (
        lambda: (
            Network(
                lambda s, x: s.out(torch.einsum("nsd,hde->nhse", x, s.w).tanh().sum((1, 2))),
                w=parameter(3, 4, 5), out=nn.Linear(5, 2),
            ), T,
        ), {"w"},
    ),
    "parameters multiplied together": (
        lambda: (
            Network(lambda s, x: s.out(s.a(x) * (s.t * s.u) + s.t),
                    a=nn.Linear(4, 5), t=parameter(5), u=parameter(5), out=nn.Linear(5, 2)), X,
        ), {"t", "u"},
    ),
    "product of parameters as many as points": (
        lambda: (
            Network(lambda s, x: (x @ (s.a @ s.b)).tanh(), a=parameter(3, 3), b=parameter(3, 2)),
            points(3, 3),
        ), {"a", "b"},
    ),
    "matrix before points": (
        lambda: (Network(lambda s, x: (s.a @ x.T).T.tanh(), a=parameter(7, 4)), X), {"a"},
    ),
    "product with a factor": (
        lambda: (
            Network(lambda s, x: torch.addmm(s.b, x, s.w, alpha=2.0, beta=3.0).tanh(),
                    w=parameter(4, 3), b=parameter(3)), X,
        ), {"w", "b"},
    ),
    "instance norm": (
        lambda: normalised(nn.InstanceNorm2d(4, affine=True), (2, 8, 8), 144),
        {"1.weight", "1.bias"},
    ),
    "parametric activation": (
        lambda: (nn.Sequential(nn.Linear(4, 6), nn.PReLU(6), nn.Linear(6, 2)), X), {"1.weight"},
    ),
    "one point after the other": (
        lambda: (
            Network(lambda s, x: s.out(torch.stack([s.a(point) for point in x]).tanh()),
                    a=nn.Linear(4, 5), out=nn.Linear(5, 2)), X,
        ), {"a.weight", "a.bias"},
    ),
    "points as channels": (
        lambda: (
            Network(
                lambda s, x: s.out(F.conv2d(
                    x[:, 0][None], s.w.repeat(len(x), 1, 1, 1), groups=len(x)
                )[0].tanh().flatten(1)),
                w=parameter(1, 1, 3, 3), out=nn.Linear(36, 2),
            ), IMAGES,
        ), {"w"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", [*FAST, *SLOW])
def test_each_layer_gives_the_contraction_of_the_full_jacobian(name):
    # Rounding: 2^-53 and 2^-24, times some hundred terms; a wrong form is wrong by percents.
    model, x = FAST[name]() if name in FAST else SLOW[name][0]()
    expected = by_jacobian(model, x)
    assert relative_error(trace_ntk(model, x, normalize=False), expected) < 1e-5
    model = model.double()
    assert relative_error(trace_ntk(model, x, normalize=False), expected) < 1e-10
    assert set(slow_parameters(model, x)) == (SLOW[name][1] if name in SLOW else set())


@pytest.mark.parametrize("name", [name for name in FAST if "conv" in name])
def test_products_with_patches_give_what_convolutions_do(name, monkeypatch):
    monkeypatch.setattr(forms, "_FEW", 0)
    model, x = FAST[name]()
    model = model.double()
    error = relative_error(trace_ntk(model, x, normalize=False), by_jacobian(model, x))
    assert error < 1e-10


@pytest.mark.parametrize(
    "shape", [(), (1,), (5,), (3, 1), (1, 5), (3, 5), (1, 3, 1), (1, 1, 5), (1, 3, 5)]
)
@pytest.mark.parametrize("n", [3, 5, 7])
@pytest.mark.parametrize("tokens_first", [False, True])
def test_parameters_broadcast_in_any_shape(shape, n, tokens_first):
    def function(s, x):
        h = s.a(x.transpose(0, 1)).transpose(0, 1) if tokens_first else s.a(x)
        return s.out((s.scale * h + s.shift).tanh().sum(1))

    parts = {"a": nn.Linear(4, 5), "out": nn.Linear(5, 2)}
    model = Network(function, scale=parameter(*shape), shift=parameter(*shape), **parts).double()
    x = points(n, 3, 4)
    assert relative_error(trace_ntk(model, x, normalize=False), by_jacobian(model, x)) < 1e-12
    assert slow_parameters(model, x) == ()


# -- where points are --------------------------------------------------------------------------


def sequence_first(width=6):
    """As many tokens as points look the same from outside, if the points are not the first axis."""

    def function(s, x):
        h = s.norm(s.a(x.transpose(0, 1)))
        h = s.attention(h, h, h)[0] + h + s.place
        return s.out(s.b(h).tanh().sum(0))

    return Network(
        function, a=nn.Linear(4, width), norm=nn.LayerNorm(width), place=parameter(3, 1, width),
        attention=nn.MultiheadAttention(width, 2), b=nn.Linear(width, 5), out=nn.Linear(5, 3),
    ).double()  # fmt: skip


@pytest.mark.parametrize("n", [1, 2, 3, 4, 6, 9])
def test_tokens_are_not_taken_for_points(n):
    model, x = sequence_first(), points(n, 3, 4)
    assert relative_error(trace_ntk(model, x, normalize=False), by_jacobian(model, x)) < 1e-12


def repeated(pattern):
    return points(6, 3, 4)[list(pattern)]


@pytest.mark.parametrize("pattern", ["00012", "01230", "0001", "00100", "011"])
def test_points_that_are_the_same_do_not_hide_their_axis(pattern):
    model, x = sequence_first(), repeated(map(int, pattern))
    kernel = trace_ntk(model, x, normalize=False)
    assert relative_error(kernel, by_jacobian(model, x)) < 1e-12
    cosine = trace_ntk(model, x)
    same = [[a == b for b in pattern] for a in pattern]
    # The same points have the same gradients; others do not.
    np.testing.assert_allclose(cosine[same], 1.0, rtol=1e-12)
    assert (cosine[~np.array(same)] < 0.999).all()


def test_tokens_that_are_the_same_do_not_hide_the_axis_of_points():
    model, x = sequence_first(), points(8, 3, 4)
    x[[0, 1, -1]] = x[[0, 1, -1], :1].clone()  # those that forms are tried on
    assert relative_error(trace_ntk(model, x, normalize=False), by_jacobian(model, x)) < 1e-12


def alive_after_the_first(n, s):
    """Points with a first number below 0 where forms are tried, and above it elsewhere."""
    x = points(n, s, 4).double()
    x[:, 0, 0] = x[:, 0, 0].abs()
    x[[0, 1, -1], 0, 0] *= -1
    return x


@pytest.mark.parametrize(("n", "s"), [(6, 6), (6, 12), (8, 8)])
def test_a_layer_is_not_judged_by_one_of_its_two_uses(n, s):
    # The second use has its points in another axis, and is dead at the points that are tried.
    def function(net, x):
        first = net.w(x).tanh().sum(1)
        second = net.w(x.transpose(0, 1)).tanh().sum(0)
        return net.a(first) + F.relu(x[:, 0, :1]) * net.b(second)

    parts = {"w": nn.Linear(4, 6), "a": nn.Linear(6, 2), "b": nn.Linear(6, 2)}
    model, x = Network(function, **parts).double(), alive_after_the_first(n, s)
    assert relative_error(trace_ntk(model, x, normalize=False), by_jacobian(model, x)) < 1e-12


@pytest.mark.parametrize("parameters", ["a layer", "a table", "a scale"])
def test_gradients_that_vanish_where_forms_are_tried_count_elsewhere(parameters):
    def function(s, x):
        extra = {
            "a layer": lambda: s.b(x.flatten(1)),
            "a table": lambda: s.table((x[:, 0] > 0).long()).sum(1),
            "a scale": lambda: s.scale * x[:, 1],
        }[parameters]()
        return s.out(x[:, 1]) + F.relu(x[:, 0, :1]) * extra

    model = Network(
        function, out=nn.Linear(4, 4), b=nn.Linear(12, 4), table=nn.Embedding(2, 4),
        scale=parameter(4),
    ).double()  # fmt: skip
    x = alive_after_the_first(7, 3)
    expected = by_jacobian(model, x)
    assert relative_error(trace_ntk(model, x, normalize=False), expected) < 1e-12
    assert relative_error(trace_ntk(model, x, normalize=False, only=["out"]), expected) > 1e-3
    y = points(5, 3, 4, seed=3).double()
    cross = trace_ntk(model, x, y, normalize=False)
    assert relative_error(cross, by_jacobian(model, x, y)) < 1e-12


def test_parameters_that_only_some_points_use_are_refused_or_right():
    def function(s, x):
        on = x[:, 0] > 0
        h = torch.zeros(len(x), 5, dtype=x.dtype)
        for part, layer in ((on, s.a), (~on, s.b)):
            if part.any():
                h = h.index_put((part.nonzero()[:, 0],), layer(x[part]))
        return s.out(h.tanh())

    layers = {"a": nn.Linear(4, 5), "b": nn.Linear(4, 5), "out": nn.Linear(5, 2)}
    model, x = Network(function, **layers).double(), points(9, 4)
    x[:, 0] = torch.tensor([1.0, -1.0, 1.0] * 3)
    assert relative_error(trace_ntk(model, x, normalize=False), by_jacobian(model, x)) < 1e-12
    x[[0, 1, -1], 0] = 1.0
    with pytest.raises(ValueError, match="another way for some points than for others"):
        trace_ntk(model, x)


def test_frequencies_do_not_scale_some_gradients_only():
    # Where torch scales gradients by how often a word occurs, plain gradients are scaled too.
    x = identifiers(8, 6, below=9)
    x[0], x[1], x[-1] = (torch.randperm(9)[:6] for _ in range(3))
    model = nn.Sequential(
        nn.Embedding(9, 4, scale_grad_by_freq=True), nn.Flatten(), nn.Tanh(), nn.Linear(24, 2)
    ).double()
    assert relative_error(trace_ntk(model, x, normalize=False), by_jacobian(model, x)) < 1e-12


def test_columns_may_have_another_size():
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)
    ).double()
    x, y = points(4, 1, 8, 8), points(3, 1, 6, 6)
    cross = trace_ntk(model, x, y, normalize=False)
    assert relative_error(cross, by_jacobian(model, x, y)) < 1e-12


# -- properties --------------------------------------------------------------------------------


def convolutional():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2),
        nn.ReLU(), nn.Flatten(), nn.Linear(64, 5),
    )  # fmt: skip


PROPER = {
    "images": lambda: (convolutional(), points(12, 2, 8, 8)),
    "tokens": lambda: (sequence_first(), points(12, 3, 4)),
    "words": lambda: (language(padding_idx=0), identifiers(12, 5, below=9)),
}


@pytest.mark.parametrize("name", PROPER)
def test_order_and_number_of_points_do_not_matter(name):
    model, x = PROPER[name]()
    model = model.double()
    kernel = trace_ntk(model, x, normalize=False)
    np.testing.assert_array_equal(kernel, kernel.T)
    assert np.linalg.eigvalsh(kernel)[0] > -1e-12 * np.trace(kernel)
    np.testing.assert_allclose(np.diag(trace_ntk(model, x)), 1.0, rtol=1e-15)
    order = np.random.default_rng(0).permutation(len(x))
    atol = 1e-13 * kernel.max()
    np.testing.assert_allclose(
        trace_ntk(model, x[order], normalize=False), kernel[np.ix_(order, order)], atol=atol
    )
    cross = trace_ntk(model, x[:5], x[5:], normalize=False)
    np.testing.assert_allclose(cross, kernel[:5, 5:], atol=atol)


@pytest.mark.parametrize("name", PROPER)
def test_heads_at_once_and_memory_do_not_matter(name, monkeypatch):
    model, x = PROPER[name]()
    model = model.double()
    kernel, cross = trace_ntk(model, x), trace_ntk(model, x[:4], x[4:])
    for at_once in (1, 2):
        monkeypatch.setattr(tangent.Plan, "at_once", lambda *_, at_once=at_once: at_once)
        np.testing.assert_allclose(trace_ntk(model, x), kernel, atol=1e-13)
        np.testing.assert_allclose(trace_ntk(model, x[:4], x[4:]), cross, atol=1e-13)
    # Two blocks of as many points as fit; 12 = 5 + 5 + 2.
    for room in (2, 4, 10):
        monkeypatch.setattr(functions.Memory, "side", lambda *_, room=room: room // 2)
        monkeypatch.setattr(functions.Memory, "for_points", lambda *_: -1)  # never all of them
        if room == 2 and name == "tokens":
            continue  # see test_one_point_alone
        np.testing.assert_allclose(trace_ntk(model, x), kernel, atol=1e-13)
        np.testing.assert_allclose(trace_ntk(model, x[:4], x[4:]), cross, atol=1e-13)


@pytest.mark.parametrize("late", [True, False])
def test_both_forms_of_a_matrix_give_the_same(late, monkeypatch):
    model, x = PROPER["images"]()
    model, kernel = model.double(), None
    original = tangent.group_of

    def forced(*args, **options):
        group = original(*args, **options)
        if isinstance(group, tangent.Outer):
            object.__setattr__(group, "late", late)
        return group

    expected, across = by_jacobian(model, x), by_jacobian(model, x[:5], x[5:])
    monkeypatch.setattr(tangent, "group_of", forced)
    kernel = trace_ntk(model, x, normalize=False)
    assert relative_error(kernel, expected) < 1e-12
    cross = trace_ntk(model, x[:5], x[5:], normalize=False, memory_mb=1)
    assert relative_error(cross, across) < 1e-12
    # Small tiles take other ways through the same sums.
    monkeypatch.setattr(tangent, "_fit", lambda *_: 3)
    assert relative_error(trace_ntk(model, x, normalize=False), expected) < 1e-12


def test_layers_may_have_precisions_of_their_own():
    torch.manual_seed(0)
    model = Network(
        lambda s, x: s.out(s.b(s.a(x).tanh().double()).tanh().float().flatten(1)),
        a=nn.Conv2d(2, 3, 3), b=nn.Conv2d(3, 4, 3).double(), out=nn.Linear(64, 2),
    )  # fmt: skip
    x = points(9, 2, 8, 8).float()
    rows = []
    for c in range(2):
        each = [torch.autograd.grad(model(one[None])[0, c], model.parameters()) for one in x]
        rows.append(torch.stack([torch.cat([g.double().flatten() for g in row]) for row in each]))
    expected = sum(row @ row.T for row in rows)
    # In single precision where the layers are.
    found = trace_ntk(model, x, normalize=False)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * float(expected.max()))


def test_classes_in_another_order_give_the_same():
    model, x = PROPER["images"]()
    model, order = model.double(), torch.tensor([3, 0, 4, 1, 2])
    kernels = trace_ntk(model, x), pseudo_ntk(model, x)
    last = model[-1]
    last.weight.data, last.bias.data = last.weight.data[order], last.bias.data[order]
    for function, kernel in zip((trace_ntk, pseudo_ntk), kernels, strict=True):
        np.testing.assert_allclose(function(model, x), kernel, rtol=1e-12)


def test_a_layer_for_each_class_is_seen():
    model = Network(
        lambda s, x: torch.cat([head(s.a(x).tanh()) for head in s.heads], dim=1),
        a=nn.Linear(4, 6), heads=nn.ModuleList(nn.Linear(6, 1) for _ in range(5)),
    ).double()  # fmt: skip
    assert relative_error(trace_ntk(model, X, normalize=False), by_jacobian(model, X)) < 1e-12


@pytest.mark.parametrize("name", PROPER)
def test_pseudo_ntk_is_of_the_gradient_of_the_sum(name):
    model, x = PROPER[name]()
    model = model.double()
    summed = jacobian(model, x).sum(1)
    expected = (summed @ summed.T).numpy()
    assert relative_error(pseudo_ntk(model, x, normalize=False), expected) < 1e-12
    size = np.sqrt(np.diag(expected))
    np.testing.assert_allclose(pseudo_ntk(model, x), expected / np.outer(size, size), atol=1e-12)
    one = nn.Sequential(model, nn.Linear(3 if name != "images" else 5, 1).double())
    np.testing.assert_array_equal(pseudo_ntk(one, x), trace_ntk(one, x))


@pytest.mark.parametrize("function", [trace_ntk, pseudo_ntk])
def test_kernels_of_parts_of_the_parameters_add_up(function):
    model, x = PROPER["images"]()
    model = model.double()
    whole = function(model, x, normalize=False)
    parts = [["0"], ["1.weight", "3"], ["1.bias"], ["6.weight", "6.bias"]]
    kernels = [function(model, x, normalize=False, only=part) for part in parts]
    np.testing.assert_allclose(sum(kernels), whole, rtol=1e-11, atol=1e-12 * whole.max())
    # Of the last layer C (⟨h, h'⟩ + 1), for the sum of the logits too.
    last = model.eval()[:-1](x.double()).detach()
    np.testing.assert_allclose(kernels[-1], 5 * (last @ last.T + 1).numpy(), rtol=1e-12)
    with pytest.raises(ValueError, match=r"only: '7' names no trainable parameter; there are 0\."):
        function(model, x, only=["0", "7"])
    model[0].weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"only: '0\.weight' names no trainable parameter"):
        function(model, x, only=["0.weight"])


def test_the_mode_of_the_model_does_not_matter_and_comes_back():
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.ReLU(), nn.Flatten(),
        nn.Linear(108, 3),
    )  # fmt: skip
    model(3 * IMAGES + 1)
    for function in (trace_ntk, pseudo_ntk, conjugate_kernel, embedding_kernel):
        kernel = function(model.train(), IMAGES)
        assert all(module.training for module in model.modules())
        np.testing.assert_array_equal(kernel, function(model.eval(), IMAGES))
        assert not any(module.training for module in model.modules())


# -- conjugate and embedding kernels -----------------------------------------------------------


def outputs_by_hand(model, x):
    """What each layer of a sequence makes of the points."""
    rows, h = [], x
    for layer in model:
        h = layer(h)
        rows.append(h.flatten(1))
    return rows


@torch.no_grad()
def test_conjugate_and_embedding_kernels_by_hand():
    model, x = PROPER["images"]()
    relu = model[2]
    model[4] = relu  # one instance in two places
    model, x = model.double().eval(), x.double()
    rows = outputs_by_hand(model, x)
    expected = sum(r @ r.T for r in rows).numpy()
    assert relative_error(embedding_kernel(model, x, normalize=False), expected) < 1e-13
    once = expected - (rows[4] @ rows[4].T).numpy()
    assert relative_error(expected, once) > 1e-3
    features = (rows[5] @ rows[5].T).numpy()
    assert relative_error(conjugate_kernel(model, x, normalize=False), features) < 1e-13
    for kernel, function in ((expected, embedding_kernel), (features, conjugate_kernel)):
        size = np.sqrt(np.diag(kernel))
        np.testing.assert_allclose(function(model, x), kernel / np.outer(size, size), rtol=1e-12)
        np.testing.assert_allclose(
            function(model, x[:5], x[5:], normalize=False), kernel[:5, 5:], rtol=1e-12
        )


@torch.no_grad()
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6])
def test_embedding_kernel_of_tokens_before_points(n):
    # 3 tokens and 5 positions: as many as there are points, or a multiple of them.
    def function(s, x):
        h = s.words(x) + s.places(torch.arange(x.shape[1]))
        h = s.act(s.a(h.transpose(0, 1)))
        return s.out(h.sum(0))

    model = Network(
        function, words=nn.Embedding(9, 4), places=nn.Embedding(6, 4), a=nn.Linear(4, 6),
        act=nn.Tanh(), out=nn.Linear(6, 2),
    ).double()  # fmt: skip
    for s in (3, 6):
        x = identifiers(n, s, below=9)
        words = model.words.weight[x]
        places = model.places.weight[:s].expand(n, -1, -1)
        a = (words + places) @ model.a.weight.T + model.a.bias
        logits = a.tanh().sum(1) @ model.out.weight.T + model.out.bias
        rows = [r.flatten(1) for r in (words, places, a, a.tanh(), logits)]
        expected = sum(r @ r.T for r in rows).numpy()
        assert relative_error(embedding_kernel(model, x, normalize=False), expected) < 1e-13


@torch.no_grad()
def test_embedding_kernel_where_a_batch_does_not_show_its_points():
    # Sorted points, and points in a loop: layers see them in another order, or apart.
    def ordered(s, x):
        order = x[:, 0].argsort()
        return s.out(s.a(x[order]).tanh()[order.argsort()])

    def apart(s, x):
        return s.out(torch.stack([s.a(point).tanh() for point in x]))

    a, out = nn.Linear(4, 5).double(), nn.Linear(5, 2).double()
    x = X.double()
    h = a(x)
    expected = (h @ h.T + out(h.tanh()) @ out(h.tanh()).T).numpy()
    for function in (ordered, apart):
        kernel = embedding_kernel(Network(function, a=a, out=out), x, normalize=False)
        assert relative_error(kernel, expected) < 1e-13

    def routed(s, x):
        on = x[:, 0] > 0
        return (
            torch.zeros(len(x), 2)
            .double()
            .index_put(
                (torch.cat([on.nonzero()[:, 0], (~on).nonzero()[:, 0]]),),
                torch.cat(
                    [layer(x[part]) for part, layer in ((on, s.a), (~on, s.b)) if part.any()]
                ),
            )
        )

    model = Network(routed, a=nn.Linear(4, 2).double(), b=nn.Linear(4, 2).double())
    with pytest.raises(ValueError, match="it calls other modules for some points than for others"):
        embedding_kernel(model, x)


def test_classes_are_not_taken_for_points():
    # The layer called last reads as many classes as there are points.
    model = Network(
        lambda s, x: s.image(x).tanh() @ s.text(s.names).T,
        image=nn.Linear(4, 3), text=nn.Linear(5, 3), names=parameter(N, 5),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"last linear layer reads \(7, 5\).*no one feature vec"):
        conjugate_kernel(model.double(), X)


# -- projections -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("exact", "projected"), [(trace_ntk, projected_trace_ntk), (pseudo_ntk, projected_pseudo_ntk)]
)
def test_projected_kernels_are_right_on_average(exact, projected):
    model, x, seeds, dim = mlp(4, 12, 8, 3).double(), points(4, 4), 200, 32
    expected = exact(model, x, normalize=False)
    kernels = np.stack(
        [projected(model, x, dim=dim, seed=seed, normalize=False) for seed in range(seeds)]
    )
    error = kernels.std(axis=0, ddof=1) / math.sqrt(seeds)
    # 10 different entries: 4 standard errors are passed by chance once in 1,600 times.
    assert (np.abs(kernels.mean(axis=0) - expected) < 4 * error).all()
    assert len(np.unique(kernels[:, 0, 1])) == seeds  # each seed is another projection
    # Var Σ_c⟨z_c, z'_c⟩ ≤ Σ_cd (⟨g_c, g_d⟩⟨g'_c, g'_d⟩ + ⟨g_c, g'_d⟩⟨g_d, g'_c⟩)/K.
    g = jacobian(model, x)
    g = g if exact is trace_ntk else g.sum(1, keepdim=True)
    inner = torch.einsum("icp,jdp->icjd", g, g)
    first = torch.einsum("icid,jcjd->ij", inner, inner)
    bound = ((first + torch.einsum("icjd,idjc->ij", inner, inner)) / dim).numpy()
    # A variance from 200 has a relative error of √(2/199) = 10 %, more with heavy tails.
    ratio = kernels.var(axis=0, ddof=1) / bound
    assert ratio.max() < 1.6
    assert ratio.mean() > 0.3  # the bound is not far from what happens


def test_the_error_of_projections_falls_with_the_root_of_their_length():
    model, x = mlp(32, 160, 160, 3).double(), points(10, 32)
    expected = pseudo_ntk(model, x)
    above = np.triu_indices(10, 1)
    dims, errors = [2**k for k in range(6, 13)], []
    for dim in dims:
        squares = [
            np.square((projected_pseudo_ntk(model, x, dim=dim, seed=seed) - expected)[above]).mean()
            for seed in range(8)
        ]
        errors.append(np.sqrt(np.mean(squares)))
    slope = np.polyfit(np.log(dims), np.log(errors), 1)[0]
    # 8 seeds leave some 10 % in each error, so 0.1/(ln 2 · √28) = 0.03 in the slope; coordinates of
    # one run of K never meet, which takes 0.01 off at K = 4096 of 31,000. Three times the first.
    assert abs(slope + 0.5) < 0.1
    assert errors[-1] < 0.05


@pytest.mark.parametrize("parts", [[1000], [300, 7, 693], [40] * 25])
def test_sketches_keep_to_the_bound_on_their_variance(parts):
    generator = np.random.default_rng(0)
    # Vectors of a few large coordinates, and ones that share them.
    g = generator.standard_t(3, size=(2, 1000))
    g[1] += 0.5 * g[0]
    vectors, dim, found = torch.from_numpy(g), 50, []
    for seed in range(400):
        sketch, target = Sketch(dim, seed), torch.zeros(2, dim, dtype=torch.float64)
        for i, part in enumerate(vectors.split(parts, dim=1)):
            sketch.add(target, f"layer {i}", part)
        found.append(float(target[0] @ target[1]))
    exact = g[0] @ g[1]
    bound = ((g[0] @ g[0]) * (g[1] @ g[1]) + exact**2) / dim
    assert abs(np.mean(found) - exact) < 4 * np.std(found) / math.sqrt(400)
    # √(2/399) = 7 %; a product of two coordinates has heavier tails than a normal one.
    assert 0.5 < np.var(found) / bound < 1.3


@pytest.mark.parametrize("into", [Sketch(7, 1), Layout({"other": 3, "table": 50})])
def test_few_coordinates_are_added_as_all_are(into):
    generator = np.random.default_rng(0)
    index = torch.from_numpy(generator.integers(0, 50, size=(4, 12)))  # some of them twice
    picked = Picked(index, torch.from_numpy(generator.normal(size=(4, 12))), 50)
    few, all_of_them = torch.zeros(2, 4, into.dim, dtype=torch.float64)
    into.add(few, "table", picked)
    into.add(all_of_them, "table", picked.dense())
    torch.testing.assert_close(few, all_of_them, rtol=1e-13, atol=1e-14)


def test_projections_are_the_same_for_a_seed_and_fit_together():
    model, x = PROPER["images"]()
    model = model.double()
    options = {"dim": 100, "seed": 3, "normalize": False}
    kernel = projected_trace_ntk(model, x, **options)
    np.testing.assert_array_equal(projected_trace_ntk(model, x, **options), kernel)
    assert relative_error(projected_trace_ntk(model, x, **options | {"seed": 4}), kernel) > 1e-2
    cross = projected_trace_ntk(model, x[:5], x[5:], **options)
    np.testing.assert_allclose(cross, kernel[:5, 5:], rtol=1e-10, atol=1e-12 * kernel.max())
    # Other points, other blocks: the same projection.
    alone = projected_trace_ntk(model, x[3:9], **options, memory_mb=3)
    np.testing.assert_allclose(alone, kernel[3:9, 3:9], rtol=1e-10, atol=1e-12 * kernel.max())
    np.testing.assert_array_equal(kernel, kernel.T)
    assert np.linalg.eigvalsh(kernel)[0] > -1e-12 * np.trace(kernel)


@pytest.mark.parametrize(("dim", "seed", "message"), [(0, 0, "dim: "), (10, -1, "seed: -1 is neg")])
def test_projections_that_there_are_not_are_refused(dim, seed, message):
    with pytest.raises(ValueError, match=message):
        projected_trace_ntk(mlp(4, 3, 2), X, dim=dim, seed=seed)


# -- lower precision ---------------------------------------------------------------------------


def test_bfloat16_errs_within_its_rounding_and_says_so(caplog):
    model, x = mlp(20, 40, 40, 5), points(30, 20)
    exact, across = trace_ntk(model, x), trace_ntk(model, x[:9], x[9:])
    with caplog.at_level(logging.INFO, logger="model_metrology.kernels"):
        kernel = trace_ntk(model, x, precision="bfloat16")
        cross = trace_ntk(model, x[:9], x[9:], precision="bfloat16")
    # A product of matrices rounds both operands and the result, 2^-9 each; an entry is the product
    # of two such (inputs and gradients), so 6 · 2^-9 of the norms, by Cauchy and Schwarz. A cosine
    # also divides by the roots of two diagonals.
    unit = 2.0**-9
    assert 0 < np.abs(kernel - exact).max() < 12 * unit
    assert 0 < np.abs(cross - across).max() < 6 * unit
    np.testing.assert_array_equal(kernel, kernel.T)
    np.testing.assert_allclose(np.diag(kernel), 1.0, rtol=1e-15)
    said = [r for r in caplog.records if "largest error" in r.getMessage()]
    assert len(said) == 2 and "trace kernel in bfloat16" in said[0].getMessage()
    shown = float(said[0].getMessage().split("largest error ")[1].split(" of")[0])
    assert shown == pytest.approx(np.abs(kernel - exact).max(), rel=0.1)  # two digits


# -- what goes wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize("function", [trace_ntk, pseudo_ntk, projected_trace_ntk])
def test_a_gradient_that_is_not_finite_is_named(function):
    model = Network(lambda s, x: (s.a(x) * x[:, :1]).abs().sqrt(), a=nn.Linear(4, 2))
    x = points(6, 4)
    function(model, x)
    x[4] = 0.0  # the root's slope is infinite
    remedy = "gradient is not finite; check the point and the weights"
    for normalize in (True, False):
        with pytest.raises(ValueError, match=rf"x\[4\]: its (projected )?{remedy}"):
            function(model, x, normalize=normalize)
        with pytest.raises(ValueError, match=rf"y\[2\]: its (projected )?{remedy}"):
            function(model, x[:4], x[2:], normalize=normalize)


@pytest.mark.parametrize(
    "function", [trace_ntk, projected_trace_ntk, conjugate_kernel, embedding_kernel]
)
def test_weights_that_are_not_finite_are_named(function):
    model = mlp(4, 5, 2)
    model[0].weight.data[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"x\[0\]: its outputs are not finite; check the point"):
        function(model, X)


@pytest.mark.parametrize(
    "function", [trace_ntk, projected_trace_ntk, conjugate_kernel, embedding_kernel]
)
def test_statistics_of_the_batch_are_refused(function):
    model, x = images(nn.BatchNorm2d(2, track_running_stats=False), 128)
    with pytest.raises(ValueError, match="batch normalisation needs its running statistics"):
        function(model, x)


def test_points_without_a_direction_are_named():
    model = nn.Sequential(nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Linear(5, 2, bias=False))
    x = points(6, 4)
    x[3] = 0.0
    for function in (trace_ntk, pseudo_ntk, projected_trace_ntk):
        with pytest.raises(ValueError, match=r"x\[3\]: its .*gradient is zero; leave it out, or"):
            function(model, x)
        assert not function(model, x, normalize=False)[3].any()
    with pytest.raises(ValueError, match=r"x\[3\]: its embedding is zero; leave it out, or set"):
        embedding_kernel(model, x)


@pytest.mark.parametrize(
    "function", [pseudo_ntk, projected_trace_ntk, conjugate_kernel, embedding_kernel]
)
def test_too_little_memory_is_refused(function):
    with pytest.raises(ValueError, match=r"memory_mb: 1e-05 is too small.*give at least 0\."):
        function(mlp(4, 50, 2), X, memory_mb=1e-5)


# -- what was wrong once ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "build", [sequence_first, lambda: attend(True, False)[0].double()], ids=["tokens", "points"]
)
def test_one_point_alone(build):
    model, x = build(), points(8, 3, 4)
    whole = trace_ntk(model, x, normalize=False)
    np.testing.assert_allclose(
        trace_ntk(model, x, x[:1], normalize=False), whole[:, :1], rtol=1e-11
    )
    np.testing.assert_allclose(trace_ntk(model, x[:1], x, normalize=False), whole[:1], rtol=1e-11)


@pytest.mark.parametrize("n", [3, 5])
def test_points_that_are_all_the_same(n):
    model, x = sequence_first(), points(1, 3, 4).repeat(n, 1, 1)
    kernel = trace_ntk(model, x, normalize=False)
    assert relative_error(kernel, by_jacobian(model, x)) < 1e-12


def test_gradients_that_nearly_vanish_where_forms_are_tried():
    def function(s, x):
        gate = torch.sigmoid(20 * x[:, 0, :1])
        second = s.w(x.transpose(0, 1)).tanh().sum(0)
        return s.a(s.v(x).tanh().sum(1)) + gate * s.b(second)

    model = Network(
        function, v=nn.Linear(4, 6), w=nn.Linear(4, 6), a=nn.Linear(6, 2), b=nn.Linear(6, 2)
    ).double()
    x = alive_after_the_first(9, 9)
    x[[0, 1, -1], 0, 0] = -1.0
    assert relative_error(trace_ntk(model, x, normalize=False), by_jacobian(model, x)) < 1e-10


def test_points_that_a_model_sorts():
    def function(s, x):
        order = x[:, 0].argsort(descending=True)
        return s.out(s.a(x[order]).tanh()[order.argsort()])

    model = Network(function, a=nn.Linear(4, 5), out=nn.Linear(5, 2)).double()
    x = points(9, 4)
    x[0, 0], x[1, 0], x[-1, 0] = 5.0, 4.0, -9.0
    try:
        kernel = trace_ntk(model, x, normalize=False)
    except ValueError:
        return  # as good
    assert relative_error(kernel, by_jacobian(model, x)) < 1e-12


def test_tokens_that_a_model_sends_to_a_layer():
    def function(s, x):
        flat = x.reshape(-1, 4)
        on = flat[:, 0] > 0
        h = torch.zeros(len(flat), 5, dtype=x.dtype)
        h = h.index_put((on.nonzero()[:, 0],), s.a(flat[on]))
        return s.out(h.tanh().unflatten(0, x.shape[:2]).sum(1))

    model = Network(function, a=nn.Linear(4, 5), out=nn.Linear(5, 2)).double()
    x = points(8, 4, 4)
    x[..., 0] = x[..., 0].abs()
    for point, count in ((2, 2), (3, 4), (4, 2)):  # 24 tokens are left: three a point on average
        x[point, :count, 0] *= -1
    try:
        kernel = trace_ntk(model, x, normalize=False)
    except ValueError:
        return  # as good
    assert relative_error(kernel, by_jacobian(model, x)) < 1e-12


def test_a_projection_does_not_depend_on_the_points_that_come_first():
    model = mlp(4, 16, 8, 3, activation=nn.ReLU).double()
    model[0].bias.data.fill_(-2.0)
    x = 3 * points(12, 4)
    x[[0, 1, -1]] *= 1e-3  # dead in the first layer
    assert slow_parameters(model, x) == ("0.weight", "0.bias")
    assert slow_parameters(model, x[2:-1]) == ()
    options = {"dim": 32, "normalize": False}
    whole = projected_trace_ntk(model, x, **options)
    part = projected_trace_ntk(model, x[2:-1], **options)
    np.testing.assert_allclose(whole[2:-1, 2:-1], part, rtol=1e-10)


def test_rows_and_columns_of_other_lengths():
    def function(s, x):
        x = x[:, : (x != 0).sum(1).max()]
        return s.out((s.a(s.words(x)).tanh() * (x != 0)[..., None]).sum(1))

    words = nn.Embedding(9, 4, padding_idx=0)
    model = Network(function, words=words, a=nn.Linear(4, 5), out=nn.Linear(5, 2)).double()
    x = 1 + identifiers(12, 6, below=8)
    for i in range(12):
        x[i, 1 + i // 2 :] = 0
    cross = trace_ntk(model, x[:4], x[4:], normalize=False)
    assert relative_error(cross, by_jacobian(model, x[:4], x[4:])) < 1e-12


def test_points_may_be_single_numbers():
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 2)).double()
    x = torch.tensor([0, 3, 3, 5, 6])
    assert relative_error(trace_ntk(model, x, normalize=False), by_jacobian(model, x)) < 1e-12


def test_statistics_of_the_batch_are_refused_for_vectors_too():
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=False))
    with pytest.raises(ValueError, match="batch normalisation needs its running statistics"):
        trace_ntk(model, X)


def test_nothing_chosen_is_refused():
    with pytest.raises(ValueError, match="only: "):
        trace_ntk(mlp(4, 3, 2), X, only=[])


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precision: "):
        trace_ntk(mlp(4, 3, 2), X, precision="float8")


def test_one_name_may_be_given_as_it_is():
    model = Network(
        lambda s, x: s.out(s.first(x).tanh()), first=nn.Linear(4, 3), out=nn.Linear(3, 2)
    )
    np.testing.assert_array_equal(
        trace_ntk(model, X, only="first"), trace_ntk(model, X, only=["first"])
    )


def test_points_made_in_inference_mode():
    with torch.inference_mode():
        x = X.clone()
    np.testing.assert_array_equal(trace_ntk(mlp(4, 3, 2), x).shape, (N, N))


def test_sparse_tables():
    model = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Flatten(), nn.Linear(20, 2)).double()
    x = identifiers(N, 5, below=9)
    kernel = trace_ntk(model, x, normalize=False)
    model[0].sparse = False
    assert relative_error(kernel, by_jacobian(model, x)) < 1e-12


def test_a_lower_precision_inside_the_model():
    def function(s, x):
        with torch.autocast("cpu", torch.bfloat16):
            h = s.a(x)
        return s.out(h.to(x.dtype).tanh())

    model, x = Network(function, a=nn.Linear(4, 5), out=nn.Linear(5, 2)), X
    kernel = trace_ntk(model, x, normalize=False)
    # bfloat16 rounds to 2^-9, a few times in a row.
    assert relative_error(kernel, by_jacobian(model, x)) < 5 * 2.0**-9
