"""Progress and cancellation for long jobs, without threads and without Qt.

Every long job is a generator. It yields a `Tick` at each point where it may be stopped,
and it returns its result. A command runs it with `finish`, a napari worker iterates it
in a thread. Both cancel it by closing the generator: its ``finally`` blocks then
release its files and memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True)
class Tick:
    """One step of a long job.

    Parameters
    ----------
    stage : str
        Name of the stage, shown to the user ("embedding slide.svs").
    done, total : int
        Finished steps and all steps of this stage; `total` is 0 if unknown.
    partial : object, optional
        A partial result to show, such as a `SearchResult`.
    note : str, optional
        A sentence that stays on the user's screen ("b.tif is the same image as a.tif
        and was left out").
    """

    stage: str
    done: int
    total: int
    partial: Any = None
    note: str = ""


Job = Generator[Tick, None, Result]


def finish(job: Generator[Tick, None, Result], on_tick: Callable[[Tick], None] | None = None) -> Result:
    """Run a job to its end and return its result.

    Parameters
    ----------
    job : generator of Tick
        The job. It is closed if `on_tick` raises, for example on Ctrl-C.
    on_tick : callable, optional
        Called with each tick.
    """
    try:
        while True:
            tick = next(job)
            if on_tick is not None:
                on_tick(tick)
    except StopIteration as stop:
        return stop.value
    finally:
        job.close()


def retitle(job: Job[Result], *, prefix: str = "", instead: Tick | None = None) -> Job[Result]:
    """Run a job as a part of another one, under the other's stages.

    Parameters
    ----------
    job : generator of Tick
        The job. It is closed with this one.
    prefix : str
        Put before the name of each stage.
    instead : Tick, optional
        Yielded in place of each tick: of the job itself nothing is shown.
    """
    try:
        while True:
            try:
                tick = next(job)
            except StopIteration as stop:
                return stop.value
            yield instead or replace(tick, stage=prefix + tick.stage)
    finally:
        job.close()


@dataclass
class TimeLeft:
    """Estimate the seconds left in the stage that ticks report.

    The estimate starts anew with each stage. It is None until two steps of the stage
    are done.
    """

    _stage: str = ""
    _started_s: float = field(default=0.0)
    _first_done: int = 0

    def update(self, tick: Tick, now_s: float | None = None) -> float | None:
        """Return the estimated seconds left after a tick, or None."""
        now_s = time.monotonic() if now_s is None else now_s
        if tick.stage != self._stage or tick.done < self._first_done:
            self._stage, self._started_s, self._first_done = tick.stage, now_s, tick.done
        steps = tick.done - self._first_done
        if steps < 2 or tick.total <= 0:
            return None
        return (now_s - self._started_s) / steps * max(tick.total - tick.done, 0)
