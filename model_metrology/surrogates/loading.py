"""A subject from the files of the stages before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model_metrology import files
from model_metrology.data.recipes import Poison
from model_metrology.models.language import TokenPoints, rebuild
from model_metrology.recipes import Population
from model_metrology.runs import COMPLETED, TrainedRun
from model_metrology.surrogates.outputs import SubjectOutputs
from model_metrology.surrogates.recipes import ForeignInstrument
from model_metrology.surrogates.subjects import (
    Chosen,
    Subject,
    choose_points,
    foreign_subject,
    language_subject,
    population_subject,
)

__all__ = ["read_subject", "subject_outputs"]


def read_subject(spec: Mapping[str, Any], run: int, inputs: Mapping[str, str]) -> Subject:
    """Read a network and its points.

    Parameters
    ----------
    spec : mapping
        ``kind`` (population, instrument or language), ``options`` of that kind as the study has
        them, ``points`` (``train``, ``test``, ``triggered``), ``poison`` (or None), ``seed``.
    run : int
        The run's number.
    inputs : mapping
        Files: ``dataset`` and ``runs`` of a population; ``dataset`` of an instrument; ``tokens``,
        ``runs`` and ``config`` of a language model.

    Raises
    ------
    ValueError
        If the run is not among those trained, or has diverged.
    """
    options, poison = spec["options"], spec["poison"]
    if spec["kind"] == "language":
        points = TokenPoints.from_arrays(files.read_tokens(inputs["tokens"]))
        chosen = _choose(points.train_labels, points.test_labels, spec)
        trained = _run(inputs["runs"], run)
        return language_subject(
            rebuild(Path(inputs["config"]).parent, trained.weights), points, chosen
        )
    dataset = files.read_dataset(inputs["dataset"])
    chosen = _choose(dataset.train_labels, dataset.test_labels, spec)
    if spec["kind"] == "instrument":
        return foreign_subject(ForeignInstrument(**options), dataset, chosen, root=".")
    population = Population(**options, size=run + 1)
    trigger = Poison(**poison) if poison else None
    trained = _run(inputs["runs"], run)
    return population_subject(population, trained, dataset, chosen, trigger, seed=spec["seed"])


def _choose(train: Any, test: Any, spec: Mapping[str, Any]) -> Chosen:
    target = {"target": spec["poison"]["target"]} if spec["poison"] else {}
    return choose_points(train, test, **spec["points"], **target, seed=spec["seed"])


def _run(path: str, number: int) -> TrainedRun:
    runs: Sequence[TrainedRun] = [run for run in files.read_runs(path) if run.run == number]
    if not runs:
        raise ValueError(f"{path}: there is no run {number} in it; train it again")
    if runs[0].status != COMPLETED:
        raise ValueError(
            f"{path}: run {number} has {runs[0].status} ({runs[0].message}), so it has no kernel; "
            "mend its recipe, or measure fewer runs (surrogates.runs)"
        )
    return runs[0]


def subject_outputs(subject: Subject, device: torch.device) -> SubjectOutputs:
    """A network's answers on its points, and what is known of these."""
    chosen = subject.chosen
    return SubjectOutputs(
        logits=subject.logits(subject.test, device),
        labels=subject.test_labels,
        train_labels=subject.train_labels,
        train=chosen.train,
        test=np.concatenate([chosen.test, chosen.triggered]),
        triggered=len(chosen.triggered),
        poisoned=subject.poisoned,
        classes=subject.classes,
    )
