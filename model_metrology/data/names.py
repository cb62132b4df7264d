"""Endings of tables of text; apart from their reader, which needs pandas."""

from __future__ import annotations

__all__ = ["TABLES"]

TABLES: tuple[str, ...] = (".csv", ".tsv", ".parquet", ".jsonl", ".json")
"""Endings of the files that :func:`model_metrology.data.rows.read_rows` reads."""
