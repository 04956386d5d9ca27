"""The session knows no Qt; these tests need no display."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from comir_search.errors import ComirSearchError
from comir_search.index.slide_record import SlideRecord
from comir_search.records import Candidate, Provenance, SearchResult, SlideInfo, Verdict
from comir_search.retrieval.options import SearchOptions
from comir_search.slides import open_slide
from comir_search.study import project as project_module
from comir_search.study.project import Project, pack_image
from napari_comir_search.state.items import IndexState
from napari_comir_search.state.session import Session


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
    code = "import sys, napari_comir_search.state.session; print([m for m in sys.modules if 'Qt' in m or m == 'qtpy'])"
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
    assert searched.project.history(searched.query.id, searched.candidate)[-1].verdict is Verdict.REJECTED


def test_an_untitled_project_that_is_saved_under_its_own_name_stays(searched: Session) -> None:
    path = searched.project.path
    searched.judge(Verdict.ACCEPTED, "clear")
    searched.save_as(path.parent / "." / path.name)
    searched.select_candidate(2)
    searched.judge(Verdict.REJECTED)
    assert path.exists() and not searched.is_untitled
    with Project.open(path) as kept:
        assert [each.verdict for each in kept.verdicts_of(searched.query.id).values()] == [
            Verdict.ACCEPTED, Verdict.REJECTED,
        ]  # fmt: skip


def test_a_project_that_was_saved_beside_untitled_ones_is_not_deleted(
    searched: Session, tmp_path: Path
) -> None:
    named = searched.project.path.parent / "study.comirproj"
    searched.save_as(named)
    assert not searched.is_untitled
    searched.save_as(tmp_path / "elsewhere.comirproj")
    assert named.exists()
    searched.open_project(named)
    assert not searched.is_untitled
    searched.save_as(tmp_path / "third.comirproj")
    assert named.exists()


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


# What an answer was computed from


def make_origin(**changes) -> Provenance:
    origin = Provenance(
        "q", 1.0, "shg", {"top": 10, "mirror": False}, {"print of a.tif": 0.5}, "/i", "networks", "whole", "1"
    )
    return replace(origin, **changes)


@dataclass
class FakeSlide:
    """As much of an indexed slide as a session looks at, with a record as an index has it."""

    fingerprint: str
    pixel_size_um: float
    identity: str = ""

    @property
    def record(self) -> SlideRecord:
        return SlideRecord(
            "a.tif", self.fingerprint, None, "/a.tif", self.pixel_size_um, "user", 9, 9, 9, 9,
            {"kind": "signal", "low": 0.0, "high": 1.0}, "00", self.identity,
        )  # fmt: skip


@dataclass
class FakeModel:
    embedding_fingerprint: str = "networks"
    words_fingerprint: str = "words"
    fingerprint: str = "whole"


@dataclass
class FakeIndex:
    """As much of an index as a session looks at."""

    slides: list[FakeSlide]
    model: FakeModel = field(default_factory=FakeModel)


@pytest.fixture
def answered(session: Session) -> Session:
    session.add_slides([make_info("a.tif"), make_info("b.tif")])
    session.set_index(
        "/i", FakeIndex([FakeSlide("print of a.tif", 0.5)]), {"print of a.tif": IndexState.DONE}
    )
    query = session.add_query("q", np.zeros((50, 60), np.uint8), modality="shg", pixel_size_um=1.0)
    session.end_search(query.id, replace(make_result(), provenance=make_origin()))
    assert session.answer_state == ""
    return session


def test_a_corrected_query_makes_its_answer_out_of_date(answered: Session) -> None:
    answered.update_query(answered.query.id, pixel_size_um=3.0)
    assert answered.answer_state == "out of date: the query's pixel size was 1 µm, now 3 µm"
    answered.update_query(answered.query.id, pixel_size_um=1.0, modality="bf")
    assert answered.answer_state == "out of date: the query's modality was shg, now bf"


def test_a_search_for_another_pixel_size_is_not_kept(answered: Session) -> None:
    late = replace(make_result(1), provenance=make_origin(pixel_size_um=3.0))
    said = answered.end_search(answered.query.id, late)
    assert said.startswith("The pixel size of q was changed from 3 to 1 µm during the search")
    assert len(answered.candidates) == 3 and answered.answer_state == ""


def test_a_slide_with_a_corrected_pixel_size_is_not_searched_until_it_is_indexed_again(
    answered: Session,
) -> None:
    answered.set_pixel_size("print of a.tif", 1.0)
    item = answered.slide("print of a.tif")
    assert item.state is IndexState.STALE and "indexed with 0.5" in item.pixel_size_text
    assert "Indexed with 0.5 µm per pixel, now 1 µm: index it again" in item.state_tip
    assert answered.searchable == [] and answered.scope == []
    assert answered.answer_state == "out of date: the pixel size of a.tif was 0.5 µm, now 1 µm"
    answered.set_index(
        "/i", FakeIndex([FakeSlide("print of a.tif", 1.0)]), {"print of a.tif": IndexState.DONE}
    )
    assert answered.slide("print of a.tif").state is IndexState.DONE and answered.scope is None
    answered.set_pixel_size("print of a.tif", 0.5)
    assert answered.slide("print of a.tif").state is IndexState.STALE
    answered.set_pixel_size("print of a.tif", 1.0)  # put right again: nothing is to be done
    assert answered.slide("print of a.tif").state is IndexState.DONE


def test_slides_options_and_models_that_changed_are_said(answered: Session) -> None:
    both = [FakeSlide("print of a.tif", 0.5), FakeSlide("print of b.tif", 0.5)]
    done = {slide.fingerprint: IndexState.DONE for slide in both}
    answered.set_index("/i", FakeIndex(both), done)
    assert answered.answer_state == "out of date: indexed since, and not searched: b.tif"
    answered.left_out = frozenset({"print of b.tif"})  # and it is not to be
    assert answered.answer_state == "" and answered.scope == ["print of a.tif"]
    answered.set_index("/i", FakeIndex(both[1:]), done)
    assert answered.answer_state == "out of date: no longer in the index: a.tif"
    answered.set_index("/i", FakeIndex(both[:1], FakeModel(fingerprint="other")), done)
    assert answered.answer_state == "out of date: the model of the index was calibrated again"
    answered.set_index("/i", FakeIndex(both[:1], FakeModel("other", "other", "other")), done)
    assert answered.answer_state == "out of date: the index has another model now"
    answered.set_index("/i", FakeIndex(both[:1]), done)
    answered.search_options = SearchOptions(top=5, mirror=True)
    assert answered.answer_state == "out of date: mirrored positions are searched now"


def test_more_candidates_asked_for_later_do_not_make_an_answer_wrong(answered: Session) -> None:
    answered.search_options = SearchOptions(top=30)
    assert answered.answer_state == ""


def test_a_slide_that_was_not_chosen_is_not_called_indexed_since(answered: Session) -> None:
    both = [FakeSlide("print of a.tif", 0.5), FakeSlide("print of b.tif", 0.5)]
    options = {"top": 10, "mirror": False, "slides": ["print of a.tif"]}
    answered.set_index("/i", FakeIndex(both), {slide.fingerprint: IndexState.DONE for slide in both})
    answered.end_search(answered.query.id, replace(make_result(), provenance=make_origin(options=options)))
    assert answered.answer_state == "out of date: not searched: b.tif"


def test_a_query_file_that_was_replaced_makes_its_answer_out_of_date(
    session: Session, tmp_path: Path
) -> None:
    path = tmp_path / "q.png"
    Image.fromarray(np.eye(60, dtype=np.uint8)).save(path)
    with open_slide(path) as slide:
        origin = make_origin(query=slide.fingerprint)
    query = session.add_query("q", path=path, modality="shg", pixel_size_um=1.0)
    session.end_search(query.id, replace(make_result(), provenance=origin))
    assert session.answer_state == ""
    Image.fromarray(255 * np.eye(61, dtype=np.uint8)).save(path)
    assert session.answer_state == "out of date: the file of q contains another image now"
    path.unlink()
    assert session.answer_state == ""  # nothing is known of it
    # Of a query whose pixels are kept in the project, the file is not what was searched.
    Image.fromarray(np.eye(60, dtype=np.uint8)).save(path)
    kept = session.add_query("k", np.eye(60, dtype=np.uint8), path=path, modality="shg", pixel_size_um=1.0)
    session.end_search(kept.id, replace(make_result(), provenance=make_origin(query="of the array")))
    assert session.answer_state == ""


def test_a_part_of_the_slides_is_said(answered: Session) -> None:
    assert answered.coverage == "1 of 2 slides searched."
    answered.remove_slide("print of b.tif")
    assert answered.coverage == ""


def test_another_slide_of_the_same_fingerprint_is_not_taken_for_it(session: Session) -> None:
    session.add_slides([replace(make_info("a.tif"), identity="mine")])
    other = FakeSlide("print of a.tif", 0.5, "theirs")
    session.set_index("/i", FakeIndex([other]), {})
    assert session.slides[0].state is IndexState.NONE and session.scope is None
    assert session.name_of("print of a.tif") is None and session.slide_of(make_result().candidates[0]) is None
    # Once it is indexed, under its identity, answers on it and on the other are kept apart.
    both = [other, FakeSlide("mine", 0.5, "mine")]
    session.set_index("/i", FakeIndex(both), {"print of a.tif": IndexState.DONE})
    assert session.slides[0].state is IndexState.DONE and session.scope is None
    assert session.slide_of(replace(make_result().candidates[0], fingerprint="mine")) is session.slides[0]
    assert session.names == {"print of a.tif": "mine"}
    session.left_out = frozenset({"print of a.tif"})
    assert session.scope == ["print of a.tif"]  # the other slide, by its name in the index
    session.mark_damaged("mine")
    assert session.slides[0].state is IndexState.DAMAGED
    session.set_index("/i", FakeIndex([other, replace(both[1], pixel_size_um=0.25)]), session._states)
    session.set_index("/i", session.index, {"print of a.tif": IndexState.DONE})
    assert session.slides[0].state is IndexState.STALE and session.scope == ["print of a.tif"]
    assert session.inputs.stated_um == {"mine": 0.5} and session.inputs.names == {"mine": "a.tif"}


# What is done by hand, and undone


def test_a_place_moved_by_hand_says_so_until_it_is_undone(answered: Session) -> None:
    found = answered.candidate
    answered.replace_candidate(replace(found, center_x_px=150.0))
    moved = answered.candidate
    assert moved.by_hand and moved.confidence is None and moved.center_x_px == 150.0
    assert answered.project.query(answered.query.id).result.candidates[0] == moved
    assert answered.answer_state == ""
    step = answered.undo()
    assert step.said == "Candidate 1 is back where it was." and answered.candidate == found
    assert not answered.can_undo


def test_a_search_keeps_places_moved_by_hand_but_the_rejected(answered: Session) -> None:
    for rank in (1, 2):
        answered.select_candidate(rank)
        answered.replace_candidate(replace(answered.candidate, center_y_px=300.0))
    answered.judge(Verdict.REJECTED)
    said = answered.end_search(answered.query.id, replace(make_result(), provenance=make_origin()))
    assert said == "The positions that you moved by hand were kept, as candidate 4."
    assert [each.by_hand for each in answered.candidates] == [False, False, False, True]
    assert (answered.candidates[3].center_x_px, answered.candidates[3].center_y_px) == (100, 300)
    assert answered.candidates[3].confidence is None and answered.candidates[0].confidence == 0.9


def test_a_moved_place_that_is_found_again_is_listed_once(answered: Session) -> None:
    answered.replace_candidate(replace(answered.candidate, center_y_px=300.0))
    found = make_result()
    again = replace(found.candidates[1], center_x_px=101.0, center_y_px=301.0, angle_deg=10)
    found = replace(found, candidates=(found.candidates[0], again), provenance=make_origin())
    said = answered.end_search(answered.query.id, found)
    assert said == "The positions that you moved by hand were kept, as candidate 2."
    assert [each.by_hand for each in answered.candidates] == [False, True]
    assert (answered.candidates[1].rank, answered.candidates[1].center_x_px) == (2, 100)


def test_a_removed_query_comes_back_with_all_that_was_said_of_it(answered: Session) -> None:
    answered.judge(Verdict.ACCEPTED, "collagen agrees")
    answered.add_query("r", np.zeros((50, 60), np.uint8), modality="shg", pixel_size_um=1.0)
    first = answered.queries[0]
    answered.remove_query(first.id)
    assert [query.name for query in answered.queries] == ["r"] and answered.query.name == "r"
    assert answered.undo().said == "q is back, with its answer and verdicts."
    assert answered.query == first and answered.verdict(1) is Verdict.ACCEPTED
    assert answered.undo() is not None  # the verdict, which was given before
    assert answered.verdict(1) is Verdict.NONE and not answered.undo()


def test_the_last_query_can_be_removed_and_brought_back(answered: Session) -> None:
    answered.judge(Verdict.UNSURE)
    answered.remove_query(answered.query.id)
    assert answered.query is None and answered.candidates == () and answered.can_undo
    assert answered.undo() and answered.query.name == "q" and answered.verdict(1) is Verdict.UNSURE


def test_what_cannot_be_undone_now_can_be_later(answered: Session) -> None:
    answered.judge(Verdict.ACCEPTED)
    answered.project._connection.execute("PRAGMA query_only = ON")
    with pytest.raises(ComirSearchError, match="read-only"):
        answered.undo()
    answered.project._connection.execute("PRAGMA query_only = OFF")
    assert answered.undo() and answered.verdict(1) is Verdict.NONE


def test_a_removed_slide_comes_back_in_its_place_with_its_pixel_size(answered: Session) -> None:
    answered.set_pixel_size("print of a.tif", 0.75)
    before = answered.slides
    answered.remove_slide("print of a.tif")
    assert [item.info.name for item in answered.slides] == ["b.tif"]
    assert answered.undo().said == "a.tif is back."
    assert answered.slides == before
    assert [slide.pixel_size_um for slide in answered.project.slides] == [0.75, 0.5]


def test_an_answer_that_an_older_version_stored_unfinished_is_none(session: Session) -> None:
    query = session.add_query("q", np.zeros((50, 60), np.uint8), modality="shg", pixel_size_um=1.0)
    session.project.set_result(query.id, make_result(), {"stopped": True})
    session.save_as(session.project.path.parent.parent / "named.comirproj")
    session.open_project(session.project.path)
    assert not session.result.finished and session.candidate.confidence is None
    assert "stopped before its end" in session.answer_state


def test_a_key_press_does_not_decode_other_answers(answered: Session, monkeypatch) -> None:
    for name in "abc":
        query = answered.add_query(name, np.zeros((50, 60), np.uint8), modality="shg", pixel_size_um=1.0)
        answered.end_search(query.id, make_result())
    decoded = []
    whole = project_module.decode_result
    monkeypatch.setattr(project_module, "decode_result", lambda *args: decoded.append(1) or whole(*args))
    answered.judge(Verdict.ACCEPTED)
    answered.step_candidate(1)
    assert decoded == []
    answered.end_search(answered.query.id, make_result(2))
    assert len(decoded) == 1


def test_settings_and_view_of_a_received_project_are_checked(session: Session) -> None:
    session.project.view = {"query": "<b>", "rank": [1], "zoom": -1, "center": ["a", "b"], "slide": 7}
    session.project.settings = {"index": "/i", "search": {"top": 5, "mirror": True}}
    session.save_as(session.project.path.parent.parent / "named.comirproj")
    session.open_project(session.project.path)
    view = session.view
    assert (view.query, view.rank, view.zoom, view.center, view.slide) == (None,) * 5
    assert session.search_options == SearchOptions(top=5, mirror=True)
    session.project.settings = {"index": 7}
    with pytest.raises(ComirSearchError, match=r"settings\) is damaged"):
        _ = session.index_path
    with pytest.raises(ComirSearchError, match=r"settings\) is damaged"):
        session.open_project(session.project.path)
    session.project.settings = {}
