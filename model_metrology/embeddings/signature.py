"""Which known source is an item of, how sure is that, and is it of any of them?

Linear discriminants are fitted to all folds of the known items but one, for each fold. Their
answers on the fold left out, which they have not seen, do two things. They set the temperature
that turns scores into probabilities. And they say how far from its source's mean an item of that
source lies: the conformal p-value of an item for a source is the share of the source's own
items, held out, that lie as far out as the item does. If no source has a p-value above the
level, no source is named.

The p-value of an item for its own source is at most `level` about that often, so about that share
of known items, at most, goes unnamed, source by source, whatever the distribution, if groups are
exchangeable. That is measured; proved of such cross-conformal p-values is twice the level (up to a
term that vanishes with the number of items): Vovk, "Cross-conformal predictors", Annals of
Mathematics and Artificial Intelligence 74 (2015) 9–28; Barber, Candès, Ramdas, Tibshirani,
"Predictive inference with the jackknife+", Annals of Statistics 49 (2021) 486–507.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from model_metrology.embeddings.components import auroc
from model_metrology.embeddings.grouping import group_folds
from model_metrology.embeddings.items import Items, excerpt
from model_metrology.embeddings.whitening import Discriminant, fit_discriminant
from model_metrology.variability.metrics import expected_calibration_error
from model_metrology.variability.simulation import wilson_interval

__all__ = [
    "Named",
    "Signature",
    "held_out_names",
    "leave_one_source_out",
    "reliability_table",
    "signature_tables",
]

Array = NDArray[np.float64]
Codes = NDArray[np.int64]

_BINS = 15
_BOOTSTRAPS = 200


@dataclass(frozen=True, eq=False)
class Named:
    """What a signature says of n items."""

    sources: NDArray[np.str_]
    """(C,) the known sources."""
    probabilities: Array
    """(n, C) calibrated, on the premise that an item is of one of the sources."""
    p_values: Array
    """(n, C) conformal p-value of each source."""

    @property
    def predicted(self) -> NDArray[np.str_]:
        """(n,) the likeliest source."""
        return self.sources[self.probabilities.argmax(axis=1)]

    @property
    def confidence(self) -> Array:
        """(n,) its probability."""
        return np.asarray(self.probabilities.max(axis=1))

    @property
    def p_known(self) -> Array:
        """(n,) largest p-value of any source: small for what is of none."""
        return np.asarray(self.p_values.max(axis=1))

    def abstained(self, level: float) -> NDArray[np.bool_]:
        """(n,) whether no source is named."""
        return self.p_known <= level


@dataclass(frozen=True, eq=False)
class Signature:
    """Tells of which known source an item is; see :meth:`fit`."""

    sources: NDArray[np.str_]
    """(C,) names, sorted."""
    models: tuple[Discriminant, ...]
    """One a fold, fitted to the others."""
    distances: tuple[tuple[Array, ...], ...]
    """For each fold and source: squared distances of its items, held out, from the source's mean,
    increasing."""
    priors: Array
    """(C,) shares of the sources among the items."""
    temperature: float
    """What scores are divided by."""

    @classmethod
    def fit(
        cls,
        embeddings: ArrayLike,
        sources: ArrayLike,
        groups: ArrayLike,
        *,
        folds: int = 5,
        seed: int = 0,
    ) -> Signature:
        """Learn the signatures of known sources.

        Parameters
        ----------
        embeddings : array_like, shape (n, d)
            Known items.
        sources, groups : array_like, shape (n,)
            Source of each, and what belongs together. One source will do: then all that is asked
            is whether an item is of it.
        folds, seed : int
            See :func:`~model_metrology.embeddings.grouping.group_folds`.

        Raises
        ------
        ValueError
            If shapes disagree, a value is not finite, a source has too few groups, or its items do
            not vary.
        """
        points, labels, together = _checked(embeddings, sources, groups)
        names, codes = np.unique(labels, return_inverse=True)
        fold = group_folds(together, labels, folds, seed=seed)
        scores = np.empty((len(codes), len(names)))
        models, distances = [], []
        for held in range(folds):
            test = fold == held
            model = fit_discriminant(points[~test], labels[~test])
            far = model.distances(points[test])
            scores[test] = -far / 2
            models.append(model)
            own = codes[test]
            distances.append(tuple(np.sort(far[own == c, c]) for c in range(len(names))))
        priors = np.bincount(codes) / len(codes)
        temperature = _temperature(scores, codes, priors)
        return cls(names, tuple(models), tuple(distances), priors, temperature)

    def name(self, embeddings: ArrayLike) -> Named:
        """Name the sources of items, (n, d)."""
        far = [model.distances(embeddings) for model in self.models]
        scores = -np.mean(far, axis=0) / 2
        p_values = np.empty_like(scores)
        for c in range(len(self.sources)):
            beyond, total = np.zeros(len(scores)), 0
            for held, values in zip(self.distances, far, strict=True):
                beyond += len(held[c]) - np.searchsorted(held[c], values[:, c], side="left")
                total += len(held[c])
            p_values[:, c] = (1 + beyond) / (1 + total)
        logits = scores / self.temperature + np.log(self.priors)
        return Named(self.sources, softmax(logits, axis=1), p_values)


def _checked(
    embeddings: ArrayLike, sources: ArrayLike, groups: ArrayLike
) -> tuple[Array, NDArray[np.str_], NDArray[np.str_]]:
    points = np.asarray(embeddings, dtype=np.float64)
    labels, together = (np.asarray(values).astype(str) for values in (sources, groups))
    if points.ndim != 2 or not len(points) == len(labels) == len(together):
        raise ValueError(
            f"embeddings must have shape ({len(labels)}, d), one row a source and group, got "
            f"{points.shape} and {len(together)} groups"
        )
    return points, labels, together


def _several(labels: NDArray[np.str_]) -> NDArray[np.str_]:
    names = np.unique(labels)
    if len(names) < 2:
        raise ValueError(f"sources: at least two are to be told apart, got {names.tolist()}")
    return names


def _temperature(scores: Array, codes: Codes, priors: Array) -> float:
    """Temperature of least logarithmic loss on held-out scores (Guo et al. 2017), at least 1.

    Where no held-out item is named wrong, the least loss is at temperature 0; the Gaussian law
    that scores are of says, at 1, how sure to be at most. Targets short of certain, as Platt has
    them, would not do: of sources far apart they ask for doubt that no scores have.
    """
    if scores.shape[1] == 1:
        return 1.0
    own = (np.arange(len(codes)), codes)

    def loss(log_temperature: float) -> float:
        logits = scores * np.exp(-log_temperature) + np.log(priors)
        return float(-log_softmax(logits, axis=1)[own].sum())

    found = np.exp(minimize_scalar(loss, bounds=(0, 20), method="bounded").x)
    return 1.0 if loss(0) <= loss(np.log(found)) else float(found)


# -- held-out answers ----------------------------------------------------------------------------


def held_out_names(
    embeddings: ArrayLike,
    sources: ArrayLike,
    groups: ArrayLike,
    *,
    folds: int = 5,
    seed: int = 0,
) -> Named:
    """Name each item by a signature that has not seen its group.

    Parameters
    ----------
    embeddings, sources, groups : array_like, shapes (n, d), (n,), (n,)
        Known items.
    folds : int
        Each is named by a signature of the others, which has as many folds itself.
    seed : int
        Of the folds.

    Raises
    ------
    ValueError
        If there are fewer than two sources, or see :meth:`Signature.fit`.
    """
    points, labels, together = _checked(embeddings, sources, groups)
    names = _several(labels)
    probabilities, p_values = np.empty((2, len(labels), len(names)))
    for test, signature in _outer(points, labels, together, labels != "", folds, seed):
        found = signature.name(points[test])
        probabilities[test], p_values[test] = found.probabilities, found.p_values
    return Named(names, probabilities, p_values)


def leave_one_source_out(
    embeddings: ArrayLike,
    sources: ArrayLike,
    groups: ArrayLike,
    *,
    folds: int = 5,
    seed: int = 0,
) -> dict[str, Named]:
    """Each source in turn unseen: what do signatures of the others say?

    Parameters
    ----------
    embeddings, sources, groups, folds, seed
        As in :func:`held_out_names`. Items of the source that is left out, too, are named by a
        signature that has not seen their group, so that a familiar prompt is no help.

    Returns
    -------
    dict of str to Named
        By the source left out: what is said of all n items, its own and those of the known
        sources.

    Raises
    ------
    ValueError
        As :func:`held_out_names`.
    """
    points, labels, together = _checked(embeddings, sources, groups)
    names = _several(labels)
    result = {}
    for unseen in names:
        known = names[names != unseen]
        probabilities, p_values = np.empty((2, len(labels), len(known)))
        for test, signature in _outer(points, labels, together, labels != unseen, folds, seed):
            found = signature.name(points[test])
            probabilities[test], p_values[test] = found.probabilities, found.p_values
        result[str(unseen)] = Named(known, probabilities, p_values)
    return result


def _outer(
    points: NDArray[Any],
    labels: NDArray[np.str_],
    groups: NDArray[np.str_],
    known: NDArray[np.bool_],
    folds: int,
    seed: int,
) -> Iterator[tuple[NDArray[np.bool_], Signature]]:
    """Each fold of items, and a signature of the known ones among the others."""
    fold = group_folds(groups, labels, folds, seed=seed)
    for held in range(folds):
        test = fold == held
        training = known & ~test
        yield (
            test,
            Signature.fit(
                points[training], labels[training], groups[training], folds=folds, seed=seed + 1
            ),
        )


# -- tables --------------------------------------------------------------------------------------


def signature_tables(
    items: Items,
    points: ArrayLike,
    key: Mapping[str, Any],
    *,
    level: float = 0.05,
    folds: int = 5,
    seed: int = 0,
    unknown: Items | None = None,
    unknown_points: ArrayLike | None = None,
) -> dict[str, pd.DataFrame]:
    """How well known sources are named, and what is said of unseen ones and of unknown items.

    Parameters
    ----------
    items : Items
        n items of the known sources.
    points : array_like, shape (n, d)
        Their embedding.
    key : mapping
        Columns ``contrast``, ``embedder``, ``view``.
    level : float
        How often an item of a known source may go unnamed.
    folds, seed : int
        Of :func:`held_out_names`.
    unknown : Items, optional
        m items of unknown origin, named by a signature of all known items.
    unknown_points : array_like, shape (m, d), optional
        Their embedding.

    Returns
    -------
    dict of str to DataFrame
        ``signature``: an item a row, by ``scenario``. ``known``: all items, held out; ``without
        NAME``: those of source NAME, named by signatures of the others; ``unknown``. With
        ``item`` (position), ``source``, ``predicted``, ``confidence``, ``p_known``, ``abstained``,
        ``excerpt``.

        ``signature_summary``: ``scenario``, ``quantity``, ``value``, ``lower``, ``upper``. Of
        ``known``: ``accuracy`` of all items whether named or not, ``accuracy when named``, share
        ``abstained``, and ``ece`` of all items (15 bins of equal width). Of ``without NAME``: share
        of NAME's items ``abstained``, and ``novelty auroc``, P(an item of NAME has a smaller
        p_known than an item of the others, both held out). Of ``unknown``: share ``abstained``.
        Shares have Wilson's 95 % intervals, which take items to be independent; ``ece`` and
        ``novelty auroc`` have percentile intervals over resampled groups.

        ``reliability``: see :func:`reliability_table`.

    Raises
    ------
    ValueError
        If `level` is out of range, `unknown` comes without its embedding, or see
        :func:`held_out_names`.
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie in (0, 1), got {level!r}")
    if (unknown is None) != (unknown_points is None):
        raise ValueError("unknown and unknown_points: give both, or neither")
    embedded, sources = np.asarray(points), items.source.astype(str)
    splitting = {"folds": folds, "seed": seed}
    known = held_out_names(embedded, sources, items.group, **splitting)
    item_rows = [_item_rows("known", items, np.arange(len(sources)), known, level)]
    summary = _known_rows(known, sources, items.group, level, seed)
    for name, named in leave_one_source_out(embedded, sources, items.group, **splitting).items():
        scenario, own = f"without {name}", sources == name
        mine = Named(named.sources, named.probabilities[own], named.p_values[own])
        item_rows.append(_item_rows(scenario, items, np.flatnonzero(own), mine, level))
        summary += _unseen_rows(scenario, named, own, items.group, level, seed)
    if unknown is not None and unknown_points is not None:
        named = Signature.fit(embedded, sources, items.group, **splitting).name(unknown_points)
        item_rows.append(_item_rows("unknown", unknown, np.arange(len(unknown)), named, level))
        summary.append(_share("unknown", "abstained", named.abstained(level)))
    tables = {
        "signature": pd.concat(item_rows, ignore_index=True),
        "signature_summary": pd.DataFrame(summary),
        "reliability": reliability_table(known.confidence, known.predicted == sources),
    }
    for kind, table in tables.items():
        for i, (column, value) in enumerate(key.items()):
            if column != "view" or kind == "signature":
                table.insert(i, column, value)
    return tables


def reliability_table(
    confidence: ArrayLike, right: ArrayLike, *, bins: int = _BINS
) -> pd.DataFrame:
    """How often items are named right, by how sure that was said to be.

    Parameters
    ----------
    confidence : array_like, shape (n,)
        Probability of what was predicted.
    right : array_like of bool, shape (n,)
        Whether it was.
    bins : int
        Of equal width on (0, 1]: those of the expected calibration error, which is the mean over
        items of the distance between their bin's accuracy and confidence.

    Returns
    -------
    DataFrame
        A row for each bin that is not empty: ``bin_lower``, ``bin_upper``, ``confidence`` (mean),
        ``accuracy``, ``lower``, ``upper`` (Wilson's 95 % interval), ``count``.
    """
    sure, hits = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=bool)
    place = np.clip(np.ceil(sure * bins).astype(np.int64) - 1, 0, bins - 1)
    rows = []
    for b in np.unique(place):
        here = place == b
        accuracy = _share("", "accuracy", hits[here])
        rows.append(
            {
                "bin_lower": b / bins, "bin_upper": (b + 1) / bins, "confidence": sure[here].mean(),
                "accuracy": accuracy["value"], "lower": accuracy["lower"],
                "upper": accuracy["upper"], "count": int(here.sum()),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def _item_rows(
    scenario: str, items: Items, positions: Codes, named: Named, level: float
) -> pd.DataFrame:
    texts = items.texts
    return pd.DataFrame(
        {
            "scenario": scenario,
            "item": positions,
            "source": items.source[positions],
            "predicted": named.predicted,
            "confidence": named.confidence,
            "p_known": named.p_known,
            "abstained": named.abstained(level),
            "excerpt": "" if texts is None else [excerpt(texts[i]) for i in positions],
        }
    )


def _known_rows(
    named: Named, sources: NDArray[np.str_], groups: NDArray[Any], level: float, seed: int
) -> list[dict[str, Any]]:
    codes = np.searchsorted(named.sources, sources)
    right, abstained = named.predicted == sources, named.abstained(level)

    def ece(index: Codes) -> float:
        return expected_calibration_error(named.probabilities[index], codes[index], bins=_BINS)

    return [
        _share("known", "accuracy", right),
        _share("known", "accuracy when named", right[~abstained]),
        _share("known", "abstained", abstained),
        _resampled("known", "ece", ece, groups, seed),
    ]


def _unseen_rows(
    scenario: str,
    named: Named,
    own: NDArray[np.bool_],
    groups: NDArray[Any],
    level: float,
    seed: int,
) -> list[dict[str, Any]]:
    def area(index: Codes) -> float:
        return float(auroc(-named.p_known[index], own[index]))

    return [
        _share(scenario, "abstained", named.abstained(level)[own]),
        _resampled(scenario, "novelty auroc", area, groups, seed),
    ]


def _share(scenario: str, quantity: str, hits: NDArray[np.bool_]) -> dict[str, Any]:
    """Share of hits, with Wilson's interval; NaN of nothing."""
    row: dict[str, Any] = {"scenario": scenario, "quantity": quantity}
    if len(hits) == 0:
        return row | dict.fromkeys(("value", "lower", "upper"), np.nan)
    lower, upper = wilson_interval(int(hits.sum()), len(hits))
    return row | {"value": float(hits.mean()), "lower": lower, "upper": upper}


def _resampled(
    scenario: str, quantity: str, measure: Callable[[Codes], float], groups: ArrayLike, seed: int
) -> dict[str, Any]:
    """A quantity of items, with a 95 % percentile interval over groups drawn with replacement."""
    group = np.unique(np.asarray(groups).astype(str), return_inverse=True)[1]
    count = int(group.max()) + 1
    rng = np.random.default_rng((seed, 2))
    every = np.arange(len(group))
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=_BOOTSTRAPS)
    values = np.array([measure(np.repeat(every, weights[group])) for weights in drawn])
    lower, upper = np.nanquantile(values, [0.025, 0.975])
    return {
        "scenario": scenario, "quantity": quantity, "value": measure(every),
        "lower": float(lower), "upper": float(upper),
    }  # fmt: skip
