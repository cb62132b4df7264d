"""Names of a package that are imported when they are first used, and not before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazy_names(package: str, names: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """The `__getattr__` of a package that takes names from its modules.

    Parameters
    ----------
    package : str
        The package's name.
    names : mapping
        Names by the module they are in, relative to the package.
    """
    homes = {name: f"{package}.{module}" for module, inside in names.items() for name in inside}

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    return get
