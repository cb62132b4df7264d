"""Figures of the embeddings instrument, from the tables of `model_metrology.embeddings`.

Nothing is measured here: what is drawn stands in a table, save for densities of projections, shares
of counts, and means over methods of what random labels reach.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scipy
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from model_metrology.embeddings.names import CONTRASTS_SHOWN
from model_metrology.plots import style
from model_metrology.plots.methods import CONTROLS, Method, known_rows, methods_of, sources_of

Array = NDArray[np.float64]

_MEASURES = {"accuracy": "held-out accuracy", "auroc": "held-out AUROC"}
_UNNAMED = "not named"
_SHADES = "Blues"
# Baselines in greys and thin signs, so that embedders stand out from them.
_GREYS = ("#222222", "#6a6a6a", "#9a9a9a")
_STROKES = ("|", "x", "+", "1", "2")
_HIGHEST = 9.8
"""Height that a report page still shows whole, in inches."""


# -- what is common to the figures ---------------------------------------------------------------


_Looks = Mapping[Method, dict[str, Any]]


def _looks(table: pd.DataFrame) -> _Looks:
    """How each method of a table is drawn, in order.

    Colour and sign tell embedders apart; hollow is the final layer, full the chosen one.
    """
    found = methods_of(table)
    embedders = style.order(method.embedder for method in found if not method.baseline)
    baselines = style.order(method.embedder for method in found if method.baseline)
    looks: dict[Method, dict[str, Any]] = {}
    for method in found:
        if method.baseline:
            i = baselines.index(method.embedder)
            look: dict[str, Any] = {
                "color": _GREYS[i % len(_GREYS)], "marker": _STROKES[i % len(_STROKES)],
                "markersize": 7.0, "markeredgewidth": 1.6,
            }  # fmt: skip
        else:
            i = embedders.index(method.embedder)
            face = "white" if method.choice == "final" else style.colour(i)
            look = {
                "color": style.colour(i), "marker": style.marker(i), "markersize": 6.0,
                "markerfacecolor": face, "markeredgewidth": 1.2,
            }  # fmt: skip
        looks[method] = look
    return looks


def _title(method: Method, length: int = 26, between: str = ", ") -> str:
    """A method's name, cut to a length, and what is said of its layer."""
    return between.join(filter(None, (_name(method.embedder, length), method.layer)))


def _method_handles(looks: _Looks) -> list[Line2D]:
    return [
        Line2D([], [], linestyle="none", label=_title(method), **look)
        for method, look in looks.items()
    ]


_CHANCE: dict[str, Any] = {"color": style.REFERENCE, "linestyle": ":", "linewidth": 1.3}
_CHANCE_HANDLE = Line2D([], [], label="chance", **_CHANCE)


def _present(looks: _Looks, here: pd.DataFrame) -> _Looks:
    """Methods that occur in some rows: images and texts have not the same ones."""
    return {method: look for method, look in looks.items() if len(method.rows(here))}


def _name(text: str, length: int = 26) -> str:
    return style.plain(style.short(text, length))


def _cut(figure: Figure, shown: int, of: int, what: str, remedy: str = "option contrast") -> None:
    """Say above the figure that it shows a part only."""
    if shown < of:
        figure.suptitle(f"{shown} of {of} {what}; the others by the {remedy}", fontsize=9)


def _only(table: pd.DataFrame, contrast: str | None) -> pd.DataFrame:
    return table if contrast is None else table[table["contrast"] == contrast]


def _grid(panels: int, columns: int) -> tuple[int, int]:
    columns = max(1, min(columns, panels))
    return -(-panels // columns), columns


def _offsets(groups: int, room: float = 0.8, most: float = 0.2) -> Array:
    """Where groups stand side by side, from the middle of their row."""
    pitch = min(room / max(groups, 1), most)
    return np.asarray((np.arange(groups) - (groups - 1) / 2) * pitch, dtype=np.float64)


def _estimate(
    axes: Axes, row: Mapping[Any, Any], measure: str, at: float, look: Mapping[str, Any], *,
    upright: bool = False,
) -> None:  # fmt: skip
    """A value with its interval, along x or upright."""
    value, ends = float(row[measure]), [row[f"{measure}_lower"], row[f"{measure}_upper"]]
    interval = (ends, [at, at])
    point = ([value], [at])
    axes.plot(
        *(interval[::-1] if upright else interval), color=look["color"], linewidth=1.1,
        label="_interval",
    )  # fmt: skip
    axes.plot(
        *(point[::-1] if upright else point), linestyle="none", label="_value", clip_on=False,
        **look,
    )  # fmt: skip


def _cells(
    axes: Axes,
    shades: ArrayLike,
    words: Sequence[Sequence[str]],
    *,
    high: float = 1.0,
    size: float = 8.0,
) -> None:
    """Shaded cells with words in them; NaN stays white."""
    values = np.asarray(shades, dtype=float)
    axes.imshow(values, cmap=_SHADES, vmin=0.0, vmax=high, aspect="auto")
    for i, j in np.ndindex(values.shape):
        dark = values[i, j] > 0.55 * high
        axes.text(
            j, i, words[i][j], ha="center", va="center", fontsize=size,
            color="white" if dark else "black",
        )  # fmt: skip
    axes.grid(visible=False)


def _shade_bar(figure: Figure, panels: Any, label: str, low: float, high: float) -> None:
    scale = ScalarMappable(Normalize(low, high), cmap=_SHADES)
    bar = figure.colorbar(scale, ax=panels, shrink=0.7, aspect=30, pad=0.02)
    bar.set_label(label, fontsize=9)
    bar.outline.set_visible(False)


def _decimal(value: float, digits: int = 2) -> str:
    """A share without the zero before the point; nothing for what is not known."""
    if not np.isfinite(value):
        return ""
    words = f"{value:.{digits}f}".replace("-", "−")
    return words.replace("0.", ".", 1) if abs(value) < 1.0 and "0." in words else words


# -- separability --------------------------------------------------------------------------------


def _lines(known: pd.DataFrame) -> pd.DataFrame:
    """Rows of all sources of a contrast at once; pairs where a contrast has no such row."""
    pair = known["source_a"].ne("")
    whole = set(known.loc[~pair, "contrast"])
    rows = known[~pair | ~known["contrast"].isin(whole)]
    return rows.assign(line=rows["contrast"] + "\n" + rows["source_a"] + "\n" + rows["source_b"])


def _line_words(separability: pd.DataFrame, line: str, length: int = 24) -> tuple[str, str]:
    """A line's contrast, and the sources that it holds against each other."""
    contrast, *pair = line.split("\n")
    sources = [name for name in pair if name] or sources_of(separability, contrast)
    if len(sources) == 2:
        each = max(length // 2, 6)
        words = " · ".join(_name(name, each) for name in sources)
    else:
        words = f"{len(sources)} sources" if sources else ""
    return _name(contrast, length), words


def _choose_measure(separability: pd.DataFrame, measure: str) -> pd.DataFrame:
    if measure not in _MEASURES:
        raise ValueError(f"measure: {measure!r} is unknown; choose 'accuracy' or 'auroc'")
    known = known_rows(separability, measure)
    return known.assign(chance=0.5) if measure == "auroc" else known


_MOST_ROWS = 12


@style.styled
def separability_figure(separability: pd.DataFrame, *, measure: str = "accuracy") -> Figure:
    """How well held-out items are told apart, by contrast, embedder and baseline.

    Up to twelve contrasts are points with intervals, more are shaded cells.

    Parameters
    ----------
    separability : DataFrame
        Items as they are, all sources of a contrast at once; its pairs where it has no such row.
    measure : {"accuracy", "auroc"}
        Which is drawn.

    Raises
    ------
    ValueError
        If `measure` is neither.
    """
    known = _choose_measure(separability, measure)
    known = _lines(known[known["control"] == ""])
    if known.empty:
        return style.in_words("No sources were held against each other.")
    lines, looks = style.order(known["line"]), _looks(known)
    draw = _separability_points if len(lines) <= _MOST_ROWS else _separability_cells
    return draw(known, known_rows(separability), lines, looks, measure)


def _separability_points(
    known: pd.DataFrame,
    everything: pd.DataFrame,
    lines: Sequence[str],
    looks: _Looks,
    measure: str,
) -> Figure:
    rows = {line: known[known["line"] == line] for line in lines}
    most = max(len(_present(looks, here)) for here in rows.values())
    each = max(0.42, 0.13 * most + 0.12)
    figure, axes = style.subplots(height=min(1.5 + each * len(lines), _HIGHEST))
    labels = []
    for place, (line, here) in enumerate(rows.items()):
        found = _present(looks, here)
        for shift, (method, look) in zip(_offsets(len(found)), found.items(), strict=True):
            for row in method.rows(here).to_dict("records"):
                _estimate(axes, row, measure, place + shift, look)
        chance = float(here["chance"].iloc[0])
        axes.plot([chance] * 2, [place - 0.5, place + 0.5], label="_chance", **_CHANCE)
        contrast, sources = _line_words(everything, line, 30)
        size = f"n = {int(here['n'].max())}"
        labels.append(f"{contrast}\n{sources + ', ' if sources else ''}{size}")
        if place:
            axes.axhline(place - 0.5, color="#cccccc", linewidth=0.8, zorder=0)
    axes.set_yticks(range(len(lines)), labels)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_xlim(right=1.0)
    axes.set_xlabel(f"{_MEASURES[measure]}, with 95 % interval")
    axes.grid(visible=False, axis="y")
    style.below(figure, [*_method_handles(looks), _CHANCE_HANDLE], columns=4)
    return figure


def _separability_cells(
    known: pd.DataFrame,
    everything: pd.DataFrame,
    lines: Sequence[str],
    looks: _Looks,
    measure: str,
) -> Figure:
    methods = list(looks)
    height = min(1.9 + 0.24 * len(lines), _HIGHEST)
    figure, axes = style.subplots(height=height)
    values = np.full((len(lines), len(methods)), np.nan)
    shades = values.copy()
    for j, method in enumerate(methods):
        rows = method.rows(known).drop_duplicates("line").set_index("line").reindex(list(lines))
        values[:, j] = rows[measure]
        # From chance to certainty: lines with other numbers of sources have the same scale.
        shades[:, j] = (rows[measure] - rows["chance"]) / (1.0 - rows["chance"])
    words = [[_decimal(value, 3) for value in row] for row in values]
    # As high as a line of the figure lets them be.
    size = float(np.clip(72 * (height - 1.9) / len(lines) * 0.55, 4.0, 8.0))
    _cells(axes, shades.clip(0.0), words, size=size)
    labels = [" · ".join(filter(None, _line_words(everything, line, 22))) for line in lines]
    axes.set_yticks(range(len(lines)), labels, fontsize=size)
    axes.xaxis.tick_top()
    axes.set_xticks(
        range(len(methods)), [_title(method, 20, "\n") for method in methods],
        rotation=35, ha="left", rotation_mode="anchor", fontsize=8,
    )  # fmt: skip
    axes.set_title(f"{_MEASURES[measure]} of items as they are", fontsize=10)
    first = sum(method.baseline for method in methods)
    if 0 < first < len(methods):
        axes.axvline(len(methods) - first - 0.5, color="white", linewidth=4.0)
    _shade_bar(figure, axes, "share of the way from chance to 1", 0.0, 1.0)
    return figure


_MOST_PANELS = 16


@style.styled
def controls_figure(
    separability: pd.DataFrame, *, measure: str = "accuracy", contrast: str | None = None
) -> Figure:
    """What is left of separability when length, signs or the first words are taken away.

    Parameters
    ----------
    separability : DataFrame
        All sources of a contrast at once; its pairs where it has no such row.
    measure : {"accuracy", "auroc"}
        Which is drawn.
    contrast : str, optional
        One contrast alone; as many as there is room for when absent.

    Raises
    ------
    ValueError
        If `measure` is neither.
    """
    known = _lines(_only(_choose_measure(separability, measure), contrast))
    controls = style.ordered(known["control"], [*CONTROLS])
    if not any(controls):
        return style.in_words("Nothing was taken away from texts: there are no controls.")
    # Contrasts of images have none.
    controlled = set(known.loc[known["control"].ne(""), "line"])
    known = known[known["line"].isin(controlled)]
    lines, looks = style.order(known["line"]), _looks(known)
    shown = lines[:_MOST_PANELS]
    rows, columns = _grid(len(shown), 4 if len(shown) > 6 else 3)
    figure, grid = style.subplots(
        rows, columns, height=min(1.6 + (2.1 if rows > 1 else 3.2) * rows, _HIGHEST), squeeze=False,
        sharex=True, sharey=True,
    )  # fmt: skip
    everything = known_rows(separability)
    for axes, line in zip(grid.flat, shown, strict=False):
        _controls(axes, known[known["line"] == line], controls, looks, measure)
        title = "\n".join(_line_words(everything, line, 28)).rstrip()
        axes.set_title(title, fontsize=9 if columns < 4 else 8)
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    for i, axes in enumerate(grid.flat[: len(shown)]):
        axes.tick_params(labelbottom=i + columns >= len(shown))
    for axes in grid[:, 0]:
        axes.set_ylabel(_MEASURES[measure], fontsize=9)
    drawn = known[known["line"].isin(shown)]
    grid[0, 0].set_ylim(drawn[[f"{measure}_lower", measure, "chance"]].min().min() - 0.03, 1.0)
    style.below(figure, [*_method_handles(looks), _CHANCE_HANDLE], columns=4)
    _cut(figure, len(shown), len(lines), "contrasts")
    return figure


def _controls(
    axes: Axes,
    here: pd.DataFrame,
    controls: Sequence[str],
    looks: _Looks,
    measure: str,
) -> None:
    """One contrast: controls along x, methods side by side and each joined by a line."""
    looks = _present(looks, here)
    for shift, (method, look) in zip(_offsets(len(looks), 0.7), looks.items(), strict=True):
        found: dict[Any, dict[Any, Any]] = {
            row["control"]: row for row in method.rows(here).to_dict("records")
        }
        at = [place for place, control in enumerate(controls) if control in found]
        for place in at:
            _estimate(axes, found[controls[place]], measure, place + shift,
                      look | {"markersize": look["markersize"] - 1.5}, upright=True)  # fmt: skip
        axes.plot(
            [place + shift for place in at], [found[controls[place]][measure] for place in at],
            color=look["color"], linewidth=0.7, alpha=0.5, label="_joined",
        )  # fmt: skip
    axes.axhline(float(here["chance"].iloc[0]), label="_chance", **_CHANCE)
    labels = [CONTROLS.get(control, style.plain(control)) for control in controls]
    axes.set_xticks(
        range(len(controls)), labels, rotation=35, ha="right", rotation_mode="anchor", fontsize=8
    )
    axes.set_xlim(-0.6, len(controls) - 0.4)
    axes.grid(visible=False, axis="x")


@style.styled
def pairs_figure(separability: pd.DataFrame, *, contrast: str | None = None) -> Figure:
    """How well each two sources of a contrast are told apart, by embedder and baseline.

    Parameters
    ----------
    separability : DataFrame
        Pairs of sources, items as they are; contrasts of two sources are left out.
    contrast : str, optional
        One contrast alone; as many as there is room for when absent.
    """
    known = _only(known_rows(separability, "accuracy"), contrast)
    known = known[known["control"].eq("") & known["source_a"].ne("")]
    names = [n for n in style.order(known["contrast"]) if len(sources_of(known, n)) > 2]
    if not names:
        return style.in_words("No more than two sources were held against each other.")
    methods = {name: methods_of(known[known["contrast"] == name]) for name in names}
    # A row a contrast; where there is one only, there is room for large panels.
    widest = 3 if len(names) == 1 else 8
    columns = min(widest, max(map(len, methods.values())))
    shown = {name: methods[name] for name in names[:4]}
    if len(names) > 1:
        shown = {name: found[:columns] for name, found in shown.items()}
    panels = [(name, method) for name, found in shown.items() for method in found]
    rows = len(shown) if len(names) > 1 else -(-len(panels) // columns)
    height = min(1.2 + (11.0 / columns if columns > 3 else 2.9) * rows, _HIGHEST)
    figure, grid = style.subplots(rows, columns, height=max(height, 3.6), squeeze=False)
    for axes in grid.flat:
        axes.set_visible(False)
    for i, (name, method) in enumerate(panels):
        place = divmod(i, columns)
        if len(names) > 1:
            place = list(shown).index(name), shown[name].index(method)
        axes = grid[place]
        axes.set_visible(True)
        sources = sources_of(known, name)
        _pairs(axes, method.rows(known[known["contrast"] == name]), sources, columns > 3)
        axes.tick_params(labelleft=place[1] == 0)
        if place[1] == 0:
            axes.set_ylabel(_name(name, 24), fontsize=9)
        axes.set_title(_title(method, 18, "\n"), fontsize=8)
    _shade_bar(figure, grid, "held-out accuracy (below the diagonal),\nAUROC (above it)", 0.5, 1.0)
    _cut(figure, len(panels), sum(map(len, methods.values())), "panels")
    return figure


def _pairs(axes: Axes, part: pd.DataFrame, sources: Sequence[str], narrow: bool) -> None:
    """Accuracy below the diagonal, AUROC above it."""
    values = np.full((len(sources), len(sources)), np.nan)
    for row in part.to_dict("records"):
        i, j = sorted(sources.index(row[key]) for key in ("source_a", "source_b"))
        values[j, i], values[i, j] = row["accuracy"], row["auroc"]
    size = float(np.clip(46 / len(sources), 4.5, 8.5))
    words = [[_decimal(value) for value in row] for row in values]
    _cells(axes, (2.0 * values - 1.0).clip(0.0), words, size=size)
    labels = [_name(source, 14) for source in sources]
    font = 8 if len(sources) < 9 else 6.5
    axes.set_yticks(range(len(sources)), labels, fontsize=font)
    slant: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(
        range(len(sources)), labels, fontsize=font, **{"rotation": 90} if narrow else slant
    )
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


# -- projections ---------------------------------------------------------------------------------

_MOST_CONTRASTS, _MOST_METHODS = CONTRASTS_SHOWN, 4


def _density(values: Array, at: Array) -> Array | None:
    """Gaussian kernel density (Scott's rule); none of what has no spread."""
    values = values[np.isfinite(values)]
    if len(values) < 3 or np.ptp(values) <= 1e-9 * (1.0 + np.abs(values).max()):
        return None
    return np.asarray(scipy.stats.gaussian_kde(values)(at), dtype=float)


def _densities(axes: Axes, part: pd.DataFrame, column: str, sources: Sequence[str], *,
               upright: bool = False) -> None:  # fmt: skip
    """Density of each source along an axis; each has area 1."""
    values = part[column].to_numpy(dtype=float)
    reach = 0.08 * np.ptp(values) if len(values) else 1.0
    at = np.linspace(values.min() - reach, values.max() + reach, 200)
    for i, source in enumerate(sources):
        density = _density(values[(part["source"] == source).to_numpy()], at)
        if density is None:
            continue
        line = (density, at) if upright else (at, density)
        axes.plot(*line, color=style.colour(i), linestyle=style.line(i), linewidth=1.2,
                  label="_density")  # fmt: skip
        fill = axes.fill_betweenx if upright else axes.fill_between
        fill(at, 0.0, density, color=style.colour(i), alpha=0.12, linewidth=0)


def _plane(
    axes: Axes, part: pd.DataFrame, x: str, y: str, sources: Sequence[str], words: Sequence[str]
) -> Axes:
    """Items in a plane by source, with densities along both axes; returns the axes on top."""
    for i, source in enumerate(sources):
        rows = part[part["source"] == source]
        axes.plot(
            rows[x], rows[y], style.marker(i), color=style.colour(i), markersize=2.8, alpha=0.5,
            markeredgewidth=0, rasterized=True, label=f"_{source}",
        )  # fmt: skip
    axes.set_xlabel(words[0], fontsize=8, labelpad=1)
    axes.set_ylabel(words[1], fontsize=8, labelpad=1)
    top = axes.inset_axes((0.0, 1.02, 1.0, 0.22), sharex=axes)
    right = axes.inset_axes((1.02, 0.0, 0.22, 1.0), sharey=axes)
    _densities(top, part, x, sources)
    _densities(right, part, y, sources, upright=True)
    for side in (top, right):
        side.set_axis_off()
    _few_ticks(axes)
    return top


def _few_ticks(axes: Axes) -> None:
    axes.tick_params(labelsize=7, length=2, pad=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(3))


def _projection_panels(
    known: pd.DataFrame,
    draw: Callable[[Axes, pd.DataFrame, Sequence[str]], Axes],
) -> Figure:
    """A row of panels a contrast, a panel a method; sources of each contrast named at the left."""
    names = style.order(known["contrast"])
    shown = names[:_MOST_CONTRASTS]
    methods = {name: methods_of(known[known["contrast"] == name])[:_MOST_METHODS] for name in shown}
    # Room for large panels where there is one contrast only.
    widest = max(map(len, methods.values()))
    columns = min(2, widest) if len(shown) == 1 else widest
    depths = [_grid(len(found), columns)[0] for found in methods.values()]
    each = {1: 4.4, 2: 3.6}.get(columns, 2.5)
    figure = plt.figure(figsize=(style.WIDTH, min(0.7 + each * sum(depths), _HIGHEST)))
    grid = figure.add_gridspec(sum(depths), 1 + columns, width_ratios=[0.62, *[1.0] * columns])
    first = 0
    for depth, (name, found) in zip(depths, methods.items(), strict=True):
        rows = known[known["contrast"] == name]
        sources = style.order(rows["source"])
        _name_sources(figure.add_subplot(grid[first : first + depth, 0]), name, rows, sources)
        for i, method in enumerate(found):
            part = method.rows(rows)
            axes = figure.add_subplot(grid[first + i // columns, 1 + i % columns])
            head = draw(axes, part, sources)
            view = _name(", ".join(style.order(part["view"])), 16)
            head.set_title(f"{_title(method, 26, chr(10))}: {view}", fontsize=8)
        first += depth
    _cut(figure, len(shown), len(names), "contrasts")
    return figure


def _name_sources(axes: Axes, name: str, rows: pd.DataFrame, sources: Sequence[str]) -> None:
    """A contrast's name and the legend of its sources."""
    axes.set_axis_off()
    # A view that was chosen on some items is shown on the others.
    sizes = rows.groupby(["embedder", "choice", "source"])["item"].size()
    counts = sizes.groupby("source").max()
    handles = [
        style.handle(i, f"{_name(source, 18)} ({counts[source]})", markersize=5)
        for i, source in enumerate(sources)
    ]
    axes.legend(
        handles=handles, title=textwrap.fill(_name(name, 40), 20), loc="center left",
        bbox_to_anchor=(-0.1, 0.5), fontsize=8, title_fontsize=9, alignment="left",
        handletextpad=0.2, borderaxespad=0.0,
    )  # fmt: skip


@style.styled
def scatter_figure(projections: pd.DataFrame, *, contrast: str | None = None) -> Figure:
    """Items on their first two principal components, with densities along both.

    Parameters
    ----------
    projections : DataFrame
        A row an item, contrast, embedder and choice of the layer.
    contrast : str, optional
        One contrast alone, in large panels; the first four when absent.
    """
    known = _only(known_rows(projections, "pc1", "pc2"), contrast)
    if known.empty:
        return style.in_words("There are no items to project.")

    def draw(axes: Axes, part: pd.DataFrame, sources: Sequence[str]) -> Axes:
        return _plane(axes, part, "pc1", "pc2", sources, ("PC 1", "PC 2"))

    return _projection_panels(known, draw)


@style.styled
def discriminant_figure(projections: pd.DataFrame, *, contrast: str | None = None) -> Figure:
    """Held-out items on the linear discriminants of their sources.

    Parameters
    ----------
    projections : DataFrame
        A row an item, contrast, embedder and choice of the layer; with two sources there is one
        discriminant, and its densities are drawn.
    contrast : str, optional
        One contrast alone, in large panels; the first four when absent.
    """
    known = _only(known_rows(projections, "lda1"), contrast)
    if known.empty:
        return style.in_words("There are no held-out projections on discriminants.")

    def draw(axes: Axes, part: pd.DataFrame, sources: Sequence[str]) -> Axes:
        if part["lda2"].notna().any():
            words = ("discriminant 1", "discriminant 2")
            return _plane(axes, part, "lda1", "lda2", sources, words)
        _densities(axes, part, "lda1", sources)
        _rug(axes, part, sources)
        axes.set_xlabel("discriminant", fontsize=8, labelpad=1)
        axes.set_ylabel("density", fontsize=8, labelpad=1)
        _few_ticks(axes)
        return axes

    return _projection_panels(known, draw)


def _rug(axes: Axes, part: pd.DataFrame, sources: Sequence[str]) -> None:
    """Each item as a stroke below the densities, a line a source."""
    step = 0.05 * axes.get_ylim()[1]
    for i, source in enumerate(sources):
        values = part.loc[part["source"] == source, "lda1"]
        axes.plot(
            values, np.full(len(values), -(i + 1) * step), "|", color=style.colour(i),
            markersize=4, alpha=0.5, markeredgewidth=0.6, rasterized=True, label=f"_{source}",
        )  # fmt: skip
    axes.axhline(0.0, color="#bbbbbb", linewidth=0.6)


# -- layers --------------------------------------------------------------------------------------

# Column of the table: title, and what chance reaches (None: the table says it; NaN: none known).
_PROFILES: Mapping[str, tuple[str, float | None]] = {
    "accuracy": ("held-out accuracy", None),
    "pc1_auroc": ("AUROC of PC 1 (two classes)", 0.5),
    "pc1_eta2": ("η² of PC 1", np.nan),
    "kmeans_ari": ("ARI of k-means", 0.0),
}
_POOLINGS = {"mean": "mean of tokens", "cls": "first token", "last": "last token"}
_DASHES: Mapping[str, Any] = {"mean": "-", "cls": "--", "last": ":"}


@style.styled
def layers_figure(layers: pd.DataFrame, *, contrast: str | None = None) -> Figure:
    """Where in the network labels are written: separability and clusters by layer.

    Parameters
    ----------
    layers : DataFrame
        A row a contrast, embedder, layer, pooling and label; views without a layer are left out.
    contrast : str, optional
        One contrast alone; as many as there is room for when absent.
    """
    known = _only(known_rows(layers, "layer"), contrast)
    known = known.dropna(subset=[*_PROFILES], how="all")
    if known.empty:
        return style.in_words("No embedder showed its layers.")
    panels = list(dict.fromkeys(zip(known["contrast"], known["embedder"], strict=True)))
    shown = panels[:4]
    labels = style.ordered(known["label"], ["source"])
    poolings = style.ordered(known["pooling"], [*_DASHES])
    columns = [name for name in _PROFILES if known[name].notna().any()]
    height = min(1.1 + (2.15 if len(shown) > 1 else 3.0) * len(shown), _HIGHEST)
    figure, grid = style.subplots(len(shown), len(columns), height=height, squeeze=False)
    for row, (name, embedder) in zip(grid, shown, strict=True):
        part = known[(known["contrast"] == name) & (known["embedder"] == embedder)]
        for axes, column in zip(row, columns, strict=True):
            if part[column].notna().any():
                _profile(axes, part, column, labels, poolings)
            else:
                style.say(axes, "more than\ntwo classes" if column == "pc1_auroc" else "unknown")
            least = {"accuracy": known["chance"].min(), "pc1_auroc": 0.5}.get(column, 0.0)
            axes.set_ylim(min(least, known[column].min()) - 0.05, 1.03)
        row[0].set_ylabel(f"{_name(name, 24)}\n{_name(embedder, 24)}", fontsize=9)
    for axes, column in zip(grid[0], columns, strict=True):
        axes.set_title(_PROFILES[column][0], fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("layer", fontsize=9)
    handles: list[Any] = [
        Line2D([], [], color=style.colour(i), marker=style.marker(i), markersize=4,
               label=style.plain(label))
        for i, label in enumerate(labels)
    ]  # fmt: skip
    handles += [
        Line2D([], [], color=style.REFERENCE, linestyle=_DASHES.get(name, "-."),
               label=_POOLINGS.get(name, style.plain(name)))
        for name in poolings
    ]  # fmt: skip
    style.below(figure, [*handles, Line2D([], [], label="chance", **_CHANCE_OF)], columns=6)
    _cut(figure, len(shown), len(panels), "networks and contrasts")
    return figure


_CHANCE_OF: dict[str, Any] = {"color": "#888888", "linestyle": (0, (1, 3)), "linewidth": 1.0}


def _profile(
    axes: Axes, part: pd.DataFrame, column: str, labels: Sequence[str], poolings: Sequence[str]
) -> None:
    """One quantity by layer: colours are labels, dashes are poolings."""
    chance = _PROFILES[column][1]
    for i, label in enumerate(labels):
        of_label = part[(part["label"] == label) & part[column].notna()]
        for pooling in poolings:
            rows = of_label[of_label["pooling"] == pooling].sort_values("layer")
            if rows.empty:
                continue
            if column == "accuracy":
                axes.fill_between(
                    rows["layer"], rows["accuracy_lower"], rows["accuracy_upper"],
                    color=style.colour(i), alpha=0.1, linewidth=0,
                )  # fmt: skip
            axes.plot(
                rows["layer"], rows[column], color=style.colour(i), marker=style.marker(i),
                markersize=3.2, linewidth=1.3, linestyle=_DASHES.get(pooling, "-."),
                label=f"_{label} {pooling}",
            )  # fmt: skip
        if chance is None and len(of_label):
            axes.axhline(
                float(of_label["chance"].iloc[0]), label="_chance",
                **_CHANCE_OF | {"color": style.colour(i)},
            )  # fmt: skip
    if chance is not None and np.isfinite(chance):
        axes.axhline(chance, label="_chance", **_CHANCE_OF)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.tick_params(labelsize=8)


# -- components ----------------------------------------------------------------------------------

_LEVEL = 0.05
_MOST_COMPONENTS = 10


@style.styled
def components_figure(components: pd.DataFrame, *, contrast: str | None = None) -> Figure:
    """Which principal component carries which label: η², with the components' variance.

    Parameters
    ----------
    components : DataFrame
        A row a contrast, embedder, choice of the layer, component and label.
    contrast : str, optional
        One contrast alone; as many as there is room for when absent.
    """
    known = _only(known_rows(components, "eta2"), contrast)
    known = known[known["component"] <= _MOST_COMPONENTS]
    if known.empty:
        return style.in_words("No principal components were held against labels.")
    names, methods = style.order(known["contrast"]), methods_of(known)[:4]
    rows, columns = _grid(len(methods), 2)
    lines = {
        name: style.ordered(known.loc[known["contrast"] == name, "label"], ["source"])
        for name in names
    }
    room = int((_HIGHEST - 0.6 - 0.9 * rows) / rows / 0.2)
    depth = np.cumsum([1 + len(labels) for labels in lines.values()])
    shown = names[: max(1, int((depth <= room).sum()))]
    height = 0.6 + rows * (0.9 + 0.2 * max(int(depth[len(shown) - 1]), 5))
    figure, grid = style.subplots(
        rows, columns, height=min(height, _HIGHEST), squeeze=False, sharey=True
    )
    for axes, method in zip(grid.flat, methods, strict=False):
        _components(axes, method.rows(known), {name: lines[name] for name in shown})
        axes.set_title(_title(method), fontsize=9)
    for axes in grid.flat[len(methods) :]:
        axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("principal component", fontsize=9)
    _shade_bar(figure, grid, "η² of the label\n(★ p ≤ .05, corrected)", 0.0, 1.0)
    _cut(figure, len(shown), len(names), "contrasts")
    return figure


def _components(axes: Axes, part: pd.DataFrame, lines: Mapping[str, Sequence[str]]) -> None:
    """A block a contrast: variance in %, then η² of each label."""
    components = range(1, int(part["component"].max()) + 1 if len(part) else 2)
    ticks: list[str] = []
    shades: list[Array] = []
    words: list[list[str]] = []
    for name, labels in lines.items():
        here = part[part["contrast"] == name]
        if ticks:
            axes.axhline(len(ticks) - 0.5, color=style.REFERENCE, linewidth=0.6)
        variance = here.drop_duplicates("component").set_index("component")["variance"]
        shares = variance.reindex(components).to_numpy(dtype=float)
        ticks.append(f"{_name(name, 24)}: variance, %")
        shades.append(np.full(len(components), np.nan))
        words.append([f"{100 * share:.0f}" if np.isfinite(share) else "" for share in shares])
        for label in labels:
            rows = here[here["label"] == label].drop_duplicates("component")
            rows = rows.set_index("component").reindex(components)
            eta2 = rows["eta2"].to_numpy(dtype=float)
            stars = (rows["p_adjusted"] <= _LEVEL).to_numpy()
            ticks.append(_name(label, 24))
            shades.append(eta2)
            words.append(
                [_decimal(v) + ("★" if s else "") for v, s in zip(eta2, stars, strict=True)]
            )
    _cells(axes, np.array(shades), words, size=6.5)
    axes.set_yticks(range(len(ticks)), ticks, fontsize=8)
    axes.set_xticks(range(len(components)), [str(c) for c in components], fontsize=8)
    axes.tick_params(length=0)


# -- clusters ------------------------------------------------------------------------------------

_INDICES = {
    "ari": "adjusted Rand index",
    "nmi": "normalised mutual information",
    "purity": "purity",
}
_CLUSTERERS = ("k-means", "Gaussian mixture", "HDBSCAN")
_CLUSTER_SIGNS = ("o", "s", "^", "D", "v", "P")


@style.styled
def clustering_figure(clustering: pd.DataFrame, *, contrast: str | None = None) -> Figure:
    """How far clusters that know no labels agree with each label, and with labels jointly.

    Parameters
    ----------
    clustering : DataFrame
        A row a contrast, embedder, choice of the layer, method and label.
    contrast : str, optional
        One contrast alone; as many as there is room for when absent.
    """
    known = _only(known_rows(clustering, "ari"), contrast)
    if known.empty:
        return style.in_words("No items were put into clusters.")
    keys = {
        name: style.ordered(known.loc[known["contrast"] == name, "label"], ["source"])
        for name in style.order(known["contrast"])
    }
    lines = [(name, label) for name, labels in keys.items() for label in labels]
    looks, clusterers = _looks(known), style.ordered(known["method"], _CLUSTERERS)
    most = max(len(_present(looks, known[known["contrast"] == name])) for name in keys)
    each = max(0.3, 0.12 * most + 0.1)
    shown = lines[: max(1, int((_HIGHEST - 1.6) / each))]
    figure, grid = style.subplots(1, 3, height=1.6 + each * len(shown), sharey=True)
    for axes, (index, title) in zip(grid, _INDICES.items(), strict=True):
        for place, (name, label) in enumerate(shown):
            here = known[(known["contrast"] == name) & (known["label"] == label)]
            _agreement(axes, here, index, place, looks, clusterers)
            if place:
                new = name != shown[place - 1][0]
                axes.axhline(place - 0.5, color="#999999" if new else "#dddddd", linewidth=0.8,
                             zorder=0)  # fmt: skip
        axes.set_xlabel(title)
        axes.set_xlim(right=1.0)
        axes.grid(visible=False, axis="y")
    words = [
        f"{_name(name, 26)}\n{_name(label, 26)}" if label == keys[name][0] else _name(label, 26)
        for name, label in shown
    ]
    grid[0].set_yticks(range(len(shown)), words, fontsize=8)
    grid[0].set_ylim(len(shown) - 0.5, -0.5)
    handles: list[Any] = [
        Patch(facecolor=look["markerfacecolor"], edgecolor=look["color"], label=_title(method))
        for method, look in looks.items()
    ]
    handles += [
        Line2D([], [], linestyle="none", color=style.REFERENCE, marker=_CLUSTER_SIGNS[i % 6],
               markersize=5.5, label=style.plain(name))
        for i, name in enumerate(clusterers)
    ]  # fmt: skip
    handles.append(
        Line2D([], [], linestyle="none", color="#bbbbbb", marker="o", markersize=5.5,
               label="faint: p > .05")
    )  # fmt: skip
    style.below(figure, [*handles, _CHANCE_HANDLE], columns=5)
    _cut(figure, len(shown), len(lines), "contrasts and labels")
    return figure


def _agreement(
    axes: Axes,
    here: pd.DataFrame,
    index: str,
    place: int,
    looks: _Looks,
    clusterers: Sequence[str],
) -> None:
    """One index of one label: a line an embedder, a sign a way to cluster."""
    looks = _present(looks, here)
    for shift, (method, look) in zip(_offsets(len(looks)), looks.items(), strict=True):
        for row in method.rows(here).dropna(subset=[index]).to_dict("records"):
            axes.plot(
                [row[index]], [place + shift], linestyle="none", label=f"_{index}", clip_on=False,
                marker=_CLUSTER_SIGNS[clusterers.index(str(row["method"])) % 6], markersize=5.5,
                color=look["color"], markerfacecolor=look["markerfacecolor"],
                alpha=0.35 if row["p_value"] > _LEVEL else 1.0,
            )  # fmt: skip
    # Normalised mutual information has no value that chance is known to reach.
    chance = {"ari": 0.0, "purity": here["purity_chance"].mean()}.get(index, np.nan)
    if np.isfinite(chance):
        axes.plot([chance] * 2, [place - 0.5, place + 0.5], label="_chance", **_CHANCE)


# -- translation ---------------------------------------------------------------------------------

_SHIFT = "paired shift"
# Panels: title, quantities whose values are joined, and one that is given as a number.
_TRANSLATION: tuple[tuple[str, tuple[str, ...], str], ...] = (
    (
        "AUROC of the language\nalong its axis",
        ("language auroc before", "language auroc after"),
        "",
    ),
    (
        "η² of the language\nalong its axis",
        ("language variance before", "language variance after"),
        "",
    ),
    ("paired shift (1: all the way);\nnumber: share along the axis", (_SHIFT,), "shift along axis"),
    (
        "AUROC of the topic;\nnumber: cosine of its means",
        ("topic auroc original", "topic auroc translated"),
        "topic cosine",
    ),
)


@style.styled
def translation_figure(translation: pd.DataFrame) -> Figure:
    """Does translation remove the language axis, and keep the topic?

    Parameters
    ----------
    translation : DataFrame
        A row a contrast, embedder, choice of the layer and quantity.
    """
    known = known_rows(translation, "value")
    panels = [panel for panel in _TRANSLATION if known["quantity"].isin(panel[1]).any()]
    if not panels:
        return style.in_words("No translations were measured.")
    keys = ["contrast", "embedder", "choice"]
    pairs = known[keys].drop_duplicates().itertuples(index=False, name=None)
    names = style.order(known["contrast"])
    methods = methods_of(known)
    lines = sorted(
        ((str(name), Method(str(embedder), str(choice))) for name, embedder, choice in pairs),
        key=lambda line: (names.index(line[0]), methods.index(line[1])),
    )
    shown = lines[:20]
    height = min(1.7 + 0.42 * len(shown), _HIGHEST)
    figure, grid = style.subplots(1, len(panels), height=height, squeeze=False, sharey=True)
    for axes, (title, quantities, number) in zip(grid[0], panels, strict=True):
        for place, (name, method) in enumerate(shown):
            here = method.rows(known[known["contrast"] == name]).set_index("quantity")
            _before_after(axes, here, quantities, place)
            if number in here.index:
                axes.annotate(
                    _decimal(here["value"][number]), (1.0, place),
                    xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points",
                    va="center", fontsize=8,
                )  # fmt: skip
            if place:
                new = name != shown[place - 1][0]
                axes.axhline(place - 0.5, color="#999999" if new else "#eeeeee", linewidth=0.8,
                             zorder=0)  # fmt: skip
        axes.set_title(title, fontsize=9)
        _translation_scale(axes, quantities)
    words = [f"{_name(name, 30)}\n{_title(method, 20)}" for name, method in shown]
    grid[0][0].set_yticks(range(len(shown)), words, fontsize=8)
    grid[0][0].set_ylim(len(shown) - 0.5, -0.5)
    handles = [
        style.handle(0, "before: originals"),
        style.handle(1, "after: translations"),
        Line2D([], [], color=_SHIFT_LOOK["color"], marker="D", linewidth=1.4, label=_SHIFT),
        Line2D([], [], label="chance, or no shift", **_CHANCE),
    ]
    style.below(figure, handles, columns=4)
    _cut(figure, len(shown), len(lines), "lines", "table")
    return figure


_SHIFT_LOOK: dict[str, Any] = {"color": style.colour(2), "marker": "D"}


def _translation_scale(axes: Axes, quantities: Sequence[str]) -> None:
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    if quantities == (_SHIFT,):
        axes.axvline(0.0, **_CHANCE)
        axes.axvline(1.0, color="#bbbbbb", linewidth=0.8)
    elif "auroc" in quantities[0]:
        axes.axvline(0.5, **_CHANCE)
        low = axes.get_xlim()[0]
        axes.set_xlim(min(low, 0.45), 1.0)
    else:
        axes.set_xlim(0.0, 1.0)


def _before_after(axes: Axes, here: pd.DataFrame, quantities: Sequence[str], place: int) -> None:
    """Values of originals and translations, joined, each with its interval where it has one."""
    found = [name for name in quantities if name in here.index]
    values = [float(here["value"][name]) for name in found]
    # A little apart: intervals would lie on each other.
    heights = [place] if len(quantities) == 1 else [place - 0.14, place + 0.14][: len(values)]
    if len(values) == 2:
        axes.plot(values, heights, color="#aaaaaa", linewidth=1.0, zorder=1, label="_joined")
    for name, value, y in zip(found, values, heights, strict=True):
        i = quantities.index(name)
        look: dict[str, Any] = {"color": style.colour(i), "marker": style.marker(i)}
        look = {"markersize": 6.0} | (_SHIFT_LOOK if name == _SHIFT else look)
        ends = here.loc[name, ["lower", "upper"]].to_numpy(dtype=float)
        axes.plot(ends, [y, y], color=look["color"], linewidth=1.2, label="_interval")
        axes.plot([value], [y], linestyle="none", label="_value", clip_on=False, **look)


# -- signature -----------------------------------------------------------------------------------


@style.styled
def reliability_figure(reliability: pd.DataFrame, signature_summary: pd.DataFrame) -> Figure:
    """Is a named source as sure as it is said to be, and are unseen sources noticed?

    Parameters
    ----------
    reliability : DataFrame
        A row an embedder and bin of confidence.
    signature_summary : DataFrame
        A row an embedder, scenario and quantity.
    """
    known = known_rows(reliability, "confidence", "accuracy")
    summary = known_rows(signature_summary, "value")
    if known.empty and summary.empty:
        return style.in_words("No source was named.")
    embedders = style.order([*known["embedder"], *summary["embedder"]])
    scenarios = style.ordered(
        summary.loc[summary["quantity"].isin([*_NOTICED]), "scenario"], ["known"]
    )
    height = float(np.clip(1.6 + 0.2 * (1 + len(embedders)) * len(scenarios), 5.4, _HIGHEST))
    figure = plt.figure(figsize=(style.WIDTH, height))
    grid = figure.add_gridspec(2, 3, width_ratios=[1.5, 1.0, 1.0], height_ratios=[3.0, 1.0])
    curve = figure.add_subplot(grid[0, 0])
    counts = figure.add_subplot(grid[1, 0], sharex=curve)
    _reliability(curve, counts, known, embedders)
    left = figure.add_subplot(grid[:, 1])
    right = figure.add_subplot(grid[:, 2], sharey=left)
    for axes, quantity in zip((left, right), _NOTICED, strict=True):
        _noticed(axes, summary[summary["quantity"] == quantity], scenarios, embedders)
        axes.set_xlabel(_NOTICED[quantity], fontsize=9)
    right.axvline(0.5, label="_chance", **_CHANCE)
    right.tick_params(labelleft=False)
    left.set_yticks(range(len(scenarios)), [_scenario(name) for name in scenarios], fontsize=8)
    left.set_ylim(len(scenarios) - 0.5, -0.5)
    handles = [style.handle(i, style.plain(name)) for i, name in enumerate(embedders)]
    handles.append(Line2D([], [], label="as sure as said; chance", **_CHANCE))
    style.below(figure, handles, columns=5)
    return figure


_NOTICED = {
    "abstained": "share of items not named",
    "novelty auroc": "AUROC of unseen against known",
}


def _scenario(name: str, length: int = 18) -> str:
    if name == "known":
        return "known sources"
    if name.startswith("without "):
        return f"{_name(name.removeprefix('without '), length)}\nleft out"
    return _name(name, length)


def _reliability(curve: Axes, counts: Axes, known: pd.DataFrame, embedders: Sequence[str]) -> None:
    """Accuracy against confidence in bins, and how many items each holds."""
    curve.plot([0.0, 1.0], [0.0, 1.0], label="_diagonal", **_CHANCE)
    for i, embedder in enumerate(embedders):
        rows = known[known["embedder"] == embedder].sort_values("confidence")
        curve.vlines(rows["confidence"], rows["lower"], rows["upper"], color=style.colour(i),
                     linewidth=1.1)  # fmt: skip
        curve.plot(
            rows["confidence"], rows["accuracy"], color=style.colour(i), marker=style.marker(i),
            markersize=5, linewidth=1.2, label=f"_{embedder}",
        )  # fmt: skip
        width = (rows["bin_upper"] - rows["bin_lower"]) / len(embedders)
        counts.bar(
            rows["bin_lower"] + i * width, rows["count"], 0.92 * width, align="edge",
            color=style.colour(i), alpha=0.7,
        )  # fmt: skip
    low = min([1.0, *known["bin_lower"], *known["lower"].dropna()])
    curve.set(ylabel="share that is right", title="named among known sources",
              ylim=(min(low, 0.9) - 0.02, 1.02))  # fmt: skip
    counts.set(xlabel="calibrated confidence", ylabel="items")
    counts.set_xlim(min([0.9, *known["bin_lower"]]) - 0.02, 1.02)
    curve.tick_params(labelbottom=False)
    counts.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    curve.title.set_fontsize(10)


def _noticed(
    axes: Axes, rows: pd.DataFrame, scenarios: Sequence[str], embedders: Sequence[str]
) -> None:
    """A quantity by scenario, embedders side by side."""
    for place, scenario in enumerate(scenarios):
        if place:
            axes.axhline(place - 0.5, color="#dddddd", linewidth=0.8, zorder=0)
        for shift, (i, embedder) in zip(
            _offsets(len(embedders)), enumerate(embedders), strict=True
        ):
            here = rows[(rows["scenario"] == scenario) & (rows["embedder"] == embedder)]
            look = {"color": style.colour(i), "marker": style.marker(i), "markersize": 6.0}
            for row in here.to_dict("records"):
                ends = {"value_lower": row["lower"], "value_upper": row["upper"]}
                _estimate(axes, row | ends, "value", place + shift, look)
    axes.set_xlim(-0.02, 1.02)
    axes.grid(visible=False, axis="y")


@style.styled
def signature_figure(signature: pd.DataFrame) -> Figure:
    """Which source is named for items of known sources, of one left out, and of unknown ones.

    Parameters
    ----------
    signature : DataFrame
        A row an embedder, scenario and item.
    """
    known = known_rows(signature)
    known = known[_of_scenario(known)]
    if known.empty:
        return style.in_words("No source was named.")
    embedders = style.order(known["embedder"])
    rows = known[["scenario", "source"]].drop_duplicates().itertuples(index=False, name=None)
    trials = style.ordered(
        (f"{_rank(str(scenario))}\n{scenario}\n{source}" for scenario, source in rows), ()
    )
    lines = [tuple(trial.split("\n")[1:]) for trial in sorted(trials, key=lambda t: t[0])]
    named = known.loc[known["scenario"] == "known"]
    sources = style.order([*named["source"], *known["predicted"]])
    sources = [source for source in sources if source]
    columns = min(2, len(embedders))
    deep = -(-len(embedders) // columns)
    height = min(1.7 + deep * (0.6 + 0.3 * len(lines)), _HIGHEST)
    figure, grid = style.subplots(deep, columns, height=height, squeeze=False, sharey=True)
    for axes, embedder in zip(grid.flat, embedders, strict=False):
        _confusion(axes, known[known["embedder"] == embedder], lines, sources)
        axes.set_title(_name(embedder, 30), fontsize=10)
    for axes in grid.flat[len(embedders) :]:
        axes.set_visible(False)
    figure.supxlabel("named source", fontsize=10)
    _shade_bar(figure, grid, "share of the row's items\n(numbers: items)", 0.0, 1.0)
    return figure


def _of_scenario(known: pd.DataFrame) -> pd.Series:
    """Items that a scenario is about: of one that leaves a source out, that source's alone."""
    left_out = known["scenario"].str.removeprefix("without ")
    without = known["scenario"].str.startswith("without ")
    return ~without | (left_out == known["source"])


def _rank(scenario: str) -> int:
    return {"known": 0, "unknown": 2}.get(scenario, 1)


def _confusion(
    axes: Axes, part: pd.DataFrame, lines: Sequence[tuple[str, ...]], sources: Sequence[str]
) -> None:
    """Counts of what is named, a row a true source; a dash where it cannot be named."""
    columns = [*sources, _UNNAMED]
    abstained = part["abstained"].astype(str).str.lower().isin(["true", "1", "1.0"])
    said = part["predicted"].where(~abstained, _UNNAMED)
    counts = np.zeros((len(lines), len(columns)))
    words = []
    for i, (scenario, source) in enumerate(lines):
        here = said[(part["scenario"] == scenario) & (part["source"] == source)]
        counts[i] = [(here == name).sum() for name in columns]
        words.append(
            [
                "—" if scenario == f"without {name}" else f"{int(n)}" if n else ""
                for name, n in zip(columns, counts[i], strict=True)
            ]
        )
    shares = counts / counts.sum(axis=1, keepdims=True).clip(min=1.0)
    _cells(axes, shares, words, size=7.5 if len(columns) < 12 else 6.0)
    axes.axvline(len(sources) - 0.5, color=style.REFERENCE, linewidth=0.8)
    for i in range(1, len(lines)):
        if _rank(lines[i][0]) != _rank(lines[i - 1][0]):
            axes.axhline(i - 0.5, color=style.REFERENCE, linewidth=0.8)
    axes.set_xticks(
        range(len(columns)), [_name(name, 18) for name in columns], rotation=40, ha="right",
        rotation_mode="anchor", fontsize=8,
    )  # fmt: skip
    kinds = ("", " (left out)", " (unknown)")
    labels = [f"{_name(source, 18)}{kinds[_rank(scenario)]}" for scenario, source in lines]
    axes.set_yticks(range(len(lines)), labels, fontsize=8)
    axes.tick_params(length=0)
