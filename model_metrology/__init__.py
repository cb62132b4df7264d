"""Trained networks as scientific instruments: characterised, calibrated, compared.

The names below are the library's front door; they are imported when first used, so that what needs
no torch does not wait for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from model_metrology.lazy import lazy_names

if TYPE_CHECKING:
    from model_metrology.embeddings.separability import Separability, separability
    from model_metrology.kernels import (
        conjugate_kernel,
        embedding_kernel,
        projected_trace_ntk,
        pseudo_ntk,
        trace_ntk,
    )
    from model_metrology.spectra.classify import SpectrumClass, classify_spectrum
    from model_metrology.spectra.eigen import Spectrum, ck_spectrum, ntk_spectrum, weight_spectrum
    from model_metrology.surrogates.faithfulness import Faithfulness, faithfulness
    from model_metrology.surrogates.glm import Surrogate, fit_surrogate
    from model_metrology.variability.metrics import churn, expected_calibration_error
    from model_metrology.variability.trimming import AlphaHat, alpha_hat, trimmed_ks

__all__ = [
    "AlphaHat",
    "Faithfulness",
    "Separability",
    "Spectrum",
    "SpectrumClass",
    "Surrogate",
    "alpha_hat",
    "churn",
    "ck_spectrum",
    "classify_spectrum",
    "conjugate_kernel",
    "embedding_kernel",
    "expected_calibration_error",
    "faithfulness",
    "fit_surrogate",
    "ntk_spectrum",
    "projected_trace_ntk",
    "pseudo_ntk",
    "separability",
    "trace_ntk",
    "trimmed_ks",
    "weight_spectrum",
]
__version__ = "0.1.0"

__getattr__ = lazy_names(
    __name__,
    {
        "embeddings.separability": ["Separability", "separability"],
        "kernels": [
            "conjugate_kernel",
            "embedding_kernel",
            "projected_trace_ntk",
            "pseudo_ntk",
            "trace_ntk",
        ],
        "spectra.classify": ["SpectrumClass", "classify_spectrum"],
        "spectra.eigen": ["Spectrum", "ck_spectrum", "ntk_spectrum", "weight_spectrum"],
        "surrogates.faithfulness": ["Faithfulness", "faithfulness"],
        "surrogates.glm": ["Surrogate", "fit_surrogate"],
        "variability.metrics": ["churn", "expected_calibration_error"],
        "variability.trimming": ["AlphaHat", "alpha_hat", "trimmed_ks"],
    },
)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
