"""A study: one file that says what is trained, what is measured, and how.

The models below are the single source of the study's schema: the JSON schema in
``schemas/study.schema.json`` is generated from them (``python -m model_metrology.study``), and
every default is filled in from them. :func:`load_study` also checks what a schema cannot say
(names that must exist, sizes that must fit), so a study that cannot work fails before its
first job.
"""

from __future__ import annotations

import difflib
import itertools
import json
import math
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    ValidationError,
    model_validator,
)

from model_metrology.data.catalogue import DATASETS, DatasetSpec
from model_metrology.data.recipes import Poison, check_poison
from model_metrology.embeddings.apertium import apertium_available
from model_metrology.embeddings.names import BASELINE_NAMES, BASELINES, SIGNATURE
from model_metrology.embeddings.recipes import (
    Contrast,
    Embedder,
    SignatureOptions,
    Source,
    TranslationContrast,
)
from model_metrology.kernels.names import KERNELS, KernelName
from model_metrology.model_folders import local_folder
from model_metrology.recipes import (
    BUILT_IN,
    PRETRAINED,
    Architecture,
    Fraction,
    Options,
    Population,
)
from model_metrology.spectra.recipes import Group, Sweep, WidthPopulation
from model_metrology.surrogates.builders import find_builder
from model_metrology.surrogates.recipes import ForeignInstrument, LanguageInstrument


def _safe_name(name: str) -> str:
    # Names become folder names, wildcards of rules and words of figures.
    if not name or name in {".", ".."} or any(c in "/\\{}" for c in name):
        raise ValueError(f"name {name!r} must not be empty or contain / \\ {{ }}")
    if not name.isprintable():
        raise ValueError(f"name {name!r} has invisible characters; leave them out")
    if len(folder_name(name).encode()) > _LONGEST:
        raise ValueError(f"name '{name[:20]}…' is too long for a folder's; shorten it")
    return name


Name = Annotated[str, AfterValidator(_safe_name)]

_LONGEST = 150
"""Bytes of a folder's name; file systems take 255, and files add endings and temporary names."""


def _safe_title(title: str) -> str:
    # It labels a figure in the report, and Snakemake fills in what it takes for a wildcard there.
    if found := re.search(r"\{\s*[\w.]+\s*[,}]", title):
        raise ValueError(
            f"{found[0]!r}: a word in braces would be filled in by the workflow; leave them out"
        )
    return title


Title = Annotated[str, AfterValidator(_safe_title)]


def folder_name(name: str) -> str:
    """Name of the folder that stands for a name: the name, save for what paths cannot hold.

    Characters with a meaning to file systems, to the workflow's paths, to the shells through which
    a scheduler is given its jobs, or in Slurm's names of logs (``%`` and what follows) become ``@``
    and two hexadecimal digits; :func:`name_of_folder` gives the name back.
    """
    return _SPECIAL.sub(lambda found: f"@{ord(found[0]):02X}", name)


def name_of_folder(folder: str) -> str:
    """The name that a folder stands for; inverse of :func:`folder_name`."""
    return re.sub("@([0-9A-F]{2})", lambda found: chr(int(found[1], 16)), folder)


_SPECIAL = re.compile(r"""[<>:"|?*'`$,]|%(?=[0-9A-Za-z])|@(?=[0-9A-F]{2})""")


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
    """How much of a dataset is used, and how."""

    of: str | None = None
    """The dataset that it is, where the key is a name of your own; the key itself when absent."""
    train: int | None = Field(None, ge=2)
    """Training points, stratified; all when absent."""
    test: int | None = Field(None, ge=2)
    """Test points, stratified; all when absent."""
    standardise: bool = True
    """Scale channels to mean 0 and variance 1 over the training points; false: intensities of 0
    to 1."""
    poison: Poison | None = None
    """A trigger planted in training points; absent: none."""


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

    title: Title
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


class ImageSpectra(Options):
    """Spectra of the networks that are trained on images."""

    populations: list[str] = Field(min_length=1)
    """Keys of the study's `populations`."""
    runs: int = Field(2, ge=1)
    """The first so many completed runs of each."""
    points: int = Field(500, ge=2)
    """Test points of the kernels."""


class Forensics(Options):
    """Can the optimiser be named from the spectra of a run?"""

    classes: dict[Name, Annotated[list[str], Field(min_length=1)]] = Field(min_length=2)
    """Sweeps whose runs are of a class, by the name to give."""
    unknown: dict[Name, list[str]] = {}
    """Sweeps of optimisers that are not among the classes: no name should be given."""
    held_out: list[str] = []
    """Keys whose values are left out one at a time, e.g. `data.link`."""
    level: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """How often the set of names may miss the true one; 2/level - 1 runs a class are needed before
    a name can be refused."""


class Spectra(Options):
    """Spectra: what did the optimiser do?"""

    level: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Level of the edge test: how often a spectrum without spikes is said to have one."""
    populations: dict[Name, WidthPopulation] = {}
    """Two-layer networks of linear width, by name."""
    sweeps: dict[Name, Sweep] = {}
    """Grids that start from one of these populations, by name."""
    expected: dict[str, Literal["bulk", "bulk+spikes", "heavy-tailed"]] = {}
    """What kind of spectrum the weights of a population should end with: a claim to be counted."""
    multi_index: list[str] = []
    """Populations with several planted directions, for the figure of alignments."""
    scaling: list[str] = []
    """Sweeps over `data.points`, for the norms against size."""
    phases: list[str] = []
    """Sweeps over `recipe.learning_rate` and `data.label_scale`, for the phase diagram."""
    forensics: Forensics | None = None
    """Naming the optimiser; absent: not tried."""
    images: ImageSpectra | None = None
    """Networks trained on images; absent: none."""

    def groups(self) -> dict[str, Group]:
        """Everything that is trained, populations and sweeps, by name."""
        groups = {name: Group(base=base) for name, base in self.populations.items()}
        for name, sweep in self.sweeps.items():
            groups[name] = Group(base=self.populations[sweep.population], sweep=sweep)
        return groups


class Surrogates(Options):
    """Surrogates: do two models explain themselves alike?"""

    populations: list[str] = []
    """Keys of the study's `populations`. Those trained on a poisoned dataset are also asked for
    their poisoned training points."""
    instruments: dict[Name, ForeignInstrument] = {}
    """Networks that were not trained here, by name."""
    language: dict[Name, LanguageInstrument] = {}
    """Language models that are fine-tuned here, by name."""
    runs: int = Field(2, ge=1)
    """The first so many runs of each population."""
    train: int | None = Field(1000, ge=2)
    """Training points of the kernels, stratified; null: all."""
    test: int | None = Field(500, ge=2)
    """Test points, likewise."""
    kernels: list[KernelName] = Field(list(KERNELS), min_length=1)
    """Kernels by name; 0 marks the one that is not normalised."""
    projection: int = Field(10_240, ge=1)
    """Length of projected gradients."""
    precision: Literal["model", "tf32", "bfloat16"] = "model"
    """Precision of the kernels' matrix products; a lower one's error is logged."""
    memory_mb: int = Field(2000, ge=1)
    """Memory of a kernel job for what it holds of points and for blocks of a kernel under way; the
    columns that it writes come on top."""
    tile: int | None = Field(None, ge=2)
    """Columns of a kernel that one job computes; null: all in one job."""
    keep_kernels: bool = True
    """Keep the kernels' files; false: delete each once it has been used."""
    l2: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"
    """Penalty of the kernel GLM (`glm`); auto: the power of ten that is best on held-out training
    points. The other solvers have penalties of their own."""
    solvers: list[Literal["sgd", "svm"]] = []
    """Other surrogates, for comparison: of stochastic gradient descent, as the published ones, and
    support vectors."""
    sgd_l2: dict[Name, Annotated[float, Field(gt=0)]] = {}
    """Penalty of the solver `sgd` by network; 1e-4, as in the paper, where it is not named."""
    attribution_kernel: KernelName = "trNTK"
    """Kernel whose attributions are shown, and compared between runs."""
    compared: int = Field(4, ge=1)
    """The first so many runs of each population have their attributions kept, and compared with
    those of all others."""
    examples: int = Field(3, ge=1)
    """Test points whose attributions are shown, of the rightly and of the wrongly predicted."""
    triggered: int = Field(20, ge=1)
    """Triggered test images from which poisoned training points are searched for."""
    bootstraps: int = Field(200, ge=20)
    """Bootstrap replicates of each interval."""
    level: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Intervals cover 1 - level."""

    def named(self) -> list[str]:
        """Names of everything that is measured, whether it exists or not."""
        return [*self.populations, *self.instruments, *self.language]

    def subjects(self, populations: Mapping[str, Population]) -> dict[str, int]:
        """How many runs are measured of each population, instrument and language model."""
        sizes = {name: min(self.runs, populations[name].size) for name in self.populations}
        sizes |= dict.fromkeys(self.instruments, 1)
        return sizes | {
            name: min(self.runs, language.size) for name, language in self.language.items()
        }


class Embeddings(Options):
    """Embeddings: can one large model tell what other models wrote or drew?"""

    sources: dict[Name, Source] = Field(min_length=1)
    """Collections of texts or of images, by name."""
    embedders: dict[Name, Embedder] = Field(min_length=1)
    """Models that embed them, by name."""
    contrasts: dict[Name, Contrast] = {}
    """Sources held against each other, by name."""
    translations: dict[Name, TranslationContrast] = {}
    """Texts before and after translation, by name."""
    signature: SignatureOptions | None = None
    """Naming the source of a text or image; absent: not tried."""
    cache: str = "resources/embeddings"
    """Folder that keeps what was embedded, shared by studies."""
    folds: int = Field(5, ge=3)
    """Folds of cross-validation; a group is never divided between them."""
    permutations: int = Field(200, ge=19)
    """Permutations of each test."""
    bootstraps: int = Field(200, ge=20)
    """Bootstrap replicates of each interval."""
    level: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Intervals cover 1 - level."""

    def collections(self) -> dict[str, list[str]]:
        """Sources of everything that is embedded as one: contrasts, translations, signature."""
        named = {name: contrast.sources for name, contrast in self.contrasts.items()}
        for name, each in self.translations.items():
            named[name] = [each.original, each.translated, each.target]
        if self.signature:
            named[SIGNATURE] = [*self.signature.sources, *self.signature.unknown]
        return named

    def of_images(self, source: str) -> bool:
        """Whether a source is of images; a path is where its file's kind says so."""
        options = self.sources[source]
        if options.translation:
            return False
        if options.path is not None:
            return Path(options.path).is_dir()
        return not (options.package or options.hub)

    def embedders_of(self, collection: str) -> list[str]:
        """Names of the embedders that take a collection's items."""
        images = self.of_images(self.collections()[collection][0])
        fitting = [name for name, one in self.embedders.items() if one.of_images == images]
        wanted = self._asked(collection).embedders
        return [name for name in fitting if not wanted or name in wanted]

    def _asked(self, collection: str) -> Contrast | TranslationContrast | SignatureOptions:
        """What is asked of a collection."""
        if collection == SIGNATURE:
            assert self.signature is not None  # or there would be no such collection
            return self.signature
        return (self.contrasts | self.translations)[collection]


class Study(Options):
    """A study of trained models as instruments."""

    name: Name
    """Results go to results/<name>."""
    seed: int = Field(0, ge=0)
    """Root seed of all random streams."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA when there, else CPU."""
    data: DataOptions = DataOptions()
    datasets: dict[Name, DatasetOptions] = {}
    """Datasets by name, and how each is used; `of` gives one dataset under several names."""
    populations: dict[Name, Population] = {}
    """Populations by name."""
    max_excluded: Fraction = 0.0
    """Fail if more than this fraction of a population's runs diverged and is left out."""
    variability: Variability | None = None
    """The variability analysis; absent: not run."""
    spectra: Spectra | None = None
    """The spectra of two-layer networks, and of those above; absent: not run."""
    surrogates: Surrogates | None = None
    """Kernel surrogates and their attributions; absent: not run."""
    embeddings: Embeddings | None = None
    """Texts and images as large models see them; absent: not run."""

    @model_validator(mode="after")
    def _check(self) -> Study:
        _check_any(self)
        checks = (_check_datasets, _check_populations, _check_variability, _check_spectra)
        for check in (*checks, _check_surrogates, _check_embeddings):
            check(self)
        return self

    def spec(self, name: str) -> DatasetSpec:
        """What the dataset `name`, a key of `datasets`, is made of."""
        return DATASETS[self.datasets[name].of or name]


def _known(kind: str, key: str, name: str, names: Mapping[str, Any]) -> None:
    if name not in names:
        raise ValueError(f"{key}: there is no {kind} {name!r}; known: {', '.join(sorted(names))}")


def _check_any(study: Study) -> None:
    trained = study.populations or (study.spectra and study.spectra.populations)
    taken_in = study.embeddings or (study.surrogates and study.surrogates.named())
    if not trained and not taken_in:
        raise ValueError("populations: there is nothing to train; name at least one population")


def _check_datasets(study: Study) -> None:
    for name, options in study.datasets.items():
        key = f"datasets.{name}"
        if options.of is not None:
            _known("dataset", f"{key}.of", options.of, DATASETS)
        elif name not in DATASETS:
            raise ValueError(
                f"{key}: there is no dataset {name!r}; known: {', '.join(sorted(DATASETS))}; under "
                "a name of your own, say by `of` which of them it is"
            )
        spec = study.spec(name)
        for part in ("train", "test"):
            wanted, there = getattr(options, part), getattr(spec, f"{part}_size")
            if wanted is not None and wanted > there:
                raise ValueError(
                    f"{key}.{part}: {wanted} points asked for, {options.of or name} has {there}"
                )
        if options.poison is not None:
            try:
                check_poison(options.poison, spec.shape, spec.class_counts(options.train))
            except ValueError as error:
                raise ValueError(f"{key}.poison.{error}") from None


def _check_populations(study: Study) -> None:
    for name, population in study.populations.items():
        key = f"populations.{name}"
        _known("dataset", f"{key}.dataset", population.dataset, study.datasets)
        spec, options = study.spec(population.dataset), study.datasets[population.dataset]
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
    "parametrisation": ("mlp", "cnn-mnist2", "cnn-cifar2"),
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
    if architecture.parametrisation == "ntk" and architecture.name != "mlp":
        raise ValueError(
            f"{key}.architecture.parametrisation: {architecture.name} has 'standard' and 'width'; "
            "'ntk' is for mlp"
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
    classes = len(study.spec(base.dataset).classes)
    if classes != 2:
        raise ValueError(
            f"{key}.population: {base.dataset} has {classes} classes; logit gaps are defined for "
            "two"
        )


def _check_spectra(study: Study) -> None:
    options = study.spectra
    if options is None:
        return
    both = sorted(options.populations.keys() & options.sweeps.keys())
    if both:
        raise ValueError(f"spectra.sweeps.{both[0]}: a population has this name; rename one")
    for name, sweep in options.sweeps.items():
        key = f"spectra.sweeps.{name}"
        _known("population", f"{key}.population", sweep.population, options.populations)
        try:
            sweep.populations(options.populations[sweep.population])
        except ValidationError as error:
            raise ValueError(_plain(error, f"{key}.over")) from None
        except ValueError as error:
            raise ValueError(f"{key}.{error}") from None
    for key in ("expected", "multi_index"):
        for name in getattr(options, key):
            _known("population", f"spectra.{key}", name, options.populations)
    for key, varied in _SWEEP_KEYS.items():
        for name in getattr(options, key):
            _known("sweep", f"spectra.{key}", name, options.sweeps)
            missing = varied - options.sweeps[name].varied()
            if missing:
                raise ValueError(
                    f"spectra.{key}: {name} does not vary {' or '.join(sorted(missing))}; "
                    "add it to the sweep's `over`"
                )
    _check_forensics(options)
    if options.images is not None:
        for name in options.images.populations:
            _known("population", "spectra.images.populations", name, study.populations)
            _check_image_spectra(study, name, options.images)


_SWEEP_KEYS = {
    "scaling": {"data.points"},
    "phases": {"recipe.learning_rate", "data.label_scale"},
}


def _check_forensics(options: Spectra) -> None:
    forensics = options.forensics
    if forensics is None:
        return
    for part in ("classes", "unknown"):
        for label, names in getattr(forensics, part).items():
            for name in names:
                _known("sweep", f"spectra.forensics.{part}.{label}", name, options.sweeps)
    for name in itertools.chain.from_iterable(forensics.classes.values()):
        missing = set(forensics.held_out) - options.sweeps[name].varied()
        if missing:
            raise ValueError(
                f"spectra.forensics.held_out: the sweep {name} does not vary "
                f"{', '.join(sorted(missing))}; add it to the sweep's `over`, or leave it out here"
            )


def _check_image_spectra(study: Study, name: str, images: ImageSpectra) -> None:
    population = study.populations[name]
    if population.recipe.trainable == "head":
        raise ValueError(
            f"spectra.images.populations: of {name} the head alone is trained; choose populations "
            "with recipe.trainable: all"
        )
    spec, options = study.spec(population.dataset), study.datasets[population.dataset]
    there = options.test or spec.test_size
    if images.points > there:
        raise ValueError(
            f"spectra.images.points: {images.points} asked for, {population.dataset} has {there} "
            "test points"
        )


def _check_surrogates(study: Study) -> None:
    options = study.surrogates
    if options is None:
        return
    key = "surrogates"
    for name in options.populations:
        _known("population", f"{key}.populations", name, study.populations)
        if study.populations[name].recipe.trainable == "head":
            raise ValueError(
                f"{key}.populations: of {name} the head alone is trained; choose populations with "
                "recipe.trainable: all"
            )
        if study.populations[name].label_noise:
            raise ValueError(
                f"{key}.populations: {name} has label noise, and which of its runs' labels were "
                "replaced is not kept; choose populations without label_noise"
            )
    kinds = (options.populations, options.instruments, options.language)
    for name in itertools.chain(options.instruments, options.language):
        if sum(name in kind for kind in kinds) > 1 or name in study.populations:
            raise ValueError(f"{key}: two things are named {name!r}; rename one")
    if not options.named():
        raise ValueError(f"{key}.populations: there is nothing to measure; name a population")
    for name, instrument in options.instruments.items():
        _known("dataset", f"{key}.instruments.{name}.dataset", instrument.dataset, study.datasets)
        _check_file(f"{key}.instruments.{name}.checkpoint", instrument.checkpoint)
        try:
            find_builder(instrument.builder)
        except ValueError as error:
            raise ValueError(f"{key}.instruments.{name}.{error}") from None
    for name, language in options.language.items():
        _check_language(options, f"{key}.language.{name}", language)
    datasets = [study.populations[name].dataset for name in options.populations]
    for dataset in [*datasets, *(one.dataset for one in options.instruments.values())]:
        _check_points(study, options, dataset)
    for name in options.sgd_l2:
        _known("network", f"{key}.sgd_l2", name, dict.fromkeys(options.named()))
    if options.sgd_l2 and "sgd" not in options.solvers:
        raise ValueError(f"{key}.sgd_l2: sgd is not fitted; add it to {key}.solvers")
    if options.attribution_kernel not in options.kernels:
        raise ValueError(
            f"{key}.attribution_kernel: {options.attribution_kernel} is not among the kernels; add "
            f"it, or choose from {', '.join(options.kernels)}"
        )


_SEEN_FROM = "as seen from the folder that the workflow is run in"


def _check_file(key: str, path: str) -> None:
    if not Path(path).is_file():
        raise ValueError(f"{key}: there is no file {path}; give its path {_SEEN_FROM}")


def _check_language(options: Surrogates, key: str, language: LanguageInstrument) -> None:
    if language.train is None and options.train is None:
        # How many there are is in files that are not read yet, but decides the jobs.
        raise ValueError(
            f"{key}.train: say how many sentences to train on, or how many points to use at most, "
            "in surrogates.train"
        )
    for file_key in ("texts", "test_texts"):
        path = getattr(language, file_key)
        if path is not None:
            _check_file(f"{key}.{file_key}", path)
    _check_model(key, language.model)


_MODEL_FILES = ("config.json", "*.safetensors")


def _check_model(key: str, model: str, files: Sequence[str] = _MODEL_FILES) -> None:
    """Refuse a pretrained model that is neither a folder with its files nor the name of another."""
    try:
        folder = local_folder(model)
    except FileNotFoundError as error:
        raise ValueError(f"{key}.{error} {_SEEN_FROM}") from None
    for needed in files:
        if folder is not None and not any(folder.glob(needed)):
            raise ValueError(
                f"{key}.model: the folder {folder} has no {needed}; give one with {files[0]}, "
                "model.safetensors and the tokenizer's files"
            )


def _check_points(study: Study, options: Surrogates, dataset: str) -> None:
    """Refuse training points of which a class has too few to fit a surrogate."""
    spec = study.spec(dataset)
    there = study.datasets[dataset].train or spec.train_size
    points = there if options.train is None else min(options.train, there)
    # Some of each class choose l2, and others are fitted with it.
    needed = 2 if options.l2 == "auto" else 1
    poison = study.datasets[dataset].poison
    if poison is not None and poison.count(there) * points < there:
        raise ValueError(
            f"surrogates.train: among {points} of {there} points of {dataset} less than one of its "
            f"{poison.count(there)} poisoned is to be expected; take more (null: all)"
        )
    counts = spec.class_counts(points)
    if (fewest := min(counts)) < needed:
        raise ValueError(
            f"surrogates.train: of {points} training points of {dataset} class "
            f"{spec.classes[counts.index(fewest)]!r} has {fewest}, {needed} are needed; take more"
            + (", or give a number for surrogates.l2" if fewest == 1 else "")
        )


def _check_embeddings(study: Study) -> None:
    options = study.embeddings
    if options is None:
        return
    for name, source in options.sources.items():
        _check_source(study, options, f"embeddings.sources.{name}", name, source)
    for taken in (BASELINES, *itertools.chain.from_iterable(BASELINE_NAMES.values())):
        if taken in options.embedders:
            raise ValueError(f"embeddings.embedders: {taken!r} has a meaning of its own; rename it")
    for name, embedder in options.embedders.items():
        if (model := embedder.named_model) is not None:
            of_parts = embedder.kind == "sentence-transformers"
            needed = ["modules.json"] if of_parts else _MODEL_FILES
            _check_model(f"embeddings.embedders.{name}", model, needed)
    collections = options.collections()
    for name in (*options.contrasts, *options.translations):
        both = name in options.contrasts and name in options.translations
        if name in (SIGNATURE, "sources") or both:
            raise ValueError(f"embeddings: {name!r} is the name of something else too; rename it")
    if not collections:
        raise ValueError("embeddings.contrasts: there is nothing to measure; name a contrast")
    for name, sources in collections.items():
        _check_collection(options, _collection_key(options, name), name, sources)


def _collection_key(options: Embeddings, name: str) -> str:
    """Where in the study a collection is named."""
    if name == SIGNATURE:
        return "embeddings.signature"
    return f"embeddings.{'contrasts' if name in options.contrasts else 'translations'}.{name}"


def _check_collection(options: Embeddings, key: str, name: str, sources: list[str]) -> None:
    for source in sources:
        _known("source", key, source, options.sources)
    if len(set(sources)) < len(sources):
        raise ValueError(f"{key}: a source is named twice; name each once")
    kinds = {options.of_images(source) for source in sources}
    if len(kinds) > 1:
        raise ValueError(f"{key}: some sources are of texts, others of images; hold like to like")
    if kinds == {True} and name in options.translations:
        raise ValueError(f"{key}: images have no language; name sources of texts")
    for embedder in options._asked(name).embedders:
        _known("embedder", f"{key}.embedders", embedder, options.embedders)
    if not options.embedders_of(name):
        raise ValueError(
            f"{key}: no embedder takes {'images' if kinds == {True} else 'texts'}; add one to "
            "embeddings.embedders"
        )


def _check_source(study: Study, options: Embeddings, key: str, name: str, source: Source) -> None:
    for file_key in ("path", "groups"):
        path = getattr(source, file_key)
        if path is not None and not Path(path).exists():
            raise ValueError(
                f"{key}.{file_key}: there is no file or folder {path}; give its path {_SEEN_FROM}"
            )
    for dataset_key, dataset in (
        ("dataset", source.dataset),
        ("generator.dataset", source.generator.dataset if source.generator else None),
    ):
        if dataset is not None:
            _known("dataset", f"{key}.{dataset_key}", dataset, study.datasets)
    for made_key in ("translation", "recompression"):
        made = getattr(source, made_key)
        if made is None:
            continue
        _known("source", f"{key}.{made_key}.of", made.of, options.sources)
        origin = options.sources[made.of]
        if origin.translation or origin.recompression:
            raise ValueError(
                f"{key}.{made_key}.of: {made.of} is made from another source itself; name that one"
            )
        if source.translation and (why := apertium_available(source.translation.through)):
            raise ValueError(f"{key}.translation.through: {why}")
        if options.of_images(made.of) != (made_key == "recompression"):
            raise ValueError(
                f"{key}.{made_key}.of: {made.of} is a source of "
                f"{'images' if made_key == 'translation' else 'texts'}"
            )


# A few anchors in YAML can stand for more text than memory holds.
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 100, 100


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
            got = _SHORT.repr(finding["input"])
            message += "" if finding["type"] == "value_error" else f" (got {got})"
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


# What HTML gives a meaning inside of a script, and Snakemake writes there as it is.
_SCRIPT = re.compile(r"</script|<!--", re.IGNORECASE)


def _texts(content: Any) -> Iterator[tuple[str, str]]:
    """All texts of a study with their keys; what anchors repeat, once."""
    pending, seen = [("", content)], set()
    while pending:
        key, value = pending.pop()
        if isinstance(value, str):
            yield key, value
        elif isinstance(value, Mapping | list) and id(value) not in seen:
            seen.add(id(value))
            pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
            for name, part in pairs:
                inner = f"{key}.{name}".lstrip(".")
                pending += [(inner, part), (inner, name)]


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
    for key, text in _texts(content):
        if found := _SCRIPT.search(text):
            raise StudyError(
                f"{source}: {key}: {found[0]!r} would end or begin a script of the report, which "
                "carries what a study says; leave it out"
            )
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
