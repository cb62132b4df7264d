"""Which optimiser trained this run? A classifier on its spectra that may say that it cannot tell.

Two of the four recipes are one in the limit: gradient descent and SGD with a small step both follow
the gradient flow. A classifier is therefore asked for the *set* of names that fit a run: one name,
several (undecided), or none (an optimiser, or a setting, that it was not shown). What it reaches is
held against what the final loss and plain norms reach, on runs unlike those it was trained on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy
from numpy.typing import ArrayLike, NDArray
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.covariance import LedoitWolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

from model_metrology.spectra.runs import MATRICES, RunSpectra
from model_metrology.variability.metrics import expected_calibration_error
from model_metrology.variability.simulation import wilson_interval

__all__ = [
    "MAIN",
    "NONE_FITS",
    "UNDECIDED",
    "ForensicsTables",
    "OptimiserClassifier",
    "evaluate",
    "feature_sets",
    "gather",
    "spectral_features",
]

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]

MAIN = "spectra"
"""The feature set that the tables are about; the others are held against it."""
UNDECIDED = "undecided"
"""Said of a run that several names fit."""
NONE_FITS = "none fits"
"""Said of a run that no name fits."""

_FINAL = "final "
# Eigenvalues by rank, from the top: a spike is one of them however large the matrix is. The bulk
# is looked at by quantiles, its upper half alone: how far the lower edge moves depends on the
# width far more than on the optimiser.
_RANKS = (1, 2, 3, 5, 10)
_QUANTILES = (0.5, 0.75, 0.9)
_ZERO = 1e-10
# GD and SGD with a small step both follow the gradient flow; three classes are told apart.
_SAME = {"GD": "gradient flow", "SGD-small": "gradient flow"}
_BINS = 15
# How much of the mixture the forest may be: half, unless it or the linear rule alone is right more
# often by this much.
_WEIGHTS = (0.5, 1.0, 0.0)
_BETTER = 0.01
_FEWEST_TREES = 50
_UNKNOWN = "unknown optimisers"


def spectral_features(spectra: RunSpectra, *, initial: bool = True) -> dict[str, float]:
    """Features of a run from its spectra, without a unit.

    Parameters
    ----------
    spectra : RunSpectra
        Of the run; the first step must be its initialisation, and the last is what it ends with.
    initial : bool
        Add what is known only by who has the initial network as well.

    Returns
    -------
    dict of str to float
        Names begin with ``final`` where the trained network suffices: the shape of each of the
        three spectra, and ‖v_t‖/√h. The others hold the end against the beginning: eigenvalues by
        rank, quantiles of the bulk, how many are beyond the initial edge, the shares of the
        displacement's singular values, and what the spectra and the readout moved for the length
        that the weights went.

    Raises
    ------
    ValueError
        If a spectrum has fewer than ten eigenvalues, or, with `initial`, there is but one step or
        the weights have not moved, or a spectrum is not finite.

    Notes
    -----
    All are ratios, or differences over a spread, so that a network of another width or number of
    points has comparable ones. Lengths such as ‖W_t − W_0‖ are no features: they tell the labels'
    scale and the training time, and what they reveal of the optimiser is a baseline of its own
    (:func:`feature_sets`). The final loss is no spectrum.

    The growth of ‖W‖² over ‖W_t − W_0‖² is 1 for a displacement orthogonal to the initialisation,
    as noise is. Under the gradient flow of a homogeneous activation ‖W‖² − ‖v‖² does not change
    (Du, Hu & Lee 2018, arXiv:1806.00900), and each step of finite size η adds to it
    η² (‖∂_W‖² − ‖∂_v‖²): the step size, and the noise, show in how the two grow.
    """
    parts = *spectra.eigenvalues.values(), spectra.displacement, spectra.readout
    if not all(np.isfinite(part[[0, -1]]).all() for part in parts):
        raise ValueError(
            f"run {spectra.run}: the spectra are not finite; leave out runs that diverged"
        )
    features: dict[str, float] = {}
    for matrix in MATRICES:
        after = spectra.eigenvalues[matrix][-1]
        if len(after) < max(_RANKS):
            raise ValueError(
                f"run {spectra.run}: {len(after)} eigenvalues of the {matrix}, and at least "
                f"{max(_RANKS)} are needed; take a larger network"
            )
        features |= _final(f"{_FINAL}{matrix}", after)
    features[f"{_FINAL}readout: log norm"] = math.log(spectra.readout[-1, 0])
    return features | _changes(spectra) if initial else features


def _final(name: str, values: Array) -> dict[str, float]:
    """Shape of a spectrum (N,), ascending; eigenvalues that are zero by shape are left out."""
    positive = values[values > _ZERO * values[-1]]
    quarter, median, three, decile = np.quantile(positive, [0.25, 0.5, 0.75, 0.9])
    features = {
        f"{name}: log eigenvalue {rank} / upper decile": math.log(values[-rank] / decile)
        for rank in _RANKS[:-1]
    }
    return features | {
        f"{name}: log upper decile / median": math.log(decile / median),
        f"{name}: log upper / lower quartile": math.log(three / quarter),
        f"{name}: log effective rank / size": _log_effective_rank(values) - math.log(len(values)),
        f"{name}: log share of the largest": math.log(values[-1] / values.sum()),
    }


def _log_effective_rank(values: Array) -> float:
    """Log (Σλ)²/Σλ²."""
    return 2.0 * math.log(values.sum()) - math.log(np.square(values).sum())


def _changes(spectra: RunSpectra) -> dict[str, float]:
    """What the end shows against the beginning."""
    if len(spectra.steps) < 2 or not spectra.displacement[-1].any():
        raise ValueError(
            f"run {spectra.run}: the weights have not moved, or only one step was measured; "
            "take spectra at the beginning and at the end, or pass initial=False"
        )
    features: dict[str, float] = {}
    for matrix in MATRICES:
        before, after = spectra.eigenvalues[matrix][0], spectra.eigenvalues[matrix][-1]
        features |= _change(matrix, before, after)
        features |= _change_for_length(matrix, before, after, spectra)
    return features | _displacement(spectra.displacement[-1]) | _growth(spectra)


def _change(name: str, before: Array, after: Array) -> dict[str, float]:
    """Change of a spectrum; (N,) each, ascending."""
    spread, moved = before.std(), after - before
    root_mean_square = math.sqrt(np.square(moved).mean())
    features = {
        f"{name}: log eigenvalue {rank} / initial": math.log(after[-rank] / before[-rank])
        for rank in _RANKS
    }
    features |= {
        f"{name}: quantile {share:g}, change / spread": float(
            (np.quantile(after, share) - np.quantile(before, share)) / spread
        )
        for share in _QUANTILES
    }
    gap = (after[-1] - after[-2]) - (before[-1] - before[-2])
    return features | {
        f"{name}: gap of the largest, change / spread": gap / spread,
        f"{name}: log trace / initial": math.log(after.sum() / before.sum()),
        f"{name}: log spread / initial": math.log(after.std() / spread),
        f"{name}: log effective rank / initial": (
            _log_effective_rank(after) - _log_effective_rank(before)
        ),
        # 3 % beyond the largest initial one is more than eigenvalues of a bulk fluctuate.
        f"{name}: share beyond the initial edge": float(np.mean(after > 1.03 * before[-1])),
        f"{name}: log change / spread": math.log(root_mean_square / spread),
        f"{name}: log largest / typical change": math.log(np.abs(moved).max() / root_mean_square),
        f"{name}: mean / typical change": moved.mean() / root_mean_square,
    }


def _change_for_length(
    name: str, before: Array, after: Array, spectra: RunSpectra
) -> dict[str, float]:
    """How much a spectrum changed for the length that the weights went."""
    travelled = np.square(spectra.displacement[-1]).sum()
    start = spectra.eigenvalues["weights"][0].sum()
    length = math.sqrt(travelled / start)
    top = spectra.displacement[-1][0] / math.sqrt(start)
    moved = float(np.linalg.norm(after - before) / np.linalg.norm(before))
    return {
        f"{name}: log change / displacement": math.log(moved / length),
        f"{name}: trace growth / displacement²": (after.sum() / before.sum() - 1.0) / length**2,
        # An eigenvalue may move either way, and by nothing.
        f"{name}: largest, asinh change / displacement's largest": math.asinh(
            (after[-1] / before[-1] - 1.0) / top
        ),
    }


def _displacement(singular: Array) -> dict[str, float]:
    """Shares of the displacement's singular values, (r,) descending."""
    shares = np.square(singular) / np.square(singular).sum()
    shares = np.maximum(shares, _ZERO)
    return {
        f"displacement: log share {rank}": math.log(shares[rank - 1]) for rank in _RANKS[:-1]
    } | {
        "displacement: log effective rank": _log_effective_rank(shares),
        "displacement: log second / third": math.log(shares[1] / shares[2]),
    }


def _growth(spectra: RunSpectra) -> dict[str, float]:
    """How the two layers' lengths grew for the lengths that they went."""
    travelled = float(np.square(spectra.displacement[-1]).sum())
    traces = spectra.eigenvalues["weights"]
    grown = float(traces[-1].sum() - traces[0].sum())
    readout = float(spectra.readout[-1, 0] ** 2 - spectra.readout[0, 0] ** 2)
    # A readout that is not trained has not moved: the floor keeps its logarithm finite.
    floor = 1e-6 * spectra.readout[0, 0]
    went = max(float(spectra.readout[-1, 1]), floor)
    return {
        "growth: ‖W‖² / displacement²": grown / travelled,
        "growth: ‖v‖² / its displacement²": readout / went**2,
        "growth: log displacement of v / of W": math.log(went / math.sqrt(travelled)),
        "growth: angle between ‖W‖² and ‖v‖²": math.atan2(readout, grown),
    }


class OptimiserClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Name of the optimiser, or the names that fit, from features of a run.

    Probabilities are the mean of two classifiers': a forest, which follows any dependence but
    is constant beyond what it was shown, and a linear discriminant, which goes on. Where one of
    them alone is right more often out of sample, by 1 % of the runs, it stands alone: of three
    features a forest is often better. One temperature, fitted to out-of-sample predictions,
    calibrates them.

    Parameters
    ----------
    level : float
        A run's true name is left out of its set with at most about this probability.
    trees : int
        Size of the forest; at least 50, so that each run is out of bag somewhere.
    folds : int
        Folds of the out-of-sample predictions.
    random_state : int
        Seed of the forest and of the folds.

    Attributes
    ----------
    classes_ : ndarray of str, shape (C,)
        The names, sorted.
    weight_ : float
        Of the forest: 0.5, or 1 or 0 where one of the two stands alone.
    temperature_ : float
        By which logarithms of probabilities are divided.

    Notes
    -----
    The sets are conformal ones, calibrated class by class (Mondrian: Vovk, Gammerman & Shafer,
    *Algorithmic Learning in a Random World*, 2005, section 4.5), so that each class is covered at
    the level, not only their mixture. A name is refused where the run's probability of it is
    among the smallest that runs of this class have, or where the run lies further from the class
    than its own runs do: Mahalanobis distance, covariance by Ledoit & Wolf (2004). The two
    tests share the level (Bonferroni). Probabilities tell known classes from each other and say
    nothing of a run of neither; the distance does that, and refuses all names to a run that is
    unlike all.

    Calibration scores are out of bag for the forest (Johansson, Boström, Löfström & Linusson 2014)
    and out of fold for the rest (cross-conformal: Vovk 2015): runs are too dear to be spent on
    calibration alone. Coverage is about 1 − `level` then, of runs exchangeable with those of `fit`;
    at a width or step size that `fit` has not seen it is what :func:`evaluate` finds. A class with
    fewer than 2/`level` − 1 runs is never refused: such runs are undecided.

    To name a network's optimiser from what the network shows was tried before with black-box
    outputs: KENNEN, Oh, Augustin, Fritz & Schiele, ICLR 2018 (79.3 % of three optimisers).
    """

    def __init__(
        self, *, level: float = 0.05, trees: int = 100, folds: int = 5, random_state: int = 0
    ) -> None:
        self.level = level
        self.trees = trees
        self.folds = folds
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> OptimiserClassifier:
        """Fit to runs of known optimisers.

        Parameters
        ----------
        X : array_like, shape (n, p)
            Features.
        y : array_like of str, shape (n,)
            Names.

        Raises
        ------
        ValueError
            If `level` is not in (0, 1), there are too few trees, features are not finite, there
            are fewer than two classes, or a class has fewer runs than there are folds.
        """
        if not 0.0 < self.level < 1.0:
            raise ValueError(f"level must lie in (0, 1), got {self.level!r}")
        if self.trees < _FEWEST_TREES:
            raise ValueError(f"trees must be at least {_FEWEST_TREES}, got {self.trees}")
        values, names = _checked(X), np.asarray(y)
        _check_classes(names, self.folds)
        self.classes_ = np.unique(names)
        self.n_features_in_ = values.shape[1]
        # Checked here once, and not by each of some hundred small estimators.
        with config_context(assume_finite=True, skip_parameter_validation=True):
            self._fit(values, np.searchsorted(self.classes_, names))
        return self

    def _fit(self, values: Array, truth: NDArray[np.int64]) -> None:
        unseen = self._fit_members(values, truth)
        self.weight_ = _weight(*unseen, truth)
        mixed = self._mixed(*unseen)
        self.temperature_ = _temperature(mixed, truth)
        cooled = _cooled(mixed, self.temperature_)
        self._scale = StandardScaler().fit(values)
        scaled = self._scale.transform(values)
        classes = range(len(self.classes_))
        self._scores = [np.sort(cooled[truth == c, c]) for c in classes]
        self._near = [_Distance(scaled[truth == c], self.folds, self.random_state) for c in classes]

    def _fit_members(self, values: Array, truth: NDArray[np.int64]) -> tuple[Array, Array]:
        """Fit both classifiers; returns their out-of-sample probabilities (n, C)."""
        forest = ExtraTreesClassifier(
            self.trees,
            # A leaf of one run would make probabilities of 0 and 1.
            min_samples_leaf=2,
            bootstrap=True,
            oob_score=True,
            random_state=self.random_state,
        )
        linear = make_pipeline(
            StandardScaler(), LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        )
        folds = StratifiedKFold(self.folds, shuffle=True, random_state=self.random_state)
        unseen = cross_val_predict(linear, values, truth, cv=folds, method="predict_proba")
        self._forest, self._linear = forest.fit(values, truth), linear.fit(values, truth)
        return forest.oob_decision_function_, unseen

    def predict_proba(self, X: ArrayLike) -> Array:
        """Probabilities (n, C) of the classes, in the order of `classes_`."""
        check_is_fitted(self)
        values = _checked(X)
        with config_context(assume_finite=True, skip_parameter_validation=True):
            mixed = self._mixed(*(m.predict_proba(values) for m in (self._forest, self._linear)))
        return _cooled(mixed, self.temperature_)

    def _mixed(self, forest: Array, linear: Array) -> Array:
        return np.asarray(self.weight_ * forest + (1.0 - self.weight_) * linear)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The likeliest name of each run, shape (n,)."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    def p_values(self, X: ArrayLike) -> Array:
        """Of each name, how probable a run as strange as this is among its own; shape (n, C)."""
        return self._p_values(X, self.predict_proba(X))

    def _p_values(self, X: ArrayLike, probabilities: Array) -> Array:
        scaled = self._scale.transform(_checked(X))
        columns = []
        for c, (scores, near) in enumerate(zip(self._scores, self._near, strict=True)):
            fewer = np.searchsorted(scores, probabilities[:, c], side="right")
            unlikely = (1.0 + fewer) / (1.0 + len(scores))
            columns.append(np.minimum(1.0, 2.0 * np.minimum(unlikely, near.p_values(scaled))))
        return np.stack(columns, axis=1)

    def names(self, X: ArrayLike) -> list[tuple[str, ...]]:
        """The names that fit each run: one, several (undecided), or none."""
        return self._names(self.p_values(X))

    def _names(self, p_values: Array) -> list[tuple[str, ...]]:
        return [tuple(str(name) for name in self.classes_[row > self.level]) for row in p_values]


class _Distance:
    """Mahalanobis distance to a class, and how far its own runs are when they are left out."""

    def __init__(self, values: Array, folds: int, seed: int) -> None:
        self._covariance = LedoitWolf().fit(values)
        own = np.empty(len(values))
        for kept, left in KFold(folds, shuffle=True, random_state=seed).split(values):
            own[left] = LedoitWolf().fit(values[kept]).mahalanobis(values[left])
        self._own = np.sort(own)

    def p_values(self, values: Array) -> Array:
        """Share of the class's own runs that are as far, (n,)."""
        distances = self._covariance.mahalanobis(values)
        farther = len(self._own) - np.searchsorted(self._own, distances, side="left")
        return np.asarray((1.0 + farther) / (1.0 + len(self._own)))


def _checked(features: ArrayLike) -> Array:
    values = np.asarray(features, dtype=np.float64)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"features must be (n, p) and not empty, got shape {values.shape}")
    if not np.isfinite(values).all():
        columns = np.flatnonzero(~np.isfinite(values).all(axis=0))
        if isinstance(features, pd.DataFrame):
            columns = features.columns[columns].to_numpy()
        raise ValueError(
            f"features not finite in column(s) {', '.join(str(c) for c in columns)}; "
            "leave out runs that diverged"
        )
    return values


def _check_classes(names: NDArray[Any], folds: int) -> None:
    classes, counts = np.unique(names, return_counts=True)
    if len(classes) < 2:
        raise ValueError(
            f"runs of one class alone ({', '.join(map(str, classes))}) or none; name runs of at "
            "least two optimisers as known"
        )
    for name, count in zip(classes, counts, strict=True):
        if count < folds:
            raise ValueError(
                f"{count} run(s) of {str(name)!r}, and at least {folds} are needed; add seeds or "
                "settings of this class"
            )


def _cooled(probabilities: Array, temperature: float) -> Array:
    """Probabilities (n, C) at another temperature."""
    # A probability of 0 would stay 0 at any temperature.
    powers = np.power(np.maximum(probabilities, 1e-6), 1.0 / temperature)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _weight(forest: Array, linear: Array, truth: NDArray[np.int64]) -> float:
    """Weight of the forest, from out-of-sample probabilities (n, C)."""

    def accuracy(weight: float) -> float:
        mixed = weight * forest + (1.0 - weight) * linear
        return float(np.mean(mixed.argmax(axis=1) == truth))

    best = max(_WEIGHTS, key=accuracy)
    return best if accuracy(best) > accuracy(_WEIGHTS[0]) + _BETTER else _WEIGHTS[0]


def _temperature(probabilities: Array, truth: NDArray[np.int64]) -> float:
    """Temperature of the greatest likelihood (Guo, Pleiss, Sun & Weinberger, ICML 2017)."""
    rows = np.arange(len(truth))

    def loss(log_temperature: float) -> float:
        cooled = _cooled(probabilities, math.exp(log_temperature))
        return -float(np.log(cooled[rows, truth]).mean())

    found = scipy.optimize.minimize_scalar(loss, bounds=(-2.0, 2.0), method="bounded")
    return math.exp(float(found.x))


@dataclass(frozen=True, eq=False)
class ForensicsTables:
    """How well optimisers are named.

    Attributes
    ----------
    accuracy : DataFrame
        One row a feature set, split and part, with columns

        ``features``; ``split``: ``unseen seeds``, or ``unseen`` and the key of which a value at
        a time was left out of training; ``part``: ``all``, and of keys with three or more
        numbers also ``inside`` (values between others) and ``beyond`` (the smallest and the
        largest, which are extrapolations); ``n`` runs;
        ``accuracy`` of the likeliest name, ``low`` and ``high`` its Wilson interval at 95 %;
        ``accuracy3``: the same where GD and SGD-small are one class;
        ``named``, ``undecided``, ``none_fits``: shares of runs with one, several and no
        names in their set; ``abstained``: the latter two together;
        ``accuracy_named`` of the runs with one name; NaN if there are none;
        ``set_contains_truth``: share of runs whose set holds their true name;
        ``right_or_abstained``: share of runs to which no wrong name was given;
        ``ece``, expected calibration error: confidence of the likeliest name, 15 bins.
    unknown : DataFrame
        One row a feature set and optimiser that is in no class: ``features``, ``truth``, ``n``,
        ``abstained`` with ``low`` and ``high``, ``undecided``, ``none_fits``.
    confusion : DataFrame
        Of the main features: ``features``, ``split``, ``truth``, ``named`` (a class, ``undecided``
        or ``none fits``), ``count``; the split of optimisers in no class is
        ``unknown optimisers``, named by a classifier of all known runs.
    reliability : DataFrame
        Of the main features, unseen seeds: ``low`` and ``high`` ends of a bin, ``count``,
        ``confidence`` and ``accuracy`` (means; NaN in empty bins).
    predictions : DataFrame
        Of the main features, one row a run and split: the columns of the runs, ``split``,
        ``held`` (the value left out, or the fold), ``truth``, ``predicted``, ``confidence``,
        ``names`` (joined by `` | ``; empty if none fits) and ``verdict`` (as ``named`` of the
        confusion).
    """

    accuracy: pd.DataFrame
    unknown: pd.DataFrame
    confusion: pd.DataFrame
    reliability: pd.DataFrame
    predictions: pd.DataFrame


def gather(
    spectra: Mapping[str, Sequence[RunSpectra]],
    table: pd.DataFrame,
    *,
    classes: Mapping[str, Sequence[str]],
    unknown: Mapping[str, Sequence[str]],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Features and descriptions of the runs that :func:`evaluate` takes.

    Parameters
    ----------
    spectra : mapping
        Runs of each sweep, by the sweep's name.
    table : DataFrame
        Of all spectra, from :func:`~model_metrology.spectra.measure.measure_runs`.
    classes, unknown : mapping
        Sweeps by the optimiser's name: those to be named, and those in no class.

    Returns
    -------
    features, runs : DataFrame
        One row a run. ``step_rank`` is the rank of the step size among those of its label.
    """
    weights = table[table["matrix"] == "weights"].set_index(["group", "run"])
    members = [
        (label, known, name, run)
        for known, labels in ((True, classes), (False, unknown))
        for label, names in labels.items()
        for name in names
        for run in spectra[name]
    ]
    rows = []
    for label, known, name, run in members:
        end = weights.loc[[(name, run.run)]].iloc[-1].to_dict()
        row = {"group": name, "run": run.run, "label": label, "known": known}
        rows.append(row | end | {"readout_change": run.readout[-1, 1]})
    runs = pd.DataFrame(rows)
    rates = runs.groupby("label")["recipe.learning_rate"]
    runs["step_rank"] = rates.rank(method="dense").astype(int)
    return pd.DataFrame([spectral_features(run) for *_, run in members]), runs


def feature_sets(features: pd.DataFrame, runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The features that are compared, by name.

    Parameters
    ----------
    features : DataFrame
        One row a run, from :func:`spectral_features`.
    runs : DataFrame
        Rows in the same order; columns ``loss``, ``norm_change`` (‖W_t − W_0‖_F/√d) and, if the
        readout's is known, ``readout_change``.

    Returns
    -------
    dict of str to DataFrame
        ``spectra``: what is held against the initial spectra. Features whose names begin with
        ``final`` are left out of it: the law of a spectrum depends on the width, so that they
        tell a width from another first. ``weights alone``: those of the weights' eigenvalues;
        ``final spectra``: for who has the trained network alone. Baselines: ``final loss``,
        ``weight norm``, ``loss and norms``. Sets without a column are left out.
    """
    columns = pd.Series(features.columns, dtype=object)
    final = columns.str.startswith(_FINAL)
    sets = {
        MAIN: features.loc[:, ~final.to_numpy()],
        "weights alone": features.loc[:, columns.str.startswith("weights:").to_numpy()],
        "final spectra": features.loc[:, final.to_numpy()],
    }
    # Losses and norms span decades; a loss may round to zero.
    logs = {
        name: np.log(runs[name].astype(np.float64).clip(lower=1e-15))
        for name in ("loss", "norm_change", "readout_change")
        if name in runs
    }
    baselines = pd.DataFrame(logs).set_index(features.index)
    sets |= {
        "final loss": baselines[["loss"]],
        "weight norm": baselines[["norm_change"]],
        "loss and norms": baselines,
    }
    return {name: table for name, table in sets.items() if table.shape[1]}


@dataclass(frozen=True, eq=False)
class _Verdicts:
    """What is said of n runs."""

    truth: NDArray[Any]
    classes: NDArray[Any]
    probabilities: Array
    fits: Bools
    """(n, C): the name is in the run's set."""

    @property
    def predicted(self) -> NDArray[Any]:
        return self.classes[self.probabilities.argmax(axis=1)]

    @property
    def size(self) -> NDArray[np.int64]:
        """Names in each set."""
        return self.fits.sum(axis=1)

    @property
    def named(self) -> NDArray[Any]:
        """The one name, or which kind of abstention."""
        several = np.where(self.size > 1, UNDECIDED, NONE_FITS)
        return np.where(self.size == 1, self.classes[self.fits.argmax(axis=1)], several)

    def __getitem__(self, rows: Bools) -> _Verdicts:
        return _Verdicts(self.truth[rows], self.classes, self.probabilities[rows], self.fits[rows])


def evaluate(
    features: pd.DataFrame,
    runs: pd.DataFrame,
    *,
    held_out: Sequence[str],
    level: float = 0.05,
    seed: int = 0,
    folds: int = 5,
    trees: int = 100,
) -> ForensicsTables:
    """How well optimisers are named, on runs unlike those that the classifier was shown.

    Parameters
    ----------
    features : DataFrame
        One row a run, from :func:`spectral_features`.
    runs : DataFrame
        Rows in the same order: ``group``, ``run``, ``label`` (name of the optimiser), ``known``
        (whether it is one of the classes), ``loss``, ``norm_change``, perhaps
        ``readout_change``, and the keys of `held_out`. Step sizes of two optimisers cannot be
        compared: hold out their rank within the class, as a column ``step_rank``.
    held_out : sequence of str
        Keys of which a value at a time is left out of training, of all classes at once.
    level : float
        Of the sets of names (:class:`OptimiserClassifier`).
    seed : int
        Seed of folds and forests.
    folds, trees : int
        Folds over runs, also of the calibration; trees of a forest.

    Returns
    -------
    ForensicsTables

    Raises
    ------
    ValueError
        If the rows do not match, a feature is not finite, a key is missing or has one value,
        or a classifier would be trained on fewer than two classes or fewer than `folds` runs of
        one.
    """
    _check_rows(features, runs, held_out)
    known = runs["known"].to_numpy(dtype=bool)
    classes = runs[known].reset_index(drop=True)
    # A class needs `folds` runs after a fold is taken away.
    _check_classes(classes["label"].to_numpy(), folds + 1)
    splits = list(_splits(classes, held_out, folds, seed))
    model = OptimiserClassifier(level=level, trees=trees, folds=folds, random_state=seed)
    accuracy: list[dict[str, Any]] = []
    unknown: list[dict[str, Any]] = []
    main: dict[str, _Verdicts] = {}
    for name, table in feature_sets(features, runs).items():
        values, labels = table.to_numpy(dtype=np.float64), classes["label"].to_numpy()
        verdicts = {split.name: split.verdicts(model, values[known], labels) for split in splits}
        for split in splits:
            for part, rows in split.parts(classes):
                row = {"features": name, "split": split.name, "part": part}
                accuracy.append(row | _accuracy(verdicts[split.name][rows]))
        if not known.all():
            model.fit(values[known], labels)
            verdicts[_UNKNOWN] = _said(model, values[~known], runs.loc[~known, "label"].to_numpy())
            unknown += _unknown(name, verdicts[_UNKNOWN])
        if name == MAIN:
            main = verdicts
    return ForensicsTables(
        accuracy=pd.DataFrame(accuracy),
        unknown=pd.DataFrame(unknown, columns=_UNKNOWN_COLUMNS),
        confusion=_confusion(main),
        reliability=_reliability(main[splits[0].name]),
        predictions=_predictions(main, splits, runs),
    )


@dataclass(frozen=True, eq=False)
class _Split:
    """A way to part the runs: training leaves out the runs of one value of `held` at a time."""

    name: str
    key: str | None
    held: NDArray[Any]

    def verdicts(
        self, model: OptimiserClassifier, values: Array, labels: NDArray[Any]
    ) -> _Verdicts:
        """What classifiers say of the runs that they have not seen; in the order of the runs."""
        classes = np.unique(labels)
        shape = len(labels), len(classes)
        probabilities, fits = np.empty(shape), np.empty(shape, dtype=bool)
        for value in pd.unique(pd.Series(self.held)):
            left = self.held == value
            said = _said(model.fit(values[~left], labels[~left]), values[left], labels[left])
            probabilities[left], fits[left] = said.probabilities, said.fits
        return _Verdicts(labels, classes, probabilities, fits)

    def parts(self, runs: pd.DataFrame) -> Iterator[tuple[str, Bools]]:
        """Names and rows of the parts that are counted."""
        yield "all", np.ones(len(runs), dtype=bool)
        if self.key is None or not pd.api.types.is_numeric_dtype(runs[self.key]):
            return
        if runs[self.key].nunique() >= 3:
            ends = np.isin(self.held, [self.held.min(), self.held.max()])
            yield "inside", ~ends
            yield "beyond", ends


def _splits(runs: pd.DataFrame, held_out: Sequence[str], folds: int, seed: int) -> Iterator[_Split]:
    labels = runs["label"].to_numpy()
    fold = np.empty(len(runs), dtype=np.int64)
    parted = StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels)
    for i, (_, left) in enumerate(parted):
        fold[left] = i
    yield _Split("unseen seeds", None, fold)
    classes = np.unique(labels)
    for key in held_out:
        held = runs[key].to_numpy()
        for value in pd.unique(runs[key]):
            kept = labels[held != value]
            few = [name for name in classes if np.sum(kept == name) < folds]
            if few:
                raise ValueError(
                    f"{key}: without the runs at {value} fewer than {folds} of {str(few[0])!r} are "
                    "left to train on; vary it within every class, or add seeds"
                )
        yield _Split(f"unseen {key}", key, held)


def _said(model: OptimiserClassifier, values: Array, truth: NDArray[Any]) -> _Verdicts:
    probabilities = model.predict_proba(values)
    fits = model._p_values(values, probabilities) > model.level
    return _Verdicts(truth, model.classes_, probabilities, fits)


def _check_rows(features: pd.DataFrame, runs: pd.DataFrame, held_out: Sequence[str]) -> None:
    if len(features) != len(runs):
        raise ValueError(f"features and runs differ in length: {len(features)}, {len(runs)}")
    needed = ["group", "run", "label", "known", "loss", "norm_change", *held_out]
    missing = [column for column in needed if column not in runs]
    if missing:
        raise ValueError(f"runs: no column {', '.join(missing)}; add it, or hold out other keys")
    known = runs[runs["known"].astype(bool)]
    for key in held_out:
        if known[key].nunique() < 2:
            raise ValueError(
                f"{key}: all known runs have one value, so that none can be left out; vary it, or "
                "take it out of the keys to hold out"
            )
    _checked(features)
    _checked(runs[["loss", "norm_change"]])


def _accuracy(said: _Verdicts) -> dict[str, Any]:
    right = said.predicted == said.truth
    low, high = wilson_interval(int(right.sum()), len(right))
    truth = np.searchsorted(said.classes, said.truth)
    contains = said.fits[np.arange(len(truth)), truth]
    one = said.size == 1
    return {
        "n": len(right),
        "accuracy": right.mean(),
        "low": low,
        "high": high,
        "accuracy3": np.mean(_merged(said.predicted) == _merged(said.truth)),
        "named": one.mean(),
        "undecided": np.mean(said.size > 1),
        "none_fits": np.mean(said.size == 0),
        "abstained": np.mean(~one),
        "accuracy_named": contains[one].mean() if one.any() else np.nan,
        "set_contains_truth": contains.mean(),
        "right_or_abstained": np.mean(contains | ~one),
        "ece": expected_calibration_error(said.probabilities, truth, bins=_BINS),
    }


def _merged(names: NDArray[Any]) -> NDArray[Any]:
    return np.array([_SAME.get(str(name), str(name)) for name in names])


_UNKNOWN_COLUMNS = [
    "features", "truth", "n", "abstained", "low", "high", "undecided", "none_fits",
]  # fmt: skip


def _unknown(name: str, said: _Verdicts) -> list[dict[str, Any]]:
    rows = []
    for truth in pd.unique(pd.Series(said.truth)):
        size = said.size[said.truth == truth]
        low, high = wilson_interval(int(np.sum(size != 1)), len(size))
        rows.append(
            {
                "features": name,
                "truth": truth,
                "n": len(size),
                "abstained": np.mean(size != 1),
                "low": low,
                "high": high,
                "undecided": np.mean(size > 1),
                "none_fits": np.mean(size == 0),
            }
        )
    return rows


def _confusion(verdicts: dict[str, _Verdicts]) -> pd.DataFrame:
    """All pairs of truth and verdict, those that do not occur included."""
    rows = []
    for split, said in verdicts.items():
        for truth in pd.unique(pd.Series(said.truth)):
            found = said.named[said.truth == truth]
            for name in (*said.classes, UNDECIDED, NONE_FITS):
                count = int(np.sum(found == name))
                rows.append((MAIN, split, truth, str(name), count))
    return pd.DataFrame(rows, columns=["features", "split", "truth", "named", "count"])


def _reliability(said: _Verdicts) -> pd.DataFrame:
    confidence = said.probabilities.max(axis=1)
    edges = np.linspace(0.0, 1.0, _BINS + 1)
    # Bins are open on the left, as those of the expected calibration error are.
    place = np.clip(np.ceil(confidence * _BINS).astype(np.int64) - 1, 0, _BINS - 1)
    rows = pd.DataFrame({"confidence": confidence, "accuracy": said.predicted == said.truth})
    means = rows.astype(np.float64).groupby(place).mean().reindex(range(_BINS))
    return pd.DataFrame(
        {
            "low": edges[:-1],
            "high": edges[1:],
            "count": np.bincount(place, minlength=_BINS),
            "confidence": means["confidence"],
            "accuracy": means["accuracy"],
        }
    )


def _predictions(
    verdicts: dict[str, _Verdicts], splits: Sequence[_Split], runs: pd.DataFrame
) -> pd.DataFrame:
    held = {split.name: split.held.astype(str) for split in splits}
    known = runs["known"].to_numpy(dtype=bool)
    parts = []
    for split, said in verdicts.items():
        rows = runs[~known if split == _UNKNOWN else known].reset_index(drop=True)
        parts.append(
            rows.assign(
                split=split,
                held=held.get(split, ""),
                truth=said.truth,
                predicted=said.predicted,
                confidence=said.probabilities.max(axis=1),
                names=[" | ".join(map(str, said.classes[row])) for row in said.fits],
                verdict=said.named,
            )
        )
    return pd.concat(parts, ignore_index=True)
