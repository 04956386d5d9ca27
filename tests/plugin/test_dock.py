"""The dock with real widgets and workers, before there is an index."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from qtpy.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSlider,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QInputDialog,
    QLineEdit,
)

from comir_search.records import Candidate, SearchResult, Verdict
from napari_comir_search.state.items import IndexState
from napari_comir_search.widgets.dock import SearchDock
from napari_comir_search.widgets.message_bar import describe_versions
from napari_comir_search.widgets.progress_row import describe_seconds
from napari_comir_search.widgets.slide_list import pixel_size_area

LEFT, NO_KEYS = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
CONTROLS = (QAbstractButton, QAbstractItemView, QAbstractSlider, QAbstractSpinBox, QComboBox, QLineEdit)


@pytest.fixture
def dock(qtbot, make_napari_viewer, tmp_path: Path) -> Iterator[SearchDock]:
    viewer = make_napari_viewer()
    dock = SearchDock(viewer, folder=tmp_path / "projects")
    viewer.window.add_dock_widget(dock, name="CoMIR search", area="right")
    yield dock
    dock.leave()
    settle(qtbot, dock)


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    folder = tmp_path / "slides"
    folder.mkdir()
    image = np.random.default_rng(0).integers(0, 255, (300, 400, 3)).astype(np.uint8)
    options = {"photometric": "rgb", "resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(folder / "a.tif", image, **options)
    tifffile.imwrite(folder / "b.tif", image[::-1], photometric="rgb")
    return folder


def is_own(control) -> bool:
    """Whether a control is ours, and not a part that Qt made inside one."""
    if any(
        name.startswith("qt_scrollarea") for name in (control.objectName(), control.parent().objectName())
    ):
        return False
    parent = control.parent()
    while parent is not None:
        if isinstance(parent, (QAbstractItemView, QAbstractSpinBox, QComboBox)):
            return False
        parent = parent.parent()
    return True


def settle(qtbot, dock: SearchDock) -> None:
    qtbot.waitUntil(lambda: not any(runner.is_running for runner in dock.workbench.runners), timeout=30_000)


def judge_something(dock: SearchDock) -> None:
    session = dock.session
    query = session.add_query("q", np.zeros((50, 60), np.uint8), modality="shg", pixel_size_um=1.0)
    info = session.slides[0].info
    candidates = tuple(
        Candidate(
            rank,
            info.name,
            50.0 * rank,
            90.0,
            0.5,
            30.0,
            25.0,
            10.0,
            False,
            0.5,
            0.9 / rank,
            info.fingerprint,
        )
        for rank in (1, 2, 3)
    )
    session.end_search(query.id, SearchResult("q", True, "Found.", {"total": 1.0}, candidates))


def test_every_control_has_a_tooltip(qtbot, dock: SearchDock, slides: Path) -> None:
    dock.workbench.take([slides])
    settle(qtbot, dock)
    judge_something(dock)
    settle(qtbot, dock)
    controls = [control for kind in CONTROLS for control in dock.findChildren(kind) if is_own(control)]
    canvas = set(dock.inspector.canvas.findChildren(QAbstractButton))
    controls += [button for button in dock.inspector.findChildren(QAbstractButton) if button not in canvas]
    controls.append(dock.inspector.slider)
    assert len(controls) > 30
    without = [
        f"{type(control).__name__} {control.objectName()}" for control in controls if not control.toolTip()
    ]
    assert without == []


def test_empty_parts_say_what_to_do(dock: SearchDock) -> None:
    assert "Add folder" in dock.repository.hint.text() and not dock.repository.hint.isHidden()
    assert "draw" in dock.query.preview.text()
    assert "Index" in dock.search.answer.text() and not dock.search.go_button.isEnabled()
    assert "appear here" in dock.results.hint.text()
    assert all(not button.isEnabled() and button.toolTip() for button in dock.export.buttons.values())
    assert dock.project_label.text() == "Untitled project"


def test_slides_are_listed_with_size_and_source(qtbot, dock: SearchDock, slides: Path) -> None:
    dock.workbench.take([slides])
    settle(qtbot, dock)
    texts = [item.size_text for item in dock.session.slides]
    assert texts[0].startswith("400 × 300 px · 0.5 µm (") and texts[1] == "400 × 300 px · pixel size missing"
    model = dock.repository.model
    icons = [model.index(row).data(int(Qt.ItemDataRole.DecorationRole)) for row in range(model.rowCount())]
    assert all(icon is not None for icon in icons)
    layer = dock.workbench.view.layer(dock.session.slides[0].fingerprint)
    assert layer.visible and tuple(layer.scale) == (0.5, 0.5)
    dock.workbench.index(dock.session.slides[1:])
    assert "The pixel size of b.tif is not known, so it is not indexed" in dock.message.text
    dock.workbench.set_pixel_size(dock.session.slides[1].fingerprint, 0.25)
    dock.workbench.view.show(dock.session.slides[1].fingerprint)
    settle(qtbot, dock)
    other = dock.workbench.view.layer(dock.session.slides[1].fingerprint)
    assert tuple(other.scale) == (0.25, 0.25) and other.visible and not layer.visible


def test_a_click_on_a_pixel_size_corrects_it(qtbot, dock: SearchDock, slides: Path, monkeypatch) -> None:
    dock.workbench.take([slides])
    settle(qtbot, dock)
    dock.viewer.window.show()
    dock.resize(420, 900)
    qtbot.wait(50)
    monkeypatch.setattr(QInputDialog, "getDouble", lambda *_: (0.25, True))
    view = dock.repository.list
    row = view.visualRect(view.model().index(1))
    link = pixel_size_area(row, dock.session.slides[1], view.fontMetrics())
    assert row.contains(link) and link.width() > 40
    QTest.mouseClick(view.viewport(), LEFT, NO_KEYS, QPoint(row.left() + 10, row.top() + 10))
    assert dock.session.slides[1].info.pixel_size_um is None
    QTest.mouseClick(view.viewport(), LEFT, NO_KEYS, link.center())
    assert dock.session.slides[1].size_text == "400 × 300 px · 0.25 µm (user)"
    settle(qtbot, dock)


def test_a_bad_file_is_told_in_one_sentence(qtbot, dock: SearchDock, tmp_path: Path) -> None:
    (tmp_path / "broken.svs").write_bytes(b"")
    dock.workbench.take([tmp_path / "broken.svs"])
    settle(qtbot, dock)
    assert "broken.svs" in dock.message.text
    assert dock.session.slides == []
    dock.message.copy_button.click()
    from qtpy.QtGui import QGuiApplication

    assert "napari-comir-search" in QGuiApplication.clipboard().text()


def test_a_bad_file_among_good_ones_is_told_until_it_is_read(qtbot, dock: SearchDock, slides: Path) -> None:
    (slides / "broken.svs").write_bytes(b"")
    dock.workbench.take([slides])
    settle(qtbot, dock)
    assert len(dock.session.slides) == 2
    assert "broken.svs" in dock.message.text


def drop(qtbot, dock: SearchDock, path: Path, target) -> None:
    """Drop a file or folder on the middle of a widget of the dock."""
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(path))])
    dock.resize(420, 900)
    qtbot.wait(50)
    place = QPointF(target.mapTo(dock, target.rect().center()))
    asking = QDragEnterEvent(place.toPoint(), Qt.DropAction.CopyAction, mime, LEFT, NO_KEYS)
    assert QApplication.sendEvent(dock, asking) and asking.isAccepted()
    event = QDropEvent(place, Qt.DropAction.CopyAction, mime, LEFT, NO_KEYS)
    assert QApplication.sendEvent(dock, event) and event.isAccepted()
    settle(qtbot, dock)


def test_a_patch_dropped_on_the_query_becomes_one(qtbot, dock: SearchDock, slides: Path) -> None:
    drop(qtbot, dock, slides / "a.tif", dock.sections["query"])
    assert dock.session.query.name == "a.tif" and dock.session.slides == []
    assert dock.query.size_label.text() == "200 × 150 µm"
    assert dock.query.modality.currentText() == "Brightfield"
    assert not dock.query.preview.pixmap().isNull()


def test_a_folder_dropped_on_the_repository_is_listed(qtbot, dock: SearchDock, slides: Path) -> None:
    drop(qtbot, dock, slides, dock.sections["repository"])
    assert [item.info.name for item in dock.session.slides] == ["a.tif", "b.tif"]
    assert dock.session.query is None


def test_a_patch_taken_for_a_slide_becomes_a_query(qtbot, dock: SearchDock, slides: Path) -> None:
    drop(qtbot, dock, slides, dock.sections["repository"])
    patch = dock.session.slides[1]
    dock.workbench.set_pixel_size(patch.fingerprint, 0.75)  # its file states none
    menu = dock.repository.menu_of(dock.session.slides[1])
    next(action for action in menu.actions() if "query" in action.text()).trigger()
    settle(qtbot, dock)
    assert (dock.session.query.name, dock.session.query.pixel_size_um) == ("b.tif", 0.75)
    assert [item.info.name for item in dock.session.slides] == ["a.tif"]


def test_the_missing_pixel_size_of_a_query_is_asked_for(qtbot, dock: SearchDock, slides: Path) -> None:
    dock.workbench.maker.add_files([slides / "b.tif"])
    settle(qtbot, dock)
    assert dock.query.pixel_size.text() == "missing"
    dock.query.pixel_size.setValue(0.25)
    settle(qtbot, dock)
    assert dock.session.query.pixel_size_um == 0.25
    assert dock.query.size_label.text() == "100 × 75 µm"


def test_table_canvas_and_buttons_stay_in_step(qtbot, dock: SearchDock, slides: Path) -> None:
    dock.workbench.take([slides / "a.tif"])
    settle(qtbot, dock)
    judge_something(dock)
    settle(qtbot, dock)
    table, session = dock.results.table, dock.session
    assert table.model().rowCount() == 3 and table.currentIndex().row() == 0
    assert (
        dock.results.model.data(dock.results.model.index(0, 0), int(Qt.ItemDataRole.DecorationRole))
        is not None
    )
    session.select_candidate(2)
    assert table.currentIndex().row() == 1
    table.selectRow(2)
    assert session.candidate.rank == 3
    bar = dock.results.verdict_bar
    bar.note.setText("vessel differs")
    bar.buttons[Verdict.REJECTED].click()
    assert session.judgements[3].note == "vessel differs"
    assert bar.buttons[Verdict.REJECTED].isChecked() and not bar.buttons[Verdict.ACCEPTED].isChecked()
    dock.results.chips[Verdict.REJECTED].click()
    assert table.model().rowCount() == 2
    bar.undo_button.click()
    assert table.model().rowCount() == 3 and session.verdict(3) is Verdict.NONE
    for _ in range(3):
        bar.next_button.click()
        bar.buttons[Verdict.UNSURE].click()
    bar.next_button.click()
    assert dock.message.text == "All 3 candidates are judged: 0 accepted, 0 rejected, 3 unsure."
    outlines = dock.workbench.view.candidates.outlines
    assert list(outlines.features["verdict"]) == ["unsure"] * 3


def test_nothing_is_added_to_the_index_of_another_model(qtbot, dock: SearchDock, slides: Path) -> None:
    dock.workbench.take([slides])
    settle(qtbot, dock)
    assert dock.repository.index_button.isEnabled()
    states = {dock.session.slides[0].fingerprint: IndexState.OTHER_MODEL}
    dock.session.set_index(slides / "x.comirindex", None, states)
    assert not dock.repository.index_button.isEnabled()
    assert "another model" in dock.repository.index_button.toolTip()
    assert dock.repository.place_button.isEnabled()


def test_a_message_that_wraps_is_read_whole(qtbot, dock: SearchDock) -> None:
    dock.viewer.window.show()
    dock.message.show_info("Short.")
    for section in dock.sections.values():
        section.set_open(True)
    qtbot.wait(100)
    dock.message.show_info("All 10 candidates are judged: 1 accepted, 0 rejected, 9 unsure. " * 2)
    qtbot.wait(100)
    label = dock.message.label
    assert label.height() >= label.heightForWidth(label.width()) > 2 * label.fontMetrics().height()


def test_a_new_project_shows_where_to_begin(qtbot, dock: SearchDock, slides: Path) -> None:
    def opened() -> set[str]:
        return {name for name, section in dock.sections.items() if section.button.isChecked()}

    dock.workbench.take([slides / "a.tif"])
    settle(qtbot, dock)
    judge_something(dock)
    settle(qtbot, dock)
    assert opened() == {"search", "results", "export"}
    dock.workbench.new_project()
    assert opened() == {"repository", "query", "search"}
    settle(qtbot, dock)


def test_leaving_takes_keys_and_callbacks_off(qtbot, dock: SearchDock, slides: Path) -> None:
    viewer = dock.viewer
    dock.workbench.take([slides / "a.tif"])
    settle(qtbot, dock)
    judge_something(dock)
    settle(qtbot, dock)
    path = dock.session.project.path
    viewer.window.remove_dock_widget(dock)
    assert dock.workbench.view._pick not in viewer.mouse_drag_callbacks and not viewer.layers
    assert not [key for key in viewer.keymap if "Shift" in str(key)]
    assert path.exists()  # it holds a verdict's worth of work
    dock.leave()  # twice is once


def test_the_dock_works_with_the_viewer_that_napari_gives(
    qtbot, make_napari_viewer_proxy, slides: Path, tmp_path: Path
) -> None:
    viewer = make_napari_viewer_proxy()
    dock = SearchDock(viewer, folder=tmp_path / "projects")
    viewer.window.add_dock_widget(dock, name="CoMIR search", area="right")
    dock.workbench.take([slides / "a.tif"])
    settle(qtbot, dock)
    judge_something(dock)
    settle(qtbot, dock)
    assert viewer.layers["a.tif"].visible
    assert "Candidates" in viewer.layers
    assert dock.inspector.canvas.model.layers
    dock.leave()
    settle(qtbot, dock)


def test_durations_are_short() -> None:
    assert [describe_seconds(value) for value in (0.2, 42, 90, 3700)] == ["1 s", "42 s", "2 min", "1 h 2 min"]
    assert "napari " in describe_versions()
