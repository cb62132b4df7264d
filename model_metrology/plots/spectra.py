"""Figures of the spectra instrument, from the tables of `model_metrology.spectra`.

Nothing is measured here: what is drawn stands in a table or a file of eigenvalues, save for means
over runs, empirical distribution functions, and the reference laws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, ScalarFormatter
from numpy.typing import NDArray

from model_metrology.plots import style
from model_metrology.spectra.laws import SpectralLaw, initial_law
from model_metrology.spectra.runs import MATRICES, RunSpectra
from model_metrology.spectra.tables import last_steps

Array = NDArray[np.float64]

_KINDS = ("bulk", "bulk+spikes", "broadened bulk", "heavy-tailed")
_KIND_COLOURS = ("#D9E6F2", "#F2C879", "#D98A4E", "#8C2D19")
_BEFORE = "#7F7F7F"
_NO_RUNS = "No run was completed: there are no spectra to draw."
_SHORT = {"weights": "weights", "conjugate kernel": "CK", "tangent kernel": "NTK"}
_NORMS = {
    "weights": r"$\|W_t - W_0\|_F\,/\,\sqrt{d}$",
    "conjugate kernel": r"$\|\mathrm{CK}_t - \mathrm{CK}_0\|_F$",
    "tangent kernel": r"$\|\mathrm{NTK}_t - \mathrm{NTK}_0\|_F$",
}


def _row(table: pd.DataFrame, group: str, matrix: str, run: int) -> Any:
    """The last row of a run and matrix."""
    chosen = table[(table["group"] == group) & (table["matrix"] == matrix) & (table["run"] == run)]
    return chosen.sort_values("step").iloc[-1]


def _law(row: Any) -> SpectralLaw:
    return initial_law(
        row["matrix"],
        points_per_dimension=row["data.points_per_dimension"],
        width_per_dimension=row["network.width_per_dimension"],
        slope_mean_squared=row["slope_mean_squared"],
        slope_second_moment=row["slope_second_moment"],
    )


def _kind(row: Any) -> str:
    """The kind of a spectrum in words."""
    return "broadened bulk" if row["broadened"] else str(row["kind"])


def _chosen(
    populations: Sequence[str], runs: Sequence[Sequence[RunSpectra]]
) -> dict[str, RunSpectra]:
    """The first completed run of each population that has one."""
    pairs = zip(populations, runs, strict=True)
    return {name: members[0] for name, members in pairs if members}


@style.styled
def densities_figure(
    table: pd.DataFrame, runs: Sequence[Sequence[RunSpectra]], *, populations: Sequence[str]
) -> Figure:
    """Densities of the three matrices' eigenvalues, before and after training.

    Parameters
    ----------
    table : DataFrame
        Of all spectra.
    runs : sequence of sequence of RunSpectra
        Of each population; its first run is drawn.
    populations : sequence of str
        Their names.
    """
    chosen = _chosen(populations, runs)
    if not chosen:
        return style.in_words(_NO_RUNS)
    figure, grid = style.subplots(
        len(MATRICES), len(chosen), height=7.6, squeeze=False, sharex="row"
    )
    for axes_row, matrix in zip(grid, MATRICES, strict=True):
        rows = [_row(table, name, matrix, run.run) for name, run in chosen.items()]
        edge = max(row["edge"] for row in rows)
        for axes, run, row in zip(axes_row, chosen.values(), rows, strict=True):
            _density(axes, run.eigenvalues[matrix], row, right=1.55 * edge)
        axes_row[0].set_ylabel(f"{matrix}\ndensity")
    for axes, name in zip(grid[0], chosen, strict=True):
        axes.set_title(f"{style.plain(style.short(name, 18))}\n{axes.get_title()}", fontsize=10)
    for axes in grid[-1]:
        axes.set_xlabel("eigenvalue")
    style.legend_below(figure, grid[0][0])
    return figure


def _density(axes: Axes, eigenvalues: Array, row: Any, *, right: float) -> None:
    """One matrix of one run; eigenvalues beyond the frame are named in a corner."""
    before, after = eigenvalues[0], eigenvalues[-1]
    law, threshold = _law(row), row["threshold"]
    bins = np.linspace(0.0, right, 56)
    top = 0.0
    # Exact zeros are the law's atom: a density cannot show them.
    for values, options in (
        (after, {"color": style.colour(4), "alpha": 0.75, "label": "after training"}),
        (before, {"histtype": "step", "color": _BEFORE, "label": "at initialisation"}),
    ):
        positive = values[values > 0]
        weights = np.full(len(positive), 1.0 / (len(values) * (bins[1] - bins[0])))
        heights, _, _ = axes.hist(positive, bins=bins.tolist(), weights=weights, **options)
        # Near 0 a kernel's density is many times that of all else, which should be seen.
        top = max(top, 1.3 * float(np.sort(heights)[-4]))
    grid = np.linspace(max(law.lower, 1e-3), law.upper, 800)
    axes.plot(grid, law.density(grid), color=style.REFERENCE, linewidth=1.2, label="law")
    axes.set(xlim=(0.0, right), ylim=(0.0, top))
    axes.axvline(
        threshold, color=style.colour(1), linestyle=":", linewidth=1.2, label="edge test's level"
    )
    outliers = after[after > threshold]
    inside = outliers[outliers <= right]
    axes.plot(
        inside,
        np.full(len(inside), 0.03 * top),
        "v",
        color=style.colour(1),
        markersize=5,
        label="outlier",
    )
    notes = []
    if len(inside) < len(outliers):
        notes.append(f"{len(outliers) - len(inside)} further right,\nup to {outliers[-1]:.3g}")
    if (after == 0).any():
        notes.append(f"{(after == 0).mean():.0%} at 0")
    axes.text(
        0.98, 0.97, "\n".join(notes), transform=axes.transAxes, ha="right", va="top", fontsize=8,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
    )  # fmt: skip
    axes.set_title(_kind(row), fontsize=9)
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.xaxis.set_major_locator(MaxNLocator(4))


@style.styled
def tails_figure(
    table: pd.DataFrame, runs: Sequence[Sequence[RunSpectra]], *, populations: Sequence[str]
) -> Figure:
    """Upper tails of the weights' and the conjugate kernel's spectra, on logarithmic axes.

    Parameters
    ----------
    table, runs, populations
        As of :func:`densities_figure`.
    """
    chosen = _chosen(populations, runs)
    if not chosen:
        return style.in_words(_NO_RUNS)
    shown = MATRICES[:2]
    figure, grid = style.subplots(
        len(shown), len(chosen), height=5.4, squeeze=False, sharex="row", sharey="row"
    )
    for axes_row, matrix in zip(grid, shown, strict=True):
        for axes, (name, run) in zip(axes_row, chosen.items(), strict=True):
            _tail(axes, run.eigenvalues[matrix], _row(table, name, matrix, run.run))
        axes_row[0].set_ylabel(f"{matrix}\nshare of larger eigenvalues")
        largest = max(run.eigenvalues[matrix].max() for run in chosen.values())
        axes_row[0].set(
            xlim=(0.05, 1.5 * largest), ylim=(0.5 / len(run.eigenvalues[matrix][0]), 1.5)
        )
    for axes, name in zip(grid[0], chosen, strict=True):
        axes.set_title(style.plain(style.short(name, 18)), fontsize=10)
    for axes in grid[-1]:
        axes.set_xlabel("eigenvalue")
    style.legend_below(figure, grid[0][0])
    return figure


def _tail(axes: Axes, eigenvalues: Array, row: Any) -> None:
    for values, colour, label in (
        (eigenvalues[0], _BEFORE, "at initialisation"),
        (eigenvalues[-1], style.colour(0), "after training"),
    ):
        positive = np.sort(values[values > 0])
        share = np.arange(len(positive), 0, -1) / len(values)
        axes.loglog(positive, share, ".", markersize=3.5, color=colour, label=label)
    axes.axvline(
        row["threshold"], color=style.colour(1), linestyle=":", linewidth=1.2, label="edge test"
    )
    tail = int(row["tail"])
    if tail:
        top = np.sort(eigenvalues[-1])[-tail:]
        share = tail / len(eigenvalues[-1]) * (top / top[0]) ** (1.0 - row["exponent"])
        colour = style.colour(2) if row["kind"] == "heavy-tailed" else style.colour(3)
        axes.loglog(top, share, color=colour, linewidth=1.8)
        words = "" if row["kind"] == "heavy-tailed" else ", rejected"
        axes.text(
            0.04, 0.05, f"power {row['exponent']:.1f}{words}", color=colour,
            transform=axes.transAxes, fontsize=8,
        )  # fmt: skip


@style.styled
def alignment_figure(
    table: pd.DataFrame, *, populations: Sequence[str], multi_index: Sequence[str]
) -> Figure:
    """What training does step by step: spike, alignment, kernel–target alignment, test R².

    Parameters
    ----------
    table : DataFrame
        Of all spectra.
    populations : sequence of str
        Which to draw.
    multi_index : sequence of str
        Those with several planted directions, for the last panel.
    """
    names = [name for name in populations if (table["group"] == name).any()]
    if not names:
        return style.in_words(_NO_RUNS)
    panels: list[tuple[str, str, str, Sequence[str]]] = [
        ("weights", "over_edge", "largest eigenvalue / edge", names),
        ("weights", "alignment_teacher", "|cos| eigenvector, teacher", names),
        ("conjugate kernel", "target_alignment", "kernel–target alignment, CK", names),
        ("weights", "test_r2", "test R²", names),
    ]
    several = [name for name in multi_index if name in names]
    if several:
        label = "mean cos², k eigenvectors"
        panels.append(("weights", "alignment_subspace", label, several))
    figure, grid = style.subplots(2, 3, height=6.6, squeeze=False)
    table = table.assign(over_edge=table["largest"] / table["edge"])
    for axes, (matrix, column, label, members) in zip(grid.flat, panels, strict=False):
        for name in members:
            part = table[(table["group"] == name) & (table["matrix"] == matrix)]
            _against_steps(axes, part, column, names.index(name), name)
        axes.set(xlabel="step", ylabel=label)
    grid.flat[0].set_yscale("log")
    grid.flat[0].yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    grid.flat[0].yaxis.set_major_formatter(ScalarFormatter())
    grid.flat[0].yaxis.set_minor_formatter(NullFormatter())
    grid.flat[0].axhline(1.0, color=style.REFERENCE, linewidth=0.8)
    grid.flat[3].set_ylim(-1.0, 1.0)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    if several:
        grid.flat[4].set_title("several teachers", fontsize=10)
    style.legend_below(figure, grid.flat[0])
    return figure


def _against_steps(axes: Axes, part: pd.DataFrame, column: str, i: int, name: str) -> None:
    """Runs as thin lines, their mean with markers; step 0 has its place on a log axis."""
    wide = part.pivot_table(index="step", columns="run", values=column)
    if wide.empty:
        return
    axes.plot(wide.index, wide, color=style.colour(i), alpha=0.25, linewidth=0.7)
    axes.plot(
        wide.index, wide.mean(axis=1), color=style.colour(i), linestyle=style.line(i),
        marker=style.marker(i), markersize=5, label=style.plain(name),
    )  # fmt: skip
    axes.set_xscale("symlog", linthresh=1.0)


@style.styled
def norms_size_figure(table: pd.DataFrame, slopes: pd.DataFrame) -> Figure:
    """The three norms of the theorems against n, with fitted and predicted slopes.

    Parameters
    ----------
    table : DataFrame
        Of all spectra.
    slopes : DataFrame
        From :func:`~model_metrology.spectra.tables.slopes_table`.
    """
    end = last_steps(table)
    sweeps = style.order(slopes["group"])
    if not len(end[end["group"].isin(sweeps)]):
        return style.in_words(_NO_RUNS)
    figure, grid = style.subplots(1, len(MATRICES), height=4.4, squeeze=False)
    for axes, matrix in zip(grid[0], MATRICES, strict=True):
        for i, name in enumerate(sweeps):
            part = end[(end["group"] == name) & (end["matrix"] == matrix)]
            fit = slopes[(slopes["group"] == name) & (slopes["matrix"] == matrix)].iloc[0]
            _scaling(axes, part[part["norm_change"] > 0], fit, i, name)
        axes.set(xlabel="points n (ratios fixed)", ylabel=_NORMS[matrix], title=matrix)
        sizes = sorted(set(end.loc[end["group"].isin(sweeps), "data.points"]))
        axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
        axes.minorticks_off()
        axes.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0.0, 1.12))
    return figure


def _scaling(axes: Axes, part: pd.DataFrame, fit: Any, i: int, name: str) -> None:
    label = style.plain(name)
    if np.isfinite(fit["slope"]):
        label += f": {fit['slope']:.2f} [{fit['low']:.2f}, {fit['high']:.2f}]"
    n, norm = part["data.points"], part["norm_change"]
    axes.loglog(
        n, norm, style.marker(i), color=style.colour(i), markersize=4.5, alpha=0.7, label=label,
        linestyle="none",
    )  # fmt: skip
    if not len(part):
        return
    sizes = np.array([n.min(), n.max()], dtype=float)
    middle = np.exp(np.log(n).mean()), np.exp(np.log(norm).mean())
    for slope, options in ((fit["slope"], {}), (fit["predicted"], {"linestyle": "--"})):
        if np.isfinite(slope):
            colour = style.REFERENCE if options else style.colour(i)
            values = middle[1] * (sizes / middle[0]) ** slope
            axes.loglog(sizes, values, color=colour, linewidth=1.2, **options)


@style.styled
def norms_time_figure(table: pd.DataFrame, *, populations: Sequence[str]) -> Figure:
    """The three norms against the training step.

    Parameters
    ----------
    table : DataFrame
        Of all spectra.
    populations : sequence of str
        Which to draw.
    """
    names = [name for name in populations if (table["group"] == name).any()]
    if not names:
        return style.in_words(_NO_RUNS)
    figure, grid = style.subplots(1, len(MATRICES), height=4.2, squeeze=False)
    for axes, matrix in zip(grid[0], MATRICES, strict=True):
        for i, name in enumerate(names):
            part = table[(table["group"] == name) & (table["matrix"] == matrix)]
            _against_steps(axes, part[part["step"] > 0], "norm_change", i, name)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set(xlabel="step", ylabel=_NORMS[matrix], title=matrix)
    style.legend_below(figure, grid[0][0])
    return figure


@style.styled
def phases_figure(table: pd.DataFrame, excluded: pd.DataFrame, *, sweeps: Sequence[str]) -> Figure:
    """Phase diagrams: step size against label scale.

    Parameters
    ----------
    table, excluded : DataFrame
        Of all spectra, and the diverged runs.
    sweeps : sequence of str
        Names of the sweeps, a column each.
    """
    end = last_steps(table)
    end = end[(end["matrix"] == "weights") & end["group"].isin(sweeps)]
    lost = excluded[excluded["group"].isin(sweeps)]
    if end.empty and lost.empty:
        return style.in_words(_NO_RUNS)
    panels = {
        "kind": "kind, outliers",
        "alignment_teacher": "|cos| to the teacher",
        "test_r2": "test R²",
    }
    figure, grid = style.subplots(len(panels), len(sweeps), height=8.2, squeeze=False)
    for column, name in zip(grid.T, sweeps, strict=True):
        cells = _cells(end[end["group"] == name], lost[lost["group"] == name])
        for axes, panel in zip(column, panels, strict=True):
            image = _phase_panel(axes, cells, panel)
            if panel != "kind" and name == sweeps[-1]:
                figure.colorbar(image, ax=grid[list(panels).index(panel)], shrink=0.85, pad=0.01)
        column[0].set_title(style.plain(name))
        column[-1].set_xlabel("step size")
    for axes, label in zip(grid[:, 0], panels.values(), strict=True):
        axes.set_ylabel(f"{label}\n\nlabel scale", fontsize=10)
    handles = [_swatch(colour) for colour in (*_KIND_COLOURS, "white")]
    labels = [*_KINDS, "×: diverged"]
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=9)
    return figure


def _swatch(colour: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(facecolor=colour, edgecolor="#999999")


def _cells(end: pd.DataFrame, lost: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Label scale × step size: the usual kind, means over the runs, and shares that diverged."""
    keys = ["data.label_scale", "recipe.learning_rate"]
    rows = sorted({*end[keys[0]], *lost[keys[0]]})
    columns = sorted({*end[keys[1]], *lost[keys[1]]})

    def spread(values: pd.Series) -> pd.DataFrame:
        table = values.unstack() if len(values) else pd.DataFrame()
        return table.reindex(index=rows, columns=columns)

    grouped = end.groupby(keys)
    names = end["kind"].where(~end["broadened"].astype(bool), "broadened bulk")
    codes = names.map({kind: i for i, kind in enumerate(_KINDS)})
    kinds = codes.groupby([end[key] for key in keys]).agg(lambda found: found.mode().iloc[0])
    cells = {
        name: spread(grouped[name].mean()) for name in ("outliers", "alignment_teacher", "test_r2")
    }
    return cells | {
        "kind": spread(kinds),
        "diverged": spread(lost.groupby(keys).size()),
        "completed": spread(grouped.size()),
    }


def _phase_panel(axes: Axes, cells: Mapping[str, pd.DataFrame], panel: str) -> Any:
    values = cells[panel].to_numpy(dtype=float)
    limits = {"kind": (-0.5, 3.5), "alignment_teacher": (0.0, 1.0), "test_r2": (-0.2, 0.8)}
    colours = ListedColormap(_KIND_COLOURS) if panel == "kind" else "cividis"
    low, high = limits[panel]
    image = axes.imshow(values, origin="lower", aspect="auto", cmap=colours, vmin=low, vmax=high)
    index, columns = cells[panel].index, cells[panel].columns
    axes.set_xticks(range(len(columns)), [format(float(x), "g") for x in columns])
    axes.set_yticks(range(len(index)), [format(float(y), "g") for y in index])
    axes.grid(False)
    diverged = cells["diverged"].fillna(0).to_numpy()
    completed = cells["completed"].fillna(0).to_numpy()
    outliers = cells["outliers"].to_numpy(dtype=float)
    for i, j in np.ndindex(values.shape):
        if panel == "kind" and completed[i, j]:
            mark = "×" if diverged[i, j] else ""
            text = f"{outliers[i, j]:.0f}{mark}"
            colour = "white" if values[i, j] == 3 else "black"
            axes.text(j, i, text, ha="center", va="center", fontsize=8, color=colour)
        elif diverged[i, j] and not completed[i, j]:
            axes.text(j, i, "×", ha="center", va="center", fontsize=11, color="#666666")
    return image


@style.styled
def bulk_figure(table: pd.DataFrame, *, populations: Sequence[str]) -> Figure:
    """How far the bulk has moved: KS distance to the bulk at initialisation, without outliers.

    Parameters
    ----------
    table : DataFrame
        Of all spectra.
    populations : sequence of str
        Which to draw.
    """
    end = last_steps(table)
    names = [name for name in populations if (end["group"] == name).any()]
    if not names:
        return style.in_words(_NO_RUNS)
    start = table[(table["step"] == 0) & table["group"].isin(names)]
    figure, grid = style.subplots(1, len(MATRICES), height=4.0, squeeze=False, sharey=True)
    for axes, matrix in zip(grid[0], MATRICES, strict=True):
        for i, name in enumerate(names):
            part = end[(end["group"] == name) & (end["matrix"] == matrix)]
            x = np.full(len(part), i) + np.linspace(-0.15, 0.15, len(part))
            axes.plot(
                x,
                part["bulk_distance"].clip(lower=1.2e-3),
                style.marker(i),
                color=style.colour(i),
                markersize=5,
            )
        usual = start.loc[start["matrix"] == matrix, "law_distance"]
        axes.set_yscale("log")
        axes.axhspan(
            1e-4, usual.max(), color="#000000", alpha=0.10, linewidth=0,
            label="distance to the law at initialisation, up to the largest",
        )  # fmt: skip
        labels = [style.plain(style.short(name)) for name in names]
        axes.set_xticks(range(len(names)), labels, rotation=35, ha="right")
        axes.set(title=matrix, xlim=(-0.6, len(names) - 0.4), ylim=(1e-3, 1.0))
    grid[0][0].set_ylabel("KS distance of the bulk\nto the bulk at initialisation")
    style.legend_below(figure, grid[0][0])
    return figure


@style.styled
def images_figure(tables: pd.DataFrame) -> Figure:
    """Spectra of networks trained on images: layers and kernels, before and after.

    Parameters
    ----------
    tables : DataFrame
        From :func:`~model_metrology.spectra.images.image_spectra`, of all populations.
    """
    names = style.order(tables["population"]) if len(tables) else []
    if not names:
        return style.in_words(_NO_RUNS)
    figure, grid = style.subplots(2, len(names), height=6.6, squeeze=False)
    for (upper, lower), name in zip(grid.T, names, strict=True):
        part = tables[tables["population"] == name]
        kernels = part["matrix"].str.contains("kernel")
        _layers(upper, part[~kernels])
        _kernels(lower, part[kernels])
        upper.set_title(style.plain(name))
    grid[0][0].set_ylabel("largest eigenvalue over\nthe edge test's threshold")
    grid[1][0].set_ylabel("kernels")
    style.legend_below(figure, grid[0][0])
    return figure


def _layers(axes: Axes, part: pd.DataFrame) -> None:
    part = part.dropna(subset=["threshold"])
    layers = style.order(part["matrix"])
    for stage, colour, mark in (("initial", _BEFORE, "o"), ("trained", style.colour(1), "D")):
        rows = part[part["stage"] == stage]
        x = rows["matrix"].map({layer: i for i, layer in enumerate(layers)})
        label = "at initialisation" if stage == "initial" else "after training"
        axes.semilogy(
            x, rows["largest"] / rows["threshold"], mark, color=colour, label=label, markersize=6
        )
        if stage == "trained":
            for layer, row in rows.groupby("matrix", sort=False):
                found = float(row["outliers"].mean())
                axes.annotate(
                    f"{found:.0f}",
                    (layers.index(str(layer)), (row["largest"] / row["threshold"]).max()),
                    xytext=(7, 3), textcoords="offset points", fontsize=8,
                )  # fmt: skip
    axes.axhline(1.0, color=style.REFERENCE, linewidth=0.8)
    shapes = part.drop_duplicates("matrix").set_index("matrix")
    ticks = [
        f"{style.plain(style.short(name, 14))}\n{shapes['rows'][name]}×{shapes['columns'][name]}"
        for name in layers
    ]
    axes.set_xticks(range(len(layers)), ticks, fontsize=8)
    axes.margins(x=0.25, y=0.2)


def _kernels(axes: Axes, part: pd.DataFrame) -> None:
    quantities = {
        "top_share": "share of\nthe largest",
        "target_alignment": "alignment\nwith labels",
    }
    labels, x = [], 0
    for matrix in style.order(part["matrix"]):
        for column, label in quantities.items():
            for stage, colour, mark in (
                ("initial", _BEFORE, "o"),
                ("trained", style.colour(1), "D"),
            ):
                rows = part[(part["matrix"] == matrix) & (part["stage"] == stage)]
                axes.plot(np.full(len(rows), x), rows[column], mark, color=colour, markersize=6)
            labels.append(f"{_SHORT.get(matrix, matrix)}:\n{label}")
            x += 1
    axes.set_xticks(range(x), labels, fontsize=8)
    axes.set_ylim(0.0, 1.0)
    axes.margins(x=0.15)


# -- naming the optimiser ----------------------------------------------------------------------

_FEATURES = (
    "spectra", "final spectra", "weights alone", "loss and norms", "weight norm", "final loss",
)  # fmt: skip
_SPLITS = {
    "network.width_per_dimension": "width",
    "step_rank": "step size",
    "data.link": "teacher",
    "data.label_scale": "label scale",
}


def _split(name: str) -> str:
    """The name of a split in words."""
    key = name.removeprefix("unseen ")
    return f"unseen {_SPLITS.get(key, key)}"


@style.styled
def forensics_accuracy_figure(accuracy: pd.DataFrame) -> Figure:
    """How often the optimiser is named rightly, by what the classifier saw and had not seen.

    Parameters
    ----------
    accuracy : DataFrame
        As of :class:`~model_metrology.spectra.forensics.ForensicsTables`.
    """
    whole = accuracy[accuracy["part"] == "all"]
    if whole.empty:
        return style.in_words("No optimiser was to be named.")
    splits = style.order(whole["split"])
    features = [name for name in _FEATURES if name in set(whole["features"])]
    figure, axes = style.subplots(height=4.6)
    width = 0.8 / len(features)
    for i, name in enumerate(features):
        rows = whole[whole["features"] == name].set_index("split").loc[splits]
        x = np.arange(len(splits)) + (i - (len(features) - 1) / 2) * width
        baseline = name in ("final loss", "weight norm", "loss and norms")
        axes.bar(
            x, rows["accuracy"], 0.9 * width, color=style.colour(i),
            hatch="///" if baseline else "", edgecolor="white", linewidth=0.5,
            label=f"{name} (baseline)" if baseline else name,
        )  # fmt: skip
        axes.vlines(x, rows["low"], rows["high"], color=style.REFERENCE, linewidth=1.0)
    axes.set_xticks(range(len(splits)), [style.plain(_split(name)) for name in splits])
    axes.set(ylabel="share of runs named rightly\n(forced to one name)", ylim=(0.0, 1.02))
    axes.grid(axis="x", visible=False)
    style.legend_below(figure, axes, columns=3)
    return figure


@style.styled
def forensics_confusion_figure(confusion: pd.DataFrame) -> Figure:
    """What is said of runs of each optimiser, in each split.

    Parameters
    ----------
    confusion : DataFrame
        As of :class:`~model_metrology.spectra.forensics.ForensicsTables`.
    """
    if confusion.empty:
        return style.in_words("No optimiser was to be named.")
    splits = style.order(confusion["split"])
    known = confusion[confusion["split"] == splits[0]]
    classes = style.order([*known["truth"], *confusion["named"]])
    columns = min(3, len(splits))
    rows = -(-len(splits) // columns)
    figure, grid = style.subplots(rows, columns, height=3.3 * rows, squeeze=False)
    for axes, split in zip(grid.flat, splits, strict=False):
        part = confusion[confusion["split"] == split]
        truths = style.order(part["truth"])
        # Names in the order of the truths, abstentions last.
        said = sorted(style.order(part["named"]), key=classes.index)
        counts = part.pivot_table(index="truth", columns="named", values="count", aggfunc="sum")
        counts = counts.reindex(index=truths, columns=said).fillna(0)
        found = counts.to_numpy(dtype=float)
        shares = found / found.sum(axis=1, keepdims=True).clip(min=1.0)
        axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
        for i, j in np.ndindex(shares.shape):
            if found[i, j]:
                axes.text(
                    j, i, str(int(found[i, j])), ha="center", va="center", fontsize=8,
                    color="white" if shares[i, j] > 0.55 else "black",
                )  # fmt: skip
        labels = [style.plain(style.short(name, 12)) for name in said]
        axes.set_xticks(range(len(said)), labels, rotation=40, ha="right", fontsize=8)
        names = [style.plain(style.short(name, 14)) for name in truths]
        axes.set_yticks(range(len(truths)), names, fontsize=8)
        title = split if not split.startswith("unseen ") else _split(split)
        axes.set_title(style.plain(title), fontsize=10)
        axes.grid(False)
    for axes in grid.flat[len(splits) :]:
        axes.set_visible(False)
    figure.supxlabel("named", fontsize=10)
    figure.supylabel("trained by", fontsize=10)
    return figure


@style.styled
def forensics_reliability_figure(reliability: pd.DataFrame) -> Figure:
    """Is the classifier right as often as it says? Unseen seeds.

    Parameters
    ----------
    reliability : DataFrame
        As of :class:`~model_metrology.spectra.forensics.ForensicsTables`.
    """
    filled = reliability[reliability["count"] > 0].rename(columns={"count": "count_"})
    if filled.empty:
        return style.in_words("No optimiser was to be named.")
    figure, (axes, counts) = style.subplots(1, 2, height=4.0)
    axes.plot([0, 1], [0, 1], "--", color=style.REFERENCE, linewidth=1.0, label="calibrated")
    axes.plot(
        filled["confidence"], filled["accuracy"], "o", color=style.colour(0),
        label="share right, with the number of runs",
    )  # fmt: skip
    for row in filled.itertuples():
        axes.annotate(
            str(row.count_), (row.confidence, row.accuracy), xytext=(-4, 7), ha="right",
            textcoords="offset points", fontsize=8,
        )  # fmt: skip
    axes.set(
        xlabel="confidence in the likeliest name", ylabel="share that is right",
        xlim=(0, 1.02), ylim=(0, 1.02),
    )  # fmt: skip
    axes.legend(loc="upper left")
    width = reliability["high"] - reliability["low"]
    counts.bar(
        reliability["low"] + width / 2, reliability["count"], 0.9 * width, color=style.colour(0)
    )
    counts.set(xlabel="confidence in the likeliest name", ylabel="runs", xlim=(0, 1.02))
    return figure
