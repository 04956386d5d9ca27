"""Whether memory that is let go goes back to the system: on Linux, glibc is told here.

A command that works and ends keeps it for its next use; a window that stays open
gives it back.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # from malloc.h
_KEPT_BYTES = 512 << 20
_PORTABLE_BYTES = 32 << 20  # the most that glibc before 2.35 takes for a threshold

# For processes to begin with, what `reuse_large_blocks` asks for later; and torch, which has to know before it
# is loaded, may ask for large pages, of which a virtual machine hands out as much in a tenth of the time.
REUSE_ENVIRON = {
    "THP_MEM_ALLOC_ENABLE": 1,
    "MALLOC_ARENA_MAX": 1,
    "MALLOC_MMAP_THRESHOLD_": _PORTABLE_BYTES,
    "MALLOC_TRIM_THRESHOLD_": _KEPT_BYTES,
}


def reuse_large_blocks() -> None:
    """Keep large blocks that are freed for the next ones, for the rest of the process.

    glibc gives them back to the system, which clears each anew: an eighth of the
    processor time of indexing, and half with the settings that workers of
    `dask.distributed` begin with. Best called before there are threads, which all
    use one heap from then on: others cannot hold large blocks.
    """
    if not _set_malloc(_M_MMAP_THRESHOLD, 1 << 30):
        _set_malloc(_M_MMAP_THRESHOLD, _PORTABLE_BYTES)
    _set_malloc(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    _set_malloc(_M_ARENA_MAX, 1)


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


def _set_malloc(option: int, value: int) -> bool:
    """Return whether glibc took it."""
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):  # musl has no such settings
            return bool(ctypes.CDLL(None).mallopt(option, value))
    return False
