"""What tells sources apart without a model: an embedding adds what it has beyond these.

Texts: their length; character n-grams; words. Images: their size as a file; colours and
frequencies. All are asked in the same folds as embeddings are, and answer in the same form.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression

from model_metrology.embeddings.folds import grouped_folds
from model_metrology.embeddings.items import Items
from model_metrology.embeddings.lda import log_odds
from model_metrology.embeddings.names import BASELINE_NAMES
from model_metrology.embeddings.separability import (
    Separability,
    check_numbers,
    held_out_p_value,
    separability,
    separability_of,
)

__all__ = ["baseline_features", "baseline_separability"]

Array = NDArray[np.float64]

_GRAMS: dict[str, dict[str, Any]] = {
    "character n-grams": {"analyzer": "char_wb", "ngram_range": (2, 4)},
    "word tf-idf": {"ngram_range": (1, 2), "token_pattern": r"(?u)\b\w+\b"},
}
_TERMS = 20_000  # most frequent ones kept
_INVERSE_PENALTY = 10.0  # tf-idf vectors have length 1: with scikit-learn's 1 they underfit
_QUANTISATION = 1 / 12 / 255**2  # variance of rounding to 8 bits; keeps logarithms finite


def baseline_features(items: Items, name: str) -> Array | sparse.csr_matrix:
    """What a baseline looks at, for each item.

    Parameters
    ----------
    items : Items
        Texts or images.
    name : str
        One of ``BASELINE_NAMES[items.kind]``:

        * ``"length"``: logarithms of the numbers of words and of characters;
        * ``"character n-grams"``: counts of 2 to 4 characters within words;
        * ``"word tf-idf"``: counts of words and of pairs of words;
        * ``"file size"``: logarithms of the bytes as PNG and as JPEG of quality 75;
        * ``"pixels"``: mean and standard deviation of each channel, and logarithms of the
          brightness's power spectrum averaged over rings of one frequency.

    Returns
    -------
    ndarray or sparse matrix, shape (n, d)
        A sparse matrix holds counts, which :func:`baseline_separability` weights.

    Raises
    ------
    ValueError
        If the items' kind has no such baseline.
    """
    known = BASELINE_NAMES[items.kind]
    if name not in known:
        raise ValueError(f"baseline {name!r} is not one of {items.kind}; choose from {known}")
    if items.texts is not None:
        if name == "length":
            lengths = [(len(text.split()), len(text)) for text in items.texts]
            return np.log(np.array(lengths, dtype=np.float64))
        return CountVectorizer(**_GRAMS[name]).fit_transform(items.texts).tocsr()
    assert items.images is not None
    if name == "file size":
        sizes = [(_bytes(x, "PNG"), _bytes(x, "JPEG", quality=75)) for x in items.images]
        return np.log(np.array(sizes, dtype=np.float64))
    return _pixels(items.images)


def baseline_separability(
    features: Array | sparse.csr_matrix,
    labels: ArrayLike,
    groups: ArrayLike | None = None,
    *,
    folds: int = 5,
    permutations: int = 200,
    bootstraps: int = 200,
    level: float = 0.05,
    seed: int = 0,
) -> Separability:
    """Separability by a baseline's features, in the folds that the embeddings have.

    Parameters
    ----------
    features : ndarray or sparse matrix, shape (n, d)
        Of :func:`baseline_features`.
    labels, groups, folds, permutations, bootstraps, level, seed
        As in :func:`separability`.

    Returns
    -------
    Separability
        Dense features: by linear discriminant analysis, :func:`separability`. Counts: by logistic
        regression on tf-idf; terms, their frequencies, and the regression are of the training folds
        alone. As refits are costly, the p-value is then that of :func:`held_out_p_value`, which is
        valid and conservative; with 0 `permutations` it is NaN, otherwise their number is that
        function's own.

    Raises
    ------
    ValueError
        As in :func:`separability`.
    """
    if not sparse.issparse(features):
        return separability(
            features, labels, groups, folds=folds, permutations=permutations,
            bootstraps=bootstraps, level=level, seed=seed,
        )  # fmt: skip
    check_numbers(permutations, bootstraps, level)
    counts = sparse.csr_matrix(features)
    split = grouped_folds(labels, groups, folds=folds, seed=seed)
    if counts.shape[0] != len(split.labels):
        raise ValueError(
            f"features have {counts.shape[0]} rows, labels {len(split.labels)}; give one an item"
        )
    scores = np.empty((len(split.labels), len(split.classes)))
    for train, test in split.splits():
        scores[test] = _term_scores(counts[train], split.labels[train], counts[test])
    p_value = held_out_p_value(scores, split, seed=seed) if permutations else np.nan
    return Separability(**separability_of(scores, split, p_value, bootstraps, level, seed))


def _term_scores(
    train: sparse.csr_matrix, labels: NDArray[np.int64], test: sparse.csr_matrix
) -> Array:
    """Log-odds of the test texts' classes, (m, K), from the training texts' terms."""
    totals = np.asarray(train.sum(axis=0)).ravel()
    kept = np.sort(np.argsort(-totals, kind="stable")[: min(_TERMS, int((totals > 0).sum()))])
    weights = TfidfTransformer(sublinear_tf=True).fit(train[:, kept])
    model = LogisticRegression(C=_INVERSE_PENALTY, max_iter=1000)
    model.fit(weights.transform(train[:, kept]), labels)
    decided = model.decision_function(weights.transform(test[:, kept]))
    if decided.ndim == 1:
        return np.column_stack((-decided, decided))
    return log_odds(decided)


def _bytes(image: NDArray[np.uint8], form: str, **options: Any) -> int:
    file = io.BytesIO()
    Image.fromarray(image).save(file, form, **options)
    return file.tell()


def _pixels(images: NDArray[np.uint8]) -> Array:
    rings = _rings(*images.shape[1:3])
    return np.array([_image_features(image / 255.0, rings) for image in images])


def _image_features(image: Array, rings: NDArray[np.int64]) -> Array:
    brightness = image.mean(axis=2)
    power = np.abs(np.fft.fft2(brightness - brightness.mean())) ** 2 / brightness.size
    inside = rings >= 0
    sums = np.bincount(rings[inside], weights=power[inside])
    spectrum = np.log(sums / np.bincount(rings[inside]) + _QUANTISATION)
    return np.concatenate((image.mean(axis=(0, 1)), image.std(axis=(0, 1)), spectrum))


def _rings(height: int, width: int) -> NDArray[np.int64]:
    """Ring of each frequency of an image's Fourier transform, −1 for the mean and the corners."""
    vertical = np.fft.fftfreq(height)[:, None]
    horizontal = np.fft.fftfreq(width)[None, :]
    count = max(min(height, width) // 2, 1)
    rings = np.rint(2 * count * np.hypot(vertical, horizontal)).astype(np.int64) - 1
    rings[rings >= count] = -1
    return rings
