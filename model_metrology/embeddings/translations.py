"""Does translation remove the language axis, and does it leave the topic?

Originals X in language A, the same texts X' translated into B, and texts Y of B that were not
translated by the same means. The language axis u is the direction from the mean of X to the mean
of Y: no other enters, so that "how much of the shift is along u" is a share of a length. It is
fitted on one half of the groups, and everything is measured on the other half; then the halves
change places. "Before" is X against Y along u, "after" is X' against Y along the same u.

If Y has the groups of X (parallel corpora), the items held against each other are of disjoint
groups: no text is compared with its own translation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model_metrology.embeddings.components import auroc, eta_squared
from model_metrology.embeddings.grouping import group_folds
from model_metrology.embeddings.whitening import fit_discriminant

__all__ = ["Quantity", "Texts", "sign_flip_p_value", "translation_quantities"]

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]
Names = NDArray[np.str_]

_FEWEST_GROUPS = 8


@dataclass(frozen=True, eq=False)
class Texts:
    """Embedded texts of one kind."""

    embeddings: NDArray[np.floating]
    """(n, d)"""
    groups: NDArray[Any]
    """(n,) what belongs together, by name; the same name is the same group in other texts."""
    topics: NDArray[Any] | None = None
    """(n,) topic of each, "" where none is known. Translations without one have that of the
    originals of their group."""


@dataclass(frozen=True)
class Quantity:
    """A measured number with its bootstrap interval over groups."""

    value: float
    lower: float
    upper: float
    p_value: float = math.nan


def translation_quantities(
    original: Texts,
    translated: Texts,
    target: Texts,
    *,
    bootstraps: int = 200,
    permutations: int = 1000,
    level: float = 0.05,
    seed: int = 0,
) -> dict[str, Quantity]:
    """What translation does to the language axis and to the topic.

    Parameters
    ----------
    original, translated, target : Texts
        X, X' and Y of the module's first paragraph. Groups of `original` that `translated` lacks
        are left out, and the other way round. Where `original` has topics, what becomes of them is
        measured too.
    bootstraps : int
        Draws of groups with replacement, for intervals. Axes are held fixed, so intervals say
        what other groups would give with the same axes.
    permutations : int
        Sign flips of the test of the paired shift.
    level : float
        One minus the nominal coverage of intervals.
    seed : int
        Of the halves, the bootstrap and the sign flips.

    Returns
    -------
    dict of str to Quantity
        ``language auroc before``, ``language auroc after``
            P(y·u > x·u) and P(y·u > x'·u): ½ where the axis is gone, less where texts are carried
            too far.
        ``language variance before``, ``language variance after``
            Share η² of the variance along u that lies between the two.
        ``paired shift``
            Mean over groups of (x' − x)·u over the distance along u between the means of X and Y:
            1 where translation carries texts all the way. p-value by :func:`sign_flip_p_value`.
        ``shift along axis``
            Share of the squared mean shift that is along u. Products of a group with itself are
            left out of the squares, which makes these unbiased; so a share of about 1 may exceed
            it. NaN where no shift is to be seen.
        ``topic auroc original``, ``topic auroc translated``
            Along discriminant axes fitted to the topics of originals in the other half; mean over
            topics, each against the rest. A shift that all texts share cannot change it.
        ``topic cosine``
            Between the means of topics in X and in X', as matrices about their mean. Those of one
            half against those of the other, over what the halves agree to within X and within X',
            so that noise neither adds to it nor takes from it: about 1 where translation keeps the
            topics, and far off, with a wide interval, where topics are hardly to be seen. NaN where
            the halves do not agree.

    Raises
    ------
    ValueError
        If there are fewer than 8 groups on a side, the means of X and Y are equal, there is one
        topic only, or a topic is not in both halves.
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie in (0, 1), got {level!r}")
    plan = _plan(original, translated, target, seed)
    measured = plan.measure(np.ones(len(plan.cell), dtype=np.int64))
    replicates = [plan.measure(weights) for weights in plan.draws(bootstraps, seed)]
    moved = np.concatenate([half.shifts.values @ half.axis for half in plan.language])
    p_values = {"paired shift": sign_flip_p_value(moved, permutations, seed=seed)}
    return {
        name: Quantity(
            value,
            *_interval([replicate[name] for replicate in replicates], level),
            p_values.get(name, math.nan),
        )
        for name, value in measured.items()
    }


def sign_flip_p_value(differences: ArrayLike, permutations: int = 1000, *, seed: int = 0) -> float:
    """Is the mean of paired differences 0? Two-sided, by random flips of their signs.

    Parameters
    ----------
    differences : array_like, shape (m,)
        One for each pair; symmetric about 0 under the hypothesis.
    permutations, seed : int
        Random flips, and their seed.

    Returns
    -------
    float
        At least 1/(permutations + 1).
    """
    values = np.asarray(differences, dtype=np.float64)
    rng = np.random.default_rng(seed)
    sums = [values @ rng.choice([-1.0, 1.0], len(values)) for _ in range(permutations)]
    # Rounding must not tell flips that change nothing from the differences as they are.
    reached = np.abs(sums) >= abs(values.sum()) * (1 - 1e-9)
    return float((1 + reached.sum()) / (1 + permutations))


def _interval(values: Sequence[float], level: float) -> tuple[float, float]:
    defined = [value for value in values if math.isfinite(value)]
    if not defined:
        return math.nan, math.nan
    lower, upper = np.quantile(defined, [level / 2, 1.0 - level / 2])
    return float(lower), float(upper)


# -- what is measured of each half ---------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Side:
    """Texts, or means of groups, with their groups by number: vectors, or places on an axis."""

    group: Indices
    """(n,)"""
    values: Array
    """(n, d) or (n,)"""
    topics: Names
    """(n,)"""

    def chosen(self, here: Mask) -> _Side:
        return _Side(self.group[here], self.values[here], self.topics[here])

    def of(self, wanted: Mask) -> _Side:
        """Those of some of all G groups."""
        return self.chosen(wanted[self.group])

    def put(self, values: Array) -> _Side:
        """Other values for the same texts."""
        return _Side(self.group, values, self.topics)

    def drawn(self, weights: Indices) -> Array:
        """Values, each as often as its group is drawn."""
        return np.repeat(self.values, weights[self.group], axis=0)

    def centres(self) -> _Side:
        """Mean of each group."""
        found, first, index = np.unique(self.group, return_index=True, return_inverse=True)
        sums = np.zeros((len(found), *self.values.shape[1:]))
        np.add.at(sums, index, self.values)
        counts = np.bincount(index).reshape(-1, *[1] * (self.values.ndim - 1))
        return _Side(found, sums / counts, self.topics[first])


@dataclass(frozen=True, eq=False)
class _Language:
    """One half of the groups, on the language axis of the other."""

    axis: Array
    """(d,) of length 1."""
    compared: tuple[tuple[_Side, _Side, _Side], ...]
    """Texts of X, X' and Y along the axis, as they are held against each other."""
    start: _Side
    """Means of groups of X along the axis."""
    end: _Side
    """Means of groups of Y along the axis."""
    shifts: _Side
    """From X to X', the means of groups, (m, d)."""

    def compare(self, weights: Indices) -> dict[str, float]:
        parts = []
        for original, translated, target in self.compared:
            found = {}
            there = target.drawn(weights)
            for when, side in (("before", original), ("after", translated)):
                here = side.drawn(weights)
                values = np.concatenate((here, there))
                codes = np.repeat((0, 1), (len(here), len(there)))
                found[f"language auroc {when}"] = float(auroc(values, codes == 1))
                found[f"language variance {when}"] = float(eta_squared(values[:, None], codes)[0])
            parts.append(found)
        return _mean(parts)

    def way(self, weights: Indices) -> tuple[float, float]:
        """How far along the axis X' is from X, and Y is."""
        moved = (self.shifts.drawn(weights) @ self.axis).mean()
        start, end = (side.drawn(weights).mean() for side in (self.start, self.end))
        return float(moved), float(end - start)

    def squares(self, weights: Indices) -> tuple[float, float]:
        """Squared mean shift along the axis and in all, without products of a group with itself."""
        counts = weights[self.shifts.group].astype(np.float64)
        shifts = self.shifts.values
        pairs = counts.sum() ** 2 - (counts**2).sum()

        def squared(values: Array) -> float:
            return float(np.sum((counts @ values) ** 2 - counts**2 @ values**2) / pairs)

        return squared((shifts @ self.axis)[:, None]), squared(shifts)


@dataclass(frozen=True, eq=False)
class _Topics:
    """One half of the groups, with the topics of the other."""

    names: Names
    """(C,)"""
    texts: dict[str, _Side]
    """X and X', (n, d)."""
    scores: dict[str, _Side]
    """Each topic against the rest, (n, C)."""

    def areas(self, weights: Indices) -> dict[str, float]:
        result = {}
        for kind, side in self.scores.items():
            scores = side.drawn(weights)
            topics = np.repeat(side.topics, weights[side.group])
            areas = [auroc(scores[:, c], topics == name) for c, name in enumerate(self.names)]
            result[f"topic auroc {kind}"] = float(np.mean(areas))
        return result

    def means(self, kind: str, weights: Indices) -> Array:
        """Means of topics about the mean of these, (C, d); NaN if a topic is not drawn."""
        side = self.texts[kind]
        counts = (side.topics == self.names[:, None]) * weights[side.group].astype(np.float64)
        with np.errstate(invalid="ignore"):
            means = counts @ side.values / counts.sum(axis=1, keepdims=True)
        return np.asarray(means - means.mean(axis=0))


@dataclass(frozen=True, eq=False)
class _Plan:
    language: tuple[_Language, ...]
    topics: tuple[_Topics, ...]
    cell: Indices
    """(G,) groups of the same number are drawn among each other by the bootstrap."""

    def measure(self, weights: Indices) -> dict[str, float]:
        """All quantities, each group counted as often as `weights`, (G,), says."""
        result = _mean([half.compare(weights) for half in self.language])
        moved, way = np.sum([half.way(weights) for half in self.language], axis=0)
        along, whole = np.sum([half.squares(weights) for half in self.language], axis=0)
        result["paired shift"] = float(moved / way) if way != 0 else math.nan
        result["shift along axis"] = float(along / whole) if whole > 0 else math.nan
        if self.topics:
            result |= _mean([half.areas(weights) for half in self.topics])
            result["topic cosine"] = self._cosine(weights)
        return result

    def _cosine(self, weights: Indices) -> float:
        before = [half.means("original", weights) for half in self.topics]
        after = [half.means("translated", weights) for half in self.topics]
        within = float(np.vdot(*before)), float(np.vdot(*after))
        across = float(np.vdot(before[0], after[1]) + np.vdot(before[1], after[0])) / 2
        agree = all(value > 0 for value in within)  # not if NaN
        return across / math.sqrt(within[0] * within[1]) if agree else math.nan

    def draws(self, count: int, seed: int) -> Iterator[Indices]:
        """How often each group is drawn, with replacement."""
        rng = np.random.default_rng((seed, 1))
        for _ in range(count):
            weights = np.zeros(len(self.cell), dtype=np.int64)
            for cell in np.unique(self.cell):
                size = int((self.cell == cell).sum())
                weights[self.cell == cell] = rng.multinomial(size, np.full(size, 1 / size))
            yield weights


def _mean(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}


# -- how texts are divided -----------------------------------------------------------------------


def _plan(original: Texts, translated: Texts, target: Texts, seed: int) -> _Plan:
    paired = np.intersect1d(original.groups.astype(str), translated.groups.astype(str))
    aimed = np.unique(target.groups.astype(str))
    for found, what in ((paired, "originals and translations share"), (aimed, "target texts have")):
        if len(found) < _FEWEST_GROUPS:
            raise ValueError(
                f"{what} {len(found)} group(s); at least {_FEWEST_GROUPS} are needed, half for the "
                "axis and half to measure: take more texts, or see `group` of their sources"
            )
    names = np.union1d(paired, aimed)
    x, moved = (_side(texts, names, paired) for texts in (original, translated))
    y = _side(target, names, aimed)
    if original.topics is not None:
        moved = _with_topics_of(moved, x, len(names))
    kinds = np.concatenate((["original " + topic for topic in x.topics], ["target"] * len(y.group)))
    dealt = group_folds(np.concatenate((x.group, y.group)), kinds, 4, seed=seed)
    quarter = np.zeros(len(names), dtype=np.int64)
    quarter[np.concatenate((x.group, y.group))] = dealt
    halves = [quarter % 2 == half for half in (0, 1)]
    # Are texts of one group on both sides? Then each quarter meets another one's target texts.
    parallel = len(np.intersect1d(paired, aimed)) > 0
    rooms = [quarter // 2 == room for room in (0, 1)] if parallel else [quarter >= 0]
    swapped = ((halves[0], halves[1]), (halves[1], halves[0]))
    language = tuple(_language(x, moved, y, a, b, rooms) for a, b in swapped)
    topics: tuple[_Topics, ...] = ()
    if original.topics is not None:
        topics = tuple(_topics(x, moved, a, b) for a, b in swapped)
    cell = quarter + 4 * np.isin(names, paired) + 8 * np.isin(names, aimed)
    return _Plan(language, topics, cell)


def _side(texts: Texts, names: Names, kept: Names) -> _Side:
    points, groups = np.asarray(texts.embeddings, dtype=np.float64), texts.groups.astype(str)
    if points.ndim != 2 or len(points) != len(groups):
        raise ValueError(
            f"embeddings must have shape ({len(groups)}, d), one row a text, got {points.shape}"
        )
    topics = np.full(len(groups), "") if texts.topics is None else texts.topics.astype(str)
    here = np.isin(groups, kept)
    return _Side(np.searchsorted(names, groups[here]), points[here], topics[here])


def _with_topics_of(side: _Side, originals: _Side, groups: int) -> _Side:
    known = np.full(groups, "", dtype=originals.topics.dtype)
    known[originals.group] = originals.topics
    topics = np.where(side.topics == "", known[side.group], side.topics)
    return _Side(side.group, side.values, topics)


def _language(
    x: _Side, moved: _Side, y: _Side, fitted: Mask, measured: Mask, rooms: Sequence[Mask]
) -> _Language:
    direction = y.of(fitted).centres().values.mean(axis=0)
    direction = direction - x.of(fitted).centres().values.mean(axis=0)
    length = np.linalg.norm(direction)
    if not length > 1e-9 * np.abs(x.values).max():
        raise ValueError("the means of originals and target texts are equal: no language axis")
    axis = direction / length
    along = [side.put(side.values @ axis).of(measured) for side in (x, moved, y)]
    compared = tuple(
        (along[0].of(room), along[1].of(room), along[2].of(other))
        for room, other in zip(rooms, rooms[::-1], strict=True)
    )
    if not all(len(side.group) for sides in compared for side in sides):
        raise ValueError("groups are too few to be divided: a quarter of them has no texts")
    start, end = x.of(measured).centres(), moved.of(measured).centres()
    return _Language(
        axis, compared, along[0].centres(), along[2].centres(), start.put(end.values - start.values)
    )


def _topics(x: _Side, moved: _Side, fitted: Mask, measured: Mask) -> _Topics:
    names = np.unique(x.topics[x.topics != ""])
    if len(names) < 2:
        raise ValueError("topic: originals have fewer than two topics; leave `topic` out")
    known = {
        kind: side.chosen(np.isin(side.topics, names)).of(measured)
        for kind, side in (("original", x), ("translated", moved))
    }
    training = x.chosen(x.topics != "").of(fitted)
    for name in names:
        if not all((side.topics == name).any() for side in (training, *known.values())):
            raise ValueError(f"topic {str(name)!r} has too few groups to be in both halves of them")
    model = fit_discriminant(training.values, training.topics)
    directions = (model.means - model.means.mean(axis=0)).T
    scores = {k: side.put(model.whitened(side.values) @ directions) for k, side in known.items()}
    return _Topics(names, known, scores)
