"""Time limits for what must be quick, on machines that are busy with other things."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

SLACK = 5


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail if the block takes over five times as long as a person is promised.

    What would take its place if it did not end early must take longer than that.
    """
    began = time.monotonic()
    yield
    taken = time.monotonic() - began
    assert taken < SLACK * seconds, f"it took {taken:.1f} s instead of {seconds:g}"
