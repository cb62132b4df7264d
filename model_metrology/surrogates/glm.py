r"""Kernel generalised linear models (kGLM): a network's prediction as a sum over training points.

The surrogate of a network with kernel k and training points x_1 … x_N is

.. math:: y(x) = \mathrm{softmax}(V k(x, X) + b), \qquad k(x, X) = (k(x, x_1), …, k(x, x_N)),

a linear classifier whose features are the kernel's rows [1]_. It minimises

.. math:: \frac1N \sum_i -\log y_{l_i}(x_i) + \frac{λ}{2} \|V\|^2,

λ the argument `l2`. The penalty is on the Euclidean norm of V, as in [1]_, not on the norm
tr V K Vᵀ of the kernel's Hilbert space: nothing here asks the kernel to be symmetric or positive.
The intercept is not penalised. This is the objective of scikit-learn's ``SGDClassifier`` with
λ = alpha, and of its ``LogisticRegression`` with C = 1/(N λ). Two classes have one logit, that of
class 1; more classes one each.

The published surrogates come from a stochastic solver that stops early and at random. Here the
objective, which is strictly convex up to a shift of all intercepts, is minimised for good, by
Newton's method: the same kernel gives the same surrogate, and the gradient's norm says how nearly.

References
----------
.. [1] A. Engel, Z. Wang, N. S. Frank, I. Dumitriu, S. Choudhury, A. Sarwate, T. Chiang, "Faithful
   and efficient explanations for neural networks via neural tangent kernel surrogate models",
   ICLR 2024, arXiv:2305.14585.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg
from scipy.special import expit, logsumexp, softmax

__all__ = ["L2_GRID", "Method", "Surrogate", "fit_surrogate"]

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]
Counts = NDArray[np.int64]
Method = Literal["newton", "sgd", "svm"]
_Between = Callable[[slice, Array], Array]
_Precondition = Callable[[Array], Array]

L2_GRID: tuple[float, ...] = tuple(float(f"1e{k}") for k in range(1, -9, -1))
"""Values of `l2` that ``"auto"`` tries, for kernels whose largest entry is about 1."""

_HELD_OUT = 0.2  # share of the training points that choose l2
_TILE = 2**22  # entries of a kernel's tile: 32 MiB in float64
_BASIS = 200  # leading directions of the kernel that are solved exactly
_SYSTEM = 1200  # unknowns in that exact solution, directions times logits
_PRODUCTS = 500  # conjugate gradient steps in one Newton step
_PRECISION = 1e-3  # relative error allowed to V
_BEYOND = 10.0  # times the curvature at the basis's edge is expected beyond it; see _preconditioner


@dataclass(frozen=True)
class Surrogate:
    """A fitted kernel generalised linear model; see :func:`fit_surrogate`.

    C' is the number of logits: 1 for two classes, else C.
    """

    coefficients: Array = field(repr=False)
    """(C', N) V: what each training point adds to each logit, per unit of kernel."""
    intercept: Array
    """(C',) b."""
    l2: float
    """The penalty λ."""
    gradient_norm: float
    """Euclidean norm of the objective's gradient by V and b; NaN for ``"svm"``: it has none."""
    iterations: int
    """Newton steps, epochs (the most of any class), or steps of the support vector solver."""
    converged: bool
    """Whether the solver's own rule stopped it, not its limit of iterations."""
    method: Method
    """The solver."""
    classes: int
    """C, the number of classes."""
    selection: dict[float, float] = field(default_factory=dict, repr=False)
    """Mean log-loss on the held-out training points of each `l2` tried; empty unless "auto"."""

    @property
    def l2_at_end(self) -> bool:
        """Whether ``"auto"`` chose an end of what it tried: an l2 beyond it might be better."""
        return bool(self.selection) and self.l2 in (min(self.selection), max(self.selection))

    def logits(self, cross_kernel: ArrayLike) -> Array:
        """Logits V k(x, X) + b.

        Parameters
        ----------
        cross_kernel : array_like, shape (n, N)
            Kernel between n points and the training points; in its own precision, tile by tile.

        Returns
        -------
        ndarray of float64, shape (n, C')
            In natural-log units. For ``"svm"`` the decision function: distances, not log-odds.

        Raises
        ------
        ValueError
            If the shape does not fit the training points, or an entry is not finite.
        """
        cross = _checked_matrix(cross_kernel, "cross_kernel", self.coefficients.shape[1])[0]
        result = np.empty((len(cross), len(self.intercept)))
        for span, tile in _tiles(cross, None, np.float64):
            result[span] = tile @ self.coefficients.T + self.intercept
        return result

    def probabilities(self, cross_kernel: ArrayLike) -> Array:
        """Class probabilities: softmax of the logits, or the logistic function of the only one.

        For ``"sgd"`` with more than two classes these are no one-vs-rest probabilities; the
        authors take the softmax too.

        Parameters
        ----------
        cross_kernel : array_like, shape (n, N)
            As in :meth:`logits`, which also says what is raised.

        Returns
        -------
        ndarray of float64, shape (n, C)
            Rows sum to 1.
        """
        logits = self.logits(cross_kernel)
        if logits.shape[1] == 1:
            logits = np.column_stack((np.zeros(len(logits)), logits))
        return np.asarray(softmax(logits, axis=1))

    def predict(self, cross_kernel: ArrayLike) -> Counts:
        """Predicted classes, (n,): the largest logit's, or class 1 where the only one is positive.

        `cross_kernel` as in :meth:`logits`, which also says what is raised.
        """
        logits = self.logits(cross_kernel)
        if logits.shape[1] == 1:
            return np.asarray(logits[:, 0] > 0, dtype=np.int64)
        return np.asarray(logits.argmax(axis=1), dtype=np.int64)

    def attributions(self, cross_kernel: ArrayLike) -> Array:
        """What each training point contributes to each logit, V_{c,i} k(x, x_i) + b_c / N.

        Parameters
        ----------
        cross_kernel : array_like, shape (n, N)
            As in :meth:`logits`, which also says what is raised. The result takes 8 n N C' bytes:
            ask for a few points at a time.

        Returns
        -------
        ndarray of float64, shape (n, N, C')
            The sum over the training points (axis 1) is :meth:`logits`, up to rounding.
        """
        n_train = self.coefficients.shape[1]
        cross = _checked_matrix(cross_kernel, "cross_kernel", n_train)[0]
        result = np.multiply(
            cross[:, :, None], np.ascontiguousarray(self.coefficients.T)[None], dtype=np.float64
        )
        result += self.intercept / n_train
        return result


def fit_surrogate(
    kernel: ArrayLike,
    labels: ArrayLike,
    *,
    l2: float | Literal["auto"] = "auto",
    classes: int | None = None,
    method: Method = "newton",
    seed: int = 0,
    tolerance: float = 1e-6,
    max_iterations: int | None = None,
) -> Surrogate:
    r"""Fit a kernel generalised linear model to the labels of a network's training points.

    Parameters
    ----------
    kernel : array_like, shape (N, N)
        Kernel between the training points, rows being the features of points. It need not be
        symmetric. It is used in its own precision and by tiles, never copied: one in float32, or
        mapped from a file, stays there. (``"svm"`` does copy, to float64.)
    labels : array_like of int, shape (N,)
        Classes, 0 … C − 1, each with at least one point.
    l2 : float or "auto"
        Penalty λ > 0, in units of (largest kernel entry)². ``"auto"`` fits 80 % of the points with
        one λ of `L2_GRID` after another, the largest first, until the mean log-loss on the other
        20 % (drawn within each class by `seed`) has twice been no better than the best; then fits
        all points with the best. The grid is multiplied by the power of ten next to the square of
        the kernel's largest entry. With ``"sgd"``, ``"auto"`` is the authors' 1e-4; with ``"svm"``
        1/N.
    classes : int, optional
        C; by default the largest label and one.
    method : {"newton", "sgd", "svm"}
        ``"newton"``: the objective's minimum, deterministically. ``"sgd"``: the authors' solver,
        scikit-learn's ``SGDClassifier`` (log-loss, one-vs-rest, balanced class weights), for
        comparison; it does not reach the minimum of its own objective. ``"svm"``: support vector
        machines on the precomputed kernel, one-vs-rest for more than two classes; ``l2`` = 1/(N C)
        with scikit-learn's C, 1 by default, and the penalty is the Hilbert space's.
    seed : int
        For the held-out points, and for the order of points in ``"sgd"``.
    tolerance : float
        ``"newton"`` has converged once the gradient's norm is at most this, with the kernel
        scaled to a largest entry of 1, and so small beside λ that V is within 0.1 % of the
        minimum's: with a small λ nearly flat directions of the objective bend so little that their
        gradient alone would not show what is missing. Other methods keep scikit-learn's
        tolerances.
    max_iterations : int, optional
        Newton steps (200 by default) or epochs (1,000); for ``"svm"`` no limit by default.

    Returns
    -------
    Surrogate
        A warning is logged if it has not converged, or ``"auto"`` chose an end of the grid.

    Raises
    ------
    ValueError
        If the kernel is not square or does not fit the labels, an entry is not finite, a class
        has no points, or an argument is out of range.

    Notes
    -----
    With more than two classes the logits' common shift is free. The penalty fixes that of V, whose
    columns (over classes) sum to 0; the intercepts are made to.

    Newton's equations are solved by conjugate gradients, whose cost is a product with the kernel
    and one with its transpose per step, in one pass over its tiles. Products for the loss and its
    gradient are in float64; those within conjugate gradients in the kernel's own precision, where
    an error costs time, not accuracy, and in float64 once that gets no further. The features'
    second moment KᵀK/N has eigenvalues from about N down to 0, so its leading directions (found by
    randomised subspace iteration [2]_) are solved exactly in each Newton step, for the weights at
    hand, and only the rest is left to iteration.
    Memory beyond the kernel: a few arrays of at most (N, 200), a few of (N, C'), and 64 MiB or so
    for tiles.

    References
    ----------
    .. [2] N. Halko, P. G. Martinsson, J. A. Tropp, "Finding structure with randomness:
       probabilistic algorithms for constructing approximate matrix decompositions", SIAM Review
       53 (2011) 217–288.
    """
    matrix, largest = _checked_matrix(kernel, "kernel", None)
    truth, n_classes = _checked_labels(labels, len(matrix), classes)
    if l2 != "auto" and not (isinstance(l2, (int, float, np.number)) and 0 < l2 < math.inf):
        raise ValueError(f"l2 must be 'auto' or a positive number, got {l2!r}")
    if not 0 < tolerance < math.inf:
        raise ValueError(f"tolerance must be positive, got {tolerance!r}")
    if max_iterations is not None and max_iterations < 1:
        raise ValueError(f"max_iterations must be at least 1, got {max_iterations}")
    penalty = None if l2 == "auto" else float(l2)
    if method == "sgd":
        result = _fit_sgd(matrix, truth, n_classes, penalty, seed, max_iterations)
    elif method == "svm":
        result = _fit_svm(matrix, truth, n_classes, penalty, max_iterations)
    elif method == "newton":
        limit = 200 if max_iterations is None else max_iterations
        scale = largest or 1.0
        result = _fit_newton(matrix, truth, n_classes, penalty, scale, seed, tolerance, limit)
    else:
        raise ValueError(f"method must be 'newton', 'sgd' or 'svm', got {method!r}")
    if not result.converged:
        logger.warning(
            "surrogate (%s, l2 = %.3g) has not converged in %d iterations: the gradient's norm is "
            "%.3g; raise max_iterations, tolerance or l2",
            *(result.method, result.l2, result.iterations, result.gradient_norm),
        )
    if result.l2_at_end:
        logger.warning(
            "surrogate: l2 = %g is an end of the grid, and one beyond it might be better on the "
            "held-out points; give l2 to try one",
            result.l2,
        )
    return result


# Newton's method. Unknowns are stacked as (N + 1, C'): scaled coefficients, then the intercept.


@dataclass(frozen=True)
class _Design:
    """Features of training points, k(x_i, X) / scale, by tiles; of all points or of some."""

    kernel: NDArray[Any]
    scale: float
    rows: Counts | None
    """Points that are fitted, in order; their columns are the features. None: all."""

    @property
    def points(self) -> int:
        return len(self.kernel) if self.rows is None else len(self.rows)

    def precision(self, exact: bool) -> Any:
        """Type in which products are made."""
        return np.float32 if self.kernel.dtype == np.float32 and not exact else np.float64

    def sandwich(self, right: Array, between: _Between, *, exact: bool) -> Array:
        """Kᵀ f(K right), in one pass over the kernel, f acting on each row.

        `right` (N, m) must be 0 in rows of points left out; so is the result.
        """
        result = np.zeros_like(right)
        precision = self.precision(exact)
        factor = right.astype(precision)
        for span, tile in _tiles(self.kernel, self.rows, precision):
            inner = between(span, (tile @ factor).astype(np.float64) / self.scale)
            result += tile.T @ inner.astype(precision)
        result /= self.scale
        if self.rows is not None:
            left_out = np.ones(len(result), dtype=bool)
            left_out[self.rows] = False
            result[left_out] = 0.0
        return result

    def basis(self, size: int) -> Array:
        """(N, size) orthonormal vectors that nearly span the leading directions of KᵀK."""
        rows = slice(None) if self.rows is None else self.rows
        found = np.zeros((len(self.kernel), size))
        # Any start will do; a fixed one keeps the fit deterministic.
        start = np.random.default_rng(0).standard_normal((self.points, size))
        if size == self.points:
            found[rows] = np.eye(size)
            return found
        found[rows] = start
        for _ in range(2):
            found = self.sandwich(found, lambda span, values: values, exact=False)
            # Points left out are 0 and must remain so, hence the factorisation of the others.
            found[rows] = linalg.qr(found[rows], mode="economic", check_finite=False)[0]
        return found

    def image(self, right: Array, *, exact: bool) -> Array:
        """K right, (n, m)."""
        result = np.empty((self.points, right.shape[1]))
        precision = self.precision(exact)
        factor = right.astype(precision)
        for span, tile in _tiles(self.kernel, self.rows, precision):
            result[span] = tile @ factor
        result /= self.scale
        return result


@dataclass(frozen=True)
class _Fit:
    theta: Array
    norm: float
    """Of the gradient, in the kernel's own units."""
    steps: int
    converged: bool


def _fit_newton(
    kernel: NDArray[Any],
    labels: Counts,
    classes: int,
    l2: float | None,
    scale: float,
    seed: int,
    tolerance: float,
    limit: int,
) -> Surrogate:
    logits = 1 if classes == 2 else classes
    theta = np.zeros((len(kernel) + 1, logits))
    theta[-1] = _prior_logits(labels, classes)
    selection: dict[float, float] = {}
    if l2 is None:
        theta, l2, selection = _select_l2(kernel, labels, classes, theta, scale, seed, tolerance)
    fit = _newton(_Design(kernel, scale, None), labels, theta, l2 / scale**2, tolerance, limit)
    found = fit.theta if logits == 1 else fit.theta - fit.theta.mean(axis=1, keepdims=True)
    return Surrogate(
        coefficients=np.ascontiguousarray(found[:-1].T) / scale,
        intercept=found[-1].copy(),
        l2=l2,
        gradient_norm=fit.norm,
        iterations=fit.steps,
        converged=fit.converged,
        method="newton",
        classes=classes,
        selection=selection,
    )


def _select_l2(
    kernel: NDArray[Any],
    labels: Counts,
    classes: int,
    theta: Array,
    scale: float,
    seed: int,
    tolerance: float,
) -> tuple[Array, float, dict[float, float]]:
    """The held-out points' choice of l2: its fit to the other points, its value, all losses."""
    kept, held = _split(labels, classes, seed)
    design, held_out = _Design(kernel, scale, kept), _Design(kernel, scale, held)
    basis = design.basis(_basis_size(len(kept), theta.shape[1]))
    unit = 10.0 ** round(2 * math.log10(scale))
    best, chosen, worse = theta, math.nan, 0
    losses: dict[float, float] = {}
    # From the stiffest fit, which is found at once, each is the start of the next.
    for l2 in (unit * value for value in L2_GRID):
        theta = _newton(design, labels[kept], theta, l2 / scale**2, tolerance, 200, basis).theta
        values = held_out.image(theta[:-1], exact=True) + theta[-1]
        losses[l2] = float(_losses(values, labels[held]).mean())
        if math.isnan(chosen) or losses[l2] < losses[chosen]:
            best, chosen, worse = theta, l2, 0
        elif (worse := worse + 1) == 2:
            break
    logger.info("l2 = %g has the smallest held-out log-loss of %s", chosen, losses)
    return best, chosen, losses


def _split(labels: Counts, classes: int, seed: int) -> tuple[Counts, Counts]:
    """Points kept and held out, each in order; the same share of each class."""
    rng = np.random.default_rng(seed)
    held = []
    for label in range(classes):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            raise ValueError(
                f"labels hold one point of class {label}; l2='auto' needs two of each, give a "
                "number for l2"
            )
        held.append(rng.permutation(members)[: max(1, round(_HELD_OUT * len(members)))])
    chosen = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen


def _newton(
    design: _Design,
    labels: Counts,
    theta: Array,
    l2: float,
    tolerance: float,
    limit: int,
    basis: Array | None = None,
) -> _Fit:
    """Minimise the mean log-loss of the design's points, from `theta`, by Newton's method."""
    if basis is None:
        basis = design.basis(_basis_size(design.points, theta.shape[1]))
    image = np.column_stack((design.image(basis, exact=False), np.ones(design.points)))
    first, loss, best = math.nan, math.inf, math.inf
    exact = design.precision(exact=False) is np.float64
    for step in range(limit + 1):
        values, gradient, new_loss = _evaluate(design, labels, theta, l2)
        norm = float(np.linalg.norm(gradient))
        # Strong convexity: V is within norm / l2 of the minimum's. Rounding ends below 1e-10.
        goal = min(tolerance, max(_PRECISION * l2 * float(np.linalg.norm(theta[:-1])), 1e-10))
        stalled = norm >= best and new_loss >= loss
        if norm <= goal or step == limit or (stalled and exact):
            break
        # Single precision does not see how little nearly flat directions bend.
        exact = exact or stalled
        first = norm if step == 0 else first
        loss, best = new_loss, min(norm, best)
        # Solved no better than the step deserves, nor than products in float32 mostly allow.
        target = max(min(0.1, math.sqrt(norm / first)), 1e-3, 0.3 * goal / norm) * norm
        weights = _class_probabilities(values)
        precondition = _preconditioner(basis, image, weights, l2)
        direction, change = _solve(design, weights, gradient, l2, precondition, target, exact=exact)
        length = _step_length(values, change, labels, theta[:-1], direction[:-1], l2)
        theta = theta + length * direction
    plain = math.hypot(
        design.scale * float(np.linalg.norm(gradient[:-1])), float(np.linalg.norm(gradient[-1]))
    )
    return _Fit(theta, plain, step, norm <= goal)


def _evaluate(
    design: _Design, labels: Counts, theta: Array, l2: float
) -> tuple[Array, Array, float]:
    """Logits (n, C'), gradient (N + 1, C') and objective, in one pass and in float64."""
    values = np.empty((design.points, theta.shape[1]))

    def between(span: slice, product: Array) -> Array:
        values[span] = product + theta[-1]
        return _residuals(values[span], labels[span])

    gradient = np.empty_like(theta)
    gradient[:-1] = design.sandwich(theta[:-1], between, exact=True) / design.points
    gradient[:-1] += l2 * theta[:-1]
    gradient[-1] = _residuals(values, labels).mean(axis=0)
    loss = float(_losses(values, labels).mean()) + 0.5 * l2 * float(np.vdot(theta[:-1], theta[:-1]))
    return values, gradient, loss


def _solve(
    design: _Design,
    probabilities: Array,
    gradient: Array,
    l2: float,
    precondition: _Precondition,
    target: float,
    *,
    exact: bool,
) -> tuple[Array, Array]:
    """Newton's direction d, H d ≈ −g, by conjugate gradients; and its effect on the logits."""
    direction = np.zeros_like(gradient)
    change = np.zeros_like(probabilities)
    residual = -gradient
    conditioned = precondition(residual)
    search, square = conditioned, float(np.vdot(residual, conditioned))
    for _ in range(_PRODUCTS):
        effect = np.empty_like(change)

        def between(span: slice, product: Array) -> Array:
            effect[span] = product + search[-1]  # noqa: B023 (called at once)
            return _curved(probabilities[span], effect[span])  # noqa: B023

        image = np.empty_like(gradient)
        image[:-1] = design.sandwich(search[:-1], between, exact=exact) / design.points
        image[:-1] += l2 * search[:-1]
        image[-1] = _curved(probabilities, effect).mean(axis=0)
        curvature = float(np.vdot(search, image))
        if not curvature > 0.0:  # rounding has the better of it
            break
        length = square / curvature
        direction += length * search
        change += length * effect
        residual = residual - length * image
        if float(np.linalg.norm(residual)) <= target:
            break
        conditioned = precondition(residual)
        last, square = square, float(np.vdot(residual, conditioned))
        search = conditioned + (square / last) * search
    return direction, change


def _basis_size(points: int, logits: int) -> int:
    return min(points, _BASIS, max(_SYSTEM // logits - 1, 1))


def _preconditioner(basis: Array, image: Array, probabilities: Array, l2: float) -> _Precondition:
    """Inverse of the Hessian on the basis and the intercept; a multiple of the identity elsewhere.

    `image` (n, r + 1) is what the basis and the intercept do to each logit. Elsewhere the curvature
    lies between l2 and the basis's smallest, and a large estimate pays: the residual to be removed
    is in directions of large curvature. Of estimates from l2 to 100 times the smallest at the mean
    weight, 10 times took the fewest products, 3 to 20 times fewer than l2.
    """
    n, size = image.shape
    logits = probabilities.shape[1]
    system = np.empty((logits, size, logits, size))
    for c in range(logits):
        for d in range(c, logits):
            weight = probabilities[:, c] * ((c == d) - probabilities[:, d])
            system[c, :, d, :] = system[d, :, c, :] = image.T @ (image * (weight / n)[:, None])
    for c in range(logits):
        system[c, range(size - 1), c, range(size - 1)] += l2
    if logits > 1:
        # A shift of all intercepts changes nothing: any positive curvature keeps it at 0.
        system[:, -1, :, -1] += 1.0 / logits
    flat = system.reshape(logits * size, logits * size)
    flat[np.diag_indices_from(flat)] += 1e-13 * flat.diagonal().max()
    elsewhere = l2
    if size <= n:  # else the basis spans all
        edge = linalg.eigvalsh(image[:, :-1].T @ image[:, :-1], subset_by_index=(0, 0))[0] / n
        mean = float((probabilities * (1.0 - probabilities)).mean())
        elsewhere += _BEYOND * mean * max(float(edge), 0.0)
    factor = linalg.cho_factor(flat, lower=True, overwrite_a=True, check_finite=False)

    def precondition(vector: Array) -> Array:
        inside = np.vstack((basis.T @ vector[:-1], vector[-1:]))
        solved = linalg.cho_solve(factor, inside.T.ravel(), check_finite=False)
        solved = solved.reshape(logits, size).T
        result = np.empty_like(vector)
        result[:-1] = basis @ (solved[:-1] - inside[:-1] / elsewhere) + vector[:-1] / elsewhere
        result[-1] = solved[-1]
        return result

    return precondition


def _step_length(
    values: Array, change: Array, labels: Counts, theta: Array, direction: Array, l2: float
) -> float:
    """Length of a step that takes the slope of the objective to a tenth, and never uphill.

    Along a line logits are linear, so no product with the kernel is needed.
    """
    linear = l2 * float(np.vdot(theta, direction))
    quadratic = l2 * float(np.vdot(direction, direction))
    start = _losses(values, labels).mean()

    def slope(t: float) -> float:
        residuals = _residuals(values + t * change, labels)
        return float((residuals * change).sum()) / len(values) + linear + t * quadratic

    def rise(t: float) -> float:
        loss = _losses(values + t * change, labels).mean() - start
        return float(loss) + t * linear + 0.5 * t * t * quadratic

    steep = abs(slope(0.0))
    low, high, t = 0.0, math.inf, 1.0
    for _ in range(60):
        at = slope(t)
        if abs(at) <= 0.1 * steep and rise(t) <= 1e-15 * abs(start):
            break
        low, high = (low, t) if at > 0 else (t, high)
        t = 2 * t if math.isinf(high) else 0.5 * (low + high)
    return t


# The log-loss of C' logits: one for two classes, else one a class.


def _losses(values: Array, labels: Counts) -> Array:
    """−log probability of the label, (n,)."""
    if values.shape[1] == 1:
        return np.asarray(np.logaddexp(0.0, np.where(labels == 1, -1.0, 1.0) * values[:, 0]))
    return np.asarray(logsumexp(values, axis=1) - values[np.arange(len(labels)), labels])


def _class_probabilities(values: Array) -> Array:
    return np.asarray(expit(values) if values.shape[1] == 1 else softmax(values, axis=1))


def _residuals(values: Array, labels: Counts) -> Array:
    """Derivative of the losses by the logits, (n, C')."""
    result = _class_probabilities(values)
    if values.shape[1] == 1:
        result[:, 0] -= labels
    else:
        result[np.arange(len(labels)), labels] -= 1.0
    return result


def _curved(probabilities: Array, change: Array) -> Array:
    """Second derivative of the losses by the logits, times a change of the logits, (n, C')."""
    if probabilities.shape[1] == 1:
        return probabilities * (1.0 - probabilities) * change
    mean = (probabilities * change).sum(axis=1, keepdims=True)
    return np.asarray(probabilities * (change - mean))


def _prior_logits(labels: Counts, classes: int) -> Array:
    """Intercepts of the best constant prediction, (C',), summing to 0 if more than one."""
    logs = np.log(np.bincount(labels, minlength=classes) / len(labels))
    return logs[1:] - logs[:1] if classes == 2 else np.asarray(logs - logs.mean())


# The other solvers, scikit-learn's.


def _fit_sgd(
    kernel: NDArray[Any],
    labels: Counts,
    classes: int,
    l2: float | None,
    seed: int,
    max_iterations: int | None,
) -> Surrogate:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import SGDClassifier

    l2 = 1e-4 if l2 is None else l2
    limit = 1000 if max_iterations is None else max_iterations
    solver = SGDClassifier(
        loss="log_loss",
        penalty="l2",
        alpha=l2,
        class_weight="balanced",
        random_state=seed,
        max_iter=limit,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        solver.fit(kernel, labels)
    for warning in caught:
        if not issubclass(warning.category, ConvergenceWarning):
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    coefficients = np.asarray(solver.coef_, dtype=np.float64)
    intercept = np.asarray(solver.intercept_, dtype=np.float64)
    return Surrogate(
        coefficients=coefficients,
        intercept=intercept,
        l2=l2,
        gradient_norm=_balanced_gradient_norm(kernel, labels, coefficients, intercept, l2),
        iterations=int(solver.n_iter_),
        converged=not any(issubclass(w.category, ConvergenceWarning) for w in caught),
        method="sgd",
        classes=classes,
    )


def _balanced_gradient_norm(
    kernel: NDArray[Any], labels: Counts, coefficients: Array, intercept: Array, l2: float
) -> float:
    """Norm of the gradient of what ``SGDClassifier`` minimises, over all one-vs-rest problems."""
    counts = np.bincount(labels)
    balance = len(labels) / (len(counts) * counts)
    logits = len(intercept)
    positive = labels[:, None] == (np.arange(logits) if logits > 1 else 1)
    # scikit-learn balances both classes of two, but of one-vs-rest problems only the one.
    weights = balance[labels][:, None] * np.ones(1)
    if logits > 1:
        weights = np.where(positive, balance, 1.0)
    design = _Design(kernel, 1.0, None)
    residuals = np.empty((len(labels), logits))

    def between(span: slice, product: Array) -> Array:
        residuals[span] = weights[span] * (expit(product + intercept) - positive[span])
        return residuals[span]

    gradient = design.sandwich(coefficients.T.copy(), between, exact=True) / len(labels)
    gradient += l2 * coefficients.T
    return math.hypot(
        float(np.linalg.norm(gradient)), float(np.linalg.norm(residuals.mean(axis=0)))
    )


def _fit_svm(
    kernel: NDArray[Any],
    labels: Counts,
    classes: int,
    l2: float | None,
    max_iterations: int | None,
) -> Surrogate:
    from sklearn.svm import SVC

    l2 = 1.0 / len(labels) if l2 is None else l2
    logits = 1 if classes == 2 else classes
    coefficients = np.zeros((logits, len(labels)))
    intercept = np.empty(logits)
    steps, converged = 0, True
    for c in range(logits):
        solver = SVC(
            C=1.0 / (len(labels) * l2),
            kernel="precomputed",
            decision_function_shape="ovr",
            max_iter=-1 if max_iterations is None else max_iterations,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has not converged is reported below
            solver.fit(kernel, labels == (1 if logits == 1 else c))
        coefficients[c, solver.support_] = solver.dual_coef_[0]
        intercept[c] = solver.intercept_[0]
        steps = max(steps, int(np.max(solver.n_iter_)))
        converged &= solver.fit_status_ == 0
    if max_iterations is not None:
        converged &= steps < max_iterations
    return Surrogate(
        coefficients=coefficients,
        intercept=intercept,
        l2=l2,
        gradient_norm=math.nan,
        iterations=steps,
        converged=bool(converged),
        method="svm",
        classes=classes,
    )


# Kernels and labels.


def _tiles(
    matrix: NDArray[Any], rows: Counts | None, dtype: Any
) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Tiles of rows in the precision asked for; the memory of one is used for all."""
    n = len(matrix) if rows is None else len(rows)
    height = max(1, min(_TILE // max(matrix.shape[1], 1), n))
    buffer = None
    for start in range(0, n, height):
        span = slice(start, min(start + height, n))
        tile = matrix[span if rows is None else rows[span]]
        if tile.dtype != dtype:
            if buffer is None:
                buffer = np.empty((height, matrix.shape[1]), dtype=dtype)
            np.copyto(buffer[: len(tile)], tile)
            tile = buffer[: len(tile)]
        yield span, tile


def _checked_matrix(
    values: ArrayLike, name: str, columns: int | None
) -> tuple[NDArray[Any], float]:
    """The matrix as it is, and its largest absolute entry. Square if `columns` is None."""
    matrix = np.asarray(values)
    if columns is None and (matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]):
        raise ValueError(
            f"{name} must be square, (N, N) between the training points, got {matrix.shape}"
        )
    if columns is not None and (matrix.ndim != 2 or matrix.shape[1] != columns):
        raise ValueError(
            f"{name} must have shape (n, {columns}), a column for each training point, "
            f"got {matrix.shape}"
        )
    if matrix.dtype.kind not in "fiub":
        raise ValueError(f"{name} must hold real numbers, got {matrix.dtype}")
    largest = 0.0
    for span, tile in _tiles(matrix, None, matrix.dtype):
        top = max(abs(float(tile.max())), abs(float(tile.min()))) if tile.size else 0.0
        if not math.isfinite(top):
            row, column = np.argwhere(~np.isfinite(tile))[0]
            raise ValueError(
                f"{name}[{span.start + row}, {column}] is {tile[row, column]}; every entry must "
                "be finite"
            )
        largest = max(largest, top)
    return matrix, largest


def _checked_labels(labels: ArrayLike, n: int, classes: int | None) -> tuple[Counts, int]:
    """Labels as integers, and the number of classes."""
    truth = np.asarray(labels)
    if truth.shape != (n,):
        raise ValueError(
            f"labels must have shape ({n},), one for each row of the kernel, got {truth.shape}"
        )
    if not np.array_equal(truth, truth.astype(np.int64)):
        raise ValueError("labels must be integers")
    truth = truth.astype(np.int64)
    if n == 0 or len(np.unique(truth)) < 2:
        raise ValueError(f"labels must hold at least two classes, got {np.unique(truth)}")
    count = int(truth.max()) + 1 if classes is None else int(classes)
    if truth.min() < 0 or truth.max() >= count:
        raise ValueError(f"labels must lie in 0…{count - 1}, got {truth.min()}…{truth.max()}")
    missing = np.setdiff1d(np.arange(count), truth)
    if len(missing):
        raise ValueError(
            f"labels hold no point of class {missing[0]}; each of the {count} classes needs one"
        )
    return truth, count
