"""Rows of foreign tables, as text: what is a number in one format is text in another."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd

from model_metrology.data.names import TABLES

__all__ = ["as_text", "read_rows"]


def read_rows(path: str | os.PathLike[str], names: list[str] | None = None) -> pd.DataFrame:
    """Read a table by its file's ending, every value as the text that stands there.

    Parameters
    ----------
    path : path-like
        .csv; .tsv, where quotes are ordinary signs; .parquet; .jsonl, an object a line; .json, a
        list of objects or an object of equally long lists. UTF-8.
    names : list of str, optional
        Names of the columns of a .csv or .tsv without a header.

    Returns
    -------
    DataFrame
        A missing value is "", lists and objects stay what they are, else all are `str`: a text may
        be "NA", a label "01".

    Raises
    ------
    ValueError
        If the file is none of these or not laid out like that.
    ImportError
        If it is .parquet and pyarrow is not installed.
    """
    path = Path(path)
    readers = {".parquet": _read_parquet, ".jsonl": _read_jsonl, ".json": _read_json}
    if path.suffix in readers:
        table = readers[path.suffix](path)
    elif path.suffix in TABLES:
        table = _read_separated(path, names)
    else:
        raise ValueError(f"its name must end in one of {', '.join(TABLES)}")
    return table.astype(object).map(as_text)


def as_text(value: Any) -> Any:
    """A value as text, "" where it is missing; lists and objects stay what they are."""
    if not pd.api.types.is_scalar(value) or isinstance(value, bytes):
        return value
    return "" if pd.isna(value) else str(value)


def _read_separated(path: Path, names: list[str] | None) -> pd.DataFrame:
    layout: dict[str, Any] = {"sep": "\t", "quoting": 3} if path.suffix == ".tsv" else {}
    verbatim: dict[str, Any] = {"dtype": str, "keep_default_na": False, "encoding": "utf-8"}
    table = pd.read_csv(path, names=names, **layout, **verbatim)
    if not isinstance(table.index, pd.RangeIndex):
        raise ValueError("its rows have more fields than its header")
    return table


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        # Types of their own for missing values: whole numbers stay whole.
        return pd.read_parquet(path, dtype_backend="numpy_nullable")
    except ImportError as error:
        raise ImportError(f"{path}: needs the package pyarrow: pip install pyarrow") from error


def _read_jsonl(path: Path) -> pd.DataFrame:
    with open(path, encoding="utf-8-sig") as file:
        rows = [json.loads(line) for line in file if line.strip()]
    return _of_objects(rows, "each line must be an object with the columns as keys")


def _read_json(path: Path) -> pd.DataFrame:
    with open(path, encoding="utf-8-sig") as file:
        content = json.load(file)
    if isinstance(content, dict):
        lengths = {
            key: len(value) if isinstance(value, list) else None for key, value in content.items()
        }
        if None in lengths.values() or len(set(lengths.values())) != 1:
            raise ValueError(
                "it must be an object of equally long lists, its columns; it has "
                f"{', '.join(f'{k} ({n or 0} items)' for k, n in lengths.items()) or 'nothing'}"
            )
        # As objects: pandas would make a missing whole number turn all others into fractions.
        return pd.DataFrame(content, dtype=object)
    return _of_objects(content, "it must be a list of objects or an object of lists")


def _of_objects(rows: Any, otherwise: str) -> pd.DataFrame:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(otherwise)
    return pd.DataFrame(rows, dtype=object)
