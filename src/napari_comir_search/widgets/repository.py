"""The repository: the slides of the project, and how far each is indexed."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtCore import QModelIndex, QPoint, QSize, Qt
from qtpy.QtWidgets import (
    QAbstractItemView,
    QFileDialog,
    QHBoxLayout,
    QInputDialog,
    QLabel,
    QMenu,
    QPushButton,
    QStackedLayout,
    QVBoxLayout,
    QWidget,
)

from napari_comir_search.jobs.thumbnails import Thumbnail
from napari_comir_search.state.items import IndexState, SlideItem
from napari_comir_search.widgets.actions import Workbench
from napari_comir_search.widgets.elided_label import elided_label
from napari_comir_search.widgets.progress_row import ProgressRow
from napari_comir_search.widgets.slide_list import ROW_HEIGHT_PX, SlideListModel, SlideListView

HINT = "Drop slides or a folder of slides here,\nor click Add folder."
FOREIGN = (
    "This index was made with another model, and is searched with that model. To index with the present model, "
    "click Change and choose an empty folder."
)
FEWEST_ROWS, MOST_ROWS = 2, 4  # that the list shows at once


class RepositoryWidget(QWidget):
    """Add slides, see their state, index them.

    Parameters
    ----------
    workbench : Workbench
    """

    def __init__(self, workbench: Workbench, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.workbench, self.session = workbench, workbench.session
        self.folder_button = QPushButton("Add folder …")
        self.folder_button.setToolTip("Add all slides in a folder and its subfolders.")
        self.folder_button.clicked.connect(self._add_folder)
        self.files_button = QPushButton("Add slides …")
        self.files_button.setToolTip(
            "Add single slides: OME-TIFF, SVS, NDPI, MRXS, OME-Zarr, TIFF, PNG and more."
        )
        self.files_button.clicked.connect(self._add_files)
        self.model = SlideListModel(self)
        self.list = SlideListView()
        self.list.setModel(self.model)
        self.list.pixel_size_clicked.connect(self._ask_pixel_size)
        self.list.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.list.setToolTip(
            "The slides to search. Double-click one to show it; click its pixel size to correct it; "
            "right-click it for more."
        )
        self.list.customContextMenuRequested.connect(self._open_menu)
        self.list.doubleClicked.connect(self._show)
        self.hint = QLabel(HINT)
        self.hint.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.hint.setStyleSheet("border: 1px dashed gray; border-radius: 6px;")
        self._stack_frame = QWidget()
        self._stack = QStackedLayout(self._stack_frame)
        self._stack.addWidget(self.hint)
        self._stack.addWidget(self.list)
        self.index_label = elided_label()
        self.index_button = QPushButton("Index all")
        self.index_button.clicked.connect(self._index_all)
        self.place_button = QPushButton("Change …")
        self.place_button.setToolTip("Choose a folder for a new index, or an existing index.")
        self.place_button.clicked.connect(self._choose_index)
        self.progress = ProgressRow(
            workbench.indexing, "Stop", "Stop indexing. What is done is kept; Resume continues from there."
        )
        self.loading_progress = ProgressRow(workbench.loading, "Stop", "Stop searching for slides.")

        add_row = QHBoxLayout()
        add_row.addWidget(self.folder_button)
        add_row.addWidget(self.files_button)
        index_row = QHBoxLayout()
        index_row.addWidget(self.index_label, 1)
        index_row.addWidget(self.place_button)
        index_row.addWidget(self.index_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 4)
        layout.addLayout(add_row)
        layout.addWidget(self._stack_frame)
        layout.addWidget(self.loading_progress)
        layout.addLayout(index_row)
        layout.addWidget(self.progress)

        self.session.events.slides.connect(self.refresh)
        workbench.slide_pictured.connect(self._take_picture)
        workbench.indexing.started.connect(self.refresh)
        workbench.indexing.ended.connect(self.refresh)
        self.refresh()

    def close_down(self) -> None:
        """Disconnect from the session."""
        self.session.events.slides.disconnect(self.refresh)

    @property
    def summary(self) -> str:
        """One line for the section's title."""
        items, n_missing = self.session.slides, len(self.session.missing)
        if not items:
            return f"{n_missing} not found" if n_missing else "no slides yet"
        done = len(self.session.searchable)
        slides = f"{len(items)} slide{'s' if len(items) > 1 else ''}, {done} indexed"
        return f"{slides}, {n_missing} not found" if n_missing else slides

    def refresh(self) -> None:
        """Show the session as it is now."""
        items = self.session.slides
        listed = [*self.session.missing, *items]  # missing files come first
        self.model.set_items(listed)
        self._stack.setCurrentWidget(self.list if listed else self.hint)
        rows = min(max(len(listed), FEWEST_ROWS), MOST_ROWS)
        self._stack_frame.setFixedHeight(rows * ROW_HEIGHT_PX + 6)
        path = self.session.index_path
        if path is None:
            self.index_label.setText("Index: beside the slides")
            self.index_label.setToolTip("The index is made in the folder of the first slide.")
        else:
            self.index_label.setText(f"Index: {path.name}")
            self.index_label.setToolTip(str(path))
        left = self._to_index()
        busy = self.workbench.indexing.is_running
        self.index_button.setEnabled(bool(left) and not busy and not self._is_foreign)
        self.index_button.setText(
            "Resume"
            if any(item.state is IndexState.PART for item in left)
            else "Index again"
            if left and all(item.state is IndexState.STALE for item in left)
            else "Index all"
        )
        self.index_button.setToolTip(self._index_tip(items, left, busy))
        self.place_button.setEnabled(bool(items) and not busy)

    def _index_tip(self, items: list[SlideItem], left: list[SlideItem], busy: bool) -> str:
        if busy:
            return "Indexing is running."
        if not items:
            return "Add slides first: an index is made once, then searched as often as you like."
        if not left:
            return "All slides are indexed."
        if self._is_foreign:
            return FOREIGN
        return f"Index {len(left)} slide{'s' if len(left) > 1 else ''}; you can stop and resume at any time."

    def _to_index(self) -> list[SlideItem]:
        return [item for item in self.session.slides if item.state is not IndexState.DONE]

    @property
    def _is_foreign(self) -> bool:
        """Whether the index is another model's: nothing can be added to it."""
        return any(item.state is IndexState.OTHER_MODEL for item in self.session.slides)

    def _index_all(self) -> None:
        self.workbench.index(self._to_index())

    def _add_folder(self) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Folder of slides")
        if folder:
            self.workbench.take([folder])

    def _add_files(self) -> None:
        files, _ = QFileDialog.getOpenFileNames(self, "Slides")
        if files:
            self.workbench.take(files)

    def _choose_index(self) -> None:
        path = self.session.index_path
        folder = QFileDialog.getExistingDirectory(self, "Index folder", str(path.parent if path else ""))
        if folder:
            chosen = Path(folder)
            is_index = (chosen / "index.json").is_file()
            is_empty = not any(chosen.iterdir())
            self.workbench.open_index(chosen if is_index or is_empty else chosen / "repository.comirindex")

    def _show(self, index: QModelIndex) -> None:
        item = self.model.item(index)
        if item is not None and item.state is not IndexState.MISSING:
            self.workbench.view.show(item.fingerprint)

    def _take_picture(self, thumbnail: Thumbnail) -> None:
        self.model.set_picture(thumbnail.key, thumbnail.image)

    def _open_menu(self, position: QPoint) -> None:
        item = self.model.item(self.list.indexAt(position))
        if item is not None:
            menu = self.menu_of(item)
            menu.exec(self.list.viewport().mapToGlobal(position))
            menu.deleteLater()

    def menu_of(self, item: SlideItem) -> QMenu:
        """Return the menu of a slide."""
        menu = QMenu(self)
        if item.state is not IndexState.MISSING:
            is_open = item in self._to_index() and not self.workbench.indexing.is_running
            is_open = is_open and not self._is_foreign
            menu.addAction("Show", lambda: self.workbench.view.show(item.fingerprint))
            menu.addAction("Index this slide", lambda: self.workbench.index([item])).setEnabled(is_open)
            menu.addAction("Set pixel size …", lambda: self._ask_pixel_size(item))
            menu.addSeparator()
            menu.addAction("Use as query instead", lambda: self.workbench.maker.add_slide(item))
        menu.addAction("Remove from the project", lambda: self.workbench.remove_slide(item))
        return menu

    def _ask_pixel_size(self, item: SlideItem) -> None:
        size_um, is_given = QInputDialog.getDouble(
            self,
            "Pixel size",
            f"Micrometres per pixel of {item.info.name}:",
            item.info.pixel_size_um or 0.5,
            0.001,
            100.0,
            4,
        )
        if is_given:
            self.workbench.set_pixel_size(item.fingerprint, size_um)

    def sizeHint(self) -> QSize:
        """Return a width that fits beside the canvas."""
        return QSize(360, super().sizeHint().height())
