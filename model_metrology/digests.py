"""Digests that decide what must be computed again.

Snakemake re-runs a job when its script changes, not when a module that the script imports does.
A rule therefore carries the digest of the modules it rests on among its parameters: changed
science is computed again, and only that.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).parent
_NAME = _PACKAGE.name


def _file_of(module: str) -> Path | None:
    """The file of a module of this package; None for anything else."""
    parts = module.split(".")
    if parts[0] != _NAME:
        return None
    base = _PACKAGE.joinpath(*parts[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _imports(path: Path) -> tuple[str, ...]:
    return _imports_of(path.read_text())


@cache  # by content: many rules rest on the same modules
def _imports_of(code: str) -> tuple[str, ...]:
    found: list[str] = []
    for node in _walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # The package itself is a front door, no code; what is taken from it are modules.
            if node.module != _NAME:
                found.append(node.module)
            found += (f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(found)


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Everything below a node, save for expressions and for what only type checkers see."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from _walk(child)


@cache
def code_digest(*modules: str, without: str = "") -> str:
    """Digest of modules of this package and of all of its modules that they import.

    Parameters
    ----------
    *modules : str
        Dotted names, e.g. ``"model_metrology.training"``.
    without : str
        A module that is imported but decides no result: it does not count, nor what is imported
        through it alone.

    Returns
    -------
    str
        Sixteen hexadecimal digits.

    Raises
    ------
    ValueError
        If a name is no module of this package.
    """
    found: dict[str, Path] = {}
    pending = list(modules)
    for module in (*modules, *filter(None, [without])):
        if _file_of(module) is None:
            raise ValueError(f"{module}: no such module in {_NAME}")
    while pending:
        module = pending.pop()
        path = _file_of(module) if module != without else None
        if path is not None and str(path) not in found:
            found[str(path)] = path
            pending.extend(_imports(path))
    digest = hashlib.sha256()
    for path in sorted(found.values()):
        digest.update(str(path.relative_to(_PACKAGE)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def content_digest(content: Any) -> str:
    """Digest of JSON-like content, whatever the order of its keys; sixteen hexadecimal digits."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
