"""Machine translation on this machine: Apertium, a rule-based system, run as a program.

Apertium and its language pairs are free software under the GNU General Public License, version 2
or later (M. L. Forcada et al., "Apertium: a free/open-source platform for rule-based machine
translation", Machine Translation 25 (2011) 127–144). Nothing of it is part of this package or
linked to it: it is started as a program of its own.

It is taken from PATH where the pair is installed. Else Debian's packages are downloaded by the
ordinary client, unpacked into a folder, and run there; that needs no rights and installs nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from model_metrology.data.fetch import DataUnavailableError, apt_unpack

__all__ = ["FOLDER", "ApertiumError", "apertium_available", "apertium_version", "translate"]

FOLDER = "resources/apertium"
"""Folder that keeps what was fetched."""

_DATA = "usr/share/apertium"  # where Debian's packages have language pairs
_VERSIONS = "versions.txt"


class ApertiumError(RuntimeError):
    """Apertium or a pair is not to be had, or it failed; the message says why and the remedy."""


def translate(
    texts: Iterable[str], pairs: Sequence[str], *, folder: str | os.PathLike[str] = FOLDER
) -> list[str]:
    """Translate texts by one pair of languages after another.

    Parameters
    ----------
    texts : iterable of str
        Runs of white space count as one space.
    pairs : sequence of str
        Apertium's names, e.g. ``["eng-spa", "spa-eng"]`` for there and back.
    folder : path-like
        Where a fetched Apertium is kept.

    Returns
    -------
    list of str
        A translation of each text, in order, white space normalised. A word that Apertium does not
        know stays as it is, without a mark.

    Raises
    ------
    ApertiumError
        If a pair can neither be run from PATH nor fetched, or the program fails.

    Notes
    -----
    The same list gives the same translations. One process translates all of a pair's texts, each
    by itself: the program is told where one ends. Its tagger of parts of speech still remembers
    combinations that it did not know, so that in 8 of 998 texts of WMT24 a word depended on which
    texts came before.
    """
    done = [_plain(text) for text in texts]
    for pair in pairs:
        done = _translated(done, _found(pair, folder) or _fetched(pair, folder), pair)
    return done


def apertium_available(
    pairs: Iterable[str], *, folder: str | os.PathLike[str] = FOLDER
) -> str | None:
    """Why texts could not be translated by these pairs; None if they could. Fetches nothing.

    A pair that would have to be downloaded counts as available where apt-get and dpkg-deb are: the
    mirror is not asked.
    """
    missing = [name for name in ("apt-get", "dpkg-deb") if shutil.which(name) is None]
    for pair in pairs:
        if missing and _found(pair, folder) is None:
            return _unavailable(pair, folder, f"{missing[0]} is not installed")
    return None


def apertium_version(pair: str, *, folder: str | os.PathLike[str] = FOLDER) -> str:
    """Versions of Apertium and of a pair, as packages have them: the provenance of translations.

    Raises
    ------
    ApertiumError
        If the pair is neither installed nor fetched yet.
    """
    apertium = _found(pair, folder)
    if apertium is None:
        raise ApertiumError(_unavailable(pair, folder, "it was not asked for yet"))
    return apertium.version


# -- the program ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Apertium:
    """An Apertium that has a pair."""

    version: str
    root: Path | None = None
    """Where it was unpacked; None where it is installed."""

    def run(self, *arguments: str, given: str) -> str:
        """Run the command ``apertium``."""
        own = dict(os.environ) | {"LC_ALL": "C.UTF-8"}
        if self.root is None:
            return _run(["apertium", *arguments], given, env=own)
        root = self.root.resolve()
        programs = root / "usr/bin"
        libraries = sorted({str(file.parent) for file in root.glob("usr/lib/**/*.so.*")})
        own["PATH"] = os.pathsep.join((str(programs), own.get("PATH", os.defpath)))
        own["LD_LIBRARY_PATH"] = os.pathsep.join(libraries)
        own["APERTIUM_PATH"] = str(programs)
        # In its folder, where all names are relative: older scripts split a name at a space.
        command = [str(programs / "apertium"), "-d", ".", *arguments]
        return _run(command, given, env=own, cwd=root / _DATA)


def _run(
    command: Sequence[str], given: str, *, env: Mapping[str, str], cwd: Path | None = None
) -> str:
    done = subprocess.run(
        command, input=given.encode(), capture_output=True, env=env, cwd=cwd, check=False
    )
    if done.returncode:
        messages = " ".join(done.stderr.decode(errors="replace").split())
        raise ApertiumError(
            f"{' '.join(command)} failed with status {done.returncode}: {messages[-300:]}"
        )
    return done.stdout.decode(errors="replace")


def _translated(texts: Sequence[str], apertium: _Apertium, pair: str) -> list[str]:
    # -u: no marks on unknown words; -z: NUL ends a text; none: texts are escaped already, by
    # Apertium's own converter NUL would be lost.
    given = "".join(f"{_escaped(text)}\0" for text in texts)
    parts = apertium.run("-u", "-z", "-f", "none", pair, given=given).split("\0")
    # Each of the programs in its pipeline adds a NUL at the end of everything.
    done, rest = parts[: len(texts)], parts[len(texts) :]
    if len(done) < len(texts) or any(rest):
        raise ApertiumError(
            f"apertium {pair} gave {sum(map(bool, parts))} texts for {len(texts)}; its version, "
            f"{apertium.version}, may be too old (3.8.3 is known to work)"
        )
    return [_plain(_unescaped(text)) for text in done]


def _plain(text: str) -> str:
    return " ".join(text.replace("\0", " ").split())


def _escaped(text: str) -> str:
    """A text in Apertium's format, ended by a full stop that is not the text's own."""
    escaped = re.sub(r"[\[\]{}^$/\\@<>]", r"\\\g<0>", text)
    # What is in brackets is passed through: a tilde would join words.
    return escaped.replace("~", "[~]") + ".[]"


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)|[\[\]]", lambda match: match[1] or "", text.replace(".[]", ""))


# -- where it is ---------------------------------------------------------------------------------


def _found(pair: str, folder: str | os.PathLike[str]) -> _Apertium | None:
    """An Apertium with this pair: installed, or fetched before."""
    if shutil.which("apertium") and pair in _run(["apertium", "-l"], "", env=os.environ).split():
        return _Apertium(_installed_version(pair))
    for root in sorted(Path(folder).glob("apertium-*"), reverse=True):
        if (root / _DATA / "modes" / f"{pair}.mode").is_file():
            return _Apertium((root / _VERSIONS).read_text().strip(), root)
    return None


def _installed_version(pair: str) -> str:
    """Versions of the installed packages, where Debian's records have them."""
    names = ["apertium", *_packages(pair)]
    command = ["dpkg-query", "--show", "--showformat=${Package} ${Version}\n", *names]
    known: list[str] = []
    if shutil.which(command[0]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        known = [line for line in done.stdout.splitlines() if len(line.split()) == 2]
    return ", ".join(known) or "apertium, installed by other means than packages"


def _packages(pair: str) -> tuple[str, str]:
    """Names that a pair's package may have: one holds both directions."""
    return f"apertium-{pair}", f"apertium-{'-'.join(reversed(pair.split('-')))}"


def _fetched(pair: str, folder: str | os.PathLike[str]) -> _Apertium:
    """Download and unpack the pair and what it needs."""
    reasons = []
    for package in _packages(pair):
        try:
            _fetch(package, Path(folder))
        except DataUnavailableError as error:
            reasons.append(str(error))
        else:
            if (found := _found(pair, folder)) is not None:
                return found
            reasons.append(f"Debian package {package} does not have it")
    raise ApertiumError(_unavailable(pair, folder, "; ".join(reasons)))


def _fetch(package: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # Renamed when complete: a killed or concurrent process leaves nothing half done there.
    with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as part:
        root = Path(part, "root")
        versions = dict(file.split("_")[:2] for file in apt_unpack(package, root))
        own = [f"{name} {versions[name]}" for name in ("apertium", package) if name in versions]
        (root / _VERSIONS).write_text(", ".join(own) + "\n")
        for mode in (root / _DATA / "modes").glob("*.mode"):
            mode.write_text(mode.read_text().replace(f"/{_DATA}/", ""))
        place = folder / f"{package}_{versions.get(package, '')}"
        try:
            root.rename(place)
        except OSError:
            if not place.is_dir():  # else another process was first
                raise


def _unavailable(pair: str, folder: str | os.PathLike[str], reason: str) -> str:
    first, second = _packages(pair)
    return (
        f"Apertium's pair {pair} is neither installed nor fetched into {folder}: {reason}.\n"
        f"Remedy: install it (Debian package {first} or {second}), so that `apertium -l` lists it; "
        "or provide apt-get, dpkg-deb and a Debian mirror, from which it is fetched without being "
        "installed."
    )
