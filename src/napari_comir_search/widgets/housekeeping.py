"""Gives back the memory of a project that was left, once no job of it is under way."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import QTimer

from comir_search.compute.memory import give_memory_back, keep_large_blocks_apart
from napari_comir_search.widgets.worker import JobRunner

DELAY_MS = 300


class Housekeeper:
    """Waits until all work for a left project has ended.

    To collect garbage, Python looks at every object there is: those of the
    libraries alone take it a fifth of a second, and napari has it done for each
    layer that is removed, while the window waits. So what is there while there
    are no layers is put aside until the next project is left.

    Parameters
    ----------
    runners : sequence of JobRunner
    viewer : napari viewer or ViewerModel
    """

    def __init__(self, runners: Sequence[JobRunner], viewer: Any) -> None:
        # Without it each project leaves 100 to 200 MB behind. It goes when heavy jobs have a process of their own.
        keep_large_blocks_apart()
        self._runners, self._viewer = tuple(runners), viewer
        self._is_due = self._is_closed = False
        for runner in self._runners:
            runner.ended.connect(self._await_calm)

    def note_left(self) -> None:
        """Note that a project was left."""
        self._is_due = True
        self._await_calm()

    def close(self) -> None:
        """Put nothing aside any more."""
        self._is_due, self._is_closed = False, True
        gc.unfreeze()

    def _await_calm(self, *_: object) -> None:
        if self._is_due and not any(runner.is_running for runner in self._runners):
            self._is_due = False
            # Not at once: Qt deletes the layers' controls before that, and the window answers in between.
            QTimer.singleShot(DELAY_MS, self._tidy)

    def _tidy(self) -> None:
        gc.unfreeze()
        give_memory_back()
        if not self._viewer.layers and not self._is_closed:
            gc.freeze()
