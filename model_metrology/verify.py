"""Look at all HDF5 files in some folders: ``python -m model_metrology.verify results/default``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from model_metrology.store import StoreError, open_file


def damaged_files(folders: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """Files that are truncated, changed since they were written, or of another schema.

    Parameters
    ----------
    folders : iterable of Path
        Searched with all that is below them.

    Yields
    ------
    path, reason
        A file, and what is wrong with it.
    """
    for folder in folders:
        for path in sorted(folder.rglob("*.h5")):
            try:
                with open_file(path):
                    pass
            except StoreError as error:
                yield path, str(error)


def main() -> int:
    """Print the damaged files; the exit status is 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="e.g. results/default")
    folders = parser.parse_args().folders
    for folder in folders:
        if not folder.is_dir():
            parser.error(f"{folder}: there is no such folder")
    found = [print(reason) for _, reason in damaged_files(folders)]
    print(f"{len(found)} damaged", file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
