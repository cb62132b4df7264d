"""What the rules ask of embeddings: nothing here makes the workflow wait for pandas or torch."""

from __future__ import annotations

__all__ = [
    "BASELINES", "CONTRAST_TABLES", "SEPARATION_TABLES", "SIGNATURE", "SIGNATURE_TABLES", "TABLES",
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

BASELINES = "baselines"
"""In place of an embedder's name: what is told apart without a model."""

SIGNATURE = "signature"
"""In place of a contrast's name: the sources that the signature knows."""
