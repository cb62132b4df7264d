"""Figures of the spectra instrument, from the tables of `model_metrology.spectra`.

Nothing is measured here: what is drawn stands in a table or a file of eigenvalues, save for means
over runs, empirical distribution functions and their distances at initialisation, intervals of
counted shares, and the reference laws.
"""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray

from model_metrology.plots import style
from model_metrology.spectra.laws import SpectralLaw, initial_law
from model_metrology.spectra.runs import MATRICES, RunSpectra
from model_metrology.spectra.tables import last_steps
from model_metrology.variability.simulation import wilson_interval

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


def _narrow(columns: int) -> bool:
    """Are so many columns side by side that words in them must be small?"""
    return columns > 6


def _column_titles(grid: Any, populations: Sequence[str]) -> None:
    """Name each column above what its first panel says; wrapped where columns are narrow."""
    columns = len(populations)
    width, size = max(8, 108 // columns), 8 if _narrow(columns) else 10
    for axes, name in zip(grid[0], populations, strict=True):
        words = style.plain(textwrap.fill(style.short(name, 2 * width), width))
        axes.set_title(f"{words}\n{axes.get_title()}".rstrip("\n"), fontsize=size)


def _legend(figure: Figure, axes: Axes) -> None:
    """Legend below the figure, in rows of much the same length."""
    entries = len(axes.get_legend_handles_labels()[0])
    rows = -(-entries // 5)
    style.legend_below(figure, axes, columns=-(-entries // max(rows, 1)))


def _plain_logarithm(axes: Axes) -> None:
    """Logarithmic y axis of a few decades, with ordinary numbers at its ticks."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high / low < 1000.0:
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


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
        len(MATRICES), len(populations), height=7.6, squeeze=False, sharex="row", sharey="row"
    )
    narrow = _narrow(len(populations))
    for axes_row, matrix in zip(grid, MATRICES, strict=True):
        rows = {name: _row(table, name, matrix, run.run) for name, run in chosen.items()}
        edge, tops = max(row["edge"] for row in rows.values()), []
        for axes, name in zip(axes_row, populations, strict=True):
            if name not in chosen:
                style.say(axes, "all runs\ndiverged")
                continue
            values = chosen[name].eigenvalues[matrix]
            tops.append(_density(axes, values, rows[name], right=1.55 * edge, narrow=narrow))
        axes_row[0].set(xlim=(0.0, 1.55 * edge), ylim=(0.0, max(tops)))
        axes_row[0].xaxis.set_major_locator(MaxNLocator(2 if narrow else 4))
        axes_row[0].yaxis.set_major_locator(MaxNLocator(3))
        _label_row(figure, axes_row[0], f"{matrix}\ndensity")
    _column_titles(grid, populations)
    for axes in grid[-1]:
        axes.set_xlabel("eigenvalue")
    _legend(figure, grid[0][list(populations).index(next(iter(chosen)))])
    return figure


def _label_row(figure: Figure, axes: Axes, label: str) -> None:
    """Label a row of panels at its first, also where that one says that there is nothing."""
    if axes.axison:
        axes.set_ylabel(label)
        return
    axes.annotate(
        label, (0.0, 0.5), xycoords="axes fraction", xytext=(-8, 0), textcoords="offset points",
        rotation=90, ha="right", va="center", multialignment="center",
    )  # fmt: skip


def _density(axes: Axes, eigenvalues: Array, row: Any, *, right: float, narrow: bool) -> float:
    """One matrix of one run, and its height; what is beyond `right` is named in a corner."""
    before, after = eigenvalues[0], eigenvalues[-1]
    law, threshold = _law(row), row["threshold"]
    bins = np.linspace(0.0, right, 36 if narrow else 56)
    top = 0.0
    # Exact zeros are the law's atom: a density cannot show them.
    looks: tuple[tuple[Array, dict[str, Any]], ...] = (
        (after, {"color": style.colour(4), "alpha": 0.75, "label": "after training"}),
        (
            before,
            {
                "histtype": "step",
                "color": _BEFORE,
                "linewidth": 0.9,
                "label": "at initialisation",
            },
        ),
    )
    for values, options in looks:
        positive = values[values > 0]
        weights = np.full(len(positive), 1.0 / (len(values) * (bins[1] - bins[0])))
        heights, _, _ = axes.hist(positive, bins=bins.tolist(), weights=weights, **options)
        # Near 0 a kernel's density is many times that of all else, which should be seen.
        top = max(top, 1.3 * float(np.sort(heights)[-4]))
    # Of fewer than four filled bins the highest would be cut off.
    top = top or 1.0 / right
    grid = np.linspace(max(law.lower, 1e-3), law.upper, 800)
    axes.plot(grid, law.density(grid), color=style.REFERENCE, linewidth=1.2, label="law")
    axes.axvline(
        threshold, color=style.colour(1), linestyle=":", linewidth=1.2, label="edge test's level"
    )
    outliers = after[after > threshold]
    inside = outliers[outliers <= right]
    axes.plot(
        inside,
        np.full(len(inside), 0.03),
        "v",
        color=style.colour(1),
        markersize=5,
        transform=axes.get_xaxis_transform(),
        label="outlier",
    )
    notes = []
    if len(inside) < len(outliers):
        notes.append(f"{len(outliers) - len(inside)} beyond,\nup to {outliers[-1]:.3g}")
    if (after == 0).any():
        notes.append(f"{(after == 0).mean():.0%} at 0")
    axes.text(
        0.98, 0.97, "\n".join(notes), transform=axes.transAxes, ha="right", va="top",
        fontsize=7 if narrow else 8,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
    )  # fmt: skip
    axes.set_title(_kind(row), fontsize=8 if narrow else 9)
    return top


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
        len(shown), len(populations), height=5.4, squeeze=False, sharex="row", sharey="row"
    )
    for axes_row, matrix in zip(grid, shown, strict=True):
        for axes, name in zip(axes_row, populations, strict=True):
            if name in chosen:
                run = chosen[name]
                _tail(axes, run.eigenvalues[matrix], _row(table, name, matrix, run.run))
            else:
                style.say(axes, "all runs\ndiverged")
        _label_row(figure, axes_row[0], f"{matrix}\nshare of larger eigenvalues")
        values = [run.eigenvalues[matrix] for run in chosen.values()]
        largest, size = max(part.max() for part in values), max(part.shape[1] for part in values)
        axes_row[0].set(xlim=(0.05, max(1.5 * largest, 1.0)), ylim=(0.5 / size, 1.5))
    _column_titles(grid, populations)
    for axes in grid[-1]:
        axes.set_xlabel("eigenvalue")
    _tail_legend(figure, grid)
    return figure


def _tail_legend(figure: Figure, grid: Any) -> None:
    """One legend of all panels: few of them have a power law."""
    entries = {
        label: handle
        for axes in grid.flat
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=len(entries))


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
        heavy = row["kind"] == "heavy-tailed"
        colour = style.colour(2) if heavy else style.colour(3)
        words = "power law" if heavy else "power law, rejected"
        axes.loglog(top, share, color=colour, linewidth=1.8, label=words)
        text = f"exponent\n{row['exponent']:.1f}"
        axes.text(0.04, 0.05, text, color=colour, transform=axes.transAxes, fontsize=7)


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
    _plain_logarithm(grid.flat[0])
    grid.flat[0].axhline(1.0, color=style.REFERENCE, linewidth=0.8)
    grid.flat[3].set_ylim(-1.0, 1.0)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    if several:
        grid.flat[4].set_title("several teachers (dashed: by chance, k/d)", fontsize=9)
    for chance in _chance(table[table["group"].isin(several)]):
        grid.flat[4].axhline(chance, color=style.REFERENCE, linestyle="--", linewidth=0.8)
    _legend(figure, grid.flat[0])
    return figure


def _chance(part: pd.DataFrame) -> list[float]:
    """Mean cos² that k random directions have with k planted ones: k/d."""
    return sorted(set(part["data.directions"] / part["dimension"]))


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
        turned = len(sizes) > 4
        axes.tick_params(axis="x", rotation=45 if turned else 0)
        axes.minorticks_off()
        axes.legend(
            fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.26 if turned else -0.17)
        )
    return figure


def _scaling(axes: Axes, part: pd.DataFrame, fit: Any, i: int, name: str) -> None:
    label = style.plain(name)
    if np.isfinite(fit["slope"]):
        numbers = f"{fit['slope']:.2f} [{fit['low']:.2f}, {fit['high']:.2f}]"
        label += ": slope " + numbers.replace("-", "−").replace("−0.00", "0.00")
    n, norm = part["data.points"], part["norm_change"]
    axes.loglog(
        n, norm, style.marker(i), color=style.colour(i), markersize=4.5, alpha=0.7, label=label,
        linestyle="none",
    )  # fmt: skip
    if not len(part):
        return
    sizes = np.array([n.min(), n.max()], dtype=float)
    middle = np.exp(np.log(n).mean()), np.exp(np.log(norm).mean())
    predicted = {"linestyle": "--", "color": style.REFERENCE}
    if np.isfinite(fit["predicted"]):
        predicted["label"] = f"predicted slope {fit['predicted']:.0f}".replace("-", "−")
    for slope, options in (
        (fit["slope"], {"color": style.colour(i)}),
        (fit["predicted"], predicted),
    ):
        if np.isfinite(slope):
            values = middle[1] * (sizes / middle[0]) ** slope
            axes.loglog(sizes, values, linewidth=1.2, **options)


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
    _legend(figure, grid[0][0])
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
    images: dict[str, Any] = {}
    figure, grid = style.subplots(len(panels), len(sweeps), height=8.2, squeeze=False)
    for column, name in zip(grid.T, sweeps, strict=True):
        cells = _cells(end[end["group"] == name], lost[lost["group"] == name])
        for axes, panel in zip(column, panels, strict=True):
            if cells["kind"].empty:
                style.say(axes, "no run")
                continue
            image = _phase_panel(axes, cells, panel)
            if len(sweeps) > 3:
                axes.tick_params(axis="x", rotation=90, labelsize=8)
                for text in axes.texts:
                    text.set_fontsize(6)
            images[panel] = image
        column[0].set_title(style.plain(textwrap.fill(name, 64 // len(sweeps))), fontsize=10)
        column[-1].set_xlabel("step size")
    for panel, extend in (("alignment_teacher", "neither"), ("test_r2", "both")):
        row = grid[list(panels).index(panel)]
        figure.colorbar(images[panel], ax=row, shrink=0.85, pad=0.01, extend=extend)
    for axes, label in zip(grid[:, 0], panels.values(), strict=True):
        _label_row(figure, axes, f"{label}\n\nlabel scale")
    handles = [Patch(facecolor=c, edgecolor="#999999") for c in (*_KIND_COLOURS, "white")]
    labels = [*_KINDS, "×: runs diverged"]
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=9)
    return figure


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
    limits = {"kind": (-0.5, 3.5), "alignment_teacher": (0.0, 1.0), "test_r2": (0.0, 0.8)}
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
            # Means below ten to a decimal: "0" would hide that one of two runs has an outlier.
            mean = float(outliers[i, j])
            text = f"{mean:.0f}{mark}" if mean >= 10 or mean == round(mean) else f"{mean:.1f}{mark}"
            colour = "white" if values[i, j] == 3 else "black"
            axes.text(j, i, text, ha="center", va="center", fontsize=8, color=colour)
        elif diverged[i, j] and not completed[i, j]:
            axes.text(j, i, "×", ha="center", va="center", fontsize=11, color="#666666")
    return image


@style.styled
def bulk_figure(
    table: pd.DataFrame,
    runs: Sequence[Sequence[RunSpectra]] = (),
    *,
    populations: Sequence[str],
) -> Figure:
    """How far the bulk has moved: KS distance to the bulk at initialisation, without outliers.

    Parameters
    ----------
    table : DataFrame
        Of all spectra.
    runs : sequence of sequence of RunSpectra
        Of the populations: how far initialisations lie from each other. Where no population has
        two, their distance to the law stands in for it.
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
        usual, words = _distances_between(runs, matrix), "two initialisations of a population"
        if not usual:
            usual = start.loc[start["matrix"] == matrix, "law_distance"].tolist()
            words = "initialisation and its law"
        axes.set_yscale("log")
        axes.axhspan(
            1e-4, max(usual), color="#000000", alpha=0.10, linewidth=0,
            label=f"distances between {words}, up to the largest",
        )  # fmt: skip
        labels = [style.plain(style.short(name)) for name in names]
        axes.set_xticks(range(len(names)), labels, rotation=35, ha="right")
        axes.set(title=matrix, xlim=(-0.6, len(names) - 0.4), ylim=(1e-3, 1.0))
    grid[0][0].set_ylabel("KS distance of the bulk\nto the bulk at initialisation")
    style.legend_below(figure, grid[0][0])
    return figure


def _distances_between(runs: Sequence[Sequence[RunSpectra]], matrix: str) -> list[float]:
    """KS distances between the spectra at initialisation of any two runs of a population."""
    return [
        float(scipy.stats.ks_2samp(a, b, method="asymp").statistic)
        for members in runs
        for a, b in itertools.combinations([run.eigenvalues[matrix][0] for run in members], 2)
    ]


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
    layers = tables.loc[tables["threshold"].notna(), ["population", "matrix"]].drop_duplicates()
    most = layers["population"].value_counts().max() if len(layers) else 0
    figure, grid = style.subplots(
        1 + len(_OF_KERNELS), len(names), height=9.4, squeeze=False, sharey="row",
        height_ratios=(2, *[1] * len(_OF_KERNELS)),
    )  # fmt: skip
    for (upper, *lower), name in zip(grid.T, names, strict=True):
        part = tables[tables["population"] == name]
        kernels = part["matrix"].str.contains("kernel")
        _layers(upper, part[~kernels], labels=int(most) * len(names))
        for axes, column in zip(lower, _OF_KERNELS, strict=True):
            _kernels(axes, part[kernels], column)
        upper.set_title(style.plain(name))
    # Panels of a row share their scale: one sets it for all, if there is anything in the row.
    if len(layers):
        _plain_logarithm(grid[0][0])
    _label_row(figure, grid[0][0], "largest eigenvalue over\nthe edge test's threshold")
    for axes, (column, label) in zip(grid[1:, 0], _OF_KERNELS.items(), strict=True):
        axes.set_ylabel(label)
        if column != "effective_rank":
            axes.set_ylim(0.0, 1.0)
        elif tables[column].gt(0).any():
            _plain_logarithm(axes)
    handles = [
        Line2D([], [], color=colour, marker=mark, linestyle="none", label=words)
        for words, colour, mark in _STAGES.values()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


_STAGES = {
    "initial": ("at initialisation", _BEFORE, "o"),
    "trained": ("after training", style.colour(1), "D"),
}
_OF_KERNELS = {
    "target_alignment": "alignment of\nkernel and labels",
    "top_share": "share of the\nlargest eigenvalue",
    "effective_rank": "effective rank\nof the kernel",
}


def _pairs(axes: Axes, values: pd.DataFrame, x: float) -> None:
    """Before and after of each run, side by side around x and joined."""
    shifts = 0.12 * np.linspace(-1.0, 1.0, len(values)) if len(values) > 1 else np.zeros(1)
    for shift, (_, row) in zip(shifts, values.iterrows(), strict=False):
        known = row.dropna()
        axes.plot([x + shift] * len(known), known, color="#bbbbbb", linewidth=1.2, zorder=1)
    for stage, (_, colour, mark) in _STAGES.items():
        if stage in values:
            axes.plot(x + shifts[: len(values)], values[stage], mark, color=colour, markersize=5)


def _layers(axes: Axes, part: pd.DataFrame, *, labels: int) -> None:
    part = part.dropna(subset=["threshold"])
    layers = style.order(part["matrix"])
    if not layers:
        style.say(axes, "no layer is large\nenough for a law")
        return
    part = part.assign(ratio=part["largest"] / part["threshold"])
    for i, layer in enumerate(layers):
        rows = part[part["matrix"] == layer]
        ratios = rows.pivot_table(index="run", columns="stage", values="ratio")
        _pairs(axes, ratios, i)
        found = rows.loc[rows["stage"] == "trained", "outliers"].mean()
        if np.isfinite(found):
            axes.annotate(
                f"{found:.3g}", (i, float(ratios.to_numpy().max())), xytext=(0, 6),
                textcoords="offset points", ha="center", fontsize=8,
            )  # fmt: skip
    axes.axhline(1.0, color=style.REFERENCE, linewidth=0.8)
    shapes = part.drop_duplicates("matrix").set_index("matrix")
    # Of many layers the names alone have room, upright and small.
    crowded = labels > 24
    ticks = [
        style.plain(style.short(name, 18))
        + ("" if crowded else f"\n{shapes['rows'][name]}×{shapes['columns'][name]}")
        for name in layers
    ]
    axes.set_xticks(
        range(len(layers)), ticks, fontsize=6 if crowded else 8, rotation=90 if labels > 8 else 0
    )
    axes.margins(x=0.15, y=0.25)


def _kernels(axes: Axes, part: pd.DataFrame, column: str) -> None:
    matrices = style.order(part["matrix"])
    for x, matrix in enumerate(matrices):
        rows = part[part["matrix"] == matrix]
        _pairs(axes, rows.pivot_table(index="run", columns="stage", values=column), x)
    axes.set_xticks(range(len(matrices)), [_SHORT.get(name, name) for name in matrices])
    axes.margins(x=0.5, y=0.2)


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
def forensics_accuracy_figure(accuracy: pd.DataFrame, *, classes: int | None = None) -> Figure:
    """How often the optimiser is named rightly, by what the classifier saw and had not seen.

    Parameters
    ----------
    accuracy : DataFrame
        As of :class:`~model_metrology.spectra.forensics.ForensicsTables`.
    classes : int, optional
        Number of optimisers to be named, for the line of what chance reaches.
    """
    whole = accuracy[accuracy["part"] == "all"]
    if whole.empty:
        return style.in_words("No optimiser was to be named.")
    splits = style.order(whole["split"])
    found = style.order(whole["features"])
    features = [name for name in style.order([*_FEATURES, *found]) if name in found]
    figure, axes = style.subplots(height=4.6)
    width = 0.8 / len(features)
    for i, name in enumerate(features):
        rows = whole[whole["features"] == name].set_index("split").reindex(splits)
        x = np.arange(len(splits)) + (i - (len(features) - 1) / 2) * width
        baseline = name in ("final loss", "weight norm", "loss and norms")
        axes.bar(
            x, rows["accuracy"], 0.9 * width, color=style.colour(i),
            hatch="///" if baseline else "", edgecolor="white", linewidth=0.5,
            label=style.plain(f"{name} (baseline)" if baseline else name),
        )  # fmt: skip
        axes.vlines(x, rows["low"], rows["high"], color=style.REFERENCE, linewidth=1.0)
    if classes:
        axes.axhline(
            1.0 / classes, color=style.REFERENCE, linestyle="--", linewidth=1.0,
            label=f"chance, 1 of {classes}",
        )  # fmt: skip
    axes.set_xticks(range(len(splits)), [style.plain(_split(name)) for name in splits])
    axes.set(ylabel="share of runs named rightly\n(forced to one name)", ylim=(0.0, 1.02))
    axes.grid(axis="x", visible=False)
    style.legend_below(figure, axes, columns=4)
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
        names = [style.plain(textwrap.fill(style.short(name, 28), 14)) for name in truths]
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
    filled = reliability[reliability["count"] > 0]
    if filled.empty:
        return style.in_words("No optimiser was to be named.")
    figure, (axes, counts) = style.subplots(1, 2, height=4.0)
    axes.plot([0, 1], [0, 1], "--", color=style.REFERENCE, linewidth=1.0, label="calibrated")
    ends = [
        wilson_interval(round(share * int(of)), int(of))
        for share, of in zip(filled["accuracy"], filled["count"], strict=True)
    ]
    axes.vlines(
        filled["confidence"], *np.transpose(ends), color=style.colour(0), alpha=0.4, linewidth=1.5
    )
    axes.plot(
        filled["confidence"], filled["accuracy"], "o", color=style.colour(0), label="share right",
    )  # fmt: skip
    axes.set(
        xlabel="confidence in the likeliest name", ylabel="share that is right",
        xlim=(0, 1.02), ylim=(0, 1.03),
    )  # fmt: skip
    axes.legend(loc="lower right" if filled["confidence"].min() < 0.3 else "upper left")
    width = filled["high"] - filled["low"]
    bars = counts.bar(
        filled["low"] + width / 2, filled["count"], 0.9 * width, color=style.colour(0)
    )
    counts.bar_label(bars, fontsize=8, padding=1)
    # Few runs are in doubt: on a linear axis their bars would not be seen.
    counts.set_yscale("log")
    counts.set(
        xlabel="confidence in the likeliest name", ylabel="runs", xlim=(0, 1.02),
        ylim=(0.5, 2.0 * filled["count"].max()),
    )  # fmt: skip
    return figure
