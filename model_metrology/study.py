"""A study: one file that says what is trained, what is measured, and how.

The models below are the single source of the study's schema: the JSON schema in
``schemas/study.schema.json`` is generated from them (``python -m model_metrology.study``), and
every default is filled in from them. :func:`load_study` also checks what a schema cannot say
(names that must exist, sizes that must fit), so a study that cannot work fails before its
first job.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from urllib.parse import quote

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    ValidationError,
    model_validator,
)

from model_metrology.data.datasets import DATASETS
from model_metrology.recipes import (
    BUILT_IN,
    PRETRAINED,
    Architecture,
    Fraction,
    Options,
    Population,
)


def _safe_name(name: str) -> str:
    # Names become folder names, wildcards of rules and words of figures.
    if not name or name in {".", ".."} or any(c in "/\\{}\0" for c in name):
        raise ValueError(f"name {name!r} must not be empty or contain / \\ {{ }}")
    return name


Name = Annotated[str, AfterValidator(_safe_name)]


def folder_name(name: str) -> str:
    """Name of the folder that stands for a name: the name, save for what paths cannot hold.

    Signs with a meaning to file systems or to the workflow's paths are percent-encoded;
    :func:`urllib.parse.unquote` gives the name back.
    """
    return re.sub(r'[<>:"|?*]|%(?=[0-9A-Fa-f]{2})', lambda found: quote(found[0]), name)


class StudyError(ValueError):
    """A study that cannot work; the message names the file, the key and the remedy."""


class DataOptions(Options):
    """Where raw data come from."""

    root: str | None = None
    """Folder with the raw files; the variable MODEL_METROLOGY_DATA does the same."""
    cache: str = "resources"
    """Folder that keeps what was fetched, shared by studies."""
    sources: list[Literal["folder", "download", "package"]] = Field(
        ["folder", "download", "package"], min_length=1
    )
    """Sources, in the order tried."""


class DatasetOptions(Options):
    """How much of a dataset is used."""

    train: int | None = Field(None, ge=2)
    """Training points, stratified; all when absent."""
    test: int | None = Field(None, ge=2)
    """Test points, stratified; all when absent."""


class Reference(Options):
    """The runs that candidates are held against."""

    population: str
    """A key of `populations`."""
    size: int = Field(ge=3)
    """Its first `size` completed runs are the reference; the rest are candidates."""
    law: Literal["pooled", "mean", "quantile"] = "pooled"
    """Pooled eCDF; eCDF of the mean gap; average of the quantile functions."""


class Comparison(Options):
    """One question to the populations: a figure with one box a population."""

    title: str
    """The question, as the figure's title."""
    populations: list[str] = Field(min_length=1)
    """Keys of `populations`, in plot order."""
    against: Literal["reference", "own"] = "reference"
    """'reference': the study's reference; 'own': each run against the other runs of its
    population."""


class Variability(Options):
    """Variability: are two models meaningfully different?"""

    reference: Reference
    tolerance: Literal["ks", "authors"] | Annotated[float, Field(gt=0, lt=1)] = "ks"
    """KS critical value at `level`; the authors' delta; or a fixed number."""
    level: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Level of tests; intervals cover 1 - level."""
    trim: Fraction = 0.05
    """Share that the trimmed test may set aside: it accepts where alpha-hat is no larger."""
    bootstraps: int = Field(200, ge=20)
    """Bootstrap replicates of each interval."""
    comparisons: dict[Name, Comparison] = {}
    """Questions to the populations, each a figure."""
    planted: list[str] = []
    """Populations with a planted difference, for the power of the tests."""
    simulations: int = Field(200, ge=20)
    """Simulated samples a row of the coverage table."""

    def how(self) -> dict[str, Any]:
        """What alpha-hat depends on: a changed title or comparison measures nothing again."""
        measured = self.model_dump(include={"tolerance", "level"})
        return measured | self.reference.model_dump(include={"size", "law"})


class Study(Options):
    """A study of trained models as instruments."""

    name: Name
    """Results go to results/<name>."""
    seed: int = Field(0, ge=0)
    """Root seed of all random streams."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA when there, else CPU."""
    data: DataOptions = DataOptions()
    datasets: dict[Name, DatasetOptions] = Field(min_length=1)
    """Datasets by name, and their sizes."""
    populations: dict[Name, Population] = Field(min_length=1)
    """Populations by name."""
    max_excluded: Fraction = 0.0
    """Fail if more than this fraction of a population's runs diverged and is left out."""
    variability: Variability | None = None
    """The variability analysis; absent: not run."""

    @model_validator(mode="after")
    def _check(self) -> Study:
        for check in (_check_datasets, _check_populations, _check_variability):
            check(self)
        return self


def _known(kind: str, key: str, name: str, names: Mapping[str, Any]) -> None:
    if name not in names:
        raise ValueError(f"{key}: there is no {kind} {name!r}; known: {', '.join(sorted(names))}")


def _check_datasets(study: Study) -> None:
    for name, options in study.datasets.items():
        _known("dataset", f"datasets.{name}", name, DATASETS)
        for part in ("train", "test"):
            wanted, there = getattr(options, part), getattr(DATASETS[name], f"{part}_size")
            if wanted is not None and wanted > there:
                raise ValueError(
                    f"datasets.{name}.{part}: {wanted} points asked for, {name} has {there}"
                )


def _check_populations(study: Study) -> None:
    for name, population in study.populations.items():
        key = f"populations.{name}"
        _known("dataset", f"{key}.dataset", population.dataset, study.datasets)
        spec, options = DATASETS[population.dataset], study.datasets[population.dataset]
        classes, architecture, recipe = (
            len(spec.classes),
            population.architecture,
            population.recipe,
        )
        if architecture.outputs == "one" and classes > 2:
            raise ValueError(
                f"{key}.architecture.outputs: one logit needs two classes, "
                f"{population.dataset} has {classes}; use 'classes'"
            )
        points = options.train or spec.train_size
        if recipe.batch_size > points:
            raise ValueError(
                f"{key}.recipe.batch_size: {recipe.batch_size} is more than the {points} "
                f"training points of {population.dataset}"
            )
        _check_used(key, population)
        if recipe.trainable == "head" and recipe.augmentation:
            raise ValueError(
                f"{key}.recipe.augmentation: a head is trained on features computed once, which "
                "cannot be augmented; leave it empty, or train all"
            )
        if recipe.trainable == "head" and not architecture.pretrained:
            raise ValueError(
                f"{key}.recipe.trainable: 'head' needs `architecture.pretrained: true`"
            )
        if architecture.name == "vit_b_16" and architecture.image_size not in (None, 224):
            raise ValueError(
                f"{key}.architecture.image_size: vit_b_16 takes images of 224, got "
                f"{architecture.image_size}; leave it out"
            )
        if architecture.pretrained and architecture.name not in PRETRAINED:
            raise ValueError(
                f"{key}.architecture.pretrained: there are no weights for {architecture.name}; "
                f"choose from {', '.join(PRETRAINED)}"
            )


# Which architectures take an option; on others it would be ignored in silence.
_TAKES = {
    "width": ("mlp", "cnn", "vit-small"),
    "depth": ("mlp", "vit-small"),
    "dropout": tuple(name for name in BUILT_IN if not name.startswith("resnet")),
    "parametrisation": ("mlp",),
}


def _check_used(key: str, population: Population) -> None:
    """Refuse options that would do nothing."""
    architecture, recipe = population.architecture, population.recipe
    for option, names in _TAKES.items():
        default = Architecture.model_fields[option].default
        if getattr(architecture, option) != default and architecture.name not in names:
            raise ValueError(
                f"{key}.architecture.{option}: {architecture.name} has no such option; it is for "
                f"{', '.join(names)}"
            )
    if recipe.momentum and recipe.optimiser != "sgd":
        raise ValueError(f"{key}.recipe.momentum: it is for sgd, not for {recipe.optimiser}")
    sources = {
        "init": True,
        "order": True,
        "augmentation": bool(recipe.augmentation),
        "dropout": architecture.dropout > 0,
        "label_noise": population.label_noise > 0,
    }
    if population.size > 1 and not any(sources[stream] for stream in population.varies):
        raise ValueError(
            f"{key}.varies: nothing would differ between the runs: the recipe uses none of "
            f"{list(population.varies)}"
        )


def _check_variability(study: Study) -> None:
    options = study.variability
    if options is None:
        return
    populations, reference = study.populations, options.reference
    key = "variability.reference"
    _known("population", f"{key}.population", reference.population, populations)
    base = populations[reference.population]
    if reference.size >= base.size:
        raise ValueError(
            f"{key}.size: {reference.size} reference runs leave no candidate among the "
            f"{base.size} runs of {reference.population}"
        )
    smallest = 1.0 / (reference.size + 1)
    if smallest > options.level:
        raise ValueError(
            f"{key}.size: with {reference.size} reference runs the smallest outlier p-value is "
            f"1/{reference.size + 1}, above the level {options.level:g}, so nothing could be "
            f"rejected; take at least {math.ceil(1 / options.level - 1e-9) - 1} runs, or raise "
            "variability.level"
        )
    named = {
        f"comparisons.{name}.populations": c.populations for name, c in options.comparisons.items()
    }
    for where, names in {**named, "planted": options.planted}.items():
        for name in names:
            _known("population", f"variability.{where}", name, populations)
            if where == "planted" and not populations[name].label_noise:
                raise ValueError(
                    f"variability.planted: {name} has no planted difference; set its label_noise"
                )
            if populations[name].dataset != base.dataset:
                raise ValueError(
                    f"variability.{where}: {name} is measured on {populations[name].dataset}, the "
                    f"reference on {base.dataset}; gaps compare on the same test points only"
                )
    for name, comparison in options.comparisons.items():
        small = [p for p in comparison.populations if populations[p].size < 3]
        if comparison.against == "own" and small:
            raise ValueError(
                f"variability.comparisons.{name}.populations: {', '.join(small)} has fewer than "
                "three runs, too few to hold them against each other"
            )
    if len(DATASETS[base.dataset].classes) != 2:
        raise ValueError(
            f"{key}.population: {base.dataset} has {len(DATASETS[base.dataset].classes)} classes; "
            "logit gaps are defined for two"
        )


def _plain(error: ValidationError, source: str) -> str:
    """Pydantic's findings as lines `file: key: what is wrong`."""
    lines = []
    for finding in error.errors():
        # Tagged unions append the tried type's name to the location; keys are all a user knows.
        key = ".".join(str(part) for part in finding["loc"] if not str(part).startswith("function"))
        message = finding["msg"].removeprefix("Value error, ")
        if finding["type"] == "extra_forbidden":
            message = f"unknown key{_did_you_mean(finding['loc'])}"
        elif finding["type"] == "missing":
            message = "this key is required"
        else:
            message += "" if finding["type"] == "value_error" else f" (got {finding['input']!r})"
        lines.append(f"{source}: {key}: {message}" if key else f"{source}: {message}")
    return "\n".join(dict.fromkeys(lines))


def _did_you_mean(location: tuple[int | str, ...]) -> str:
    """The known keys at `location`'s place, the nearest one first."""
    model: Any = Study
    for part in location[:-1]:
        model = _inner_model(model, part)
        if model is None:
            return ""
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return ""
    known = list(model.model_fields)
    near = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(known)}"


def _inner_model(model: Any, part: int | str) -> Any:
    """The model behind key `part` of `model`, also through dict and optional types."""
    if isinstance(model, type) and issubclass(model, BaseModel):
        field = model.model_fields.get(str(part))
        model = field.annotation if field else None
    elif get_origin(model) is dict:
        model = get_args(model)[1]
    for inner in get_args(model) if get_origin(model) in (Union, UnionType) else ():
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            return inner
    return model


def load_study(content: Mapping[str, Any], *, source: str = "study") -> Study:
    """Check a study and fill in its defaults.

    Parameters
    ----------
    content : mapping
        The study as read from YAML.
    source : str
        The file's name, for messages.

    Raises
    ------
    StudyError
        With one line a finding: file, key, what is wrong, and what would be right.
    """
    try:
        return Study.model_validate(dict(content))
    except ValidationError as error:
        raise StudyError(_plain(error, source)) from None


def study_schema() -> dict[str, Any]:
    """The JSON schema of a study, for editors and for ``schemas/study.schema.json``."""
    schema = Study.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


if __name__ == "__main__":
    target = Path(__file__).parents[1] / "schemas" / "study.schema.json"
    target.write_text(json.dumps(study_schema(), indent=2) + "\n")
    print(f"wrote {target}")
