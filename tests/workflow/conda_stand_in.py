"""A stand-in for conda, where none is to be had: it answers what Snakemake asks of conda.

An environment is a virtual one with links to the packages that its file names, in those versions,
and to what they need, all from the interpreter that runs the tests; nothing is fetched, and other
packages cannot be imported in it. Each environment keeps a list of the scripts that it ran.
"""

import argparse
import json
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

CONDA_NAMES = {"matplotlib-base": "matplotlib", "pytorch": "torch", "seaborn-base": "seaborn"}
"""Packages that conda-forge and PyPI call differently."""

SCRIPTS_RUN = "scripts-run.txt"

# The interpreter reads it at its start. Snakemake names a script's copy <random>.<script>.
_SITE_CUSTOMIZE = f"""\
import sys
from pathlib import Path

script = Path(sys.orig_argv[-1])
if script.suffix == ".py":
    with open(Path(sys.prefix, {SCRIPTS_RUN!r}), "a") as file:
        file.write(script.name.partition(".")[2] + chr(10))
"""


def install(prefix: Path) -> Path:
    """Put the command `conda`, and what Snakemake activates environments with, into a folder."""
    programs = prefix / "bin"
    programs.mkdir(parents=True)
    command = shlex.join([sys.executable, str(Path(__file__).resolve()), str(prefix)])
    (programs / "conda").write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    (programs / "conda").chmod(0o755)
    (programs / "activate").write_text('PATH="$1/bin:$PATH"\n')
    return programs


def make_environment(prefix: Path, wanted: Iterable[Requirement]) -> None:
    """Make an environment of some packages and what they need."""
    command = [sys.executable, "-m", "venv", "--without-pip", str(prefix)]
    subprocess.run(command, check=True)
    folder = Path(sysconfig.get_path("purelib", "venv", {"base": str(prefix)}))
    for package in _with_needs(wanted):
        for name in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
            if not (folder / name).exists():
                (folder / name).symlink_to(Path(str(package.locate_file(name))))
    (folder / "sitecustomize.py").write_text(_SITE_CUSTOMIZE)


def _with_needs(wanted: Iterable[Requirement]) -> list[metadata.Distribution]:
    pending, found = list(wanted), {}
    while pending:
        requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        # One that is not here is left out: the study that needs it would say so.
        if name in found or not (here := next(iter(metadata.distributions(name=name)), None)):
            continue
        # A build's own label, as in 2.13.0+cpu, is no other version.
        if not requirement.specifier.contains(Version(here.version).public):
            sys.exit(f"PackagesNotFoundError: {requirement}; there is {here.version}")
        found[name] = here
        for needed in map(Requirement, here.requires or ()):
            extras = ("", *requirement.extras)
            if not needed.marker or any(needed.marker.evaluate({"extra": e}) for e in extras):
                pending.append(needed)
    return list(found.values())


def _requirements(path: Path) -> Iterable[Requirement]:
    """Packages of an environment's file; Python is the one that runs the tests."""
    for entry in yaml.safe_load(path.read_text())["dependencies"]:
        if isinstance(entry, dict):
            yield from map(Requirement, entry["pip"])
        elif not entry.startswith("python="):
            requirement = Requirement(entry)
            requirement.name = CONDA_NAMES.get(requirement.name, requirement.name)
            yield requirement


def main(prefix: str, *arguments: str) -> None:
    match arguments:
        case ["--version"]:
            print("conda 24.7.1")
        case ["info", "--json"]:
            print(json.dumps({"conda_prefix": prefix, "platform": "linux-64"}))
        case ["config", "--get", "channel_priority", "--json"]:
            print(json.dumps({"get": {"channel_priority": "strict"}}))
        case ["env", "create", *options]:
            parser = argparse.ArgumentParser()
            parser.add_argument("--quiet", action="store_true")
            parser.add_argument("--no-default-packages", action="store_true")
            parser.add_argument("--file", type=Path)
            parser.add_argument("--prefix", type=Path)
            asked = parser.parse_args(options)
            make_environment(asked.prefix, _requirements(asked.file))
        case ["clean", "-y", "--tarballs"]:
            pass
        case _:
            sys.exit(f"this stand-in for conda does not know: conda {shlex.join(arguments)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
