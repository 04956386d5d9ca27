"""Giving memory back to the system once much of it was let go."""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress


def give_memory_back() -> None:
    """Free what only refers to itself, and hand freed memory back to the system.

    glibc keeps what threads have freed for their next use: after an indexing
    that is hundreds of megabytes, for as long as the process lives. Other
    systems give it back by themselves.
    """
    gc.collect()
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):  # musl has nothing to trim
            ctypes.CDLL(None).malloc_trim(0)
