"""Training of two-layer networks of linear width, many at once.

Runs of one shape and recipe are one stack of matrices, and a step is three batched products. The
gradient is written out: autograd would take memory for what a formula gives, and time. The rules
that turn gradients into steps are torch's own optimisers; they work element by element, so a
stack is trained as each of its networks would be.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model_metrology.runs import COMPLETED, DIVERGED
from model_metrology.seeds import Streams
from model_metrology.spectra.activations import Activation, activation
from model_metrology.spectra.recipes import Teacher, WidthPopulation, WidthRecipe
from model_metrology.spectra.runs import TeacherData, WidthRun

logger = logging.getLogger(__name__)

Array = NDArray[np.float32]

_TEST_POINTS = 2_000
# Losses are taken at some sixty steps, evenly spread over the logarithm: each costs a forward
# pass over all points, which would double the price of small batches.
_HISTORY = 60
_DIVERGED = 2.0
"""A run ends as diverged if its loss exceeds this many times what it began with."""
# Stacks beyond this fill the caches, and gain no more.
_STACK_BYTES = 64_000_000


def draw_data(teacher: Teacher, streams: Streams) -> TeacherData:
    """Draw the points of a run.

    Parameters
    ----------
    teacher : Teacher
        Sizes, link, scale and noise.
    streams : Streams
        The stream ``data`` is used. Directions come first: runs of one dimension and stream
        have them in common.

    Returns
    -------
    TeacherData
    """
    d, k = teacher.dimension, teacher.directions
    gaussian = streams.generator("data", 0).standard_normal((d, k))
    q, r = np.linalg.qr(gaussian)
    # LAPACK fixes signs its own way; with those of r the directions are uniform.
    directions = (q * np.sign(np.diag(r))).T
    test_points = min(teacher.points, _TEST_POINTS)
    (x, y), (test_x, test_y) = (
        _points(teacher, size, directions, streams.generator("data", part))
        for part, size in enumerate((teacher.points, test_points), start=1)
    )
    return TeacherData(x, y, test_x, test_y, directions.astype(np.float32))


def _points(
    teacher: Teacher, size: int, directions: NDArray[np.float64], generator: np.random.Generator
) -> tuple[Array, Array]:
    """Inputs (size, d) and their labels (size,)."""
    x = generator.standard_normal((size, teacher.dimension), dtype=np.float32)
    link = activation(teacher.link)
    signal = link(torch.from_numpy(x @ directions.T)).sum(dim=1).numpy()
    signal /= math.sqrt(teacher.directions)
    norm = np.square(x, dtype=np.float64).sum(axis=1) / teacher.dimension
    noise = teacher.noise * generator.standard_normal(size)
    y = teacher.label_scale * (signal + teacher.norm_term * norm + noise)
    return x, y.astype(np.float32)


def initial_weights(population: WidthPopulation, streams: Streams) -> tuple[Array, Array]:
    """W (h, d) and v (h,) of a run at initialisation; the stream ``init`` is used."""
    h, d = population.width, population.data.dimension
    generator = streams.generator("init")
    signs = np.where(generator.random(h) < 0.5, -1.0, 1.0)
    return generator.standard_normal((h, d), dtype=np.float32), signs.astype(np.float32)


def train_width_runs(
    populations: Sequence[WidthPopulation],
    streams: Sequence[Streams],
    *,
    device: torch.device,
) -> Iterator[WidthRun]:
    """Train two-layer networks, those of one shape and recipe together.

    Parameters
    ----------
    populations : sequence of WidthPopulation
        What each run is; runs that differ in the teacher's link, directions, scale and noise alone
        are trained as one stack.
    streams : sequence of Streams
        The random streams of each run.
    device : torch.device
        Where to train.

    Yields
    ------
    WidthRun
        Stack by stack. A run whose loss is not finite, or ends at more than twice
        what it was at first, is marked ``diverged``.
    """
    stacks: dict[tuple[object, ...], list[tuple[WidthPopulation, Streams]]] = {}
    for population, stream in zip(populations, streams, strict=True):
        stacks.setdefault(_shape(population), []).append((population, stream))
    done = 0
    for members in stacks.values():
        size = _stack_size(members[0][0], device)
        for start in range(0, len(members), size):
            stack = _Stack(members[start : start + size], device)
            stack.train()
            yield from stack.results()
            done += len(stack.members)
            data, recipe = stack.population.data, stack.population.recipe
            logger.info(
                "%d of %d networks · n %d, d %d, h %d · %s, step size %g · mean loss %.4g",
                done, len(streams), data.points, data.dimension, stack.population.width,
                recipe.optimiser, recipe.learning_rate, stack.last.mean(),
            )  # fmt: skip


def _shape(population: WidthPopulation) -> tuple[object, ...]:
    """What runs of one stack have in common."""
    data = population.data
    return (
        data.points, data.dimension, population.network, population.width,
        population.recipe, tuple(population.recorded),
    )  # fmt: skip


def _stack_size(population: WidthPopulation, device: torch.device) -> int:
    if device.type == "cuda":
        return 256
    n, d, h = population.data.points, population.data.dimension, population.width
    return max(1, _STACK_BYTES // (4 * (2 * n * d + 3 * n * h + 3 * h * d)))


class _Stack:
    """k runs of one shape and recipe on their way."""

    def __init__(
        self, members: Sequence[tuple[WidthPopulation, Streams]], device: torch.device
    ) -> None:
        self.members = members
        self.population = members[0][0]
        self.device = device
        self.phi: Activation = activation(self.population.network.activation)
        drawn = [draw_data(population.data, streams) for population, streams in members]
        self.x, self.y, self.test_x, self.test_y = (
            torch.from_numpy(np.stack([getattr(data, name) for data in drawn])).to(device)
            for name in ("inputs", "labels", "test_inputs", "test_labels")
        )
        start = [initial_weights(population, streams) for population, streams in members]
        self.w, self.v = (
            torch.from_numpy(np.stack(part)).to(device) for part in zip(*start, strict=True)
        )
        self.both = self.population.network.trained == "both"
        self.kept: list[tuple[Array, Array]] = []
        self.history: list[NDArray[np.float64]] = []

    def train(self) -> None:
        """All steps; weights are kept where they are recorded."""
        recipe, recorded = self.population.recipe, set(self.population.recorded)
        optimiser = _optimiser(recipe, [self.w, self.v] if self.both else [self.w])
        looks = _history_steps(recipe.steps) | recorded
        for step, batch in enumerate(self._batches()):
            self._look(step, step in looks, step in recorded)
            self._gradient(batch)
            optimiser.step()
        self._look(recipe.steps, True, True)

    def _look(self, step: int, measure: bool, keep: bool) -> None:
        if keep:
            self.kept.append((self.w.cpu().numpy().copy(), self.v.cpu().numpy().copy()))
        if measure:
            losses = self._loss(self.x, self.y), self._loss(self.test_x, self.test_y)
            variance = self.test_y.double().var(dim=1, correction=0)
            r2 = 1.0 - 2.0 * losses[1] / variance
            row = torch.stack([torch.full_like(r2, step), *losses, r2])
            self.history.append(row.cpu().numpy())

    def _hidden(self, x: Tensor) -> Tensor:
        """W x/√d, shape (k, n, h)."""
        return torch.bmm(x, self.w.mT).div_(math.sqrt(x.shape[2]))

    def _residual(self, activated: Tensor, y: Tensor) -> Tensor:
        """f(x) − y, shape (k, n)."""
        output = torch.bmm(activated, self.v[:, :, None])[:, :, 0]
        return output / math.sqrt(self.v.shape[1]) - y

    def _loss(self, x: Tensor, y: Tensor) -> Tensor:
        """½ mean squared error, shape (k,), in float64."""
        residual = self._residual(self.phi(self._hidden(x)), y)
        return residual.double().square().mean(dim=1) / 2

    def _gradient(self, batch: Tensor | None) -> None:
        """Put the loss's gradients where optimisers look for them."""
        x, y = self.x, self.y
        if batch is not None:
            run = torch.arange(len(batch), device=self.device)[:, None]
            x, y = x[run, batch], y[run, batch]
        activated, slope = self.phi.with_slope(self._hidden(x))
        h, d = self.w.shape[1:]
        residual = self._residual(activated, y) / (y.shape[1] * math.sqrt(h))
        if self.both:
            self.v.grad = torch.bmm(residual[:, None, :], activated)[:, 0, :]
        slope.mul_(residual[:, :, None]).mul_(self.v[:, None, :]).div_(math.sqrt(d))
        self.w.grad = torch.bmm(slope.mT, x)

    def _batches(self) -> Iterator[Tensor | None]:
        """Indices (k, B) of each step's points, epochs of permutations; None stands for all.

        What is left of an epoch beyond its last whole batch is passed over, so that all steps are
        of one batch size.
        """
        recipe, n = self.population.recipe, self.population.data.points
        size = recipe.batch_size or n
        per_epoch = n // size
        for step in range(recipe.steps):
            if size == n:
                yield None
                continue
            epoch, place = divmod(step, per_epoch)
            if place == 0:
                orders = [s.generator("order", epoch).permutation(n) for _, s in self.members]
                order = torch.from_numpy(np.stack(orders)).to(self.device)
            yield order[:, place * size : (place + 1) * size]

    @property
    def last(self) -> NDArray[np.float64]:
        """Losses of the training points at the end, shape (k,)."""
        return self.history[-1][1]

    def results(self) -> Iterator[WidthRun]:
        """The trained runs."""
        history = np.stack(self.history)
        weights, readout = (np.stack(part, axis=1) for part in zip(*self.kept, strict=True))
        for kept in (weights, readout):
            kept[~np.isfinite(kept)] = np.nan
        for i, (population, streams) in enumerate(self.members):
            columns = dict(
                zip(("step", "loss", "test_loss", "test_r2"), history[:, :, i].T, strict=True)
            )
            message = _diverged(columns["loss"], columns["step"], population.recipe)
            if message:
                logger.warning("%s, run %d: %s", streams.population, streams.run, message)
            yield WidthRun(
                run=streams.run,
                status=DIVERGED if message else COMPLETED,
                message=message,
                steps=np.array(population.recorded),
                weights=weights[i],
                readout=readout[i],
                history=columns | {"step": columns["step"].astype(np.int64)},
            )


def _history_steps(steps: int) -> set[int]:
    spread = np.geomspace(1, max(steps, 1), _HISTORY)
    return {0, *(int(step) for step in np.round(spread))}


def _diverged(loss: NDArray[np.float64], step: NDArray[np.float64], recipe: WidthRecipe) -> str:
    """Why a run did not train; empty if it did."""
    bad = np.flatnonzero(~np.isfinite(loss))
    if len(bad):
        found = f"the loss was {loss[bad[0]]} after step {int(step[bad[0]])}"
    elif loss[-1] > _DIVERGED * loss[0]:
        found = f"the loss grew from {loss[0]:.3g} to {loss[-1]:.3g}"
    else:
        return ""
    return f"{found} at a learning rate of {recipe.learning_rate:g}"


def _optimiser(recipe: WidthRecipe, parameters: list[Tensor]) -> torch.optim.Optimizer:
    rate = recipe.learning_rate
    if recipe.optimiser == "adam":
        return torch.optim.Adam(parameters, lr=rate)
    if recipe.optimiser == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=rate)
    return torch.optim.SGD(parameters, lr=rate, momentum=recipe.momentum)
