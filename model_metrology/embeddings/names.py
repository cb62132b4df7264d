"""What the rules ask of embeddings: nothing here makes the workflow wait for pandas or torch."""

from __future__ import annotations

__all__ = [
    "BASELINES", "BASELINE_NAMES", "CONTRASTS_SHOWN", "CONTRAST_TABLES", "SEPARATION_TABLES",
    "SIGNATURE", "SIGNATURE_TABLES", "TABLES",
]  # fmt: skip

SEPARATION_TABLES: tuple[str, ...] = ("separability", "confusion")
"""Tables of a contrast that embedders and baselines share."""

CONTRAST_TABLES: tuple[str, ...] = (
    *SEPARATION_TABLES, "layers", "components", "clustering", "projections",
)  # fmt: skip
"""Tables that are measured of a contrast with each embedder."""

SIGNATURE_TABLES: tuple[str, ...] = ("signature", "signature_summary", "reliability")
"""Tables of the signature with each embedder."""

TABLES: tuple[str, ...] = (*CONTRAST_TABLES, "translation", *SIGNATURE_TABLES)
"""All of them."""

CONTRASTS_SHOWN = 4
"""Contrasts that a figure of scatters or of layers has room for."""

BASELINE_NAMES: dict[str, tuple[str, ...]] = {
    "texts": ("length", "character n-grams", "word tf-idf"),
    "images": ("file size", "pixels"),
}
"""What needs no model, by kind of items: in tables they stand where embedders do."""

BASELINES = "baselines"
"""In place of an embedder's name: what is told apart without a model."""

SIGNATURE = "signature"
"""In place of a contrast's name: the sources that the signature knows."""
