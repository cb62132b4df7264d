"""What is trained for the spectra: two-layer networks of linear width, as a study gives them.

Apart from the rest of the study because training depends on these alone. Sizes are given as the
theory gives them, by ratios that stay fixed while all of them grow.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from model_metrology.recipes import Fraction, Options, blocks

ActivationName = Literal["tanh", "relu", "softplus", "sigmoid", "erf", "linear"]
LinkName = Literal["tanh", "relu", "softplus", "sigmoid", "erf", "linear", "quadratic"]
WidthStream = Literal["init", "data", "order"]
Ratio = Annotated[float, Field(gt=0)]


class Teacher(Options):
    """Data: x ~ N(0, I_d), y = s [Σ_j g(xᵀβ_j)/√k + (τ/d)‖x‖² + ε] with orthonormal β_1 … β_k."""

    points: int = Field(600, ge=2)
    """Training points n; as many test points, 2,000 at most."""
    points_per_dimension: Ratio = 2.0
    """n/d; the dimension d must come out whole and at least 2."""
    link: LinkName = "softplus"
    """The link g, centred and of unit variance."""
    directions: int = Field(1, ge=1)
    """Planted directions k."""
    label_scale: float = Field(1.0, gt=0)
    """s, the standard deviation of the signal."""
    norm_term: float = 0.0
    """τ, the weight of ‖x‖²/d."""
    noise: float = Field(0.3, ge=0)
    """Standard deviation of ε."""

    @property
    def dimension(self) -> int:
        """Dimension d of the inputs."""
        return round(self.points / self.points_per_dimension)


class TwoLayer(Options):
    """Network: f(x) = vᵀ φ(W x/√d)/√h with W ~ N(0, 1) and v = ±1 at initialisation."""

    width_per_dimension: Ratio = 1.5
    """h/d; the width h must come out whole."""
    activation: ActivationName = "tanh"
    """φ, centred and of unit variance under N(0, 1)."""
    trained: Literal["first", "both"] = "first"
    """Train W alone, or v too."""


class WidthRecipe(Options):
    """How a two-layer network is trained: on half the mean squared error of a step's points."""

    optimiser: Literal["gd", "sgd", "adam", "rmsprop"] = "gd"
    """gd: plain steps on all points; the others as torch.optim has them."""
    learning_rate: float = Field(1.0, gt=0)
    """Step size, constant."""
    momentum: Fraction = 0.0
    """Momentum (sgd)."""
    batch_size: int | None = Field(None, ge=1)
    """Points a step; all when absent."""
    steps: int = Field(100, ge=1)
    """Number of steps."""


class WidthPopulation(Options):
    """Two-layer networks trained in the same way, which differ in the streams that vary."""

    data: Teacher = Teacher()
    network: TwoLayer = TwoLayer()
    recipe: WidthRecipe = WidthRecipe()
    size: int = Field(3, ge=1)
    """Number of runs."""
    varies: list[WidthStream] = ["init", "data", "order"]
    """The random streams that differ from run to run; the others are shared."""
    snapshots: list[Annotated[int, Field(ge=1)]] = []
    """Steps after which spectra are taken, besides the beginning and the end."""
    runs_per_job: int = Field(100, ge=1)
    """Runs that one job trains."""

    @property
    def width(self) -> int:
        """Width h: hidden units."""
        return round(self.data.dimension * self.network.width_per_dimension)

    @property
    def recorded(self) -> list[int]:
        """Steps after which weights are kept: 0, the snapshots, the last."""
        last = self.recipe.steps
        return sorted({0, last} | {step for step in self.snapshots if step < last})

    @model_validator(mode="after")
    def _sizes_fit(self) -> WidthPopulation:
        data, recipe = self.data, self.recipe
        n, d = data.points, data.dimension
        _check_whole("data.points_per_dimension", n, data.points_per_dimension, d, "dimension d")
        ratio = self.network.width_per_dimension
        _check_whole("network.width_per_dimension", d, 1.0 / ratio, self.width, "width h", least=1)
        if data.directions > d:
            raise ValueError(
                f"data.directions: {data.directions} orthogonal directions do not fit into "
                f"dimension {d}; take at most {d}"
            )
        if recipe.optimiser == "gd" and recipe.batch_size is not None:
            raise ValueError("recipe.batch_size: gd takes all points; leave it out, or take sgd")
        if recipe.batch_size is not None and recipe.batch_size > n:
            raise ValueError(
                f"recipe.batch_size: {recipe.batch_size} is more than the {n} training points"
            )
        if recipe.momentum and recipe.optimiser != "sgd":
            raise ValueError(f"recipe.momentum: it is for sgd, not for {recipe.optimiser}")
        return self


class Sweep(Options):
    """A population with some of its keys varied: a grid of small populations."""

    population: str
    """A key of `spectra.populations`, which the sweep starts from."""
    over: dict[str, list[Any]] = Field(min_length=1)
    """Values by dotted key, e.g. `recipe.learning_rate: [1, 2]`; all combinations are trained.
    Keys joined by a comma vary together: `data.points, recipe.steps: [[200, 10], [400, 20]]`."""
    size: int = Field(1, ge=1)
    """Runs of each combination."""
    runs_per_job: int = Field(200, ge=1)
    """Runs that one job trains."""

    @model_validator(mode="after")
    def _keys_can_be_varied(self) -> Sweep:
        known = [
            f"{part}.{key}"
            for part, model in (("data", Teacher), ("network", TwoLayer), ("recipe", WidthRecipe))
            for key in model.model_fields
        ]
        seen: set[str] = set()
        for keys, values in self.over.items():
            names = _keys(keys)
            for name in names:
                if name not in known:
                    near = difflib.get_close_matches(name, known, n=1)
                    hint = (
                        f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(known)}"
                    )
                    raise ValueError(f"over.{name}: there is no such key to vary; {hint}")
                if name in seen:
                    raise ValueError(f"over.{name}: it is varied twice; leave one out")
                seen.add(name)
            if not values:
                raise ValueError(f"over.{keys}: there are no values; give one at least")
            if len(names) > 1 and not all(
                isinstance(value, list) and len(value) == len(names) for value in values
            ):
                raise ValueError(f"over.{keys}: each entry must be a list of {len(names)} values")
        return self

    def cells(self) -> list[dict[str, Any]]:
        """The changed keys of each combination, in order."""
        axes = [[_cell(keys, value) for value in values] for keys, values in self.over.items()]
        return [
            {key: value for part in parts for key, value in part.items()}
            for parts in itertools.product(*axes)
        ]

    def varied(self) -> set[str]:
        """The dotted keys that the sweep varies."""
        return {key for keys in self.over for key in _keys(keys)}

    def populations(self, base: WidthPopulation) -> list[WidthPopulation]:
        """The population of each combination; the base's snapshots are left out."""
        bare = base.model_copy(update={"snapshots": []})
        return [_changed(bare, cell) for cell in self.cells()]


class Group(Options):
    """A population or a sweep, as jobs see it: a numbered list of runs."""

    base: WidthPopulation
    """The population, or what the sweep starts from."""
    sweep: Sweep | None = None
    """The sweep; absent for a population."""

    @cached_property
    def cells(self) -> list[WidthPopulation]:
        """The population, or one for each combination of the sweep."""
        return [self.base] if self.sweep is None else self.sweep.populations(self.base)

    def population(self, run: int) -> WidthPopulation:
        """What a run is; the next cell's comes next, so that a larger `size` only adds runs."""
        return self.cells[run % len(self.cells)]

    def blocks(self) -> Iterator[str]:
        """Names of the jobs' blocks of runs."""
        whole = self.sweep or self.base
        return blocks(len(self.cells) * whole.size, whole.runs_per_job)


def _keys(keys: str) -> list[str]:
    return [key.strip() for key in keys.split(",")]


def _cell(keys: str, value: Any) -> dict[str, Any]:
    names = _keys(keys)
    values = value if len(names) > 1 else [value]
    return dict(zip(names, values, strict=True))


def _changed(base: WidthPopulation, changes: dict[str, Any]) -> WidthPopulation:
    content = base.model_dump()
    for key, value in changes.items():
        part, _, name = key.partition(".")
        content[part][name] = value
    return WidthPopulation.model_validate(content)


def _check_whole(
    key: str, count: int, ratio: float, result: int, what: str, *, least: int = 2
) -> None:
    """Refuse sizes that do not divide: a rounded size would be another ratio."""
    exact = count / ratio
    if abs(exact - result) > 1e-6 * max(exact, 1.0) or result < least:
        raise ValueError(
            f"{key}: the {what} comes out as {exact:g}, and must be whole and at least {least}; "
            "change the ratio or the size"
        )
