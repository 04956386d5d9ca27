"""The answer: a table of candidates, a legend, and the verdict on the current candidate."""

from __future__ import annotations

from qtpy.QtCore import QModelIndex, Qt
from qtpy.QtGui import QIcon
from qtpy.QtWidgets import (
    QCheckBox,
    QHBoxLayout,
    QLabel,
    QStackedLayout,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from comir_search.pictures.palette import VERDICT_COLOURS
from comir_search.records import Verdict
from napari_comir_search.jobs.thumbnails import Thumbnail
from napari_comir_search.widgets.actions import Workbench
from napari_comir_search.widgets.progress_row import ProgressRow
from napari_comir_search.widgets.result_table import RANK, ResultFilter, ResultModel, ResultTable
from napari_comir_search.widgets.slide_list import colour_pixmap
from napari_comir_search.widgets.verdict_bar import VerdictBar

HINT = "The candidates of a search\nappear here."
LEGEND = {
    Verdict.NONE: "open",
    Verdict.ACCEPTED: "accepted",
    Verdict.REJECTED: "rejected",
    Verdict.UNSURE: "unsure",
}
TABLE_HEIGHT_PX = 210
CHIP_STYLE = (
    "QToolButton { border: none; background: transparent; padding: 0; }QToolButton:!checked { color: gray; }"
)


class ResultsWidget(QWidget):
    """Look through the candidates and judge them.

    Parameters
    ----------
    workbench : Workbench
    """

    def __init__(self, workbench: Workbench, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.workbench, self.session = workbench, workbench.session
        self.model = ResultModel(self)
        self.filter = ResultFilter(self)
        self.filter.setSourceModel(self.model)
        self.table = ResultTable(self.filter)
        self.table.selectionModel().currentRowChanged.connect(self._choose)
        self.table.clicked.connect(self._go_there)
        self.hint = QLabel(HINT)
        self.hint.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.hint.setStyleSheet("border: 1px dashed gray; border-radius: 6px;")
        frame = QWidget()
        frame.setMinimumHeight(TABLE_HEIGHT_PX)
        self._stack = QStackedLayout(frame)
        self._stack.addWidget(self.hint)
        self._stack.addWidget(self.table)
        self.legend = QWidget()
        legend_row = QHBoxLayout(self.legend)
        legend_row.setContentsMargins(0, 0, 0, 0)
        legend_row.setSpacing(0)
        self.chips: dict[Verdict, QToolButton] = {}
        for verdict, word in LEGEND.items():
            chip = QToolButton()
            chip.setCheckable(True)
            chip.setChecked(True)
            chip.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
            chip.setIcon(QIcon(colour_pixmap(VERDICT_COLOURS[verdict])))
            chip.setToolTip(f"Rectangles of this colour are {word}. Click to hide or list them.")
            chip.setStyleSheet(CHIP_STYLE)
            chip.toggled.connect(self._filter)
            self.chips[verdict] = chip
            legend_row.addWidget(chip)
        legend_row.addStretch(1)
        self.heat_box = QCheckBox("Heat map of the slide")
        self.heat_box.setToolTip(
            "Colour the slide by how well the query fits at each position, as in the first stage of the search: "
            "yellow fits best. The map is a layer: change its opacity and colours in the layer controls."
        )
        self.heat_box.toggled.connect(workbench.show_heat_map)
        self.heat_progress = ProgressRow(workbench.mapping, "Stop", "Stop making the heat map.")
        self.verdict_bar = VerdictBar(workbench)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 4)
        layout.addWidget(frame, 1)
        layout.addWidget(self.legend)
        layout.addWidget(self.verdict_bar)
        layout.addWidget(
            self.heat_box, 0, Qt.AlignmentFlag.AlignLeft
        )  # only the box and its text react to a click
        layout.addWidget(self.heat_progress)

        self.session.events.result.connect(self.refresh)
        self.session.events.judgement.connect(self._show_verdicts)
        self.session.events.candidate.connect(self._show_current)
        workbench.candidate_pictured.connect(self._take_picture)
        workbench.mapping.ended.connect(self._end_map)
        self._is_following = False
        self.refresh()

    def close_down(self) -> None:
        """Disconnect from the session."""
        self.session.events.result.disconnect(self.refresh)
        self.session.events.judgement.disconnect(self._show_verdicts)
        self.session.events.candidate.disconnect(self._show_current)
        self.verdict_bar.close_down()

    @property
    def summary(self) -> str:
        """One line for the section's title."""
        total = len(self.session.candidates)
        if not total:
            return ""
        return f"{total - self.session.counts[Verdict.NONE]} of {total} judged"

    def refresh(self) -> None:
        """Show the answer as it is now."""
        candidates = list(self.session.candidates)
        self._is_following = True
        self.model.show(candidates, self._verdicts())
        self._is_following = False
        self._stack.setCurrentWidget(self.table if candidates else self.hint)
        self._show_legend()
        self._show_current()
        if candidates:
            self.workbench.picture_candidates()

    def _verdicts(self) -> list[Verdict]:
        return [self.session.verdict(candidate.rank) for candidate in self.session.candidates]

    def _show_verdicts(self) -> None:
        self.model.set_verdicts(self._verdicts())
        self._show_legend()

    def _show_legend(self) -> None:
        for verdict, count in self.session.counts.items():
            self.chips[verdict].setText(f"{count} {LEGEND[verdict]}")
        self.legend.setVisible(bool(self.session.candidates))
        self.heat_box.setVisible(bool(self.session.candidates) or self.heat_box.isChecked())

    def _show_current(self) -> None:
        candidate = self.session.candidate
        row = -1 if candidate is None else self.model.row_of(candidate.rank)
        self._is_following = True
        index = self.filter.mapFromSource(self.model.index(row, RANK))
        if row >= 0 and index.isValid():
            self.table.selectRow(index.row())
            self.table.scrollTo(index)
        else:
            self.table.clearSelection()
        self._is_following = False

    def _choose(self, current: QModelIndex) -> None:
        if current.isValid() and not self._is_following:
            row = self.filter.mapToSource(current).row()
            self.session.select_candidate(self.model.candidate(row).rank)

    def _go_there(self) -> None:
        """Fly to a candidate that was current already."""
        self.workbench.view.follow()

    def _take_picture(self, thumbnail: Thumbnail) -> None:
        self.model.set_picture(thumbnail.key, thumbnail.image)

    def _end_map(self, how: str) -> None:
        if how != "done" and not self.workbench.mapping.has_next:
            self.heat_box.setChecked(False)

    def _filter(self) -> None:
        self.filter.set_hidden({verdict for verdict, chip in self.chips.items() if not chip.isChecked()})
        self._show_current()
