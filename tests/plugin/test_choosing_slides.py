"""Searching in some of the slides."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtTest import QTest

from .conftest import settle


def test_only_the_slides_that_are_ticked_are_searched(qtbot, searched_dock) -> None:
    dock = searched_dock
    button = dock.search.slides_button
    assert not button.isEnabled()  # there is one slide to search
    dock.workbench.index(dock.session.slides)
    settle(qtbot, dock)
    assert button.isEnabled() and button.text() == "All slides"

    def toggle(name: str) -> None:
        button.menu().aboutToShow.emit()  # as the menu does when it opens
        next(action for action in button.menu().actions() if action.text() == name).trigger()

    def search() -> set[str]:
        QTest.mouseClick(dock.search.go_button, Qt.MouseButton.LeftButton)
        settle(qtbot, dock)
        return {candidate.slide for candidate in dock.session.result.candidates}

    toggle("first.ome.tif")
    assert button.text() == "1 of 2 slides"
    assert search() == {"second.ome.tif"}
    toggle("second.ome.tif")
    assert not dock.search.go_button.isEnabled()
    assert dock.search.answer.text() or dock.search.go_button.toolTip()
    toggle("first.ome.tif")
    assert search() == {"first.ome.tif"}
