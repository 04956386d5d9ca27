"""Fitting and judging the confidence on searches whose answer is known."""

import numpy as np
import pytest

from comir_search.errors import ComirSearchError
from comir_search.evaluation.calibration import LEAST_THRESHOLD, collect, fit_calibration, reliability
from comir_search.evaluation.localisation import Truth
from comir_search.records import Candidate, SearchResult


def answer(scores: list[float], *, right: int | None, present: bool = True) -> tuple[Truth, SearchResult]:
    """Return a search whose candidate number `right` lies at the true place."""
    candidates = tuple(
        Candidate(
            rank=rank,
            slide="s.tif",
            center_x_px=100.0 if number == right else 900.0 + 300 * number,
            center_y_px=100.0,
            pixel_size_um=1.0,
            width_um=200.0,
            height_um=200.0,
            angle_deg=0.0,
            mirrored=False,
            score=score,
            confidence=0.5,
            fingerprint="f",
        )
        for rank, (number, score) in enumerate(enumerate(scores), 1)
    )
    truth = Truth("q.tif", "s.tif" if present else "", 100.0, 100.0, 0.0, False)
    return truth, SearchResult("q.tif", False, "", {"total": 1.0}, candidates, 0.5)


MISLEADING = answer([0.5, 0.2, 0.2], right=None, present=False)


def draw_answers(seed: int, n: int = 60) -> list[tuple[Truth, SearchResult]]:
    """Return n searches that find their place, and n of queries that lie nowhere."""
    rng = np.random.default_rng(seed)
    known = []
    for _ in range(n):
        others = list(rng.uniform(0.15, 0.28, 3))
        known.append(answer([float(rng.normal(0.5, 0.08)), *others], right=0))
        known.append(answer([float(rng.normal(0.26, 0.03)), *others], right=None, present=False))
    return known


@pytest.fixture(scope="module")
def answers():
    """What is fitted."""
    return draw_answers(0)


@pytest.fixture(scope="module")
def unseen():
    """What is judged: many, so that chance plays no part, and none of them fitted."""
    return draw_answers(1, n=1000)


def test_absent_queries_have_no_right_candidate(answers):
    features, right, first = collect(answers)
    assert features.shape == (4 * len(answers), 4)
    assert first.sum() == len(answers)
    assert right.sum() == 60


def test_right_places_get_confidence_and_chance_places_none(answers, unseen):
    calibration = fit_calibration(answers)
    features, right, first = collect(unseen)
    confidence = calibration.confidence(features[first])
    found = confidence >= calibration.threshold
    assert calibration.threshold >= LEAST_THRESHOLD
    assert right[first][found].mean() >= 0.97
    assert found[right[first]].mean() > 0.8
    assert reliability(confidence, right[first])["ece"] < 0.05


def test_what_misleads_raises_the_threshold_until_what_is_found_is_right(answers, unseen):
    unwary, careful = fit_calibration(answers), fit_calibration([*answers, *[MISLEADING] * 40])
    features, right, first = collect([*unseen, *[MISLEADING] * 600])
    shares = []
    for calibration in (unwary, careful):
        found = calibration.confidence(features[first]) >= calibration.threshold
        assert found.any()
        shares.append(right[first][found].mean())
    assert shares[0] < 0.7  # such answers are found by who has never met them
    assert shares[1] >= 0.99


@pytest.mark.parametrize("right", [0, None])
def test_answers_of_one_kind_cannot_be_fitted(right):
    with pytest.raises(ComirSearchError, match="are right, or all are wrong"):
        fit_calibration([answer([0.5], right=right)] * 4)


def test_reliability_counts_the_gap_between_confidence_and_right_answers():
    table = reliability(np.array([0.95, 0.95, 0.15, 0.15]), np.array([True, False, False, False]))
    assert [part["n"] for part in table["bins"]] == [2, 2]
    assert table["ece"] == pytest.approx(0.5 * 0.45 + 0.5 * 0.15)
