"""What a result says: confidence only where there is one, and the true reason."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from comir_search.matching.places import Place
from comir_search.matching.query import Query
from comir_search.model.calibration import Calibration
from comir_search.records import Provenance
from comir_search.retrieval.report import Clock, Coverage, Reporter

FITTED = Calibration((12.0, 25.0, 0.0, 0.0, -6.0), 0.9)
ORIGIN = Provenance("q", 1.0, "shg", {}, {}, "index", "e", "m", "1")
PLACES = [Place(0, 10, 10, 0, 0.4), Place(0, 90, 10, 0, 0.9), Place(0, 10, 90, 0, 0.5)]


def reporter(calibration=FITTED, signal=0.5, mismatch="", coverage=(5, 5), top=3) -> Reporter:
    model = SimpleNamespace(comir_pixel_size_um=4.0, calibration=calibration)
    query = Query("q.tif", np.zeros((1, 64, 64), np.float32), (64, 64), 256, 256, signal, mismatch=mismatch)
    slide = SimpleNamespace(name="a.tif", fingerprint="a", pixel_size_um=1.0)
    return Reporter(SimpleNamespace(model=model), query, [slide], top, Coverage(*coverage), ORIGIN)


def test_a_calibrated_model_states_confidence():
    result = reporter().result(PLACES, Clock())
    assert result.found and result.finished and result.provenance == ORIGIN
    assert result.candidates[0].confidence > 0.9 and result.candidates[0].score == 0.9


def test_a_model_that_was_never_calibrated_finds_nothing_and_says_so():
    result = reporter(calibration=None).result(PLACES, Clock())
    assert not result.found and [each.confidence for each in result.candidates] == [None] * 3
    assert [each.score for each in result.candidates] == [0.9, 0.5, 0.4]
    assert "never calibrated" in result.reason and "calibrated model" in result.reason
    assert "%" not in result.reason.split("carries signal")[0].replace("50%", "")


@pytest.mark.parametrize("calibration", [FITTED, None])
def test_what_a_running_search_knows_is_unfinished_and_has_no_confidence(calibration):
    partial = reporter(calibration).partial(PLACES, Clock())
    assert not partial.finished and not partial.found and partial.provenance is None
    assert [(each.rank, each.score, each.confidence) for each in partial.candidates] == [
        (1, 0.9, None),
        (2, 0.5, None),
        (3, 0.4, None),
    ]


WEAK = [Place(0, 10, 10, 0, 0.30), Place(0, 90, 10, 0, 0.29), Place(0, 10, 90, 0, 0.28)]


@pytest.mark.parametrize(
    ("how", "said", "unsaid"),
    [
        ({"signal": 0.01}, ["too dark or too empty", "1% of the patch"], ["slides were searched"]),
        ({"signal": 0.5}, ["several places fit"], ["dark", "slides were searched"]),
        ({"coverage": (2, 5)}, ["several places fit", "only 2 of 5 slides were searched"], ["dark"]),
        ({"coverage": (2, 5), "signal": 0.01}, ["only 2 of 5 slides were searched"], []),
        ({"signal": 0.01, "mismatch": "q.tif is grey"}, ["q.tif is grey"], ["dark"]),
        ({"top": 7}, ["no more than 3 distinct places"], []),
    ],
)
def test_the_reason_is_the_true_one(how, said, unsaid):
    result = reporter(**how).result(WEAK, Clock())
    assert not result.found
    assert all(words in result.reason for words in said), result.reason
    assert not any(words in result.reason for words in unsaid), result.reason


def test_what_is_found_needs_no_word_on_the_other_slides():
    assert "slides were searched" not in reporter(coverage=(2, 5)).result(PLACES, Clock()).reason
