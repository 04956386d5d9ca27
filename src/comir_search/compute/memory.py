"""How the C library of Linux (glibc) keeps freed memory, or returns it to the system.

A command keeps freed memory, because it uses it again soon and then ends. A window
that stays open returns it.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # from malloc.h
_LARGE_BYTES = 4 << 20
_KEPT_BYTES = 512 << 20
_PORTABLE_BYTES = 32 << 20  # the most that glibc before 2.35 takes for a threshold

# The same settings as `reuse_large_blocks`, as environment variables for new processes. The first lets torch use
# large pages, which a virtual machine provides ten times faster; torch reads it when it is loaded.
REUSE_ENVIRON = {
    "THP_MEM_ALLOC_ENABLE": 1,
    "MALLOC_ARENA_MAX": 1,
    "MALLOC_MMAP_THRESHOLD_": _PORTABLE_BYTES,
    "MALLOC_TRIM_THRESHOLD_": _KEPT_BYTES,
}


def reuse_large_blocks() -> None:
    """Keep freed large blocks of memory for reuse, until the process ends.

    By default glibc returns large blocks to the system, which must clear each new
    one. This takes an eighth of the processor time of indexing, and half of it with
    the default settings of the workers of `dask.distributed`.

    Call it before the first thread starts: all threads then share one heap, and only
    the main heap can keep large blocks.
    """
    if not _set_malloc(_M_MMAP_THRESHOLD, 1 << 30):
        _set_malloc(_M_MMAP_THRESHOLD, _PORTABLE_BYTES)
    _set_malloc(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    _set_malloc(_M_ARENA_MAX, 1)


def give_memory_back() -> None:
    """Collect garbage and return freed memory to the system.

    glibc keeps the memory that threads have freed: hundreds of megabytes after
    indexing, until the process ends. Other systems return it by themselves.
    """
    gc.collect()
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):  # musl has nothing to trim
            ctypes.CDLL(None).malloc_trim(0)


def _set_malloc(option: int, value: int) -> bool:
    """Return whether glibc accepted the setting."""
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):  # musl has no such settings
            return bool(ctypes.CDLL(None).mallopt(option, value))
    return False
