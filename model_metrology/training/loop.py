"""The training loop: one for runs alone and runs together, resumed from checkpoints."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from model_metrology import store
from model_metrology.data.datasets import Dataset
from model_metrology.models import CounterDropout, build_model, dropout_key
from model_metrology.recipes import Population, Recipe
from model_metrology.runs import COMPLETED, DIVERGED, TrainedRun
from model_metrology.seeds import Streams
from model_metrology.training.data import Epoch, Points, noisy_labels
from model_metrology.training.stack import Stack

logger = logging.getLogger(__name__)

_EVALUATION_BATCH = 500
_HISTORY = ("epoch", "loss", "accuracy", "learning_rate", "seconds")

# Stacks on a CPU, from single-thread timings of MLPs: networks up to 1 MB of parameters gain, the
# smaller the more (1.3 times at 0.4 MB, 4 times at 50 kB); larger ones fill a core by themselves,
# and stacks of more than 16 MB gain no more.
_CPU_STACK_BYTES = 16_000_000
_CPU_ALONE_BYTES = 1_000_000


def train_runs(
    population: Population,
    dataset: Dataset,
    streams: Sequence[Streams],
    *,
    device: torch.device,
    features: dict[str, NDArray[np.float32]] | None = None,
    checkpoint: Path | None = None,
    fingerprint: str = "",
) -> list[TrainedRun]:
    """Train runs of one population.

    Parameters
    ----------
    population : Population
        Architecture, recipe, label noise, and whether to stack.
    dataset : Dataset
        Training and test points.
    streams : sequence of Streams
        The random streams of each run to train.
    device : torch.device
        Where to train.
    features : dict, optional
        Features of a frozen network (see :func:`extract_features`), for
        ``recipe.trainable: head``.
    checkpoint : Path, optional
        File to which the state goes every ``recipe.checkpoint_epochs`` epochs, and from which
        training goes on if it is there and belongs to this very training.
    fingerprint : str
        What the checkpoint must belong to.

    Returns
    -------
    list of TrainedRun
        In the order of `streams`. A run whose loss is not finite is marked ``diverged``.

    Raises
    ------
    ValueError
        If recipe and architecture do not fit the dataset.

    Notes
    -----
    A run depends on its streams alone, not on the runs it shares a process with: on one machine,
    a run trained alone or resumed is the same bit for bit. Stacked, sums are taken in another
    order, and runs agree with those trained alone to rounding that training amplifies.
    """
    recipe = population.recipe
    if (recipe.trainable == "head") != (features is not None):
        raise ValueError("features belong to recipe.trainable: head, and only to it")
    if recipe.batch_size > len(dataset.train_labels):
        raise ValueError(
            f"recipe.batch_size: {recipe.batch_size} is more than the "
            f"{len(dataset.train_labels)} training points of {dataset.name}"
        )
    points = Points.from_dataset(
        dataset, device, features, pretrained=population.architecture.pretrained
    )
    fingerprint = f"{fingerprint} {_data_digest(dataset)}"
    done, current = _resume(checkpoint, fingerprint, streams)
    missing = [s for s in streams if s.run not in done]
    size = _stack_size(population, points, missing, device)
    for start in range(0, len(missing), size):
        group = missing[start : start + size]
        training = _Training(population, points, group, device)
        if current is not None and current["runs"].tolist() == [s.run for s in group]:
            training.restore(current)
        for state in training.epochs():
            if checkpoint is not None and state is not None:
                _save(checkpoint, fingerprint, done, state)
        done |= {run.run: run for run in training.results()}
        if checkpoint is not None and recipe.checkpoint_epochs and start + size < len(missing):
            _save(checkpoint, fingerprint, done, None)
    return [done[s.run] for s in streams]


def _data_digest(dataset: Dataset) -> str:
    """Which points of which dataset: a checkpoint must not go on with others."""
    digest = hashlib.sha256(dataset.name.encode())
    for array in (dataset.train_index, dataset.train_labels, dataset.test_index):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def _network(population: Population, points: Points, streams: Streams) -> nn.Module:
    seed = streams.seed("init")
    if population.recipe.trainable == "all":
        return build_model(
            population.architecture,
            image_shape=tuple(points.train.shape[1:]),  # type: ignore[arg-type]
            classes=points.classes,
            seed=seed,
        )
    outputs = 1 if population.architecture.outputs == "one" else points.classes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(points.train.shape[1], outputs)
    return nn.Sequential(CounterDropout(population.architecture.dropout, 0), head)


def _stack_size(
    population: Population, points: Points, streams: Sequence[Streams], device: torch.device
) -> int:
    """How many runs to train as one stack."""
    if population.stacked == "no" or len(streams) < 2:
        return 1
    if population.stacked == "yes" or device.type == "cuda":
        return len(streams)
    network = _network(population, points, streams[0])
    # On CPUs a stack of convolutions is a grouped convolution, slower than one after another.
    if any(isinstance(module, nn.Conv2d) for module in network.modules()):
        return 1
    size = 4 * sum(p.numel() for p in network.parameters())
    if size > _CPU_ALONE_BYTES:
        return 1
    return max(1, min(len(streams), _CPU_STACK_BYTES // size))


class _Training:
    """One group of k runs on its way."""

    def __init__(
        self,
        population: Population,
        points: Points,
        streams: Sequence[Streams],
        device: torch.device,
    ) -> None:
        self.recipe, self.points, self.streams = population.recipe, points, streams
        self.device = device
        self.stack = Stack(
            [_network(population, points, s) for s in streams],
            device,
            centred=population.architecture.centred,
        )
        labels = [
            noisy_labels(points.train_labels, points.classes, population.label_noise, s)
            for s in streams
        ]
        self.labels = torch.from_numpy(np.stack(labels)).to(device)
        self.optimiser = _optimiser(self.recipe, list(self.stack.parameters.values()))
        self.dropout_seeds = [s.seed("dropout") for s in streams]
        self.history: list[NDArray[np.float64]] = []
        self.messages = [""] * len(streams)

    def epochs(self) -> Iterator[dict[str, Any] | None]:
        """Train epoch by epoch; yield the state where a checkpoint is due, else None."""
        recipe = self.recipe
        for epoch in range(len(self.history), recipe.epochs):
            self._epoch(epoch)
            if all(self.messages):
                return
            due = recipe.checkpoint_epochs and (epoch + 1) % recipe.checkpoint_epochs == 0
            yield self.state() if due and epoch + 1 < recipe.epochs else None

    def _epoch(self, epoch: int) -> None:
        started = time.perf_counter()
        drawn = Epoch.draw(
            epoch, self.streams, self.points.train.shape, self.recipe.augmentation, self.device
        )
        steps = math.ceil(len(self.points.train) / self.recipe.batch_size)
        runs = torch.arange(len(self.streams), device=self.device)[:, None]
        loss_sum = torch.zeros(len(self.streams), dtype=torch.float64, device=self.device)
        hits, seen = torch.zeros_like(loss_sum), 0
        batches = drawn.batches(self.points.train, self.recipe.batch_size)
        for step, (inputs, index) in enumerate(batches, start=epoch * steps):
            rate = learning_rate(self.recipe, step, steps)
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            self.stack.set_dropout([dropout_key(seed, step) for seed in self.dropout_seeds])
            labels = self.labels[runs, index]
            with self._precision():
                logits = self.stack(inputs, training=True).float()
            losses = loss_of(self.recipe.loss, logits, labels)
            self.optimiser.zero_grad()
            # Each run's loss touches its own parameters only: the sum's gradient is each one's.
            losses.sum().backward()
            self.optimiser.step()
            with torch.no_grad():
                loss_sum += losses.detach() * index.shape[1]
                hits += (predicted(logits) == labels).sum(dim=1)
                seen += index.shape[1]
        self._record(epoch, rate, loss_sum / seen, hits / seen, time.perf_counter() - started)

    def _precision(self) -> Any:
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bfloat16"
        )

    def _record(
        self, epoch: int, rate: float, loss: Tensor, accuracy: Tensor, seconds: float
    ) -> None:
        columns = [np.full(len(self.streams), value) for value in (epoch + 1, rate, seconds)]
        row = np.stack([columns[0], loss.cpu().numpy(), accuracy.cpu().numpy(), *columns[1:]])
        self.history.append(row)
        speed = len(self.points.train) * len(self.streams) / seconds
        for i, stream in enumerate(self.streams):
            if self.messages[i]:
                continue
            logger.info(
                "run %04d · epoch %d/%d · loss %.4f · accuracy %.4f · rate %.2g · %.0f images/s",
                stream.run, epoch + 1, self.recipe.epochs, row[1, i], row[2, i], rate, speed,
            )  # fmt: skip
            if not np.isfinite(row[1, i]):
                self._stop(i, f"the loss was {row[1, i]} in epoch {epoch + 1}")

    def _stop(self, i: int, reason: str) -> None:
        self.messages[i] = f"{reason} at a learning rate of {self.recipe.learning_rate:g}"
        logger.warning("run %04d stopped: %s", self.streams[i].run, self.messages[i])

    @torch.no_grad()
    def outputs(self) -> NDArray[np.float32]:
        """Logits (k, n, C) on the test points."""
        parts = []
        for chunk in self.points.test.split(_EVALUATION_BATCH):
            inputs = chunk.expand(len(self.streams), *chunk.shape)
            parts.append(self.stack(inputs, training=False).float().cpu())
        return torch.cat(parts, dim=1).numpy()

    def results(self) -> list[TrainedRun]:
        """Return the trained runs."""
        outputs, history = self.outputs(), np.stack(self.history)
        trained = []
        for i, stream in enumerate(self.streams):
            # The last step comes after the last loss.
            if not self.messages[i] and not np.isfinite(outputs[i]).all():
                self._stop(i, "outputs were not finite after the last step")
            bad = np.flatnonzero(~np.isfinite(history[:, 1, i]))
            last = bad[0] + 1 if len(bad) else len(history)
            columns = dict(zip(_HISTORY, history[:last, :, i].T, strict=True))
            trained.append(
                TrainedRun(
                    run=stream.run,
                    status=DIVERGED if self.messages[i] else COMPLETED,
                    message=self.messages[i],
                    weights=self.stack.state(i),
                    test_outputs=outputs[i],
                    history=columns | {"epoch": columns["epoch"].astype(np.int64)},
                )
            )
        return trained

    def state(self) -> dict[str, Any]:
        """Everything that training goes on from."""
        names = list(self.stack.parameters)
        moments = self.optimiser.state_dict()["state"]
        return {
            "runs": np.array([s.run for s in self.streams]),
            "parameters": _arrays(self.stack.parameters),
            "buffers": _arrays(self.stack.buffers),
            "optimiser": {
                names[i]: _arrays({k: v for k, v in values.items() if v is not None})
                for i, values in moments.items()
            },
            "history": np.stack(self.history),
            "messages": np.array(self.messages),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` returned."""
        self.stack.load(state["parameters"], state.get("buffers", {}))
        whole = self.optimiser.state_dict()
        whole["state"] = {
            i: {k: torch.from_numpy(np.asarray(v)) for k, v in state["optimiser"][name].items()}
            for i, name in enumerate(self.stack.parameters)
            if name in state.get("optimiser", {})
        }
        self.optimiser.load_state_dict(whole)
        for parameter, moments in self.optimiser.state.items():
            for name, value in moments.items():
                # Fused optimisers walk memory, so moments must lie as their parameter does.
                if torch.is_tensor(value) and value.shape == parameter.shape:
                    moments[name] = torch.empty_like(parameter).copy_(value)
        self.history = list(state["history"])
        self.messages = [str(message) for message in state["messages"]]
        logger.info(
            "runs %s go on from their checkpoint after epoch %d",
            ", ".join(f"{s.run:04d}" for s in self.streams),
            len(self.history),
        )


def _arrays(tensors: dict[str, Tensor]) -> dict[str, NDArray[np.generic]]:
    return {name: value.detach().cpu().numpy() for name, value in tensors.items()}


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Step size at a step, counted from 0 over the whole of training."""
    warmup = recipe.warmup_epochs * steps_per_epoch
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    share = (step - warmup) / max(recipe.epochs * steps_per_epoch - warmup, 1)
    if recipe.schedule == "cosine":
        return recipe.learning_rate * 0.5 * (1.0 + math.cos(math.pi * share))
    if recipe.schedule == "step":
        return float(recipe.learning_rate * 0.1 ** ((share >= 0.5) + (share >= 0.75)))
    return recipe.learning_rate


def loss_of(name: str, logits: Tensor, labels: Tensor) -> Tensor:
    """Mean loss of each run, (k,), from logits (k, B, C) and labels (k, B)."""
    runs, batch, classes = logits.shape
    if classes == 1:
        target = labels.to(logits.dtype)
        if name == "mse":
            return (logits[..., 0].sigmoid() - target).square().mean(dim=1)
        return F.binary_cross_entropy_with_logits(logits[..., 0], target, reduction="none").mean(
            dim=1
        )
    if name == "mse":
        target = F.one_hot(labels, classes).to(logits.dtype)
        return (logits.softmax(dim=-1) - target).square().sum(dim=-1).mean(dim=1)
    flat = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return flat.view(runs, batch).mean(dim=1)


def predicted(logits: Tensor) -> Tensor:
    """Predicted classes (k, B) from logits (k, B, C)."""
    return (logits[..., 0] > 0).long() if logits.shape[-1] == 1 else logits.argmax(dim=-1)


def _optimiser(recipe: Recipe, parameters: list[Tensor]) -> torch.optim.Optimizer:
    # Fused: one kernel for all parameters, where Python's overhead would dominate small networks.
    options: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(parameters, momentum=recipe.momentum, fused=True, **options)
    kind = torch.optim.Adam if recipe.optimiser == "adam" else torch.optim.AdamW
    return kind(parameters, fused=True, **options)


def _save(
    path: Path, fingerprint: str, done: dict[int, TrainedRun], current: dict[str, Any] | None
) -> None:
    tree: dict[str, Any] = {"done": {f"{n:04d}": vars(run) for n, run in done.items()}}
    if current is not None:
        tree["current"] = current
    store.write(path, tree, kind="checkpoint", attrs={"fingerprint": fingerprint})


def _resume(
    path: Path | None, fingerprint: str, streams: Sequence[Streams]
) -> tuple[dict[int, TrainedRun], dict[str, Any] | None]:
    """Finished runs and the state of unfinished ones, if the checkpoint is there and ours."""
    if path is None or not path.exists():
        return {}, None
    try:
        tree, attrs = store.read(path, kind="checkpoint")
    except store.StoreError as error:
        logger.warning("checkpoint ignored: %s", error)
        return {}, None
    if attrs["fingerprint"] != fingerprint:
        logger.info("checkpoint %s is of another study, recipe or code; ignored", path)
        return {}, None
    wanted = {s.run for s in streams}
    done = {
        int(number): TrainedRun(
            **saved
            | {"run": int(number), "status": str(saved["status"]), "message": str(saved["message"])}
        )
        for number, saved in tree.get("done", {}).items()
        if int(number) in wanted
    }
    if done:
        logger.info("runs %s are in the checkpoint", ", ".join(f"{n:04d}" for n in sorted(done)))
    return done, tree.get("current")
