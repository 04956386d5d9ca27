"""A widget that stops its work when its dock or its window goes away."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from qtpy.QtCore import QEvent, QObject, QTimer
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QApplication, QMessageBox, QWidget

from napari_comir_search.widgets.worker import JobRunner


class LeavingWidget(QWidget):
    """Calls `close_down` once, when it is taken out of its window or the window closes.

    napari removes a dock's widget by giving it no parent, and closes its window
    only after the user has agreed, so no close event shows either.
    When a window is closed by its frame while work is under way, napari asks
    twice, the second time without saying what for: it is asked here, once for
    all such widgets of the window. The menu's and the keys' way is napari's own.

    Attributes
    ----------
    asked_about : sequence of JobRunner
        Whose work the question names.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._is_open = True
        self.asked_about: Sequence[JobRunner] = ()
        QApplication.instance().aboutToQuit.connect(self.leave)

    def close_down(self) -> None:
        """Stop all jobs and disconnect from the viewer."""

    def about_to_close(self) -> None:
        """Note what must be noted while everything is still there; the window may stay all the same."""

    def leave(self) -> None:
        """Close down, unless that has been done."""
        if self._is_open:
            self._is_open = False
            self.close_down()

    def event(self, event: QEvent) -> bool:
        """Leave when the widget is taken out of its window."""
        if event.type() == QEvent.Type.ParentChange and self.parent() is None and hasattr(self, "_is_open"):
            self.leave()
        return super().event(event)

    def showEvent(self, event: QShowEvent) -> None:
        """Watch the window, to leave with it."""
        self.window().installEventFilter(self)
        super().showEvent(event)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        """Ask before work is stopped; leave after the window has closed, if it does."""
        if event.type() == QEvent.Type.Close and self._is_open and watched is self.window():
            titles = self._under_way()
            if event.spontaneous() and titles:
                event.ignore()
                if self._is_agreed(titles):
                    # Not at once: Qt does not close a window that is being closed.
                    QTimer.singleShot(0, partial(QWidget.close, self.window()))
                return True
            self.about_to_close()
            QTimer.singleShot(0, self._leave_closed_window)
        return super().eventFilter(watched, event)

    def _under_way(self) -> list[str]:
        """Return what the widgets of this window are doing that they would be asked about."""
        runners = (
            runner for widget in self.window().findChildren(LeavingWidget) for runner in widget.asked_about
        )
        return [runner.title for runner in runners if runner.is_running]

    def _is_agreed(self, titles: list[str]) -> bool:
        """Ask whether to close the window although work is running."""
        box = QMessageBox(self.window())
        box.setIcon(QMessageBox.Icon.Warning)
        box.setWindowTitle("Close the window?")
        box.setText(f"Still running: {', '.join(titles)}.\nStop it and close the window?")
        close = box.addButton("Close", QMessageBox.ButtonRole.AcceptRole)
        box.setDefaultButton(box.addButton(QMessageBox.StandardButton.Cancel))
        box.exec()
        box.deleteLater()
        return box.clickedButton() is close

    def _leave_closed_window(self) -> None:
        if not self.window().isVisible():
            self.leave()
