"""Tables of surrogates: faithfulness, fits, attributions, poison, agreement, and the summary."""

from __future__ import annotations

import math
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit, softmax

from model_metrology.surrogates.attribution import (
    attribution_agreement,
    class_attributions,
    precision_recall,
    retrieval,
    strongest,
)
from model_metrology.surrogates.faithfulness import Faithfulness, faithfulness
from model_metrology.surrogates.glm import Surrogate, fit_surrogate
from model_metrology.surrogates.outputs import Measured, SubjectOutputs
from model_metrology.surrogates.published import PUBLISHED
from model_metrology.variability.metrics import logit_gap

__all__ = [
    "Attributed",
    "agreement_table",
    "joined",
    "mean_curves",
    "measure_surrogates",
    "summary_table",
]

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
Solver = Literal["glm", "sgd", "svm"]

METRICS: tuple[str, ...] = (
    "tad", "kendall_tau", "kendall_tau_correct", "kendall_tau_all", "r_miss", "agreement",
    "network_accuracy", "surrogate_accuracy",
)  # fmt: skip
"""Measures of faithfulness, as :class:`Faithfulness` names them."""

RECALLS: Array = np.linspace(0, 1, 51)
"""Recalls at which precision is averaged over triggered images."""

_METHODS = {"glm": "newton", "sgd": "sgd", "svm": "svm"}
_EXAMPLES = 5  # strongest images shown on each side


def measure_surrogates(
    train_kernel: NDArray[Any],
    test_kernel: NDArray[Any],
    outputs: SubjectOutputs,
    key: Mapping[str, Any],
    *,
    solvers: Sequence[Solver] = ("glm",),
    l2: float | Literal["auto"] = "auto",
    sgd_l2: float | Literal["auto"] = "auto",
    bootstraps: int = 200,
    level: float = 0.05,
    examples: int = 0,
    poison: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Measured:
    """Fit surrogates to a kernel and measure how faithful they are, and what they attribute.

    Parameters
    ----------
    train_kernel : ndarray, shape (N, N)
        Between training points.
    test_kernel : ndarray, shape (n + t, N)
        Between test and training points.
    outputs : SubjectOutputs
        The network's answers.
    key : mapping
        Columns that say whose these are: ``population``, ``run``, ``kernel``, ``dataset``.
    solvers : sequence of {"glm", "sgd", "svm"}
        ``glm`` is always fitted.
    l2, sgd_l2 : float or "auto"
        Penalties of the kGLM and of ``sgd``; see :func:`fit_surrogate`.
    bootstraps, level : int, float
        Of the intervals.
    examples : int
        How many rightly and how many wrongly predicted test points have their attributions kept;
        with 0, none.
    poison : mapping, optional
        Trigger, fraction and target of the training set's poison.
    seed : int
        Of what is drawn.
    """
    clean = outputs.clean
    classes = max(len(outputs.classes), 2)
    fits: dict[str, Surrogate] = {}
    rows, fit_rows = [], []
    penalties = {"glm": l2, "sgd": sgd_l2}
    for solver in dict.fromkeys(("glm", *solvers)):
        started = time.perf_counter()
        fit = fit_surrogate(
            train_kernel,
            outputs.train_labels,
            l2=penalties.get(solver, "auto"),
            classes=classes,
            method=_METHODS[solver],  # type: ignore[arg-type]
            seed=seed,
        )
        seconds = time.perf_counter() - started
        fits[solver] = fit
        measured = faithfulness(
            outputs.logits[:clean],
            fit.logits(test_kernel[:clean]),
            outputs.labels[:clean],
            bootstraps=bootstraps,
            level=level,
            seed=seed,
        )
        rows += [{"surrogate": solver, **row} for row in _faithfulness_rows(measured)]
        fit_rows.append(
            {
                "surrogate": solver,
                "l2": fit.l2,
                "l2_at_end": fit.l2_at_end,
                "gradient_norm": fit.gradient_norm,
                "iterations": fit.iterations,
                "converged": fit.converged,
                "train_accuracy": float((fit.predict(train_kernel) == outputs.train_labels).mean()),
                "seconds": seconds,
            }
        )
    glm = fits["glm"]
    tables = {
        "faithfulness": pd.DataFrame(rows),
        "fits": pd.DataFrame(fit_rows),
        "selection": pd.DataFrame(glm.selection.items(), columns=["l2", "held_out_loss"]),
        "scores": _scores(glm, test_kernel, outputs),
    }
    tables |= _example_tables(glm, test_kernel, outputs, examples)
    tables |= _poison_tables(glm, test_kernel, outputs, poison)
    for table in tables.values():
        for i, (name, value) in enumerate(key.items()):
            table.insert(i, name, value)
    kept = None
    if examples:
        predicted = outputs.predicted[:clean]
        kept = class_attributions(glm, test_kernel[:clean], predicted).astype(np.float32)
    return Measured(glm, kept, tables)


def _faithfulness_rows(measured: Faithfulness) -> list[dict[str, Any]]:
    rows = []
    for metric in METRICS:
        lower, upper = measured.intervals.get(metric, (np.nan, np.nan))
        value = getattr(measured, metric)
        rows.append({"metric": metric, "value": value, "lower": lower, "upper": upper})
    return rows


def _probability(logits: Array, labels: Indices) -> Array:
    """P(class 1) of two classes, probability of the true class of more."""
    if logits.shape[1] <= 2:
        return np.asarray(expit(logit_gap(logits)))
    return np.asarray(softmax(logits, axis=1)[np.arange(len(labels)), labels])


def _scores(glm: Surrogate, test_kernel: NDArray[Any], outputs: SubjectOutputs) -> pd.DataFrame:
    n = outputs.clean
    labels = outputs.labels[:n]
    return pd.DataFrame(
        {
            "point": outputs.test[:n],
            "label": labels,
            "network": _probability(outputs.logits[:n], labels),
            "surrogate": _probability(glm.logits(test_kernel[:n]), labels),
        }
    )


_EXAMPLE = ["point", "role", "label", "predicted"]
_POISON = [
    "trigger", "fraction", "point", "poisoned", "precision", "recall", "average_precision",
    "chance", "precision_by_label", "recall_by_label", "fooled",
]  # fmt: skip
_CURVES = ["point", "fooled", "recall", "precision", "by_label"]


def _example_tables(
    glm: Surrogate, test_kernel: NDArray[Any], outputs: SubjectOutputs, examples: int
) -> dict[str, pd.DataFrame]:
    """Attributions of a few test points: to all training points, and the strongest."""
    n, predicted = outputs.clean, outputs.predicted
    right = np.flatnonzero(predicted[:n] == outputs.labels[:n])[:examples]
    wrong = np.flatnonzero(predicted[:n] != outputs.labels[:n])[:examples]
    all_rows, top_rows = [], []
    for role, points in (("right", right), ("wrong", wrong)):
        for i in points:
            values = class_attributions(glm, test_kernel[i : i + 1], predicted[i : i + 1])[0]
            point = {
                "point": outputs.test[i], "role": role, "label": outputs.labels[i],
                "predicted": predicted[i],
            }  # fmt: skip
            train = {"train_point": outputs.train, "train_label": outputs.train_labels}
            all_rows.append(pd.DataFrame(point | train | {"attribution": values}))
            for sign, chosen in zip(
                ("supporting", "opposing"),
                strongest(values, min(_EXAMPLES, len(values))),
                strict=True,
            ):
                top = {
                    "rank": np.arange(1, len(chosen) + 1), "sign": sign,
                    "train_point": outputs.train[chosen],
                    "train_label": outputs.train_labels[chosen], "attribution": values[chosen],
                }  # fmt: skip
                top_rows.append(pd.DataFrame(point | top))
    columns = ["train_point", "train_label", "attribution"]
    return {
        "attribution": _joined(all_rows, [*_EXAMPLE, *columns]),
        "strongest": _joined(top_rows, [*_EXAMPLE, "rank", "sign", *columns]),
    }


def _poison_tables(
    glm: Surrogate,
    test_kernel: NDArray[Any],
    outputs: SubjectOutputs,
    poison: Mapping[str, Any] | None,
) -> dict[str, pd.DataFrame]:
    """Are the poisoned training points those that a triggered image is attributed to?

    Beside the attributions stands what needs no kernel: all training points of the predicted label
    first, in any order. Poisoned points carry the label of their trigger.
    """
    rows, curves = [], []
    known = poison is not None and outputs.poisoned.any()
    for i in range(outputs.clean, len(outputs.labels)) if known else ():
        assert poison is not None
        predicted = outputs.predicted[i : i + 1]
        scores = class_attributions(glm, test_kernel[i : i + 1], predicted)[0]
        found = retrieval(scores, outputs.poisoned)
        labelled = (outputs.train_labels == predicted[0]).astype(float)
        by_label = retrieval(labelled, outputs.poisoned)
        fooled = bool(predicted[0] == poison["target"])
        rows.append(
            {
                "trigger": poison["trigger"], "fraction": poison["fraction"],
                "point": outputs.test[i], "poisoned": found.relevant,
                "precision": found.precision, "recall": found.recall,
                "average_precision": found.average_precision, "chance": found.chance,
                "precision_by_label": by_label.precision, "recall_by_label": by_label.recall,
                "fooled": fooled,
            }
        )  # fmt: skip
        curves.append(
            pd.DataFrame(
                {
                    "point": outputs.test[i], "fooled": fooled, "recall": RECALLS,
                    "precision": precision_recall(scores, outputs.poisoned, RECALLS),
                    "by_label": precision_recall(labelled, outputs.poisoned, RECALLS),
                }
            )
        )  # fmt: skip
    return {
        "poison": pd.DataFrame(rows, columns=_POISON),
        "poison_curves": _joined(curves, _CURVES),
    }


def joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables below each other; empty ones have no types to agree with the others'."""
    return pd.concat([t for t in tables if len(t)] or tables[:1], ignore_index=True)


def _joined(tables: Sequence[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    if not tables:
        return pd.DataFrame(columns=list(columns))
    return pd.concat(tables, ignore_index=True)


# -- over runs ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attributed:
    """A run's attributions on a dataset's test points, for comparison with other runs."""

    population: str
    run: int
    dataset: str
    architecture: str
    recipe: str
    outputs: SubjectOutputs
    attributions: NDArray[np.float32]


_AGREEMENT = [
    "population_a", "run_a", "population_b", "run_b", "relation", "kernel", "point", "label",
    "same_prediction", "correlation", "within_labels",
]  # fmt: skip


def agreement_table(runs: Sequence[Attributed], kernel: str) -> pd.DataFrame:
    """Rank correlation of two runs' attributions at each test point, for all pairs of runs.

    Pairs are compared that have the same points; attributions are to the class that each network
    predicts.

    Parameters
    ----------
    runs : sequence of Attributed
        Runs with attributions by one kernel.
    kernel : str
        Its name.

    Returns
    -------
    DataFrame
        One row a pair and test point: ``population_a``, ``run_a``, ``population_b``, ``run_b``,
        ``relation`` (same population, same recipe, other recipe, other architecture), ``kernel``,
        ``point``, ``label``, ``same_prediction``, ``correlation``, and ``within_labels``, that
        among training points of one label.
    """
    tables = []
    for a, b in combinations(runs, 2):
        if not _same_points(a, b):
            continue
        n, labels = a.outputs.clean, a.outputs.train_labels
        tables.append(
            pd.DataFrame(
                {
                    "population_a": a.population, "run_a": a.run,
                    "population_b": b.population, "run_b": b.run,
                    "relation": _relation(a, b), "kernel": kernel,
                    "point": a.outputs.test[:n], "label": a.outputs.labels[:n],
                    "same_prediction": a.outputs.predicted[:n] == b.outputs.predicted[:n],
                    "correlation": attribution_agreement(a.attributions, b.attributions),
                    "within_labels": attribution_agreement(a.attributions, b.attributions, labels),
                }
            )
        )  # fmt: skip
    return _joined(tables, _AGREEMENT)


def _relation(a: Attributed, b: Attributed) -> str:
    if a.population == b.population:
        return "same population"
    if a.architecture != b.architecture:
        return "other architecture"
    return "other recipe" if a.recipe != b.recipe else "same recipe"


def _same_points(a: Attributed, b: Attributed) -> bool:
    test_a, test_b = (run.outputs.test[: run.outputs.clean] for run in (a, b))
    return (
        a.dataset == b.dataset
        and np.array_equal(a.outputs.train, b.outputs.train)
        and np.array_equal(test_a, test_b)
    )


def summary_table(measured: pd.DataFrame) -> pd.DataFrame:
    """Means over runs with standard errors, beside what is published of networks of that name.

    The published surrogates were fitted by stochastic gradient descent: their measures stand at
    ``sgd``. The networks' accuracy stands at every surrogate.

    Parameters
    ----------
    measured : DataFrame
        The table ``faithfulness``.

    Returns
    -------
    DataFrame
        ``population``, ``kernel``, ``surrogate``, ``metric``, ``runs``, ``mean``,
        ``standard_error`` (NaN for one run), ``published``, ``published_error``, ``difference`` (in
        standard errors of both; NaN where one is not known).
    """
    keys = ["population", "kernel", "surrogate", "metric"]
    grouped = measured.groupby(keys, sort=False)["value"]
    table = grouped.agg(runs="count", mean="mean", standard_error="sem").reset_index()
    found = [_published(row) for row in table.to_dict("records")]
    table["published"], table["published_error"] = np.array(found, float).reshape(-1, 2).T
    error = np.hypot(table["standard_error"], table["published_error"])
    table["difference"] = (table["mean"] - table["published"]) / error
    return table


def _published(row: Mapping[Hashable, Any]) -> tuple[float, float]:
    if row["surrogate"] != "sgd" and row["metric"] != "network_accuracy":
        return math.nan, math.nan
    known = PUBLISHED.get((row["population"], row["kernel"]), {})
    return known.get(row["metric"], (math.nan, math.nan))


def mean_curves(curves: pd.DataFrame) -> pd.DataFrame:
    """Precision–recall curves over triggered images, of those that fool the network and of others.

    Returns
    -------
    DataFrame
        ``population``, ``kernel``, ``fooled``, ``recall``, ``images`` (how many), ``precision``
        (their mean), ``lower``, ``upper`` (10 and 90 % quantile), ``by_label`` (mean precision of
        all points of the predicted label first).
    """
    keys = ["population", "kernel", "fooled", "recall"]
    grouped = curves.groupby(keys, sort=False)
    return grouped.agg(
        images=("precision", "count"),
        precision=("precision", "mean"),
        lower=("precision", lambda values: values.quantile(0.1)),
        upper=("precision", lambda values: values.quantile(0.9)),
        by_label=("by_label", "mean"),
    ).reset_index()
