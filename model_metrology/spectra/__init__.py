"""Spectra: what did the optimiser do to the weights and the kernels?

Eigenvalues of weights and kernels (:mod:`.eigen`, :mod:`.kernels`), the laws they follow at
initialisation (:mod:`.laws`), what a spectrum says (:mod:`.classify`, :mod:`.tails`), and whether
it names the optimiser (:mod:`.forensics`); for two-layer networks of linear width (:mod:`.recipes`,
:mod:`.training`, :mod:`.measure`) and for networks trained on images (:mod:`.images`).
``docs/spectra.md`` explains the method.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from model_metrology.lazy import lazy_names

if TYPE_CHECKING:
    from model_metrology.spectra.classify import (
        SpectrumClass,
        bulk_distance,
        classify_spectrum,
        distance_to_law,
        fitted_marchenko_pastur,
    )
    from model_metrology.spectra.eigen import (
        LanczosDensity,
        Spectrum,
        ck_spectrum,
        kernel_spectrum,
        lanczos_density,
        leading_eigenpairs,
        ntk_spectrum,
        weight_spectrum,
    )
    from model_metrology.spectra.kernels import (
        ck_operator,
        conjugate_kernel_matrix,
        ntk_matrix,
        ntk_operator,
    )
    from model_metrology.spectra.laws import (
        SpectralLaw,
        conjugate_kernel_law,
        marchenko_pastur,
        neural_tangent_kernel_law,
        tracy_widom_cdf,
        tracy_widom_quantile,
    )
    from model_metrology.spectra.tails import TailFit, fit_tail

__all__ = [
    "LanczosDensity",
    "SpectralLaw",
    "Spectrum",
    "SpectrumClass",
    "TailFit",
    "bulk_distance",
    "ck_operator",
    "ck_spectrum",
    "classify_spectrum",
    "conjugate_kernel_law",
    "conjugate_kernel_matrix",
    "distance_to_law",
    "fit_tail",
    "fitted_marchenko_pastur",
    "kernel_spectrum",
    "lanczos_density",
    "leading_eigenpairs",
    "marchenko_pastur",
    "neural_tangent_kernel_law",
    "ntk_matrix",
    "ntk_operator",
    "ntk_spectrum",
    "tracy_widom_cdf",
    "tracy_widom_quantile",
    "weight_spectrum",
]

__getattr__ = lazy_names(
    __name__,
    {
        "classify": [
            "SpectrumClass",
            "bulk_distance",
            "classify_spectrum",
            "distance_to_law",
            "fitted_marchenko_pastur",
        ],
        "eigen": [
            "LanczosDensity",
            "Spectrum",
            "ck_spectrum",
            "kernel_spectrum",
            "lanczos_density",
            "leading_eigenpairs",
            "ntk_spectrum",
            "weight_spectrum",
        ],
        "kernels": ["ck_operator", "conjugate_kernel_matrix", "ntk_matrix", "ntk_operator"],
        "laws": [
            "SpectralLaw",
            "conjugate_kernel_law",
            "marchenko_pastur",
            "neural_tangent_kernel_law",
            "tracy_widom_cdf",
            "tracy_widom_quantile",
        ],
        "tails": ["TailFit", "fit_tail"],
    },
)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
