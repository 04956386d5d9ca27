"""Calibration: fit the confidence to searches with known answers, and measure how reliable it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comir_search.errors import ComirSearchError
from comir_search.evaluation.localisation import Truth, is_hit
from comir_search.model.calibration import FEATURES, Calibration
from comir_search.records import SearchResult
from comir_search.retrieval.confidence import measure

PRECISION = 0.99  # the threshold is chosen for this precision on the data of the fit
LEAST_THRESHOLD = 0.75  # a first place with less confidence is never called found
BINS = 10


def collect(
    answers: Sequence[tuple[Truth, SearchResult]],
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the features of all candidates, whether they are right, and whether they are the first.

    Parameters
    ----------
    answers : sequence of (Truth, SearchResult)
        Include queries that are on no slide: none of their candidates is right.

    Returns
    -------
    features : ndarray (n, len(FEATURES))
    right : ndarray (n,) bool
    first : ndarray (n,) bool
    """
    features: list[NDArray[np.float64]] = []
    right: list[bool] = []
    first: list[bool] = []
    for truth, result in answers:
        if not result.candidates:
            continue
        candidates = sorted(result.candidates, key=lambda candidate: -candidate.score)
        side_um = min(candidates[0].width_um, candidates[0].height_um)
        features.append(measure([c.score for c in candidates], result.signal, side_um))
        right.extend(bool(truth.slide) and is_hit(candidate, truth) for candidate in candidates)
        first.extend(number == 0 for number in range(len(candidates)))
    if not features:
        features.append(np.empty((0, len(FEATURES))))
    return np.concatenate(features), np.array(right, bool), np.array(first, bool)


def fit_calibration(
    answers: Sequence[tuple[Truth, SearchResult]], *, precision: float = PRECISION
) -> Calibration:
    """Fit the logistic regression and choose the threshold of `found`.

    Of the first candidates with a confidence above the threshold, at least the share
    `precision` is right. The threshold is never below `LEAST_THRESHOLD`.

    Parameters
    ----------
    answers : sequence of (Truth, SearchResult)
    precision : float

    Raises
    ------
    ComirSearchError
        If all answers are right or all are wrong, so that nothing can be fitted.
    """
    from sklearn.linear_model import LogisticRegression

    features, right, first = collect(answers)
    if right.all() or not right.any():
        raise ComirSearchError("Confidence cannot be fitted: all known answers are right, or all are wrong.")
    # The first candidates count most; the others only add examples with a low confidence.
    weights = np.where(first, 1.0, 0.1)
    spread = features.std(axis=0)
    # A feature may be constant, for example if all queries have one size.
    scale = np.where(spread > 1e-6, spread, 1.0)
    regression = LogisticRegression(C=10.0, max_iter=1000).fit(features / scale, right, sample_weight=weights)
    coefficients = regression.coef_[0] / scale
    calibration = Calibration(
        (*(float(c) for c in coefficients), float(regression.intercept_[0])), LEAST_THRESHOLD
    )
    confidence, correct = calibration.confidence(features[first]), right[first]
    order = np.argsort(-confidence)
    shares = np.cumsum(correct[order]) / np.arange(1, len(order) + 1)
    good = np.flatnonzero(shares >= precision)
    if not len(good):
        return Calibration(calibration.weights, 1.0)
    # The middle between this confidence and the next lower one.
    lowest = confidence[order][good[-1] : good[-1] + 2].mean()
    return Calibration(calibration.weights, max(LEAST_THRESHOLD, float(lowest)))


def reliability(confidences: NDArray[np.float64], right: NDArray[np.bool_]) -> dict[str, Any]:
    """Return the reliability diagram and the expected calibration error.

    Parameters
    ----------
    confidences : ndarray (n,)
        Confidences of the first candidates.
    right : ndarray (n,) bool

    Returns
    -------
    dict
        ``bins``: list of {from, to, n, confidence, right} for those of the ten equal
        bins that are not empty; ``ece``: mean absolute difference between the
        confidence and the share of right answers, weighted by the bins' counts.
    """
    bins, error = [], 0.0
    numbers = np.minimum((confidences * BINS).astype(int), BINS - 1)
    for number in range(BINS):
        inside = numbers == number
        if not inside.any():
            continue
        mean, share = float(confidences[inside].mean()), float(right[inside].mean())
        bins.append(
            {
                "from": number / BINS,
                "to": (number + 1) / BINS,
                "n": int(inside.sum()),
                "confidence": mean,
                "right": share,
            }
        )
        error += abs(mean - share) * inside.mean()
    return {"bins": bins, "ece": error}
