"""Answers as JSON, and what is said of a confidence."""

from dataclasses import replace

from comir_search.records import Candidate, SearchResult, format_confidence

PLACE = Candidate(1, "a.tif", 10.0, 20.0, 1.0, 64.0, 64.0, 0.0, False, 0.5, 0.876)


def test_a_place_moved_by_hand_has_no_score_and_says_why():
    moved = replace(PLACE, by_hand=True)
    values = moved.to_dict()
    assert (values["by_hand"], values["score"], values["confidence"]) == (True, None, None)
    values = PLACE.to_dict()
    assert (values["by_hand"], values["score"], values["confidence"]) == (False, 0.5, 0.876)


def test_an_answer_of_an_older_version_has_no_provenance():
    assert SearchResult("q.tif", False, "Dark.").to_dict()["provenance"] is None


def test_a_confidence_reads_the_same_everywhere():
    uncalibrated = replace(PLACE, confidence=None)
    shown = [format_confidence(each) for each in (PLACE, uncalibrated, replace(PLACE, by_hand=True), None)]
    assert shown == ["88%", "none", "moved by hand", "none"]
    assert format_confidence(PLACE, 1) == "87.6%"
