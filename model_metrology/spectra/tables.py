"""Tables over all runs of a study: summaries, scaling of the norms, and the claims with counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy

from model_metrology.spectra.classify import KINDS
from model_metrology.spectra.runs import MATRICES
from model_metrology.variability.inference import rank_correlation
from model_metrology.variability.simulation import wilson_interval


def last_steps(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of each run's last step."""
    # A table that was joined with one without rows has lost the types of its columns.
    table = table.infer_objects()
    return table[table["step"] == table.groupby(["group", "run"])["step"].transform("max")]


def summary_table(table: pd.DataFrame, excluded: pd.DataFrame) -> pd.DataFrame:
    """One row a population or sweep and matrix, at the end of training.

    Parameters
    ----------
    table, excluded
        Of all groups, from :func:`~model_metrology.spectra.measure.measure_runs`.

    Returns
    -------
    DataFrame
        Columns group, matrix, runs, diverged; ``bulk``, ``bulk+spikes``, ``heavy-tailed``: number
        of runs of each kind, and ``broadened``; medians over the runs of ``outliers``,
        ``over_edge`` (largest eigenvalue over the edge), ``exponent``, ``bulk_distance``,
        ``norm_change``, ``alignment_teacher``, ``alignment_labels``, ``target_alignment`` and
        ``test_r2``. A group of which every run diverged has ``runs`` 0 and the rest NaN.
    """
    end = last_steps(table).assign(over_edge=lambda t: t["largest"] / t["edge"])
    diverged = excluded.groupby("group").size()
    medians = ["outliers", "over_edge", "exponent", "bulk_distance", "norm_change"]
    medians += ["alignment_teacher", "alignment_labels", "target_alignment", "test_r2"]
    rows: list[dict[str, Any]] = []
    for group in dict.fromkeys([*table["group"], *excluded["group"]]):
        for matrix in MATRICES:
            part = end[(end["group"] == group) & (end["matrix"] == matrix)]
            row = {"group": group, "matrix": matrix, "runs": len(part)}
            row["diverged"] = int(diverged.get(group, 0))
            row |= {kind: int((part["kind"] == kind).sum()) for kind in KINDS}
            row["broadened"] = int(part["broadened"].sum())
            rows.append(row | part[medians].median().to_dict())
    return pd.DataFrame(rows)


def slopes_table(
    table: pd.DataFrame, sweeps: Sequence[str], *, level: float = 0.05
) -> pd.DataFrame:
    """Slope of log ‖change‖ against log n at fixed ratios, for the three norms of the theorems.

    Parameters
    ----------
    table
        Rows of all groups.
    sweeps
        Names of the sweeps over ``data.points``.
    level
        Intervals cover 1 − `level`.

    Returns
    -------
    DataFrame
        Columns group, matrix, slope, low, high, runs, sizes, predicted. The slope is that of least
        squares over the runs, its interval Student's. `predicted` is −1 where step size and number
        of steps are constant, 0 where the step size grows in proportion to n, and NaN otherwise,
        also for batches, momentum or ratios that vary (see the notes). Slope and interval are NaN
        with fewer than two sizes or three runs.

    Notes
    -----
    With a step size of order 1 the gradient is (1/(n√(hd))) Gᵀ X with ‖X‖ of order √n and ‖G‖_F,
    of n·h entries of order 1, of order n: its Frobenius norm is of order n^{−1/2}, hence
    ‖W_t − W_0‖_F/√d of order 1/n after a fixed number of steps. Each hidden unit's outputs move by
    as little, so ‖K_t − K_0‖_F is of order 1/n too. With a step size of order n the same count
    gives order 1 for all three: bounded. These are the
    rates of Wang et al. 2023 (arXiv:2211.06506) in our parametrisation.
    """
    end = last_steps(table)
    rows = []
    for group in sweeps:
        for matrix in MATRICES:
            part = end[(end["group"] == group) & (end["matrix"] == matrix)]
            rows.append({"group": group, "matrix": matrix} | _slope(part, level))
    return pd.DataFrame(rows, columns=_SLOPE_COLUMNS)


_SLOPE_COLUMNS = ["group", "matrix", "slope", "low", "high", "runs", "sizes", "predicted"]


def _slope(part: pd.DataFrame, level: float) -> dict[str, Any]:
    part = part[part["norm_change"] > 0]
    sizes = part["data.points"].nunique()
    row = {"slope": np.nan, "low": np.nan, "high": np.nan}
    if sizes >= 2 and len(part) >= 3:
        fit = scipy.stats.linregress(np.log(part["data.points"]), np.log(part["norm_change"]))
        half = scipy.stats.t.ppf(1.0 - level / 2.0, len(part) - 2) * fit.stderr
        row = {"slope": fit.slope, "low": fit.slope - half, "high": fit.slope + half}
    return row | {"runs": len(part), "sizes": sizes, "predicted": _predicted(part)}


def _predicted(part: pd.DataFrame) -> float:
    """The rate by counting powers: for plain steps on all points at fixed ratios alone."""
    fixed = ["recipe.steps", "data.points_per_dimension", "network.width_per_dimension"]
    plain = part["recipe.optimiser"].isin(["gd", "sgd"]) & (part["recipe.momentum"] == 0)
    whole = part["recipe.batch_size"] == part["data.points"]
    if part.empty or not (plain & whole).all() or (part[fixed].nunique() > 1).any():
        return float("nan")
    rate = part["recipe.learning_rate"]
    if rate.nunique() == 1:
        return -1.0
    per_point = rate / part["data.points"]
    return 0.0 if np.allclose(per_point, per_point.iloc[0]) else float("nan")


def claims_table(
    table: pd.DataFrame,
    slopes: pd.DataFrame,
    *,
    expected: Mapping[str, str],
    rng: np.random.Generator,
    level: float = 0.05,
) -> pd.DataFrame:
    """What is claimed of the spectra, counted.

    Parameters
    ----------
    table
        Rows of all groups.
    slopes
        From :func:`slopes_table`.
    expected
        The kind that the weights' spectrum should be of, by population.
    rng
        Source of bootstrap draws.
    level
        Intervals cover 1 − `level`.

    Returns
    -------
    DataFrame
        Columns claim, definition, held, of, share, low, high, p_value. Shares are of runs, with
        Wilson intervals; the rank correlation stands in `share`, with its bootstrap interval and
        Spearman's p-value.
    """
    end = last_steps(table)
    weights = end[end["matrix"] == "weights"]
    rows = [
        _count(
            f"{population}: {kind}",
            "completed runs of the population whose weights end with a spectrum of this kind",
            (weights.loc[weights["group"] == population, "kind"] == kind).to_numpy(),
            level,
        )
        for population, kind in expected.items()
    ]
    populations = weights[weights["group"].isin(expected)]
    heavy = populations["group"].map(expected) == "heavy-tailed"
    rows.append(
        _count(
            "populations expected to have a heavy tail break their bulk up",
            "runs of these whose weights have ten outliers or more, with a power law or without",
            ((populations["kind"] == "heavy-tailed") | populations["broadened"])[heavy].to_numpy(),
            level,
        )
    )
    rows.append(_growth(populations, level, rng))
    calm = populations["group"].map(expected) == "bulk"
    # 1.36/√d is the 5 % point of the Kolmogorov–Smirnov test.
    near = populations["law_distance"] <= 1.36 / np.sqrt(populations["size"])
    rows.append(
        _count(
            "populations that keep the bulk keep its law",
            "runs of these whose weights' bulk passes a Kolmogorov–Smirnov test at 5 % against the "
            "law at initialisation (conservative: eigenvalues repel each other)",
            near[calm].to_numpy(),
            level,
        )
    )
    known = slopes.dropna(subset=["predicted", "slope"])
    rows.append(
        _count(
            "the norms obey the rates",
            "fitted slopes of the three norms against n within 0.1 of the predicted one, or below "
            "it (the theorems are bounds)",
            (known["slope"] <= known["predicted"] + 0.1).to_numpy(),
            level,
        )
    )
    return pd.DataFrame(rows)


def _growth(weights: pd.DataFrame, level: float, rng: np.random.Generator) -> dict[str, Any]:
    x, y = weights["largest"] / weights["edge"], weights["alignment_teacher"]
    row = {
        "claim": "the alignment with the teacher grows with the spike",
        "definition": "Spearman correlation over the populations' runs of the largest eigenvalue "
        "of the weights, over the edge, and |cos| of its eigenvector and the teacher",
        "held": np.nan,
        "of": np.nan,
        "share": np.nan,
        "low": np.nan,
        "high": np.nan,
        "p_value": np.nan,
    }
    if len(x) >= 3 and x.nunique() > 1 and y.nunique() > 1:
        found = rank_correlation(x, y, coverage=1.0 - level, rng=rng)
        row |= {"share": found.estimate, "low": found.lower, "high": found.upper}
        row["p_value"] = scipy.stats.spearmanr(x, y).pvalue
    return row


def _count(claim: str, definition: str, held: Any, level: float) -> dict[str, Any]:
    of = len(held)
    low, high = wilson_interval(int(held.sum()), of, 1.0 - level) if of else (np.nan, np.nan)
    return {
        "claim": claim,
        "definition": definition,
        "held": int(held.sum()),
        "of": of,
        "share": held.mean() if of else np.nan,
        "low": low,
        "high": high,
        "p_value": np.nan,
    }
