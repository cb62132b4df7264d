"""Items: the texts or images of one or of several sources, and what controls take from texts."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["NO_LETTERS", "Items", "Strings", "choose", "control", "excerpt", "join", "strings"]

Strings = NDArray[np.object_]
"""Array of `str`. As objects, not of NumPy's type of fixed width, which would give each text the
memory of the longest and cut what is longer."""

NO_LETTERS = "–"
"""What the control "letters" leaves of a text without letters: no text is empty."""

_DROPPED = 10  # words that the control "dropped" takes
_LEFT = 2  # and words that it leaves at least, where there are so many


@dataclass(frozen=True, eq=False)
class Items:
    """Texts or images, in order.

    Attributes
    ----------
    kind : {"texts", "images"}
        What they are.
    source : ndarray of str, shape (n,)
        The source of each item.
    id : ndarray of str, shape (n,)
        Where it stands in its source.
    group : ndarray of str, shape (n,)
        What belongs together; the same name in two sources is the same group.
    labels : dict of str to ndarray of str, shape (n,)
        Further labels by name, "" where a source has no such label.
    texts : ndarray of str, shape (n,), or None
        White space normalised, never empty.
    images : ndarray of uint8, shape (n, height, width, 3), or None
        Red, green, blue.

    Raises
    ------
    ValueError
        If the parts have different lengths, do not fit the kind, or a text is empty.
    """

    kind: str
    source: Strings
    id: Strings
    group: Strings
    labels: dict[str, Strings]
    texts: Strings | None = None
    images: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        has = {"texts": self.texts, "images": self.images}
        if self.kind not in has:
            raise ValueError(f"kind: {self.kind!r} is neither 'texts' nor 'images'")
        content = has.pop(self.kind)
        if content is None or has.popitem()[1] is not None:
            raise ValueError(f"items of kind {self.kind!r} have {self.kind} and nothing else")
        columns = (self.source, self.id, self.group, *self.labels.values())
        if {len(column) for column in columns} != {len(content)}:
            raise ValueError(f"source, id, group, labels and {self.kind} differ in length")
        if self.texts is not None and not all(self.texts):
            raise ValueError("texts: a text is empty; leave it out")

    def __len__(self) -> int:
        return len(self.source)


def strings(values: ArrayLike) -> Strings:
    """Values as an array of `str`, shape (n,)."""
    return np.array([str(value) for value in np.asarray(values, dtype=object)], dtype=object)


def join(parts: Sequence[Items]) -> Items:
    """Items one after another; a label that a part lacks is "" there.

    Raises
    ------
    ValueError
        If there are no parts, texts meet images, or images differ in size: brought to one size
        here, sources would be told apart by how much they were scaled.
    """
    if len({part.kind for part in parts}) != 1:
        raise ValueError("sources: join texts with texts or images with images, at least one part")
    names = dict.fromkeys(name for part in parts for name in part.labels)
    return Items(
        kind=parts[0].kind,
        source=np.concatenate([part.source for part in parts]),
        id=np.concatenate([part.id for part in parts]),
        group=np.concatenate([part.group for part in parts]),
        labels={
            name: np.concatenate([part.labels.get(name, _blank(len(part))) for part in parts])
            for name in names
        },
        texts=_joined([part.texts for part in parts if part.texts is not None]),
        images=_joined_images(parts),
    )


def _blank(size: int) -> Strings:
    return np.full(size, "", dtype=object)


def _joined(texts: Sequence[Strings]) -> Strings | None:
    return np.concatenate(texts) if texts else None


def _joined_images(parts: Sequence[Items]) -> NDArray[np.uint8] | None:
    if parts[0].images is None:
        return None
    images = {part.source[0]: part.images for part in parts if part.images is not None}
    sizes = {name: f"{each.shape[1]} × {each.shape[2]}" for name, each in images.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(
            "sources: images differ in size, "
            f"{', '.join(f'{name} {size}' for name, size in sizes.items())}; bring all to one size "
            "in the same way, then give the folder of those"
        )
    return np.concatenate([part.images for part in parts if part.images is not None])


def choose(items: Items, positions: ArrayLike) -> Items:
    """The items at these positions, in their order; or where a mask, shape (n,), is true."""
    index = np.asarray(positions)
    if index.size == 0:
        index = index.astype(np.intp)
    return replace(
        items,
        source=items.source[index],
        id=items.id[index],
        group=items.group[index],
        labels={name: values[index] for name, values in items.labels.items()},
        texts=None if items.texts is None else items.texts[index],
        images=None if items.images is None else items.images[index],
    )


def excerpt(text: str, length: int = 160) -> str:
    """The beginning of a text, up to a word's end where there is one, in at most `length` signs."""
    if len(text) <= length:
        return text
    cut = text[:length]
    head, space, _ = cut.rpartition(" ")
    return f"{head if space else cut[:-1]}…"


# -- controls ------------------------------------------------------------------------------------


def control(items: Items, name: str) -> Items:
    """Texts with something taken away by which sources might be told apart.

    Parameters
    ----------
    items : Items
        Texts of all sources that are to be compared.
    name : {"equal-length", "letters", "dropped"}
        - "equal-length": in a group that has as many texts of each source, a source's texts are
          ordered by their number of words, and those of the same rank are cut to the shortest of
          them: with one text a source, to the shortest of the group. All other texts are matched
          in the same way as one group, by rank as a share of their source. Either way every source
          then has the same distribution of lengths, exactly where they have as many texts and up
          to the steps between ranks where not, and as much of the texts is kept as that allows.
        - "letters": lower case; letters of any alphabet and single spaces alone. An apostrophe
          vanishes, any other sign parts words as a space does. `NO_LETTERS` where nothing is left.
        - "dropped": without the first ten words; of a text of twelve or fewer, the last two.

    Returns
    -------
    Items
        The same items; no text is empty.

    Raises
    ------
    ValueError
        If the items are images, or the control is unknown.
    """
    if items.texts is None:
        raise ValueError(f"controls: {name!r} is for texts, images have none")
    if name not in _CONTROLS:
        raise ValueError(f"controls: there is no {name!r}; choose from {', '.join(_CONTROLS)}")
    return replace(items, texts=strings(_CONTROLS[name](items, items.texts)))


def _equal_length(items: Items, texts: Strings) -> list[str]:
    words = [text.split() for text in texts]
    counts = np.array([len(each) for each in words])
    _, sources = np.unique(items.source, return_inverse=True)
    _, groups = np.unique(items.group, return_inverse=True)
    numbers = np.zeros((groups.max(initial=0) + 1, sources.max(initial=0) + 1), dtype=np.int64)
    np.add.at(numbers, (groups, sources), 1)
    balanced = (numbers == numbers[:, :1]).all(axis=1)
    # Those of groups that are not balanced make one more group.
    matched = np.where(balanced[groups], groups, len(balanced))
    order = np.argsort(matched, kind="stable")
    ends = np.flatnonzero(np.diff(matched[order])) + 1
    for members in np.split(order, ends):
        counts[members] = _matched(counts[members], sources[members])
    return [" ".join(each[:count]) for each, count in zip(words, counts, strict=True)]


def _matched(counts: NDArray[np.int64], sources: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each count, or the smallest of any source at its rank as a share of its own source."""
    ordered = [np.sort(counts[sources == source]) for source in np.unique(sources)]
    result = counts.copy()
    for source in np.unique(sources):
        members = np.flatnonzero(sources == source)
        ranked = members[np.argsort(counts[members], kind="stable")]
        middles = 2 * np.arange(len(ranked)) + 1  # (rank + ½) / number, in whole numbers
        at_rank = [each[middles * len(each) // (2 * len(ranked))] for each in ordered]
        result[ranked] = np.min(at_rank, axis=0)
    return result


class _Letters(dict[int, str]):
    """What `str.translate` puts for each sign, worked out when first met."""

    def __missing__(self, code: int) -> str:
        sign = chr(code)
        # A mark (M) is part of a letter: vowels of Devanagari, say.
        kept = sign if unicodedata.category(sign)[0] in "LM" else " "
        self[code] = "" if sign in "'’‘ʼ`´" else kept
        return self[code]


_LETTERS = _Letters()


def _letters(items: Items, texts: Strings) -> list[str]:
    # One way to write an accented letter, as sources may differ in theirs.
    composed = (unicodedata.normalize("NFC", text.lower()) for text in texts)
    return [" ".join(text.translate(_LETTERS).split()) or NO_LETTERS for text in composed]


def _dropped(items: Items, texts: Strings) -> list[str]:
    words = (text.split() for text in texts)
    return [" ".join(each[-max(len(each) - _DROPPED, _LEFT) :]) for each in words]


_CONTROLS: dict[str, Callable[[Items, Strings], list[str]]] = {
    "equal-length": _equal_length,
    "letters": _letters,
    "dropped": _dropped,
}
