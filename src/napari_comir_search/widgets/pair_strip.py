"""A few pairs of a training beside each other, to page through."""

from __future__ import annotations

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QToolButton, QVBoxLayout, QWidget

from comir_search.training.pair_check import CheckedPair
from napari_comir_search.widgets.elided_label import elided_label
from napari_comir_search.widgets.slide_list import to_pixmap

SHOWN = 3
PICTURE_PX = 104
HINT = "Choose two folders of aligned images;\nthe images of a pair have the same name."
SIDES = 2


class PairStrip(QWidget):
    """Shows three pairs at a time, one side above the other; those with problems come first."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._pairs: list[CheckedPair] = []
        self._first = 0
        self.hint = QLabel(HINT)
        self.hint.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.hint.setStyleSheet("border: 1px dashed gray; border-radius: 6px;")
        self.hint.setFixedHeight(PICTURE_PX)
        self._cells = [[QLabel() for _ in range(SIDES)] for _ in range(SHOWN)]
        self._names = [elided_label() for _ in range(SHOWN)]
        self._grid_frame = QWidget()
        grid = QGridLayout(self._grid_frame)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(4)
        for column, (cells, name) in enumerate(zip(self._cells, self._names, strict=True)):
            for row, cell in enumerate(cells):
                cell.setFixedSize(PICTURE_PX, PICTURE_PX)
                cell.setAlignment(Qt.AlignmentFlag.AlignCenter)
                grid.addWidget(cell, row, column)
            name.setAlignment(Qt.AlignmentFlag.AlignCenter)
            grid.addWidget(name, SIDES, column)
        self.count_label = QLabel()
        self.before_button = self._page_button("‹", "Show the previous pairs.", -SHOWN)
        self.after_button = self._page_button("›", "Show the next pairs.", SHOWN)
        self._pager = QWidget()
        pager = QHBoxLayout(self._pager)
        pager.setContentsMargins(0, 0, 0, 0)
        pager.addWidget(self.count_label, 1)
        pager.addWidget(self.before_button)
        pager.addWidget(self.after_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for part in (self.hint, self._grid_frame, self._pager):
            layout.addWidget(part)
        self.show_pairs([])

    def show_pairs(self, pairs: list[CheckedPair]) -> None:
        """Show these pairs, from the first."""
        self._pairs = sorted(pairs, key=lambda pair: not pair.problem)
        self._first = 0
        self._show()

    def add(self, pair: CheckedPair) -> None:
        """Show one pair more while the others are still being checked."""
        self._pairs.append(pair)
        self._show()

    def set_hint(self, text: str) -> None:
        """Set the text that is shown while there are no pairs."""
        self.hint.setText(text)

    def _show(self) -> None:
        has_pairs = bool(self._pairs)
        self.hint.setVisible(not has_pairs)
        for part in (self._grid_frame, self._pager):
            part.setVisible(has_pairs)
        shown = self._pairs[self._first : self._first + SHOWN]
        for number, (cells, name) in enumerate(zip(self._cells, self._names, strict=True)):
            pair = shown[number] if number < len(shown) else None
            for row, cell in enumerate(cells):
                cell.clear()
                if pair is not None and row < len(pair.pictures):
                    cell.setPixmap(_fit(pair.pictures[row]))
            name.setText("" if pair is None else ("⚠ " if pair.problem else "") + pair.name)
            name.setToolTip("" if pair is None else pair.problem or f"{pair.name}: no problem was found.")
        last = self._first + len(shown)
        self.count_label.setText(f"Pairs {self._first + 1}–{last} of {len(self._pairs)}")
        self.before_button.setEnabled(self._first > 0)
        self.after_button.setEnabled(last < len(self._pairs))

    def _page_button(self, text: str, tip: str, step: int) -> QToolButton:
        button = QToolButton()
        button.setText(text)
        button.setToolTip(tip)
        button.clicked.connect(lambda: self._turn(step))
        return button

    def _turn(self, step: int) -> None:
        self._first = max(0, self._first + step)
        self._show()


def _fit(picture: np.ndarray) -> object:
    return to_pixmap(picture).scaled(
        PICTURE_PX,
        PICTURE_PX,
        Qt.AspectRatioMode.KeepAspectRatio,
        Qt.TransformationMode.SmoothTransformation,
    )
