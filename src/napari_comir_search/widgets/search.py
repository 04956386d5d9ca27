"""The search: its options, its progress, and its answer in one sentence."""

from __future__ import annotations

from typing import Any

from magicgui.widgets import create_widget
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QMenu,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from comir_search.options import list_form_rows
from comir_search.retrieval.options import SearchOptions
from comir_search.study.freshness import NOT_KNOWN
from napari_comir_search.state.settings import read_preferences
from napari_comir_search.widgets.actions import Workbench
from napari_comir_search.widgets.progress_row import ProgressRow

LABELS = {"top": "Candidates", "mirror": "Mirrored too", "method": "Method"}
MOST_CANDIDATES = 10_000


def make_form() -> dict[str, Any]:
    """Return a field for each of these options of a search, made by magicgui, by name."""
    form = {}
    for row in list_form_rows(SearchOptions):
        if row["name"] in LABELS:
            tip = row["options"]["tooltip"]
            row["options"]["tooltip"] = f"{tip[:1].upper()}{tip[1:]}."
            if row["annotation"] is int:
                row["options"].setdefault("max", MOST_CANDIDATES)
            form[row["name"]] = create_widget(**row | {"label": LABELS[row["name"]]})
    return form


class SearchWidget(QWidget):
    """Start a search and stop it.

    Parameters
    ----------
    workbench : Workbench
    """

    def __init__(self, workbench: Workbench, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.workbench, self.session = workbench, workbench.session
        self.form = make_form()
        self._take_options()
        self.slides_button = QPushButton()
        self.slides_button.setToolTip("Search all indexed slides, or only some of them.")
        self.slides_button.setMenu(QMenu(self.slides_button))
        self.slides_button.menu().aboutToShow.connect(self._fill_slides)
        self.go_button = QPushButton("Search")
        self.go_button.setMinimumHeight(30)
        self.go_button.setStyleSheet("font-weight: bold;")
        self.go_button.clicked.connect(self._search)
        self.progress = ProgressRow(
            workbench.searching, "Stop", "Stop the search. An earlier answer is kept."
        )
        self.answer = QLabel()
        self.answer.setTextFormat(Qt.TextFormat.PlainText)
        self.answer.setWordWrap(True)
        self.state = QLabel()  # why the answer is out of date
        self.state.setTextFormat(Qt.TextFormat.PlainText)
        self.state.setWordWrap(True)
        self.state.setStyleSheet("color: #e69f00; font-weight: bold;")
        for field in self.form.values():
            field.changed.connect(self._keep_options)

        options = QGridLayout()
        for row, name in enumerate(("top", "method")):
            options.addWidget(QLabel(LABELS[name]), row, 0)
            options.addWidget(self.form[name].native, row, 1)
        options.addWidget(self.form["mirror"].native, 0, 2)
        options.setColumnStretch(2, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 4)
        layout.addLayout(options)
        go_row = QHBoxLayout()
        go_row.addWidget(self.slides_button)
        go_row.addWidget(self.go_button, 1)
        layout.addLayout(go_row)
        layout.addWidget(self.progress)
        layout.addWidget(self.answer)
        layout.addWidget(self.state)

        events = self.session.events
        events.project.connect(self._take_options)
        for event in (events.slides, events.query, events.result):
            event.connect(self.refresh)
        workbench.searching.started.connect(self.refresh)
        workbench.searching.ended.connect(self._end)
        self.refresh()

    def close_down(self) -> None:
        """Disconnect from the session."""
        events = self.session.events
        events.project.disconnect(self._take_options)
        for event in (events.slides, events.query, events.result):
            event.disconnect(self.refresh)

    @property
    def summary(self) -> str:
        """One line for the section's title."""
        result = self.session.result
        if self.workbench.searching.is_running:
            return "searching …"
        if result is None:
            return ""
        if not result.finished:
            return "not finished"
        answer = "found" if result.found else "not found"
        return f"{answer}, out of date" if self._outdated else answer

    @property
    def _outdated(self) -> bool:
        return self.session.answer_state.startswith("out of date")

    def refresh(self) -> None:
        """Show the session as it is now."""
        obstacle = self._obstacle()
        self.go_button.setEnabled(not obstacle)
        self.go_button.setToolTip(obstacle or "Search for the query on the indexed slides.")
        chosen = self.session.chosen
        total = len(self.session.slides) + len(self.session.missing)
        self.slides_button.setText(
            "All slides" if len(chosen) == total else f"{len(chosen)} of {total} slides"
        )
        self.slides_button.setEnabled(len(self.session.searchable) > 1)
        result = self.session.result
        self.answer.setToolTip("")
        state = ""
        if self.session.is_refining:
            self.answer.setText(
                "First candidates. The search is still running, so there is no confidence yet."
            )
        elif result is not None:
            seconds = result.seconds.get("total")
            said = [result.reason + (f" ({seconds:.1f} s)" if seconds else ""), self.session.coverage]
            self.answer.setText(" ".join(text for text in said if text))
            state = self.session.answer_state
        else:
            self.answer.setText("" if self.workbench.searching.is_running else obstacle)
        if state == NOT_KNOWN:  # nothing visible has changed, so the tooltip is enough
            self.answer.setToolTip(f"{state[:1].upper()}{state[1:]}.")
            state = ""
        self.state.setText(f"{state[:1].upper()}{state[1:]}. Search again." if state else "")
        for label in (self.answer, self.state):
            label.setVisible(bool(label.text()))

    def _obstacle(self) -> str:
        """Return why a search cannot start, "" when it can."""
        if self.workbench.searching.is_running:
            return "A search is running."
        if not self.session.searchable:
            return "Index at least one slide first."
        query = self.session.query
        if query is None:
            return "Choose a query first."
        if query.pixel_size_um is None:
            return "Enter the pixel size of the query first."
        return "" if self.session.chosen else "Choose at least one slide to search."

    @property
    def options(self) -> SearchOptions:
        """The options as they are set."""
        return SearchOptions(**{name: field.value for name, field in self.form.items()})

    def _keep_options(self) -> None:
        self.session.search_options = self.options

    def _take_options(self) -> None:
        """Show the options of the project that is open now."""
        preferences = read_preferences()
        usual = SearchOptions(top=preferences.candidates, mirror=preferences.mirrored)
        options = self.session.search_options or usual
        for name, field in self.form.items():
            with field.changed.blocked():
                field.value = getattr(options, name)

    def _fill_slides(self) -> None:
        menu = self.slides_button.menu()
        menu.clear()
        for item in self.session.searchable:
            action = menu.addAction(item.info.name)
            action.setCheckable(True)
            action.setChecked(item.fingerprint not in self.session.left_out)
            action.setData(item.fingerprint)
            action.toggled.connect(self._choose_slides)

    def _choose_slides(self) -> None:
        actions = self.slides_button.menu().actions()
        self.session.left_out = frozenset(action.data() for action in actions if not action.isChecked())
        self.refresh()

    def _search(self) -> None:
        self.workbench.search(self.options)

    def _end(self, how: str) -> None:
        if how != "done":
            self.workbench.drop_partial()
        self.refresh()
