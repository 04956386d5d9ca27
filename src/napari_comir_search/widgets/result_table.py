"""The candidates as a table that can be sorted and filtered."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from qtpy.QtCore import QAbstractTableModel, QModelIndex, QSize, QSortFilterProxyModel, Qt
from qtpy.QtGui import QIcon, QKeyEvent, QPixmap, QResizeEvent
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableView

from comir_search.pictures.palette import VERDICT_COLOURS
from comir_search.records import Candidate, Verdict
from napari_comir_search.widgets.slide_list import colour_pixmap, to_pixmap

PICTURE_PX = 40
COLUMNS = ("#", "Slide", "µm", "Angle", "Conf.", "")
RANK, SLIDE, PLACE, ANGLE, CONFIDENCE, VERDICT = range(len(COLUMNS))
SEAMS = re.compile(r"(?<=[!-~])(?=[!-~])")  # where a name may go on in the next line
WIDTHS_PX = {RANK: PICTURE_PX + 30, PLACE: 68, ANGLE: 52, CONFIDENCE: 50, VERDICT: 36}
SORT_ROLE = int(Qt.ItemDataRole.UserRole)
VERDICT_ROLE = SORT_ROLE + 1
HEADER_TIPS = (
    "Rank: 1 is the most likely position. The picture is rotated to match the query.",
    "The slide on which the candidate lies.",
    "Centre of the candidate, in micrometres from the left and top edges of the slide.",
    "Rotation of the query against the slide, counter-clockwise, in degrees.",
    "Probability that this is the right position, in percent. A position moved by hand has none.",
    "Verdict.",
)
VERDICT_SIGNS = {Verdict.NONE: "", Verdict.ACCEPTED: "✓", Verdict.REJECTED: "✗", Verdict.UNSURE: "?"}


class ResultModel(QAbstractTableModel):
    """The candidates of an answer with their pictures and verdicts."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._candidates: list[Candidate] = []
        self._verdicts: list[Verdict] = []
        self._pictures: dict[int, QIcon] = {}

    def show(self, candidates: list[Candidate], verdicts: list[Verdict]) -> None:
        """Show these candidates; pictures of others are dropped."""
        self.beginResetModel()
        before = {candidate.rank: candidate for candidate in self._candidates}
        kept = {candidate.rank for candidate in candidates if before.get(candidate.rank) == candidate}
        self._pictures = {rank: picture for rank, picture in self._pictures.items() if rank in kept}
        self._candidates, self._verdicts = candidates, verdicts
        self.endResetModel()

    def set_verdicts(self, verdicts: list[Verdict]) -> None:
        """Show other verdicts on the same candidates."""
        self._verdicts = verdicts
        if verdicts:
            self.dataChanged.emit(self.index(0, 0), self.index(len(verdicts) - 1, VERDICT))

    def set_picture(self, rank: int, image: np.ndarray) -> None:
        """Set the picture of a candidate."""
        self._pictures[rank] = _plain_icon(to_pixmap(image))
        row = self.row_of(rank)
        if row >= 0:
            self.dataChanged.emit(self.index(row, RANK), self.index(row, RANK))

    def candidate(self, row: int) -> Candidate:
        """Return the candidate of a row."""
        return self._candidates[row]

    def row_of(self, rank: int) -> int:
        """Return the row of a candidate, -1 where it is not shown."""
        return next((row for row, other in enumerate(self._candidates) if other.rank == rank), -1)

    def rowCount(self, parent: QModelIndex | None = None) -> int:
        """Return how many candidates there are."""
        return 0 if parent is not None and parent.isValid() else len(self._candidates)

    def columnCount(self, parent: QModelIndex | None = None) -> int:
        """Return how many columns there are."""
        return 0 if parent is not None and parent.isValid() else len(COLUMNS)

    def headerData(
        self, section: int, orientation: Qt.Orientation, role: int = int(Qt.ItemDataRole.DisplayRole)
    ) -> Any:
        """Return a column's title or tooltip.

        Parameters
        ----------
        section : int
            The column.
        orientation : Qt.Orientation
            Rows have no titles.
        role : int
            Which of the two.
        """
        if orientation != Qt.Orientation.Horizontal:
            return None
        if role == int(Qt.ItemDataRole.DisplayRole):
            return COLUMNS[section]
        return HEADER_TIPS[section] if role == int(Qt.ItemDataRole.ToolTipRole) else None

    def data(self, index: QModelIndex, role: int = int(Qt.ItemDataRole.DisplayRole)) -> Any:
        """Return what the view asks for."""
        if not index.isValid():
            return None
        candidate, verdict = self._candidates[index.row()], self._verdicts[index.row()]
        column = index.column()
        if role == int(Qt.ItemDataRole.DisplayRole):
            return _texts(candidate, verdict)[column]
        if role == int(Qt.ItemDataRole.AccessibleTextRole) and column == SLIDE:
            return candidate.slide
        if role == SORT_ROLE:
            return _sort_values(candidate, verdict)[column]
        if role == VERDICT_ROLE:
            return verdict.value
        if role == int(Qt.ItemDataRole.DecorationRole) and column == RANK:
            return self._pictures.get(candidate.rank)
        if role == int(Qt.ItemDataRole.DecorationRole) and column == VERDICT and verdict is not Verdict.NONE:
            return _plain_icon(colour_pixmap(VERDICT_COLOURS[verdict]))
        if role == int(Qt.ItemDataRole.TextAlignmentRole) and column in (ANGLE, CONFIDENCE):
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        if role == int(Qt.ItemDataRole.ToolTipRole):
            mirrored = ", mirrored" if candidate.mirrored else ""
            return (
                f"{candidate.slide}\n{candidate.width_um:.0f} × {candidate.height_um:.0f} µm at "
                f"{candidate.center_x_um:.1f}, {candidate.center_y_um:.1f} µm, "
                f"{candidate.angle_deg:.1f}°{mirrored}\n{_describe_confidence(candidate)}\nClick to go there."
            )
        return None


class ResultFilter(QSortFilterProxyModel):
    """Sorts by value, and hides candidates by verdict."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self.setSortRole(SORT_ROLE)
        self._hidden: set[str] = set()

    def set_hidden(self, verdicts: set[Verdict]) -> None:
        """Hide the candidates with these verdicts."""
        self._hidden = {verdict.value for verdict in verdicts}
        self.invalidateFilter()

    def filterAcceptsRow(self, row: int, parent: QModelIndex) -> bool:
        """Return whether a candidate is shown."""
        return self.sourceModel().index(row, VERDICT, parent).data(VERDICT_ROLE) not in self._hidden


class ResultTable(QTableView):
    """The table; keys it has no use for go on to the window."""

    def __init__(self, model: ResultFilter, parent: Any = None) -> None:
        super().__init__(parent)
        self.setModel(model)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSortingEnabled(True)
        self.sortByColumn(RANK, Qt.SortOrder.AscendingOrder)
        self.setIconSize(QSize(PICTURE_PX, PICTURE_PX))
        self.setShowGrid(False)
        self.setAlternatingRowColors(False)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.setWordWrap(True)
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(PICTURE_PX + 4)
        header = self.horizontalHeader()
        header.setHighlightSections(False)
        header.setMinimumSectionSize(30)
        for column, width in WIDTHS_PX.items():
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.Fixed)
            self.setColumnWidth(column, width)
        header.setSectionResizeMode(SLIDE, QHeaderView.ResizeMode.Stretch)
        self.setToolTip("The candidates, best first. Click one to go there; click a title to sort.")

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Keep the current candidate in sight: a message above takes height from the table."""
        super().resizeEvent(event)
        self.scrollTo(self.currentIndex())

    def keyboardSearch(self, text: str) -> None:
        """Do not jump to rows by letter: letters judge candidates."""

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Move with the arrows; leave all else to the window."""
        arrows = (Qt.Key.Key_Up, Qt.Key.Key_Down, Qt.Key.Key_Home, Qt.Key.Key_End)
        is_plain = event.modifiers() in (
            Qt.KeyboardModifier.NoModifier,
            Qt.KeyboardModifier.KeypadModifier,
        )
        if event.key() in arrows and is_plain:
            super().keyPressEvent(event)
        else:
            event.ignore()


def _plain_icon(pixmap: QPixmap) -> QIcon:
    """Return an icon that a selected row does not tint."""
    icon = QIcon()
    for mode in (QIcon.Mode.Normal, QIcon.Mode.Selected):
        icon.addPixmap(pixmap, mode)
    return icon


def _confidence_text(candidate: Candidate) -> str:
    if candidate.by_hand:
        return "by\nhand"
    return "–" if candidate.confidence is None else f"{100 * candidate.confidence:.0f}\u00a0%"


def _describe_confidence(candidate: Candidate) -> str:
    if candidate.by_hand:
        return "moved by hand, so without confidence"
    if candidate.confidence is None:
        return f"score {candidate.score:.3f}, confidence not known"
    return f"score {candidate.score:.3f}, confidence {candidate.confidence:.2f}"


def _texts(candidate: Candidate, verdict: Verdict) -> tuple[str, ...]:
    return (
        str(candidate.rank),
        SEAMS.sub("\u200b", candidate.slide),
        f"x {candidate.center_x_um:.0f}\ny {candidate.center_y_um:.0f}",
        f"{candidate.angle_deg:.0f}°" + ("\nflipped" if candidate.mirrored else ""),
        _confidence_text(candidate),
        VERDICT_SIGNS[verdict],
    )


def _sort_values(candidate: Candidate, verdict: Verdict) -> tuple[Any, ...]:
    return (
        candidate.rank,
        candidate.slide,
        candidate.center_y_um,
        candidate.angle_deg,
        1.0 if candidate.confidence is None else -candidate.confidence,
        verdict.value,
    )
