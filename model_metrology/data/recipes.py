"""What is planted in a dataset, as a study's file gives it.

Apart from `poison`, which plants it: a study is read where nothing but Snakemake is installed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from model_metrology.recipes import Options

__all__ = ["Poison", "Trigger", "check_poison"]

Trigger = Literal["patch", "blended", "clean-label"]


class Poison(Options):
    """Training points with a planted trigger."""

    trigger: Trigger
    """patch: a bright square in the lower right corner, label set to the target; blended: a random
    pattern mixed into the image, label set to the target; clean-label: the square on images of the
    target class, labels unchanged."""
    fraction: float = Field(gt=0, lt=1)
    """Poisoned points, as a fraction of all training points."""
    target: int = Field(0, ge=0)
    """Class that the trigger stands for, by its position among the dataset's classes."""
    weight: float = Field(0.2, gt=0, lt=1)
    """Weight of the pattern (blended)."""
    size: int = Field(4, ge=1)
    """Side of the square in pixels (patch, clean-label)."""

    @model_validator(mode="after")
    def _check_used(self) -> Poison:
        unused = "size" if self.trigger == "blended" else "weight"
        if getattr(self, unused) != type(self).model_fields[unused].default:
            raise ValueError(
                f"{unused}: the trigger {self.trigger} has no such option; leave it out"
            )
        return self

    def count(self, points: int) -> int:
        """Poisoned points among `points` training points."""
        return round(self.fraction * points)


def check_poison(poison: Poison, shape: Sequence[int], counts: Sequence[int]) -> None:
    """Refuse a poison that a dataset cannot take.

    Parameters
    ----------
    poison : Poison
        What is to be planted.
    shape : sequence of int
        (channels, height, width) of an image.
    counts : sequence of int
        Training points of each class.

    Raises
    ------
    ValueError
        If the target is no class, the square is larger than an image, or there would be no
        poisoned point, or more than the trigger can be put on. The message starts with the key.
    """
    if poison.target >= len(counts):
        raise ValueError(f"target: {poison.target} is no class; choose from 0 to {len(counts) - 1}")
    if poison.trigger != "blended" and poison.size > min(shape[1:]):
        raise ValueError(
            f"size: a square of {poison.size} does not fit images of {shape[1]}x{shape[2]}; "
            f"take at most {min(shape[1:])}"
        )
    points, own = int(sum(counts)), int(counts[poison.target])
    # A hundredth of a hundred is one point, also where rounding puts the product just below it.
    if poison.fraction * points < 1 - 1e-9:
        raise ValueError(
            f"fraction: {poison.fraction:g} of {points} training points is less than one; take at "
            f"least {math.ceil(1e6 / points) / 1e6:g}"
        )
    there, which = (own, "of") if poison.trigger == "clean-label" else (points - own, "not of")
    if poison.count(points) > there:
        raise ValueError(
            f"fraction: {poison.count(points)} points asked for, {there} are {which} the target "
            f"class {poison.target}; take at most {math.floor(1e3 * there / points) / 1e3:g}"
        )
