"""Trained networks as scientific instruments: characterised, calibrated, compared.

The names below are the library's front door; they are imported when first used, so that what needs
no torch does not wait for it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model_metrology.variability.metrics import churn, expected_calibration_error
    from model_metrology.variability.trimming import AlphaHat, alpha_hat, trimmed_ks

__all__ = ["AlphaHat", "alpha_hat", "churn", "expected_calibration_error", "trimmed_ks"]
__version__ = "0.1.0"

_HOMES = {
    "AlphaHat": "model_metrology.variability.trimming",
    "alpha_hat": "model_metrology.variability.trimming",
    "trimmed_ks": "model_metrology.variability.trimming",
    "churn": "model_metrology.variability.metrics",
    "expected_calibration_error": "model_metrology.variability.metrics",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
