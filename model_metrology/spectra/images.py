"""Spectra of networks trained on images: the weights of every layer, and both kernels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from model_metrology.data.datasets import Dataset
from model_metrology.kernels.functions import conjugate_kernel, trace_ntk
from model_metrology.models.loading import initial_network, load_network, weight_matrices
from model_metrology.recipes import Population
from model_metrology.runs import COMPLETED, TrainedRun
from model_metrology.seeds import Streams
from model_metrology.spectra.classify import classify_spectrum, fitted_marchenko_pastur
from model_metrology.spectra.eigen import kernel_spectrum, weight_spectrum
from model_metrology.spectra.measure import target_alignment
from model_metrology.training.data import normalised_images

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]
Spectra = dict[str, dict[str, Array]]

STAGES = ("initial", "trained")

ROW: tuple[str, ...] = (
    "run", "matrix", "stage", "rows", "columns", "largest", "second", "trace", "top_share",
    "effective_rank", "scale", "threshold", "outliers", "kind", "reason", "exponent", "change",
    "target_alignment",
)  # fmt: skip
"""Columns of :func:`image_spectra`."""

# A law cannot be told from fewer eigenvalues.
_SMALLEST = 16


def image_spectra(
    population: Population,
    runs: Iterable[TrainedRun],
    dataset: Dataset,
    streams: Callable[[int], Streams],
    *,
    size: int,
    points: int,
    level: float = 0.01,
    device: torch.device | None = None,
) -> tuple[dict[int, Spectra], pd.DataFrame]:
    """Spectra of a population's networks, at initialisation and after training.

    Parameters
    ----------
    population : Population
        Trained as a whole (``recipe.trainable: all``).
    runs : iterable of TrainedRun
        Its runs; the first `size` completed ones are measured.
    dataset : Dataset
        What it was trained on; the kernels are of its first `points` test images.
    streams : callable
        The random streams of a run by its number, which give back its initial network.
    size, points : int
        Number of runs and of test images.
    level : float
        Level of the edge test.
    device : device, optional
        Where to compute the kernels.

    Returns
    -------
    spectra : dict
        By run, by matrix, by stage (``initial``, ``trained``): eigenvalues, ascending.
    table : DataFrame
        One row a run, matrix and stage: ``run``, ``matrix`` (a parameter's name,
        ``conjugate kernel`` or ``tangent kernel``), ``stage``, ``rows``, ``columns``;
        ``largest``, ``second``, ``trace`` (mean eigenvalue), ``top_share`` (of the largest in the
        trace) and ``effective_rank`` ((Σλ)²/Σλ²); of weights with at least 16 eigenvalues that are
        not zero by shape also ``scale`` (variance of the entries, told from the bulk's median),
        ``threshold``, ``outliers``, ``kind``, ``reason``, ``exponent``; ``change``,
        ‖M_t − M_0‖_F/‖M_0‖_F; of the kernels ``target_alignment`` with the labels.

    Notes
    -----
    A layer's weights are W ∈ R^{out × in·kernel}, its spectrum that of WᵀW/out, held against the
    Marchenko–Pastur law whose scale puts the medians together: the scale of trained weights is
    not known beforehand. Kernels are in the parameters as the network has them, of
    :func:`~model_metrology.trace_ntk` and :func:`~model_metrology.conjugate_kernel` without
    normalisation, divided by the number of points: their eigenvalues are those of the kernel's
    integral operator. Real images are not Gaussian, so there is no law for them; the spectrum at
    initialisation is what they are held against. Computed in float64.
    """
    images = dataset.test_images[:points]
    inputs = normalised_images(
        images, dataset, torch.device("cpu"), pretrained=population.architecture.pretrained
    ).double()
    labels = dataset.test_labels[:points]
    shape: tuple[int, int, int] = tuple(dataset.test_images.shape[1:])
    spectra, rows = {}, []
    completed = (run for run in runs if run.status == COMPLETED)
    for run in islice(completed, size):
        options: dict[str, Any] = {"image_shape": shape, "classes": len(dataset.classes)}
        networks = {
            "initial": initial_network(population, streams(run.run), **options),
            "trained": load_network(population, run, **options),
        }
        matrices = {
            stage: _matrices(network.double(), inputs, device)
            for stage, network in networks.items()
        }
        found: Spectra = {name: {} for name in matrices["initial"]}
        for name in found:
            for stage in STAGES:
                matrix = matrices[stage][name]
                row = {"run": run.run, "matrix": name, "stage": stage}
                eigenvalues, measured = _measure(name, matrix, labels, level)
                start = matrices["initial"][name]
                norm = float(np.linalg.norm(start))
                change = float(np.linalg.norm(matrix - start)) / norm if norm else np.nan
                found[name][stage] = eigenvalues
                rows.append(row | measured | {"change": change})
        spectra[run.run] = found
        logger.info("run %04d · spectra of %d matrices", run.run, len(found))
    return spectra, pd.DataFrame(rows, columns=ROW)


KERNELS = ("conjugate kernel", "tangent kernel")


def _matrices(
    network: nn.Module, inputs: torch.Tensor, device: torch.device | None
) -> dict[str, Array]:
    """Weights of every layer, and both kernels over the number of points."""
    state = {name: value.detach().numpy() for name, value in network.state_dict().items()}
    matrices: dict[str, Array] = dict(weight_matrices(state))  # type: ignore[arg-type]
    kernels = (conjugate_kernel, trace_ntk)
    for name, kernel in zip(KERNELS, kernels, strict=True):
        matrices[name] = kernel(network, inputs, normalize=False, device=device) / len(inputs)
    return matrices


def _measure(
    name: str, matrix: Array, labels: NDArray[np.int64], level: float
) -> tuple[Array, dict[str, Any]]:
    row: dict[str, Any] = {"rows": matrix.shape[0], "columns": matrix.shape[1]}
    if name in KERNELS:
        eigenvalues = kernel_spectrum(matrix).eigenvalues
        classes = np.eye(int(labels.max()) + 1)[labels]
        row["target_alignment"] = target_alignment(matrix, classes - classes.mean(axis=0))
    else:
        eigenvalues = weight_spectrum(matrix).eigenvalues
        # Nor from a layer of which most has been set to zero.
        if min(matrix.shape) >= _SMALLEST and (eigenvalues > 0).sum() > min(matrix.shape) // 2 + 1:
            row |= _against_bulk(eigenvalues, matrix.shape[1] / matrix.shape[0], level)
    total = eigenvalues.sum()
    row |= {
        "largest": eigenvalues[-1],
        "second": eigenvalues[-2] if len(eigenvalues) > 1 else np.nan,
        "trace": eigenvalues.mean(),
        "top_share": eigenvalues[-1] / total,
        "effective_rank": total**2 / np.square(eigenvalues).sum(),
    }
    return eigenvalues, row


def _against_bulk(eigenvalues: Array, ratio: float, level: float) -> dict[str, Any]:
    law = fitted_marchenko_pastur(eigenvalues, ratio)
    found = classify_spectrum(eigenvalues, law, level=level)
    return {
        "scale": law.upper / (1.0 + np.sqrt(ratio)) ** 2,
        "threshold": found.threshold,
        "outliers": found.outliers,
        "kind": found.kind,
        "reason": found.reason,
        "exponent": found.tail.exponent,
    }
