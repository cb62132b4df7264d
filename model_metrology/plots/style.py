"""One style for all figures, and how they are saved."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

P = ParamSpec("P")

# Okabe & Ito's colours, told apart in all common kinds of colour blindness; black stays free for
# references. Yellow comes last: it is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F7F7F", "#8C510A")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h", "p")
REFERENCE = "#222222"
WIDTH = 10.0
"""Width of a full figure, in inches; a report page cuts figures higher than it is wide."""

_STYLE: Any = {
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "pdf.fonttype": 42,
}


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Make a function draw in the project's style."""

    @functools.wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with plt.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return wrapper


def subplots(rows: int = 1, columns: int = 1, *, height: float, **options: Any) -> Any:
    """Figure of full width and its axes; as :func:`matplotlib.pyplot.subplots`."""
    return plt.subplots(rows, columns, figsize=(WIDTH, height), **options)


def colour(i: int) -> str:
    """Colour number `i`, from the first again after the last."""
    return COLOURS[i % len(COLOURS)]


def marker(i: int) -> str:
    """Marker number `i`; colour and marker together tell some eighty groups apart."""
    return MARKERS[i % len(MARKERS)]


def line(i: int) -> str:
    """Line style number `i`: dashed where the colours come round again."""
    return ("-", "--", ":")[i // len(COLOURS) % 3]


def plain(text: object) -> str:
    """Text as it stands: matplotlib reads dollar signs as mathematics, and hides `_` labels."""
    text = str(text).replace("$", r"\$")
    return f"\u200b{text}" if text.startswith("_") else text


def say(axes: Axes, text: str) -> None:
    """Say in words, in place of a plot, why there is nothing to see."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, wrap=True)


def in_words(text: str) -> Figure:
    """Figure that says in words why there is nothing to see."""
    figure, axes = subplots(height=2.0)
    say(axes, text)
    return figure


def short(text: str, length: int = 16) -> str:
    """Text cut to a length, so that neighbours in a grid do not overlap."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def handle(i: int, label: str, **options: Any) -> Line2D:
    """Legend entry of group number `i`."""
    look: dict[str, Any] = {"color": colour(i), "marker": marker(i), "markersize": 7}
    return Line2D([], [], linestyle="none", label=label, **look | options)


def below(
    figure: Figure, handles: Sequence[Any], labels: Sequence[str] | None = None, *, columns: int = 5
) -> None:
    """Put a legend of these entries below the figure, where it covers no data."""
    if handles:
        figure.legend(
            handles=handles,
            labels=labels or [entry.get_label() for entry in handles],
            loc="outside lower center",
            ncols=min(columns, len(handles)),
            fontsize=9,
        )


def legend_below(figure: Figure, axes: Axes, *, columns: int = 5) -> None:
    """Put the legend of one of the axes below the figure."""
    below(figure, *axes.get_legend_handles_labels(), columns=columns)


def save(figure: Figure, *paths: str | os.PathLike[str]) -> None:
    """Write a figure, its format by each name's ending; the same figure gives the same bytes.

    Parameters
    ----------
    figure : Figure
        Closed afterwards.
    *paths : path-like
        ``.png`` (150 dots per inch) or ``.pdf``.

    Raises
    ------
    ValueError
        If a path ends otherwise.
    """
    undated: dict[str, dict[str, Any]] = {
        ".png": {"Software": None},
        ".pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    }
    with plt.rc_context(_STYLE):
        for path in map(Path, paths):
            if path.suffix not in undated:
                raise ValueError(f"{path}: figures are written as .png or .pdf; rename it")
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=150, metadata=undated[path.suffix])
    plt.close(figure)


def order(names: Iterable[object]) -> list[str]:
    """Names without repeats, in the order of their first mention."""
    return list(dict.fromkeys(str(name) for name in names))


def ordered(names: Iterable[object], known: Sequence[str]) -> list[str]:
    """Names that occur, the known ones first and in their order."""
    found = order(names)
    return [name for name in order([*known, *found]) if name in found]
