"""One sentence to the user, with its details to copy."""

from __future__ import annotations

import platform
from importlib.metadata import version

from qtpy.QtCore import Qt
from qtpy.QtGui import QGuiApplication, QResizeEvent
from qtpy.QtWidgets import QGridLayout, QLabel, QPushButton, QToolButton, QVBoxLayout, QWidget

from napari_comir_search.state.log import log_path

STYLES = {
    "error": "background: #d55e00; color: white;",
    "info": "background: #0072b2; color: white;",
}


class WrappedLabel(QLabel):
    """A label that has room for all its lines: where the dock is full, Qt gives it that of one."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWordWrap(True)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Fit the height to the new width."""
        super().resizeEvent(event)
        self.fit_height()

    def fit_height(self) -> None:
        """Fit the height to the text."""
        self.setMinimumHeight(max(0, self.heightForWidth(self.width())))


MOST_NOTES = 4
MOST_LINES = 12


class MessageBar(QWidget):
    """The last message and the notes beside it, until they are dismissed or other work begins."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._message, self._kind = "", "info"
        self._notes: list[str] = []
        self.label = WrappedLabel()
        self.label.setTextFormat(Qt.TextFormat.PlainText)  # names come from files and projects
        self.label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.copy_button = QPushButton("Copy details")
        self.copy_button.setToolTip("Copy this message and the versions of the software, for a bug report.")
        self.copy_button.clicked.connect(self._copy)
        self.close_button = QToolButton()
        self.close_button.setText("×")
        self.close_button.setToolTip("Close this message.")
        self.close_button.clicked.connect(self.dismiss)
        self._frame = QWidget()
        self._frame.setObjectName("comir-message")
        layout = QGridLayout(self._frame)
        layout.setContentsMargins(8, 6, 6, 6)
        layout.setColumnStretch(0, 1)
        layout.addWidget(self.label, 0, 0)
        layout.addWidget(self.close_button, 0, 1, Qt.AlignmentFlag.AlignTop)
        layout.addWidget(self.copy_button, 1, 0, 1, 2, Qt.AlignmentFlag.AlignRight)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 6, 0)
        outer.addWidget(self._frame)
        self.hide()

    def show_error(self, sentence: str) -> None:
        """Show what failed and how to fix it."""
        self._message, self._kind = sentence, "error"
        self._show()

    def show_info(self, sentence: str) -> None:
        """Show what was done."""
        self._message, self._kind = sentence, "info"
        self._show()

    def add_note(self, sentence: str) -> None:
        """Show a note that stays when the next message comes."""
        if sentence not in self._notes:
            self._notes.append(sentence)
        self._show()

    def dismiss(self) -> None:
        """Remove the message and the notes."""
        self._message, self._kind, self._notes = "", "info", []
        self.hide()

    @property
    def text(self) -> str:
        """What is shown, "" when nothing is."""
        return "" if self.isHidden() else self.label.text()

    def _show(self) -> None:
        n_more = len(self._notes) - MOST_NOTES
        notes = [*self._notes[:MOST_NOTES], *([f"And {n_more} more; see the log."] if n_more > 0 else [])]
        lines = [*self._message.splitlines(), *notes]
        if len(lines) > MOST_LINES:
            lines = [*lines[: MOST_LINES - 1], f"And {len(lines) - MOST_LINES + 1} more; see the log."]
        self.label.setText("\n".join(lines))
        self.copy_button.setVisible(self._kind == "error")
        self._frame.setStyleSheet(
            f"#comir-message {{ {STYLES[self._kind]} border-radius: 4px; }}"
            "#comir-message QLabel { color: white; background: transparent; }"
        )
        self.show()
        self.label.fit_height()

    def _copy(self) -> None:
        QGuiApplication.clipboard().setText(f"{self.label.text()}\n\n{describe_versions()}")


def describe_versions() -> str:
    """Return the versions that matter in a report, one a line."""
    names = ("napari-comir-search", "napari", "torch", "zarr", "tifffile", "numpy")
    lines = [f"{name} {version(name)}" for name in names]
    system = f"Python {platform.python_version()}, {platform.platform()}"
    return "\n".join([*lines, system, f"Log: {log_path()}"])
