"""The search: its options, its progress, and what came of it in one sentence."""

from __future__ import annotations

from qtpy.QtWidgets import (
    QCheckBox,
    QHBoxLayout,
    QLabel,
    QMenu,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from napari_comir_search.settings import read_preferences
from napari_comir_search.widgets.progress_row import ProgressRow
from napari_comir_search.workbench import Workbench


class SearchWidget(QWidget):
    """Start a search and stop it.

    Parameters
    ----------
    workbench : Workbench
    """

    def __init__(self, workbench: Workbench, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.workbench, self.session = workbench, workbench.session
        preferences = read_preferences()
        self.top = QSpinBox()
        self.top.setRange(1, 100)
        self.top.setValue(preferences.candidates)
        self.top.setToolTip("How many candidates to return, best first.")
        self.mirror = QCheckBox("Mirrored too")
        self.mirror.setChecked(preferences.mirrored)
        self.mirror.setToolTip(
            "Also look for the patch flipped left to right, as when a section was turned over. "
            "Takes twice as long."
        )
        self.slides_button = QPushButton()
        self.slides_button.setToolTip("Search all indexed slides, or only some of them.")
        self.slides_button.setMenu(QMenu(self.slides_button))
        self.slides_button.menu().aboutToShow.connect(self._fill_slides)
        self._left_out: set[str] = set()
        self.go_button = QPushButton("Search")
        self.go_button.setMinimumHeight(30)
        self.go_button.setStyleSheet("font-weight: bold;")
        self.go_button.clicked.connect(self._search)
        self.progress = ProgressRow(
            workbench.searching, "Stop", "Stop the search. Candidates that were found by then are kept."
        )
        self.answer = QLabel()
        self.answer.setWordWrap(True)

        options = QHBoxLayout()
        options.addWidget(QLabel("Candidates"))
        options.addWidget(self.top)
        options.addWidget(self.mirror)
        options.addStretch(1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 4)
        layout.addLayout(options)
        go_row = QHBoxLayout()
        go_row.addWidget(self.slides_button)
        go_row.addWidget(self.go_button, 1)
        layout.addLayout(go_row)
        layout.addWidget(self.progress)
        layout.addWidget(self.answer)

        events = self.session.events
        for event in (events.slides, events.query, events.result):
            event.connect(self.refresh)
        workbench.searching.started.connect(self.refresh)
        workbench.searching.ended.connect(self._end)
        self.refresh()

    def close_down(self) -> None:
        """Listen no more."""
        events = self.session.events
        for event in (events.slides, events.query, events.result):
            event.disconnect(self.refresh)

    @property
    def summary(self) -> str:
        """One line for the section's title."""
        result = self.session.result
        if self.workbench.searching.is_running:
            return "searching …"
        return "" if result is None else "found" if result.found else "not found"

    def refresh(self) -> None:
        """Show the session as it is now."""
        obstacle = self._obstacle()
        self.go_button.setEnabled(not obstacle)
        self.go_button.setToolTip(obstacle or "Find where the query lies on the indexed slides.")
        chosen = self._chosen()
        total = len(self.session.searchable)
        self.slides_button.setText(
            "All slides" if len(chosen) == total else f"{len(chosen)} of {total} slides"
        )
        self.slides_button.setEnabled(total > 1)
        result = self.session.result
        if self.workbench.searching.is_running:
            self.answer.setText("First candidates, still being refined." if result is not None else "")
        elif result is not None:
            seconds = result.seconds.get("total")
            self.answer.setText(result.reason + (f" ({seconds:.1f} s)" if seconds else ""))
        else:
            self.answer.setText(obstacle)
        self.answer.setVisible(bool(self.answer.text()))

    def _obstacle(self) -> str:
        """Return why a search cannot start, "" when it can."""
        if self.workbench.searching.is_running:
            return "A search is under way."
        if not self.session.searchable:
            return "Index at least one slide first."
        query = self.session.query
        if query is None:
            return "Choose a query first."
        if query.pixel_size_um is None:
            return "Type in the query's pixel size first."
        return "" if self._chosen() else "Choose at least one slide to search."

    def _chosen(self) -> list[str]:
        return [
            item.fingerprint for item in self.session.searchable if item.fingerprint not in self._left_out
        ]

    def _fill_slides(self) -> None:
        menu = self.slides_button.menu()
        menu.clear()
        for item in self.session.searchable:
            action = menu.addAction(item.info.name)
            action.setCheckable(True)
            action.setChecked(item.fingerprint not in self._left_out)
            action.setData(item.fingerprint)
            action.toggled.connect(self._choose_slides)

    def _choose_slides(self) -> None:
        actions = self.slides_button.menu().actions()
        self._left_out = {action.data() for action in actions if not action.isChecked()}
        self.refresh()

    def _search(self) -> None:
        chosen = self._chosen()
        slides = None if len(chosen) == len(self.session.searchable) else chosen
        self.workbench.search(self.top.value(), self.mirror.isChecked(), slides)

    def _end(self, how: str) -> None:
        if how != "done":
            self.workbench.keep_partial()
        self.refresh()
