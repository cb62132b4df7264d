"""Architectures: published sizes, parametrisations, and dropout that is a function."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.func import functional_call, stack_module_state

from model_metrology.models import (
    CounterDropout,
    build_model,
    dropout_key,
    dropout_layers,
    split_head,
)
from model_metrology.models.architectures import Scale
from model_metrology.recipes import Architecture

GREY, COLOUR = (1, 28, 28), (3, 32, 32)


def build(name, shape=COLOUR, classes=2, seed=0, **options):
    return build_model(
        Architecture(name=name, **options), image_shape=shape, classes=classes, seed=seed
    )


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("mlp", GREY, {}),
        ("mlp", GREY, {"parametrisation": "ntk", "outputs": "one"}),
        ("cnn", COLOUR, {"dropout": 0.1}),
        ("cnn-mnist2", GREY, {"outputs": "one"}),
        ("cnn-cifar2", COLOUR, {"outputs": "one"}),
        ("resnet18", COLOUR, {}),
        ("mobilenet_v2", COLOUR, {"image_size": 32}),
        ("mobilenet_v2", GREY, {}),
        ("vit-small", COLOUR, {"dropout": 0.1}),
    ],
)
def test_forward_gives_finite_logits(name, shape, options):
    network = build(name, shape, **options).eval()
    logits = network(torch.randn(3, *shape))
    assert logits.shape == (3, 1 if options.get("outputs") == "one" else 2)
    assert logits.isfinite().all()


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def test_parameter_counts():
    # 784-100-100-100-1, by hand.
    assert parameters(build("mlp", GREY, outputs="one")) == 78500 + 2 * 10100 + 101
    # conv 1>64>32>8, then 72-128-64-1 (Engel et al. 2024): 28/2/2/2 = 3, 8·3·3 = 72.
    convolutions = (9 + 1) * 64 + (9 * 64 + 1) * 32 + (9 * 32 + 1) * 8
    dense = (72 + 1) * 128 + (128 + 1) * 64 + 64 + 1
    assert parameters(build("cnn-mnist2", GREY, outputs="one")) == convolutions + dense
    # The CIFAR-10 ResNet-18 with 64 channels and a 3x3 stem is quoted with 11,173,962.
    assert parameters(build("resnet18", classes=10)) == 11_173_962
    assert parameters(build("resnet34", classes=10)) == 21_282_122
    # torchvision's documented 3,504,872 with 1,000 classes.
    assert parameters(build("mobilenet_v2", classes=1000)) == 3_504_872


@pytest.mark.slow
def test_vit_b_16_has_the_documented_size():
    assert parameters(build("vit_b_16", classes=1000)) == 86_567_656


def test_ntk_parametrisation_keeps_the_variance_of_outputs_at_any_width():
    # One hidden layer, |x|^2 = d: preactivations N(0, 2) (weights and bias), so the output has
    # variance E[relu(z)^2] + 1 = 2/2 + 1 = 2. 400 networks: relative sd of the variance is 7 %.
    x = torch.ones(1, 1, 8, 8)
    for width in (64, 512):
        outputs = [
            build("mlp", (1, 8, 8), seed=s, width=width, depth=1, parametrisation="ntk",
                  outputs="one")(x).item()
            for s in range(400)
        ]  # fmt: skip
        assert np.var(outputs) == pytest.approx(2.0, rel=0.25)


def test_initialisation_follows_the_seed_and_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    a, b, c = (build("cnn", seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    first = [next(iter(m.parameters())) for m in (a, b, c)]
    assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])


def test_split_head_reads_the_features():
    network = build("cnn").eval()
    x = torch.randn(4, *COLOUR)
    expected = network(x)
    body, head = split_head(network)
    torch.testing.assert_close(head(body(x)), expected)
    assert head.in_features == 64


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mlp", {"outputs": "one"}, "one logit needs two classes"),
        ("vit-small", {"width": 65}, "divisible"),
    ],
)
def test_what_does_not_fit_is_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, classes=3, **options)


def test_images_too_small_for_the_pools_are_named():
    with pytest.raises(ValueError, match="sides of at least 8"):
        build("cnn", (1, 4, 4))


# -- dropout -----------------------------------------------------------------------------------


def mask(key, layer=0, p=0.3, shape=(200, 100)):
    dropout = CounterDropout(p, layer)
    dropout.key.fill_(key)
    return (dropout(torch.ones(shape)) == 0).flatten()


def test_dropout_rate_and_scale():
    dropped = mask(dropout_key(1, 2))
    # 20,000 draws: the two-sided binomial test at 1e-3, the seed is fixed.
    assert stats.binomtest(int(dropped.sum()), dropped.numel(), 0.3).pvalue > 1e-3
    dropout = CounterDropout(0.3, 0)
    kept = dropout(torch.ones(1000)).unique()
    torch.testing.assert_close(kept, torch.tensor([0.0, 1 / 0.7]))


def test_masks_of_runs_steps_and_layers_are_independent():
    masks = [
        mask(dropout_key(seed, step), layer)
        for seed in (1, 2)
        for step in (0, 1)
        for layer in (0, 1)
    ]
    for i, a in enumerate(masks):
        for b in masks[:i]:
            both = int((a & b).sum())
            assert stats.binomtest(both, a.numel(), 0.09).pvalue > 1e-4


def test_neighbouring_elements_are_uncorrelated():
    dropped = mask(dropout_key(3, 4), p=0.5).double().numpy() - 0.5
    # Lag correlations of 20,000 fair bits have sd 1/sqrt(20000) = 0.007; five of them at 4 sd.
    for lag in (1, 2, 4, 64, 100):
        assert abs(np.mean(dropped[lag:] * dropped[:-lag]) * 4) < 0.03


def test_keys_spread_over_seeds_and_steps():
    keys = {dropout_key(seed, step) for seed in range(100) for step in range(100)}
    # 10^4 random 32-bit keys collide 0.01 times on average.
    assert len(keys) >= 9_999
    assert all(0 <= key < 2**32 for key in keys)
    assert dropout_key(2**40 + 7, 0) != dropout_key(7, 0)


def test_stacked_masks_are_those_of_each_network_alone():
    networks = [build("cnn", seed=s, dropout=0.5).train() for s in range(3)]
    names = dropout_layers(networks[0])
    for i, network in enumerate(networks):
        for name in names:
            network.get_buffer(name).fill_(dropout_key(i, 9))
    x = torch.randn(3, 4, *COLOUR)
    alone = torch.stack([network(x[i]) for i, network in enumerate(networks)])
    state = stack_module_state(networks)
    shape = build("cnn", dropout=0.5).train().to("meta")
    stacked = torch.vmap(lambda p, b, x: functional_call(shape, (p, b), (x,)))(*state, x)
    # The same masks; sums in another order.
    torch.testing.assert_close(stacked, alone, rtol=1e-4, atol=1e-5)


def test_attention_dropout_is_refused():
    from model_metrology.models.dropout import use_counter_dropout

    with pytest.raises(ValueError, match="attention dropout"):
        use_counter_dropout(torch.nn.TransformerEncoderLayer(8, 2, dropout=0.1))


def test_pretrained_weights_are_loaded_and_the_head_is_fresh(monkeypatch, tmp_path):
    from model_metrology.torchvision_compat import torchvision

    source = torchvision.models.mobilenet_v2(num_classes=1000)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    monkeypatch.setattr(
        "model_metrology.data.fetch.pretrained_weights", lambda name: tmp_path / "weights.pth"
    )
    network = build("mobilenet_v2", pretrained=True, dropout=0.4)
    assert torch.equal(network[1].features[0][0].weight, source.features[0][0].weight)
    assert network[1].classifier[1].out_features == 2
    assert [m.p for m in network.modules() if isinstance(m, CounterDropout)] == [0.4]
    assert math.isclose(network(torch.randn(2, 1, 32, 32)).isfinite().double().mean(), 1.0)


def test_width_parametrisation_divides_each_hidden_layer_by_the_root_of_its_own_width():
    network = build("mlp", (1, 4, 4), width=9, depth=2, parametrisation="width", outputs="one")
    x = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    hidden = x.flatten(1)
    linear = [m for m in network.modules() if isinstance(m, nn.Linear)]
    for layer in linear[:-1]:
        hidden = torch.relu(layer(hidden) / 3.0)  # the root of nine units
    torch.testing.assert_close(network.eval()(x), linear[-1](hidden))
    drawn = torch.cat([p.detach().flatten() for p in network.parameters()])
    # 253 numbers from N(0, 1): three standard errors of mean and variance.
    assert abs(drawn.mean()) < 3 / 253**0.5
    assert abs(drawn.var() - 1) < 3 * (2 / 253) ** 0.5


def test_width_parametrisation_of_a_convolution_counts_its_kernel():
    network = build("cnn-mnist2", (1, 8, 8), parametrisation="width", outputs="one")
    divisors = [m.divisor for m in network.modules() if isinstance(m, Scale)]
    assert divisors == pytest.approx([24, 288**0.5, 72**0.5, 128**0.5, 8])


def test_a_width_scaled_convolution_is_divided_whether_before_or_after_its_pool():
    network = build("cnn-cifar2", (3, 16, 16), parametrisation="width", outputs="one").eval()
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    hidden = x
    for i, layer in enumerate(convolutions):
        hidden = torch.relu(layer(hidden)) / math.sqrt(9 * layer.out_channels)
        hidden = nn.functional.max_pool2d(hidden, 2) if i % 2 else hidden
    rest = network[next(i for i, m in enumerate(network) if isinstance(m, nn.Flatten)) :]
    kinds = [type(module).__name__ for module in network]
    assert kinds[:7] == ["Conv2d", "ReLU", "Scale", "Conv2d", "ReLU", "MaxPool2d", "Scale"]
    # Division and maximum commute; only roundings differ.
    torch.testing.assert_close(network(x), rest(hidden), rtol=1e-5, atol=1e-5)
