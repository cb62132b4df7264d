"""What tells sources apart, as figures and tables call it, and which rows of a table they show."""

from __future__ import annotations

import re
from itertools import chain
from typing import NamedTuple

import pandas as pd

from model_metrology.embeddings.names import BASELINE_NAMES

__all__ = ["BASELINES", "CHOICES", "CONTROLS", "Method", "known_rows", "methods_of", "sources_of"]

BASELINES = tuple(chain.from_iterable(BASELINE_NAMES.values()))
"""In the order in which they are shown."""

CHOICES = {"final": "final", "chosen": "chosen layer"}
"""What is said of an embedder's layer."""

CONTROLS = {
    "": "as it is",
    "equal-length": "equal length",
    "letters": "letters only",
    "dropped": "first words dropped",
}
"""What is said of what was taken from texts."""

# Columns of words, in which nothing is a word, too.
_WORDS = (
    "contrast", "embedder", "view", "control", "choice", "source_a", "source_b", "label", "source",
    "predicted", "method", "quantity", "scenario", "pooling", "chosen",
)  # fmt: skip


class Method(NamedTuple):
    """An embedder with the choice of its layer, or a baseline."""

    embedder: str
    choice: str

    @property
    def baseline(self) -> bool:
        """Whether it needs no model."""
        return self.choice == "baseline"

    @property
    def layer(self) -> str:
        """What is said of its layer; nothing of a baseline's."""
        return CHOICES.get(self.choice, "")

    def rows(self, table: pd.DataFrame) -> pd.DataFrame:
        """Its rows of a table."""
        return table[(table["embedder"] == self.embedder) & (table["choice"] == self.choice)]


def methods_of(table: pd.DataFrame) -> list[Method]:
    """Methods of a table: embedders in their order, the final layer first, then baselines."""
    pairs = table[["embedder", "choice"]].drop_duplicates().itertuples(index=False, name=None)
    found = [Method(str(embedder), str(choice)) for embedder, choice in pairs]
    names = [method.embedder for method in found]
    choices = list(CHOICES)

    def rank(method: Method) -> tuple[bool, int, int]:
        order = BASELINES if method.baseline and method.embedder in BASELINES else names
        choice = choices.index(method.choice) if method.choice in choices else len(choices)
        return method.baseline, order.index(method.embedder), choice

    return sorted(found, key=rank)


def sources_of(separability: pd.DataFrame, contrast: str) -> list[str]:
    """Sources of a contrast, as far as its pairs name them."""
    rows = separability[separability["contrast"] == contrast]
    rows = rows[rows["source_a"].ne("")]
    return list(dict.fromkeys([*rows["source_a"], *rows["source_b"]]))


def known_rows(table: pd.DataFrame, *numbers: str) -> pd.DataFrame:
    """Rows that have these numbers; an empty name in a file is an empty word here.

    Where an embedder has one view only there was nothing to choose: "chosen" repeats "final", and
    is left out.

    Parameters
    ----------
    table : DataFrame
        A table of the embeddings instrument.
    *numbers : str
        Columns without which a row is not shown.
    """
    names = [name for name in _WORDS if name in table]
    texts = {
        name: table[name].astype(object).where(table[name].notna(), "").astype(str)
        for name in names
    }
    known = table.assign(**texts).dropna(subset=list(numbers))
    if "choice" not in known:
        return known
    repeated = [name for name in known["embedder"].unique() if _repeats(known, name)]
    return known[known["choice"].ne("chosen") | ~known["embedder"].isin(repeated)]


def _repeats(known: pd.DataFrame, embedder: str) -> bool:
    """Whether the views chosen for an embedder are its final one, always."""
    rows = known[known["embedder"] == embedder]
    chosen = rows[rows["choice"] == "chosen"]
    # Views chosen over folds are counted: "2 mean ×4, 3 mean ×1".
    named = chosen["chosen"] if "chosen" in rows else chosen["view"]
    views = {re.sub(r" ×\d+$", "", view) for each in named for view in each.split(", ")}
    return bool(views) and views == set(rows.loc[rows["choice"] == "final", "view"])
