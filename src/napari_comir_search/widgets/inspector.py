"""The comparison of query and candidate, in a dock of its own below the slide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from qtpy.QtCore import QSize, Qt, QTimer
from qtpy.QtWidgets import (
    QButtonGroup,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QSizePolicy,
    QSlider,
    QStackedLayout,
    QVBoxLayout,
    QWidget,
)

from napari_comir_search.jobs.comparison import Comparison
from napari_comir_search.state.inspection import Face, Inspection, Mode
from napari_comir_search.view.keys import Keymap, key_of
from napari_comir_search.widgets.actions import Workbench
from napari_comir_search.widgets.compare_canvas import CompareCanvas

HINT = "Choose a candidate to compare it with the query."
READING = "Reading the pictures …"
SLIDER_STEPS = 100
CONTRAST_DELAY_MS = 150
MODE_TIPS = {
    Mode.SIDE_BY_SIDE: "Query on the left, slide on the right, rotated to match. Both zoom and pan together.",
    Mode.BLEND: "The query over the slide. The slider sets the opacity of the query.",
    Mode.CHECKERBOARD: "Alternating tiles of query and slide. The slider sets the size of the tiles.",
    Mode.SWIPE: "The query left of the edge, the slide right of it. The slider moves the edge.",
}


class Inspector(QWidget):
    """Compare the current candidate with the query, and correct its position.

    Parameters
    ----------
    workbench : Workbench
    inspection : Inspection
    actions : mapping from str to callable
        What each key does.
    """

    def __init__(
        self,
        workbench: Workbench,
        inspection: Inspection,
        actions: Mapping[str, Callable[[], None]],
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.workbench, self.inspection, self.session = workbench, inspection, workbench.session
        self.canvas = CompareCanvas(inspection.adjust)
        self.keymap = Keymap(self.canvas.model, actions)
        self.hint = QLabel(HINT)
        self.hint.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.hint.setWordWrap(True)  # a long name must not widen the window
        self.mode_buttons: dict[Mode, QPushButton] = {}
        group = QButtonGroup(self)
        modes = QHBoxLayout()
        modes.setSpacing(2)
        for mode in Mode:
            button = QPushButton(mode.value)
            button.setCheckable(True)
            button.setToolTip(f"{MODE_TIPS[mode]} ({key_of('mode')} for the next mode)")
            group.addButton(button)
            button.clicked.connect(self._choose_mode)
            self.mode_buttons[mode] = button
            modes.addWidget(button)
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(0, SLIDER_STEPS)
        policy = self.slider.sizePolicy()
        policy.setRetainSizeWhenHidden(True)
        self.slider.setSizePolicy(policy)
        self.slider.setValue(SLIDER_STEPS // 2)
        self.slider.setToolTip(
            "The opacity of the query, the size of the tiles, or the position of the edge."
        )
        self.slider.valueChanged.connect(self._show_mode)
        self.query_face = self._face_button("query")
        self.slide_face = self._face_button("slide")
        self.picture_button = QPushButton("PNG …")
        self.picture_button.setToolTip("Save the comparison as it is shown, as PNG.")
        self.picture_button.clicked.connect(self._save_picture)
        self.refit_button = QPushButton("Fit")
        self.refit_button.setToolTip(
            "Search for the best fit near the position that is shown. Move or rotate the slide first: "
            f"with the mouse, or with {key_of('left')} and the other arrows, {key_of('turn_left')} and "
            f"{key_of('turn_right')}."
        )
        self.refit_button.clicked.connect(self._refit)
        self.reset_button = QPushButton("Reset")
        self.reset_button.setToolTip("Go back to the position that was found.")
        self.reset_button.clicked.connect(inspection.reset)
        self.keep_button = QPushButton("Keep")
        self.keep_button.setToolTip("Keep this as the position of the candidate.")
        self.keep_button.clicked.connect(inspection.keep)

        top = QHBoxLayout()
        top.addLayout(modes)
        top.addWidget(self.slider, 1)
        top.addWidget(self.picture_button)
        bottom = QHBoxLayout()
        bottom.setSpacing(3)
        for button in (self.query_face, self.slide_face):
            bottom.addWidget(button)
        bottom.addStretch(1)
        for button in (self.refit_button, self.reset_button, self.keep_button):
            bottom.addWidget(button)
        for row in (top, bottom):
            for position in range(row.count()):
                if isinstance(button := row.itemAt(position).widget(), QPushButton):
                    # On a small screen the slide needs the width more than the buttons do.
                    button.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)
        frame = QWidget()
        frame.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self._stack = QStackedLayout(frame)
        self._stack.addWidget(self.hint)
        self._stack.addWidget(self.canvas)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(6, 2, 6, 4)
        layout.addLayout(top)
        layout.addWidget(frame, 1)
        layout.addLayout(bottom)

        workbench.viewer.events.theme.connect(self._take_theme)
        self._take_theme()
        self._contrast_timer = QTimer(self)  # a dragged slider emits many values
        self._contrast_timer.setSingleShot(True)
        self._contrast_timer.setInterval(CONTRAST_DELAY_MS)
        self._contrast_timer.timeout.connect(self.refresh)
        workbench.view.contrast_changed.connect(self._await_contrast)
        self.session.events.slides.connect(self._take_slides)
        inspection.changed.connect(self.refresh)
        inspection.mode_changed.connect(self._show_mode)
        workbench.compared.connect(self._take)
        workbench.left.connect(self.canvas.forget)
        workbench.comparing.started.connect(self._show_state)
        workbench.comparing.ended.connect(self._show_state)
        self._show_mode()
        self.refresh()

    def close_down(self) -> None:
        """Disconnect from the session and close the canvas."""
        self._contrast_timer.stop()
        self.workbench.view.contrast_changed.disconnect(self._await_contrast)
        self.session.events.slides.disconnect(self._take_slides)
        self.workbench.viewer.events.theme.disconnect(self._take_theme)
        self.workbench.left.disconnect(self.canvas.forget)
        self.inspection.changed.disconnect(self.refresh)
        self.inspection.mode_changed.disconnect(self._show_mode)
        self.keymap.close()
        self.canvas.close_down()

    def sizeHint(self) -> QSize:
        """Return a height that leaves the slide the larger part."""
        return QSize(560, 320)

    def refresh(self) -> None:
        """Ask for the pictures of the current candidate."""
        candidate = self.inspection.candidate
        item = None if candidate is None else self.session.slide_of(candidate)
        if candidate is None:
            self.hint.setText(HINT)
        elif item is None:
            key = self.session.key_of(candidate.fingerprint)
            is_missing = any(key == one.fingerprint for one in self.session.missing)
            self.hint.setText(
                f"The file of {candidate.slide} is missing: click Find moved slides."
                if is_missing
                else f"{candidate.slide} is not in the repository: add it to compare."
            )
        if candidate is None or item is None:
            self._stack.setCurrentWidget(self.hint)
            self.canvas.show_comparison(None)
        else:
            self.hint.setText(READING)
            self.workbench.compare(candidate, item, self.inspection.faces)
        self._show_state()

    def _take_slides(self) -> None:
        """Update the reason why there is nothing to compare."""
        if self._stack.currentWidget() is self.hint and not self.workbench.comparing.is_running:
            self.refresh()
        self._show_state()

    def _take_theme(self, event: object = None) -> None:
        """Use the background colour of the viewer."""
        self.canvas.model.theme = self.workbench.viewer.theme

    def _await_contrast(self) -> None:
        self._contrast_timer.start()

    def _take(self, comparison: Comparison) -> None:
        query = self.session.query
        if query is not None and comparison.query_id == query.id:
            self._stack.setCurrentWidget(self.canvas)
            self.canvas.show_comparison(comparison)
            self._show_state()

    def _show_mode(self) -> None:
        mode = self.inspection.mode
        self.mode_buttons[mode].setChecked(True)
        self.slider.setVisible(mode is not Mode.SIDE_BY_SIDE)  # there it would change nothing
        self.canvas.set_mode(mode, self.slider.value() / SLIDER_STEPS)

    def _show_state(self) -> None:
        is_adjusted = self.inspection.is_adjusted
        has_candidate = self.inspection.candidate is not None
        can_fit = has_candidate and self.session.index is not None and not self.session.is_refining
        self.canvas.set_caption(self.inspection.adjustment)
        self.refit_button.setEnabled(can_fit)
        self.reset_button.setEnabled(is_adjusted)
        self.keep_button.setEnabled(is_adjusted and not self.session.is_refining)
        is_shown = self._stack.currentWidget() is self.canvas
        for button in (self.picture_button, self.query_face, self.slide_face):
            button.setEnabled(is_shown)

    def _choose_mode(self) -> None:
        self.inspection.set_mode(
            next(mode for mode, button in self.mode_buttons.items() if button.isChecked())
        )

    def _face_button(self, side: str) -> QPushButton:
        button = QPushButton(f"{side.title()} CoMIR")
        button.setCheckable(True)
        button.setToolTip(f"Show the CoMIR of the {side}, which the search compares, instead of the image.")
        button.clicked.connect(self._choose_faces)
        return button

    def _choose_faces(self) -> None:
        faces = [
            Face.COMIR if button.isChecked() else Face.IMAGE for button in (self.query_face, self.slide_face)
        ]
        self.inspection.set_faces(*faces)

    def _refit(self) -> None:
        if self.inspection.candidate is not None:
            self.workbench.refit(self.inspection.candidate, self.inspection.place)

    def _save_picture(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Picture", "comparison.png", "PNG (*.png)")
        if path:
            self.save_picture(path if path.endswith(".png") else f"{path}.png")

    def save_picture(self, path: str | Path) -> None:
        """Save the comparison as it is shown."""
        image = self.canvas.qt_viewer.canvas.native.grabFramebuffer()
        self.workbench.save_picture(image, Path(path))
