"""A titled part of the dock that folds away."""

from __future__ import annotations

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QHBoxLayout, QToolButton, QVBoxLayout, QWidget

from napari_comir_search.widgets.elided_label import elided_label


class Section(QWidget):
    """A title that folds its content away, with one line of state beside it.

    Parameters
    ----------
    title : str
        Name of the part.
    content : QWidget
        What is folded away.
    tip : str
        What the part is for.
    """

    def __init__(self, title: str, content: QWidget, tip: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.content = content
        self.button = QToolButton()
        self.button.setText(title)
        self.button.setCheckable(True)
        self.button.setChecked(True)
        self.button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.button.setArrowType(Qt.ArrowType.DownArrow)
        self.button.setAutoRaise(True)
        self.button.setToolTip(f"{tip} Click to fold or unfold.")
        self.button.setStyleSheet("QToolButton { font-weight: bold; border: none; background: transparent; }")
        self.button.toggled.connect(self._toggle)
        self.note = elided_label()
        self.note.setAlignment(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        head = QHBoxLayout()
        head.setContentsMargins(0, 2, 4, 2)
        head.addWidget(self.button)
        head.addWidget(self.note, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addLayout(head)
        layout.addWidget(content)

    def set_note(self, text: str) -> None:
        """Show one line of state beside the title."""
        self.note.setText(text)
        self.note.setToolTip(text)

    def set_open(self, is_open: bool) -> None:
        """Fold or unfold the content."""
        self.button.setChecked(is_open)

    def _toggle(self, is_open: bool) -> None:
        self.button.setArrowType(Qt.ArrowType.DownArrow if is_open else Qt.ArrowType.RightArrow)
        self.content.setVisible(is_open)
