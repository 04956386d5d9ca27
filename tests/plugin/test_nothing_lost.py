"""Nothing of the user's is lost in the window, and nothing old is shown as if it were of today."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from qtpy.QtWidgets import QMessageBox

from comir_search.errors import BatchIncomplete, LeftOut
from comir_search.index.options import IndexOptions
from comir_search.progress import Tick, finish
from comir_search.records import Verdict
from comir_search.slides import open_slide
from napari_comir_search.jobs.index import index_steps
from napari_comir_search.jobs.slides import OpenedSlides, describe_slides_steps
from napari_comir_search.state.items import IndexState, SlideItem
from napari_comir_search.state.session import Session
from napari_comir_search.widgets.dock import SearchDock
from napari_comir_search.widgets.result_table import CONFIDENCE
from napari_comir_search.widgets.worker import JobRunner

from .conftest import settle


def confidences(dock: SearchDock) -> list[str]:
    model = dock.results.model
    return [model.index(row, CONFIDENCE).data() for row in range(model.rowCount())]


def test_after_stop_the_answer_before_is_shown_again(qtbot, searched_dock: SearchDock) -> None:
    dock, session = searched_dock, searched_dock.session
    before, answer = session.result, dock.search.answer.text()
    assert before is not None and dock.results.model.rowCount() > 0
    seen: list[list[str]] = []

    def stop_at_first() -> None:
        if session.is_refining and not seen:
            seen.append(confidences(dock))
            dock.search.progress.stop_button.click()

    session.events.result.connect(stop_at_first)
    dock.search.go_button.click()
    settle(qtbot, dock)
    session.events.result.disconnect(stop_at_first)
    assert seen and set(seen[0]) == {"–"}  # nobody knew yet how sure it was
    assert session.result == before == session.project.query(session.query.id).result
    assert dock.search.answer.text() == answer and not session.is_refining


def test_a_query_with_verdicts_is_asked_about_and_comes_back(
    qtbot, searched_dock: SearchDock, monkeypatch
) -> None:
    dock, session = searched_dock, searched_dock.session
    dock.workbench.judge(Verdict.ACCEPTED, "clear")
    asked: list[str] = []
    answers = [QMessageBox.StandardButton.No, QMessageBox.StandardButton.Yes]
    monkeypatch.setattr(
        QMessageBox, "question", lambda parent, title, text, *_: asked.append(text) or answers.pop(0)
    )
    before = session.query
    dock.query.remove_button.click()
    assert session.query == before and "q has 1 verdict" in asked[0]
    dock.query.remove_button.click()
    assert session.queries == [] and session.candidates == () and not dock.query.choice.isEnabled()
    assert dock.message.text == "q was removed. Undo brings it back."
    assert dock.results.verdict_bar.undo_button.isEnabled()
    dock.results.verdict_bar.undo_button.click()
    settle(qtbot, dock)
    assert session.query == before and session.verdict(1) is Verdict.ACCEPTED
    assert dock.query.choice.isEnabled() and dock.query.choice.count() == 1
    assert dock.query.remove_button.isEnabled() and len(confidences(dock)) == len(before.result.candidates)
    dock.workbench.undo()
    assert session.verdict(1) is Verdict.NONE
    dock.workbench.undo()
    assert dock.message.text == "There is nothing to undo."
    dock.query.remove_button.click()  # without verdicts nothing is asked
    assert session.queries == [] and len(asked) == 2


def test_a_place_moved_by_hand_says_so_everywhere(qtbot, searched_dock: SearchDock, tmp_path: Path) -> None:
    dock, session = searched_dock, searched_dock.session
    found = session.candidate
    for _ in range(3):
        dock.inspection.nudge(1, 0)
    dock.inspection.keep()
    assert confidences(dock)[0] == "by\nhand" and session.candidate.by_hand
    for kind in ("csv", "html", "geojson"):
        dock.export.export(kind, tmp_path / f"out.{kind}")
        settle(qtbot, dock)
    with (tmp_path / "out.csv").open(encoding="utf-8-sig", newline="") as file:
        first = next(csv.DictReader(file))
    assert (first["by_hand"], first["confidence"], first["fingerprint"]) == ("1", "", found.fingerprint)
    assert "moved by hand" in (tmp_path / "out.html").read_text(encoding="utf-8")
    assert "moved by hand" in (tmp_path / "out.geojson").read_text(encoding="utf-8")
    dock.search.go_button.click()
    settle(qtbot, dock)
    assert [each.rank for each in session.candidates if each.by_hand] == [1]  # found again, so listed once
    assert "kept, as candidate 1" in dock.message.text


def test_a_corrected_slide_is_indexed_again_before_it_is_searched(qtbot, searched_dock: SearchDock) -> None:
    dock, session = searched_dock, searched_dock.session
    first = session.slides[0].fingerprint
    dock.workbench.set_pixel_size(first, 1.25)
    settle(qtbot, dock)
    assert session.slide(first).state is IndexState.STALE
    tip = dock.repository.model.index(0).data(3)
    assert "Indexed with 1 µm per pixel, now 1.25 µm: index it again" in tip
    assert not dock.search.go_button.isEnabled()  # it is the only one that was indexed
    assert dock.repository.index_button.isEnabled()
    assert "the pixel size of first.ome.tif was 1 µm, now 1.25 µm" in dock.search.state.text()
    assert dock.search.summary.endswith("out of date")
    dock.workbench.index([session.slide(first)])
    settle(qtbot, dock)
    assert session.slide(first).state is IndexState.DONE
    assert [slide.pixel_size_um for slide in session.index.slides] == [1.25]
    assert dock.search.go_button.isEnabled()


def test_a_query_corrected_during_its_search_gets_no_answer_to_another_size(
    qtbot, searched_dock: SearchDock
) -> None:
    dock, session = searched_dock, searched_dock.session
    before = session.result
    dock.search.go_button.click()
    session.update_query(session.query.id, pixel_size_um=2.0)
    settle(qtbot, dock)
    assert session.result == before
    assert "changed from 1 to 2 µm during the search, so its answer was not kept" in dock.message.text


@pytest.fixture
def dock(qtbot, make_napari_viewer, tmp_path: Path):
    dock = SearchDock(make_napari_viewer(), folder=tmp_path / "projects")
    qtbot.addWidget(dock)
    yield dock
    dock.leave()
    settle(qtbot, dock)


def write_rgb(path: Path, lit: tuple[int, ...]) -> np.ndarray:
    signal = np.random.default_rng(0).integers(0, 200, (80, 90), dtype=np.uint8)
    image = np.zeros((80, 90, 3), np.uint8)
    image[..., list(lit)] = signal[..., None]
    tifffile.imwrite(path, image, photometric="rgb", resolution=(1e4, 1e4), resolutionunit="CENTIMETER")
    return signal


def test_a_signal_saved_in_colours_is_a_signal(qtbot, dock: SearchDock, tmp_path: Path) -> None:
    write_rgb(tmp_path / "a_grey.tif", (0, 1, 2))
    green = write_rgb(tmp_path / "b_green.tif", (1,))
    colour = np.random.default_rng(1).integers(0, 255, (80, 90, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "c_stain.tif", colour, photometric="rgb")
    dock.workbench.maker.add_files([tmp_path / name for name in ("a_grey.tif", "b_green.tif", "c_stain.tif")])
    settle(qtbot, dock)
    assert [query.modality for query in dock.session.queries] == ["shg", "shg", "bf"]
    assert (
        "a_grey.tif is treated as a grey image such as SHG, because its three channels are equal"
        in dock.message.text
    )
    assert (
        "b_green.tif is treated as a grey image such as SHG, because only one of its channels"
        in dock.message.text
    )
    np.testing.assert_array_equal(dock.session.query_image(dock.session.queries[1].id), green)


def test_why_a_stated_pixel_size_is_not_believed_is_said(qtbot, dock: SearchDock) -> None:
    reason = "the file states 84.67 um, which is a print density"
    dock.session.add_query(
        "q", np.eye(50, 60), modality="shg", pixel_size_um=None, source={"pixel size": f"missing: {reason}"}
    )
    assert dock.query.size_note.text() == f"The pixel size is not known ({reason}): enter it above."
    assert not dock.query.size_note.isHidden()
    dock.session.update_query(dock.session.query.id, pixel_size_um=0.5)
    assert dock.query.size_note.isHidden() and dock.session.query.source["pixel size"] == "user"
    settle(qtbot, dock)  # the widget may not be deleted while its query is read


def test_notes_stay_and_a_batch_keeps_what_it_did(qtbot) -> None:
    def work():
        for number in range(5):
            yield Tick("working", number, 5, note=f"note {number}")
        raise BatchIncomplete("the rest", (LeftOut("b.tif", "b.tif is broken."),), 3)

    runner, notes, results, failures = JobRunner(), [], [], []
    runner.noted.connect(notes.append)
    runner.failed.connect(failures.append)
    runner.run("Working", work(), results.append)
    qtbot.waitUntil(lambda: not runner.is_running, timeout=60_000)
    assert notes == [f"note {number}" for number in range(5)]
    assert results == ["the rest"] and "b.tif is broken." in str(failures[0])


def test_the_message_bar_keeps_notes_beside_messages(dock: SearchDock) -> None:
    dock.workbench.noted.emit("b.tif is a copy.")
    dock.workbench.noted.emit("b.tif is a copy.")
    dock.workbench.failed.emit("c.tif is broken.")
    assert dock.message.text == "c.tif is broken.\nb.tif is a copy."
    dock.message.close_button.click()
    assert dock.message.text == ""


def describe(*paths: Path, known=()) -> OpenedSlides:
    return finish(describe_slides_steps(list(paths), known))


def test_one_bad_slide_does_not_keep_the_others_from_being_indexed(study, tmp_path: Path) -> None:
    infos = describe(study.slides).infos
    bad = replace(
        infos[0], name="bad.tif", path=str(tmp_path / "bad.tif"), fingerprint="0" * 32, identity="0" * 32
    )
    items = [SlideItem(bad), *(SlideItem(info) for info in infos)]
    with pytest.raises(BatchIncomplete, match=r"1 of 3 were left out:\n  .*bad\.tif") as caught:
        finish(index_steps(study.index, items, items, IndexOptions(device="cpu")))
    states = caught.value.result.states
    assert [states.get(item.fingerprint) for item in items] == [None, IndexState.DONE, IndexState.DONE]


def test_copies_are_said_and_alike_ones_are_told_apart(tmp_path: Path) -> None:
    session = Session(tmp_path / "projects")
    image = np.full((1500, 2000), 255, np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image)
    with open_slide(tmp_path / "a.tif") as slide:
        fingerprint = slide.fingerprint
    for row in range(10, 1400, 7):  # somewhere the fingerprint does not look
        other = image.copy()
        other[row, 1000] = 0
        tifffile.imwrite(tmp_path / "b.tif", other)
        with open_slide(tmp_path / "b.tif") as slide:
            if slide.fingerprint == fingerprint:
                break
    else:
        pytest.fail("the fingerprint looks everywhere")
    shutil.copy(tmp_path / "a.tif", tmp_path / "copy of a.tif")
    opened = describe(*(tmp_path / name for name in ("a.tif", "b.tif", "copy of a.tif")))
    session.add_slides(opened.infos)
    assert [item.info.name for item in session.slides] == ["a.tif", "b.tif"]
    assert opened.notes[-1].startswith("copy of a.tif is the same image as a.tif, which is listed already")
    keys = [item.fingerprint for item in session.slides]
    assert keys[0] == fingerprint and keys[1] == session.slides[1].info.identity != fingerprint

    # OpenedSlides again in another order, each is still itself, with the pixel size that the user gave.
    session.set_pixel_size(keys[1], 0.75)
    again = describe(tmp_path / "b.tif", tmp_path / "a.tif", known=session.project.slides)
    assert [(info.name, info.fingerprint, info.pixel_size_um) for info in again.infos] == [
        ("b.tif", keys[1], 0.75), ("a.tif", keys[0], None),
    ]  # fmt: skip
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "b.tif", tmp_path / "elsewhere" / "b.tif")
    assert session.project.relocate_slides([tmp_path / "elsewhere"]) == []
    assert session.project.slides[1].path == str(tmp_path / "elsewhere" / "b.tif")
    session.close()
