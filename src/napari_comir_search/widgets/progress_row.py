"""How far a job has come, how long it will take, and the way to stop it."""

from __future__ import annotations

from qtpy.QtWidgets import QGridLayout, QProgressBar, QPushButton, QWidget

from comir_search.progress import Tick
from napari_comir_search.widgets.elided_label import elided_label
from napari_comir_search.widgets.worker import JobRunner

BAR_STEPS = 1000


class ProgressRow(QWidget):
    """Stage, bar, time left and Cancel; hidden while nothing runs.

    Parameters
    ----------
    runner : JobRunner
        Whose jobs are shown.
    stop_text, stop_tip : str
        What the button is called, and what stopping leaves behind.
    """

    def __init__(
        self, runner: JobRunner, stop_text: str, stop_tip: str, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._runner = runner
        self.stage = elided_label()  # the time left stands at the end
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setFixedHeight(10)
        self.bar.setToolTip("How much of this stage is done.")
        self.stop_button = QPushButton(stop_text)
        self.stop_button.setToolTip(stop_tip)
        self.stop_button.clicked.connect(self._stop)
        layout = QGridLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.stage, 0, 0)
        layout.addWidget(self.bar, 1, 0)
        layout.addWidget(self.stop_button, 0, 1, 2, 1)
        layout.setColumnStretch(0, 1)
        runner.started.connect(self._begin)
        runner.ticked.connect(self._advance)
        runner.ended.connect(self._end)
        self.hide()

    def _begin(self, title: str) -> None:
        self.stage.setText(title)
        self.bar.setRange(0, 0)
        self.stop_button.setEnabled(True)
        self.show()

    def _advance(self, tick: Tick, seconds_left: float | None) -> None:
        text = tick.stage[:1].upper() + tick.stage[1:]
        if seconds_left is not None:
            text += f" · {describe_seconds(seconds_left)} left"
        self.stage.setText(text)
        self.stage.setToolTip(text)
        if tick.total > 0:
            self.bar.setRange(0, BAR_STEPS)
            self.bar.setValue(round(BAR_STEPS * tick.done / tick.total))
        else:
            self.bar.setRange(0, 0)

    def _stop(self) -> None:
        self.stop_button.setEnabled(False)
        self.stage.setText("Stopping …")
        self._runner.cancel()

    def _end(self) -> None:
        self.hide()


def describe_seconds(seconds: float) -> str:
    """Return a duration in words short enough for one line."""
    if seconds < 60:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
