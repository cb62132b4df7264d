"""Nothing is embedded twice: vectors are kept in files by what decides them and what they are of.

An embedder has a folder of its own. In it lie files of some hundred items that are written whole
and never changed, so that a killed job has lost no more than its last file, and jobs that embed at
the same time do not disturb each other.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_metrology.digests import content_digest
from model_metrology.embeddings.model import Model
from model_metrology.embeddings.views import Embedding, Views
from model_metrology.store import StoreError, open_file, provenance, write

__all__ = ["embed_items"]

logger = logging.getLogger(__name__)

_CHUNK = 256  # items a file, or fewer after so many seconds:
_CHUNK_SECONDS = 30.0
_REPORT_SECONDS = 5.0


def embed_items(
    model: Model,
    items: Sequence[str] | NDArray[np.uint8],
    folder: str | os.PathLike[str],
    *,
    batch_size: int,
    log: logging.Logger = logger,
) -> Embedding:
    """Embed items, save those that have been embedded before.

    Parameters
    ----------
    model : Model
        The embedder.
    items : sequence of str, or ndarray of uint8, shape (n, height, width, 3)
        Texts or images. Those that occur twice are embedded once.
    folder : path-like
        Where vectors are kept, of all embedders.
    batch_size : int
        Items at a time. Of texts, those of similar length go together.
    log : Logger
        Says how many texts were cut, how fast it goes, and which files were damaged.

    Returns
    -------
    Embedding
        In the order of the items; the same, save for rounding, whether found or computed, and in
        whatever batches.

    Raises
    ------
    ValueError
        If there are no items, or one cannot be embedded; the message names its position.
    """
    if not len(items):
        raise ValueError("there is nothing to embed")
    model.check(items)
    place = Path(folder, content_digest(model.identity))
    wanted: dict[str, list[int]] = {}
    for position, item in enumerate(items):
        wanted.setdefault(_key(item), []).append(position)
    first = {key: positions[0] for key, positions in wanted.items()}
    gathered = _Gathered(wanted, len(items))
    for keys, views in _stored(place, wanted, log):
        gathered.add(keys, views)
    missing = [first[key] for key in wanted if key not in gathered.found]
    if gathered.found:
        log.info("%d of %d items have been embedded before", len(gathered.found), len(wanted))
    for positions, views in _embedded(model, items, missing, batch_size, log):
        keys = [_key(items[position]) for position in positions]
        _write(place, model, keys, views)
        gathered.add(keys, views)
    return Embedding(gathered.views)


class _Gathered:
    """Vectors in the order of the items, as they come."""

    def __init__(self, wanted: Mapping[str, Sequence[int]], size: int) -> None:
        self.wanted = wanted
        self.size = size
        self.found: set[str] = set()
        self.views: Views = {}

    def add(self, keys: Sequence[str], views: Views) -> None:
        """Put vectors where their items are."""
        new = [row for row, key in enumerate(keys) if key in self.wanted and key not in self.found]
        if not new:
            return
        self.found |= {keys[row] for row in new}
        rows = [row for row in new for _ in self.wanted[keys[row]]]
        positions = [position for row in new for position in self.wanted[keys[row]]]
        for view, vectors in views.items():
            if view not in self.views:
                self.views[view] = np.empty((self.size, vectors.shape[1]), dtype=np.float32)
            self.views[view][positions] = vectors[rows]


def _key(item: str | NDArray[np.uint8]) -> str:
    """Digest of an item's content; of an image, its shape belongs to it."""
    if isinstance(item, str):
        return hashlib.sha256(item.encode()).hexdigest()
    return hashlib.sha256(f"{item.shape}".encode() + item.tobytes()).hexdigest()


# -- files ---------------------------------------------------------------------------------------


def _write(place: Path, model: Model, keys: Sequence[str], views: Views) -> None:
    # Named after its items: jobs that embed the same items write the same file.
    write(
        place / f"{content_digest(keys)}.h5",
        {"keys": keys, "names": list(views), "views": views},
        kind="embeddings",
        attrs=provenance(identity=model.identity),
        axes={"keys": ("item",), "names": ("view",)} | dict.fromkeys(views, ("item", "component")),
    )


def _stored(
    place: Path, wanted: Mapping[str, Any], log: logging.Logger
) -> Iterator[tuple[list[str], Views]]:
    """Keys and vectors of the files with something wanted; damaged ones are set aside."""
    for path in sorted(place.glob("*.h5")):
        try:
            with open_file(path, kind="embeddings") as file:
                keys: list[str] = list(file["keys"].asstr()[()])
                if wanted.keys().isdisjoint(keys):
                    continue
                views = {name: file["views"][name][()] for name in file["names"].asstr()[()]}
            if any(len(vectors) != len(keys) for vectors in views.values()):
                raise StoreError(f"{path}: vectors are missing")
        except FileNotFoundError:
            continue  # another job has just set it aside
        except (KeyError, OSError, StoreError) as error:
            log.warning("%s is damaged; set aside, its items are embedded again: %s", path, error)
            with contextlib.suppress(FileNotFoundError):
                path.replace(path.with_name(f"{path.name}.damaged"))
            continue
        yield keys, views


# -- computing -----------------------------------------------------------------------------------


def _embedded(
    model: Model, items: Any, positions: Sequence[int], batch_size: int, log: logging.Logger
) -> Iterator[tuple[list[int], Views]]:
    """Positions and vectors of items, some hundred at a time."""
    if not positions:
        return
    lengths = model.lengths(_take(items, positions))
    _report_cut(model, lengths, log)
    # The longest first: what is too much for the memory fails at once.
    order = np.argsort(-lengths, kind="stable")
    work = lengths if model.max_tokens is None else np.minimum(lengths, model.max_tokens)
    progress = _Progress(int(work.sum()), len(positions), log)
    pending: list[tuple[list[int], Views]] = []
    written = time.monotonic()
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = [positions[row] for row in rows]
        pending.append((batch, model.embed(_take(items, batch), batch)))
        progress.step(len(rows), int(work[rows].sum()))
        full = sum(len(done) for done, _ in pending) >= _CHUNK
        if full or time.monotonic() - written > _CHUNK_SECONDS:
            yield _joined(pending)
            pending, written = [], time.monotonic()
    if pending:
        yield _joined(pending)


def _take(items: Any, positions: Sequence[int]) -> Any:
    if isinstance(items, np.ndarray) and items.dtype == np.uint8:
        return items[list(positions)]
    return [str(items[position]) for position in positions]


def _joined(
    parts: Sequence[tuple[list[int], Views]],
) -> tuple[list[int], Views]:
    positions = [position for batch, _ in parts for position in batch]
    names = parts[0][1]
    return positions, {name: np.concatenate([views[name] for _, views in parts]) for name in names}


def _report_cut(model: Model, lengths: NDArray[np.int64], log: logging.Logger) -> None:
    if model.max_tokens is not None:
        cut = int((lengths > model.max_tokens).sum())
        if cut:
            log.info("%d of %d texts were cut to %d tokens", cut, len(lengths), model.max_tokens)


class _Progress:
    """Says every few seconds how far it is, how fast, and how long it will take."""

    def __init__(self, work: int, items: int, log: logging.Logger) -> None:
        self.work, self.items, self.log = max(work, 1), items, log
        self.done = self.worked = 0
        self.started = self.said = time.monotonic()

    def step(self, items: int, work: int) -> None:
        """Count what has been done."""
        self.done += items
        self.worked += work
        now = time.monotonic()
        if now - self.said < _REPORT_SECONDS and self.done < self.items:
            return
        self.said = now
        seconds = max(now - self.started, 1e-9)
        # By tokens, not items: the long ones come first.
        left = seconds * (self.work - self.worked) / max(self.worked, 1)
        self.log.info(
            "embedded %d of %d items, %.1f items/s, %.0f s left",
            self.done, self.items, self.done / seconds, left,
        )  # fmt: skip
