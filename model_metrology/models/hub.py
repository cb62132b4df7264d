"""Pretrained models: where they are (folders, installed packages, the hub), and whether whole.

Of a model on the hub only what is no code is downloaded, and what came is held against the hub's
digests before anything reads it. Hugging Face's ``transformers`` is imported where it is used, so
that the library works without it.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from model_metrology.data.packages import package_folder
from model_metrology.model_folders import local_folder

__all__ = [
    "check_downloaded",
    "check_loaded",
    "is_reachable",
    "load_tokenizer",
    "load_transformers",
    "model_source",
    "quiet",
]


# Of a model on the hub: no Python, and no weights that are pickles.
_FILES = ("*.json", "*.model", "*.safetensors", "*.txt", "README.md")


def load_transformers(extra: str = "language") -> Any:
    """The package transformers, imported when first needed.

    Parameters
    ----------
    extra : str
        What installs it, as the error names it.

    Raises
    ------
    ImportError
        If it is not installed.
    """
    # Tokenizers' threads and our processes do not mix; nothing is reported to the hub.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # First, as transformers imports torchvision: makes it importable beside a CPU build of torch.
    import model_metrology.torchvision_compat  # noqa: F401

    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise ImportError(
            "language models need the package transformers: in a checkout, "
            f"pip install -e '.[{extra}]'"
        ) from error


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Without progress bars and without the advice to train what is about to be trained."""
    log = transformers.utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()


def model_source(
    name: str, *, revision: str | None = None, root: str | os.PathLike[str] = "."
) -> dict[str, Any]:
    """Arguments of ``from_pretrained`` that say where a model is.

    Parameters
    ----------
    name : str
        A folder, ``package:NAME/FOLDER`` for a folder inside an installed package, or a name on
        the Hugging Face hub.
    revision : str, optional
        Commit, tag or branch of a model on the hub.
    root : path-like
        Folder that a relative path starts from.

    Returns
    -------
    dict
        ``pretrained_model_name_or_path``, a folder; ``local_files_only`` and
        ``trust_remote_code``: code that a model brings is never run.

    Raises
    ------
    FileNotFoundError
        If there is no such folder or package, or neither the hub nor its cache has the model.
    ValueError
        If a downloaded file is not what the hub has.
    """
    return {
        "pretrained_model_name_or_path": str(_folder(name, revision, root)),
        "local_files_only": True,
        "trust_remote_code": False,
    }


def _folder(name: str, revision: str | None, root: str | os.PathLike[str]) -> Path:
    if name.startswith("package:"):
        package, _, inside = name.removeprefix("package:").partition("/")
        return package_folder("model", package, inside)
    if local := local_folder(name, root):
        return local
    remedy = "a local folder with config.json, model.safetensors and the tokenizer's files, or "
    remedy += "package:NAME/FOLDER"
    online = is_reachable(name, ["config.json"], revision=revision, remedy=remedy)
    hub = importlib.import_module("huggingface_hub")
    try:
        downloaded = hub.snapshot_download(
            name, revision=revision, allow_patterns=list(_FILES), local_files_only=not online
        )
    except Exception as error:  # of the hub's client, its HTTP client, or the operating system
        raise FileNotFoundError(
            f"model: {name!r} could not be downloaded from the hub: {error}; try again, or give "
            f"{remedy}"
        ) from error
    folder = Path(downloaded)
    for path in folder.rglob("*"):
        check_downloaded(path)
    return folder


def check_downloaded(path: Path) -> None:
    """Hold a file in the cache of the hub's client against the hub's digest of it.

    The client names what it keeps by that digest and looks at its size alone: SHA-256 of large
    files, else git's. Other files pass.

    Raises
    ------
    ValueError
        If it is another file than the hub has.
    """
    kept = path.resolve()
    expected = kept.name
    if kept.parent.name != "blobs" or len(expected) not in (40, 64):
        return
    with open(kept, "rb") as file:
        if len(expected) == 64:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        else:
            content = file.read()
            git = b"blob %d\0" % len(content) + content
            found = hashlib.sha1(git, usedforsecurity=False).hexdigest()
    if found != expected:
        raise ValueError(
            f"model: {path} is damaged, or was changed on its way: its digest is {found}, the hub "
            f"says {expected}; delete {kept} and try again"
        )


def is_reachable(
    name: str, files: Sequence[str], *, revision: str | None = None, remedy: str
) -> bool:
    """Whether the hub answers and has a model; False if a copy of it lies in the cache.

    One question in advance, because the hub's clients ask for minutes where there is no network.

    Parameters
    ----------
    name, revision : str
        The model on the hub.
    files : sequence of str
        Files of the model; one of them is in the cache if the model is.
    remedy : str
        What to give where the hub cannot be reached.

    Raises
    ------
    FileNotFoundError
        If neither the hub nor the cache has the model.
    """
    hub = importlib.import_module("huggingface_hub")
    try:
        hub.HfApi().model_info(name, revision=revision, timeout=20)
    except Exception as error:  # of the hub's client, its HTTP client, or the operating system
        cached = (hub.try_to_load_from_cache(name, file, revision=revision) for file in files)
        if any(isinstance(path, str) for path in cached):
            return False
        raise FileNotFoundError(
            f"model: {name!r} is no folder here and was not found on the Hugging Face hub "
            f"({type(error).__name__}: {str(error).splitlines()[0][:200]}). Where the hub cannot "
            f"be reached, give {remedy}"
        ) from error
    return True


def load_tokenizer(transformers: Any, name: str, source: Mapping[str, Any]) -> Any:
    """A model's tokenizer.

    Parameters
    ----------
    transformers : module
        From :func:`load_transformers`.
    name : str
        The model, as the error names it.
    source : mapping
        From :func:`model_source`.

    Raises
    ------
    ValueError
        If there is none.
    """
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
    except (OSError, ValueError) as error:
        raise ValueError(f"model: no tokenizer in {name!r}: {error}") from error
    # Without a vocabulary's file transformers makes a tokenizer to which all words are unknown.
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise ValueError(f"model: no tokenizer in {name!r}: a file with its vocabulary is missing")
    return tokenizer


def check_loaded(name: str, loaded: Mapping[str, Any], *, body: str = "") -> None:
    """Refuse a network whose weights would have stayed random.

    Parameters
    ----------
    name : str
        The model, as the error names it.
    loaded : mapping
        What ``from_pretrained`` says with ``output_loading_info``.
    body : str
        How the names of the weights begin that must be there. A pooler is never missed: it is no
        part of what many models were trained as.

    Raises
    ------
    ValueError
        If such weights are missing or of another size.
    """
    absent = {*loaded["missing_keys"], *(entry[0] for entry in loaded["mismatched_keys"])}
    random = sorted(n for n in absent if n.startswith(body) and "pooler" not in n.split("."))
    if random:
        raise ValueError(
            f"model: {name!r} lacks {len(random)} weights of its own architecture, e.g. "
            f"{random[0]}; is its config.json that of its weights?"
        )
