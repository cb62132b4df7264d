"""How training went."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from model_metrology.plots import style


@style.styled
def training_figure(history: pd.DataFrame) -> Figure:
    """Loss and accuracy against the epoch, one colour a population, one line a run.

    Parameters
    ----------
    history : DataFrame
        Columns population, run, epoch, loss, accuracy.
    """
    figure, (left, right) = style.subplots(1, 2, height=4.6)
    for i, name in enumerate(style.order(history["population"])):
        part = history[history["population"] == name]
        for axes, column in ((left, "loss"), (right, "accuracy")):
            table = part.pivot_table(index="epoch", columns="run", values=column)
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
        lost = part[~np.isfinite(part["loss"])]
        if len(lost):
            left.plot(
                lost["epoch"],
                np.full(len(lost), 0.98),
                "x",
                color=style.colour(i),
                transform=left.get_xaxis_transform(),
                label=style.plain(f"{name}: diverged"),
            )
    left.set(xlabel="epoch", ylabel="training loss", title="Loss")
    right.set(xlabel="epoch", ylabel="training accuracy", title="Accuracy (with augmentation)")
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    style.legend_below(figure, left)
    return figure
