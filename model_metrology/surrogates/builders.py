"""Builders of foreign networks: the code that a study may name.

A study is data. Which code it may call is said by whoever runs it, outside of the study: in the
folders of the environment variable ``MODEL_METROLOGY_BUILDERS``, beside the package ``examples`` of
this checkout. What lies elsewhere is refused without being imported. Needs no torch, as studies are
checked with it.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["BUILDERS_VARIABLE", "BuilderPlace", "find_builder", "import_builder", "importable"]

BUILDERS_VARIABLE = "MODEL_METROLOGY_BUILDERS"
"""Environment variable with the folders in which builders are looked for, as PATH has them."""

_CHECKOUT = Path(__file__).parents[2]
_LISTED = 5


@dataclass(frozen=True)
class BuilderPlace:
    """Where a builder's module was found."""

    module: str
    """Its name, as imports have it."""
    function: str
    """The builder's name in it."""
    folder: Path
    """Folder that the name starts from."""
    file: Path
    """The module's file."""


def find_builder(builder: str) -> BuilderPlace:
    """Find the module of a builder in the folders that are allowed; nothing is imported.

    Parameters
    ----------
    builder : str
        ``package.module:function``.

    Raises
    ------
    ValueError
        If no allowed folder has it, or if it is a link to elsewhere; the message says which folders
        are allowed and how to allow another.
    """
    module, _, function = builder.partition(":")
    inside = Path(*module.split("."))
    for folder, allowed in _allowed():
        for file in (folder / inside / "__init__.py", (folder / inside).with_suffix(".py")):
            if file.is_file() and file.resolve().is_relative_to(allowed.resolve()):
                return BuilderPlace(module, function, folder, file)
    places = ", ".join(str(allowed) for _, allowed in _allowed()) or "none"
    raise ValueError(
        f"builder: {builder} is in no folder whose code a study may call ({places}); if you trust "
        f"it, name the folder that has {inside.with_suffix('.py')} in the environment variable "
        f"{BUILDERS_VARIABLE}"
    )


def _allowed() -> Iterator[tuple[Path, Path]]:
    """Folders that modules' names start from, and where in these their files must lie."""
    for entry in filter(None, os.environ.get(BUILDERS_VARIABLE, "").split(os.pathsep)):
        folder = Path(entry).expanduser().absolute()
        yield folder, folder
    # Installed without a checkout, another project's `examples` could lie there.
    if (_CHECKOUT / "Snakefile").is_file():
        yield _CHECKOUT, _CHECKOUT / "examples"


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Let modules in a folder be imported where no installed ones have their names."""
    sys.path.append(str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def import_builder(place: BuilderPlace) -> Callable[..., Any]:
    """Import a builder from where it was found, and from nowhere else.

    Raises
    ------
    ValueError
        If importing its module fails, or if that defines no such function: what it has imported
        itself is not for studies to call.
    """
    try:
        _import_outermost(place)
        module = importlib.import_module(place.module)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"builder: {place.module} needs the module {error.name!r}, which is not installed"
        ) from error
    except Exception as error:
        raise ValueError(
            f"builder: importing {place.module} failed: {type(error).__name__}: {error}"
        ) from error
    own = {
        name: value
        for name, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", None) == place.module
    }
    if place.function not in own:
        offered = sorted(name for name in own if not name.startswith("_"))
        more = f", … ({len(offered)} in all)" if len(offered) > _LISTED else ""
        known = f"{', '.join(offered[:_LISTED])}{more}" if offered else "none of its own"
        raise ValueError(
            f"builder: {place.file} defines no function {place.function!r}; it has {known}"
        )
    found: Callable[..., Any] = own[place.function]
    return found


def _import_outermost(place: BuilderPlace) -> None:
    """Import the first part of a module's name from its folder alone.

    What is inside of a package is then looked for there, by Python itself.
    """
    name, _, rest = place.module.partition(".")
    package = place.folder / name
    file = package / "__init__.py" if rest else place.file
    if name in sys.modules:
        if not _is_at(sys.modules[name], package, file):
            raise ImportError(f"another module {name!r} is in use; rename this one")
        return
    spec = spec_from_file_location(name, file) if file.is_file() else None
    if spec is None or spec.loader is None:  # a package without a file of its own
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(package)]
    module = sys.modules[name] = module_from_spec(spec)
    if spec.loader is not None:
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise


def _is_at(module: ModuleType, package: Path, file: Path) -> bool:
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", [])]
    return any(Path(p).resolve() in (package.resolve(), file.resolve()) for p in places if p)
