"""A label of one line that ends in an ellipsis where there is no room for all of it."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtGui import QResizeEvent
from qtpy.QtWidgets import QLabel, QSizePolicy, QWidget

PADDING_PX = 4  # that a theme may put around the text


class ElidedLabel(QLabel):
    """Shows what fits; the whole text is in `text` and, where none was set, in the tooltip.

    Parameters
    ----------
    text : str
    mode : Qt.TextElideMode
        Where the ellipsis stands.
    """

    def __init__(
        self,
        text: str = "",
        mode: Qt.TextElideMode = Qt.TextElideMode.ElideRight,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._whole, self._mode = "", mode
        self.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        self.setText(text)

    def text(self) -> str:
        """Return the whole text."""
        return self._whole

    def setText(self, text: str) -> None:
        """Show a text."""
        self._whole = text
        self._fit()

    def clear(self) -> None:
        """Show nothing."""
        self.setText("")

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Show as much as fits now."""
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        width = self.contentsRect().width() - 2 * PADDING_PX
        shown = self.fontMetrics().elidedText(self._whole, self._mode, max(width, 1))
        super().setText(shown)
