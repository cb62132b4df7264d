"""How training went."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from model_metrology.plots import style


@style.styled
def training_figure(history: pd.DataFrame) -> Figure:
    """Loss and accuracy against the epoch, one colour a population, one line a run.

    Bold lines are means over the completed runs, and the axes are theirs: a run's loss can grow
    by many orders before it diverges.

    Parameters
    ----------
    history : DataFrame
        Columns population, run, epoch, loss, accuracy.
    """
    if not np.isfinite(history["loss"]).any():
        return style.in_words("No finite training loss is recorded.")
    figure, (left, right) = style.subplots(1, 2, height=4.6)
    for i, name in enumerate(style.order(history["population"])):
        part = history[history["population"] == name]
        lost = part[~np.isfinite(part["loss"])].groupby("run")["epoch"].min()
        gone = part["run"].isin(lost.index)
        completed, diverged = part[~gone], part[gone]
        for axes, column in ((left, "loss"), (right, "accuracy")):
            for _, run in diverged.groupby("run"):
                # Without a say in the limits of the axes, unlike `plot`.
                trace = Line2D(
                    run["epoch"], run[column], color=style.colour(i), linestyle=":", linewidth=0.9
                )
                axes.add_artist(trace)
            table = completed.pivot_table(index="epoch", columns="run", values=column)
            axes.plot(table.index, table, color=style.colour(i), alpha=0.25, linewidth=0.8)
            axes.plot(
                table.index,
                table.mean(axis=1),
                color=style.colour(i),
                linestyle=style.line(i),
                marker=style.marker(i),
                markersize=5,
                label=style.plain(name),
            )
        if len(lost):
            left.plot(
                lost,
                np.full(len(lost), 0.98),
                "x",
                color=style.colour(i),
                transform=left.get_xaxis_transform(),
                label=style.plain(f"{name}: diverged"),
            )
    left.set(xlabel="epoch", ylabel="training loss", title="Loss")
    right.set(xlabel="epoch", ylabel="training accuracy", title="Accuracy on the training batches")
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    style.legend_below(figure, left)
    return figure
