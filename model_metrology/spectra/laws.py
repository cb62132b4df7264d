r"""Limiting laws of the spectra at initialisation, and the Tracy–Widom law of their right edge.

W ∈ R^{h×d} and X ∈ R^{d×n} have independent N(0, 1) entries, U = WX/√d, and φ has mean 0 and
variance 1 under N(0, 1), with b = (E φ')² and a = E φ'². As n, d, h grow in proportion,

* (1/h) WᵀW follows the Marchenko–Pastur law of ratio d/h [1]_;
* the conjugate kernel (1/h) φ(U)ᵀφ(U) and the neural tangent kernel
  (1/d) XᵀX ∘ (1/h) φ'(U)ᵀ diag(v)² φ'(U) + (1/h) φ(U)ᵀφ(U), mean v² = 1, follow deformations of it
  [2]_. They are like Y + δ(S), Y a sample covariance of h samples with population α(S), where
  S = XᵀX/d, α(x) = bx + 1 − b, and δ(x) = bx + a − b (0 for the conjugate kernel).

With c = n/d, r = n/h, μ₀ the Marchenko–Pastur law of S (its atom at 0 included) and
m(z) = ∫ dμ(λ)/(λ − z), the latter two laws solve one scalar equation,

.. math:: e = r ∫ \frac{α\,dμ_0}{δ + α/(1+e) − z}, \quad m = ∫ \frac{dμ_0}{δ + α/(1+e) − z}.

**In closed form.** Put t = 1/(1 + e). Since δ = α + a − 1, both denominators are T (α − ξ) with

* T = t and z = ξT for the conjugate kernel: its law is ν ⊠ MP(r), ν the law of α under μ₀;
* T = 1 + t and z = a − 1 + ξT for the tangent kernel: its law is ν ⊠ (1 + MP(r)), moved by a − 1.

The Stieltjes transform of ν at ξ is rational in one variable,

.. math:: ξ(u) = 1 − b − u + \frac{bcu}{u + b}, \quad g(u) = ∫ \frac{dν}{α − ξ}
          = \frac{1}{u + b(1 − c)},

so that m = g/T, and e = r∫… becomes (1 − t) T = rκt with κ = 1 + ξg. Real u off the cut
|u + b| ≤ b√c are real ξ off the bulk of ν. Two things follow.

* *Edges.* A real solution is the physical one just where e increases with z, i.e. where
  1 − r t² ∫ α²/(…)² > 0 [3]_; the edges are the zeros of that, found along real u.
* *Density.* Eliminating u leaves a polynomial in t of degree at most 5 for each z. The equation has
  one solution at most with Im e > 0, so on the support just one root has Im t < 0, Im m > 0 and
  Im g > 0, and the density is Im m/π there, without a small imaginary part and without iteration.

**The right edge.** Near the edge E₊ the density is (s^{3/2}/π) √(E₊ − x). What is proved:
N^{2/3} s (λ₁ − E₊) → TW₁ for the Marchenko–Pastur law [4]_ and for sample covariances of a general
population [5]_ [6]_, hence for Y alone, given S and with the edge that S itself has. What is
*assumed*: that both kernels, whose entries are not independent, have this limit, as other matrices
with a square-root edge do. What we measured (h = 3n/4 or 3n/2, n/d = 2 or ½):

* At n = 250–1000 a test at 5 % (1 %) raises a false alarm in 3–6 % (0–1 %) of draws for the
  weights, and for tanh's kernels in 1–2 %, at n = 1000 in 3 % (0–1 %): conservative, for λ₁ is
  below the limit by a shift that falls slowly.
* The edge that X has scatters about E₊ by order 1/n, ¼–½ of a unit E₊ + N^{−2/3}/s at n = 250.
  Only for h ≫ n, where the kernels' edge is that of S, is that as much as Tracy–Widom's own.
* Where E φ'' ≠ 0 the kernels have terms of finite rank that the laws do not see: (E φ'')² n/(2d)
  in the conjugate kernel's population, along the ones and along ‖xᵢ‖² − d. Below the threshold of
  one such term, b (n/d + √(n/d)) and more, where every b ≥ ½ keeps them, they put no eigenvalue
  outside but bring λ₁ nearer: for ReLU at n = 300 false alarms are 8–10 % (1–2 %), for softplus
  3–4 %. Above it, as for z² − 1, there are outliers in every draw.

References
----------
.. [1] V. A. Marčenko, L. A. Pastur, "Distribution of eigenvalues for some sets of random
   matrices", Math. USSR-Sbornik 1 (1967) 457–483.
.. [2] Z. Fan, Z. Wang, "Spectra of the conjugate kernel and neural tangent kernel for linear-width
   neural networks", NeurIPS 2020, arXiv:2005.11879.
.. [3] J. W. Silverstein, S.-I. Choi, "Analysis of the limiting spectral distribution of large
   dimensional random matrices", J. Multivariate Analysis 54 (1995) 295–309.
.. [4] I. M. Johnstone, "On the distribution of the largest eigenvalue in principal components
   analysis", Annals of Statistics 29 (2001) 295–327.
.. [5] N. El Karoui, "Tracy–Widom limit for the largest eigenvalue of a large class of complex
   sample covariance matrices", Annals of Probability 35 (2007) 663–714.
.. [6] J. O. Lee, K. Schnelli, "Tracy–Widom distribution for the largest eigenvalue of real sample
   covariance matrices with general population", Annals of Applied Probability 26 (2016) 3786–3839.
.. [7] P. L. Ferrari, H. Spohn, "A determinantal formula for the GOE Tracy–Widom distribution",
   J. Physics A 38 (2005) L557–L561.
.. [8] F. Bornemann, "On the numerical evaluation of Fredholm determinants", Mathematics of
   Computation 79 (2010) 871–915.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import scipy
from numpy.polynomial import Polynomial
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "SpectralLaw",
    "conjugate_kernel_law",
    "initial_law",
    "marchenko_pastur",
    "neural_tangent_kernel_law",
    "tracy_widom_cdf",
    "tracy_widom_quantile",
]

Array = NDArray[np.float64]

# Gaussian expectations by quadrature, or typed in with six digits, are right to this.
_ROUNDING = 1e-6
# The quadrature leaves 1e-9, at a hard edge 1e-6. More means that some of the support was missed.
_LOST_MASS = 1e-5
# At |τ| = 3.5 an end is 3e-23 away: an x^{−2/3} leaves out 3e-8.
_FAR = 3.5
# Along a curve of solutions: within 1e-13 of both ends, and so fine that edges do not hide.
_LINE: Array = np.linspace(-30.0, 30.0, 1201)
_CENTRE_AND_SCALE = (
    "centre the activation and scale it to unit variance, as "
    "model_metrology.spectra.activations does"
)


@dataclass(frozen=True)
class SpectralLaw:
    """A law of eigenvalues: a density on one or several intervals, and at most one atom."""

    support: tuple[tuple[float, float], ...]
    """Intervals where the density is positive, from left to right."""
    atom: float
    """Mass of the atom; 0 if there is none."""
    atom_at: float
    """Where the atom is: at 0, save that the tangent kernel of n > d + h has it at a − b."""
    edge_scale: float
    """1/s, where the density near the right edge is (s^{3/2}/π) √(upper − x)."""
    _density: Callable[[Array], Array] = field(repr=False, compare=False)
    """Density on the support, as a function of x − `atom_at`: digits matter at a hard edge."""
    _kinks: tuple[float, ...] = field(default=(), repr=False, compare=False)
    """Where two bulks have all but parted; the quadrature is split there."""

    @property
    def lower(self) -> float:
        """Left edge of the continuous part."""
        return self.support[0][0]

    @property
    def upper(self) -> float:
        """Right edge of the continuous part."""
        return self.support[-1][1]

    def density(self, x: ArrayLike) -> Array:
        """Density of the continuous part, elementwise; 0 off the support and at its edges."""
        points = np.asarray(x, dtype=np.float64)
        inside = np.zeros(points.shape, dtype=bool)
        for left, right in self.support:
            inside |= (left < points) & (points < right)
        result = np.zeros(points.shape)
        result[inside] = self._density(points[inside] - self.atom_at)
        return result

    def cdf(self, x: ArrayLike) -> Array:
        """Share of the eigenvalues at or below `x`, elementwise, the atom included."""
        points = np.asarray(x, dtype=np.float64)
        result = np.where(points >= self.atom_at, self.atom, 0.0)
        for bulk in self._bulks:
            result += self._rescaling * bulk.mass_below(points)
        return np.where(points >= self.upper, 1.0, np.minimum(result, 1.0))

    def moment(self, order: int) -> float:
        """Mean of the eigenvalues to the power `order`, the atom included."""
        if order < 0:
            raise ValueError(f"order must be at least 0, got {order!r}")
        continuous = sum(float(bulk.mass @ bulk.nodes**order) for bulk in self._bulks)
        return self._rescaling * continuous + self.atom * self.atom_at**order

    def edge_quantile(self, size: int, level: float) -> float:
        """Value that the largest of `size` eigenvalues exceeds with probability `level`.

        Where there is no spike, and as `size` grows: upper + edge_scale · size^(−2/3) · q with q
        the Tracy–Widom quantile of 1 − `level`. The module says where this is proved and where
        it is assumed.

        Parameters
        ----------
        size
            Number of eigenvalues, zeros included: d for the weights, n for the kernels.
        level
            Probability of a false alarm, in (0, 1).

        Returns
        -------
        float

        Raises
        ------
        ValueError
            If an argument is out of its range.
        """
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size!r}; pass the matrix's side")
        if not 0.0 < level < 1.0:
            raise ValueError(f"level must lie in (0, 1), got {level!r}; pass 0.01, say")
        return self.upper + self.edge_scale * size ** (-2 / 3) * tracy_widom_quantile(1.0 - level)

    @cached_property
    def _bulks(self) -> tuple[_Bulk, ...]:
        """Quadrature over the support, piece by piece."""
        pieces: list[tuple[float, float]] = []
        for left, right in self.support:
            inner = sorted({x for x in self._kinks if left < x < right})
            pieces += pairwise([left, *inner, right])
        return tuple(_Bulk.of(self._density, self.atom_at, *piece) for piece in pieces)

    @cached_property
    def _rescaling(self) -> float:
        """What the quadrature's mass is multiplied by; 1 but for rounding, or it is refused."""
        found = sum(float(bulk.mass.sum()) for bulk in self._bulks)
        expected = 1.0 - self.atom
        if abs(found - expected) > _LOST_MASS:
            raise ArithmeticError(
                f"the density on {self.support} has mass {found:.8f}, not {expected:.8f}: the "
                "ratios are too extreme for float64"
            )
        return expected / found


class _Bulk(NamedTuple):
    """Double exponential quadrature of a density over an interval (Takahasi & Mori 1974).

    x = left + (right − left) p, p the logistic of π sinh τ, makes of a density with algebraic ends,
    x^{−1/2} and x^{−2/3} among them, a function of τ that vanishes at both ends with all its
    derivatives, and resolves what is close to an end.
    """

    left: float
    right: float
    nodes: Array
    mass: Array
    """Mass at each node; the sum converges exponentially."""
    below: scipy.interpolate.CubicHermiteSpline
    """Mass below τ."""

    @classmethod
    def of(
        cls, density: Callable[[Array], Array], origin: float, left: float, right: float
    ) -> _Bulk:
        """Tabulate a density, given as a function of x − `origin`."""
        tau, step = np.linspace(-_FAR, _FAR, 561, retstep=True)
        share = scipy.special.expit(math.pi * np.sinh(tau))
        low, high = left - origin, right - origin
        distance = low + (high - low) * share
        inside = (low < distance) & (distance < high)
        rate = np.zeros_like(tau)
        rate[inside] = density(distance[inside])
        rate *= (high - low) * math.pi * np.cosh(tau) * share * share[::-1]
        below = scipy.interpolate.CubicSpline(tau, rate).antiderivative()(tau)
        # With its slope known, and not negative, the interpolant rises throughout.
        table = scipy.interpolate.CubicHermiteSpline(tau, np.maximum.accumulate(below), rate)
        return cls(left, right, origin + distance, step * rate, table)

    def mass_below(self, x: Array) -> Array:
        """Mass at or below `x`, elementwise."""
        share = np.clip((x - self.left) / (self.right - self.left), 0.0, 1.0)
        tau = np.arcsinh(scipy.special.logit(share) / math.pi)
        return np.clip(self.below(np.clip(tau, -_FAR, _FAR)), 0.0, self.mass.sum())


def marchenko_pastur(ratio: float, variance: float = 1.0) -> SpectralLaw:
    """Limiting law of (1/h) WᵀW, W of h rows and d columns with independent entries.

    Parameters
    ----------
    ratio
        d/h; above 1 there is an atom of 1 − h/d at 0.
    variance
        Variance of the entries.

    Returns
    -------
    SpectralLaw
        Of density √((upper − x)(x − lower)) / (2π · ratio · variance · x).

    Raises
    ------
    ValueError
        If an argument is not positive and finite.
    """
    _check_positive("ratio", ratio, "pass d/h, columns over rows")
    _check_positive("variance", variance, "pass the variance of the entries, 1 for N(0, 1)")
    root = math.sqrt(ratio)
    return SpectralLaw(
        support=((variance * (1.0 - root) ** 2, variance * (1.0 + root) ** 2),),
        atom=max(0.0, 1.0 - 1.0 / ratio),
        atom_at=0.0,
        # Johnstone's σ: s^{3/2} = √(upper − lower)/(2 · ratio · variance · upper).
        edge_scale=variance * root * (1.0 + root) ** (4 / 3),
        _density=partial(_marchenko_pastur_density, ratio, variance),
    )


def _marchenko_pastur_density(ratio: float, variance: float, x: Array) -> Array:
    root = math.sqrt(ratio)
    upper, lower = variance * (1.0 + root) ** 2, variance * (1.0 - root) ** 2
    return np.sqrt((upper - x) * (x - lower)) / (2.0 * math.pi * ratio * variance * x)


def conjugate_kernel_law(
    *, points_per_dimension: float, points_per_unit: float, slope_mean_squared: float
) -> SpectralLaw:
    """Limiting law of the conjugate kernel (1/h) φ(U)ᵀφ(U).

    Parameters
    ----------
    points_per_dimension
        n/d, training points over input dimension.
    points_per_unit
        n/h, training points over width; above 1 there is an atom of 1 − h/n at 0.
    slope_mean_squared
        b = (E φ')² of the centred activation of unit variance.

    Returns
    -------
    SpectralLaw

    Raises
    ------
    ValueError
        If a ratio is not positive and finite, or b not in [0, 1].
    """
    return _kernel_law(points_per_dimension, points_per_unit, slope_mean_squared, None)


def neural_tangent_kernel_law(
    *,
    points_per_dimension: float,
    points_per_unit: float,
    slope_mean_squared: float,
    slope_second_moment: float,
) -> SpectralLaw:
    """Limiting law of the neural tangent kernel of both layers, mean v² = 1.

    Parameters
    ----------
    points_per_dimension
        n/d, training points over input dimension.
    points_per_unit
        n/h, training points over width.
    slope_mean_squared
        b = (E φ')² of the centred activation of unit variance.
    slope_second_moment
        a = E φ'². It moves the law and does nothing else. Expanding φ in Hermite polynomials shows
        a ≥ 2 − b, which implies Jensen's a ≥ b.

    Returns
    -------
    SpectralLaw

    Raises
    ------
    ValueError
        If a ratio is not positive and finite, b not in [0, 1], or a below 2 − b.

    Notes
    -----
    For n > d + h the law has an atom at a − b. The kernel's own eigenvalues there are spread a
    little, so its empirical CDF is far from the law's close to that point, and only there.
    """
    return _kernel_law(
        points_per_dimension, points_per_unit, slope_mean_squared, slope_second_moment
    )


@lru_cache(maxsize=256)
def initial_law(
    matrix: str,
    *,
    points_per_dimension: float,
    width_per_dimension: float,
    slope_mean_squared: float,
    slope_second_moment: float,
) -> SpectralLaw:
    """Limiting law at initialisation of one of the three matrices, by name.

    Parameters
    ----------
    matrix
        ``weights``, ``conjugate kernel`` or ``tangent kernel``.
    points_per_dimension, width_per_dimension
        n/d and h/d.
    slope_mean_squared, slope_second_moment
        Of the activation; the weights' law does not depend on them.

    Returns
    -------
    SpectralLaw

    Raises
    ------
    ValueError
        If there is no such matrix, or a number is out of its range.
    """
    if matrix == "weights":
        return marchenko_pastur(1.0 / width_per_dimension)
    ratios = points_per_dimension, points_per_dimension / width_per_dimension
    if matrix == "conjugate kernel":
        return _kernel_law(*ratios, slope_mean_squared, None)
    if matrix == "tangent kernel":
        return _kernel_law(*ratios, slope_mean_squared, slope_second_moment)
    raise ValueError(
        f"matrix: there is no {matrix!r}; pass weights, conjugate kernel or tangent kernel"
    )


def _kernel_law(
    points_per_dimension: float,
    points_per_unit: float,
    slope_mean_squared: float,
    slope_second_moment: float | None,
) -> SpectralLaw:
    """The conjugate kernel's law, or, with `slope_second_moment`, the tangent kernel's."""
    _check_positive("points_per_dimension", points_per_dimension, "pass n/d")
    _check_positive("points_per_unit", points_per_unit, "pass n/h")
    b = _checked_slope(slope_mean_squared)
    tangent, shift = 0, 0.0
    if slope_second_moment is not None:
        tangent, shift = 1, _checked_second_moment(slope_second_moment, b) - 1.0
    kernel = _Kernel(float(points_per_dimension), float(points_per_unit), b, tangent, shift)
    edges = kernel.edges()
    return SpectralLaw(
        support=kernel.support([float(edge.z) for edge in edges]),
        atom=kernel.atom,
        atom_at=kernel.floor,
        edge_scale=float(edges[-1].edge_scale()),
        _density=kernel.density,
        _kinks=kernel.kinks(),
    )


def _check_positive(name: str, value: float, remedy: str) -> None:
    if not 0.0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value!r}; {remedy}")


def _checked_slope(value: float) -> float:
    """b, moved to 0 or 1 where it is that but for rounding."""
    if not -_ROUNDING <= value <= 1.0 + _ROUNDING:
        raise ValueError(
            f"slope_mean_squared must lie in [0, 1], got {value!r}; {_CENTRE_AND_SCALE}"
        )
    if value <= _ROUNDING:
        return 0.0
    return 1.0 if value >= 1.0 - _ROUNDING else float(value)


def _checked_second_moment(value: float, b: float) -> float:
    """a, moved to its bound where it is that but for rounding."""
    if not 2.0 - b - 2.0 * _ROUNDING <= value < math.inf:
        raise ValueError(
            f"slope_second_moment must be at least 2 - slope_mean_squared = {2.0 - b:.6f}, got "
            f"{value!r}; {_CENTRE_AND_SCALE}"
        )
    return max(float(value), 2.0 - b)


class _Solution(NamedTuple):
    """Real solutions of the fixed point, with the integrals over ν that the edges need."""

    z: Array
    t: Array
    big_t: Array
    """T."""
    first: Array
    """∫ α/(α − ξ)² dν."""
    second: Array
    """∫ α²/(α − ξ)² dν."""
    third: Array
    """∫ α³/(α − ξ)³ dν."""

    def edge_scale(self) -> Array:
        """1/s at the right edge: z − E₊ = ½ z''(e) (Δe)², so s^{3/2} = |dm/de| √(2/z'')."""
        # With F(e, z) = e − r∫α/(…) and d(…)/de = −αt²: z'' = −F_ee/F_z, dm/de = t²∫α/(…)².
        slope = (self.t / self.big_t) ** 2 * self.first
        bend = 2.0 * self.t**3 * (self.second - self.t / self.big_t * self.third) / self.first
        return np.asarray((slope * np.sqrt(2.0 / bend)) ** (-2 / 3))


class _Curve(NamedTuple):
    """A smooth stretch of real solutions, laid out along the whole real line."""

    u: Callable[[Array], Array]
    branch: int


@dataclass(frozen=True)
class _Kernel:
    """The fixed point of one kernel, in the notation of the module."""

    c: float
    r: float
    b: float
    tangent: int
    """T = tangent + t: 0 for the conjugate kernel, 1 for the tangent kernel."""
    shift: float
    """z = shift + ξT."""

    @property
    def floor(self) -> float:
        """No eigenvalue is below it; where the atom is, if there is one."""
        return self.shift + self.tangent * (1.0 - self.b)

    @property
    def atom(self) -> float:
        """Mass at `floor`, as a product of free laws has it (Belinschi 2003)."""
        population = max(0.0, 1.0 - 1.0 / self.c) if self.b > 0.0 else 1.0
        sample = max(0.0, 1.0 - 1.0 / self.r)
        if self.tangent:
            # 1 + MP(r) has its atom at 1; where ν has its own at 0, that one stays at 0.
            return population if self.b == 1.0 else max(0.0, population + sample - 1.0)
        return max(sample, population) if self.b == 1.0 else sample

    def solution(self, u: Array, branch: int) -> _Solution:
        """The real solution at real `u`; the tangent kernel has two, of branches 1 and −1."""
        b, c = self.b, self.c
        xi = 1.0 - b - u + b * c * u / (u + b)
        g = 1.0 / (u + b * (1.0 - c))
        # κ = 1 + ξg, the mean of α/(α − ξ), and its variance, without cancellation for large u.
        kappa = (u + b * (1.0 - b * c)) / (u + b) * g
        pull = b * b * c / (u + b) ** 2
        variance = (xi * g) ** 2 * pull / (1.0 - pull)
        # dg/dξ and half of d²g/dξ², from dξ/du = pull − 1.
        g1 = g**2 / (1.0 - pull)
        g2 = (g + pull / (1.0 - pull) / (u + b)) * (g / (1.0 - pull)) ** 2
        t, big_t = self._t(kappa, branch)
        return _Solution(
            z=self.shift + xi * big_t,
            t=t,
            big_t=big_t,
            first=g + xi * g1,
            second=kappa**2 + variance,
            third=1.0 + xi * (3.0 * g + xi * (3.0 * g1 + xi * g2)),
        )

    def _t(self, kappa: Array, branch: int) -> tuple[Array, Array]:
        """Return t and T, of (1 − t) T = rκt, without cancellation where either is small."""
        if not self.tangent:
            return 1.0 - self.r * kappa, 1.0 - self.r * kappa
        half = self.r * kappa / 2.0
        root = np.hypot(half, 1.0)
        large = np.abs(half) + root
        t = np.where(half > 0.0, 1.0 / large, large)
        if branch > 0:
            return t, 1.0 + t
        # The other root is −1/t.
        return -1.0 / t, (half * half / (1.0 + root) - half) / t

    # At the very ends of a curve rounding may reach a pole; inf and nan are no edges.
    @np.errstate(divide="ignore", invalid="ignore")
    def stability(self, u: Array, branch: int) -> Array:
        """1 − r t² ∫ α²/(…)²: positive off the support, 0 at an edge, negative if not physical."""
        at = self.solution(u, branch)
        share = at.t / at.big_t if self.tangent else 1.0
        return 1.0 - self.r * share**2 * at.second

    def edges(self) -> list[_Solution]:
        """Solutions at the edges of the support, from left to right."""
        found = [
            self.solution(u, curve.branch)
            for curve in self._curves()
            for u in curve.u(self._sign_changes(curve))
        ]
        return sorted(found, key=lambda edge: float(edge.z))

    @np.errstate(invalid="ignore")
    def kinks(self) -> tuple[float, ...]:
        """Where `stability` all but reaches 0 from below: a gap that has just closed."""
        found: list[float] = []
        for curve in self._curves():
            value = self.stability(curve.u(_LINE), curve.branch)
            left, middle, right = value[:-2], value[1:-1], value[2:]
            at = np.flatnonzero((left < middle) & (middle >= right) & (middle < 0.0))
            left, middle, right = left[at], middle[at], right[at]
            # The top of the parabola through three points.
            top = (right - left) / (2.0 * (2.0 * middle - left - right))
            u = curve.u(_LINE[at + 1] + (_LINE[1] - _LINE[0]) * top)
            found += self.solution(u, curve.branch).z.tolist()
        return tuple(found)

    def _sign_changes(self, curve: _Curve) -> Array:
        """Where `stability` changes sign along a curve, by bisection."""

        def stable(w: Array) -> NDArray[np.bool_]:
            return self.stability(curve.u(w), curve.branch) > 0.0

        signs = stable(_LINE)
        at = np.flatnonzero(signs[1:] != signs[:-1])
        left, right = _LINE[at], _LINE[at + 1]
        for _ in range(50):
            middle = (left + right) / 2.0
            same = stable(middle) == signs[at]
            left, right = np.where(same, middle, left), np.where(same, right, middle)
        return (left + right) / 2.0

    def _curves(self) -> Iterator[_Curve]:
        """Both branches over each interval of real u off the cut, parted at the atom of ν.

        Equal steps along a curve crowd at the ends of the interval, where edges may be close.
        """
        left, right = (self.b * (-1.0 + side * math.sqrt(self.c)) for side in (-1, 1))
        pole = self.b * (self.c - 1.0)
        scale = (1.0 + math.sqrt(self.c)) ** 2 * (1.0 + math.sqrt(self.r)) ** 2
        for branch in (1, -1) if self.tangent else (1,):
            yield _Curve(lambda w: left - scale * np.exp(w), branch)
            yield _Curve(lambda w: max(right, pole) + scale * np.exp(w), branch)
            # Within 1e-9, c is 1 but for rounding.
            if pole - right > 1e-9 * self.b:
                yield _Curve(lambda w: right + (pole - right) * scipy.special.expit(w), branch)

    def support(self, edges: list[float]) -> tuple[tuple[float, float], ...]:
        """Intervals between edges where there is a density; the floor counts as an edge."""
        least = self.floor + 1e-12 * edges[-1]
        marks = [self.floor, *(z for z in edges if z > least)]
        middles = (np.array(marks[1:]) + np.array(marks[:-1])) / 2.0 - self.floor
        positive = self.density(middles) > 0.0
        return tuple(pair for pair, kept in zip(pairwise(marks), positive, strict=True) if kept)

    @cached_property
    def _polynomial(self) -> tuple[float, Polynomial, Array]:
        """(t₀, N, p) with Σ p_jk (z − floor)^j (t − t₀)^k = 0; N in powers of t − t₀.

        With K = (1 − t) T, N = K − rt and x = z − shift, the fixed point is κ = K/(rt) and
        m = N/(rtx); ξ²κ + ξ(κ − 1)(bcκ − 1) = b(1 − b)c (κ − 1)² takes the place of u. Together,
        x² rt(1 − t) + x N (bcK − rt) − b(1 − b)c N²T = 0. For the conjugate kernel N and the whole
        are divided by t.

        Roots near 0 are the ones with correct digits, and at a hard edge digits are needed: t₀ is
        what t tends to there.
        """
        b, c, r, f = self.b, self.c, self.r, 1.0 - self.b
        linear = b == 1.0
        if not self.tangent:
            centre = 1.0 - r if linear else 0.0
            t, n = Polynomial([centre, 1.0]), Polynomial([0.0 if linear else 1.0 - r, -1.0])
            terms = [-b * f * c * (t * n) ** 2, t * n * (b * c * n - (1.0 - b * c) * r)]
            terms.append(r * (1.0 - t))
        else:
            centre = (math.sqrt(r * r + 4.0) - r) / 2.0 if linear else 0.0
            t = Polynomial([centre, 1.0])
            n = Polynomial([0.0 if linear else 1.0, -2.0 * centre - r, -1.0])
            # x = f + (z − floor); what is then free of z, over ft, term by term.
            flat = [b * (c * (r - 1.0) - r), r * (r - 1.0 + b) - b * c * r * (r - 2.0)]
            flat += [r + b * c * (1.0 - r) * (2.0 + r), -2.0 * b * c * r, -b * c]
            square = r * t * (1.0 - t)
            terms = [f * t * Polynomial(flat)(t)]
            terms += [n * (b * c * n - (1.0 - b * c) * r * t) + 2.0 * f * square, square]
        coefficients = np.zeros((3, max(len(term.coef) for term in terms)))
        for row, term in zip(coefficients, terms, strict=True):
            row[: len(term.coef)] = term.coef
        # Where b is 0 or 1 the degree is lower.
        degree = int(np.flatnonzero(coefficients.any(axis=0))[-1])
        return centre, n, coefficients[:, : degree + 1]

    def density(self, distance: Array) -> Array:
        """Im m/π at a `distance` above the floor, 0 where no solution is complex."""
        centre, n, (constant, linear, square) = self._polynomial
        y = distance[:, None]
        rows = constant + y * (linear + y * square)
        companion = np.zeros((len(rows), rows.shape[1] - 1, rows.shape[1] - 1))
        companion[:, 0] = -rows[:, -2::-1] / rows[:, -1:]
        below = np.arange(rows.shape[1] - 2)
        companion[:, below + 1, below] = 1.0
        root = np.linalg.eigvals(companion).astype(np.complex128)
        t, z = centre + root, y + self.tangent * (1.0 - self.b)
        with np.errstate(divide="ignore", invalid="ignore"):
            m = n(root) / (self.r * z * (t if self.tangent else 1.0))
        physical = (t.imag < 0.0) & (m.imag > 0.0) & ((m * (self.tangent + t)).imag > 0.0)
        return np.where(physical, m.imag, 0.0).max(axis=1) / math.pi


def tracy_widom_cdf(s: float) -> float:
    """Tracy–Widom distribution function F₁ of real symmetric matrices (β = 1).

    F₁(s) = det(I − B_s) with B_s(x, y) = Ai(x + y + s) on (0, ∞) [7]_, by Gauss–Legendre
    quadrature, which converges exponentially [8]_. Absolute error below 1e-13.
    """
    # Beyond, 1 − F₁ and F₁ are below 1e-16: they fall like exp(−⅔ s^{3/2}) and exp(−|s|³/24).
    if not -11.0 < s < 15.0:
        return float(s > 0.0) if not math.isnan(s) else math.nan
    nodes, weights = _legendre(50)
    # Ai(16) is 1e-20: the kernel is zero where x + y + s is more.
    length = 16.0 - s
    x, root = length * nodes, np.sqrt(length * weights)
    kernel = scipy.special.airy(x[:, None] + x + s)[0]
    return float(np.linalg.det(np.eye(len(x)) - root[:, None] * kernel * root))


@lru_cache(maxsize=1024)
def tracy_widom_quantile(p: float) -> float:
    """Quantile of the Tracy–Widom law F₁; .4501, .9793 and 2.0234 at .90, .95 and .99.

    Raises
    ------
    ValueError
        If `p` does not lie in (0, 1).
    """
    if not 0.0 < p < 1.0:
        raise ValueError(f"p must lie in (0, 1), got {p!r}; pass 1 - level of the test")
    return float(scipy.optimize.brentq(lambda s: tracy_widom_cdf(s) - p, -12.0, 16.0, xtol=1e-12))


@lru_cache(maxsize=1)
def _legendre(order: int) -> tuple[Array, Array]:
    """Gauss–Legendre nodes and weights on (0, 1)."""
    nodes, weights = np.polynomial.legendre.leggauss(order)
    return (nodes + 1.0) / 2.0, weights / 2.0
