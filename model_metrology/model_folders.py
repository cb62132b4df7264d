"""Folders of pretrained models. Needs no torch, as studies are checked with it."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["local_folder"]

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def local_folder(name: str, root: str | os.PathLike[str] = ".") -> Path | None:
    """The folder that a model's name stands for; None for one in a package or on the hub.

    Parameters
    ----------
    name : str
        A folder, ``package:NAME/FOLDER``, or a name on the Hugging Face hub.
    root : path-like
        Folder that a relative path starts from.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, and the name can be nothing else.
    """
    if name.startswith("package:"):
        return None
    folder = Path(root, name).expanduser()
    if folder.is_dir():
        return folder
    if not _HUB_NAME.fullmatch(name):
        raise FileNotFoundError(f"model: there is no folder {folder}; give its path")
    return None
