"""Variability: how much of a model's output must be set aside before it is like the others?

:func:`alpha_hat` and :func:`trimmed_ks` are the instrument, exact and without an optimiser;
the rest says what to hold against (:mod:`.references`), how sure the number is
(:mod:`.inference`, :mod:`.simulation`), and what it is compared with (:mod:`.metrics`,
:mod:`.twosample`). NumPy and SciPy only; ``docs/variability.md`` explains the method.
"""

from model_metrology.variability.inference import (
    ClassConditional,
    EnsembleSizeCurve,
    Interval,
    LeaveOneOut,
    alpha_lower_bound,
    authors_alpha,
    bootstrap_alpha,
    class_conditional_alpha,
    ensemble_size_curve,
    holm,
    leave_one_out,
    outlier_p_value,
    rank_correlation,
    trimming_scores,
)
from model_metrology.variability.metrics import (
    accuracy,
    churn,
    class_margins,
    debiased_calibration_error,
    expected_calibration_error,
    logit_gap,
    pairwise_churn,
    predicted_labels,
)
from model_metrology.variability.references import Law, empirical_cdf, reference_sample
from model_metrology.variability.simulation import (
    Coverage,
    Power,
    contaminated_alpha,
    contaminated_runs,
    interval_coverage,
    population_alpha,
    power,
    wilson_interval,
)
from model_metrology.variability.trimming import (
    AlphaHat,
    Tolerance,
    alpha_hat,
    authors_tolerance,
    ks_tolerance,
    trimmed_ks,
)
from model_metrology.variability.twosample import (
    PermutationTest,
    energy_distance,
    energy_test,
    median_bandwidth,
    mmd2,
    mmd_test,
)

__all__ = [
    "AlphaHat",
    "ClassConditional",
    "Coverage",
    "EnsembleSizeCurve",
    "Interval",
    "Law",
    "LeaveOneOut",
    "PermutationTest",
    "Power",
    "Tolerance",
    "accuracy",
    "alpha_hat",
    "alpha_lower_bound",
    "authors_alpha",
    "authors_tolerance",
    "bootstrap_alpha",
    "churn",
    "class_conditional_alpha",
    "class_margins",
    "contaminated_alpha",
    "contaminated_runs",
    "debiased_calibration_error",
    "empirical_cdf",
    "energy_distance",
    "energy_test",
    "ensemble_size_curve",
    "expected_calibration_error",
    "holm",
    "interval_coverage",
    "ks_tolerance",
    "leave_one_out",
    "logit_gap",
    "median_bandwidth",
    "mmd2",
    "mmd_test",
    "outlier_p_value",
    "pairwise_churn",
    "population_alpha",
    "power",
    "predicted_labels",
    "rank_correlation",
    "reference_sample",
    "trimmed_ks",
    "trimming_scores",
    "wilson_interval",
]
