"""A widget that stops its work when its dock or its window goes away."""

from __future__ import annotations

from qtpy.QtCore import QEvent, QObject, QTimer
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QApplication, QWidget


class LeavingWidget(QWidget):
    """Calls `close_down` once, when it is taken out of its window or the window closes.

    napari removes a dock's widget by giving it no parent, and closes its window
    only after the user has agreed to, so neither can be told by a close event.
    """

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._is_open = True
        QApplication.instance().aboutToQuit.connect(self.leave)

    def close_down(self) -> None:
        """Stop all work and let go of the viewer."""

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
        """Leave after the window has closed, if it does."""
        if event.type() == QEvent.Type.Close and self._is_open and watched is self.window():
            self.about_to_close()
            QTimer.singleShot(0, self._leave_closed_window)
        return super().eventFilter(watched, event)

    def _leave_closed_window(self) -> None:
        if not self.window().isVisible():
            self.leave()
