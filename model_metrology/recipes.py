"""What is trained: architecture, recipe and population, as a study's file gives them.

Kept apart from the rest of the study because training depends on these alone: a new option of
an analysis must not make trained runs look out of date.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

Stream = Literal["init", "order", "augmentation", "dropout", "label_noise"]

ArchitectureName = Literal[
    "mlp",
    "cnn",
    "cnn-mnist2",
    "cnn-cifar2",
    "resnet18",
    "resnet34",
    "mobilenet_v2",
    "vit-small",
    "vit_b_16",
]

BUILT_IN: tuple[str, ...] = get_args(ArchitectureName)
"""Names of the architectures."""

PRETRAINED: tuple[str, ...] = ("mobilenet_v2", "vit_b_16", "resnet18", "resnet34")
"""Architectures with pretrained weights (torchvision's, on ImageNet)."""


Fraction = Annotated[float, Field(ge=0, lt=1)]


class Options(BaseModel):
    """Base of all parts of a study: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Architecture(Options):
    """A network by name, and its sizes."""

    name: ArchitectureName
    """The architecture's name."""
    width: int | None = Field(None, ge=1)
    """Channels (cnn), units (mlp) or dimension (vit-small)."""
    depth: int | None = Field(None, ge=1)
    """Hidden layers (mlp) or blocks (vit-small)."""
    dropout: Fraction = 0.0
    """Dropout probability."""
    parametrisation: Literal["standard", "ntk", "width"] = "standard"
    """'ntk': N(0, 1) weights and an explicit 1/sqrt(fan-in) (mlp only). 'width': N(0, 1) weights,
    and each hidden layer's outputs divided by the root of their number, times the kernel's size in
    a convolution, as the small networks of Engel et al. 2024 are (mlp, cnn-mnist2, cnn-cifar2)."""
    outputs: Literal["classes", "one"] = "classes"
    """One logit per class, or (binary tasks) a single logit."""
    pretrained: bool = False
    """Start from torchvision's pretrained weights."""
    image_size: int | None = Field(None, ge=8)
    """Resize images to this side first (pretrained networks)."""
    centred: bool = False
    """Subtract the outputs at initialisation, f - f_init."""


class Recipe(Options):
    """How a run is trained."""

    optimiser: Literal["sgd", "adam", "adamw"] = "adam"
    """The optimiser."""
    learning_rate: float = Field(0.001, gt=0)
    """Step size at the start."""
    momentum: Fraction = 0.0
    """Momentum (sgd)."""
    weight_decay: float = Field(0.0, ge=0)
    """Weight decay (decoupled for adamw)."""
    schedule: Literal["constant", "cosine", "step"] = "constant"
    """Step size over training: cosine to 0, or divided by 10 at 1/2 and 3/4."""
    warmup_epochs: float = Field(0.0, ge=0)
    """Epochs of linear warm-up."""
    batch_size: int = Field(64, ge=1)
    """Points a step."""
    epochs: int = Field(10, ge=1)
    """Passes over the training points."""
    loss: Literal["cross-entropy", "mse"] = "cross-entropy"
    """Cross-entropy (binary for one logit), or squared error of probabilities."""
    augmentation: list[Literal["flip", "crop"]] = []
    """Random horizontal flips; random crops after padding by an eighth."""
    trainable: Literal["all", "head"] = "all"
    """'head': only the last layer, on features computed once for the population."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: autocast forward passes (CUDA, or CPUs that have it)."""
    checkpoint_epochs: int = Field(5, ge=0)
    """Epochs between checkpoints, from which a killed job goes on; 0: none."""


class Population(Options):
    """Runs trained in the same way, which differ only in the streams that vary."""

    dataset: str
    """A key of `datasets`."""
    architecture: Architecture
    recipe: Recipe = Recipe()
    size: int = Field(ge=1)
    """Number of runs."""
    varies: list[Stream] = ["init", "order", "augmentation", "dropout"]
    """The random streams that differ from run to run; the others are shared."""
    label_noise: Fraction = 0.0
    """Fraction of training labels replaced by another class (a planted difference)."""
    runs_per_job: int = Field(1, ge=1)
    """Runs that one job trains together."""
    stacked: Literal["auto", "yes", "no"] = "auto"
    """Train a job's runs as one stack (vmap) or one after another; auto: the faster."""

    def blocks(self) -> Iterator[str]:
        """Names of the jobs' blocks of runs: ``0007``, or ``0000-0009`` for ten runs a job."""
        return blocks(self.size, self.runs_per_job)


def blocks(size: int, runs_per_job: int) -> Iterator[str]:
    """Names of the blocks of `size` runs."""
    for first in range(0, size, runs_per_job):
        yield block_name(range(first, min(first + runs_per_job, size)))


def block_name(runs: range) -> str:
    """Name of a block of consecutive runs, e.g. ``0007`` or ``0000-0009``."""
    first, last = runs[0], runs[-1]
    return f"{first:04d}" if first == last else f"{first:04d}-{last:04d}"


def block_runs(block: str) -> range:
    """The runs that a block's name stands for; inverse of :func:`block_name`."""
    first, _, last = block.partition("-")
    return range(int(first), int(last or first) + 1)
