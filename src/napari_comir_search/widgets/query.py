"""The query: from a file, a layer or a drawn rectangle, with its kind and pixel size."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from napari.layers import Image
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QMenu,
    QMessageBox,
    QProgressBar,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from comir_search.study.entries import ProjectQuery
from napari_comir_search.jobs.queries import QueryPreview
from napari_comir_search.view.layers import KEY
from napari_comir_search.widgets.actions import Workbench
from napari_comir_search.widgets.message_bar import WrappedLabel
from napari_comir_search.widgets.slide_list import to_pixmap

HINT = "Drop the image to search for\nhere, open it, use a layer,\nor draw it on a slide."
PREVIEW_PX = 112
MODALITY_NAMES = {"bf": "Brightfield", "shg": "SHG"}  # those of other models go by their own names


class QueryWidget(QWidget):
    """Choose the image to search for.

    Parameters
    ----------
    workbench : Workbench
    """

    def __init__(self, workbench: Workbench, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.workbench, self.session = workbench, workbench.session
        self.open_button = QPushButton("Open …")
        self.open_button.setToolTip("Open the image to search for. Each file becomes one query.")
        self.open_button.clicked.connect(self._open)
        self.layer_button = self._layer_button(
            "Layer", "Use a whole image layer of the viewer as the query.", workbench.maker.add_layer
        )
        self.draw_button = self._layer_button(
            "Draw",
            "Draw a rectangle on an image layer and use what it shows as the query.",
            workbench.maker.draw_on,
        )

        self.drawing = QWidget()
        self.drawing_label = QLabel()
        self.drawing_label.setWordWrap(True)
        self.use_button = QPushButton("Use rectangle")
        self.use_button.setToolTip("Use what the rectangle shows as a query.")
        self.use_button.clicked.connect(workbench.maker.cut_drawn)
        self.drop_button = QPushButton("Discard")
        self.drop_button.setToolTip("Remove the rectangle.")
        self.drop_button.clicked.connect(workbench.maker.stop_drawing)
        drawing_row = QHBoxLayout()
        drawing_row.addWidget(self.use_button)
        drawing_row.addWidget(self.drop_button)
        drawing_layout = QVBoxLayout(self.drawing)
        drawing_layout.setContentsMargins(0, 0, 0, 0)
        drawing_layout.addWidget(self.drawing_label)
        drawing_layout.addLayout(drawing_row)

        self.choice = QComboBox()
        self.choice.setToolTip(
            "The queries of this project. The results below are those of the query that is chosen here."
        )
        self.choice.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.choice.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.choice.activated.connect(self._choose)
        self.remove_button = QToolButton()
        self.remove_button.setText("×")
        self.remove_button.setToolTip(
            "Remove this query, its results and its verdicts from the project. Undo brings them back."
        )
        self.remove_button.clicked.connect(self._remove)
        self.preview = QLabel(HINT)
        self.preview.setFixedSize(PREVIEW_PX, PREVIEW_PX)
        self.preview.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.preview.setWordWrap(True)
        self.preview.setStyleSheet("border: 1px dashed gray; border-radius: 6px; font-size: 9pt;")
        self.preview.setToolTip(
            "The query as the network sees it: resampled to the model's pixel size, intensities normalised."
        )
        self.modality = QComboBox()
        self.modality.setToolTip(
            "The kind of image. It is guessed from the number of channels; correct it here if it is wrong."
        )
        self.modality.activated.connect(self._set_modality)
        self.pixel_size = QDoubleSpinBox()
        self.pixel_size.setDecimals(4)
        self.pixel_size.setRange(0.0, 100.0)
        self.pixel_size.setSingleStep(0.05)
        self.pixel_size.setSpecialValueText("missing")
        self.pixel_size.setSuffix(" µm")
        self.pixel_size.setKeyboardTracking(False)
        self.pixel_size.valueChanged.connect(self._set_pixel_size)
        self.size_label = QLabel()
        self.size_note = WrappedLabel()  # such as why the pixel size in the file is ignored
        self.size_note.setTextFormat(Qt.TextFormat.PlainText)
        self.size_note.setStyleSheet("font-size: 9pt;")
        self.gauge = QProgressBar()
        self.gauge.setRange(0, 100)
        self.gauge.setFixedHeight(18)

        buttons = QHBoxLayout()
        for button in (self.open_button, self.layer_button, self.draw_button):
            buttons.addWidget(button)
        choice_row = QHBoxLayout()
        choice_row.addWidget(self.choice, 1)
        choice_row.addWidget(self.remove_button)
        self.form_frame = QWidget()
        form = QFormLayout(self.form_frame)
        form.setContentsMargins(0, 0, 0, 0)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        form.addRow("Kind", self.modality)
        form.addRow("Pixel size", self.pixel_size)
        form.addRow("Extent", self.size_label)
        form.addRow("Signal", self.gauge)
        detail = QHBoxLayout()
        detail.addWidget(self.preview, 0, Qt.AlignmentFlag.AlignTop)
        detail.addWidget(self.form_frame, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 4)
        layout.addLayout(buttons)
        layout.addWidget(self.drawing)
        layout.addLayout(choice_row)
        layout.addLayout(detail)
        layout.addWidget(self.size_note)

        self.session.events.queries.connect(self.refresh)
        self.session.events.query.connect(self.refresh)
        workbench.maker.drawing_changed.connect(self._show_drawing)
        workbench.query_pictured.connect(self._take_preview)
        self._show_drawing()
        self.refresh()

    def close_down(self) -> None:
        """Disconnect from the session."""
        self.session.events.queries.disconnect(self.refresh)
        self.session.events.query.disconnect(self.refresh)

    @property
    def summary(self) -> str:
        """One line for the section's title."""
        query = self.session.query
        return "none yet" if query is None else query.name

    def refresh(self) -> None:
        """Show the session as it is now."""
        query = self.session.query
        self.choice.clear()
        for other in self.session.queries:
            self.choice.addItem(other.name + (" · searched" if other.result is not None else ""), other.id)
        if query is None:
            self.choice.setPlaceholderText("No query yet")
            self.choice.setCurrentIndex(-1)
            self.preview.clear()
            self.preview.setText(HINT)
        else:
            self.choice.setCurrentIndex(self.choice.findData(query.id))
        self.choice.setEnabled(bool(self.session.queries))
        self.remove_button.setEnabled(query is not None)
        self.form_frame.setVisible(query is not None)
        self.preview.setFixedWidth(PREVIEW_PX if query is not None else 16777215)
        self._show_description(query)
        if query is not None:
            self.workbench.preview_query()

    def _show_description(self, query: ProjectQuery | None) -> None:
        self.size_note.setText("" if query is None else describe_source(query))
        self.size_note.setVisible(bool(self.size_note.text()))
        if query is None:
            return
        self.modality.clear()
        for modality in self.workbench.maker.modalities:
            self.modality.addItem(MODALITY_NAMES.get(modality, modality), modality)
        self.modality.setCurrentIndex(self.modality.findData(query.modality))
        self.pixel_size.blockSignals(True)
        self.pixel_size.setValue(query.pixel_size_um or 0.0)
        self.pixel_size.blockSignals(False)
        source = query.source.get("pixel size", "user")
        self.pixel_size.setToolTip(
            "Micrometres per pixel of the query. "
            + ("It is not known: enter it here." if query.pixel_size_um is None else f"Source: {source}.")
        )
        height, width = query.source.get("shape") or (0, 0)
        text = f"{width} × {height} px"
        if query.pixel_size_um is not None:
            text = f"{width * query.pixel_size_um:.0f} × {height * query.pixel_size_um:.0f} µm"
        self.size_label.setText(text)
        self.size_label.setToolTip(f"{width} × {height} px of the query's image.")
        self.gauge.setValue(0)
        self.gauge.setFormat("…" if query.pixel_size_um is not None else "pixel size first")
        self.gauge.setToolTip("How much of the query shows structure that can be recognised.")

    def _take_preview(self, preview: QueryPreview) -> None:
        query = self.session.query
        if query is None or preview.query_id != query.id:
            return
        pixmap = to_pixmap(np.asarray(preview.image))
        side = PREVIEW_PX - 4
        self.preview.setPixmap(
            pixmap.scaled(
                side, side, Qt.AspectRatioMode.KeepAspectRatio, Qt.TransformationMode.SmoothTransformation
            )
        )
        self.gauge.setValue(0 if preview.signal is None else round(100 * preview.signal))
        self.gauge.setFormat("not measured yet" if preview.signal is None else "%p %")
        self.gauge.setToolTip(preview.reason)

    def _layer_button(self, text: str, tip: str, action: Callable[[Image], None]) -> QPushButton:
        """Return a button with a menu of the image layers, and what is done with the one chosen."""
        button = QPushButton(text)
        button.setToolTip(tip)
        menu = QMenu(button)
        menu.aboutToShow.connect(partial(self._fill_menu, menu, action))
        button.setMenu(menu)
        return button

    def _fill_menu(self, menu: QMenu, action: Callable[[Image], None]) -> None:
        menu.clear()
        layers = [
            layer
            for layer in reversed(self.workbench.viewer.layers)
            if layer.as_layer_data_tuple()[2] == "image" and layer.metadata.get(KEY, {}).get("role") is None
        ]
        for layer in layers:
            menu.addAction(layer.name, partial(action, layer))
        if not layers:
            menu.addAction("No image layer yet: open a slide or an image first").setEnabled(False)

    def _show_drawing(self) -> None:
        outline = self.workbench.maker.outline
        self.drawing.setVisible(outline is not None)
        if outline is None:
            return
        self.use_button.setEnabled(outline.has_rectangle)
        self.drawing_label.setText(
            f"Move the rectangle, or rotate it by its handle. The query is cut from {outline.target.name}."
            if outline.has_rectangle
            else f"Drag a rectangle on {outline.target.name}."
        )

    def _open(self) -> None:
        files, _ = QFileDialog.getOpenFileNames(self, "Query")
        self.workbench.maker.add_files(files)

    def _choose(self, row: int) -> None:
        self.session.select_query(self.choice.itemData(row))

    def _remove(self) -> None:
        query = self.session.query
        if query is not None and self._is_agreed(query):
            self.workbench.remove_query(query.id)

    def _is_agreed(self, query: ProjectQuery) -> bool:
        """Ask before verdicts are removed."""
        n_verdicts = self.session.count_verdicts(query.id)
        if not n_verdicts:
            return True
        verdicts = "1 verdict" if n_verdicts == 1 else f"{n_verdicts} verdicts"
        answer = QMessageBox.question(
            self,
            "Remove the query?",
            f"{query.name} has {verdicts}. Remove the query with its results and verdicts? Undo brings them back.",
            QMessageBox.StandardButton.Yes | QMessageBox.StandardButton.No,
            QMessageBox.StandardButton.No,
        )
        return answer == QMessageBox.StandardButton.Yes

    def _set_modality(self) -> None:
        if self.session.query is not None:
            self.session.update_query(self.session.query.id, modality=self.modality.currentData())

    def _set_pixel_size(self, value: float) -> None:
        if self.session.query is not None and value > 0:
            self.session.update_query(self.session.query.id, pixel_size_um=value)


def describe_source(query: ProjectQuery) -> str:
    """Return notes on a query's file and on a missing pixel size, "" where there are none."""
    said = list(query.source.get("notes", ()))
    source = str(query.source.get("pixel size", ""))
    if query.pixel_size_um is None:
        reason = "" if source in ("", "missing", "user") else f" ({source.removeprefix('missing: ')})"
        said.insert(0, f"The pixel size is not known{reason}: enter it above.")
    return "\n".join(said)
