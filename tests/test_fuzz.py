"""Malformed input of six kinds for a minute: refused in words, within time and memory, with nothing else touched.

    python tests/benchmarks/fuzz.py --minutes 30

tries more, and says how to run a case again.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
from fuzzing.campaign import KINDS, describe, run_campaign
from fuzzing.case import Attempt, Case
from fuzzing.guard import Guard, snapshot
from fuzzing.mutations import break_bytes, break_document
from fuzzing.projects import find_active_content, find_formulas
from fuzzing.worker import load_kind, write_case

from comir_search.errors import ComirSearchError

SEED = 14
SECONDS = 10.0  # of each kind


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_malformed_input_is_refused_in_words(kind):
    tallies = run_campaign([kind], seed=SEED, seconds=SECONDS)
    assert tallies[0].failures == [], describe(tallies)
    assert tallies[0].counts["refused"] > 0


@pytest.fixture
def case(tmp_path) -> Case:
    """A case of nothing."""
    return Case.begin(tmp_path / "case", "input")


@pytest.fixture(scope="module")
def guard() -> Guard:
    return Guard()


def test_a_case_is_the_same_each_time(tmp_path):
    load_kind("tables").make_bases(tmp_path)
    first, again, other = (
        write_case("tables", tmp_path, tmp_path / name, 3, number)
        for name, number in (("first", 5), ("again", 5), ("other", 6))
    )
    assert (first.notes, snapshot(first)) == (again.notes, snapshot(again))
    assert snapshot(other) != snapshot(again)


def test_only_stated_errors_are_refusals():
    def refuse() -> None:
        raise ComirSearchError("slide.tif is empty: export it again")

    attempt = Attempt()
    assert attempt("open", lambda: 3) == 3
    assert attempt("read", refuse) is None
    assert attempt("search", lambda: {}["slide"]) is None
    assert [step.outcome for step in attempt.steps] == ["accepted", "refused", "raw"]
    assert attempt.steps[2].error == "KeyError: 'slide'"


def test_what_a_case_does_to_the_files_of_others_is_seen(case, guard):
    canary = case.add_canary(case.out / "thesis.txt")
    link = case.out / "link"
    link.symlink_to(case.victim)
    guard.start(case)
    (case.out / "own.txt").write_text("its own")
    assert guard.stop(case) == []
    guard.start(case)
    link.write_text("through the link")
    canary.unlink()
    (case.folder / "stray.txt").touch()
    case.executed.touch()
    harms = guard.stop(case)
    assert [harm for harm in harms if harm.startswith(("changed", "removed", "made"))] == [
        "made executed",
        "removed out/thesis.txt",
        "made stray.txt",
        "changed victim.txt",
    ]
    assert f"opened for writing (mode w): {case.victim}" in harms
    assert "code of the input was run" in harms


def test_a_write_that_leaves_no_trace_is_seen(case, guard):
    guard.start(case)
    (case.folder / "short.txt").write_text("for a moment")
    (case.folder / "short.txt").unlink()
    assert any("short.txt" in harm for harm in guard.stop(case))


@pytest.mark.parametrize(
    ("page", "problems"),
    [
        ("<p onclick=run()>", ["<p onclick>"]),
        ("<script>run()</script>", ["<script>"]),
        ('<a href=" java\nscript:run()">', ['<a href="javascript:run()">']),
        ('<img src="https://elsewhere/a.png">', ['<img src="https://elsewhere/a.png">']),
        ('<p>&lt;script&gt; <img src="data:image/png;base64,AA"><use href="#a"/>', []),
    ],
)
def test_active_content_of_a_page_is_found(page, problems):
    assert find_active_content(page) == problems


def test_formulas_of_a_table_are_found():
    assert find_formulas('a,=1+1,-5\n\'=1,"@x",-1e3\n') == ["=1+1", "@x"]


def test_what_is_broken_differs():
    rng = np.random.default_rng(0)
    content = bytes(range(200))
    assert len({break_bytes(content, rng)[0] for _ in range(100)}) > 80
    text = '{"a": [1, 2.5, null], "b": {"c": "text"}}'
    assert len({break_document(text, rng)[0] for _ in range(100)}) > 50
