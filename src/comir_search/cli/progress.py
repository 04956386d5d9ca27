"""A progress bar on stderr for long jobs.

The bar is not tqdm's: where a stage has a long name, tqdm cuts off the bar and the
percentage and not the name, and it shows the time left as "03:20" and not as
"3 min 20 s".
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Generator
from typing import TextIO, TypeVar

from comir_search.progress import Tick, TimeLeft, finish

Result = TypeVar("Result")

_BAR_WIDTH = 20
_REDRAW_S = 0.1


def show(job: Generator[Tick, None, Result], stream: TextIO | None = None) -> Result:
    """Run a job to its end with a progress bar; return its result.

    Parameters
    ----------
    job : generator of Tick
        The job; Ctrl-C closes it.
    stream : text stream, optional
        Where the bar is written, stderr by default. On a terminal one line is
        redrawn; elsewhere each stage prints one line when it begins.
    """
    stream = sys.stderr if stream is None else stream
    if stream is None:  # closed by the program that started this process
        return finish(job)
    display = _Bar(stream) if stream.isatty() else _Lines(stream)
    try:
        return finish(job, display.update)
    finally:
        display.close()


class _Lines:
    """One line per stage, for logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._stage = stream, ""

    def update(self, tick: Tick) -> None:
        """Print each new stage and each note."""
        if tick.note:
            print(tick.note, file=self._stream, flush=True)
        if tick.stage != self._stage:
            self._stage = tick.stage
            print(tick.stage, file=self._stream, flush=True)

    def close(self) -> None:
        """Do nothing: each line is complete."""


class _Bar:
    """One line that is redrawn: stage, bar, percentage, time left."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._time_left, self._stage, self._drawn_s = stream, TimeLeft(), "", 0.0

    def update(self, tick: Tick) -> None:
        """Redraw the line, a few times a second at most; notes stay above it."""
        if tick.note:
            self._stream.write(f"\r\x1b[K{tick.note}\n")
            self._drawn_s = 0.0
        seconds_left = self._time_left.update(tick)
        now_s = time.monotonic()
        if tick.stage == self._stage and now_s - self._drawn_s < _REDRAW_S:
            return
        self._stage, self._drawn_s = tick.stage, now_s
        width = shutil.get_terminal_size().columns - 1
        self._stream.write("\r\x1b[K" + progress_line(tick, seconds_left, width))
        self._stream.flush()

    def close(self) -> None:
        """Erase the line."""
        self._stream.write("\r\x1b[K")
        self._stream.flush()


def progress_line(tick: Tick, seconds_left: float | None, width: int) -> str:
    """Return one line that says how far a job is.

    Parameters
    ----------
    tick : Tick
    seconds_left : float or None
        None if it is not known.
    width : int
        Length of the line in characters, at most.
    """
    if tick.total <= 0:
        return tick.stage[:width]
    share = min(max(tick.done / tick.total, 0.0), 1.0)
    filled = round(share * _BAR_WIDTH)
    tail = f"  {'█' * filled}{'░' * (_BAR_WIDTH - filled)} {share:4.0%}"
    if seconds_left is not None:
        tail += f"  {duration(seconds_left)} left"
    room = width - len(tail)
    stage = tick.stage if len(tick.stage) <= room else tick.stage[: max(room - 1, 0)] + "…"
    return (stage + tail)[:width]


def duration(seconds: float) -> str:
    """Return seconds as people read them: "8 s", "3 min 20 s", "2 h 5 min"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
