"""What is measured of a trained two-layer network: spectra, norms, alignments, class.

Three matrices are looked at, at every step whose weights were kept: the weights' (1/h) WᵀW, the
conjugate kernel and the neural tangent kernel. Of each the eigenvalues are kept; the rest is one
row of a table.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from model_metrology.runs import COMPLETED
from model_metrology.seeds import Streams
from model_metrology.spectra.activations import activation
from model_metrology.spectra.classify import bulk_distance, classify_spectrum
from model_metrology.spectra.eigen import Spectrum, kernel_spectrum, weight_spectrum
from model_metrology.spectra.kernels import conjugate_kernel_matrix, ntk_matrix
from model_metrology.spectra.laws import SpectralLaw, initial_law
from model_metrology.spectra.recipes import Group, WidthPopulation
from model_metrology.spectra.runs import MATRICES, RunSpectra, TeacherData, WidthRun
from model_metrology.spectra.training import draw_data

logger = logging.getLogger(__name__)

ROW: tuple[str, ...] = (
    "run", "step", "matrix", "size", "largest", "second", "trace", "edge", "threshold",
    "outliers", "kind", "broadened", "reason", "exponent", "tail", "misfit",
    "against_exponential", "p_exponential", "p_lognormal", "law_distance", "bulk_distance",
    "norm_change", "alignment_teacher", "alignment_subspace", "alignment_labels",
    "target_alignment", "loss", "test_r2",
)  # fmt: skip
"""Columns of :func:`measure_run`."""

Array = NDArray[np.float64]


def law_of(matrix: str, population: WidthPopulation) -> SpectralLaw:
    """Limiting law of a matrix of a population's networks, at initialisation."""
    data, network = population.data, population.network
    phi = activation(network.activation)
    return initial_law(
        matrix,
        points_per_dimension=data.points_per_dimension,
        width_per_dimension=network.width_per_dimension,
        slope_mean_squared=phi.slope_mean_squared,
        slope_second_moment=phi.slope_second_moment,
    )


def measure_runs(
    group: Group,
    runs: Iterable[WidthRun],
    streams: Callable[[int], Streams],
    *,
    level: float = 0.01,
) -> tuple[list[RunSpectra], pd.DataFrame, pd.DataFrame]:
    """Measure trained runs of a population or sweep; those that diverged are named and left out.

    Parameters
    ----------
    group : Group
        The population or sweep.
    runs : iterable of WidthRun
        Some of its runs.
    streams : callable
        The random streams of a run by its number; its data are drawn again from them.
    level : float
        Level of the edge test.

    Returns
    -------
    spectra : list of RunSpectra
        Of the completed runs.
    table : DataFrame
        Rows as of :func:`measure_run`, behind columns that say what each run is:
        ``group``, ``cell`` (number of the sweep's combination), and the population's keys,
        such as ``recipe.learning_rate`` and ``data.points``.
    excluded : DataFrame
        One row a diverged run: the same columns, and ``reason``.
    """
    spectra, tables, excluded = [], [], []
    for run in runs:
        population, stream = group.population(run.run), streams(run.run)
        what = described(stream.population, run.run % len(group.cells), population)
        if run.status != COMPLETED:
            excluded.append(what | {"run": run.run, "reason": run.message})
            continue
        measured, table = measure_run(
            population, run, draw_data(population.data, stream), level=level
        )
        spectra.append(measured)
        tables.append(pd.DataFrame([what] * len(table)).join(table))
        logger.info("%s, run %d measured", what["group"], run.run)
    # Tables without rows keep their columns: they are read and joined like others.
    what = described("", 0, WidthPopulation())
    empty = pd.DataFrame(columns=[*what, *ROW])
    return (
        spectra,
        pd.concat(tables, ignore_index=True) if tables else empty,
        pd.DataFrame(excluded, columns=[*what, "run", "reason"]),
    )


def described(group: str, cell: int, population: WidthPopulation) -> dict[str, Any]:
    """What a run is, as columns of a table."""
    columns: dict[str, Any] = {"group": group, "cell": cell}
    for part in ("data", "network", "recipe"):
        columns |= {
            f"{part}.{key}": value for key, value in getattr(population, part).model_dump().items()
        }
    columns |= {"dimension": population.data.dimension, "width": population.width}
    # What the laws know of the activation: figures draw them from the table alone.
    phi = activation(population.network.activation)
    columns |= {name: getattr(phi, name) for name in ("slope_mean_squared", "slope_second_moment")}
    if columns["recipe.batch_size"] is None:
        columns["recipe.batch_size"] = population.data.points
    return columns


def measure_run(
    population: WidthPopulation, run: WidthRun, data: TeacherData, *, level: float = 0.01
) -> tuple[RunSpectra, pd.DataFrame]:
    """Spectra of a run, and what they say.

    Parameters
    ----------
    population : WidthPopulation
        What the run is of.
    run : WidthRun
        Its weights; all of them must be finite.
    data : TeacherData
        The points it was trained on.
    level : float
        Level of the edge test.

    Returns
    -------
    spectra : RunSpectra
    table : DataFrame
        One row a matrix and step, with columns

        ``run``, ``step``, ``matrix``, ``size``;
        ``largest``, ``second``, ``trace`` (mean eigenvalue);
        ``edge`` of the law at initialisation, ``threshold`` of the edge test, ``outliers``,
        ``kind``, ``broadened``, ``reason``, and of the tail fit ``exponent``, ``tail``, ``misfit``,
        ``against_exponential``, ``p_exponential``, ``p_lognormal``;
        ``law_distance`` (KS distance of the eigenvalues within the threshold to the law), and
        ``bulk_distance`` (KS distance to the bulk at initialisation; of both the same number of
        largest eigenvalues is left out, the larger number of outliers);
        ``norm_change``: ‖W_t − W_0‖_F/√d of the weights, ‖K_t − K_0‖_F of the kernels;
        ``alignment_teacher``, ``alignment_labels``, ``alignment_subspace`` and
        ``target_alignment`` (see the notes);
        ``loss``, ``test_r2`` at this step.

    Notes
    -----
    The leading eigenvector u is held against the planted directions: of the weights, u ∈ R^d, by
    the length of its projection on span(β_j), |cos| for one direction; of the kernels, u ∈ R^n,
    likewise on span(Xβ_j). ``alignment_labels`` is |cos| with
    Xᵀ(y − ȳ) and with y − ȳ.
    ``alignment_subspace`` is the mean squared cosine of the principal angles between the k
    leading eigenvectors and the k planted directions (k/d by chance for the weights).
    ``target_alignment`` is the centred kernel–target alignment ⟨HKH, yyᵀ⟩/(‖HKH‖_F ‖Hy‖²)
    (Cortes, Mohri & Rostamizadeh 2012); NaN for the weights.
    """
    table: list[dict[str, Any]] = []
    eigenvalues: dict[str, list[Array]] = {name: [] for name in MATRICES}
    start = _Matrices(population, run, 0, data)
    for i, step in enumerate(run.steps):
        now = _Matrices(population, run, i, data) if i else start
        for matrix in MATRICES:
            spectrum = now.spectrum(matrix)
            eigenvalues[matrix].append(spectrum.eigenvalues)
            row = {"run": run.run, "step": int(step), "matrix": matrix}
            row |= _eigenvalue_row(
                spectrum.eigenvalues, eigenvalues[matrix][0], law_of(matrix, population), level
            )
            row["norm_change"] = now.distance(matrix, start)
            row |= now.alignments(matrix, spectrum.vectors)
            table.append(row | _losses(run, step))
    spectra = RunSpectra(
        run=run.run,
        steps=run.steps,
        eigenvalues={name: np.stack(values) for name, values in eigenvalues.items()},
        displacement=_displacement(run),
        readout=_readout(run),
    )
    return spectra, pd.DataFrame(table, columns=ROW)


def _eigenvalue_row(now: Array, before: Array, law: SpectralLaw, level: float) -> dict[str, Any]:
    found = classify_spectrum(now, law, level=level)
    tail, began = found.tail, int(np.sum(before > found.threshold))
    return {
        "size": len(now),
        "largest": now[-1],
        "second": now[-2] if len(now) > 1 else np.nan,
        "trace": now.mean(),
        "edge": law.upper,
        "threshold": found.threshold,
        "outliers": found.outliers,
        "kind": found.kind,
        "broadened": found.broadened,
        "reason": found.reason,
        "exponent": tail.exponent,
        "tail": tail.tail,
        "misfit": tail.misfit,
        "against_exponential": tail.against_exponential,
        "p_exponential": tail.p_exponential,
        "p_lognormal": tail.p_lognormal,
        "law_distance": found.bulk_distance,
        "bulk_distance": bulk_distance(before, now, outliers=max(found.outliers, began)),
    }


def _losses(run: WidthRun, step: np.int64) -> dict[str, Any]:
    at = int(np.flatnonzero(run.history["step"] == step)[0])
    return {name: run.history[name][at] for name in ("loss", "test_r2")}


class _Matrices:
    """The three matrices of a run at one of its steps."""

    def __init__(
        self, population: WidthPopulation, run: WidthRun, i: int, data: TeacherData
    ) -> None:
        self.weights, self.readout = run.weights[i], run.readout[i]
        self.data, self.directions = data, population.data.directions
        self.activation = activation(population.network.activation)

    @cached_property
    def conjugate_kernel(self) -> Array:
        return conjugate_kernel_matrix(self.weights, self.data.inputs, self.activation)

    @cached_property
    def tangent_kernel(self) -> Array:
        return ntk_matrix(self.weights, self.readout, self.data.inputs, self.activation)

    def kernel(self, matrix: str) -> Array:
        return self.conjugate_kernel if matrix == "conjugate kernel" else self.tangent_kernel

    def spectrum(self, matrix: str) -> Spectrum:
        if matrix == "weights":
            return weight_spectrum(self.weights, vectors=self.directions)
        return kernel_spectrum(self.kernel(matrix), vectors=self.directions)

    def distance(self, matrix: str, other: _Matrices) -> float:
        """‖W − W_0‖_F/√d, or ‖K − K_0‖_F."""
        if matrix == "weights":
            change = self.weights.astype(np.float64) - other.weights
            return float(np.linalg.norm(change) / np.sqrt(change.shape[1]))
        return float(np.linalg.norm(self.kernel(matrix) - other.kernel(matrix)))

    def alignments(self, matrix: str, vectors: Array) -> dict[str, float]:
        x, y = (part.astype(np.float64) for part in (self.data.inputs, self.data.labels))
        y = y - y.mean()
        planted: Array = self.data.directions.T.astype(np.float64)
        target = x.T @ y
        aligned = np.nan
        if matrix != "weights":
            planted, target = np.linalg.qr(x @ planted)[0], y
            aligned = target_alignment(self.kernel(matrix), y)
        cosines = planted.T @ vectors
        return {
            "alignment_teacher": float(np.linalg.norm(cosines[:, 0])),
            "alignment_subspace": float(np.square(cosines).sum() / planted.shape[1]),
            "alignment_labels": _cosine(vectors[:, 0], target),
            "target_alignment": aligned,
        }


def _cosine(a: Array, b: Array) -> float:
    """|cos| of two vectors; NaN where one is zero, as constant labels are once centred."""
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return abs(float(a @ b)) / norm if norm else float("nan")


def target_alignment(kernel: Array, targets: Array) -> float:
    """Centred kernel–target alignment ⟨HKH, YYᵀ⟩/(‖HKH‖_F ‖YYᵀ‖_F).

    Cortes, Mohri & Rostamizadeh 2012, JMLR 13.

    Parameters
    ----------
    kernel
        (n, n).
    targets
        (n,) or (n, C), columns centred already.

    Returns
    -------
    float
        NaN where targets or kernel are constant.
    """
    y = targets.reshape(len(kernel), -1)
    # ‖HKH‖_F without forming HKH; what is left of a constant kernel is rounding.
    means = kernel.mean(axis=0)
    n, whole = len(y), float(np.square(kernel).sum())
    norm = whole - 2 * n * np.square(means).sum() + (n * means.mean()) ** 2
    if norm <= n * np.finfo(np.float64).eps * whole:
        return float("nan")
    scale = float(np.sqrt(norm) * np.linalg.norm(y.T @ y))
    return float((y * (kernel @ y)).sum()) / scale if scale else float("nan")


def _displacement(run: WidthRun) -> Array:
    """Singular values of (W_t − W_0)/√h at each step."""
    change = run.weights.astype(np.float64) - run.weights[0]
    values: Array = np.linalg.svd(change / np.sqrt(change.shape[1]), compute_uv=False)
    return values


def _readout(run: WidthRun) -> Array:
    v = run.readout.astype(np.float64)
    h = v.shape[1]
    return np.stack(
        [np.linalg.norm(v, axis=1), np.linalg.norm(v - v[0], axis=1)], axis=1
    ) / np.sqrt(h)
