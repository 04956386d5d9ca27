from __future__ import annotations

import io

import pytest

from comir_search.cli.progress import duration, progress_line, show
from comir_search.progress import Tick


class Terminal(io.StringIO):
    def isatty(self):
        return True


def _job(closed=None):
    try:
        yield Tick("reading", 0, 0)
        for done in range(4):
            yield Tick("embedding a.svs", done, 4)
        return "result"
    finally:
        if closed is not None:
            closed.append(True)


def test_a_log_gets_one_line_per_stage():
    log = io.StringIO()
    assert show(_job(), log) == "result"
    assert log.getvalue() == "reading\nembedding a.svs\n"


def test_a_terminal_gets_one_line_that_is_taken_away():
    terminal = Terminal()
    assert show(_job(), terminal) == "result"
    drawn = terminal.getvalue()
    assert "\n" not in drawn
    assert "embedding a.svs" in drawn and drawn.endswith("\r\x1b[K")


def test_a_failing_job_leaves_a_clean_line():
    def fail():
        yield Tick("reading", 0, 0)
        raise ValueError("torn")

    terminal = Terminal()
    with pytest.raises(ValueError, match="torn"):
        show(fail(), terminal)
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_ctrl_c_closes_the_job():
    class Interrupted(io.StringIO):
        def write(self, text):
            raise KeyboardInterrupt

    closed = []
    with pytest.raises(KeyboardInterrupt):
        show(_job(closed), Interrupted())
    assert closed == [True]


def test_a_line_says_stage_share_and_time_left():
    line = progress_line(Tick("embedding a.svs", 1, 4), 75.0, 100)
    assert line.startswith("embedding a.svs") and " 25%" in line and line.endswith("1 min 15 s left")
    assert line.count("█") == 5


@pytest.mark.parametrize("width", [10, 30, 40, 60])
def test_a_line_fits_the_terminal(width):
    assert len(progress_line(Tick("embedding a slide with a long name.svs", 3, 4), 4000.0, width)) <= width


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations_read_as_people_say_them(seconds, text):
    assert duration(seconds) == text
