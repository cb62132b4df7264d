"""Figures of the variability instrument, from the tables of `model_metrology.variability.tables`.

Nothing is measured here: means, quartiles and empirical distribution functions apart, what is
drawn stands in a table.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from model_metrology.data.datasets import Dataset
from model_metrology.plots import style
from model_metrology.runs import Outputs
from model_metrology.variability.metrics import logit_gap
from model_metrology.variability.references import Law, empirical_cdf, reference_sample

Array = NDArray[np.float64]

# Points at which distribution functions are drawn: finer than the eye, small as a PDF.
_GRID = 600

_SCOPES = {"pooled": "pooled gaps", "maximum": "largest over the classes"}
_METRICS = {
    "accuracy": "accuracy (fraction)",
    "churn_pairwise": "churn, pairwise (fraction)",
    "churn_ensemble": "churn, ensemble (fraction)",
    "ece": "ECE (15 bins)",
}
_NO_CANDIDATES = "There are no candidates: α̂ was not measured."


def _against_reference(alpha: pd.DataFrame, scope: str = "pooled") -> pd.DataFrame:
    chosen = alpha[(alpha["against"] == "reference") & (alpha["scope"] == scope)]
    return chosen.dropna(subset=["alpha"])


def _terms(alpha: pd.DataFrame) -> str:
    """On what terms the α̂ of a panel compare; ranges where the rows differ in them."""
    if alpha.empty:
        return ""
    rules = ", ".join(style.plain(rule) for rule in style.order(alpha["tolerance_rule"]))
    return (
        f"n = {_range(alpha['n'], 'd')} test points, tolerance "
        f"{_range(alpha['tolerance'], '.4f')} ({rules}), "
        f"against {_range(alpha['reference_runs'], 'd')} runs"
    )


def _range(values: pd.Series, kind: str) -> str:
    ends = [format(end, kind) for end in (values.min(), values.max())]
    return "–".join(dict.fromkeys(ends))


@style.styled
def ecdf_figure(
    reference: Outputs,
    alpha: pd.DataFrame,
    populations: Sequence[Outputs],
    *,
    reference_size: int,
    law: Law,
) -> Figure:
    """Distribution functions of all runs' gaps, and their difference from the reference law.

    Parameters
    ----------
    reference : Outputs
        Of the reference population, whose first `reference_size` runs are the reference.
    alpha : DataFrame
        As :func:`~model_metrology.variability.tables.alpha_table` returns.
    populations : sequence of Outputs
        Of all populations with candidates.
    law : str
        The reference law.
    """
    runs, _ = reference.split(reference_size)
    runs_gaps = logit_gap(runs.logits)
    base = empirical_cdf(reference_sample(runs_gaps, law))
    gaps = {
        (outputs.population, int(run)): gap
        for outputs in populations
        for run, gap in zip(outputs.runs, logit_gap(outputs.logits), strict=True)
    }
    measured = _against_reference(alpha).sort_values(["alpha", "statistic"])
    low, high = np.quantile(np.concatenate([*runs_gaps, *gaps.values()]), [0.0005, 0.9995])
    grid = np.linspace(low, high, _GRID)
    figure, (top, bottom) = style.subplots(2, 1, height=6.6, sharex=True)
    candidates = list(
        zip(measured["population"].astype(str), measured["run"].astype(int), strict=True)
    )
    marked = {}
    if candidates:
        ends = ((0, style.colour(2), "least"), (-1, style.colour(1), "most"))
        for i, colour, word in ends:
            name, run = candidates[i]
            text = f"{word} outlying: {name}, run {run} (α̂ = {measured['alpha'].iloc[i]:.3f})"
            marked[candidates[i]] = colour, style.plain(text)
    for axes, shift in ((top, 0.0), (bottom, base(grid))):
        for gap in runs_gaps:
            axes.plot(grid, empirical_cdf(gap)(grid) - shift, color="#bbbbbb", linewidth=0.6)
        for key in candidates:
            values = empirical_cdf(gaps[key])(grid) - shift
            axes.plot(grid, values, color=style.colour(4), linewidth=0.5, alpha=0.6)
        for key, (colour, text) in marked.items():
            values = empirical_cdf(gaps[key])(grid) - shift
            axes.plot(grid, values, color=colour, linewidth=1.8, label=text)
    top.plot(grid, base(grid), color=style.REFERENCE, linewidth=1.6, label=f"reference law ({law})")
    bottom.axhline(0.0, color=style.REFERENCE, linewidth=1.6)
    if len(measured):
        worst = measured.iloc[-1]
        c = worst["tolerance"]
        # Distribution functions leave a corner to a legend; their differences leave none.
        shades = [
            bottom.axhspan(-c, c, color="#000000", alpha=0.10, linewidth=0),
            bottom.fill_between([], [], color=style.colour(1), alpha=0.2),
        ]
        words = [f"tolerance ± {c:.4f}", "witness interval of the most outlying"]
        above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 2}
        bottom.legend(shades, words, **above)
        law_values = base(grid)
        band = np.clip([law_values - c, law_values + c], 0.0, 1.0)
        top.fill_between(grid, *band, color="#000000", alpha=0.10, linewidth=0)
        edges = np.clip([worst["witness_lower"], worst["witness_upper"]], low, high)
        for axes in (top, bottom):
            axes.axvspan(*edges, color=style.colour(1), alpha=0.10, linewidth=0)
    else:
        bottom.set_title(_NO_CANDIDATES, fontsize=9)
    top.plot([], [], color="#bbbbbb", label=f"{len(runs_gaps)} reference runs")
    top.plot([], [], color=style.colour(4), label=f"{len(candidates)} candidates")
    top.set(ylabel="share of test points", title="Distribution of the logit gap")
    bottom.set(
        xlabel="logit gap f₁(x) − f₀(x)",
        ylabel="difference from the\nreference law",
        xlim=(low, high),
    )
    top.legend(loc="lower right")
    return figure


@style.styled
def metrics_figure(
    alpha: pd.DataFrame, metrics: pd.DataFrame, correlations: pd.DataFrame
) -> Figure:
    """α̂ of each candidate against accuracy, churn and calibration error."""
    measured = alpha[alpha["against"] == "reference"].dropna(subset=["alpha"])
    joined = measured.merge(metrics, on=["population", "run"])
    joined = joined.dropna(subset=list(_METRICS), how="all")
    if joined.empty:
        return style.in_words("There are no candidates with α̂ and metrics to compare.")
    figure, grid = style.subplots(2, 4, height=6.2, sharey="row", sharex="col")
    names = style.order(joined["population"])
    for row, scope in zip(grid, _SCOPES, strict=True):
        chosen = joined[joined["scope"] == scope]
        for axes, metric in zip(row, _METRICS, strict=True):
            for i, name in enumerate(names):
                part = chosen[chosen["population"] == name]
                _scatter(axes, part, metric, i)
            axes.set_title(_correlation(correlations, scope, metric), fontsize=9)
        row[0].set_ylabel(f"α̂, {_SCOPES[scope]}")
    for axes, label in zip(grid[-1], _METRICS.values(), strict=True):
        axes.set_xlabel(label)
        axes.locator_params(axis="x", nbins=4)
    style.legend_below(figure, grid[0][0])
    terms = [_terms(joined[joined["scope"] == scope]) for scope in _SCOPES]
    figure.suptitle(f"upper row: {terms[0]}\nlower row: {terms[1]}", fontsize=9)
    return figure


def _scatter(axes: Axes, part: pd.DataFrame, metric: str, i: int) -> None:
    spread = part[["alpha_low", "alpha_high"]].to_numpy(dtype=float)
    known = np.isfinite(spread).all(axis=1)
    axes.vlines(
        part[metric][known], *spread[known].T, color=style.colour(i), alpha=0.25, linewidth=0.8
    )
    axes.plot(
        part[metric],
        part["alpha"],
        style.marker(i),
        color=style.colour(i),
        markersize=4.5,
        alpha=0.85,
        linestyle="none",
        label=style.plain(part["population"].iloc[0]) if len(part) else None,
    )


def _correlation(correlations: pd.DataFrame, scope: str, metric: str) -> str:
    row = correlations[
        (correlations["candidates"] == "all")
        & (correlations["scope"] == scope)
        & (correlations["metric"] == metric)
    ]
    if row.empty or not np.isfinite(row["value"].iloc[0]):
        return "Spearman: undefined"
    value = row.iloc[0]
    return f"Spearman {value['value']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"


@style.styled
def comparison_figure(
    alpha: pd.DataFrame, *, title: str, populations: Sequence[str], against: str
) -> Figure:
    """α̂ of the runs of several populations, side by side.

    Parameters
    ----------
    alpha : DataFrame
        α̂ of all populations.
    title : str
        The question.
    populations : sequence of str
        Which, in this order.
    against : str
        ``reference`` or ``own``: what runs are held against.
    """
    chosen = alpha[(alpha["against"] == against) & alpha["population"].isin(populations)]
    chosen = chosen.dropna(subset=["alpha"])
    if chosen.empty:
        return style.in_words(f"{style.plain(title)}\nα̂ of these populations was not measured.")
    figure, panels = style.subplots(1, 2, height=5.0, sharey=True)
    for axes, (scope, words) in zip(panels, _SCOPES.items(), strict=True):
        part = chosen[chosen["scope"] == scope]
        groups = [part.loc[part["population"] == name, "alpha"] for name in populations]
        labels = [
            f"{style.plain(style.short(name, 28))} ({len(group)} runs)"
            for name, group in zip(populations, groups, strict=True)
        ]
        _boxes(axes, groups, labels)
        axes.set_title(textwrap.fill(f"{words}: {_terms(part)}", 60), fontsize=9)
    top = max(1.05 * chosen.loc[chosen["scope"].isin(_SCOPES), "alpha"].max(), 0.05)
    panels[0].set(ylabel="α̂ (share trimmed)", ylim=(-0.02 * top, top))
    figure.suptitle(style.plain(title))
    return figure


def _boxes(axes: Axes, groups: Sequence[pd.Series], labels: Sequence[str]) -> None:
    places = np.arange(len(groups))
    jitter = np.random.default_rng(0)
    for i, group in enumerate(groups):
        if len(group) == 0:
            continue
        axes.boxplot(
            group,
            positions=[i],
            widths=0.55,
            showfliers=False,
            medianprops={"color": style.colour(i), "linewidth": 2},
            boxprops={"color": "#777777"},
            whiskerprops={"color": "#777777"},
            capprops={"color": "#777777"},
        )
        across = i + jitter.uniform(-0.16, 0.16, size=len(group))
        axes.plot(across, group, style.marker(i), color=style.colour(i), alpha=0.75, markersize=5)
    axes.set_xticks(places, labels, rotation=25, ha="right", rotation_mode="anchor")
    axes.grid(visible=False, axis="x")


@style.styled
def null_figure(null: pd.DataFrame, alpha: pd.DataFrame, *, level: float = 0.05) -> Figure:
    """The leave-one-out null of α̂ and of the KS distance, and where the candidates lie."""
    usual = null[null["scope"] == "pooled"].dropna(subset=["alpha", "statistic"])
    if usual.empty:
        return style.in_words("There is no leave-one-out null: no reference run was measured.")
    measured = _against_reference(alpha)
    names = style.order(measured["population"])
    figure, panels = style.subplots(
        1, 2, height=min(max(3.6, 1.8 + 0.42 * len(names)), 7.0), sharey=True
    )
    columns = (
        ("alpha", "p_value", "α̂ (share trimmed)"),
        ("statistic", "p_value_ks", "KS distance (untrimmed)"),
    )
    for axes, (column, p_value, label) in zip(panels, columns, strict=True):
        axes.plot(
            usual[column],
            np.zeros(len(usual)),
            "|",
            color=style.REFERENCE,
            markersize=14,
            alpha=0.7,
        )
        axes.axvspan(0.0, usual[column].max(), color="#000000", alpha=0.07, linewidth=0)
        for i, name in enumerate(names):
            part = measured[measured["population"] == name]
            out = part[p_value] <= level
            shape, tint = style.marker(i), style.colour(i)
            height = np.full(len(part), i + 1)
            axes.plot(part[column][~out], height[~out], shape, color=tint, fillstyle="none")
            axes.plot(part[column][out], height[out], shape, color=tint, markersize=7)
            axes.annotate(
                f"{int(out.sum())}/{len(part)}",
                (1.0, i + 1),
                xycoords=("axes fraction", "data"),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
            )
        axes.set_xlabel(label)
        axes.set_title(f"filled: p ≤ {level:g}; counts at the right", fontsize=9)
    null_label = f"null: {len(usual)} reference runs\n(shaded: up to their largest)"
    labels = [null_label, *(style.plain(name) for name in names)]
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].invert_yaxis()
    figure.suptitle(_terms(measured) or _NO_CANDIDATES, fontsize=9)
    return figure


@style.styled
def ensemble_size_figure(ensemble_size: pd.DataFrame) -> Figure:
    """α̂, KS distance and acceptance of held-out runs against the number of reference runs."""
    ensemble_size = ensemble_size.dropna(subset=["mean"])
    if ensemble_size.empty:
        return style.in_words("No ensemble sizes were measured.")
    # By test and not by panel: a test looks the same in all panels.
    looks = {test: i for i, test in enumerate(sorted(ensemble_size["test"].unique()))}
    figure, panels = style.subplots(1, 3, height=4.0)
    titles = {
        "alpha": ("α̂ (share trimmed)", "α̂ of held-out runs"),
        "statistic": ("KS distance", "untrimmed distance"),
        "accepted": ("share accepted", "held-out runs accepted"),
    }
    for axes, (quantity, (label, title)) in zip(panels, titles.items(), strict=True):
        part = ensemble_size[ensemble_size["quantity"] == quantity]
        if part.empty:
            style.say(axes, f"{title}: not measured")
        for test, rows in part.groupby("test"):
            i = looks[test]
            rows = rows.sort_values("reference_runs")
            tint = style.colour(i)
            axes.fill_between(
                rows["reference_runs"],
                rows["low"],
                rows["high"],
                color=tint,
                alpha=0.15,
                linewidth=0,
            )
            axes.plot(
                rows["reference_runs"], rows["mean"], color=tint, marker=style.marker(i),
                linestyle=("-", "--")[i % 2], label=f"{test} test",
            )  # fmt: skip
        axes.set(xlabel="reference runs M", ylabel=label, title=title, ylim=(0, None))
        axes.xaxis.get_major_locator().set_params(integer=True)
    panels[-1].set_ylim(-0.03, 1.03)
    handles = {
        label: handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
    return figure


@style.styled
def power_figure(power: pd.DataFrame) -> Figure:
    """Share of planted runs that each test rejects, against the planted label noise."""
    power = power.dropna(subset=["power"])
    if power.empty:
        return style.in_words("No planted differences were tested.")
    figure, axes = style.subplots(height=4.6)
    # Side by side: intervals at one noise would lie on each other.
    step = 1.2 * (power["planted"].max() or 1.0)
    tests = style.order(power["test"])
    for i, test in enumerate(tests):
        part = power[power["test"] == test].sort_values("planted")
        x = 100 * part["planted"] + step * (i - (len(tests) - 1) / 2)
        spread = np.clip([part["power"] - part["low"], part["high"] - part["power"]], 0, None)
        axes.errorbar(
            x, part["power"], spread, color=style.colour(i), marker=style.marker(i),
            capsize=3, linewidth=1.2, label=style.plain(test),
        )  # fmt: skip
    for level in power["level"].unique():
        axes.axhline(level, color=style.REFERENCE, linestyle="--", label=f"level {level:g}")
    axes.set(
        xlabel="labels replaced in training, %",
        ylabel="share of runs rejected",
        ylim=(-0.03, 1.03),
        title="Power against planted label noise, all tests at one level",
    )
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@style.styled
def coverage_figure(coverage: pd.DataFrame) -> Figure:
    """Coverage of the intervals of α̂ where the truth is known, and the bias of the estimate."""
    coverage = coverage.dropna(subset=["coverage"])
    if coverage.empty:
        return style.in_words("No coverage was simulated.")
    figure, (left, right) = style.subplots(1, 2, height=4.8)
    # Side by side: intervals at one contamination would lie on each other.
    step = 0.012 * (coverage["contamination"].max() or 1.0)
    for i, (_, part) in enumerate(coverage.groupby(["interval", "n"], sort=False)):
        interval, n = part["interval"].iloc[0], part["n"].iloc[0]
        part = part.sort_values("contamination")
        spread = np.clip([part["coverage"] - part["low"], part["high"] - part["coverage"]], 0, None)
        left.errorbar(
            part["contamination"] + step * i, part["coverage"], spread, color=style.colour(i),
            marker=style.marker(i), capsize=3, label=f"{interval}, n = {n}",
        )  # fmt: skip
    for nominal in coverage["nominal"].unique():
        left.axhline(nominal, color=style.REFERENCE, linestyle="--", label=f"nominal {nominal:g}")
    left.set(
        xlabel="contamination (fraction)",
        ylabel="coverage (share of simulations)",
        ylim=(0, 1.04),
        title="Coverage",
    )
    for i, (_, part) in enumerate(coverage.groupby("n")):
        part, n = part.drop_duplicates("contamination"), part["n"].iloc[0]
        right.plot(
            part["true_alpha"], part["mean_alpha"], style.marker(i), color=style.colour(i),
            label=f"n = {n}", markersize=7, linestyle="none",
        )  # fmt: skip
    top = max(coverage["true_alpha"].max(), coverage["mean_alpha"].max()) * 1.05
    right.plot([0, top], [0, top], color=style.REFERENCE, linestyle="--", label="no bias")
    right.set(xlabel="true α of the law", ylabel="mean estimate α̂", title="Bias")
    for axes in (left, right):
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    return figure


@style.styled
def trimmed_images_figure(dataset: Dataset, trimmings: Sequence[Mapping[str, Any]]) -> Figure:
    """Test images that trimmings remove most and keep most.

    Parameters
    ----------
    dataset : Dataset
        Whose test points were measured.
    trimmings : sequence of mapping
        ``weights``, (k, n), of each population: the optimal trimming of each candidate.
    """
    weights = np.concatenate([np.asarray(trimming["weights"]) for trimming in trimmings])
    if len(weights) == 0:
        return style.in_words("There are no candidates: nothing was trimmed.")
    if np.allclose(weights, 1.0 / weights.shape[1], rtol=1e-9, atol=0.0):
        return style.in_words("All candidates are within the tolerance: nothing was trimmed.")
    score = weights.mean(axis=0) * weights.shape[1]
    ranked = np.argsort(score, kind="stable")
    columns = 10
    figure, grid = style.subplots(4, columns, height=5.6)
    halves = (("trimmed most", ranked[: 2 * columns]), ("kept most", ranked[::-1][: 2 * columns]))
    for half, (words, points) in enumerate(halves):
        for axes, point in zip(grid[2 * half : 2 * half + 2].flat, points, strict=False):
            _image(axes, dataset.test_images[point])
            name = style.plain(style.short(dataset.classes[dataset.test_labels[point]]))
            axes.set_title(f"{name}\n{score[point]:.2f}", fontsize=8)
        grid[2 * half][0].annotate(
            words, (0.0, 1.0), xycoords="axes fraction", xytext=(-6, 0),
            textcoords="offset points", rotation=90, ha="right", va="top", fontsize=10,
        )  # fmt: skip
    for axes in grid.flat:
        axes.set_axis_off()
    figure.suptitle(
        f"Mean weight n·w of test points over the trimmings of {len(weights)} candidates"
    )
    return figure


def _image(axes: Axes, image: NDArray[np.uint8]) -> None:
    if image.shape[0] == 1:
        axes.imshow(image[0], cmap="gray", vmin=0, vmax=255)
    else:
        axes.imshow(np.moveaxis(image, 0, -1))
