"""The keys in a small window."""

from __future__ import annotations

from qtpy.QtWidgets import QDialog, QGridLayout, QLabel, QWidget

from napari_comir_search.view.keys import KEYS, MOUSE, key_of


class KeyTable(QDialog):
    """Lists every key, and what the mouse does, with the meaning."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Keys of CoMIR search")
        layout = QGridLayout(self)
        layout.setContentsMargins(18, 14, 18, 14)
        layout.setHorizontalSpacing(24)
        rows = [(key_of(key.action), key.meaning) for key in KEYS] + list(MOUSE)
        for row, (what, meaning) in enumerate(rows):
            name = QLabel(what)
            name.setStyleSheet("font-weight: bold;")
            layout.addWidget(name, row, 0)
            layout.addWidget(QLabel(meaning), row, 1)
        note = QLabel("The keys work in the canvas and in the dock, but not while you type a note.")
        note.setWordWrap(True)
        layout.addWidget(note, len(rows), 0, 1, 2)
