"""Sources: collections of texts or images, read from where they are and narrowed to what is asked.

The rows of a table, the documents of WMT's ``.xml``, the lines of a file, the articles of a
package are all taken as a table first, with an id for each row; conditions are put to its columns.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Protocol
from xml.etree import ElementTree

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageOps

from model_metrology.data.packages import bbc_articles
from model_metrology.data.rows import as_text, read_rows
from model_metrology.embeddings.apertium import translate
from model_metrology.embeddings.items import Items, Strings, choose, strings
from model_metrology.embeddings.recipes import Source, Translation

__all__ = ["normalised", "read_source", "refine", "translated", "without_markup"]

logger = logging.getLogger(__name__)

_IMAGES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
# Whatever its name, a file of another format is not opened: for some, Pillow starts programs.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_NAMED = 20  # values or columns that an error names at most


def read_source(
    options: Source, name: str, *, root: str | os.PathLike[str] = ".", seed: int = 0
) -> Items:
    """Read a source that rests on no other: of `path`, `hub` or `package`.

    Parameters
    ----------
    options : Source
        Where the items are and which are wanted. Conditions are put in this order: `where`, texts
        that are not empty, `min_words`, `limit`.
    name : str
        The source's name.
    root : path-like
        Folder that relative paths start from.
    seed : int
        Of the choice of groups.

    Returns
    -------
    Items
        In the order of the file. Ids and, without `group`, groups are the row's or line's number
        from 1, the document of WMT's .xml, topic and file of a package's article (label `topic`),
        or an image's path in its folder (label `class`, its subfolder, if there are any).

    Raises
    ------
    FileNotFoundError
        If a file, folder or package is missing.
    ImportError
        If a package that reads it is not installed.
    ValueError
        If it cannot be read, lacks what an option names, or no item is left. The message names the
        key and says what there is.

    Notes
    -----
    A text a line: with `groups`, the tab-separated columns of that file can be named, too, as "1",
    "2", … in `where` and `labels`. In WMT's .xml the columns are src, ref (further references by
    their translator, e.g. "ref B"), the systems, and origlang; a document is one text, as its
    sentences alone are short. Images that differ in size are cropped to squares and scaled to the
    smallest, all of the source.
    """
    key = f"embeddings.sources.{name}"
    folder = None if options.path is None else Path(root, options.path).expanduser()
    is_folder = folder is not None and folder.is_dir()
    if options.groups is not None and is_folder:
        raise ValueError(f"{key}.groups: is for a file of a text a line; name a column by `group`")
    if folder is not None and is_folder:
        return _read_images(options, name, key, folder, seed)
    if options.path is not None:
        rows = _read_file(options, key, root)
    elif options.hub is not None:
        rows = _read_hub(options, key)
    elif options.package is not None:
        rows = _read_package(options.package, key)
    else:
        raise ValueError(f"{key}: is made from other items, not read; give path, hub or package")
    return _trimmed(_as_texts(rows, options, name, key), options, key, seed)


def refine(items: Items, options: Source, name: str, *, seed: int = 0) -> Items:
    """Put a source's options to items that were made, not read.

    Parameters
    ----------
    items : Items
        A translation, a recompression, a dataset's images, a generator's.
    options : Source
        Of these, `where` and `labels` name labels of the items; `min_words`, `limit` and `fixed`
        are as for :func:`read_source`.
    name : str
        The source's name.
    seed : int
        Of the choice of groups.

    Raises
    ------
    ValueError
        If a label is missing or no item is left.
    """
    key = f"embeddings.sources.{name}"
    table = pd.DataFrame(items.labels, index=pd.Index(items.id), dtype=object)
    rows = _Rows("the source", table)
    _check_columns(rows, options, key, [])
    kept = choose(items, _where(rows, options, key))
    labels = kept.labels | {new: kept.labels[old] for new, old in options.labels.items()}
    kept = replace(kept, labels=labels | _fixed(options, len(kept)))
    return _trimmed(kept, options, key, seed)


def translated(
    items: Items,
    options: Translation,
    name: str,
    *,
    folder: str | os.PathLike[str] = "resources/apertium",
) -> Items:
    """Texts of another source through Apertium; ids, groups and labels are those of the originals.

    Parameters
    ----------
    items : Items
        Texts.
    options : Translation
        The language pairs, one after another.
    name : str
        The new source's name.
    folder : path-like
        Where an Apertium that was fetched is kept.

    Raises
    ------
    ApertiumError
        If Apertium or a pair is not to be had, or fails.
    ValueError
        If the items are images.
    """
    key = f"embeddings.sources.{name}.translation"
    if items.texts is None:
        raise ValueError(f"{key}.of: {options.of} has images; name a source of texts")
    texts = strings([normalised(t) for t in translate(items.texts, options.through, folder=folder)])
    there = _not_empty(texts, key)
    source = np.full(len(items), name, dtype=object)
    # Positions first: items have no empty texts.
    return replace(choose(replace(items, source=source), there), texts=texts[there])


def normalised(text: str) -> str:
    """A text with every run of white space as one space, and none at its ends.

    Layout tells sources apart without a look at the words: in the files of fast-detect-gpt,
    machines' texts have line breaks and people's have none, which alone gives 0.95 to 0.99.
    """
    # NUL, and halves of surrogate pairs that JSON can hold, cannot be stored.
    whole = text.replace("\0", " ").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return " ".join(whole.split())


def without_markup(text: str) -> str:
    """The text of an HTML page or a part of one: tags out, entities decoded, code kept."""
    parser = _TextOfHtml()
    parser.feed(text)
    parser.close()
    return "".join(parser.parts)


class _TextOfHtml(HTMLParser):
    """Gathers what a reader sees."""

    inline = {
        "a", "abbr", "b", "big", "cite", "code", "del", "dfn", "em", "font", "i", "ins", "kbd",
        "mark", "q", "s", "samp", "small", "span", "strike", "strong", "sub", "sup", "tt", "u",
        "var",
    }  # fmt: skip
    unseen = {"script", "style"}

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.hidden = False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.hidden = tag in self.unseen
        self._part(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self._part(tag)

    def handle_endtag(self, tag: str) -> None:
        self.hidden = False
        self._part(tag)

    def _part(self, tag: str) -> None:
        if tag not in self.inline:  # paragraphs are parted by more than their tags
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.parts.append(data)


# -- tables, whatever the format -----------------------------------------------------------------


@dataclass(frozen=True)
class _Rows:
    """A source before anything is chosen from it."""

    place: str
    """As errors name it."""
    table: pd.DataFrame
    """Its index is the ids, its columns are text."""
    group: str | None = None
    """The column of the groups, where it is not the options'."""
    labels: dict[str, str] = field(default_factory=dict)
    """Labels that every source of this kind has, and their columns."""


def _read_file(options: Source, key: str, root: str | os.PathLike[str]) -> _Rows:
    assert options.path is not None
    path = Path(root, options.path).expanduser()
    if options.is_lines:
        return _read_lines(options, key, path, root)
    if path.suffix == ".xml":
        return _Rows(str(path), _guarded(_read_wmt, f"{key}.path", path))
    table = _guarded(read_rows, f"{key}.path", path)
    return _Rows(str(path), table.set_axis(_numbers(len(table))))


class _Reader(Protocol):
    def __call__(self, path: Path, /) -> Any: ...


def _guarded(reader: _Reader, key: str, path: Path) -> Any:
    """What a reader makes of a file; its errors name the file and the key."""
    if not path.is_file():
        raise FileNotFoundError(f"{key}: there is no file {path}; give its path")
    try:
        return reader(path)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{key}: {path} is not in UTF-8 ({error}); save it in that encoding"
        ) from error
    except (ValueError, OSError, ElementTree.ParseError) as error:
        raise ValueError(f"{key}: {path} cannot be read: {error}") from error


def _numbers(count: int) -> Strings:
    return strings(np.arange(1, count + 1))


def _lines(path: Path) -> list[str]:
    # Only a line feed ends a line: other separators inside a text would shift all lines after it
    # against those of the files aligned with it.
    with open(path, encoding="utf-8-sig", newline="\n") as file:
        return [line.rstrip("\r\n") for line in file]


def _read_lines(options: Source, key: str, path: Path, root: str | os.PathLike[str]) -> _Rows:
    texts = _guarded(_lines, f"{key}.path", path)
    table = pd.DataFrame({"text": texts}, index=_numbers(len(texts)), dtype=object)
    if options.groups is None:
        return _Rows(str(path), table)
    groups_path = Path(root, options.groups).expanduser()
    columns = [line.split("\t") for line in _guarded(_lines, f"{key}.groups", groups_path)]
    if len(columns) != len(texts):
        raise ValueError(
            f"{key}.groups: {groups_path} has {len(columns)} lines and {path} has {len(texts)}; "
            "line by line they must belong together"
        )
    numbered = pd.DataFrame(columns, index=table.index, dtype=object).fillna("")
    numbered.columns = _numbers(numbered.shape[1])
    numbered["group"] = [line[-1] for line in columns]
    return _Rows(str(path), table.join(numbered), group=options.group or "group")


def _read_wmt(path: Path) -> pd.DataFrame:
    """Documents of WMT's format, a row each: its source, references, and translations by system."""
    rows = {}
    for number, document in enumerate(ElementTree.parse(path).getroot().iter("doc"), start=1):
        row = {"origlang": document.get("origlang", "")}
        for part in document:
            row.setdefault(_column_of(part, row), _sentences(part))
        rows[document.get("id") or str(number)] = row
    if not rows:
        raise ValueError("it has no <doc>, as WMT's files do")
    return pd.DataFrame.from_dict(rows, orient="index", dtype=object).fillna("")


def _column_of(part: ElementTree.Element, row: dict[str, str]) -> str:
    if part.tag == "hyp":
        return part.get("system") or "hyp"
    if part.tag == "ref" and "ref" in row:
        return f"ref {part.get('translator', '')}"
    return part.tag


def _sentences(part: ElementTree.Element) -> str:
    return " ".join("".join(sentence.itertext()) for sentence in part.iter("seg"))


def _read_package(package: str, key: str) -> _Rows:
    articles: dict[str, tuple[str, str, str]] = {}
    for article in bbc_articles(f"{key}.package", package):
        text = normalised(" ".join((article.headline, *article.paragraphs)))
        # The second of two that are the same would be trained and tested on alike.
        articles.setdefault(text, (article.id, article.topic, text))
    ids, topics, texts = zip(*articles.values(), strict=True)
    table = pd.DataFrame({"text": texts, "topic": topics}, index=list(ids), dtype=object)
    return _Rows(f"the package {package}", table, labels={"topic": "topic"})


def _read_hub(options: Source, key: str) -> _Rows:
    """Rows of a dataset on the Hugging Face hub, of the columns wanted; names for classes."""
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise ImportError(f"{key}.hub: needs the package datasets: pip install datasets") from error
    place = f"the dataset {options.hub} (configuration {options.configuration or 'default'}, "
    place += f"split {options.split})"
    try:
        data = datasets.load_dataset(options.hub, options.configuration, split=options.split)
    except Exception as error:  # of many kinds: network, hub, formats
        raise ValueError(
            f"{key}.hub: {place} cannot be had: {type(error).__name__}: {error}\n"
            "Check its name, configuration and split, and the network; without one, give a copy's "
            "path instead"
        ) from error
    rows = _Rows(place, pd.DataFrame(columns=data.column_names, dtype=object))
    needed = _check_columns(rows, options, key, [options.text])
    table = data.select_columns(needed).to_pandas().astype(object).map(as_text)
    for column in needed:
        if classes := getattr(data.features[column], "names", None):
            table[column] = [classes[int(c)] if c and int(c) >= 0 else "" for c in table[column]]
    return replace(rows, table=table.set_axis(_numbers(len(table))))


# -- from rows to texts --------------------------------------------------------------------------


def _check_columns(rows: _Rows, options: Source, key: str, texts: Iterable[str]) -> list[str]:
    """Columns that the options name, each once; an error if one is not there."""
    named = [("text", text) for text in texts]
    named += [("group", options.group)] if options.group is not None else []
    named += [(f"labels.{label}", column) for label, column in options.labels.items()]
    named += [("where", column) for column in options.where]
    for option, column in named:
        if column not in rows.table.columns:
            raise ValueError(
                f"{key}.{option}: {rows.place} has no {column!r}; it has "
                f"{_listed(map(str, rows.table.columns))}"
            )
    return list(dict.fromkeys(column for _, column in named))


def _listed(names: Iterable[str]) -> str:
    every = [name or "''" for name in names]
    more = f" and {len(every) - _NAMED} more" if len(every) > _NAMED else ""
    return (", ".join(every[:_NAMED]) or "nothing") + more


def _where(rows: _Rows, options: Source, key: str) -> NDArray[np.bool_]:
    """Which rows have the values wanted."""
    kept = np.ones(len(rows.table), dtype=bool)
    for column, wanted in options.where.items():
        values = rows.table[column].map(str)
        wanted = [wanted] if isinstance(wanted, str) else wanted
        for value in wanted:
            if value not in set(values):
                raise ValueError(
                    f"{key}.where.{column}: {rows.place} has no {value!r} there; it has "
                    f"{_listed(sorted(set(values)))}"
                )
        kept &= values.isin(wanted).to_numpy(bool)
    if not kept.any():
        raise ValueError(f"{key}.where: no row of {rows.place} has all of these values at once")
    return kept


def _as_texts(rows: _Rows, options: Source, name: str, key: str) -> Items:
    """Texts that are there, with their groups and labels."""
    if rows.table.empty:
        raise ValueError(f"{key}: {rows.place} holds no texts")
    _check_columns(rows, options, key, [options.text])
    table = rows.table[_where(rows, options, key)]
    for place, value in table[options.text].items():
        if not isinstance(value, str):
            raise ValueError(
                f"{key}.text: {options.text!r} of {rows.place} is a {type(value).__name__} in row "
                f"{place}, not a text; choose another column"
            )
    plain = table[options.text].map(without_markup) if options.markup else table[options.text]
    texts = strings([normalised(text) for text in plain])
    there = _not_empty(texts, f"{key}.text")
    table, texts = table[there], texts[there]
    return Items(
        kind="texts",
        source=np.full(len(table), name, dtype=object),
        id=strings(table.index),
        group=_groups(rows, table, options, key),
        labels=_labels(rows, table, options),
        texts=texts,
    )


def _not_empty(texts: Strings, key: str) -> NDArray[np.bool_]:
    there = texts != ""
    if not there.any():
        raise ValueError(f"{key}: all {len(texts)} texts are empty")
    if not there.all():
        logger.warning("%s: %d of %d texts are empty and left out", key, (~there).sum(), len(there))
    return there


def _groups(rows: _Rows, table: pd.DataFrame, options: Source, key: str) -> Strings:
    column = options.group or rows.group
    groups = strings(table.index if column is None else table[column])
    nameless = np.flatnonzero(groups == "")
    if len(nameless):
        raise ValueError(
            f"{key}.group: {rows.place} has no {column!r} in row {table.index[nameless[0]]}, one "
            f"of {len(nameless)}; complete it or take it out"
        )
    return groups


def _labels(rows: _Rows, table: pd.DataFrame, options: Source) -> dict[str, Strings]:
    columns = rows.labels | options.labels
    labels = {label: strings(table[column]) for label, column in columns.items()}
    return labels | _fixed(options, len(table))


def _fixed(options: Source, size: int) -> dict[str, Strings]:
    return {label: np.full(size, value, dtype=object) for label, value in options.fixed.items()}


def _trimmed(items: Items, options: Source, key: str, seed: int) -> Items:
    """Items with enough words, of as many groups as wanted."""
    if items.texts is not None:
        words = np.array([len(text.split()) for text in items.texts])
        if words.max() < options.min_words:
            raise ValueError(
                f"{key}.min_words: no text has {options.min_words} words, the longest has "
                f"{words.max()}"
            )
        items = choose(items, words >= options.min_words)
        if len(items) < len(words):
            logger.info("%s: %d of %d texts are long enough", key, len(items), len(words))
    items = choose(items, _chosen(items.group, options.limit, seed))
    _warn_of_repeats(items, key)
    return items


def _chosen(groups: Strings, limit: int | None, seed: int) -> NDArray[np.bool_]:
    """Which items are of the groups chosen.

    By a digest of the group's name and the seed, not by position: sources with the same groups
    keep the same, however their rows are ordered, and nearly the same where some groups differ.
    """

    def digest(group: str) -> bytes:
        return hashlib.sha256(f"{seed} {group}".encode()).digest()

    chosen = set(sorted(set(groups), key=digest)[:limit])
    return np.array([group in chosen for group in groups], dtype=bool)


def _warn_of_repeats(items: Items, key: str) -> None:
    if items.texts is None:
        return
    apart = pd.DataFrame({"text": items.texts, "group": items.group}).drop_duplicates()
    repeats = int(apart["text"].duplicated().sum())
    if repeats:
        logger.warning(
            "%s: %d text(s) are in more than one group, so may be both trained and tested on",
            key, repeats,
        )  # fmt: skip


# -- images --------------------------------------------------------------------------------------


def _read_images(options: Source, name: str, key: str, folder: Path, seed: int) -> Items:
    """Images of a folder and its subfolders, in the order of their paths."""
    paths = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in _IMAGES and not path.name.startswith(".")
    )
    if not paths:
        raise ValueError(
            f"{key}.path: there are no images in {folder}; endings are {', '.join(sorted(_IMAGES))}"
        )
    classes = [Path(path).parent.as_posix() for path in paths]
    nested = set(classes) != {"."}
    columns = {"class": ["" if each == "." else each for each in classes]} if nested else {}
    table = pd.DataFrame(columns, index=paths, dtype=object)
    rows = _Rows(str(folder), table, labels={"class": "class"} if nested else {})
    _check_columns(rows, options, key, [])
    # Chosen before they are read: a folder may be far larger than what is wanted of it.
    table = table[_where(rows, options, key)]
    table = table[_chosen(_groups(rows, table, options, key), options.limit, seed)]
    return Items(
        kind="images",
        source=np.full(len(table), name, dtype=object),
        id=strings(table.index),
        group=_groups(rows, table, options, key),
        labels=_labels(rows, table, options),
        images=_one_size([_picture(folder / path, key) for path in table.index], key),
    )


def _picture(path: Path, key: str) -> Image.Image:
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"it has pixels of mode {image.mode}, not 8 bits a channel")
            return ImageOps.exif_transpose(image).convert("RGB")
    # A PNG can also break off with a SyntaxError, a huge one is an error of its own.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{key}.path: {path} cannot be read as an image: {error}; repair it or take it out"
        ) from error


def _one_size(images: Sequence[Image.Image], key: str) -> NDArray[np.uint8]:
    """(n, height, width, 3); if sizes differ, the middle squares, scaled to the smallest."""
    sizes = {image.size for image in images}
    if len(sizes) > 1:
        side = min(min(size) for size in sizes)
        logger.warning(
            "%s: images have %d sizes; the middle square of each is scaled to %d × %d",
            key, len(sizes), side, side,
        )  # fmt: skip
        images = [ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS) for image in images]
    return np.stack([np.asarray(image, dtype=np.uint8) for image in images])
