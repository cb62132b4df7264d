"""Figures of the surrogates instrument, from the tables of `model_metrology.surrogates`.

Nothing is measured here: what is drawn stands in a table, save for means over runs with their
intervals, quantiles, empirical distribution functions, and medians over a pair's points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Polygon, Rectangle
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)  # fmt: skip
from numpy.typing import NDArray

from model_metrology.data.datasets import Dataset
from model_metrology.plots import style

Array = NDArray[np.float64]

_KERNELS = ("trNTK", "trNTK0", "pNTK", "proj-trNTK", "proj-pNTK", "CK", "Em")
_SURROGATES = {
    "glm": "logistic regression, converged (glm)",
    "sgd": "logistic regression, stochastic gradient (sgd)",
    "svm": "support vector machine (svm)",
}
# Names of metrics in the tables: label, and the factor from the table's unit to the label's.
_METRICS = {
    "kendall_tau": ("Kendall τ", 1.0),
    "tad": ("TAD (percentage points)", 100.0),
    "r_miss": (r"$R_\mathrm{Miss}$ (fraction)", 1.0),
}
_OTHER_METRICS = {
    "kendall_tau_correct": ("Kendall τ,\ncorrect class", 1.0),
    "kendall_tau_all": ("Kendall τ,\nall classes", 1.0),
    "agreement": ("same prediction (%)", 100.0),
    "network_accuracy": ("network's accuracy (%)", 100.0),
    "surrogate_accuracy": ("surrogate's accuracy (%)", 100.0),
}
_RELATIONS = ("same population", "same recipe", "other recipe", "other architecture")
_ROLES = {"right": "right predictions", "wrong": "wrong predictions"}
_SIGNS = {"supporting": style.colour(0), "opposing": style.colour(1)}
_LEVEL = 0.95
_OTHERS = "#7F7F7F"
# Points at which a distribution function is drawn: finer than the eye, small as a PDF.
_GRID = 600


def _kernel(name: str) -> str:
    """The name of a kernel as papers write it."""
    return "trNTK⁰" if name == "trNTK0" else style.plain(name)


def _choose(table: pd.DataFrame, kernel: str | None) -> tuple[str, pd.DataFrame]:
    """A kernel, the first in the usual order unless named, and its rows."""
    if kernel is None:
        kernel = (style.ordered(table["kernel"], _KERNELS) or ["trNTK"])[0]
    return kernel, table[table["kernel"] == kernel]


def _first_run(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["run"] == table["run"].min()]


_RANGES = {"kendall_tau": (-1.0, 1.0), "tad": (-100.0, 100.0), "r_miss": (0.0, 1.0)}
"""The values that a metric can have, in the unit of its label."""


# -- faithfulness --------------------------------------------------------------------------------


def _mean(rows: pd.DataFrame) -> tuple[float, float, float]:
    """Mean over runs, and the ends of its interval.

    Of several runs Student's interval of the mean, as far as the metric can go; of one alone the
    interval over test points that its row carries.
    """
    values = rows["value"].to_numpy(dtype=float)
    if len(values) == 1:
        return values[0], float(rows["lower"].iloc[0]), float(rows["upper"].iloc[0])
    error = values.std(ddof=1) / np.sqrt(len(values))
    reach = scipy.stats.t.ppf(0.5 + _LEVEL / 2.0, len(values) - 1) * error
    ends = np.array([values.mean() - reach, values.mean() + reach])
    low, high = ends.clip(*_RANGES[rows["metric"].iloc[0]])
    return values.mean(), low, high


def _shifts(runs: Any, among: Any, width: float) -> Array:
    """Where runs stand, from the middle of their group: side by side in the order of all."""
    known = np.unique(among)
    if len(known) == 1:
        return np.zeros(len(runs))
    return width * (np.searchsorted(known, runs) / (len(known) - 1) - 0.5)


# Of the room that a group has, what its runs take.
_SPREAD = 0.55


def _pitch(groups: Sequence[str]) -> float:
    """From one group to the next, in ticks."""
    return min(0.84 / len(groups), 0.3)


def _estimates(
    axes: Axes, rows: pd.DataFrame, *, at: str, ticks: Sequence[str], by: str, groups: Sequence[str]
) -> None:
    """Runs as faint points and their mean with its interval, group beside group at each tick.

    Parameters
    ----------
    at, by : str
        Columns of what stands at the ticks, and of the groups side by side there.
    """
    pitch = _pitch(groups)
    for tick, here in enumerate(ticks):
        runs = rows.loc[rows[at] == here, "run"]
        for i, group in enumerate(groups):
            part = rows[(rows[at] == here) & (rows[by] == group)]
            if part.empty:
                continue
            x = tick + (i - (len(groups) - 1) / 2) * pitch
            tint, shape = style.colour(i), style.marker(i)
            if len(part) > 1:
                axes.plot(
                    x + _shifts(part["run"], runs, _SPREAD * pitch), part["value"], shape,
                    color=tint, markersize=3.5, alpha=0.4, markeredgewidth=0, label="_runs",
                )  # fmt: skip
            mean, low, high = _mean(part)
            several = len(part) > 1
            axes.plot(
                [x, x], [low, high], color=tint, linewidth=1.6 if several else 1.2,
                linestyle="-" if several else (0, (1, 1)), label="_interval",
            )  # fmt: skip
            axes.plot(
                x, mean, shape, color=tint, markersize=6.5, markeredgecolor="white",
                markeredgewidth=0.6, label="_mean",
            )  # fmt: skip
    for tick in range(1, len(ticks)):
        axes.axvline(tick - 0.5, color="#dddddd", linewidth=0.8, zorder=0)
    axes.set_xlim(-0.55, len(ticks) - 0.45)
    axes.grid(visible=False, axis="x")


def _metric_rows(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Known values of a metric, in the unit of its label."""
    rows = table[table["metric"] == metric].dropna(subset=["value"])
    factor = (_METRICS | _OTHER_METRICS)[metric][1]
    scaled = {name: factor * rows[name].astype(float) for name in ("value", "lower", "upper")}
    return rows.assign(**scaled)


def _label_metric(axes: Axes, metric: str) -> None:
    axes.set_ylabel(_METRICS[metric][0])
    if metric == "tad":
        axes.axhline(0.0, color=style.REFERENCE, linewidth=1.0, zorder=1, label="_zero")


def _runs_of(rows: pd.DataFrame, name: str) -> str:
    """A population's name and its number of runs."""
    runs = rows.loc[rows["population"] == name, "run"].nunique()
    return f"{style.plain(name)} ({runs} run{'' if runs == 1 else 's'})"


def _known(faithfulness: pd.DataFrame) -> pd.DataFrame:
    kept = faithfulness[faithfulness["metric"].isin(list(_METRICS))]
    return kept.dropna(subset=["value"])


@style.styled
def faithfulness_figure(faithfulness: pd.DataFrame) -> Figure:
    """How faithful the surrogates are: three metrics by kernel and population.

    Parameters
    ----------
    faithfulness : DataFrame
        Of all runs; of the surrogates only ``glm`` is drawn.
    """
    known = _known(faithfulness)
    known = known[known["surrogate"] == "glm"]
    if known.empty:
        return style.in_words("The faithfulness of no surrogate (glm) was measured.")
    kernels = style.ordered(known["kernel"], _KERNELS)
    names = style.order(known["population"])
    figure, panels = style.subplots(len(_METRICS), 1, height=7.4, sharex=True)
    for axes, metric in zip(panels, _METRICS, strict=True):
        rows = _metric_rows(known, metric)
        _estimates(axes, rows, at="kernel", ticks=kernels, by="population", groups=names)
        _label_metric(axes, metric)
    panels[-1].set_xticks(range(len(kernels)), [_kernel(name) for name in kernels])
    panels[-1].set_xlabel("kernel of the surrogate")
    figure.align_ylabels(panels)
    handles = [style.handle(i, _runs_of(known, name)) for i, name in enumerate(names)]
    style.below(figure, handles, columns=3)
    return figure


@style.styled
def solvers_figure(faithfulness: pd.DataFrame, *, kernel: str = "trNTK") -> Figure:
    """Faithfulness of surrogates fitted by different solvers on one kernel.

    Parameters
    ----------
    faithfulness : DataFrame
        Of all runs.
    kernel : str
        The kernel.
    """
    known = _known(faithfulness)
    known = known[known["kernel"] == kernel]
    if known.empty:
        return style.in_words(f"No surrogate was measured on the kernel {_kernel(kernel)}.")
    solvers = style.ordered(known["surrogate"], tuple(_SURROGATES))
    names = style.order(known["population"])
    figure, panels = style.subplots(1, len(_METRICS), height=4.8)
    for axes, metric in zip(panels, _METRICS, strict=True):
        rows = _metric_rows(known, metric)
        _join(axes, rows, names, solvers)
        _estimates(axes, rows, at="population", ticks=names, by="surrogate", groups=solvers)
        _label_metric(axes, metric)
        labels = [style.plain(style.short(name, 20)) for name in names]
        slant: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(range(len(names)), labels, **(slant if len(names) > 1 else {}))
    figure.suptitle(f"kernel {_kernel(kernel)}", fontsize=11)
    handles = [
        style.handle(i, _SURROGATES.get(name, style.plain(name))) for i, name in enumerate(solvers)
    ]
    if len(solvers) > 1:
        handles.append(Line2D([], [], color="#bbbbbb", linewidth=1.0, label="one run"))
    style.below(figure, handles, columns=4)
    return figure


def _join(axes: Axes, rows: pd.DataFrame, names: Sequence[str], solvers: Sequence[str]) -> None:
    """Join what the solvers give on the same run: their kernels are the same."""
    pitch = _pitch(solvers)
    middles = (np.arange(len(solvers)) - (len(solvers) - 1) / 2) * pitch
    for tick, name in enumerate(names):
        part = rows[rows["population"] == name]
        values = part.pivot(index="run", columns="surrogate", values="value")
        values = values.reindex(columns=list(solvers))
        shifts = tick + _shifts(values.index, values.index, _SPREAD * pitch)
        for shift, (_, of_run) in zip(shifts, values.iterrows(), strict=True):
            axes.plot(
                shift + middles, of_run, color="#bbbbbb", linewidth=0.7, zorder=1, label="_run"
            )


@style.styled
def published_figure(summary: pd.DataFrame) -> Figure:
    """Faithfulness beside what was published, with standard errors.

    Parameters
    ----------
    summary : DataFrame
        Means over runs, standard errors and published values; rows without one are left out.
    """
    metrics = _METRICS | _OTHER_METRICS
    given = summary.dropna(subset=["published", "mean"])
    given = given[given["metric"].isin(list(metrics))]
    if given.empty:
        return style.in_words("Nothing of what was measured here has a published value.")
    # The published surrogates are of this solver; without it the networks' accuracy is left.
    solver = "sgd" if (given["surrogate"] == "sgd").any() else "glm"
    given = given[given["surrogate"] == solver]
    given = given.assign(place=_rows(given))
    lines = given.drop_duplicates("place").sort_values("place")
    shown = style.ordered(given["metric"], tuple(metrics))
    height = float(np.clip(1.5 + 0.3 * len(lines), 3.0, 9.8))
    figure, grid = style.subplots(1, len(shown), height=height, squeeze=False, sharey=True)
    for axes, metric in zip(grid[0], shown, strict=True):
        label, factor = metrics[metric]
        _beside(axes, given[given["metric"] == metric], factor)
        axes.set_xlabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.grid(visible=False, axis="y")
        # Room at the right for the sign of a difference.
        axes.margins(x=0.12)
        if metric == "tad":
            axes.axvline(0.0, color="#bbbbbb", linewidth=0.8, zorder=0)
    for axes in grid[0]:
        for place in range(1, len(lines)):
            if lines["population"].iloc[place] != lines["population"].iloc[place - 1]:
                axes.axhline(place - 0.5, color="#dddddd", linewidth=0.8, zorder=0)
    labels = [
        f"{style.plain(style.short(row['population'], 24))}, {_kernel(row['kernel'])}"
        for row in lines.to_dict("records")
    ]
    grid[0][0].set_yticks(range(len(lines)), labels)
    grid[0][0].set_ylim(len(lines) - 0.4, -0.6)
    handles = [
        style.handle(0, f"here{' (sgd)' * (solver == 'sgd')}, ± standard error"),
        Line2D([], [], label="published, ± standard error", **_OPEN),
        Line2D(
            [], [], color=style.colour(1), linewidth=2.2, label="over two standard errors apart"
        ),
    ]
    style.below(figure, handles, columns=3)
    return figure


_OPEN: dict[str, Any] = {
    "color": style.REFERENCE, "marker": "D", "markersize": 6, "markerfacecolor": "none",
    "linestyle": "none",
}  # fmt: skip


def _rows(given: pd.DataFrame) -> list[int]:
    """The line of each row: by population as they come, then kernel."""
    keys = list(zip(given["population"], given["kernel"], strict=True))
    orders = style.order(given["population"]), style.ordered(given["kernel"], _KERNELS)
    ranks = {
        key: tuple(names.index(str(part)) for names, part in zip(orders, key, strict=True))
        for key in keys
    }
    lines = sorted(set(keys), key=ranks.__getitem__)
    return [lines.index(key) for key in keys]


def _beside(axes: Axes, rows: pd.DataFrame, factor: float) -> None:
    """Ours and the published values of one metric, a line a row; those far apart are marked."""
    for row in rows.to_dict("records"):
        place, ours, theirs = row["place"], factor * row["mean"], factor * row["published"]
        errors = factor * np.array([row["standard_error"], row["published_error"]], dtype=float)
        known = errors[np.isfinite(errors)]
        apart = abs(ours - theirs) / np.sqrt((known**2).sum()) if known.any() else np.nan
        far = bool(apart > 2.0)
        axes.plot(
            [ours, theirs], [place - 0.12, place + 0.12], zorder=1, label="_pair",
            color=style.colour(1) if far else "#cccccc", linewidth=2.2 if far else 1.0,
        )  # fmt: skip
        for x, error, y, tint in (
            (ours, errors[0], place - 0.12, style.colour(0)),
            (theirs, errors[1], place + 0.12, style.REFERENCE),
        ):
            axes.plot([x - error, x + error], [y, y], color=tint, linewidth=1.2, label="_error")
        axes.plot(
            ours, place - 0.12, style.marker(0), color=style.colour(0), markersize=6, label="_ours"
        )
        axes.plot(theirs, place + 0.12, **_OPEN | {"label": "_published"})
        if far:
            # One error alone makes the difference look surer than it is: in brackets.
            words = f"{apart:.1f} SE" if len(known) == 2 else f"({apart:.1f} SE)"
            axes.annotate(
                words, (1.0, place), xycoords=("axes fraction", "data"), xytext=(2, 0),
                textcoords="offset points", va="center", fontsize=8, color=style.colour(1),
            )  # fmt: skip


# -- scores --------------------------------------------------------------------------------------

_EDGE = 1e-5
_LOGIT_TICKS = (1e-4, 0.01, 0.5, 0.99, 1 - 1e-4)


@style.styled
def scatter_figure(
    scores: pd.DataFrame,
    faithfulness: pd.DataFrame,
    *,
    kernel: str = "trNTK",
    logit: bool = False,
    colour: str = "class",
) -> Figure:
    """The network's score of each test point against the surrogate's, one run a population.

    Parameters
    ----------
    scores : DataFrame
        Columns population, run, kernel, point, label, network, surrogate; scores are probabilities
        of class 1 of two, or of the correct class of more.
    faithfulness : DataFrame
        Of all runs: a panel's τ is the table's, which is of log-odds, without ties where
        probabilities round to 0 or 1.
    kernel : str
        The kernel.
    logit : bool
        Scale the axes by the logit; scores nearer than 1e-5 to 0 or 1 are drawn on the frame.
    colour : {"class", "right"}
        Colour points by their class, or by whether the network gives their class more than ½.

    Raises
    ------
    ValueError
        If `colour` is neither.
    """
    if colour not in ("class", "right"):
        raise ValueError(f"colour: {colour!r} is unknown; choose 'class' or 'right'")
    known = scores[scores["kernel"] == kernel].dropna(subset=["network", "surrogate"])
    if known.empty:
        return style.in_words(f"There are no scores of surrogates on {_kernel(kernel)}.")
    names = style.order(known["population"])
    measured = faithfulness[
        (faithfulness["kernel"] == kernel)
        & (faithfulness["surrogate"] == "glm")
        & (faithfulness["metric"] == "kendall_tau")
    ].set_index(["population", "run"])["value"]
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    height = 1.0 + (4.6 if columns == 1 else 9.4 / columns) * rows
    figure, grid = style.subplots(rows, columns, height=min(height, 9.8), squeeze=False)
    seen: dict[str, int] = {}
    for axes, name in zip(grid.flat, names, strict=False):
        part = _first_run(known[known["population"] == name])
        for words, i in _classes(part, colour).items():
            seen[words] = i
            chosen = part[_belongs(part, colour, i)]
            x, y = (
                chosen[side].clip(_EDGE, 1 - _EDGE) if logit else chosen[side]
                for side in ("network", "surrogate")
            )
            axes.plot(
                x, y, style.marker(i), color=style.colour(i), markersize=3.2, alpha=0.5,
                markeredgewidth=0, clip_on=False, rasterized=True, label=words,
            )  # fmt: skip
        run = int(part["run"].iloc[0])
        tau = measured.get((name, run), np.nan)
        words = f"τ = {tau:.3f}" if np.isfinite(tau) else "τ undefined"
        axes.set_title(f"{style.plain(style.short(name, 24))}, run {run}\n{words}", fontsize=10)
        _score_axes(axes, logit)
        of = "class 1" if _binary(part) else "the correct class"
        axes.set(xlabel=f"network: P({of})", ylabel=f"surrogate: P({of})")
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    figure.suptitle(f"kernel {_kernel(kernel)}", fontsize=11)
    handles = [
        style.handle(i, words) for words, i in sorted(seen.items(), key=lambda item: item[1])
    ]
    style.below(figure, handles, columns=5)
    return figure


def _binary(part: pd.DataFrame) -> bool:
    return bool(part["label"].max() <= 1)


def _classes(part: pd.DataFrame, colour: str) -> dict[str, int]:
    if colour == "right":
        return {"network gives the label more than ½": 0, "at most ½": 1}
    return {f"class {label}": int(label) for label in sorted(part["label"].unique())}


def _belongs(part: pd.DataFrame, colour: str, i: int) -> pd.Series:
    if colour == "class":
        return part["label"] == i
    of_label = part["network"]
    if _binary(part):
        of_label = of_label.where(part["label"] == 1, 1.0 - of_label)
    return (of_label > 0.5) == (i == 0)


def _score_axes(axes: Axes, logit: bool) -> None:
    axes.plot([_EDGE, 1 - _EDGE], [_EDGE, 1 - _EDGE], color=style.REFERENCE, linewidth=0.8)
    if logit:
        axes.set(xscale="logit", yscale="logit")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(FixedLocator(_LOGIT_TICKS))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(_logit_tick))
            axis.set_minor_formatter(NullFormatter())
        axes.set(xlim=(_EDGE, 1 - _EDGE), ylim=(_EDGE, 1 - _EDGE))
        axes.set_box_aspect(1.0)
    else:
        axes.set(xlim=(0.0, 1.0), ylim=(0.0, 1.0), aspect="equal")


def _logit_tick(value: float, _: Any = None) -> str:
    if value < 1e-3:
        return rf"$10^{{{round(np.log10(value))}}}$"
    if value > 1 - 1e-3:
        return rf"$1{{-}}10^{{{round(np.log10(1 - value))}}}$"
    return f"{value:g}"


# -- attributions --------------------------------------------------------------------------------


@style.styled
def attribution_classes_figure(
    attribution: pd.DataFrame,
    *,
    population: str | None = None,
    kernel: str | None = None,
    points: int = 2,
) -> Figure:
    """How the attributions of a few test points are distributed, by class of the training point.

    Parameters
    ----------
    attribution : DataFrame
        Attributions of some test points to all training points.
    population, kernel : str, optional
        Which; the first when absent. Of the population the first run is drawn.
    points : int
        How many test points of each role, right and wrong, to draw.
    """
    known = attribution.dropna(subset=["attribution"])
    if population is not None:
        known = known[known["population"] == population]
    kernel, known = _choose(known, kernel)
    if known.empty:
        return style.in_words(f"There are no attributions on the kernel {_kernel(kernel)}.")
    population = str(known["population"].iloc[0])
    known = _first_run(known[known["population"] == population])
    figure, grid = style.subplots(2, points, height=7.4, squeeze=False)
    for row, (role, words) in zip(grid, _ROLES.items(), strict=True):
        part = known[known["role"] == role]
        chosen = part["point"].unique()[:points]
        for axes, point in zip(row, chosen, strict=False):
            _by_class(axes, part[part["point"] == point])
        for axes in row[len(chosen) :]:
            style.say(axes, f"no further {words}" if len(chosen) else f"no {words}")
        row[0].set_ylabel("attribution (logit)")
    for axes in grid[-1]:
        axes.set_xlabel("class of the training point")
    run = int(known["run"].iloc[0])
    figure.suptitle(
        f"{style.plain(population)}, run {run}, kernel {_kernel(kernel)}; "
        "numbers above: sum over the class",
        fontsize=11,
    )
    style.below(
        figure,
        [
            Patch(color=style.colour(0), label="▲ class the network predicts"),
            Patch(color=style.colour(1), label="★ label, where it is another class"),
            Patch(color=_OTHERS, label="other classes"),
        ],
        columns=3,
    )
    return figure


def _by_class(axes: Axes, part: pd.DataFrame) -> None:
    """Attributions of one test point by class of the training point, as letter-value plots."""
    import seaborn  # Here: other figures need not wait a second for it.

    label, predicted = int(part["label"].iloc[0]), int(part["predicted"].iloc[0])
    classes = [int(c) for c in sorted(part["train_label"].unique())]
    signs = {predicted: "▲"}
    signs[label] = signs.get(label, "") + "★"
    tints = {label: style.colour(1), predicted: style.colour(0)}
    sums = part.groupby("train_label")["attribution"].sum()
    # As many decimals for all as show two digits of the largest.
    decimals = int(np.clip(2 - np.ceil(np.log10(max(sums.abs().max(), 1e-3))), 1, 3))
    seaborn.boxenplot(
        part, x="train_label", y="attribution", hue="train_label", order=classes,
        hue_order=classes, palette=[tints.get(c, _OTHERS) for c in classes], saturation=1.0,
        k_depth="tukey", linewidth=0.0, legend=False, ax=axes,
        line_kws={"color": style.REFERENCE, "linewidth": 1.4},
        flier_kws={"facecolor": _OTHERS, "edgecolor": "none", "s": 8},
    )  # fmt: skip
    axes.set(xlabel="", ylabel="")
    for x, c in enumerate(classes):
        axes.annotate(
            _signed(sums[c], f".{decimals}f"), (x, 1.0), xycoords=("data", "axes fraction"),
            xytext=(0, 2), textcoords="offset points", ha="center", fontsize=8,
        )  # fmt: skip
    axes.axhline(0.0, color=style.REFERENCE, linewidth=0.8, zorder=1)
    _asinh(axes, part["attribution"].to_numpy(dtype=float))
    axes.set_xticks(range(len(classes)), [f"{c}\n{signs.get(c, '')}" for c in classes])
    axes.set_xlim(-0.6, len(classes) - 0.4)
    axes.grid(visible=False, axis="x")
    wrong = "" if label == predicted else f", label {label}"
    # Above the sums.
    title = f"test point {int(part['point'].iloc[0])}: predicted {predicted}{wrong}"
    axes.set_title(title, pad=18)


def _asinh(axes: Axes, values: Array) -> None:
    """Scale that is linear in the bulk and logarithmic in the tails of both signs.

    Quantiles stay quantiles under any rising scale, densities would not: so boxes, and no violins.
    """
    size = np.abs(values)
    width, top = float(np.median(size)), float(size.max())
    if width <= 0.0 or top < 30.0 * width:
        axes.yaxis.set_major_locator(MaxNLocator(6))
        return
    axes.set_yscale("asinh", linear_width=width)
    # Margins on the scale as it is drawn.
    ends = np.arcsinh(np.array([values.min(), values.max()]) / width)
    ends += 0.05 * (ends[1] - ends[0]) * np.array([-1.0, 1.0])
    axes.set_ylim(*(width * np.sinh(ends)))
    # Powers of ten that stand clear of zero: there is one, as the values span 30 widths.
    powers = np.arange(np.ceil(np.log10(2.5 * width)), np.floor(np.log10(top)) + 1)
    axes.yaxis.set_major_locator(FixedLocator([0.0, *(10.0**powers), *(-(10.0**powers))]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _signed(value, ".3g")))


def _signed(value: float, kind: str) -> str:
    """A number with its sign, and none for zero."""
    words = format(value, f"+{kind}")
    return words.replace("-", "−") if float(words) else words[1:]


@style.styled
def strongest_figure(
    strongest: pd.DataFrame,
    datasets: Sequence[Dataset],
    *,
    populations: Sequence[str] | None = None,
    kernel: str | None = None,
    points: int | None = None,
    each: int = 5,
) -> Figure:
    """Test images with the training images that support and oppose their prediction most.

    Parameters
    ----------
    strongest : DataFrame
        Training points by rank of their attribution. The column ``dataset`` names the dataset of a
        row; rows without one, of networks that do not see images, are left out.
    datasets : sequence of Dataset
        The datasets named there.
    populations : sequence of str, optional
        Which, of each its first run; all when absent.
    kernel : str, optional
        The kernel; the first when absent.
    points : int, optional
        How many test points of each population and role; as many as there is room for when absent.
    each : int
        How many supporting and how many opposing images.

    Raises
    ------
    ValueError
        If a dataset named in the table is not among `datasets`.
    """
    known = strongest.dropna(subset=["dataset", "attribution"])
    if populations is not None:
        known = known[known["population"].isin(populations)]
    kernel, known = _choose(known, kernel)
    if known.empty:
        return style.in_words(f"There are no attributed images on the kernel {_kernel(kernel)}.")
    by_name = {dataset.name: dataset for dataset in datasets}
    lost = [name for name in style.order(known["dataset"]) if name not in by_name]
    if lost:
        raise ValueError(
            f"datasets: the table names {', '.join(lost)}, given are {', '.join(by_name) or 'none'}"
            "; add the missing datasets' files to the figure's inputs"
        )
    names = style.order(known["population"])
    examples = _examples(known, names, points or max(1, min(3, 6 // len(names))))
    height = 0.45 + _PITCH * len(examples)
    figure, axes = style.subplots(height=height)
    for line, pair in enumerate(examples):
        top = height - 0.4 - _PITCH * line
        for left, (role, part) in zip((0.0, 5.05), pair.items(), strict=True):
            if part.empty:
                words = f"no {'' if line == 0 else 'further '}{_ROLES[role]}"
                axes.text(left + 2.4, top - 0.8, words, ha="center", va="center", fontsize=9)
            else:
                _example(axes, part, by_name[str(part["dataset"].iloc[0])], left, top, each)
    for left, words in zip((0.0, 5.05), _ROLES.values(), strict=True):
        axes.text(left + 2.4, height - 0.22, words, ha="center", va="center", fontsize=11)
    axes.text(4.95, height - 0.22, f"kernel {_kernel(kernel)}", ha="center", va="center")
    # One frame in inches for all: dozens of axes would be slow, and of as many sizes.
    axes.set(xlim=(0.0, 9.9), ylim=(0.0, height), aspect="equal")
    axes.set_axis_off()
    return figure


_PITCH = 1.56
"""Height of a test point and its two rows of training images, in inches."""


def _examples(
    table: pd.DataFrame, names: Sequence[str], points: int
) -> list[dict[str, pd.DataFrame]]:
    """Rows of one test point of each role, for each line of the figure."""
    lines = []
    for name in names:
        runs = _first_run(table[table["population"] == name])
        parts = {role: runs[runs["role"] == role] for role in _ROLES}
        found = {role: part["point"].unique()[:points] for role, part in parts.items()}
        for i in range(max(map(len, found.values()))):
            lines.append(
                {
                    role: part[part["point"].isin(found[role][i : i + 1])]
                    for role, part in parts.items()
                }
            )
    return lines


def _example(
    axes: Axes, part: pd.DataFrame, dataset: Dataset, left: float, top: float, each: int
) -> None:
    """One test image with its two rows of training images, below and right of a corner."""
    row = part.iloc[0]

    def name(label: int, length: int = 12) -> str:
        return style.plain(style.short(dataset.classes[int(label)], length))

    _place_image(axes, dataset.test_images[int(row["point"])], left + 0.1, top - 0.95, 0.92)
    words = (
        f"{style.plain(style.short(row['population'], 20))}\ntest point {int(row['point'])}\n"
        f"label {name(row['label'])}\npredicted {name(row['predicted'])}"
    )
    axes.text(left + 0.56, top - 0.99, words, ha="center", va="top", fontsize=6.5, linespacing=1.1)
    pitch = 3.5 / each
    size = min(0.5, 0.86 * pitch)
    for line, (sign, tint) in enumerate(_SIGNS.items()):
        y = top - 0.03 - size - 0.75 * line
        axes.text(
            left + 1.26, y + size / 2, sign, rotation=90, ha="center", va="center", fontsize=7,
            color=tint,
        )  # fmt: skip
        ranked = part[part["sign"] == sign].sort_values("rank")[:each]
        for i, (_, neighbour) in enumerate(ranked.iterrows()):
            x = left + 1.36 + pitch * i + (pitch - size) / 2
            index = int(neighbour["train_point"])
            _place_image(axes, dataset.train_images[index], x, y, size, frame=tint)
            if dataset.poisoned[index]:
                corner = [(x, y + size), (x + size / 3, y + size), (x, y + 2 * size / 3)]
                axes.add_patch(Polygon(corner, color=style.colour(3), linewidth=0))
            # No longer than the next one begins: letters are some .06 inches wide.
            words = name(neighbour["train_label"], max(3, int(pitch / 0.06)))
            axes.text(
                x + size / 2, y - 0.03, f"{words}\n{_signed(neighbour['attribution'], '.2g')}",
                ha="center", va="top", fontsize=6.5, linespacing=1.05,
            )  # fmt: skip


def _place_image(
    axes: Axes, image: NDArray[np.uint8], x: float, y: float, size: float, *, frame: str = "#666666"
) -> None:
    """Draw an image, grey or in colours, in a square of the axes."""
    options: dict[str, Any] = {"extent": (x, x + size, y, y + size), "interpolation": "nearest"}
    if image.shape[0] == 1:
        axes.imshow(image[0], cmap="gray", vmin=0, vmax=255, **options)
    else:
        axes.imshow(np.moveaxis(image, 0, -1), **options)
    axes.add_patch(Rectangle((x, y), size, size, fill=False, edgecolor=frame, linewidth=1.4))


# -- agreement of two models ---------------------------------------------------------------------


_AMONG = {
    "correlation": "among all training points",
    "within_labels": "among training points of one label",
}


@style.styled
def agreement_figure(agreement: pd.DataFrame, *, kernel: str | None = None) -> Figure:
    """Do two models attribute alike? By how they are related, and beside their predictions.

    Parameters
    ----------
    agreement : DataFrame
        Rank correlations of the attributions of two runs, a row a pair and test point.
    kernel : str, optional
        The kernel; the first when absent.
    """
    kernel, known = _choose(agreement.dropna(subset=["correlation", "same_prediction"]), kernel)
    if known.empty:
        return style.in_words(
            f"No two models were compared by their attributions on {_kernel(kernel)}."
        )
    known = known.assign(same=known["same_prediction"].astype(bool))
    relations = style.ordered(known["relation"], _RELATIONS)
    figure, grid = style.subplots(2, 2, height=8.6, sharex="col")
    for (left, right), (measure, words) in zip(grid, _AMONG.items(), strict=True):
        _agreements(left, known.dropna(subset=[measure]), measure, relations)
        _agreement_of_pairs(right, known, measure, relations)
        left.set(ylabel="share of test points", ylim=(0.0, 1.01), title=f"by test point, {words}")
        right.set(ylabel="median rank correlation", title=f"by pair, {words}")
    left, right = grid[-1]
    left.set_xlabel("rank correlation of a test point's attributions")
    right.set_xlabel("test points with the same prediction (%)")
    for axes, above in zip((left, right), grid[0], strict=True):
        handles = above.get_legend_handles_labels()
        axes.legend(*handles, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    figure.suptitle(f"kernel {_kernel(kernel)}", fontsize=11)
    return figure


def _agreements(axes: Axes, known: pd.DataFrame, measure: str, relations: Sequence[str]) -> None:
    """Distribution of a rank correlation over test points, by relation and by prediction."""
    for i, relation in enumerate(relations):
        for same, dashes in ((True, "-"), (False, "--")):
            part = known[(known["relation"] == relation) & (known["same"] == same)]
            if len(part):
                words = "same" if same else "different"
                _distribution(
                    axes, part[measure].to_numpy(dtype=float), color=style.colour(i),
                    linestyle=dashes, linewidth=1.6,
                    label=f"{style.plain(relation)}, {words} prediction (n = {len(part)})",
                )  # fmt: skip


def _agreement_of_pairs(
    axes: Axes, known: pd.DataFrame, measure: str, relations: Sequence[str]
) -> None:
    """Median rank correlation of each pair of runs against how often they predict the same."""
    pairs = _pairs(known, measure)
    for i, relation in enumerate(relations):
        part = pairs[pairs["relation"] == relation]
        axes.plot(
            100 * part["same"], part[measure], style.marker(i), color=style.colour(i),
            markersize=6, alpha=0.7, markeredgewidth=0,
            label=f"{style.plain(relation)} ({len(part)} pair{'' if len(part) == 1 else 's'})",
        )  # fmt: skip


def _pairs(known: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Median correlation and share of same predictions of each pair of runs."""
    keys = ["relation", "population_a", "run_a", "population_b", "run_b"]
    groups = known.groupby(keys, sort=False)
    return groups.agg(**{measure: (measure, "median"), "same": ("same", "mean")}).reset_index()


def _distribution(axes: Axes, values: Array, **look: Any) -> None:
    """Empirical distribution function; of many values at so many of its steps as the eye sees."""
    last = len(values) - 1
    steps = np.unique(np.linspace(0.0, last, min(len(values), _GRID)).round().astype(np.int64))
    ends = np.sort(values)[steps]
    axes.step([ends[0], *ends], [0.0, *((steps + 1) / len(values))], where="post", **look)


# -- poison --------------------------------------------------------------------------------------

_FOUND = {"precision": "precision at k", "recall": "recall at 2k"}
# What is found without a kernel: column of the table for each of `_FOUND`, and look of the line.
_BASELINES: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "by the predicted label alone": (
        {"precision": "precision_by_label", "recall": "recall_by_label"},
        {"linestyle": "--", "linewidth": 1.4},
    ),
    "by chance": (
        {"precision": "chance", "recall": "chance_at_2k"},
        {"linestyle": ":", "linewidth": 1.6},
    ),
}


@style.styled
def poison_figure(poison: pd.DataFrame) -> Figure:
    """How well attribution finds the poisoned training points, by kernel, trigger and fraction.

    Parameters
    ----------
    poison : DataFrame
        A row a triggered test image and kernel.
    """
    known = poison.dropna(subset=["precision", "recall"], how="all")
    # Of 2k points drawn blindly twice the share of the poisoned ones is found.
    known = known.assign(chance_at_2k=(2.0 * known["chance"]).clip(upper=1.0))
    if known.empty:
        return style.in_words("No poisoned training points were looked for.")
    kernels = style.ordered(known["kernel"], _KERNELS)
    keys: list[tuple[str, float, str]] = list(
        known[["trigger", "fraction", "population"]]
        .drop_duplicates()
        .itertuples(index=False, name=None)
    )
    triggers = style.order(known["trigger"])
    keys.sort(key=lambda key: (triggers.index(str(key[0])), -key[1]))
    columns = min(3, len(keys))
    rows = -(-len(keys) // columns)
    height = min(0.9 + (2.9 if rows > 1 else 3.6) * rows, 9.8)
    figure, grid = style.subplots(rows, columns, height=height, squeeze=False, sharey=True)
    for i, (axes, key) in enumerate(zip(grid.flat, keys, strict=False)):
        trigger, fraction, name = key
        same = (known["trigger"] == trigger) & (known["fraction"] == fraction)
        part = known[same & (known["population"] == name)]
        _found(axes, part, kernels)
        images = part.drop_duplicates(["run", "point"])
        axes.set_title(
            f"{style.plain(style.short(name, 30))}\n"
            f"{style.plain(style.short(trigger, 30))}, {100 * fraction:g} % poisoned\n"
            f"fooled in {int(images['fooled'].astype(bool).sum())} of {len(images)} cases",
            fontsize=9,
        )
        if i + columns < len(keys):
            axes.tick_params(labelbottom=False)
    for axes in grid.flat[len(keys) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("fraction")
    grid[0][0].set_ylim(-0.04, 1.04)
    handles = [style.handle(i, words) for i, words in enumerate(_FOUND.values())]
    handles.append(
        style.handle(0, "network not fooled", color=_OTHERS, markerfacecolor="none", markersize=6)
    )
    handles.append(
        Line2D([], [], color=style.REFERENCE, linewidth=2.0, label="mean of those that fool")
    )
    handles += [
        Line2D([], [], color=style.colour(i), label=f"{found}, {words}", **look)
        for words, (_, look) in _BASELINES.items()
        for i, found in enumerate(_FOUND.values())
    ]
    style.below(figure, handles, columns=4)
    return figure


def _found(axes: Axes, part: pd.DataFrame, kernels: Sequence[str]) -> None:
    """Precision and recall of each triggered image, side by side at each kernel."""
    jitter = np.random.default_rng(0)
    of_fooled = part[part["fooled"].astype(bool)]
    for i, column in enumerate(_FOUND):
        for columns, look in _BASELINES.values():
            values = (part if of_fooled.empty else of_fooled)[columns[column]]
            axes.axhline(values.mean(), color=style.colour(i), label=f"_{columns[column]}", **look)
        for tick, kernel in enumerate(kernels):
            rows = part[part["kernel"] == kernel].dropna(subset=[column])
            if rows.empty:
                continue
            x = tick + (-0.2, 0.2)[i]
            across = x + jitter.uniform(-0.12, 0.12, size=len(rows))
            fooled = rows["fooled"].astype(bool).to_numpy()
            for which, fill in ((fooled, "full"), (~fooled, "none")):
                axes.plot(
                    across[which], rows[column][which], style.marker(i), color=style.colour(i),
                    markersize=3.5, alpha=0.55, markeredgewidth=0.8 if fill == "none" else 0,
                    fillstyle=fill, label=f"_{column} {fill}",
                )  # fmt: skip
            # From an image that does not fool the network there is no poison to be found.
            if fooled.any():
                axes.plot(
                    [x - 0.17, x + 0.17], [rows[column][fooled].mean()] * 2,
                    color=style.REFERENCE, linewidth=2.0, label="_mean",
                )  # fmt: skip
    labels = [_kernel(name) for name in kernels]
    many = len(kernels) > 3
    axes.set_xticks(
        range(len(kernels)), labels, rotation=35 if many else 0, ha="right" if many else "center",
        rotation_mode="anchor",
    )  # fmt: skip
    axes.set_xlim(-0.6, len(kernels) - 0.4)
    axes.grid(visible=False, axis="x")


@style.styled
def poison_curves_figure(poison_curves: pd.DataFrame) -> Figure:
    """Precision against recall as more training points are retrieved, by kernel.

    Parameters
    ----------
    poison_curves : DataFrame
        Means and quantiles over triggered images, on a grid of recalls; drawn are those of images
        that fool the network.
    """
    known = poison_curves.dropna(subset=["recall", "precision"])
    if known.empty:
        return style.in_words("No poisoned training points were looked for.")
    kernels, names = style.ordered(known["kernel"], _KERNELS), style.order(known["population"])
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    height = min(0.9 + (3.3 if rows > 1 else 3.8) * rows, 9.8)
    figure, grid = style.subplots(
        rows, columns, height=height, squeeze=False, sharex=True, sharey=True
    )
    for axes, name in zip(grid.flat, names, strict=False):
        of_name = known[known["population"] == name]
        fooling = of_name[of_name["fooled"].astype(bool)].sort_values("recall")
        _title_curves(axes, name, of_name)
        for i, kernel in enumerate(kernels):
            part = fooling[fooling["kernel"] == kernel]
            axes.fill_between(
                part["recall"], part["lower"], part["upper"], color=style.colour(i), alpha=0.06,
                linewidth=0,
            )  # fmt: skip
            # Seven bands on each other are one grey: thin edges keep each apart.
            for edge in ("lower", "upper"):
                axes.plot(
                    part["recall"], part[edge], color=style.colour(i), alpha=0.5, linewidth=0.6,
                    linestyle=_DASHES[i % len(_DASHES)], label=f"_{edge}",
                )  # fmt: skip
            axes.plot(
                part["recall"], part["precision"], color=style.colour(i),
                linestyle=_DASHES[i % len(_DASHES)], linewidth=1.8, label=_kernel(kernel),
            )  # fmt: skip
        by_label = fooling.drop_duplicates("recall")
        axes.plot(
            by_label["recall"], by_label["by_label"], color=style.REFERENCE, linewidth=1.2,
            linestyle="--", label="by the predicted label alone",
        )  # fmt: skip
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("recall")
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("precision")
    grid[0][0].set(xlim=(0.0, 1.0), ylim=(-0.02, 1.03))
    style.legend_below(figure, grid[0][0], columns=8)
    return figure


def _title_curves(axes: Axes, name: str, rows: pd.DataFrame) -> None:
    """A population's name, and how many triggered images, of all runs, fool the network."""
    one = rows[rows["kernel"] == rows["kernel"].iloc[0]].drop_duplicates("fooled")
    fooling = int(one.loc[one["fooled"].astype(bool), "images"].sum())
    axes.set_title(
        f"{style.plain(style.short(name, 28))}\n"
        f"fooled in {fooling} of {int(one['images'].sum())} cases",
        fontsize=10,
    )


# Curves at the ceiling lie on each other: gaps let the lower ones through.
_DASHES: tuple[Any, ...] = (
    "-", (0, (5, 2)), (0, (1, 1)), (0, (7, 2, 1, 2)), (0, (3, 1)), (0, (9, 3)), (0, (2, 3)),
)  # fmt: skip
