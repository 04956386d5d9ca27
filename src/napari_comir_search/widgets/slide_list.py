"""The list of slides: picture, name, size and place in the index."""

from __future__ import annotations

from typing import Any

import numpy as np
from qtpy.QtCore import QAbstractListModel, QModelIndex, QRect, QSize, Qt
from qtpy.QtGui import QColor, QIcon, QImage, QPainter, QPixmap
from qtpy.QtWidgets import QStyle, QStyledItemDelegate, QStyleOptionViewItem

from napari_comir_search.items import IndexState, SlideItem

PICTURE_PX = 44
ROW_HEIGHT_PX = PICTURE_PX + 8
STATE_COLOURS = {
    IndexState.NONE: "#8a8d91",
    IndexState.PART: "#e69f00",
    IndexState.DONE: "#009e73",
    IndexState.OTHER_MODEL: "#d55e00",
    IndexState.DAMAGED: "#d55e00",
    IndexState.MISSING: "#d55e00",
}
ITEM_ROLE = int(Qt.ItemDataRole.UserRole)


def to_pixmap(image: np.ndarray) -> QPixmap:
    """Return an RGB picture, uint8 (height, width, 3), as a pixmap."""
    image = np.ascontiguousarray(image)
    height, width = image.shape[:2]
    # The pixmap copies the pixels, so the array may go.
    return QPixmap.fromImage(QImage(image.data, width, height, 3 * width, QImage.Format.Format_RGB888))


def colour_pixmap(colour: tuple[int, int, int], side_px: int = 12) -> QPixmap:
    """Return a square of a colour."""
    pixmap = QPixmap(side_px, side_px)
    pixmap.fill(QColor(*colour))
    return pixmap


class SlideListModel(QAbstractListModel):
    """The slides of a session, for a list view."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._items: list[SlideItem] = []
        self._pictures: dict[str, QPixmap] = {}

    def set_items(self, items: list[SlideItem]) -> None:
        """Show these slides; the same ones in the same order are refreshed in place."""
        listed = {item.fingerprint for item in items}
        self._pictures = {key: picture for key, picture in self._pictures.items() if key in listed}
        if [item.fingerprint for item in items] == [item.fingerprint for item in self._items]:
            self._items = items
            if items:
                self.dataChanged.emit(self.index(0), self.index(len(items) - 1))
            return
        self.beginResetModel()
        self._items = items
        self.endResetModel()

    def set_picture(self, fingerprint: str, image: np.ndarray) -> None:
        """Take in a slide's picture."""
        self._pictures[fingerprint] = to_pixmap(image)
        for row, item in enumerate(self._items):
            if item.fingerprint == fingerprint:
                self.dataChanged.emit(self.index(row), self.index(row))

    def without_picture(self) -> list[SlideItem]:
        """Return the slides whose picture has yet to be made."""
        return [item for item in self._items if item.fingerprint not in self._pictures]

    def item(self, index: QModelIndex) -> SlideItem | None:
        """Return the slide at a place of the list."""
        return self._items[index.row()] if index.isValid() and index.row() < len(self._items) else None

    def row_of(self, fingerprint: str) -> int:
        """Return a slide's row, -1 where it is not listed."""
        return next((row for row, item in enumerate(self._items) if item.fingerprint == fingerprint), -1)

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        """Return how many slides there are."""
        return 0 if parent is not None and parent.isValid() else len(self._items)

    def data(self, index: QModelIndex, role: int = int(Qt.ItemDataRole.DisplayRole)) -> Any:
        """Return what the view asks for."""
        item = self.item(index)
        if item is None:
            return None
        if role == int(Qt.ItemDataRole.DisplayRole):
            return item.info.name
        if role == int(Qt.ItemDataRole.DecorationRole):
            picture = self._pictures.get(item.fingerprint)
            return None if picture is None else QIcon(picture)
        if role == int(Qt.ItemDataRole.ToolTipRole):
            return (
                f"{item.info.path}\n{item.info.format}, {item.size_text}\n{item.state.value}\n"
                "Double-click to show it; right-click for more."
            )
        if role == ITEM_ROLE:
            return item
        return None


class SlideDelegate(QStyledItemDelegate):
    """Draws a slide in two lines beside its picture."""

    def sizeHint(self, option: QStyleOptionViewItem, index: QModelIndex) -> QSize:
        """Return the height of a row."""
        return QSize(180, ROW_HEIGHT_PX)

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex) -> None:
        """Draw a row."""
        item: SlideItem = index.data(ITEM_ROLE)
        painter.save()
        area = option.rect.adjusted(4, 4, -6, -4)
        palette = option.palette
        if option.state & QStyle.StateFlag.State_Selected:
            painter.fillRect(option.rect, palette.highlight())
            strong = palette.highlightedText().color()
        else:
            strong = palette.text().color()
        faint = QColor(strong)
        faint.setAlpha(170)
        picture_area = QRect(area.left(), area.top(), PICTURE_PX, PICTURE_PX)
        picture = index.data(int(Qt.ItemDataRole.DecorationRole))
        if picture is None:
            painter.fillRect(picture_area, QColor(128, 128, 128, 60))
        else:
            picture.paint(painter, picture_area)
        text_area = area.adjusted(PICTURE_PX + 8, 0, 0, 0)
        metrics = option.fontMetrics
        line = metrics.height() + 3
        state = item.state.value
        state_width = metrics.horizontalAdvance(state)
        first = QRect(text_area.left(), text_area.top() + 2, text_area.width(), line)
        painter.setPen(strong)
        name_width = first.width() - state_width - 22
        name = metrics.elidedText(item.info.name, Qt.TextElideMode.ElideMiddle, name_width)
        painter.drawText(first, int(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter), name)
        painter.setPen(faint)
        painter.drawText(first, int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter), state)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(STATE_COLOURS[item.state]))
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.drawEllipse(first.right() - state_width - 13, first.center().y() - 3, 8, 8)
        second = first.translated(0, line)
        painter.setPen(faint)
        detail = metrics.elidedText(item.size_text, Qt.TextElideMode.ElideRight, second.width())
        painter.drawText(second, int(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter), detail)
        painter.restore()
