"""The session knows no Qt; these tests need no display."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from comir_search.errors import ComirSearchError
from comir_search.io.project import pack_image
from comir_search.records import Candidate, SearchResult, SlideInfo, Verdict
from napari_comir_search.items import IndexState
from napari_comir_search.session import Session


def make_info(name: str = "a.tif", folder: str = "/slides") -> SlideInfo:
    return SlideInfo(
        name=name, path=f"{folder}/{name}", format="TIFF", width_px=1000, height_px=800, channels=3,
        dtype="uint8", level_shapes_px=((800, 1000),), pixel_size_um=0.5, pixel_size_source="user",
        fingerprint=f"print of {name}",
    )  # fmt: skip


def make_result(count: int = 3) -> SearchResult:
    candidates = tuple(
        Candidate(
            rank, "a.tif", 100 * rank, 90, 0.5, 60, 50, 10 * rank, False, 0.5, 0.9 / rank, "print of a.tif"
        )
        for rank in range(1, count + 1)
    )  # fmt: skip
    return SearchResult("q", True, "Found.", {"total": 1.0}, candidates)


@pytest.fixture
def session(tmp_path: Path):
    session = Session(tmp_path / "projects")
    yield session
    session.close()


@pytest.fixture
def searched(session: Session) -> Session:
    session.add_slides([make_info()])
    query = session.add_query("q", np.zeros((50, 60), np.uint8), modality="shg", pixel_size_um=1.0)
    session.end_search(query.id, make_result())
    return session


def test_session_imports_no_qt() -> None:
    code = (
        "import sys, napari_comir_search.session; print([m for m in sys.modules if 'Qt' in m or m == 'qtpy'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_everything_is_in_the_project_at_once(searched: Session, tmp_path: Path) -> None:
    searched.judge(Verdict.ACCEPTED, "collagen agrees")
    reader = Session(tmp_path / "other")
    reader.open_project(searched.project.path)  # while the first is still open: nothing waits to be saved
    assert reader.result.candidates == searched.result.candidates
    assert reader.verdict(1) is Verdict.ACCEPTED
    assert reader.judgements[1].note == "collagen agrees"
    assert reader.judgements[1].time
    reader.close()


def test_pixels_that_were_packed_elsewhere_are_kept_as_they_are(session: Session, tmp_path: Path) -> None:
    image = np.arange(60, dtype=np.uint16).reshape(6, 10)
    query = session.add_query("q", image, packed=pack_image(image), modality="shg", pixel_size_um=1.0)
    assert session.query_image(query.id) is image  # nothing is unpacked that is at hand
    other = session.add_query("file", path="/patches/a.tif", modality="shg", pixel_size_um=1.0)
    assert session.query_image(other.id) is None
    np.testing.assert_array_equal(session.query_image(query.id), image)
    reader = Session(tmp_path / "other")
    reader.open_project(session.project.path)
    np.testing.assert_array_equal(reader.query_image(query.id), image)
    reader.close()


def test_undo_goes_back_through_queries(searched: Session) -> None:
    first = searched.query
    searched.judge(Verdict.ACCEPTED)
    searched.judge(Verdict.REJECTED)
    second = searched.add_query("q2", np.zeros((50, 60), np.uint8), modality="shg", pixel_size_um=1.0)
    searched.end_search(second.id, make_result())
    searched.judge(Verdict.UNSURE)
    assert searched.undo()
    assert searched.query.id == second.id and searched.verdict(1) is Verdict.NONE
    assert searched.undo()
    assert searched.query.id == first.id and searched.verdict(1) is Verdict.ACCEPTED
    assert searched.undo()
    assert searched.verdict(1) is Verdict.NONE
    assert not searched.undo()


def test_next_unverified_skips_what_is_judged(searched: Session) -> None:
    searched.select_candidate(2)
    searched.judge(Verdict.REJECTED)
    searched.select_candidate(1)
    assert searched.step_unverified() and searched.candidate.rank == 3
    searched.judge(Verdict.UNSURE)
    assert searched.step_unverified() and searched.candidate.rank == 1
    searched.judge(Verdict.ACCEPTED)
    assert not searched.step_unverified()
    assert searched.counts == {
        Verdict.NONE: 0, Verdict.ACCEPTED: 1, Verdict.REJECTED: 1, Verdict.UNSURE: 1,
    }  # fmt: skip


def test_partial_results_are_shown_but_not_judged(searched: Session) -> None:
    partial = make_result(2)
    searched.show_partial(searched.query.id, partial)
    assert [each.center_x_px for each in searched.candidates] == [100, 200]
    assert [each.confidence for each in searched.candidates] == [None, None]  # nobody can know it yet
    searched.judge(Verdict.ACCEPTED)
    assert searched.counts[Verdict.ACCEPTED] == 0
    searched.end_search(searched.query.id)  # stopped or failed: the answer before it is shown again
    assert searched.result == make_result() == searched.project.query(searched.query.id).result
    assert not searched.is_refining


def test_an_unfinished_result_is_never_an_answer(searched: Session) -> None:
    unfinished = replace(make_result(1), finished=False)
    searched.end_search(searched.query.id, unfinished)
    assert searched.result == make_result()
    with pytest.raises(ValueError, match="unfinished"):
        searched.project.set_result(searched.query.id, unfinished)


def test_verdicts_stay_with_their_place_when_searched_again(searched: Session) -> None:
    searched.select_candidate(2)
    searched.judge(Verdict.ACCEPTED)
    result = searched.result
    swapped = (replace(result.candidates[1], rank=1), replace(result.candidates[0], rank=2))
    searched.end_search(searched.query.id, replace(result, candidates=swapped))
    assert searched.verdict(1) is Verdict.ACCEPTED
    assert searched.verdict(2) is Verdict.NONE


def test_save_as_moves_the_untitled_project(searched: Session, tmp_path: Path) -> None:
    before = searched.project.path
    assert searched.is_untitled
    searched.judge(Verdict.ACCEPTED)
    searched.save_as(tmp_path / "named.comirproj")
    assert not searched.is_untitled and not before.exists()
    searched.judge(Verdict.REJECTED)
    assert searched.project.verdict_of(searched.query.id, searched.candidate).verdict is Verdict.REJECTED


def test_an_unused_untitled_project_leaves_no_file(tmp_path: Path) -> None:
    session = Session(tmp_path)
    session.close()
    assert list(tmp_path.iterdir()) == []


def test_a_broken_project_leaves_the_present_one(searched: Session, tmp_path: Path) -> None:
    broken = tmp_path / "broken.comirproj"
    broken.write_text("no project")
    with pytest.raises(ComirSearchError):
        searched.open_project(broken)
    searched.judge(Verdict.ACCEPTED)
    assert searched.verdict(1) is Verdict.ACCEPTED


def test_view_is_reopened(searched: Session, tmp_path: Path) -> None:
    searched.select_candidate(3)
    searched.save_as(tmp_path / "named.comirproj")
    searched.new_project()
    assert searched.candidate is None
    searched.open_project(tmp_path / "named.comirproj")
    assert searched.candidate.rank == 3


def test_events_tell_what_changed(searched: Session) -> None:
    heard: list[str] = []
    searched.events.connect(lambda info: heard.append(info.signal.name))
    searched.judge(Verdict.ACCEPTED)
    assert heard == ["judgement"]
    heard.clear()
    searched.select_candidate(2)
    searched.select_candidate(2)
    assert heard == ["candidate"]


def test_slides_without_a_file_are_listed_until_they_are_found_or_taken_out(session: Session) -> None:
    session.add_slides([make_info("a.tif"), make_info("b.tif"), make_info("c.tif")])
    session.save_as(session.project.path.parent.parent / "named.comirproj")
    session.open_project(session.project.path)
    session.add_slides([make_info("b.tif")])
    missing = [slide for slide in session.project.slides if slide.name != "b.tif"]
    session.note_missing(missing)
    assert [(item.info.name, item.state) for item in session.missing] == [
        ("a.tif", IndexState.MISSING), ("c.tif", IndexState.MISSING),
    ]  # fmt: skip
    assert [item.info.name for item in session.slides] == ["b.tif"] and session.searchable == []
    session.add_slides([make_info("a.tif", "/elsewhere")])
    session.remove_slide("print of c.tif")
    assert session.missing == [] and [slide.name for slide in session.project.slides] == ["a.tif", "b.tif"]
    session.note_missing(missing[:1])
    session.new_project()
    assert session.missing == []


def test_slide_state_and_pixel_size(session: Session) -> None:
    session.add_slides([make_info("a.tif"), make_info("b.tif")])
    session.set_index("/slides/x.comirindex", None, {"print of a.tif": IndexState.DONE})
    assert [item.info.name for item in session.searchable] == ["a.tif"]
    session.set_pixel_size("print of b.tif", 0.25)
    assert session.slide("print of b.tif").info.pixel_size_um == 0.25
    assert session.project.slides[1].pixel_size_source == "user"
    session.mark_damaged("print of a.tif")
    assert session.searchable == []


def test_of_two_slides_with_one_name_only_the_damaged_one_is_marked(session: Session) -> None:
    first, second = make_info("a.tif"), replace(make_info("a.tif"), fingerprint="print of another")
    session.add_slides([first, second])
    done = {info.fingerprint: IndexState.DONE for info in (first, second)}
    session.set_index("/slides/x.comirindex", None, done)
    session.mark_damaged("print of another")
    assert [item.state for item in session.slides] == [IndexState.DONE, IndexState.DAMAGED]
