"""The comparison with mouse and keys: moved, turned, fitted, kept; alignment seen on pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest

from comir_search.geometry import angle_difference_deg
from napari_comir_search.state.inspection import Mode
from napari_comir_search.widgets.dock import SearchDock

from .conftest import settle

CENTER_PX = (500.0, 410.0)  # where the query was cut, level-0 pixels of its slide


def drag(qtbot, canvas, first: QPoint, last: QPoint, modifier) -> None:
    QTest.mouseMove(canvas, first)
    QTest.mousePress(canvas, Qt.MouseButton.LeftButton, modifier, first)
    for share in np.linspace(0, 1, 6)[1:]:
        step = first + (last - first) * float(share)
        QTest.mouseMove(canvas, step)
        qtbot.wait(30)
    QTest.mouseRelease(canvas, Qt.MouseButton.LeftButton, modifier, last)
    qtbot.wait(60)


def hold(qtbot, canvas, key, modifier, first: QPoint, last: QPoint) -> None:
    """Drag with a key held, as a hand does it."""
    canvas.setFocus()
    QTest.keyPress(canvas, key, modifier)
    drag(qtbot, canvas, first, last, modifier)
    QTest.keyRelease(canvas, key)


def show(qtbot, dock: SearchDock, mode: Mode, amount: int) -> np.ndarray:
    """Return what is seen in a mode, grey."""
    dock.inspector.mode_buttons[mode].click()
    dock.inspector.slider.setValue(amount)
    qtbot.wait(250)
    return dock.inspector.canvas.qt_viewer.screenshot(flash=False)[..., :3].mean(axis=-1)


def middle(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape
    side = min(height, width) // 2
    return picture[(height - side) // 2 :, (width - side) // 2 :][:side, :side]


def shift_between(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return by how many pixels (down, right) the second picture is off the first."""
    spectra = [np.fft.fft2(picture - picture.mean()) for picture in (first, second)]
    correlation = np.fft.ifft2(spectra[0].conj() * spectra[1]).real
    peak = np.array(np.unravel_index(correlation.argmax(), correlation.shape))
    return np.where(peak > np.array(first.shape) / 2, peak - first.shape, peak)


def test_query_and_slide_are_aligned_on_the_screen(qtbot, searched_dock: SearchDock) -> None:
    dock = searched_dock
    first = dock.session.candidate
    assert np.hypot(first.center_x_px - CENTER_PX[0], first.center_y_px - CENTER_PX[1]) < 3
    slide, query = (middle(show(qtbot, dock, Mode.BLEND, amount)) for amount in (0, 100))
    assert slide.std() > 10
    assert np.hypot(*shift_between(slide, query)) <= 3
    assert np.corrcoef(slide.ravel(), query.ravel())[0, 1] > 0.9
    # The seams of the board and of the curtain cannot be seen either.
    for mode, amount in ((Mode.CHECKERBOARD, 60), (Mode.SWIPE, 50)):
        mixed = middle(show(qtbot, dock, mode, amount))
        assert np.hypot(*shift_between(slide, mixed)) <= 3
        assert np.corrcoef(slide.ravel(), mixed.ravel())[0, 1] > 0.9
    beside = show(qtbot, dock, Mode.SIDE_BY_SIDE, 50)
    half = beside.shape[1] // 2
    left, right = middle(beside[:, :half]), middle(beside[:, -half:])
    assert np.hypot(*shift_between(left, right)) <= 3


def test_the_mouse_moves_and_turns_and_a_fit_brings_it_back(qtbot, searched_dock: SearchDock) -> None:
    dock, inspection = searched_dock, searched_dock.inspection
    canvas = dock.inspector.canvas.qt_viewer.canvas.native
    before = show(qtbot, dock, Mode.BLEND, 0)
    found = dock.session.candidate
    middle_px = QPoint(canvas.width() // 2, canvas.height() // 2)
    shift = QPoint(24, -16)
    hold(qtbot, canvas, Qt.Key.Key_Shift, Qt.KeyboardModifier.ShiftModifier, middle_px, middle_px + shift)
    settle(qtbot, dock)
    assert inspection.is_adjusted and "Moved by" in inspection.adjustment
    after = show(qtbot, dock, Mode.BLEND, 0)
    scale = before.shape[1] / canvas.width()
    moved = shift_between(middle(before), middle(after)) / scale
    np.testing.assert_allclose(moved, [shift.y(), shift.x()], atol=2.5)
    zoom = dock.inspector.canvas.model.scene.camera.zoom
    moved_um = np.hypot(
        inspection.candidate.center_x_um - found.center_x_um,
        inspection.candidate.center_y_um - found.center_y_um,
    )
    assert moved_um == pytest.approx(np.hypot(24, 16) / zoom, rel=0.1)

    dock.inspector.reset_button.click()
    settle(qtbot, dock)
    arm = canvas.height() // 3
    corner = middle_px + QPoint(arm, 0)
    turned = middle_px + QPoint(round(arm * np.cos(np.deg2rad(12))), -round(arm * np.sin(np.deg2rad(12))))
    hold(qtbot, canvas, Qt.Key.Key_Alt, Qt.KeyboardModifier.AltModifier, corner, turned)
    settle(qtbot, dock)
    assert angle_difference_deg(inspection.candidate.angle_deg, found.angle_deg) == pytest.approx(12, abs=1.5)

    dock.inspector.reset_button.click()
    inspection.adjust((9.0, -6.0), 2.0)
    settle(qtbot, dock)
    dock.inspector.refit_button.click()
    settle(qtbot, dock)
    fitted = inspection.candidate
    assert np.hypot(fitted.center_x_px - CENTER_PX[0], fitted.center_y_px - CENTER_PX[1]) < 3
    dock.inspector.keep_button.click()
    settle(qtbot, dock)
    assert dock.session.candidate == replace(fitted, by_hand=True, confidence=None)
    assert not inspection.is_adjusted


def test_the_contrast_of_the_layer_is_kept(qtbot, searched_dock: SearchDock) -> None:
    dock = searched_dock
    before = show(qtbot, dock, Mode.BLEND, 0)
    layer = dock.workbench.view.layer(dock.session.slides[0].fingerprint)
    layer.contrast_limits = (200, 255)
    qtbot.wait(400)
    settle(qtbot, dock)
    qtbot.wait(200)
    darker = show(qtbot, dock, Mode.BLEND, 0)
    assert middle(darker).mean() < middle(before).mean() - 30
    dock.workbench.maker.add_layer(layer)
    settle(qtbot, dock)
    assert dock.session.query.source["contrast"] == [200.0, 255.0, 1.0]


def test_fit_is_offered_again_once_the_index_is_open(qtbot, searched_dock: SearchDock) -> None:
    dock = searched_dock
    path = dock.session.project.path
    dock.workbench.new_project()
    dock.workbench.open_project(path)
    settle(qtbot, dock)
    assert dock.session.index is not None and dock.inspector.refit_button.isEnabled()


def test_keys_nudge_the_slide_under_the_query(qtbot, searched_dock: SearchDock) -> None:
    dock = searched_dock
    inspection, found = dock.inspection, dock.session.candidate
    for canvas in (
        dock.inspector.canvas.qt_viewer.canvas.native,
        dock.viewer.window._qt_viewer.canvas.native,
    ):
        canvas.setFocus()
        for key in (Qt.Key.Key_Right, Qt.Key.Key_Right, Qt.Key.Key_Down, Qt.Key.Key_PageUp):
            QTest.keyClick(canvas, key, Qt.KeyboardModifier.ShiftModifier)
        assert angle_difference_deg(inspection.candidate.angle_deg, found.angle_deg) == pytest.approx(0.5)
        assert (
            "Moved by 2.2 µm, turned by 0.5°" in inspection.adjustment
        )  # 0.5 % of 200 um: twice right, once down
        for key in (Qt.Key.Key_Left, Qt.Key.Key_Left, Qt.Key.Key_Up):
            QTest.keyClick(canvas, key, Qt.KeyboardModifier.ShiftModifier)
        QTest.keyClick(canvas, Qt.Key.Key_PageDown, Qt.KeyboardModifier.ShiftModifier)
        assert inspection.adjustment == "Moved by 0.0 µm, turned by 0.0°"
        inspection.reset()
    settle(qtbot, dock)


def test_what_shows_nothing_cannot_be_saved(qtbot, searched_dock: SearchDock) -> None:
    inspector = searched_dock.inspector
    assert inspector.picture_button.isEnabled() and inspector.query_face.isEnabled()
    searched_dock.workbench.new_project()
    assert not inspector.picture_button.isEnabled() and not inspector.query_face.isEnabled()


def test_the_comparison_follows_the_theme(qtbot, searched_dock: SearchDock) -> None:
    dock = searched_dock
    for theme in ("light", "dark"):
        dock.viewer.theme = theme
        assert dock.inspector.canvas.model.theme == theme
