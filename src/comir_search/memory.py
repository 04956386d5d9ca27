"""Giving memory back to the system once it is let go: on Linux, glibc would keep much of it."""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress

_M_MMAP_THRESHOLD = -3  # from malloc.h
_LARGE_BYTES = 4 << 20


def keep_large_blocks_apart() -> None:
    """Give large blocks back whenever they are freed, for the rest of the process.

    glibc takes large blocks straight from the system and gives them back, but
    once blocks of up to 32 MiB were freed it cuts all that size from its
    heaps. There what networks and slides need lies scattered between what
    stays, and hundreds of megabytes cannot be given back, more with each
    project. The price is that the system clears each large block anew: about a
    seventh of the processor time of indexing and searching a small slide.
    """
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):  # musl gives them back as it is
            ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


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
