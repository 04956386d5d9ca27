"""The list of slides: picture, name, size and place in the index."""

from __future__ import annotations

from typing import Any

import numpy as np
from qtpy.QtCore import QAbstractListModel, QEvent, QModelIndex, QPoint, QRect, QSize, Qt, Signal
from qtpy.QtGui import QColor, QFontMetrics, QHelpEvent, QIcon, QImage, QMouseEvent, QPainter, QPen, QPixmap
from qtpy.QtWidgets import QListView, QStyle, QStyledItemDelegate, QStyleOptionViewItem, QToolTip, QWidget

from napari_comir_search.state.items import IndexState, SlideItem

PICTURE_PX = 44
ROW_HEIGHT_PX = PICTURE_PX + 8
STATE_COLOURS = {
    IndexState.NONE: "#8a8d91",
    IndexState.PART: "#e69f00",
    IndexState.DONE: "#009e73",
    IndexState.OTHER_MODEL: "#d55e00",
    IndexState.STALE: "#d55e00",
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
        """Set the picture of a slide."""
        self._pictures[fingerprint] = to_pixmap(image)
        for row, item in enumerate(self._items):
            if item.fingerprint == fingerprint:
                self.dataChanged.emit(self.index(row), self.index(row))

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
                f"{item.info.path}\nThe file is not there. Click Look for moved slides, "
                "or right-click to take it out of the project."
                if item.state is IndexState.MISSING
                else "\n".join(
                    [
                        item.info.path,
                        f"{item.info.format}, {item.size_text}",
                        *item.info.notes,
                        item.state_tip,
                        "",
                    ]
                )
                + "Double-click to show it; click its pixel size to correct it; right-click for more."
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
        """Draw a row.

        Parameters
        ----------
        painter : QPainter
        option : QStyleOptionViewItem
            Where, and in which colours.
        index : QModelIndex
            The row.
        """
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
        left = int(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        second = first.translated(0, line)
        painter.setPen(faint)
        if not item.pixel_size_text:
            was = metrics.elidedText(item.pixels_text, Qt.TextElideMode.ElideMiddle, second.width())
            painter.drawText(second, left, was)
        else:
            painter.drawText(second, left, f"{item.pixels_text} · ")
            link = pixel_size_area(option.rect, item, metrics)
            text = metrics.elidedText(item.pixel_size_text, Qt.TextElideMode.ElideRight, link.width())
            if item.info.pixel_size_um is None:
                painter.setPen(strong)
            painter.drawText(link, left, text)
            # Dotted, as a value that can be changed by a click.
            painter.setPen(QPen(painter.pen().color(), 1, Qt.PenStyle.DotLine))
            base = link.center().y() + metrics.ascent() // 2 + 2
            painter.drawLine(link.left(), base, link.left() + metrics.horizontalAdvance(text), base)
        painter.restore()


def pixel_size_area(row: QRect, item: SlideItem, metrics: QFontMetrics) -> QRect:
    """Return where in its row a slide's pixel size is drawn; empty where it has none to correct.

    Parameters
    ----------
    row : QRect
        The row of the slide.
    item : SlideItem
    metrics : QFontMetrics
        Of the list's font.
    """
    if not item.pixel_size_text:
        return QRect()
    line = metrics.height() + 3
    begin = row.left() + PICTURE_PX + 12 + metrics.horizontalAdvance(f"{item.pixels_text} · ")
    width = min(metrics.horizontalAdvance(item.pixel_size_text) + 1, row.right() - 6 - begin)
    return QRect(begin, row.top() + 6 + line, max(width, 0), line)


class SlideListView(QListView):
    """The list on the screen; a click on a pixel size asks for another."""

    pixel_size_clicked = Signal(object)  # the SlideItem

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setMouseTracking(True)  # for the pointer over what can be clicked
        self.setItemDelegate(SlideDelegate(self))

    def item_with_size_at(self, position: QPoint) -> SlideItem | None:
        """Return the slide whose pixel size lies at a place of the viewport."""
        index = self.indexAt(position)
        item = index.data(ITEM_ROLE) if index.isValid() else None
        if item is None:
            return None
        area = pixel_size_area(self.visualRect(index), item, self.fontMetrics())
        return item if area.contains(position) else None

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        """Show a hand over a pixel size."""
        super().mouseMoveEvent(event)
        if self.item_with_size_at(event.pos()) is None:
            self.viewport().unsetCursor()
        else:
            self.viewport().setCursor(Qt.CursorShape.PointingHandCursor)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        """Ask for another pixel size where one is clicked."""
        super().mouseReleaseEvent(event)
        item = self.item_with_size_at(event.pos())
        if item is not None and event.button() == Qt.MouseButton.LeftButton and not event.modifiers():
            self.pixel_size_clicked.emit(item)

    def viewportEvent(self, event: QEvent) -> bool:
        """Show a tooltip over a pixel size."""
        if isinstance(event, QHelpEvent) and self.item_with_size_at(event.pos()) is not None:
            QToolTip.showText(event.globalPos(), "Click to correct the pixel size.", self)
            return True
        return super().viewportEvent(event)
