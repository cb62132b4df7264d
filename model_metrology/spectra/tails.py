r"""Does the upper end of a spectrum follow a power law, and does another law do better?

The tail above some λ₀ is taken as :math:`p(λ) = (γ − 1)\, λ_0^{γ−1} λ^{−γ}`. γ is its maximum
likelihood estimate, and λ₀ the threshold at which tail and law are closest by Kolmogorov and
Smirnov [1]_. Some threshold always is closest, so that a fit alone shows nothing: an exponential
and a lognormal law of the same tail are put beside it.

The power law, the exponential law and Vuong's test are those of the package ``powerlaw`` [2]_. The
parameters are found here, in closed form or as the root of one equation, because version 2.0.0 of
the package

* holds γ below 3 unless told otherwise,
* runs a simplex for every threshold at which γ leaves (1.5, 3], and
* fits a lognormal by a simplex that walks to where its normaliser underflows if the tail *is* a
  power law: for one sample of exponent 4 the p-value is 0.0003, 0.13 or 0.59, depending on the
  unit of λ.

In y = log(λ/λ₀) the power law is an exponential law, p ∝ exp(−ay), and the lognormal a normal law
cut off at 0, p ∝ exp(−ay − by²) with b ≥ 0. So the power law is a limit of the lognormal, b = 0,
which is never the worse of the two; what can be asked is whether it is better by more than chance
[3]_ [4]_.

References
----------
.. [1] A. Clauset, C. R. Shalizi, M. E. J. Newman, "Power-law distributions in empirical data",
   SIAM Review 51 (2009) 661–703, arXiv:0706.1062.
.. [2] J. Alstott, E. Bullmore, D. Plenz, "powerlaw: a Python package for analysis of heavy-tailed
   distributions", PLOS ONE 9 (2014) e85777.
.. [3] J. del Castillo, P. Puig, "The best test of exponentiality against singly truncated normal
   alternatives", Journal of the American Statistical Association 94 (1999) 529–532.
.. [4] Y. Malevergne, V. Pisarenko, D. Sornette, "Testing the Pareto against the lognormal
   distributions with the uniformly most powerful unbiased test applied to the distribution of
   cities", Physical Review E 83 (2011) 036111.
.. [5] M. A. Stephens, "EDF statistics for goodness of fit and some comparisons", Journal of the
   American Statistical Association 69 (1974) 730–737.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

__all__ = ["TailFit", "fit_tail"]

Array = NDArray[np.float64]

# A normal law cut off this many standard deviations above its mean is an exponential law to 5e-5
# in the ratio of its moments: no sample here could tell, and the moments run out of digits.
_FARTHEST = 200.0


@dataclass(frozen=True)
class TailFit:
    """Power law of a spectrum's upper tail; `tail` is 0 and the rest NaN if there is none to fit.

    That `exponent` is small does not make a tail heavy. A bulk of a few hundred eigenvalues often
    has one below 6, at a negative `against_exponential`; some spikes far above a bulk have one, at
    a large `misfit`. A single spike may escape both: it alone can lift `against_exponential` to
    about 1, so a tail is to be fitted again without the largest eigenvalues that are explained.
    """

    exponent: float
    """γ: the density goes as λ^−γ above `xmin`."""
    exponent_error: float
    """Standard error of γ, (γ − 1)/√tail; takes `xmin` as known, so it is a lower bound."""
    xmin: float
    """λ₀, the smallest eigenvalue of the tail."""
    tail: int
    """Number of eigenvalues that are at least `xmin`."""
    distance: float
    """Kolmogorov–Smirnov distance between the tail and the power law."""
    against_exponential: float
    """Log-likelihood ratio to the exponential law in its standard errors (Vuong); positive where
    the power law fits better."""
    p_exponential: float
    """Two-sided p-value of the sign of `against_exponential`."""
    against_lognormal: float
    """−√(2 log-likelihood ratio) to the lognormal law; never positive, and 0 where the best
    lognormal is the power law itself."""
    p_lognormal: float
    """p-value of `against_lognormal` under the power law: small where a lognormal is better."""

    @property
    def misfit(self) -> float:
        """`distance` on a scale that does not depend on `tail`; above 1.094 no power law (5 %).

        (D − 0.2/k)(√k + 0.26 + 0.5/√k), k = `tail`: the modified Kolmogorov–Smirnov statistic of
        an exponential law of unknown scale (Stephens 1974, table 1.4), which log(λ/`xmin`) has
        under a power law. Conservative: `xmin` was chosen to make it small.
        """
        if self.tail == 0:
            return math.nan
        root = math.sqrt(self.tail)
        return (self.distance - 0.2 / self.tail) * (root + 0.26 + 0.5 / root)


NO_TAIL = TailFit(math.nan, math.nan, math.nan, 0, *[math.nan] * 5)


def fit_tail(eigenvalues: ArrayLike, *, min_tail: int = 20, candidates: int = 100) -> TailFit:
    """Fit a power law to the upper tail of a spectrum and hold other laws against it.

    Parameters
    ----------
    eigenvalues
        (N,) eigenvalues of a positive semidefinite matrix, in any order. Those that are zero up to
        rounding are left out: at most Nε times the largest in double precision, or as small as
        the most negative one.
    min_tail
        Smallest number of eigenvalues that counts as a tail.
    candidates
        Number of thresholds tried, at most: tails of half of the eigenvalues down to `min_tail`,
        sizes evenly spaced on a log scale.

    Returns
    -------
    TailFit
        Without a tail if fewer than 2 × `min_tail` eigenvalues are positive, or if they, or those
        of every tail tried, are all equal.

    Raises
    ------
    ValueError
        If `eigenvalues` is not one-dimensional, has a value that is not finite or is more negative
        than rounding in single precision explains, or if an option is out of range.

    Notes
    -----
    Source: Clauset, Shalizi & Newman 2009 (arXiv:0706.1062), eq. 3.1 and 3.2 for γ and its error,
    section 3.3 for the threshold, section 5 and appendix C for Vuong's test.

    The tests take the threshold as known and the eigenvalues as independent. Eigenvalues repel
    each other, so a spectrum lies closer to its law than a sample would: a p-value is a measure of
    misfit on a common scale, not an error rate.

    Examples
    --------
    >>> fit = fit_tail(1.0 / (1.0 - np.arange(200) / 200))
    >>> round(fit.exponent, 2), fit.against_exponential > 2.0, fit.p_lognormal > 0.05
    (2.03, True, True)
    """
    if min_tail < 2:
        raise ValueError(f"min_tail must be at least 2, got {min_tail}")
    if candidates < 1:
        raise ValueError(f"candidates must be at least 1, got {candidates}")
    values = _positive(eigenvalues)
    if len(values) < 2 * min_tail:
        return NO_TAIL
    # Of equal distances the longer tail's.
    distance, start = min(
        (_distance(values[start:]), start) for start in _starts(values, min_tail, candidates)
    )
    if not math.isfinite(distance):
        return NO_TAIL
    tail = values[start:]
    excess = (tail - tail[0]) / tail[0]
    exponent = 1.0 + 1.0 / float(np.mean(np.log1p(excess)))
    return TailFit(
        exponent,
        (exponent - 1.0) / math.sqrt(len(tail)),
        float(tail[0]),
        len(tail),
        distance,
        *_against_exponential(excess, exponent),
        *_against_lognormal(excess),
    )


def _positive(eigenvalues: ArrayLike) -> Array:
    """Eigenvalues that are positive beyond rounding, increasing."""
    values = np.asarray(eigenvalues, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"eigenvalues must be one-dimensional, got shape {values.shape}")
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(f"eigenvalue {bad} is not finite ({values[bad]})")
    if values.size == 0:
        return values
    lowest, largest = float(values.min()), float(np.abs(values).max())
    if lowest < -len(values) * float(np.finfo(np.float32).eps) * largest:
        raise ValueError(
            f"eigenvalue {int(values.argmin())} is negative ({lowest}); "
            "a tail is fitted to the spectrum of a positive semidefinite matrix"
        )
    # A matrix made in single precision has zeros that spread about 0 to both sides alike.
    rounding = max(len(values) * float(np.finfo(np.float64).eps) * largest, -lowest)
    return np.sort(values[values > rounding])


def _starts(values: Array, min_tail: int, candidates: int) -> list[int]:
    """Indices at which the tails to be tried start; equal eigenvalues are not torn apart."""
    sizes = np.geomspace(len(values) - len(values) // 2, min_tail, candidates)
    at = len(values) - np.rint(sizes).astype(np.int64)
    return np.unique(np.searchsorted(values, values[at])).tolist()


def _distance(tail: Array) -> float:
    """Kolmogorov–Smirnov distance of a tail to its best power law; inf if all are equal."""
    logs = np.log1p((tail - tail[0]) / tail[0])
    mean = float(logs.mean())
    if mean == 0.0:
        return math.inf
    law = -np.expm1(-logs / mean)
    # The empirical law jumps at each eigenvalue: both ends of the jump count.
    steps = np.arange(len(tail) + 1) / len(tail)
    return float(max((law - steps[:-1]).max(), (steps[1:] - law).max()))


def _against_exponential(excess: Array, exponent: float) -> tuple[float, float]:
    """Vuong's ratio of the power law to the exponential law, and its two-sided p-value.

    Parameters
    ----------
    excess
        (k,) λ/λ₀ − 1 over the tail; in units of λ₀ nothing depends on the unit of λ.
    exponent
        γ of the power law. The exponential law's rate is 1 over the mean of `excess`.
    """
    # Not at the top: it imports pyplot.
    import powerlaw  # type: ignore[import-untyped]

    ratios = 1.0 + excess
    # It warns of γ ≤ 1.1, and of logarithms of likelihoods that underflow, which it then replaces.
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        # The bounds: else a γ above 3 has likelihood 0.
        power = powerlaw.Power_Law(
            xmin=1.0, parameters=[exponent], parameter_ranges={"alpha": [1.0, None]}
        )
        exponential = powerlaw.Exponential(xmin=1.0, parameters=[1.0 / float(excess.mean())])
        ratio, p = powerlaw.loglikelihood_ratio(
            power.loglikelihoods(ratios), exponential.loglikelihoods(ratios), normalized_ratio=True
        )
    # Eigenvalues a few roundings apart: no two laws differ on them, and 0/0 is no ratio.
    return (float(ratio), float(p)) if math.isfinite(ratio) else (0.0, 1.0)


def _against_lognormal(excess: Array) -> tuple[float, float]:
    """Signed root of the likelihood ratio of the power law to the lognormal, and its p-value.

    The power law has the lognormal's b at its bound 0. So twice the log-likelihood ratio is, under
    the power law, half the time 0 and else χ² with one degree of freedom (Self & Liang, JASA 82
    (1987) 605–610, case 5), and its negative root has a normal law's lower tail.

    Parameters
    ----------
    excess
        (k,) λ/λ₀ − 1 over the tail.
    """
    logs = np.log1p(excess)
    mean, square = float(logs.mean()), float(np.mean(logs**2))
    ratio = square / mean**2
    if ratio >= _moments(_FARTHEST)[1]:
        return 0.0, 1.0
    # The ratio of moments rises with the cut; that of k points, one of them 0, is at least
    # k/(k − 1), which a cut √k below the mean undercuts.
    lowest = -math.sqrt(len(logs)) - 10.0
    cut = float(scipy.optimize.brentq(lambda cut: _moments(cut)[1] - ratio, lowest, _FARTHEST))
    deviation = mean / _moments(cut)[0]
    normal = (
        -math.log(deviation * math.sqrt(2.0 * math.pi))
        - square / (2.0 * deviation**2)
        - cut * mean / deviation
        - (float(scipy.special.log_ndtr(-cut)) + cut**2 / 2.0)
    )
    exponential = -math.log(mean) - 1.0
    root = -math.sqrt(2.0 * len(logs) * max(normal - exponential, 0.0))
    return root, float(scipy.special.ndtr(root))


def _moments(cut: float) -> tuple[float, float]:
    """Mean of a normal law above `cut`, less `cut`, and the ratio of second moment to mean².

    In units of the standard deviation, from the normal law's mean.
    """
    hazard = math.sqrt(2.0 / math.pi) / float(scipy.special.erfcx(cut / math.sqrt(2.0)))
    mean = hazard - cut
    return mean, (1.0 - cut * mean) / mean**2
