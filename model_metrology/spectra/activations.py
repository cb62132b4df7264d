"""Activations as the theory wants them: mean 0 and variance 1 of a standard normal variable.

With ``Z ~ N(0, 1)`` and a plain activation σ, the activation used is
``φ(z) = (σ(z) − E σ(Z)) / sd σ(Z)``. The limiting laws of the kernels know φ by two numbers alone,
``(E φ'(Z))²`` and ``E φ'(Z)²`` (Fan & Wang 2020, arXiv 2005.11879).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import scipy
import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[Tensor, Tensor]


def _tanh(z: Tensor) -> Pair:
    value = z.tanh()
    return value, 1.0 - value.square()


def _relu(z: Tensor) -> Pair:
    return F.relu(z), (z > 0).to(z.dtype)


def _softplus(z: Tensor) -> Pair:
    return F.softplus(z), z.sigmoid()


def _sigmoid(z: Tensor) -> Pair:
    value = z.sigmoid()
    return value, value * (1.0 - value)


def _erf(z: Tensor) -> Pair:
    return z.erf(), (2.0 / math.sqrt(math.pi)) * torch.exp(-z.square())


def _linear(z: Tensor) -> Pair:
    return z, torch.ones_like(z)


def _quadratic(z: Tensor) -> Pair:
    return z.square(), 2.0 * z


# σ and σ' together: most share their costly part.
_PLAIN: dict[str, Callable[[Tensor], Pair]] = {
    "tanh": _tanh,
    "relu": _relu,
    "softplus": _softplus,
    "sigmoid": _sigmoid,
    "erf": _erf,
    "linear": _linear,
    "quadratic": _quadratic,
}

ACTIVATIONS: tuple[str, ...] = tuple(_PLAIN)
"""Names of the activations."""


@dataclass(frozen=True)
class Activation:
    """A centred activation of unit variance, φ(z) = (σ(z) − mean) / deviation.

    Attributes
    ----------
    name : str
        Name of σ, one of `ACTIVATIONS`.
    mean, deviation : float
        Mean and standard deviation of σ(Z), Z ~ N(0, 1).
    slope_mean_squared : float
        (E φ'(Z))², the theory's b²; at most 1, and 1 for the linear activation alone.
    slope_second_moment : float
        E φ'(Z)², the theory's a.
    """

    name: str
    mean: float
    deviation: float
    slope_mean_squared: float
    slope_second_moment: float

    def __call__(self, z: Tensor) -> Tensor:
        """φ(z), elementwise."""
        return self.with_slope(z)[0]

    def slope(self, z: Tensor) -> Tensor:
        """φ'(z), elementwise; of ReLU at 0 it is 0, as torch has it."""
        return self.with_slope(z)[1]

    def with_slope(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """φ(z) and φ'(z), at little more than the cost of one."""
        value, slope = _PLAIN[self.name](z)
        return value.sub(self.mean).div_(self.deviation), slope / self.deviation


def _expectation(f: Callable[[Tensor], Tensor]) -> float:
    """E f(Z) by adaptive quadrature, the halves apart: a kink at 0 costs no accuracy."""

    def integrand(z: float) -> float:
        return float(f(torch.tensor(z, dtype=torch.float64))) * float(scipy.stats.norm.pdf(z))

    # Beyond 12 standard deviations nothing is left that float64 could show.
    halves = (
        scipy.integrate.quad(integrand, *ends, epsabs=1e-13)[0] for ends in ((-12, 0), (0, 12))
    )
    return sum(halves)


@cache
def activation(name: str) -> Activation:
    """Return an activation by name, its constants computed by quadrature.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if name not in _PLAIN:
        raise ValueError(f"activation: unknown {name!r}; choose from {', '.join(_PLAIN)}")
    plain = _PLAIN[name]
    mean = _expectation(lambda z: plain(z)[0])
    variance = _expectation(lambda z: (plain(z)[0] - mean).square())
    return Activation(
        name=name,
        mean=mean,
        deviation=math.sqrt(variance),
        slope_mean_squared=_expectation(lambda z: plain(z)[1]) ** 2 / variance,
        slope_second_moment=_expectation(lambda z: plain(z)[1].square()) / variance,
    )
