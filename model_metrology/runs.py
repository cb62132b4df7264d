"""What training leaves behind: runs, and the outputs of a population on the test points."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

COMPLETED = "completed"
DIVERGED = "diverged"


@dataclass(frozen=True)
class TrainedRun:
    """One trained run.

    Attributes
    ----------
    run : int
        The run's number within its population.
    status : str
        ``completed``, or ``diverged`` if the loss was not finite; such a run's weights and
        outputs are what it had then, and analyses leave it out.
    message : str
        Why it diverged; empty otherwise.
    weights : dict of str to ndarray
        Parameters and buffers by their name in the module's state; empty where they were not read.
    test_outputs : ndarray, shape (n, C)
        Logits on the test points.
    history : dict of str to ndarray, shape (epochs,)
        ``epoch``, ``loss``, ``accuracy``, ``learning_rate``, ``seconds``.
    """

    run: int
    status: str
    message: str
    weights: dict[str, NDArray[np.generic]]
    test_outputs: NDArray[np.float32]
    history: dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Outputs:
    """The outputs of a population's completed runs.

    Attributes
    ----------
    population : str
        The population's name.
    runs : ndarray of int, shape (M,)
        Numbers of the completed runs.
    logits : ndarray, shape (M, n, C)
        Logits on the test points; C = 1 for one-logit networks.
    labels : ndarray of int, shape (n,)
        True classes.
    classes : tuple of str
        Names of the classes.
    """

    population: str
    runs: NDArray[np.int64]
    logits: NDArray[np.float32]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def split(self, size: int) -> tuple[Outputs, Outputs]:
        """The first `size` runs, and the others.

        Raises
        ------
        ValueError
            If fewer than `size` runs were completed.
        """
        if len(self.runs) < size:
            raise ValueError(
                f"population {self.population!r}: {size} reference runs are asked for, "
                f"{len(self.runs)} were completed; raise its size or lower the reference's"
            )
        return self._some(slice(size)), self._some(slice(size, None))

    def _some(self, index: slice) -> Outputs:
        return replace(self, runs=self.runs[index], logits=self.logits[index])


class TooManyDivergedError(RuntimeError):
    """More runs diverged than the study allows."""


def collect_outputs(
    trained: Iterable[TrainedRun],
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
    *,
    population: str,
    max_excluded: float = 0.0,
) -> tuple[Outputs, pd.DataFrame, pd.DataFrame]:
    """Gather the outputs of a population's runs and say which are left out.

    Parameters
    ----------
    trained : iterable of TrainedRun
        All runs of the population.
    labels, classes
        Of the test points.
    population : str
        The population's name.
    max_excluded : float
        Largest fraction of runs that may be left out.

    Returns
    -------
    outputs : Outputs
        Of the completed runs.
    history : DataFrame
        Columns population, run, epoch, loss, accuracy, learning_rate; one row an epoch of a run,
        diverged runs included.
    excluded : DataFrame
        Columns population, run, reason.

    Raises
    ------
    TooManyDivergedError
        If more than `max_excluded` of the runs diverged.
    """
    # Outputs alone: the weights of all runs at once would not fit into memory.
    kept: dict[int, NDArray[np.float32]] = {}
    histories, excluded = [], []
    total = 0
    for run in trained:
        total += 1
        history = pd.DataFrame(run.history)
        history.insert(0, "run", run.run)
        histories.append(history)
        if run.status == COMPLETED:
            kept[run.run] = run.test_outputs
        else:
            excluded.append({"population": population, "run": run.run, "reason": run.message})
    left_out = pd.DataFrame(excluded, columns=["population", "run", "reason"])
    if len(left_out) > max_excluded * total or not kept:
        first = left_out.iloc[0]
        raise TooManyDivergedError(
            f"population {population!r}: {len(left_out)} of {total} runs diverged (run "
            f"{first['run']}: {first['reason']}); lower recipe.learning_rate, or allow more with "
            f"max_excluded (now {max_excluded})"
        )
    outputs = Outputs(
        population=population,
        runs=np.array(list(kept), dtype=np.int64),
        logits=np.stack(list(kept.values())),
        labels=np.asarray(labels, dtype=np.int64),
        classes=tuple(classes),
    )
    table = pd.concat(histories, ignore_index=True)
    table.insert(0, "population", population)
    return outputs, table, left_out
