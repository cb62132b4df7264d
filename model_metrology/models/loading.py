"""Networks of stored runs: as they were trained, as they began, and their weights as matrices."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from model_metrology.models.architectures import Shape, build_model
from model_metrology.models.dropout import CounterDropout
from model_metrology.recipes import Population
from model_metrology.runs import TrainedRun
from model_metrology.seeds import Streams

__all__ = ["initial_network", "load_network", "weight_matrices"]

# Under this prefix a centred network keeps its parameters at initialisation.
_INITIAL = "initial."


def load_network(
    population: Population, run: TrainedRun, *, image_shape: Shape, classes: int
) -> nn.Module:
    """Network of a stored run.

    Parameters
    ----------
    population : Population
        What the run is of.
    run : TrainedRun
        Its weights; parameters at initialisation (of centred networks) are left out.
    image_shape : tuple of int
        (C, H, W) of the images that it was trained on; not used for a head alone.
    classes : int
        Number of classes of its task.

    Returns
    -------
    Module
        In evaluation mode, on the CPU. It maps normalised images (batch, C, H, W) to logits
        (batch, classes or 1), before the outputs at initialisation are subtracted if the
        architecture is centred. Where only the head was trained (``recipe.trainable: head``) it
        is that head, which maps features (batch, features) to logits.

    Raises
    ------
    ValueError
        If the weights do not fit the architecture.

    Notes
    -----
    A pretrained architecture is built with its pretrained weights first, so they must be at hand.
    """
    state = {
        # A copy: stored arrays may be read-only.
        name: torch.from_numpy(np.array(values))
        for name, values in run.weights.items()
        if not name.startswith(_INITIAL)
    }
    features = None
    if population.recipe.trainable == "head":
        if "1.weight" not in state:
            raise ValueError(
                f"run {run.run}: {population.architecture.name} has the weights of a whole network "
                "where those of a head are expected; is recipe.trainable that of its training?"
            )
        features = state["1.weight"].shape[1]
    network = _build(population, 0, image_shape, classes, features)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"run {run.run}: its weights do not fit {population.architecture.name} for images of "
            f"{tuple(image_shape)} and {classes} classes; all must be those of its training. "
            f"{error}"
        ) from error
    return network.eval()


def initial_network(
    population: Population,
    streams: Streams,
    *,
    image_shape: Shape,
    classes: int,
    features: int | None = None,
) -> nn.Module:
    """Network of a run as it was before its first step.

    Parameters
    ----------
    population : Population
        What the run is of.
    streams : Streams
        The run's random streams; ``init`` seeds the parameters.
    image_shape, classes
        As in :func:`load_network`.
    features : int, optional
        Number of features that a head reads, for ``recipe.trainable: head`` and only for it.

    Returns
    -------
    Module
        As :func:`load_network` returns it.

    Raises
    ------
    ValueError
        If `features` is missing or out of place, or sizes do not fit each other.
    """
    if (population.recipe.trainable == "head") != (features is not None):
        raise ValueError("features: their number belongs to recipe.trainable: head, and only to it")
    return _build(population, streams.seed("init"), image_shape, classes, features).eval()


def _build(
    population: Population, seed: int, image_shape: Shape, classes: int, features: int | None
) -> nn.Module:
    architecture = population.architecture
    if features is None:
        return build_model(architecture, image_shape=image_shape, classes=classes, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(features, 1 if architecture.outputs == "one" else classes)
    return nn.Sequential(CounterDropout(architecture.dropout, 0), head)


def weight_matrices(
    weights: Mapping[str, NDArray[np.generic]],
) -> dict[str, NDArray[np.generic]]:
    """Weights as matrices, for their spectra.

    Parameters
    ----------
    weights : mapping of str to ndarray
        Parameters and buffers by name, as :class:`~model_metrology.runs.TrainedRun` has them.

    Returns
    -------
    dict of str to ndarray, shape (out, in · kernel)
        Every tensor of at least two axes whose name ends in ``weight``, in the order given: of a
        convolution, each output channel's kernel in a row (in a grouped one, ``in`` is that of
        its group). Biases, buffers, tokens and positions are not among them, nor parameters at
        initialisation.
    """
    return {
        name: np.asarray(values).reshape(len(values), -1)
        for name, values in weights.items()
        if name.endswith("weight") and not name.startswith(_INITIAL) and np.ndim(values) >= 2
    }
