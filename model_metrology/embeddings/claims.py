"""What is claimed of embeddings, held against what was measured.

The claims are those made of Vargas et al. 2024 (arXiv:2408.10437). Their words have no
thresholds; those below are ours and are written into each row's evidence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

__all__ = ["CLAIMS", "claims_table"]

EASY = 0.95  # AUROC from which on two sources are called easily told apart
RECOVERED = 0.5  # adjusted Rand index from which on clusters are called the labels
REMOVED = 0.6  # AUROC along an axis up to which it is called gone
THERE = 0.9  # and from which on it is called there
KEPT = 0.05  # AUROC that a kept axis may lose

CLAIMS = {
    "separable": "Machine output is easily told apart by simple techniques",
    "clusters": "Clustering recovers hidden labels",
    "language": "Translation removes the language axis",
    "topic": "Translation keeps the topic axis",
}
"""The claims in words, by a short name."""

Row = dict[str, str]
Record = Mapping[Any, Any]


def claims_table(
    separability: pd.DataFrame,
    clustering: pd.DataFrame,
    translation: pd.DataFrame,
    *,
    level: float = 0.05,
) -> pd.DataFrame:
    """Count claims as held, partly held, or not, with the evidence in words.

    Parameters
    ----------
    separability, clustering, translation : DataFrame
        Tables of the study; may be empty.
    level : float
        Level of the tests.

    Returns
    -------
    DataFrame
        Columns claim, contrast, embedder, held (``held``, ``partly``, ``not``), evidence.
    """
    rows: list[Row] = []
    for table, judge in (
        (separability, _separable),
        (clustering, _clusters),
        (translation, _translation),
    ):
        rows += judge(table.to_dict("records"), level)
    return pd.DataFrame(rows, columns=["claim", "contrast", "embedder", "held", "evidence"])


def _row(claim: str, about: Record, held: str, evidence: str) -> Row:
    whose = {name: str(about[name]) for name in ("contrast", "embedder")}
    return {"claim": CLAIMS[claim], **whose, "held": held, "evidence": evidence}


def _graded(held: bool, partly: bool) -> str:
    if held:
        return "held"
    return "partly" if partly else "not"


def _number(row: Record, name: str) -> str:
    return f"{row[name]:.2f} [{row[f'{name}_lower']:.2f}, {row[f'{name}_upper']:.2f}]"


def _separable(rows: Sequence[Record], level: float) -> Iterator[Row]:
    """Each pair of sources; with the best baseline and the hardest control beside it."""
    rows = [row for row in rows if row["source_a"]]
    for plain in rows:
        if plain["choice"] != "final" or plain["control"]:
            continue
        same = [row for row in rows if _pair(row) == _pair(plain)]
        held = _graded(plain["auroc"] >= EASY, plain["p_value"] <= level)
        words = [
            f"{plain['source_a']} – {plain['source_b']}: AUROC {_number(plain, 'auroc')} (easily: "
            f"from {EASY:g}), accuracy {_number(plain, 'accuracy')}, p = {plain['p_value']:.3g}"
        ]
        controlled = [
            row
            for row in same
            if row["choice"] == "final" and row["embedder"] == plain["embedder"] and row["control"]
        ]
        if controlled:
            hardest = min(controlled, key=_auroc)
            words.append(f"least under control {hardest['control']!r}: {hardest['auroc']:.2f}")
        rivals = [row for row in same if row["choice"] == "baseline" and not row["control"]]
        if rivals:
            best = max(rivals, key=_auroc)
            verdict = "does better" if best["auroc"] > plain["auroc"] else "does no better"
            words.append(f"{best['embedder']} {verdict}: {best['auroc']:.2f}")
        yield _row("separable", plain, held, "; ".join(words))


def _pair(row: Record) -> tuple[str, str, str]:
    return row["contrast"], row["source_a"], row["source_b"]


def _auroc(row: Record) -> float:
    return float(row["auroc"])


def _clusters(rows: Sequence[Record], level: float) -> Iterator[Row]:
    """Each label, by the method that finds it best."""
    for of_label in _grouped(rows, "contrast", "embedder", "label"):
        best = max(of_label, key=lambda row: float(row["ari"]))
        found = best["p_value"] <= level and best["ari"] > 0
        evidence = (
            f"{best['label']}: {best['method']} ARI {best['ari']:.2f} (recovered: from "
            f"{RECOVERED:g}), purity {best['purity']:.2f} where {best['purity_chance']:.2f} is "
            f"chance, p = {best['p_value']:.3g}"
        )
        yield _row("clusters", best, _graded(found and best["ari"] >= RECOVERED, found), evidence)


def _translation(rows: Sequence[Record], level: float) -> Iterator[Row]:
    for of_one in _grouped(rows, "contrast", "embedder"):
        found = {row["quantity"]: row for row in of_one}
        before, after, shift = (
            found[name]
            for name in ("language auroc before", "language auroc after", "paired shift")
        )
        moved = shift["p_value"] <= level and shift["value"] > 0
        # Carried too far the axis is there as well, the other way round.
        left = max(after["value"], 1 - after["value"])
        held = _graded(before["value"] >= THERE and left <= REMOVED, moved)
        evidence = (
            f"AUROC along the language axis {before['value']:.2f} before, {after['value']:.2f} "
            f"after (gone: {1 - REMOVED:g} to {REMOVED:g}); texts move {shift['value']:.2f} "
            f"[{shift['lower']:.2f}, {shift['upper']:.2f}] of the way, p = {shift['p_value']:.3g}"
        )
        yield _row("language", shift, held, evidence)
        if "topic auroc translated" in found:
            original, translated = (
                float(found[f"topic auroc {when}"]["value"]) for when in ("original", "translated")
            )
            evidence = (
                f"AUROC along the originals' topic axis {original:.2f} before, {translated:.2f} "
                f"after (kept: loses at most {KEPT:g})"
            )
            kept = _graded(translated >= original - KEPT, translated > 0.5 + KEPT)
            yield _row("topic", shift, kept, evidence)


def _grouped(rows: Sequence[Record], *columns: str) -> list[list[Record]]:
    """Rows of final views with the same values, in the order of their first."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for row in rows:
        if row["choice"] == "final":
            groups.setdefault(tuple(row[column] for column in columns), []).append(row)
    return list(groups.values())
