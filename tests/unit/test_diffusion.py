"""The diffusion model: its process against closed forms, training that learns and resumes."""

import logging
import math

import h5py
import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn

from model_metrology import store
from model_metrology.embeddings.recipes import Generator
from model_metrology.models import diffusion
from model_metrology.models.diffusion import (
    Denoiser,
    ddim,
    diffuse,
    draw_images,
    image_of,
    noise_of,
    train_generator,
    velocity,
    velocity_loss,
)
from model_metrology.models.unet import UNet

TIMES = torch.linspace(0.02, 1, 9)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def options(**kwargs):
    return Generator(**{"dataset": "d", "width": 8, "steps": 6, "batch_size": 4} | kwargs)


def noise_like(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def some_images(number=6, channels=3, side=8, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (number, channels, side, side), dtype=np.uint8)


def same(a, b):
    states = a.state_dict(), b.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


# -- the process ---------------------------------------------------------------------------------


@pytest.mark.parametrize("time", [0.0, 0.3, 0.9, 1.0])
def test_mixtures_have_the_mean_and_variance_of_the_schedule(time):
    image = torch.full((1, 1, 1, 1), 0.7)
    mixed = diffuse(image, noise_like(200_000, 1, 1, 1), torch.tensor(time))
    signal = math.cos(math.pi * time / 2)
    assert mixed.mean().item() == pytest.approx(0.7 * signal, abs=0.01)
    assert mixed.var().item() == pytest.approx(1 - signal**2, abs=0.015)


def test_image_noise_and_velocity_are_found_from_each_other():
    images, noise = noise_like(9, 3, 4, 4), noise_like(9, 3, 4, 4, seed=1)
    mixed, v = diffuse(images, noise, TIMES), velocity(images, noise, TIMES)
    torch.testing.assert_close(image_of(mixed, v, TIMES), images, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(noise_of(mixed, images, TIMES), noise, atol=1e-4, rtol=1e-4)
    # The velocity is the mixture's, per radian of the schedule's angle.
    step = 1e-4
    ahead, behind = (diffuse(images.double(), noise.double(), TIMES + d) for d in (step, -step))
    slope = (ahead - behind) / (2 * step) / (math.pi / 2)
    torch.testing.assert_close(slope.float(), v, atol=1e-2, rtol=1e-2)


def gaussian(mean, deviation):
    """The velocity that is expected of N(mean, deviation²), in closed form."""

    def network(mixed, time):
        angle = (time * math.pi / 2).reshape(-1, 1, 1, 1)
        alpha, sigma = angle.cos(), angle.sin()
        gain = alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2)
        image = mean + gain * (mixed - alpha * mean)
        return (alpha * mixed - image) / sigma

    return network


@pytest.mark.parametrize(("mean", "deviation"), [(0.4, 0.2), (-0.3, 1.0), (1.0, 2.0)])
def test_ddim_carries_noise_to_a_gaussian(mean, deviation):
    noise = noise_like(20_000, 1, 1, 1)
    drawn = ddim(gaussian(mean, deviation), noise, 400, bound=None)
    assert drawn.mean().item() == pytest.approx(mean, abs=0.03 * deviation)
    assert drawn.std().item() == pytest.approx(deviation, rel=0.03)
    # In the limit of many steps the map is x = mean + deviation · noise.
    torch.testing.assert_close(drawn, mean + deviation * noise, atol=0.05, rtol=0.05)


def test_ddim_keeps_images_within_bounds():
    drawn = ddim(gaussian(0.8, 1.0), noise_like(500, 1, 2, 2), 10)
    assert drawn.abs().max() <= 1
    assert (drawn == 1).any()


def test_the_loss_of_the_best_network_is_the_variance_that_is_left():
    time = torch.full((100_000,), 0.5)
    images = 0.4 + 0.2 * noise_like(100_000, 1, 1, 1)
    loss = velocity_loss(gaussian(0.4, 0.2), images, noise_like(100_000, 1, 1, 1, seed=1), time)
    # Var(x | z) / σ², as v = (α z - x) / σ.
    left = 0.04 * 0.5 / (0.04 * 0.5 + 0.5)
    assert loss.item() == pytest.approx(left / 0.5, rel=0.03)


# -- the network ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channels", "side", "levels"), [(1, 4, 1), (1, 8, 1), (1, 28, 2), (3, 32, 3), (3, 64, 4)]
)
def test_networks_take_images_of_any_side_that_four_divides(channels, side, levels):
    network = UNet(channels, side, 8)
    assert len(network.down) == len(network.up) == levels
    images = noise_like(2, channels, side, side)
    velocities = network(images, torch.tensor([0.1, 0.9]))
    assert velocities.shape == images.shape
    assert not velocities.any()  # it starts at 0, the mean of what it learns


def test_the_output_depends_on_the_time_and_on_every_pixel():
    torch.manual_seed(0)
    network = UNet(1, 8, 8)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    image = noise_like(1, 1, 8, 8).requires_grad_()
    early, late = (network(image, torch.tensor([time])) for time in (0.2, 0.8))
    assert (early - late).abs().max() > 1e-3
    early[0, 0, 0, 0].backward()
    assert (image.grad != 0).all()


def waves_of(images):
    """Gaussian images whose waves have variances that fall with frequency, and their moments."""
    rng = np.random.default_rng(3)
    frequency = np.hypot(*np.meshgrid(range(8), range(8)))
    spectrum = np.array([1.0, 0.3, 0.1])[:, None, None] * 0.5 / (1 + frequency) ** 2
    waves = rng.normal(size=(images, 3, 8, 8)) * np.sqrt(spectrum)
    mean = 0.2 * np.sin(np.arange(8)) * np.ones((3, 8, 8))
    return mean + idctn(waves, axes=(1, 2, 3), norm="ortho"), mean, spectrum


def test_before_training_a_denoiser_is_the_best_guess_for_a_gaussian_field():
    images, mean, spectrum = waves_of(4000)
    assert np.abs(images).max() < 2
    pixels = np.rint((images / 2 + 1) * 127.5)  # half the contrast, so that none is cut
    model = Denoiser(pixels.astype(np.uint8), 8)
    mean, spectrum = mean / 2, spectrum / 4
    np.testing.assert_allclose(model.mean, mean, atol=0.02)
    np.testing.assert_allclose(model.spectrum, spectrum, rtol=0.15)
    points = torch.from_numpy(images[:1000] / 2).float()
    with torch.no_grad():
        for time in (0.05, 0.5, 0.95):
            loss = velocity_loss(
                model, points, noise_like(1000, 3, 8, 8), torch.full((1000,), time)
            )
            signal, spread = np.cos(np.pi * time / 2) ** 2, np.sin(np.pi * time / 2) ** 2
            best = np.mean(spectrum / (signal * spectrum + spread))
            assert loss.item() == pytest.approx(best, rel=0.03)
        drawn = ddim(model, noise_like(1000, 3, 8, 8), 60, bound=None).numpy()
    np.testing.assert_allclose(drawn.mean(axis=0), mean, atol=0.03)
    found = dctn(drawn - drawn.mean(axis=0), axes=(1, 2, 3), norm="ortho").var(axis=0)
    np.testing.assert_allclose(found, spectrum, rtol=0.25)


def test_a_pixel_that_never_varies_is_no_fault():
    images = some_images(side=8)
    images[:] = images[:1]
    model = Denoiser(images, 8)
    velocities = model(noise_like(3, 3, 8, 8), torch.tensor([0.0, 1e-4, 1.0]))
    assert torch.isfinite(velocities).all()


# -- training ------------------------------------------------------------------------------------


def test_training_learns_two_images_and_draws_them(caplog):
    rows = np.arange(8)
    stripes, halves = np.zeros((2, 8, 8), np.uint8)
    stripes[rows % 4 < 2], halves[:, rows < 4] = 230, 230
    images = np.stack([stripes, halves])[:, None]
    recipe = options(width=16, steps=500, batch_size=32, learning_rate=3e-3)
    with caplog.at_level(logging.INFO):
        model = train_generator(recipe, images, seed=1)
    assert "step 500/500 · loss" in caplog.text and "images/s" in caplog.text

    points = torch.from_numpy(np.repeat(images, 100, axis=0)) / 127.5 - 1
    noise, time = noise_like(200, 1, 8, 8), torch.linspace(0, 1, 200)
    with torch.no_grad():
        loss = velocity_loss(model, points, noise, time).item()
        # As good as a network can be that knows the mean of the two images alone.
        mean = points.mean(dim=0)
        spread = (points - mean).square().mean().item()
        angle = (time * math.pi / 2).numpy()
        known = np.mean(spread / (np.sin(angle) ** 2 + spread * np.cos(angle) ** 2))
    assert loss < 0.3 * known

    drawn = draw_images(model, 40, steps=25, seed=2)
    assert drawn.shape == (40, 1, 8, 8) and drawn.dtype == np.uint8
    errors = np.abs(drawn[:, None].astype(float) - images[None]).mean(axis=(2, 3, 4))
    assert np.median(errors.min(axis=1)) < 12  # of 255
    assert set(errors.argmin(axis=1)) == {0, 1}  # both are drawn


def test_the_same_seed_gives_the_same_images_and_another_others():
    models = [train_generator(options(), some_images(), seed=seed) for seed in (1, 1, 2)]
    assert same(models[0], models[1]) and not same(models[0], models[2])
    drawn = [draw_images(models[0], 3, steps=3, seed=seed) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()


def test_training_leaves_the_callers_random_numbers_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train_generator(options(steps=1), some_images(), seed=0)
    assert torch.equal(torch.rand(3), expected)


def test_the_average_weighs_late_steps_as_it_says(monkeypatch):
    kept = []
    original = diffusion._Training.step

    def keeps(self):
        loss = original(self)
        kept.append(self.network.learned.stem.weight.detach().clone())
        return loss

    monkeypatch.setattr(diffusion._Training, "step", keeps)
    model = train_generator(options(steps=40), some_images(), seed=0)
    edges = (np.arange(41) / 40) ** 7.94
    expected = sum(weight * w for weight, w in zip(np.diff(edges), kept, strict=True))
    torch.testing.assert_close(model.learned.stem.weight, expected.float(), atol=1e-6, rtol=1e-5)


def test_the_step_size_rises_and_falls_to_nothing():
    recipe = options(steps=1000, learning_rate=0.5)
    rates = [diffusion._learning_rate(recipe, step) for step in range(1000)]
    top = int(np.argmax(rates))
    assert top == 49 and rates[top] == pytest.approx(0.5, rel=0.01)
    assert rates[0] == pytest.approx(0.01) and rates[-1] < 1e-5
    assert (np.diff(rates[:top]) > 0).all() and (np.diff(rates[top:]) < 0).all()
    assert diffusion._learning_rate(options(steps=1), 0) > 0


# -- checkpoints ---------------------------------------------------------------------------------


class _Killed(Exception):
    pass


def dies_before(step):
    original = diffusion._Training.step

    def dies(self):
        if self.done == step:
            raise _Killed
        return original(self)

    return dies


def test_a_killed_training_resumes_bit_for_bit(tmp_path, monkeypatch, caplog):
    images, path = some_images(side=16), tmp_path / "c.h5"
    undisturbed = train_generator(options(), images, seed=3)
    monkeypatch.setattr(diffusion, "_REPORT_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(diffusion._Training, "step", dies_before(4))
        with pytest.raises(_Killed):
            train_generator(options(), images, seed=3, checkpoint=path)
    with caplog.at_level(logging.INFO):
        resumed = train_generator(options(), images, seed=3, checkpoint=path)
    assert "goes on from its checkpoint after step 4" in caplog.text
    assert same(undisturbed, resumed)
    np.testing.assert_array_equal(
        *(draw_images(model, 2, steps=2, seed=0) for model in (undisturbed, resumed))
    )


def test_a_finished_training_is_not_done_again(tmp_path, monkeypatch):
    images, path = some_images(), tmp_path / "c.h5"
    trained = train_generator(options(), images, seed=3, checkpoint=path)
    monkeypatch.setattr(diffusion._Training, "step", dies_before(6))
    # More images to draw, or in another number of steps, are drawn from the same model.
    recipe = options(images=7, sampling_steps=9)
    assert same(trained, train_generator(recipe, images, seed=3, checkpoint=path))


def test_checkpoints_of_other_trainings_and_broken_ones_are_ignored(tmp_path, caplog):
    images, path = some_images(), tmp_path / "c.h5"
    expected = train_generator(options(), images, seed=3, checkpoint=path)
    store.read(path, kind="checkpoint")
    others = [
        {"options": options(learning_rate=0.1)},
        {"images": some_images(seed=1)},
        {"seed": 4},
        {"fingerprint": "other code"},
    ]
    for other in others:
        arguments = {"options": options(), "images": images, "seed": 3} | other
        caplog.clear()
        with caplog.at_level(logging.INFO):
            train_generator(**arguments, checkpoint=path)
        assert "is of another training; ignored" in caplog.text
    with h5py.File(path, "w") as file:
        file.attrs["kind"] = "checkpoint"
    assert same(expected, train_generator(options(), images, seed=3, checkpoint=path))
    assert "checkpoint ignored" in caplog.text


# -- faults --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((4, 3, 8, 12), np.uint8),
        np.zeros((4, 3, 10, 10), np.uint8),
        np.zeros((4, 3, 0, 0), np.uint8),
        np.zeros((1, 3, 8, 8), np.uint8),
        np.full((4, 3, 8, 8), np.nan, np.float32),
        np.zeros((4, 8, 8), np.uint8),
        np.zeros((4, 8, 8, 3), np.uint8),
    ],
    ids=["oblong", "side", "empty", "one", "nan", "flat", "channels-last"],
)
def test_wrong_images_are_refused(images):
    with pytest.raises(ValueError, match=r"images: .* give at least two, uint8 of shape"):
        train_generator(options(), images, seed=0)


def test_a_step_size_that_is_too_large_is_named():
    with pytest.raises(ValueError, match=r"learning_rate: the generator's loss .* lower it"):
        train_generator(options(learning_rate=1e30, steps=20), some_images(), seed=0)
