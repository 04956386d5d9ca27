"""The whole story in the real window, with mouse and keys, as a person would do it.

Pictures of each step are written to the folder in COMIR_SEARCH_SHOTS, if set.
"""

from __future__ import annotations

import itertools
import json
import os
import sqlite3
import threading
from pathlib import Path

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QFileDialog

from comir_search.pictures.palette import VERDICT_COLOURS
from comir_search.records import Verdict
from napari_comir_search.state.inspection import Mode
from napari_comir_search.state.items import IndexState
from napari_comir_search.widgets.dock import SearchDock
from napari_comir_search.widgets.key_table import KeyTable

LONG_MS = 600_000  # a busy machine
LEFT, NO_KEYS = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier


class Stage:
    """The window, and a person's hands and eyes."""

    def __init__(self, qtbot, viewer, dock: SearchDock) -> None:
        self.qtbot, self.viewer, self.dock = qtbot, viewer, dock
        self.canvas = viewer.window._qt_viewer.canvas.native
        self.shots = os.environ.get("COMIR_SEARCH_SHOTS")

    def until(self, condition) -> None:
        self.qtbot.waitUntil(lambda: bool(condition()), timeout=LONG_MS)

    def click(self, button) -> None:
        assert button.isEnabled(), button.toolTip()
        QTest.mouseClick(button, LEFT)

    def press(self, text: str, where=None) -> None:
        where = where or self.canvas
        where.setFocus()
        QTest.keyClick(where, text, Qt.KeyboardModifier.ShiftModifier)

    def on_canvas(self, x_um: float, y_um: float) -> QPoint:
        camera, size = self.viewer.scene.camera, self.canvas.size()
        _, y, x = camera.center
        return QPoint(
            round((x_um - x) * camera.zoom + size.width() / 2),
            round((y_um - y) * camera.zoom + size.height() / 2),
        )

    def drag(self, *points: QPoint, canvas=None) -> None:
        canvas = canvas or self.canvas
        QTest.mouseMove(canvas, points[0])
        self.qtbot.wait(30)
        QTest.mousePress(canvas, LEFT, NO_KEYS, points[0])
        for first, last in itertools.pairwise(points):
            for share in np.linspace(0, 1, 8)[1:]:
                step = first + (last - first) * float(share)
                QTest.mouseMove(canvas, step)
                self.qtbot.wait(15)
        QTest.mouseRelease(canvas, LEFT, NO_KEYS, points[-1])
        self.qtbot.wait(50)

    def picture(self, name: str) -> np.ndarray:
        self.qtbot.wait(300)
        if self.shots:
            path = str(Path(self.shots) / f"{name}.png")
            self.viewer.window.screenshot(path, canvas_only=False, flash=False)
        return self.viewer.screenshot(canvas_only=True, flash=False)


@pytest.fixture
def stage(qtbot, make_napari_viewer, tmp_path: Path):
    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1280, 800)
    dock = SearchDock(viewer, folder=tmp_path / "projects")
    viewer.window.add_dock_widget(dock, name="CoMIR search", area="right")
    qtbot.wait(100)
    yield Stage(qtbot, viewer, dock)
    dock.leave()
    qtbot.waitUntil(lambda: not any(runner.is_running for runner in dock.workbench.runners), timeout=30_000)


def test_from_a_folder_to_a_verified_place(stage: Stage, study, tmp_path: Path, monkeypatch) -> None:
    dock, session, workbench, viewer = stage.dock, stage.dock.session, stage.dock.workbench, stage.viewer
    stage.picture("01_empty")

    # A folder of slides; one of them is in the index already, the other is indexed now.
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(study.slides))
    stage.click(dock.repository.folder_button)
    stage.until(lambda: session.index is not None and len(session.searchable) == 1)
    assert [item.info.name for item in session.slides] == ["first.ome.tif", "second.ome.tif"]
    stage.picture("02_slides")
    stage.click(dock.repository.index_button)
    stage.until(lambda: workbench.indexing.is_running)
    stage.until(lambda: len(session.searchable) == 2 and not workbench.indexing.is_running)
    assert not dock.repository.index_button.isEnabled()

    # Draw a rectangle on the slide and turn it.
    slide = workbench.view.layer(session.slides[0].fingerprint)
    assert slide.visible and workbench.view.shown == session.slides[0].fingerprint
    dock.query.draw_button.menu().aboutToShow.emit()
    next(
        action for action in dock.query.draw_button.menu().actions() if action.text() == slide.name
    ).trigger()
    stage.qtbot.wait(100)
    stage.drag(stage.on_canvas(380, 300), stage.on_canvas(620, 500))
    outline = workbench.maker.outline.layer
    assert len(outline.data) == 1 and str(outline.mode) == "select"
    handle = outline._selected_box[9][::-1]  # the one that turns
    stage.drag(stage.on_canvas(*handle), stage.on_canvas(handle[0] + 90, handle[1] + 20))
    drawn = workbench.maker.outline.place()
    assert 10 < abs(drawn.angle_deg) < 80, "the handle did not turn the rectangle"
    assert (drawn.center_x_px, drawn.center_y_px) == pytest.approx((500, 400), abs=6)
    stage.picture("03_drawn")
    stage.click(dock.query.use_button)
    stage.until(lambda: session.query is not None)
    assert workbench.maker.outline is None
    dock.query.modality.setCurrentText("Brightfield")
    dock.query.modality.activated.emit(0)
    stage.until(lambda: dock.query.gauge.text().endswith("%"))
    stage.picture("04_query")

    # Search; the first candidates come before the end.
    refining: list[int] = []

    def note_partial() -> None:
        if session.is_refining:
            refining.append(len(session.candidates))

    session.events.result.connect(note_partial)
    stage.click(dock.search.go_button)
    stage.until(lambda: not workbench.searching.is_running)
    assert not dock.message.text
    assert refining and refining[0] > 0
    assert dock.inspector is not None and not session.is_refining
    stage.picture("05_found")
    first = session.candidate
    assert first.rank == 1 and first.slide == "first.ome.tif"
    assert np.hypot(first.center_x_px - drawn.center_x_px, first.center_y_px - drawn.center_y_px) < 3
    assert abs(first.angle_deg - drawn.angle_deg) < 1
    stage.until(lambda: dock.inspector.canvas.model.layers and not workbench.comparing.is_running)

    # The rectangle is drawn where the candidate is, in the colour of its verdict.
    assert find_colour(stage, first, Verdict.NONE)
    stage.press("y")
    assert session.verdict(1) is Verdict.ACCEPTED
    assert verdicts_on_disk(session.project.path) == ["accepted"]
    assert find_colour(stage, first, Verdict.ACCEPTED)
    stage.picture("06_accepted")

    # Where else it might lie.
    stage.click(dock.results.heat_box)
    stage.until(lambda: "Heat map" in viewer.layers and not workbench.mapping.is_running)
    viewer.reset_view()
    stage.picture("06_heat_map")
    stage.click(dock.results.heat_box)
    assert "Heat map" not in viewer.layers

    # Compare in every way; query and slide agree to the pixel.
    for mode in Mode:
        stage.click(dock.inspector.mode_buttons[mode])
        stage.picture(f"07_{mode.name.lower()}")
    pictures = []
    stage.click(dock.inspector.mode_buttons[Mode.BLEND])
    for value in (0, 100):
        dock.inspector.slider.setValue(value)
        stage.qtbot.wait(200)
        pictures.append(middle_of(dock.inspector.canvas.qt_viewer.screenshot(flash=False)))
    assert shift_between(*pictures) <= 3
    stage.press("m", dock.inspector.canvas.qt_viewer.canvas.native)
    assert dock.inspection.mode is Mode.CHECKERBOARD

    # Move the slide under the query, let it be fitted again, and go back.
    dock.inspection.adjust((14.0, -9.0), 3.0)
    stage.until(lambda: not workbench.comparing.is_running)
    stage.picture("08_moved")
    stage.click(dock.inspector.refit_button)
    stage.until(lambda: not workbench.fitting.is_running)
    fitted = dock.inspection.candidate
    assert np.hypot(fitted.center_x_px - drawn.center_x_px, fitted.center_y_px - drawn.center_y_px) < 3
    stage.click(dock.inspector.reset_button)
    assert not dock.inspection.is_adjusted

    # Go on by keys and by the table; a click on the canvas selects too.
    stage.press("n")
    assert session.candidate.rank == 2
    stage.press("x")
    stage.press("z")
    assert session.verdict(2) is Verdict.NONE
    table = dock.results.table
    QTest.mouseClick(table.viewport(), LEFT, NO_KEYS, table.visualRect(table.model().index(0, 1)).center())
    assert session.candidate.rank == 1
    stage.press("n")
    stage.press("b")
    assert session.candidate.rank == 1
    stage.press("u")
    assert session.verdict(session.candidate.rank) is Verdict.NONE

    # Save under a name, leave it, and open it again as it was.
    named = tmp_path / "study.comirproj"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(named), ""))
    dock._save_as()
    before = (session.candidates, session.counts, session.candidate.rank)
    workbench.new_project()
    stage.until(lambda: not any(runner.is_running for runner in workbench.runners))
    assert not session.candidates and not viewer.layers
    stage.picture("09_new")
    workbench.open_project(named)
    stage.until(lambda: session.index is not None and len(session.searchable) == 2)
    assert (session.candidates, session.counts, session.candidate.rank) == before
    stage.until(lambda: workbench.view.candidates.outlines is not None)
    stage.until(lambda: dock.inspector.canvas.model.layers and not workbench.comparing.is_running)
    stage.picture("10_reopened")

    # Hand over.
    for kind in ("csv", "geojson", "html"):
        path = tmp_path / f"results.{kind}"
        monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_, path=path: (str(path), ""))
        stage.click(dock.export.buttons[kind])
        stage.until(lambda path=path: path.exists() and not workbench.exporting.is_running)
    features = json.loads((tmp_path / "results.geojson").read_text())["features"]
    ring = np.array(features[0]["geometry"]["coordinates"][0][:4])
    np.testing.assert_allclose(ring.mean(axis=0), [first.center_x_px, first.center_y_px], atol=1)
    assert features[0]["properties"]["classification"]["name"] == "Accepted match"
    assert "results.html" in dock.message.text
    stage.picture("11_exported")

    # Judge the rest by keys alone; the last verdict is answered with a summary.
    for _ in range(session.counts[Verdict.NONE]):
        stage.press("u")
        stage.press("q")
    assert dock.message.text.startswith("All 10 candidates are judged: 1 accepted, 0 rejected, 9 unsure")
    stage.picture("12_all_judged")
    dock.show_keys()
    stage.qtbot.wait(200)
    table = dock.findChild(KeyTable)
    if stage.shots:
        table.grab().save(str(Path(stage.shots) / "13_keys.png"))
    table.close()


def test_closing_with_work_running_leaves_nothing(stage: Stage, study) -> None:
    dock = stage.dock
    threads = {thread.ident for thread in threading.enumerate()}
    dock.workbench.take([study.slides])
    stage.until(lambda: dock.session.index is not None)
    dock.workbench.index(dock.session.slides[1:])
    stage.until(lambda: dock.repository.progress.stage.text().startswith("Embedding"))
    assert not dock.repository.index_button.isEnabled()
    stage.viewer.window.remove_dock_widget(dock)
    stage.until(lambda: not any(runner.is_running for runner in dock.workbench.runners))
    assert not (study.index / "writer.lock").exists() or can_lock(study.index)
    assert "Shift-Y" not in {str(key) for key in stage.viewer.keymap}
    named = [
        thread.name for thread in threading.enumerate() if thread.ident not in threads and not thread.daemon
    ]
    assert [name for name in named if not name.startswith("Dummy")] == []


def test_a_stopped_index_is_resumed(stage: Stage, study) -> None:
    dock, session = stage.dock, stage.dock.session
    dock.workbench.take([study.slides])
    stage.until(lambda: session.index is not None)
    stage.click(dock.repository.index_button)
    stage.until(lambda: dock.repository.progress.stage.text().startswith("Embedding"))
    stage.click(dock.repository.progress.stop_button)
    stage.qtbot.waitUntil(lambda: not dock.workbench.indexing.is_running, timeout=20_000)
    stage.until(lambda: not dock.workbench.loading.is_running)
    assert session.slides[1].state in (IndexState.NONE, IndexState.PART)
    assert dock.repository.index_button.isEnabled()


def find_colour(stage: Stage, candidate, verdict: Verdict) -> bool:
    """Whether a candidate's edge is seen in a verdict's colour where it should be."""
    from comir_search.geometry import candidate_corners_px

    stage.dock.workbench.view.follow()
    stage.qtbot.wait(300)
    picture = stage.viewer.screenshot(canvas_only=True, flash=False)[..., :3].astype(int)
    scale = picture.shape[1] / stage.canvas.width()
    corners = candidate_corners_px(candidate) * candidate.pixel_size_um
    point = stage.on_canvas(*((corners[1] + corners[2]) / 2))  # the middle of the right edge: no pin there
    x, y = round(point.x() * scale), round(point.y() * scale)
    near = picture[max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4]
    return bool((np.abs(near - VERDICT_COLOURS[verdict]).max(axis=-1) < 30).any())


def verdicts_on_disk(path: Path) -> list[str]:
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        return [row[0] for row in connection.execute("SELECT verdict FROM verdict ORDER BY id")]


def middle_of(picture: np.ndarray) -> np.ndarray:
    """The middle of a canvas as grey values: there lies the query."""
    height, width = picture.shape[:2]
    side = min(height, width) // 2
    top, left = (height - side) // 2, (width - side) // 2
    return picture[top : top + side, left : left + side, :3].mean(axis=-1)


def shift_between(first: np.ndarray, second: np.ndarray) -> float:
    """By how many pixels one picture is off the other."""
    spectra = [np.fft.fft2(picture - picture.mean()) for picture in (first, second)]
    correlation = np.fft.ifft2(spectra[0] * spectra[1].conj()).real
    peak = np.array(np.unravel_index(correlation.argmax(), correlation.shape))
    return float(np.hypot(*np.where(peak > np.array(first.shape) / 2, peak - first.shape, peak)))


def can_lock(index: Path) -> bool:
    from comir_search.index.lock import writer_lock
    from comir_search.index.storage import Storage

    with writer_lock(Storage(index)):
        return True
