"""Train a model on pairs of images: check the pairs, watch the training, use the model."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from qtpy.QtCore import Qt
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import (
    QCheckBox,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QScrollArea,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from comir_search.progress import Tick
from comir_search.training.options import TrainOptions
from comir_search.training.pair_check import CheckedPairs, check_pairs_steps
from comir_search.training.paused import PausedTraining, read_paused
from napari_comir_search.jobs.training import (
    DEFAULT_STEPS,
    SUFFIX,
    Trained,
    suggest_kept_back,
    suggest_out,
    train_steps,
)
from napari_comir_search.state.log import open_log
from napari_comir_search.state.settings import read_preferences
from napari_comir_search.widgets.curve_plot import CurvePlot
from napari_comir_search.widgets.elided_label import elided_label
from napari_comir_search.widgets.leaving import LeavingWidget
from napari_comir_search.widgets.message_bar import MessageBar
from napari_comir_search.widgets.pair_strip import HINT, PairStrip
from napari_comir_search.widgets.progress_row import ProgressRow
from napari_comir_search.widgets.section import Section
from napari_comir_search.widgets.worker import JobRunner

if TYPE_CHECKING:
    from comir_search.training.run import TrainingReport

SIDES = (
    ("first", "Brightfield", "one side's images, such as brightfield"),
    ("second", "SHG", "the other side's images, such as SHG"),
)
WIDTH_PX = 372


class TrainingWidget(LeavingWidget):
    """Train a model on the pairs of two folders.

    Parameters
    ----------
    use_model : callable
        Takes the path of a model that is to be used from now on.
    """

    def __init__(self, use_model: Callable[[Path], None]) -> None:
        super().__init__()
        open_log()
        self._use_model = use_model
        self.checking, self.training = JobRunner(self), JobRunner(self)
        self.folders: dict[str, Path | None] = {side: None for side, _, _ in SIDES}
        self.out: Path | None = None
        self.checked: CheckedPairs | None = None
        self.trained: Trained | None = None
        self.paused: PausedTraining | None = None  # into the same model file
        self._stop = threading.Event()
        self._build_pairs()
        self._build_options()
        self._build_run()
        self._lay_out()
        self.setAcceptDrops(True)
        self.asked_about = (self.training,)
        for runner in (self.checking, self.training):
            runner.failed.connect(lambda error: self.message.show_error(str(error)))
            runner.started.connect(self._begin)
            runner.ended.connect(self.refresh)
        self.training.ended.connect(self._look_for_paused)
        self.training.ticked.connect(self._follow_stage)
        self.refresh()

    # Building

    def _build_pairs(self) -> None:
        self.message = MessageBar()
        self.folder_buttons: dict[str, QPushButton] = {}
        self.folder_labels: dict[str, QLabel] = {}
        grid = QGridLayout()
        for row, (side, title, what) in enumerate(SIDES):
            button = QPushButton(f"{title} …")
            button.setToolTip(f"Choose the folder of {what}; PNG, TIFF and JPEG work.")
            button.clicked.connect(lambda _=False, side=side: self._choose_folder(side))
            label = elided_label("no folder yet")
            self.folder_buttons[side], self.folder_labels[side] = button, label
            grid.addWidget(button, row, 0)
            grid.addWidget(label, row, 1)
        grid.setColumnStretch(1, 1)
        self.strip = PairStrip()
        self.problems = QLabel()
        self.problems.setWordWrap(True)
        self.problems.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.problems.hide()
        self.checking_row = ProgressRow(self.checking, "Stop", "Stop checking the pairs.")
        self.pairs = QWidget()
        layout = QVBoxLayout(self.pairs)
        layout.setContentsMargins(0, 0, 0, 4)
        layout.addLayout(grid)
        layout.addWidget(self.strip)
        layout.addWidget(self.checking_row)
        layout.addWidget(self.problems)

    def _build_options(self) -> None:
        self.pixel_size = QDoubleSpinBox()
        self.pixel_size.setDecimals(3)
        self.pixel_size.setRange(0.05, 50.0)
        self.pixel_size.setValue(TrainOptions.pixel_size_um)
        self.pixel_size.setSuffix(" µm")
        self.pixel_size.setKeyboardTracking(False)
        self.pixel_size.setToolTip(
            "Micrometres per pixel at which the model works. Images without a pixel size are assumed to have this one."
        )
        self.pixel_size.valueChanged.connect(self.check)
        self.steps = QSpinBox()
        self.steps.setRange(1, 1_000_000)
        self.steps.setSingleStep(100)
        self.steps.setValue(DEFAULT_STEPS)
        self.steps.setToolTip(
            "Training steps. The learning rate falls to zero over them: for a short training, choose fewer steps "
            "rather than stopping a long one."
        )
        self.kept_back = QSpinBox()
        self.kept_back.setRange(0, 0)
        self.kept_back.setToolTip(
            "Pairs of the validation set: the model is tested on them during the training, and the best model "
            "is kept."
        )
        self.out_button = QPushButton("Model …")
        self.out_button.setToolTip("Choose where the model is written.")
        self.out_button.clicked.connect(self._choose_out)
        self.out_label = elided_label()
        self.resume = QCheckBox()
        self.resume.setChecked(True)
        self.resume.setToolTip(
            "A training of this model was paused. Resume it with its own settings and pairs, or clear the box to "
            "start again."
        )
        self.resume.toggled.connect(self.refresh)

    def _build_run(self) -> None:
        self.train_button = QPushButton("Train")
        self.train_button.setMinimumHeight(30)
        self.train_button.setStyleSheet("font-weight: bold;")
        self.train_button.clicked.connect(self.start)
        self.finish_button = QPushButton("Stop and keep the best")
        self.finish_button.setToolTip("Stop after this step and write the best model so far.")
        self.finish_button.clicked.connect(self.finish)
        self.progress = ProgressRow(
            self.training, "Pause", "Pause the training. It can be resumed, also in another session."
        )
        self.plot = CurvePlot()
        self.answer = QLabel()
        self.answer.setWordWrap(True)
        self.use_button = QPushButton("Use this model")
        self.use_button.setToolTip(
            "Use this model to index and search the slides of the project from now on."
        )
        self.use_button.clicked.connect(self._use)

    def _lay_out(self) -> None:
        form = QFormLayout()
        form.addRow("Pixel size", self.pixel_size)
        form.addRow("Steps", self.steps)
        form.addRow("Validation pairs", self.kept_back)
        out_row = QHBoxLayout()
        out_row.addWidget(self.out_button)
        out_row.addWidget(self.out_label, 1)
        run = QWidget()
        layout = QVBoxLayout(run)
        layout.setContentsMargins(0, 0, 0, 4)
        layout.addLayout(form)
        layout.addLayout(out_row)
        for part in (
            self.resume,
            self.train_button,
            self.progress,
            self.finish_button,
            self.plot,
            self.answer,
        ):
            layout.addWidget(part)
        layout.addWidget(self.use_button)
        self.pairs_section = Section("Pairs", self.pairs, "The images to train on.")
        self.run_section = Section("Training", run, "The settings and the progress of the training.")
        column = QWidget()
        stack = QVBoxLayout(column)
        stack.setContentsMargins(2, 0, 6, 0)
        stack.addWidget(self.pairs_section)
        stack.addWidget(self.run_section, 1)
        scroll = QScrollArea()
        scroll.setWidget(column)
        scroll.setWidgetResizable(True)
        scroll.setFrameShape(QFrame.Shape.NoFrame)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(6, 4, 2, 4)
        outer.addWidget(self.message)
        outer.addWidget(scroll, 1)
        self.setMinimumWidth(WIDTH_PX)

    # Pairs

    def set_folder(self, side: str, folder: Path) -> None:
        """Set the folder of the "first" or the "second" side."""
        self.folders[side] = folder
        self.folder_labels[side].setText(folder.name)
        self.folder_labels[side].setToolTip(str(folder))
        if self.out is None:
            self.set_out(suggest_out(folder))
        self.check()

    def check(self) -> None:
        """Look at the pairs again."""
        first, second = self.folders["first"], self.folders["second"]
        if first is not None and second is not None:
            self.checked = None
            self.strip.show_pairs([])
            self.problems.hide()
            job = check_pairs_steps(first, second, pixel_size_um=self.pixel_size.value())
            self.checking.run("Checking the pairs", job, self._take_checked, self.strip.add)

    def _take_checked(self, checked: CheckedPairs) -> None:
        self.checked = checked
        self.strip.show_pairs(list(checked.pairs))
        sentences = [*checked.problems, *(pair.problem for pair in checked.pairs if pair.problem)]
        self.problems.setText("\n".join(f"⚠ {sentence}" for sentence in sentences))
        self.problems.setVisible(bool(sentences))
        count = len(checked.usable)
        self.kept_back.setMaximum(max(count - 1, 0))
        self.kept_back.setValue(suggest_kept_back(count) if self.paused is None else self.paused.kept_back)

    # Training

    def set_out(self, path: Path) -> None:
        """Choose the model file."""
        self.out = path
        self.out_label.setText(path.name)
        self.out_label.setToolTip(str(path))
        self._look_for_paused()

    def _look_for_paused(self, *_: object) -> None:
        """Go on with the settings of a training into this file that was paused: it goes on with no others."""
        self.paused = None if self.out is None or self.training.is_running else read_paused(self.out)
        if self.paused is not None:
            self.resume.setText(f"Resume at step {self.paused.done} of {self.paused.steps}")
            self.steps.setValue(self.paused.steps)
            self.kept_back.setValue(self.paused.kept_back)
            if self.paused.pixel_size_um is not None:
                self.pixel_size.setValue(self.paused.pixel_size_um)
        self.refresh()

    def start(self) -> None:
        """Train."""
        first, second = self.folders["first"], self.folders["second"]
        if first is None or second is None or self.out is None or self.checked is None:
            return
        options = TrainOptions(
            device=read_preferences().device,
            names=tuple(self.checked.usable),
            pixel_size_um=self.pixel_size.value(),
            steps=self.steps.value(),
            resume=self._goes_on(),
        )
        self._stop.clear()
        self.trained = None
        self.plot.clear(self.steps.value())
        self.pairs_section.set_open(False)  # on a small screen the curves need the room
        job = train_steps((first, second), self.out, options, self.kept_back.value(), self._stop.is_set)
        self.training.run(f"Training {self.out.stem}", job, self._take_trained, self._take_report)

    def finish(self) -> None:
        """Stop training and write the best model so far."""
        self._stop.set()
        self.finish_button.setEnabled(False)
        self.finish_button.setText("Ending after this step …")

    def _take_report(self, report: TrainingReport) -> None:
        self.plot.add(report.step, report.loss, report.hit_rates)
        self.finish_button.setEnabled(not self._stop.is_set())

    def _follow_stage(self, tick: Tick) -> None:
        self.finish_button.setVisible(tick.stage == "training")

    def _take_trained(self, trained: Trained) -> None:
        self.trained = trained

    def _goes_on(self) -> bool:
        return self.paused is not None and self.resume.isChecked()

    def _use(self) -> None:
        if self.trained is not None:
            self._use_model(self.trained.path)

    # What is shown

    def _begin(self) -> None:
        self.message.hide()
        self.refresh()

    def refresh(self, *_: object) -> None:
        """Show what can be done now."""
        is_training = self.training.is_running
        obstacle = self._obstacle()
        goes_on = self._goes_on() and not is_training
        self.resume.setVisible(self.paused is not None and not is_training)
        self.train_button.setText("Resume training" if goes_on else "Train")
        self.train_button.setVisible(not is_training)
        self.train_button.setEnabled(not obstacle)
        self.train_button.setToolTip(obstacle or "Train the model; it takes hours without a GPU.")
        self.finish_button.setVisible(is_training)
        self.finish_button.setText("Stop and keep the best")
        self.finish_button.setEnabled(bool(is_training and self.plot.losses))
        for part in (self.out_button, *self.folder_buttons.values()):
            part.setEnabled(not is_training)
        for part in (self.pixel_size, self.steps, self.kept_back):
            part.setEnabled(not is_training and not goes_on)
        self.out_label.setText("beside the images" if self.out is None else self.out.name)
        self.use_button.setVisible(self.trained is not None and not is_training)
        if is_training:
            self.answer.clear()
        elif self.trained is not None:
            self.answer.setText(self.trained.sentence)
        else:
            self.answer.setText(obstacle)
        self.answer.setVisible(bool(self.answer.text()))
        count = 0 if self.checked is None else len(self.checked.usable)
        self.pairs_section.set_note(
            "" if self.checked is None else f"{count} of {len(self.checked.pairs)} usable"
        )
        self.run_section.set_note("training …" if is_training else "")
        if self.checked is None:
            self.strip.set_hint("Checking the pairs …" if self.checking.is_running else HINT)

    def _obstacle(self) -> str:
        """Return why a training cannot start, "" when it can."""
        missing = [title for side, title, _ in SIDES if self.folders[side] is None]
        if missing:
            return f"Choose the folder{'s' * (len(missing) > 1)} of {' and '.join(missing)} images first."
        if self.checking.is_running:
            return "The pairs are being checked."
        if self.checked is None:
            return "These folders contain no pairs: choose other folders."
        return "" if self.checked.usable else "No pair can be used: fix the images, or choose other folders."

    # Folders and files

    def _choose_folder(self, side: str) -> None:
        folder = QFileDialog.getExistingDirectory(self, "Folder of images")
        if folder:
            self.set_folder(side, Path(folder))

    def _choose_out(self) -> None:
        start = str(self.out or "")
        path, _ = QFileDialog.getSaveFileName(self, "Model", start, f"Models (*{SUFFIX})")
        if path:
            self.set_out(Path(path if path.endswith(SUFFIX) else path + SUFFIX))

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        """Accept folders."""
        if event.mimeData().hasUrls():
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        """Use folders for the sides that have none yet, in their order."""
        if self.training.is_running:
            return
        paths = [Path(url.toLocalFile()) for url in event.mimeData().urls() if url.isLocalFile()]
        event.acceptProposedAction()
        free = [side for side, _, _ in SIDES if self.folders[side] is None] or [side for side, _, _ in SIDES]
        for side, folder in zip(free, (path for path in paths if path.is_dir()), strict=False):
            self.set_folder(side, folder)

    def close_down(self) -> None:
        """Stop; the training can be resumed from its checkpoint."""
        for runner in (self.checking, self.training):
            runner.close()
