"""What surrogates are made of: a network, and the points whose kernel is taken."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model_metrology.data.datasets import Dataset, stratified_subset
from model_metrology.data.poison import add_trigger
from model_metrology.data.recipes import Poison
from model_metrology.models.architectures import build_model
from model_metrology.models.foreign import foreign_dataset, load_foreign
from model_metrology.models.language import SequenceClassifier, TokenPoints
from model_metrology.models.loading import load_network
from model_metrology.recipes import Population
from model_metrology.runs import TrainedRun
from model_metrology.surrogates.recipes import ForeignInstrument
from model_metrology.training.data import normalised_images

__all__ = ["Chosen", "Subject", "choose_points", "foreign_subject", "language_subject",
           "population_subject"]  # fmt: skip

logger = logging.getLogger(__name__)

Indices = NDArray[np.int64]

_BATCH = 250


@dataclass(frozen=True)
class Chosen:
    """Points of a dataset, by their positions in it.

    Attributes
    ----------
    train, test : ndarray of int, shapes (N,) and (n,)
        Positions in the dataset's training and test points.
    triggered : ndarray of int, shape (t,)
        Positions of the test points that are shown once more, with a trigger.
    """

    train: Indices
    test: Indices
    triggered: Indices


@dataclass(frozen=True)
class Subject:
    """A network and its points.

    Attributes
    ----------
    model : Module
        Whose gradients are taken; on the CPU, in evaluation mode.
    initial : Module or None
        What is subtracted from its outputs: the network at initialisation, of a centred one.
    train, test : Tensor, shapes (N, …) and (n + t, …)
        Points; triggered ones are the last of the test points.
    train_labels, test_labels : ndarray of int, shapes (N,) and (n + t,)
        Labels that it was trained on; true labels of the test points.
    poisoned : ndarray of bool, shape (N,)
        Which training points carry a trigger.
    chosen : Chosen
        Which points these are.
    classes : tuple of str
        Names of the classes.
    """

    model: nn.Module
    initial: nn.Module | None
    train: Tensor
    test: Tensor
    train_labels: Indices
    test_labels: Indices
    poisoned: NDArray[np.bool_]
    chosen: Chosen
    classes: tuple[str, ...]

    @torch.no_grad()
    def logits(self, points: Tensor, device: torch.device) -> NDArray[np.float64]:
        """Logits (n, C) of points."""
        parts = []
        for chunk in points.split(_BATCH):
            inputs = chunk.to(device)
            outputs = self.model.to(device)(inputs)
            if self.initial is not None:
                outputs = outputs - self.initial.to(device)(inputs)
            parts.append(outputs.double().cpu())
        return torch.cat(parts).numpy()


def choose_points(
    train_labels: Indices,
    test_labels: Indices,
    *,
    train: int | None,
    test: int | None,
    triggered: int = 0,
    target: int = 0,
    seed: int = 0,
) -> Chosen:
    """Choose stratified subsets of a dataset's points, the same for all networks.

    Parameters
    ----------
    train_labels, test_labels : ndarray of int
        Of all points of the dataset.
    train, test : int, optional
        How many to take; all when absent.
    triggered, target : int
        How many of the test points not of the target class are shown with a trigger.
    seed : int
        Of the choice.
    """
    parts = [
        np.arange(len(labels)) if size is None or size >= len(labels)
        else stratified_subset(labels, size, np.random.default_rng([seed, part]))
        for part, (labels, size) in enumerate(((train_labels, train), (test_labels, test)))
    ]  # fmt: skip
    others = parts[1][test_labels[parts[1]] != target]
    some = np.random.default_rng([seed, 2]).permutation(len(others))[:triggered]
    return Chosen(parts[0], parts[1], others[np.sort(some)])


def population_subject(
    population: Population,
    run: TrainedRun,
    dataset: Dataset,
    chosen: Chosen,
    poison: Poison | None = None,
    *,
    seed: int = 0,
) -> Subject:
    """A trained run on points of its dataset.

    Parameters
    ----------
    population, run
        What was trained.
    dataset : Dataset
        What it was trained on.
    chosen : Chosen
        Points of the dataset.
    poison : Poison, optional
        How the dataset was poisoned, for the trigger on test points.
    seed : int
        Of the trigger's pattern: that of the dataset.
    """
    shape, classes = dataset.train_images.shape[1:], len(dataset.classes)
    model = load_network(population, run, image_shape=shape, classes=classes)
    initial = _initial(population, run, shape, classes)
    pretrained = population.architecture.pretrained
    return _images(model, initial, dataset, chosen, poison, seed, pretrained=pretrained)


def _initial(
    population: Population, run: TrainedRun, shape: tuple[int, int, int], classes: int
) -> nn.Module | None:
    if not population.architecture.centred:
        return None
    network = build_model(population.architecture, image_shape=shape, classes=classes, seed=0)
    # Buffers at initialisation (of batch normalisation) do not depend on the seed and are not kept.
    state = {
        name: torch.from_numpy(np.array(run.weights.get(f"initial.{name}", value.numpy())))
        for name, value in network.state_dict().items()
    }
    network.load_state_dict(state)
    return network.eval()


def foreign_subject(
    options: ForeignInstrument, dataset: Dataset, chosen: Chosen, root: str
) -> Subject:
    """A network that comes from elsewhere, on points of a dataset."""
    fitted = foreign_dataset(options, dataset)
    shape = dataset.train_images.shape[1:]
    model = load_foreign(options, root=root, image_shape=shape, classes=len(dataset.classes))
    return _images(model, None, fitted, chosen, None, 0, pretrained=False)


def _images(
    model: nn.Module,
    initial: nn.Module | None,
    dataset: Dataset,
    chosen: Chosen,
    poison: Poison | None,
    seed: int,
    *,
    pretrained: bool,
) -> Subject:
    images = dataset.test_images[chosen.test]
    if poison is None:
        chosen = replace(chosen, triggered=chosen.triggered[:0])
    else:
        if not dataset.poisoned[chosen.train].any():
            logger.warning(
                "%s: none of the %d training points that were chosen is one of the %d that are "
                "poisoned, so nothing is looked for; take more in surrogates.train (null: all)",
                *(dataset.name, len(chosen.train), dataset.poisoned.sum()),
            )
        shown = add_trigger(dataset.test_images[chosen.triggered], poison, seed=seed)
        images = np.concatenate([images, shown])
    both = (dataset.train_images[chosen.train], images)
    train, test = (
        normalised_images(part, dataset, torch.device("cpu"), pretrained=pretrained)
        for part in both
    )
    return Subject(
        model=model,
        initial=initial,
        train=train,
        test=test,
        train_labels=dataset.train_labels[chosen.train],
        test_labels=dataset.test_labels[np.concatenate([chosen.test, chosen.triggered])],
        poisoned=dataset.poisoned[chosen.train],
        chosen=chosen,
        classes=dataset.classes,
    )


def language_subject(module: SequenceClassifier, points: TokenPoints, chosen: Chosen) -> Subject:
    """A fine-tuned language model on sentences."""
    none = replace(chosen, triggered=chosen.triggered[:0])
    return Subject(
        model=module,
        initial=None,
        train=torch.from_numpy(points.train_tokens[chosen.train]),
        test=torch.from_numpy(points.test_tokens[chosen.test]),
        train_labels=points.train_labels[chosen.train],
        test_labels=points.test_labels[chosen.test],
        poisoned=np.zeros(len(chosen.train), bool),
        chosen=none,
        classes=points.classes,
    )
