"""The dock: repository, query, search, results and export, in the order of the work."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from platformdirs import user_data_path
from qtpy.QtCore import Qt, QTimer
from qtpy.QtGui import QDragEnterEvent, QDropEvent, QShowEvent
from qtpy.QtWidgets import (
    QFileDialog,
    QFrame,
    QHBoxLayout,
    QMainWindow,
    QMenu,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from comir_search.records import Verdict
from napari_comir_search.state.inspection import Inspection
from napari_comir_search.state.log import close_log, open_log
from napari_comir_search.state.session import Session
from napari_comir_search.state.settings import PLUGIN, read_preferences
from napari_comir_search.view.candidates import PIN_PX
from napari_comir_search.view.keys import Keymap
from napari_comir_search.widgets.actions import OPENING_INDEX, Workbench
from napari_comir_search.widgets.elided_label import elided_label
from napari_comir_search.widgets.export import ExportWidget
from napari_comir_search.widgets.inspector import Inspector
from napari_comir_search.widgets.key_table import KeyTable
from napari_comir_search.widgets.leaving import LeavingWidget
from napari_comir_search.widgets.message_bar import MessageBar
from napari_comir_search.widgets.query import QueryWidget
from napari_comir_search.widgets.repository import RepositoryWidget
from napari_comir_search.widgets.results import ResultsWidget
from napari_comir_search.widgets.search import SearchWidget
from napari_comir_search.widgets.section import Section
from napari_comir_search.widgets.training import TrainingWidget

if TYPE_CHECKING:
    import napari

SECTIONS = (
    ("Repository", "repository", "The slides to search, and their index."),
    ("Query", "query", "The image to search for."),
    ("Search", "search", "Search for the query on the slides."),
    ("Results", "results", "The candidates, and your verdicts."),
    ("Export", "export", "Write the results to files."),
)
COMPARE_SHARE = 0.42  # of the window's height
DOCK_WIDTH_PX = 392
AFTER_SEARCH = ("results", "export")


class SearchDock(LeavingWidget):
    """The whole work, from a folder of slides to a verified position.

    Parameters
    ----------
    viewer : napari.viewer.Viewer
        The viewer beside which the dock stands.
    folder : path, optional
        Where projects lie that have no name yet; by default the user's data folder.
    """

    def __init__(self, viewer: napari.viewer.Viewer, folder: str | Path | None = None) -> None:
        super().__init__()
        open_log()
        # napari gives plugins a proxy that makes a new object of each layer it hands out;
        # layers are compared by identity here, and nothing private is used.
        viewer = getattr(viewer, "__wrapped__", viewer)
        self.viewer = viewer
        self.session = Session(folder or projects_folder(), read_preferences().reviewer or None)
        self.workbench = Workbench(viewer, self.session, self)
        self.asked_about = (self.workbench.indexing, self.workbench.searching)
        self.inspection = Inspection(self.session)
        self.inspector: Inspector | None = None
        self.training: TrainingWidget | None = None
        self._training_dock: QWidget | None = None
        self.message = MessageBar()
        self.repository = RepositoryWidget(self.workbench)
        self.query = QueryWidget(self.workbench)
        self.search = SearchWidget(self.workbench)
        self.results = ResultsWidget(self.workbench)
        self.export = ExportWidget(self.workbench)
        self.sections = {
            name: Section(title, getattr(self, name), tip, self) for title, name, tip in SECTIONS
        }
        self._build()
        self.setAcceptDrops(True)
        self.keymap = Keymap(viewer, self.key_actions())
        self._has_unfolded = False
        self._connect()
        self.refresh()

    def key_actions(self) -> dict[str, Callable[[], None]]:
        """Return what each key does."""
        session, workbench = self.session, self.workbench
        return {
            "next": lambda: session.step_candidate(1),
            "previous": lambda: session.step_candidate(-1),
            "unverified": workbench.step_unverified,
            "accept": lambda: workbench.judge(Verdict.ACCEPTED),
            "reject": lambda: workbench.judge(Verdict.REJECTED),
            "unsure": lambda: workbench.judge(Verdict.UNSURE),
            "undo": workbench.undo,
            "toggle": workbench.view.candidates.toggle,
            "mode": self.inspection.next_mode,
            "left": lambda: self.inspection.nudge(-1, 0),
            "right": lambda: self.inspection.nudge(1, 0),
            "up": lambda: self.inspection.nudge(0, -1),
            "down": lambda: self.inspection.nudge(0, 1),
            "turn_left": lambda: self.inspection.nudge(0, 0, 1),
            "turn_right": lambda: self.inspection.nudge(0, 0, -1),
        }

    def _build(self) -> None:
        self.project_label = elided_label()
        self.menu_button = QPushButton("Project")
        self.menu_button.setToolTip("Open or save a project, train a model, show the keys.")
        menu = QMenu(self.menu_button)
        menu.setToolTipsVisible(True)
        for text, action, tip in (
            ("New", self.workbench.new_project, "Start an empty project. This one is kept."),
            ("Open …", self._open_project, "Open a project file."),
            ("Save as …", self._save_as, "Save under another name. All changes are saved as you work."),
            ("Train a model …", self.open_training, "Train a model on your own pairs of images."),
            ("Keyboard shortcuts", self.show_keys, "Show the keys."),
        ):
            menu.addAction(text, action).setToolTip(tip)
        self.menu_button.setMenu(menu)
        head = QHBoxLayout()
        head.setContentsMargins(0, 0, 6, 0)  # in line with what scrolls below
        head.addWidget(self.project_label, 1)
        head.addWidget(self.menu_button)
        self.locate_button = QPushButton("Find moved slides …")
        self.locate_button.setToolTip(
            "Choose the folder to which the slides were moved. They are recognised by their content."
        )
        self.locate_button.clicked.connect(self._locate)
        self.locate_button.hide()
        locate = QHBoxLayout()
        locate.setContentsMargins(0, 0, 6, 0)
        locate.addWidget(self.locate_button)
        column = QWidget()
        stack = QVBoxLayout(column)
        stack.setContentsMargins(2, 0, 6, 0)
        stack.setSpacing(4)
        for name, section in self.sections.items():
            stack.addWidget(section)
            if name == "results":
                section.button.toggled.connect(self._share_height)
        stack.addStretch(1)
        self._stack = stack
        self.scroll = QScrollArea()
        self.scroll.setWidget(column)
        self.scroll.setWidgetResizable(True)
        self.scroll.setFrameShape(QFrame.Shape.NoFrame)
        self.scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 4, 2, 4)
        layout.addLayout(head)
        layout.addWidget(self.message)
        layout.addLayout(locate)
        layout.addWidget(self.scroll, 1)
        self.setMinimumWidth(DOCK_WIDTH_PX)

    def _connect(self) -> None:
        workbench, events = self.workbench, self.session.events
        workbench.failed.connect(self.message.show_error)
        workbench.reported.connect(self.message.show_info)
        workbench.noted.connect(self.message.add_note)
        workbench.left.connect(self.message.dismiss)  # it was about the project that is left
        workbench.slides_missed.connect(self._offer_search)
        for event in (
            events.project,
            events.slides,
            events.queries,
            events.query,
            events.result,
            events.judgement,
        ):
            event.connect(self.refresh)
        events.project.connect(self._fold_anew)
        events.result.connect(self._unfold)
        for runner in workbench.runners:
            runner.ended.connect(self.refresh)
        for runner in workbench.asked_for:
            runner.started.connect(self._begin)
        self._fold_anew()

    def refresh(self, *_: object) -> None:
        """Show the project's name and each part's state."""
        path = self.session.project.path
        self.project_label.setText("Untitled project" if self.session.is_untitled else path.stem)
        self.project_label.setToolTip(f"{path}\nEvery change is saved at once.")
        self.locate_button.setVisible(bool(self.session.missing))
        for name, section in self.sections.items():
            section.set_note(getattr(getattr(self, name), "summary", ""))

    def _fold_anew(self) -> None:
        """Show an empty project where to begin."""
        if self.session.is_empty and not self.session.project.slides:
            self._has_unfolded = False
            for name, section in self.sections.items():
                section.set_open(name not in AFTER_SEARCH)

    def _unfold(self) -> None:
        """Make room for the first results; what the user folds or unfolds later stays so."""
        if self.session.candidates and not self._has_unfolded:
            self._has_unfolded = True
            for name, section in self.sections.items():
                section.set_open(name in AFTER_SEARCH or name == "search")
            # Not at once: the window answers between the first candidates and their comparison.
            QTimer.singleShot(0, self._compare_first)

    def _compare_first(self) -> None:
        if self._is_open:
            self.open_inspector()

    def open_inspector(self) -> None:
        """Put the comparison below the slide, unless it is there."""
        if self.inspector is None:
            self.inspector = Inspector(self.workbench, self.inspection, self.key_actions())
            dock = self.viewer.window.add_dock_widget(self.inspector, name="Compare", area="bottom")
            window = self.window()
            if isinstance(window, QMainWindow):
                # Below the slide alone: this dock keeps its height.
                window.setCorner(Qt.Corner.BottomRightCorner, Qt.DockWidgetArea.RightDockWidgetArea)
                window.setCorner(Qt.Corner.BottomLeftCorner, Qt.DockWidgetArea.LeftDockWidgetArea)
                window.resizeDocks([dock], [round(COMPARE_SHARE * window.height())], Qt.Orientation.Vertical)
            dock.destroyed.connect(self._forget_inspector)

    def _forget_inspector(self) -> None:
        inspector, self.inspector = self.inspector, None
        if inspector is not None:
            inspector.close_down()

    def _share_height(self, is_open: bool) -> None:
        """Give spare height to the table while it is there."""
        self._stack.setStretchFactor(self.sections["results"], 4 if is_open else 0)

    def open_training(self) -> None:
        """Put the training beside this dock, unless it is there, and show it."""
        if self._training_dock is None:
            self.training = TrainingWidget(self._use_model)
            self._training_dock = self.viewer.window.add_dock_widget(
                self.training, name="CoMIR training", area="right", tabify=True
            )
            self._training_dock.destroyed.connect(self._forget_training)
        self._training_dock.show()
        self._training_dock.raise_()

    def _use_model(self, path: Path) -> None:
        dock = self
        if not self._is_open:  # it was closed during the training
            _, dock = self.viewer.window.add_plugin_dock_widget(PLUGIN, "CoMIR search")
        dock.workbench.use_model(path)

    def _forget_training(self) -> None:
        self.training = self._training_dock = None

    def show_keys(self) -> None:
        """Show the keyboard table."""
        table = KeyTable(self)
        table.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        table.show()

    def close_down(self) -> None:
        """Stop all jobs, save, and disconnect from the viewer. Called when the dock is closed."""
        events = self.session.events
        for event in (
            events.project,
            events.slides,
            events.queries,
            events.query,
            events.result,
            events.judgement,
        ):
            event.disconnect(self.refresh)
        events.project.disconnect(self._fold_anew)
        events.result.disconnect(self._unfold)
        for part in (self.repository, self.query, self.search, self.results, self.export):
            part.close_down()
        self.keymap.close()
        if self.inspector is not None:
            inspector = self.inspector
            self._forget_inspector()
            with suppress(LookupError):
                self.viewer.window.remove_dock_widget(inspector)
            inspector.deleteLater()
        self.inspection.close()
        self.workbench.close()
        close_log()

    def showEvent(self, event: QShowEvent) -> None:
        """Draw pins as large as the screen's text."""
        self.workbench.view.candidates.pin_px = PIN_PX * self.devicePixelRatioF()
        super().showEvent(event)

    def about_to_close(self) -> None:
        """Keep the view: the canvas is gone by the time the window has closed."""
        self.workbench.keep_view()

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        """Accept files."""
        if event.mimeData().hasUrls():
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        """Open files as queries where they are dropped on the query section, as slides elsewhere."""
        paths = [url.toLocalFile() for url in event.mimeData().urls() if url.isLocalFile()]
        place = event.position().toPoint() if hasattr(event, "position") else event.pos()
        section = self.sections["query"]
        is_query = section.rect().contains(section.mapFrom(self, place))
        event.acceptProposedAction()
        if is_query:
            self.workbench.maker.add_files(paths)
        else:
            self.workbench.take(paths)

    def _begin(self, title: str) -> None:
        if title != OPENING_INDEX:  # that follows on its own; what went before has yet to be read
            self.message.dismiss()

    def _open_project(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Open a project", "", "Projects (*.comirproj)")
        if path:
            self.workbench.open_project(path)

    def _save_as(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Save the project as", "", "Projects (*.comirproj)")
        if path:
            self.workbench.save_as(path if path.endswith(".comirproj") else f"{path}.comirproj")

    def _offer_search(self, names: list[str]) -> None:
        if not names:
            return
        if len(names) == 1:
            sentence = f"{names[0]} is no longer where it was: choose the folder that holds it now."
        else:
            sentence = (
                f"{names[0]} and {len(names) - 1} more are no longer where they were: "
                "choose the folder that holds them now."
            )
        self.message.show_error(sentence)
        self.sections["repository"].set_open(True)  # there they are listed

    def _locate(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Folder that holds the moved slides")
        if folder:
            self.workbench.relocate(folder)


def projects_folder() -> Path:
    """Return where projects lie that have no name yet."""
    return user_data_path("napari-comir-search") / "projects"
