"""What makes a stored answer out of date."""

from __future__ import annotations

import pytest

from comir_search.records import Provenance, SearchResult
from comir_search.study.entries import ProjectQuery
from comir_search.study.freshness import Inputs, describe_state


@pytest.mark.parametrize(
    ("then", "now", "state"),
    [
        ({}, "auto", ""),  # an older version wrote no method and had no other
        ({}, "words", "out of date: the search method was auto, now words"),
        ({"method": "words"}, "words", ""),
        ({"method": "words"}, "auto", "out of date: the search method was words, now auto"),
        ({"method": "words"}, None, ""),
    ],
)
def test_an_answer_of_another_method_is_out_of_date(then, now, state):
    options = {"top": 10, "mirror": False, "slides": None} | then
    origin = Provenance("q", 1.0, "shg", options, {}, "/i", "networks", "whole", "1")
    result = SearchResult("q.tif", True, "", {"total": 1.0}, provenance=origin)
    query = ProjectQuery(1, "q.tif", "", "shg", 1.0, result=result)
    inputs = Inputs(options=None if now is None else {"top": 10, "mirror": False, "method": now})
    assert describe_state(query, inputs) == state
