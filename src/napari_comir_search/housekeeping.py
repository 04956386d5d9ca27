"""Gives back the memory of a project that was left, once no job of it is under way."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import QTimer

from comir_search.memory import give_memory_back, keep_large_blocks_apart
from napari_comir_search.worker import JobRunner

DELAY_MS = 300


class Housekeeper:
    """Waits until all work for a left project has ended.

    Parameters
    ----------
    runners : sequence of JobRunner
    """

    def __init__(self, runners: Sequence[JobRunner]) -> None:
        keep_large_blocks_apart()
        self._runners = tuple(runners)
        self._is_due = False
        for runner in self._runners:
            runner.ended.connect(self._tidy)

    def note_left(self) -> None:
        """Take note that a project was left."""
        self._is_due = True
        self._tidy()

    def _tidy(self, *_: object) -> None:
        if self._is_due and not any(runner.is_running for runner in self._runners):
            self._is_due = False
            # Not at once: Qt deletes the layers' controls before that, and the window answers in between.
            QTimer.singleShot(DELAY_MS, give_memory_back)
