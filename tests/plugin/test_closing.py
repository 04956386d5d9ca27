"""What a project held is let go when another one takes its place."""

from __future__ import annotations

import gc
import weakref

from napari._qt.dialogs.confirm_close_dialog import ConfirmCloseDialog
from napari.settings import get_settings
from qtpy.QtCore import Qt
from qtpy.QtGui import QCloseEvent
from qtpy.QtWidgets import QApplication, QMessageBox
from vispy.scene.widgets import Grid

from comir_search.progress import Tick
from comir_search.retrieval.options import SearchOptions
from napari_comir_search.manifest import read_slides
from napari_comir_search.widgets.worker import JobRunner

from .conftest import settle


class Large:
    """Stands for an index with its model and its chunks."""


def steps(large: Large):
    for done in range(10_000):
        yield Tick("working", done, 10_000, partial=large)


def test_a_project_that_was_left_holds_nothing(qtbot, searched_dock) -> None:
    dock = searched_dock
    dock.workbench.show_heat_map(True)
    settle(qtbot, dock)
    fingerprint = dock.session.candidate.fingerprint
    kept = {
        "project": weakref.ref(dock.session.project),
        "index": weakref.ref(dock.session.index),
        "model": weakref.ref(dock.session.index.model),
        "indexed slide": weakref.ref(dock.session.index.slides[0]),
        "slide": weakref.ref(dock.workbench.view._slides[fingerprint]),
        "level": weakref.ref(dock.workbench.view._slides[fingerprint].levels[0]),
        "layer": weakref.ref(dock.workbench.view.layer(fingerprint)),
        "heat map": weakref.ref(dock.workbench.heat_map.layer),
    }
    dock.workbench.new_project()
    settle(qtbot, dock)
    qtbot.wait(300)  # Qt deletes controls when it is idle
    gc.collect()
    assert not [name for name, reference in kept.items() if reference() is not None]


def test_the_comparison_of_a_left_project_is_let_go(qtbot, searched_dock) -> None:
    dock = searched_dock
    canvas = dock.inspector.canvas
    qtbot.waitUntil(lambda: len(canvas.model.layers) == 2)
    kept = {layer.name: weakref.ref(layer.data) for layer in canvas.model.layers} | {
        "picture": weakref.ref(canvas._comparison.query.image)
    }
    dock.workbench.new_project()
    qtbot.waitUntil(lambda: not canvas.model.layers, timeout=5000)
    qtbot.wait(300)
    gc.collect()
    assert not [name for name, reference in kept.items() if reference() is not None]


def test_comparisons_one_after_the_other_share_one_grid(qtbot, searched_dock) -> None:
    dock = searched_dock
    canvas = dock.inspector.canvas
    qtbot.waitUntil(lambda: len(canvas.model.layers) == 2)
    comparison = canvas._comparison

    def count_grids() -> int:
        gc.collect()
        return sum(isinstance(each, Grid) for each in gc.get_objects())

    before = count_grids()
    for _ in range(3):
        canvas.forget()
        qtbot.waitUntil(lambda: not canvas.model.layers, timeout=5000)
        canvas.show_comparison(comparison)
        qtbot.wait(50)
    assert canvas.model.canvas.grid.enabled
    assert count_grids() == before


def test_a_project_opened_meanwhile_keeps_its_comparison(qtbot, searched_dock, tmp_path) -> None:
    dock = searched_dock
    dock.workbench.save_as(tmp_path / "study.comirproj")
    dock.workbench.new_project()
    dock.workbench.open_project(tmp_path / "study.comirproj")
    qtbot.waitUntil(lambda: dock.session.index is not None, timeout=60_000)
    settle(qtbot, dock)
    qtbot.wait(1000)
    layers = dock.inspector.canvas.model.layers
    assert len(layers) == 2 and all(layer.visible for layer in layers)


def test_layers_of_a_left_project_go_all_at_once(qtbot, searched_dock) -> None:
    """napari collects garbage once for each batch: the window waits that long."""
    dock, batches, removed = searched_dock, [], []
    dock.workbench.show_heat_map(True)
    settle(qtbot, dock)
    dock.viewer.layers.events.end_batch.connect(batches.append)
    dock.viewer.layers.events.removed.connect(removed.append)
    dock.workbench.new_project()
    assert len(removed) == 4 and len(batches) == 1  # the slide, its heat map, rectangles and pins


def test_leaving_while_drawing_is_one_batch_too(qtbot, searched_dock) -> None:
    dock, batches, heard = searched_dock, [], []
    slide = dock.workbench.view.layer(dock.session.candidate.fingerprint)
    dock.workbench.maker.draw_on(slide)
    dock.workbench.maker.drawing_changed.connect(lambda: heard.append(True))
    dock.viewer.layers.events.end_batch.connect(batches.append)
    dock.workbench.new_project()
    assert not dock.viewer.layers and len(batches) == 1
    assert dock.workbench.maker.outline is None and heard


def test_a_project_that_cannot_be_opened_leaves_the_present_one_on_the_canvas(
    qtbot, searched_dock, tmp_path
) -> None:
    dock = searched_dock
    (tmp_path / "bad.comirproj").write_bytes(b"no project")
    layers, candidates = list(dock.viewer.layers), dock.session.candidates
    dock.workbench.open_project(tmp_path / "bad.comirproj")
    settle(qtbot, dock)
    assert "bad.comirproj" in dock.message.text
    assert list(dock.viewer.layers) == layers and dock.session.candidates == candidates


def test_the_same_slide_opened_beside_ours_is_the_users(qtbot, searched_dock) -> None:
    """Its layer gone, the project's own slide was closed under the canvas that drew it."""
    dock, viewer = searched_dock, searched_dock.viewer
    fingerprint = dock.session.candidate.fingerprint
    slide, layer = dock.workbench.view._slides[fingerprint], dock.workbench.view.layer(fingerprint)
    for keep in (False, True):
        data, options, _ = read_slides(dock.session.slide(fingerprint).info.path)[0]
        copy = viewer.add_image(data, **options)
        if not keep:
            viewer.layers.remove(copy)
            assert dock.workbench.view._slides[fingerprint] is slide and layer.visible
            assert dock.workbench.view.shown == fingerprint
    dock.workbench.new_project()
    settle(qtbot, dock)
    assert list(viewer.layers) == [copy] and not dock.workbench.view._slides


def test_pictures_of_left_slides_are_dropped(qtbot, searched_dock) -> None:
    dock = searched_dock
    assert dock.repository.model._pictures
    dock.workbench.new_project()
    assert not dock.repository.model._pictures


def test_a_cancelled_job_holds_nothing(qtbot) -> None:
    """napari remembers its workers; what they worked on must not live as long."""
    runner = JobRunner()
    large = Large()
    reference = weakref.ref(large)
    with qtbot.waitSignal(runner.ticked, timeout=5000):
        runner.run("Working", steps(large))
    worker = runner._worker  # as napari holds it
    with qtbot.waitSignal(runner.ended, timeout=5000) as ended:
        runner.cancel()
    assert ended.args == ["cancelled"]
    del large
    qtbot.wait(50)
    gc.collect()
    assert worker is not None and reference() is None


def test_memory_is_given_back_once_the_jobs_have_stopped(qtbot, monkeypatch, searched_dock) -> None:
    dock, given_back = searched_dock, []
    monkeypatch.setattr(
        "napari_comir_search.widgets.housekeeping.give_memory_back",
        lambda: given_back.append([runner.is_running for runner in dock.workbench.runners]),
    )
    dock.workbench.search(SearchOptions(top=5))
    dock.workbench.new_project()
    settle(qtbot, dock)
    qtbot.waitUntil(lambda: bool(given_back), timeout=5000)
    assert len(given_back) == 1 and not any(given_back[0])


def test_what_outlives_projects_is_put_aside_until_the_dock_goes(qtbot, searched_dock) -> None:
    dock = searched_dock
    assert gc.get_freeze_count() == 0
    dock.workbench.new_project()
    settle(qtbot, dock)
    qtbot.waitUntil(lambda: gc.get_freeze_count() > 0, timeout=5000)
    assert not dock.viewer.layers
    dock.leave()
    assert gc.get_freeze_count() == 0


def close_by_frame(window) -> None:
    """Close a window as the window system does for the user."""
    QApplication.sendEvent(window.windowHandle(), QCloseEvent())


def test_closing_while_work_is_under_way_asks_once(qtbot, searched_dock, monkeypatch) -> None:
    dock = searched_dock
    window = dock.window()
    window.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose, False)  # the fixture does
    asked, answers = [], ["Cancel", "Close"]

    def answer(box) -> int:
        asked.append(box.text())
        wanted = answers[len(asked) - 1]
        next(button for button in box.buttons() if button.text().strip("&") == wanted).click()
        return 0

    def refuse(dialog) -> int:
        asked.append("napari's own")
        return 0

    monkeypatch.setattr(QMessageBox, "exec", answer)
    monkeypatch.setattr(ConfirmCloseDialog, "exec_", refuse)
    dock.workbench.index(dock.session.slides[1:])
    qtbot.waitUntil(lambda: dock.repository.progress.stage.text().startswith("Embedding"), timeout=30_000)
    dock.open_training()
    close_by_frame(window)
    qtbot.wait(50)
    assert window.isVisible() and dock.workbench.indexing.is_running
    close_by_frame(window)
    qtbot.waitUntil(lambda: not window.isVisible(), timeout=5000)
    settle(qtbot, dock)
    assert asked == ["Still running: Indexing second.ome.tif.\nStop it and close the window?"] * 2
    qtbot.wait(50)
    assert not dock._is_open


def test_closing_while_nothing_is_under_way_is_left_to_napari(qtbot, searched_dock, monkeypatch) -> None:
    window = searched_dock.window()
    asked = []
    monkeypatch.setattr(ConfirmCloseDialog, "exec_", lambda dialog: asked.append(dialog) or 0)
    get_settings().application.confirm_close_window = True
    close_by_frame(window)
    assert len(asked) == 1 and window.isVisible() and searched_dock._is_open
