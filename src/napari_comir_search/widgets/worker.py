"""Run jobs in threads, one at a time for each kind, and stop them within a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import Any

from napari.qt.threading import GeneratorWorker, create_worker
from qtpy.QtCore import QObject, QThreadPool, QTimer, Signal

from comir_search.errors import BatchIncomplete, ComirSearchError
from comir_search.progress import Job, Tick, TimeLeft
from napari_comir_search.state.log import LOGGER

# The window hears of a job at most this often: each line of progress has napari paint the whole window anew,
# with Python's lock held, which the job needs as well.
TICK_INTERVAL_S = 0.2
LONGEST_PAUSE_S = 1.0  # that a job makes for the window
THREADS = 12  # a long job must not keep thumbnails waiting, however few cores there are


class JobError(Exception):
    """A bug or a failing device, met while a job ran; the cause is attached."""


class JobRunner(QObject):
    """Runs one job at a time in a thread and reports on it in the window's thread.

    A job is a generator of `Tick`. Cancelling closes it in its own thread at
    the next tick, so its ``finally`` blocks run there. What it had found by
    then has been handed out as partial results already.

    Attributes
    ----------
    title : str
        Of the last job that was started.
    started : Signal(str)
        With the title of the job.
    ticked : Signal(object, object)
        With the tick and the seconds left in its stage (or None).
    ended : Signal(str)
        With "done", "cancelled" or "failed"; the last that is heard of a job.
    noted : Signal(str)
        With a sentence that the user must see and that stays, of a job that goes on.
    failed : Signal(object)
        With a `ComirSearchError`. Other errors go to napari's own dialog. A batch
        that left members out hands over its result first.
    """

    started = Signal(str)
    ticked = Signal(object, object)
    ended = Signal(str)
    noted = Signal(str)
    failed = Signal(object)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        pool = QThreadPool.globalInstance()
        pool.setMaxThreadCount(max(pool.maxThreadCount(), THREADS))
        self.title = ""
        self._worker: _JobWorker | None = None
        self._waiting: Callable[[], None] | None = None
        self._time_left = TimeLeft()
        self._on_result: Callable[[Any], None] | None = None
        self._on_partial: Callable[[Any], None] | None = None
        self._closed = False

    @property
    def is_running(self) -> bool:
        """Whether a job is under way, or stopping."""
        return self._worker is not None

    @property
    def has_next(self) -> bool:
        """Whether another job waits for the one under way to stop."""
        return self._waiting is not None

    def run(
        self,
        title: str,
        job: Job[Any],
        on_result: Callable[[Any], None] | None = None,
        on_partial: Callable[[Any], None] | None = None,
    ) -> None:
        """Start a job; one that is under way is cancelled first.

        Parameters
        ----------
        title : str
            What is being done, as shown to the user.
        job : generator of Tick
            The work. It must not touch layers or widgets.
        on_result, on_partial : callable, optional
            Called in the window's thread with the result, and with the partial
            results that ticks carry. Not called after a cancel.
        """
        if self._closed:
            job.close()
            return
        start = partial(self._start, title, job, on_result, on_partial)
        if self._worker is None:
            start()
        else:
            self._waiting = start
            if not self._worker.succeeded:
                self._stop()

    def cancel(self) -> None:
        """Ask the job to stop at its next tick; one that waits for it is not begun."""
        self._waiting = None
        self._stop()

    def _stop(self) -> None:
        if self._worker is not None:
            self._on_result = self._on_partial = None
            self._worker.cancelled = True
            self._worker.quit()
            self._worker.shown.set()

    def close(self) -> None:
        """Stop for good: nothing is reported and nothing can be started any more."""
        self._closed, self._waiting = True, None
        self.cancel()

    def _start(
        self,
        title: str,
        job: Job[Any],
        on_result: Callable[[Any], None] | None,
        on_partial: Callable[[Any], None] | None,
    ) -> None:
        self._waiting = None
        self._time_left = TimeLeft()
        self._on_result, self._on_partial = on_result, on_partial
        worker = create_worker(
            _Titled(_drive, title=title), job, Event(), _worker_class=_JobWorker, _start_thread=False
        )
        worker.yielded.connect(self._take_tick)
        worker.returned.connect(self._take_result)
        worker.finished.connect(self._take_end)
        self._worker, self.title = worker, title
        LOGGER.info("%s", title)
        self.started.emit(title)
        worker.start()

    def _take_tick(self, tick: Tick) -> None:
        worker = self._worker
        if self._closed or worker is None or worker.cancelled:
            return
        if tick.note:
            LOGGER.info("%s", tick.note)
            self.noted.emit(tick.note)
        if tick.partial is not None:
            self._hand_over(self._on_partial, tick.partial)
            QTimer.singleShot(0, worker.shown.set)  # once what follows from it is painted
        self.ticked.emit(tick, self._time_left.update(tick))

    def _take_result(self, result: Any) -> None:
        worker = self._worker
        if self._closed or worker is None or worker.cancelled:
            return
        worker.succeeded = not isinstance(result, _Failure)
        if not worker.succeeded:
            if isinstance(result.error, BatchIncomplete):
                self._hand_over(self._on_result, result.error.result)
            LOGGER.error("%s", result.error)
            self.failed.emit(result.error)
        else:
            self._hand_over(self._on_result, result)

    def _hand_over(self, receiver: Callable[[Any], None] | None, value: Any) -> None:
        """Call a receiver; its errors are reported like those of the job."""
        if receiver is not None:
            try:
                receiver(value)
            except ComirSearchError as error:
                self.failed.emit(error)

    def _take_end(self) -> None:
        worker, self._worker = self._worker, None
        if self._closed or worker is None:
            return
        self._on_result = self._on_partial = None
        self.ended.emit("cancelled" if worker.cancelled else "done" if worker.succeeded else "failed")
        if self._waiting is not None:
            self._waiting()


@dataclass(frozen=True)
class _Failure:
    """An expected failure on its way to the window; a bare exception would be raised again there."""

    error: ComirSearchError


class _JobWorker(GeneratorWorker):
    """A worker that closes its job, whichever way it ends, in its own thread."""

    def __init__(self, function: Callable[..., Any], job: Job[Any], shown: Event) -> None:
        super().__init__(function, job, shown)
        self.job = job
        self.shown = shown
        self.cancelled = False
        self.succeeded = False

    def work(self) -> Any:
        """Run the job; called by the thread."""
        try:
            return super().work()
        finally:
            # napari remembers every worker as long as its window lives: this one must hold nothing.
            self._gen.close()
            self.job.close()


class _Titled(partial[Any]):
    """A generator function that reads well in napari's question before closing."""

    title: str

    def __new__(cls, function: Callable[..., Any], *args: Any, title: str = "", **kwargs: Any) -> _Titled:
        self = super().__new__(cls, function, *args, **kwargs)
        self.title = title
        return self

    def __str__(self) -> str:
        return self.title


def _drive(job: Job[Any], shown: Event) -> Generator[Tick, None, Any]:
    """Pass the ticks on that are worth showing; hand an expected failure back as the result.

    After a partial result the job pauses until it is shown, so that it does
    not compete with the window just when that has much to do.
    """
    shown_s, stage = 0.0, None
    try:
        while True:
            tick = next(job)
            now_s = time.monotonic()
            is_wanted = tick.partial is not None or bool(tick.note)
            if is_wanted or tick.stage != stage or now_s - shown_s >= TICK_INTERVAL_S:
                shown_s, stage = now_s, tick.stage
                shown.clear()
                yield tick
                if tick.partial is not None:
                    shown.wait(LONGEST_PAUSE_S)
    except StopIteration as stop:
        return stop.value
    except ComirSearchError as error:
        return _Failure(error)
    except RuntimeError as error:
        # The worker takes these for its own death and would report nothing at all.
        raise JobError(f"{type(error).__name__}: {error}") from error
