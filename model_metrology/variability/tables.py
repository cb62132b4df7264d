"""The tables of a variability study: tidy, one row an observation.

The functions take the outputs of populations and return data frames; what each number is, is
defined where it is computed, in the other modules of this package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
import pandas as pd
import scipy
from numpy.typing import NDArray

from model_metrology.runs import Outputs
from model_metrology.variability.inference import (
    LeaveOneOut,
    alpha_lower_bound,
    bootstrap_alpha,
    ensemble_size_curve,
    holm,
    leave_one_out,
    outlier_p_value,
    rank_correlation,
)
from model_metrology.variability.metrics import (
    accuracy,
    churn,
    debiased_calibration_error,
    expected_calibration_error,
    logit_gap,
    mean_churn,
    predicted_labels,
)
from model_metrology.variability.references import Law, reference_sample
from model_metrology.variability.simulation import (
    Test,
    contaminated_alpha,
    contaminated_runs,
    interval_coverage,
    power,
    wilson_interval,
)
from model_metrology.variability.trimming import AlphaHat, Tolerance, alpha_hat

Array = NDArray[np.float64]


def _others(outputs: Outputs, reference: Outputs) -> NDArray[np.bool_]:
    """(k, M) which reference runs each run is held against: all but itself."""
    if outputs.population != reference.population:
        return np.ones((len(outputs.runs), len(reference.runs)), dtype=bool)
    return outputs.runs[:, None] != reference.runs[None, :]


def metrics_table(outputs: Outputs, reference: Outputs) -> pd.DataFrame:
    """Accuracy, churn and calibration errors of each run of a population.

    Parameters
    ----------
    outputs
        Of the population to measure.
    reference
        Of the reference runs. A run that is one of them is held against the others.

    Returns
    -------
    DataFrame
        Columns population, run, role (``reference`` or ``candidate``), accuracy, churn_pairwise
        (mean over the reference runs), churn_own (mean over the population's other runs),
        churn_ensemble (against the sign of the reference runs'
        mean gap), ece, ece_adaptive, ece_debiased, ece_positive.
    """
    gaps, reference_gaps = logit_gap(outputs.logits), logit_gap(reference.logits)
    reference_predicted = [predicted_labels(gap) for gap in reference_gaps]
    own = mean_churn(gaps)
    rows = []
    for i, others in enumerate(_others(outputs, reference)):
        against = np.flatnonzero(others)
        probability, predicted = scipy.special.expit(gaps[i]), predicted_labels(gaps[i])
        rows.append(
            {
                "population": outputs.population,
                "run": int(outputs.runs[i]),
                "role": "candidate" if others.all() else "reference",
                "accuracy": accuracy(predicted, outputs.labels),
                "churn_pairwise": float(
                    np.mean([churn(predicted, reference_predicted[j]) for j in against])
                ),
                "churn_own": own[i],
                "churn_ensemble": churn(gaps[i], reference_gaps[against].mean(axis=0)),
                "ece": expected_calibration_error(probability, outputs.labels),
                "ece_adaptive": expected_calibration_error(
                    probability, outputs.labels, binning="mass"
                ),
                "ece_debiased": debiased_calibration_error(probability, outputs.labels),
                "ece_positive": expected_calibration_error(
                    probability, outputs.labels, target="positive"
                ),
            }
        )
    return pd.DataFrame(rows)


def alpha_table(
    outputs: Outputs,
    reference: Outputs,
    null: pd.DataFrame,
    *,
    law: Law = "pooled",
    tolerance: Tolerance = "ks",
    level: float = 0.05,
    bootstraps: int = 200,
    rng: np.random.Generator,
) -> tuple[pd.DataFrame, Array]:
    """α̂ of a population's runs against reference runs, with interval, bound and p-values.

    Parameters
    ----------
    outputs
        Of the population; its runs that are reference runs themselves are passed over.
    reference
        Of the reference runs.
    null
        Of the same reference runs, from :func:`null_table`.
    law, tolerance, level
        As in :func:`~model_metrology.variability.bootstrap_alpha`; intervals cover 1 − level.
    bootstraps
        Replicates of each interval.
    rng
        Source of the draws.

    Returns
    -------
    table : DataFrame
        One row a candidate and scope: ``pooled``, each class, and ``maximum`` over the classes.
        `p_value` and `p_value_ks` are outlier p-values of α̂ and of the untrimmed distance in the
        leave-one-out null (a candidate faces M runs where the null's face M − 1, which makes
        them conservative by a hair); `p_holm` is `p_value_ks` after Holm's correction over the
        classes. Interval and bound are of the pooled gaps.
    weights : ndarray, shape (k, n)
        Optimal trimming of each candidate's pooled gaps, in the order of the candidates.
    """
    rows: list[dict[str, Any]] = []
    reference_gaps = logit_gap(reference.logits)
    candidates = np.flatnonzero(_others(outputs, reference).all(axis=1))
    weights = np.empty((len(candidates), len(outputs.labels)))
    for row, i in enumerate(candidates):
        # One at a time: there may be ten thousand.
        gap = logit_gap(outputs.logits[i])
        scopes = _scopes(gap, reference_gaps, outputs, law, tolerance, level)
        pooled = scopes["pooled"]
        interval = bootstrap_alpha(
            gap,
            reference_gaps,
            law=law,
            tolerance=tolerance,
            level=level,
            coverage=1.0 - level,
            replicates=bootstraps,
            rng=rng,
        )
        bound = alpha_lower_bound(
            gap,
            reference_sample(reference_gaps, law),
            tolerance=pooled.tolerance,
            level=level,
            # The reference runs share their test points, so n of the points are independent.
            reference_size=len(gap),
        )
        extra: dict[str, dict[str, float]] = {
            "pooled": {
                "alpha_low": interval.lower,
                "alpha_high": interval.upper,
                "alpha_bound": bound,
            }
        }
        rows += _with_p_values(_rows(int(outputs.runs[i]), outputs, scopes, extra), outputs, null)
        weights[row] = pooled.weights
    table = _labelled(rows, outputs, "reference", len(reference.runs), law, tolerance)
    return table, weights


def own_alpha_table(
    outputs: Outputs, *, law: Law = "pooled", tolerance: Tolerance = "ks", level: float = 0.05
) -> pd.DataFrame:
    """α̂ of each run of a population against its other runs; columns as :func:`alpha_table`.

    There are no p-values: within a population no run is an outlier by construction.
    """
    gaps = logit_gap(outputs.logits)
    if len(gaps) < 2:
        raise ValueError(
            f"population {outputs.population!r} has one completed run; to hold its runs against "
            "each other it needs two, better ten"
        )
    rows: list[dict[str, Any]] = []
    for i, run in enumerate(outputs.runs):
        others = np.delete(gaps, i, axis=0)
        scopes = _scopes(gaps[i], others, outputs, law, tolerance, level)
        rows += _rows(int(run), outputs, scopes, {})
    return _labelled(rows, outputs, "own", len(gaps) - 1, law, tolerance)


def null_table(
    reference: Outputs, *, law: Law = "pooled", tolerance: Tolerance = "ks", level: float = 0.05
) -> pd.DataFrame:
    """Leave-one-out null over the reference runs, by scope.

    Returns
    -------
    DataFrame
        Columns run, scope (``pooled``, each class, ``maximum`` over the classes), alpha,
        statistic.
    """
    gaps = logit_gap(reference.logits)
    left_out = {
        scope: leave_one_out(gaps[:, points], law=law, tolerance=tolerance, level=level)
        for scope, points in _points(reference).items()
    }
    of_classes = [left_out[name] for name in reference.classes]
    left_out["maximum"] = LeaveOneOut(
        np.max([part.alpha for part in of_classes], axis=0),
        np.max([part.statistic for part in of_classes], axis=0),
    )
    parts = [
        pd.DataFrame(
            {
                "run": reference.runs,
                "scope": scope,
                "alpha": part.alpha,
                "statistic": part.statistic,
            }
        )
        for scope, part in left_out.items()
    ]
    return pd.concat(parts, ignore_index=True)


def _scopes(
    gap: Array, runs: Array, outputs: Outputs, law: Law, tolerance: Tolerance, level: float
) -> dict[str, AlphaHat]:
    """α̂ of one run on all points and on each class's."""
    results = {}
    for scope, points in _points(outputs).items():
        sample = reference_sample(runs[:, points], law)
        results[scope] = alpha_hat(gap[points], sample, tolerance=tolerance, level=level)
    return results


def _points(outputs: Outputs) -> dict[str, NDArray[np.int64]]:
    everything = np.arange(len(outputs.labels))
    classes = {
        name: np.flatnonzero(outputs.labels == label) for label, name in enumerate(outputs.classes)
    }
    return {"pooled": everything} | classes


def _with_p_values(
    rows: list[dict[str, Any]], outputs: Outputs, null: pd.DataFrame
) -> list[dict[str, Any]]:
    """Add to the rows of one run their p-values in the null of their scope."""
    by_scope = {row["scope"]: row for row in rows}
    for scope, usual in null.groupby("scope"):
        row = by_scope[str(scope)]
        row["p_value"] = outlier_p_value(row["alpha"], usual["alpha"])
        row["p_value_ks"] = outlier_p_value(row["statistic"], usual["statistic"])
    adjusted = holm([by_scope[name]["p_value_ks"] for name in outputs.classes])
    for name, value in zip(outputs.classes, adjusted, strict=True):
        by_scope[name]["p_holm"] = float(value)
    return rows


def _rows(
    run: int,
    outputs: Outputs,
    scopes: Mapping[str, AlphaHat],
    extra: Mapping[str, Mapping[str, float]],
) -> list[dict[str, Any]]:
    """Rows of one run: pooled, each class, and the largest over the classes."""
    sizes = {scope: len(points) for scope, points in _points(outputs).items()}
    rows: list[dict[str, Any]] = [
        {
            "run": run,
            "scope": scope,
            "n": sizes[scope],
            "alpha": result.alpha,
            "statistic": result.statistic,
            "tolerance": result.tolerance,
            "witness_lower": result.witness[0],
            "witness_upper": result.witness[1],
            **extra.get(scope, {}),
        }
        for scope, result in scopes.items()
    ]
    top = max(rows[1:], key=lambda row: (row["alpha"], row["statistic"]))
    largest = max(row["statistic"] for row in rows[1:])
    return [*rows, top | {"scope": "maximum", "statistic": largest}]


def _labelled(
    rows: Sequence[Mapping[str, Any]],
    outputs: Outputs,
    against: str,
    reference_runs: int,
    law: Law,
    tolerance: Tolerance,
) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=_MEASURED)
    table.insert(0, "population", outputs.population)
    table.insert(2, "against", against)
    table.insert(3, "law", law)
    table.insert(4, "reference_runs", reference_runs)
    table.insert(6, "tolerance_rule", str(tolerance))
    return table


_MEASURED = [
    "run",
    "scope",
    "n",
    "tolerance",
    "alpha",
    "statistic",
    "alpha_low",
    "alpha_high",
    "alpha_bound",
    "p_value",
    "p_value_ks",
    "p_holm",
    "witness_lower",
    "witness_upper",
]


def ensemble_size_table(
    candidates: Outputs,
    reference: Outputs,
    *,
    trim: float,
    law: Law = "pooled",
    tolerance: Tolerance = "ks",
    level: float = 0.05,
    replicates: int = 50,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """α̂, distance and acceptance of held-out runs against the number M of reference runs.

    Parameters
    ----------
    candidates, reference
        Outputs of held-out runs and of the runs that ensembles are drawn from.
    trim
        Share that the trimmed test may set aside: it accepts where α̂ ≤ trim.
    law, tolerance, level
        As in :func:`~model_metrology.variability.bootstrap_alpha`.
    replicates
        Ensembles drawn at each size.
    rng
        Source of the draws.

    Returns
    -------
    DataFrame
        Columns reference_runs, test (``trimmed``, ``untrimmed``), quantity (``alpha``,
        ``statistic``, ``accepted``), mean, low, high: mean over candidates and ensembles, and
        the bootstrap interval (1 − level, over the choice of reference runs) of one candidate's
        value, averaged over the candidates.
    """
    m = len(reference.runs)
    if len(candidates.runs) == 0:
        raise ValueError(
            f"population {reference.population!r}: all completed runs are reference runs and none "
            "is held out, because the others diverged; raise its size"
        )
    # Roughly geometric: small ensembles are where it changes.
    sizes = np.unique(np.geomspace(1, m, num=min(m, 9)).round().astype(int))
    curve = ensemble_size_curve(
        logit_gap(candidates.logits),
        logit_gap(reference.logits),
        sizes.tolist(),
        law=law,
        tolerance=tolerance,
        level=level,
        replicates=replicates,
        rng=rng,
    )
    tail = level / 2
    quantities = {
        ("trimmed", "alpha"): curve.alpha,
        ("untrimmed", "statistic"): curve.statistic,
        ("trimmed", "accepted"): (curve.alpha <= trim).astype(float),
        ("untrimmed", "accepted"): (curve.alpha == 0.0).astype(float),
    }
    rows = []
    for (test, quantity), values in quantities.items():
        by_ensemble = values.mean(axis=2)
        low, high = np.quantile(values, [tail, 1.0 - tail], axis=1).mean(axis=2)
        for i, size in enumerate(curve.sizes):
            rows.append(
                {
                    "reference_runs": int(size),
                    "test": test,
                    "quantity": quantity,
                    "mean": by_ensemble[i].mean(),
                    "low": low[i],
                    "high": high[i],
                }
            )
    return pd.DataFrame(rows)


TEST_NAMES: dict[Test, str] = {
    "ks": "KS",
    "alpha": "trimmed KS",
    "mmd": "MMD",
    "energy": "energy",
}


def power_table(
    reference: Outputs,
    planted: Sequence[tuple[float, Outputs]],
    *,
    level: float = 0.05,
    tolerance: Tolerance = "ks",
) -> pd.DataFrame:
    """Share of planted runs that each test rejects, all tests at one level.

    Parameters
    ----------
    reference
        Outputs of the reference runs, which set the critical values.
    planted
        (size of the planted difference, outputs of runs with it); 0 for runs without one.
    level
        Probability of rejecting a run that does not differ.
    tolerance
        Of the trimmed test.

    Returns
    -------
    DataFrame
        Columns planted, population, test, runs, rejected, power, low, high (Wilson interval at
        1 − level), level, critical.
    """
    gaps = logit_gap(reference.logits)
    rows = []
    for size, outputs in planted:
        for test in get_args(Test):
            result = power(
                gaps, logit_gap(outputs.logits), test=test, level=level, tolerance=tolerance
            )
            rejected, runs = int(result.rejected.sum()), len(outputs.runs)
            low, high = wilson_interval(rejected, runs, 1.0 - level)
            rows.append(
                {
                    "planted": size,
                    "population": outputs.population,
                    "test": TEST_NAMES[test],
                    "runs": runs,
                    "rejected": rejected,
                    "power": rejected / runs,
                    "low": low,
                    "high": high,
                    "level": level,
                    "critical": result.critical,
                }
            )
    return pd.DataFrame(rows)


def coverage_table(
    *,
    contaminations: Sequence[float] = (0.05, 0.1, 0.3),
    points: Sequence[int] = (500, 2000),
    reference_runs: int = 20,
    tolerance: float = 0.05,
    level: float = 0.05,
    simulations: int = 200,
    bootstraps: int = 200,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Coverage of interval and bound of α̂ where its true value is known.

    Runs have standard normal outputs, correlated over runs at each test point; a known share of
    the candidate's is moved far off (:func:`~model_metrology.variability.contaminated_runs`).

    Returns
    -------
    DataFrame
        Columns contamination, n, reference_runs, tolerance, true_alpha, interval (``bootstrap``,
        ``DKW bound``), nominal, coverage, low, high (Wilson interval), mean_alpha.
    """
    rows = []
    for n in points:
        for contamination in contaminations:
            result = interval_coverage(
                lambda source, n=n, share=contamination: contaminated_runs(  # type: ignore[misc]
                    reference_runs, n, contamination=share, rng=source
                ),
                contaminated_alpha(contamination, tolerance),
                tolerance=tolerance,
                coverage=1.0 - level,
                replicates=bootstraps,
                simulations=simulations,
                rng=rng,
            )
            for name, share in (("bootstrap", result.interval), ("DKW bound", result.bound_holds)):
                low, high = wilson_interval(round(share * simulations), simulations, 0.95)
                rows.append(
                    {
                        "contamination": contamination,
                        "n": n,
                        "reference_runs": reference_runs,
                        "tolerance": tolerance,
                        "true_alpha": result.truth,
                        "interval": name,
                        "nominal": 1.0 - level,
                        "coverage": share,
                        "low": low,
                        "high": high,
                        "mean_alpha": float(result.estimate.mean()),
                    }
                )
    return pd.DataFrame(rows)


COMPARED = ("accuracy", "churn_pairwise", "churn_ensemble", "ece")
"""The metrics that α̂ is compared against."""


def correlations_table(
    alpha: pd.DataFrame,
    metrics: pd.DataFrame,
    *,
    level: float = 0.05,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Rank correlation of α̂ with each metric over the candidates.

    Parameters
    ----------
    alpha, metrics
        As :func:`alpha_table` and :func:`metrics_table` return, of all populations.
    level
        Bootstrap intervals cover 1 − level.
    rng
        Source of the draws.

    Returns
    -------
    DataFrame
        Columns candidates (``all``, or one population's name), scope, metric, coefficient, value,
        low, high, runs. Populations with fewer than five candidates have no rows of their own.
    """
    joined = alpha[alpha["against"] == "reference"].merge(metrics, on=["population", "run"])
    groups = {"all": joined} | {str(name): part for name, part in joined.groupby("population")}
    rows = []
    for group, part in groups.items():
        for scope in ("pooled", "maximum"):
            chosen = part[part["scope"] == scope]
            if len(chosen) < 5:
                continue
            for metric in COMPARED:
                result = rank_correlation(
                    chosen["alpha"], chosen[metric], coverage=1.0 - level, rng=rng
                )
                rows.append(
                    {
                        "candidates": group,
                        "scope": scope,
                        "metric": metric,
                        "coefficient": "spearman",
                        "value": result.estimate,
                        "low": result.lower,
                        "high": result.upper,
                        "runs": len(chosen),
                    }
                )
    return pd.DataFrame(rows, columns=_CORRELATIONS)


_CORRELATIONS = [
    "candidates",
    "scope",
    "metric",
    "coefficient",
    "value",
    "low",
    "high",
    "runs",
]


def claims_table(
    alpha: pd.DataFrame,
    metrics: pd.DataFrame,
    *,
    reference: str,
    sources: Sequence[str],
    level: float = 0.05,
) -> pd.DataFrame:
    """What was claimed of α̂, counted over the candidates.

    *Large* means the same for α̂ and for the metrics: the candidate's outlier p-value among the
    reference runs' own values is at most the level (which at least 1/level − 1 reference runs
    can reach). Large is low for accuracy, high for churn and calibration error.

    Parameters
    ----------
    alpha, metrics
        Tables of all populations.
    reference
        Name of the reference population.
    sources
        Populations that each vary one source of randomness, for the third claim.
    level
        Level of the tests.

    Returns
    -------
    DataFrame
        Columns claim, definition, held, of, share, low, high, p_value. The first three rows count
        candidates, with Clopper–Pearson intervals; the last two compare populations by the
        Kruskal–Wallis test of their runs' α̂ and distance, each run against its own population.
    """
    candidates = alpha[(alpha["against"] == "reference") & (alpha["scope"] == "pooled")]
    joined = candidates.merge(metrics, on=["population", "run"])
    own = metrics[(metrics["population"] == reference) & (metrics["role"] == "reference")]
    large_metric = np.zeros(len(joined), dtype=bool)
    for metric in COMPARED:
        sign = -1.0 if metric == "accuracy" else 1.0
        usual = sign * own[metric].to_numpy()
        p_values = [outlier_p_value(sign * value, usual) for value in joined[metric]]
        large_metric |= np.array(p_values) <= level
    large = (joined["p_value"] <= level).to_numpy()
    rows = [
        _count(
            "large α̂ implies that another metric is large",
            "of the candidates with p ≤ level, those with a large metric",
            large_metric[large],
            level,
        ),
        _count(
            "small α̂ implies that all metrics are small",
            "of the candidates with p > level, those with no large metric",
            ~large_metric[~large],
            level,
        ),
        _count(
            "α̂ finds what the metrics do not show",
            "of the candidates with no large metric, those with p ≤ level",
            large[~large_metric],
            level,
        ),
    ]
    of_own = alpha[
        (alpha["against"] == "own")
        & (alpha["scope"] == "pooled")
        & alpha["population"].isin(sources)
    ]
    for quantity, name in (("alpha", "α̂"), ("statistic", "the KS distance")):
        rows.append(
            {
                "claim": f"{name} depends on the source of randomness",
                "definition": "Kruskal–Wallis test between populations, each run against its own",
                "of": len(of_own),
                "p_value": _kruskal(of_own, quantity),
            }
        )
    return pd.DataFrame(rows, columns=_CLAIMS)


_CLAIMS = ["claim", "definition", "held", "of", "share", "low", "high", "p_value"]


def _count(claim: str, definition: str, held: NDArray[np.bool_], level: float) -> dict[str, Any]:
    row: dict[str, Any] = {"claim": claim, "definition": definition}
    row |= {"held": int(held.sum()), "of": len(held)}
    if len(held):
        interval = scipy.stats.binomtest(row["held"], row["of"]).proportion_ci(1.0 - level)
        row |= {"share": held.mean(), "low": interval.low, "high": interval.high}
    return row


def _kruskal(table: pd.DataFrame, quantity: str) -> float:
    groups = [part[quantity].to_numpy() for _, part in table.groupby("population")]
    if len(groups) < 2 or table[quantity].nunique() < 2:
        return float("nan")
    return float(scipy.stats.kruskal(*groups).pvalue)


def summary_table(
    alpha: pd.DataFrame,
    metrics: pd.DataFrame,
    excluded: pd.DataFrame,
    *,
    level: float = 0.05,
) -> pd.DataFrame:
    """One row a population: sizes, means, spreads beside what theory expects, α̂.

    Parameters
    ----------
    alpha, metrics, excluded
        Tables of all populations.
    level
        Candidates with p ≤ level count as outliers.

    Returns
    -------
    DataFrame
        Columns population, runs, excluded, accuracy, accuracy_sd, accuracy_sd_expected
        (√(e/2n), Jordan 2023), churn_own (within the population), test_error (what that churn
        should be, Jiang et al. 2022), ece, candidates, alpha (median against the reference),
        alpha_maximum, outliers (by α̂), outliers_ks (by the untrimmed distance), alpha_own
        (median within the population).
    """
    rows = []
    for population, runs in metrics.groupby("population", sort=False):
        of_run = alpha[alpha["population"] == population]
        against = of_run[of_run["against"] == "reference"]
        pooled = against[against["scope"] == "pooled"]
        own = of_run[(of_run["against"] == "own") & (of_run["scope"] == "pooled")]
        error = 1.0 - runs["accuracy"].mean()
        points = of_run["n"].max()
        rows.append(
            {
                "population": population,
                "runs": len(runs),
                "excluded": int((excluded["population"] == population).sum()),
                "accuracy": runs["accuracy"].mean(),
                "accuracy_sd": runs["accuracy"].std(),
                "accuracy_sd_expected": np.sqrt(error / (2.0 * points)),
                "churn_own": runs["churn_own"].mean(),
                "test_error": error,
                "ece": runs["ece"].mean(),
                "candidates": len(pooled),
                "alpha": pooled["alpha"].median(),
                "alpha_maximum": against.loc[against["scope"] == "maximum", "alpha"].median(),
                "outliers": int((pooled["p_value"] <= level).sum()),
                "outliers_ks": int((pooled["p_value_ks"] <= level).sum()),
                "alpha_own": own["alpha"].median(),
            }
        )
    return pd.DataFrame(rows)
