"""What the rules ask of surrogates: nothing here makes the workflow wait for pandas or torch."""

from __future__ import annotations

__all__ = ["TABLES", "column_bounds"]

TABLES: tuple[str, ...] = (
    "faithfulness", "fits", "selection", "scores", "attribution", "strongest", "poison",
    "poison_curves",
)  # fmt: skip
"""Tables that are measured of every run."""


def column_bounds(points: int, tile: int | None) -> list[tuple[int, int]]:
    """First and last column of each job, `tile` columns a job; one job without."""
    step = points if tile is None else tile
    return [(start, min(start + step, points)) for start in range(0, points, step)]
