"""Two curves over the steps of a training: the loss, and how many patches were placed."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import QPointF, QRectF, QSize, Qt
from qtpy.QtGui import QColor, QPainter, QPaintEvent, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

from comir_search.pictures.palette import BLUE, ORANGE, SKY_BLUE, VERMILION, Colour

HINT = "Loss and hit rate appear here\nwhile the model is trained."
POINT_PX = 3.0

Curve = Sequence[tuple[int, float]]


class CurvePlot(QWidget):
    """Draws the loss on the left axis and the hit rate, in percent, on the right one."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.setToolTip(
            "Blue: the loss on the training pairs; lower is better. "
            "Orange or red: the share of test queries from the validation pairs that are found; higher is better."
        )
        self.losses: list[tuple[int, float]] = []
        self.hit_rates: list[tuple[int, float]] = []
        self._steps = 1

    def sizeHint(self) -> QSize:
        """Return a size at which the curves can be read."""
        return QSize(320, 170)

    def minimumSizeHint(self) -> QSize:
        """Return the smallest size at which the labels do not overlap."""
        return QSize(220, 120)

    def clear(self, steps: int) -> None:
        """Begin anew, with room for so many steps."""
        self.losses, self.hit_rates, self._steps = [], [], max(steps, 1)
        self.update()

    def add(self, step: int, loss: float, hit_rates: Curve) -> None:
        """Add the values of a step.

        Parameters
        ----------
        step : int
        loss : float
        hit_rates : sequence of (int, float)
            Step and share in [0, 1] of each validation so far.
        """
        self.losses.append((step, loss))
        self.hit_rates = list(hit_rates)
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        """Draw."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        text = self.palette().text().color()
        line = painter.fontMetrics().height()
        wide = painter.fontMetrics().horizontalAdvance("100 % ") + 4
        area = QRectF(self.rect()).adjusted(wide, line + 6, -wide, -line - 4)
        faint = QColor(text)
        faint.setAlpha(60)
        painter.setPen(QPen(faint, 1))
        painter.drawRect(area)
        if not self.losses:
            painter.setPen(text)
            painter.drawText(area, int(Qt.AlignmentFlag.AlignCenter), HINT)
            return
        values = [loss for _, loss in self.losses]
        low, high = min(*values, 0.0), max(*values, 1e-6)
        self._draw_labels(painter, area, text, line, (low, high))
        self._draw_curve(painter, area, self.losses, (low, high), self._colour(SKY_BLUE, BLUE), marks=False)
        self._draw_curve(
            painter, area, self.hit_rates, (0.0, 1.0), self._colour(ORANGE, VERMILION), marks=True
        )

    def _colour(self, on_dark: Colour, on_light: Colour) -> QColor:
        """Return the colour that is read well in the present theme."""
        is_dark = self.palette().text().color().lightness() > 127
        return QColor(*(on_dark if is_dark else on_light))

    def _draw_labels(
        self, painter: QPainter, area: QRectF, text: QColor, line: int, limits: tuple[float, float]
    ) -> None:
        right, left = int(Qt.AlignmentFlag.AlignRight), int(Qt.AlignmentFlag.AlignLeft)
        for share, loss, rate in ((0.0, limits[0], "0 %"), (1.0, limits[1], "100 %")):
            top = area.bottom() - share * area.height() - line / 2
            painter.setPen(self._colour(SKY_BLUE, BLUE))
            painter.drawText(QRectF(0, top, area.left() - 4, line), right, f"{loss:.2g}")
            painter.setPen(self._colour(ORANGE, VERMILION))
            painter.drawText(QRectF(area.right() + 4, top, self.width() - area.right(), line), left, rate)
        head = QRectF(0, 0, self.width(), line)
        painter.setPen(self._colour(SKY_BLUE, BLUE))
        painter.drawText(head, left, f"loss {self.losses[-1][1]:.3g}")
        painter.setPen(self._colour(ORANGE, VERMILION))
        best = max((rate for _, rate in self.hit_rates), default=None)
        caption = (
            "" if best is None else f"placed {100 * self.hit_rates[-1][1]:.0f} %, best {100 * best:.0f} %"
        )
        painter.drawText(head, right, caption)
        painter.setPen(text)
        foot = QRectF(area.left(), area.bottom() + 2, area.width(), line)
        painter.drawText(foot, left, "0")
        painter.drawText(foot, int(Qt.AlignmentFlag.AlignHCenter), "steps")
        painter.drawText(foot, right, str(self._steps))

    def _draw_curve(
        self,
        painter: QPainter,
        area: QRectF,
        curve: Curve,
        limits: tuple[float, float],
        colour: QColor,
        *,
        marks: bool,
    ) -> None:
        low, high = limits
        points = [
            QPointF(
                area.left() + area.width() * min(step / self._steps, 1.0),
                area.bottom() - area.height() * (value - low) / (high - low),
            )
            for step, value in curve
        ]
        painter.setPen(QPen(colour, 1.5))
        painter.drawPolyline(QPolygonF(points))
        if marks:
            painter.setBrush(colour)
            for point in points:
                painter.drawEllipse(point, POINT_PX, POINT_PX)
            painter.setBrush(Qt.BrushStyle.NoBrush)
