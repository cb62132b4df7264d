"""Results on disk: HDF5 files that say what they hold and where it came from.

Every file has, as attributes of its root, the schema version, its kind (``dataset``, ``runs``,
…), the provenance of its making, and for each dataset the names of its axes and its unit.
``docs/format.md`` describes the files for readers without this package.

A file is written under a temporary name in the same folder, flushed to disk, and renamed, so a
killed job never leaves half a file under the real name. Readers open read-only. Behind the HDF5 a
file has a last line with the SHA-256 of all before it, which is held against it before anything is
read: damage on disk is an error, never another number.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from model_metrology.digests import content_digest

SCHEMA_VERSION = 1
"""Version of the files' layout; raised when a reader of the older layout would misread."""

PACKAGES: tuple[str, ...] = ("model-metrology", "torch", "torchvision", "numpy", "scipy", "h5py")

Tree = dict[str, Any]
"""Nested dict whose leaves are NumPy arrays: HDF5 groups and datasets."""

# Below this a dataset is stored as it is: chunks and filters cost more than they save.
_COMPRESS_BYTES = 64 * 1024

# Of a file's structure and attributes, beside its arrays.
_SLACK_BYTES = 256 * 1024

# The last line of a file. HDF5 itself stops before it.
_SEAL = re.compile(rb"\nSHA-256 ([0-9a-f]{64})\n")
_SEAL_BYTES = 74


class StoreError(ValueError):
    """A file that is not what it should be; the message names the file and the remedy."""


def provenance(study: Mapping[str, Any] | None = None, **extra: Any) -> dict[str, Any]:
    """Where a file comes from: study, package versions, code revision, machine, wall-clock time.

    Parameters
    ----------
    study : mapping, optional
        The study as read from its file: its name, root seed and digest are recorded.
    **extra
        More attributes, e.g. ``device=…``.
    """
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    of_study = {}
    if study is not None:
        of_study = {
            "study": study["name"],
            "study_digest": content_digest(study),
            "root_seed": study.get("seed", 0),
        }
    return {
        **of_study,
        "versions": json.dumps(versions),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "git_commit": _git_commit(),
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **extra,
    }


def _git_commit() -> str:
    """The checkout's commit, `+` behind it when files differ; empty outside a checkout."""
    here = Path(__file__).resolve().parent
    # --exclude: the commit itself, not a tag near it.
    command = ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--abbrev=40"]
    command += ["--exclude=*"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return result.stdout.strip()


def write(
    path: str | os.PathLike[str],
    tree: Mapping[str, Any],
    *,
    kind: str,
    attrs: Mapping[str, Any] | None = None,
    axes: Mapping[str, tuple[str, ...]] | None = None,
    units: Mapping[str, str] | None = None,
) -> None:
    """Write a tree of arrays, whole or not at all.

    Parameters
    ----------
    path : path-like
        The file; its folder is made when missing, an older file is replaced.
    tree : mapping
        Nested mapping; leaves are arrays, numbers or strings.
    kind : str
        What the file is; :func:`read` refuses another kind.
    attrs : mapping, optional
        Attributes of the root, e.g. from :func:`provenance`.
    axes : mapping, optional
        Names of the axes of a dataset, by its path in the tree or by its last part.
    units : mapping, optional
        Unit of a dataset's numbers, likewise.

    Raises
    ------
    StoreError
        If there is no room for the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _check_room(path, tree)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        with h5py.File(temporary, "w") as file:
            file.attrs["schema_version"] = SCHEMA_VERSION
            file.attrs["kind"] = kind
            for key, value in (attrs or {}).items():
                file.attrs[key] = value
            _write_group(file, tree, axes or {}, units or {})
        with open(temporary, "r+b") as written:
            digest = _sha256(written, os.path.getsize(temporary))
            written.write(f"\nSHA-256 {digest}\n".encode())
            written.flush()
            os.fsync(written.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _check_room(path: Path, tree: Mapping[str, Any]) -> None:
    # Before the first byte: HDF5 cannot close a file that it has no room for, and may crash.
    needed, free = _size(tree) + _SLACK_BYTES, shutil.disk_usage(path.parent).free
    if free < needed:
        raise StoreError(
            f"{path}: no space left on the device: {needed / 1e6:.1f} MB may be needed, "
            f"{free / 1e6:.1f} MB are free; make room and run again, what is finished is kept"
        )


def _size(tree: Mapping[str, Any]) -> int:
    return sum(
        _size(value) if isinstance(value, Mapping) else _bytes(np.asarray(value))
        for value in tree.values()
    )


def _bytes(array: np.ndarray) -> int:
    if array.dtype.kind not in "OU":
        return array.nbytes
    # Of texts, and of where each begins.
    return sum(len(str(text).encode()) + 16 for text in array.flat)


def _umask() -> int:
    # The mask can only be read by setting it.
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write_group(
    group: h5py.Group,
    tree: Mapping[str, Any],
    axes: Mapping[str, tuple[str, ...]],
    units: Mapping[str, str],
) -> None:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            _write_group(group.create_group(name), value, axes, units)
            continue
        array = np.asarray(value)
        if array.dtype.kind in "US":
            array = array.astype(h5py.string_dtype())
        big = array.nbytes >= _COMPRESS_BYTES and array.ndim > 0
        # shuffle + gzip level 1: most of the gain at a third of level 4's time. The checksum is
        # for other readers, who do not look at the file's last line.
        filters: dict[str, Any] = (
            {"compression": 1, "shuffle": True, "fletcher32": True} if big else {}
        )
        dataset = group.create_dataset(name, data=array, track_times=False, **filters)
        path = str(dataset.name).lstrip("/")
        for attribute, table in (("axes", axes), ("unit", units)):
            entry = table.get(path, table.get(name))
            if entry is not None:
                dataset.attrs[attribute] = entry


def _sha256(file: BinaryIO, size: int) -> str:
    """SHA-256 of the first `size` bytes of a file, which is left there."""
    digest = hashlib.sha256()
    while size > 0 and (part := file.read(min(size, 1 << 20))):
        digest.update(part)
        size -= len(part)
    return digest.hexdigest()


def _check_seal(path: Path) -> None:
    """Hold a file against its last line; files of earlier versions have none."""
    status = path.stat()
    if _is_damaged(path, status.st_size, status.st_mtime_ns):
        raise StoreError(
            f"{path}: wrong checksum, damaged since it was written; delete it and run again to "
            "rebuild it"
        )


@lru_cache(maxsize=256)  # a file is opened for each of its parts
def _is_damaged(path: Path, size: int, mtime: int) -> bool:
    with open(path, "rb") as file:
        file.seek(max(size - _SEAL_BYTES, 0))
        seal = _SEAL.fullmatch(file.read())
        file.seek(0)
        return seal is not None and _sha256(file, size - _SEAL_BYTES).encode() != seal[1]


@contextlib.contextmanager
def open_file(path: str | os.PathLike[str], *, kind: str | None = None) -> Iterator[h5py.File]:
    """Open a file read-only after checking that it is whole, of this schema and, if given, kind.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    StoreError
        If it is truncated, damaged or no HDF5, of another kind, or of another schema version.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    _check_seal(path)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise StoreError(
            f"{path}: not a whole HDF5 file ({error}); delete it and run again to rebuild it"
        ) from error
    with file:
        version, found = file.attrs.get("schema_version"), file.attrs.get("kind")
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"{path}: schema version {version}, this package reads {SCHEMA_VERSION}; "
                "delete it and run again to rebuild it"
            )
        if kind is not None and found != kind:
            raise StoreError(f"{path}: holds {found!r}, expected {kind!r}")
        yield file


def read(path: str | os.PathLike[str], *, kind: str) -> tuple[Tree, dict[str, Any]]:
    """Read a whole file.

    Returns
    -------
    tree : dict
        Nested dict of arrays.
    attrs : dict
        Attributes of the root.

    Raises
    ------
    FileNotFoundError, StoreError
        As :func:`open_file`.
    """
    with open_file(path, kind=kind) as file:
        try:
            return read_group(file), dict(file.attrs)
        except OSError as error:  # of a file without our last line
            raise StoreError(
                f"{path}: cannot be read to its end ({error}); delete it and run again"
            ) from error


def read_group(group: h5py.Group) -> Tree:
    """An HDF5 group as a nested dict of arrays; text comes back as `str` objects."""
    tree: Tree = {}
    for name, item in group.items():
        if isinstance(item, h5py.Group):
            tree[name] = read_group(item)
        elif h5py.check_string_dtype(item.dtype):
            tree[name] = item.asstr()[()]
        else:
            tree[name] = item[()]
    return tree
