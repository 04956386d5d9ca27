"""Settings of the memory allocator: whether freed memory is kept or returned to the system.

A command keeps freed memory, because it needs as much again soon and ends when its
work is done. A window that stays open returns it. Only glibc, the C library of most
Linux systems, has these settings; elsewhere the functions do nothing.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # from malloc.h
_KEPT_BYTES = 512 << 20
_LARGE_BYTES = 4 << 20
_PORTABLE_BYTES = 32 << 20  # the largest threshold that glibc before 2.35 accepts

# The settings of `reuse_large_blocks` as environment variables, for processes that are started here. The first
# one is for torch, which reads it when it is loaded: torch may then use large pages, which a virtual machine
# provides in a tenth of the time.
REUSE_ENVIRON = {
    "THP_MEM_ALLOC_ENABLE": 1,
    "MALLOC_ARENA_MAX": 1,
    "MALLOC_MMAP_THRESHOLD_": _PORTABLE_BYTES,
    "MALLOC_TRIM_THRESHOLD_": _KEPT_BYTES,
}


def reuse_large_blocks() -> None:
    """Reuse large blocks of freed memory, from now until the process ends.

    By default glibc returns them to the system, which must clear every block that
    it hands out again. That takes an eighth of the processor time of indexing, and
    half of it with the settings of `dask.distributed` for its workers. Call this
    before threads are started: threads then share one heap, since a heap of a
    thread's own cannot hold large blocks.
    """
    if not _set_malloc(_M_MMAP_THRESHOLD, 1 << 30):
        _set_malloc(_M_MMAP_THRESHOLD, _PORTABLE_BYTES)
    _set_malloc(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    _set_malloc(_M_ARENA_MAX, 1)


def keep_large_blocks_apart() -> None:
    """Return large blocks of memory to the system as soon as they are freed, until the process ends.

    glibc takes a large block directly from the system. But once it has freed blocks of
    up to 32 MiB, it cuts new blocks of this size from its heaps. Freed memory there lies
    between small blocks that are still used, and cannot be returned: hundreds of
    megabytes, and more with each project.

    The system must then clear each new large block, which takes about a seventh of the
    processor time of indexing and searching a small slide. Besides the main heap,
    all threads share one heap, for the same reason. Heaps that exist already stay, so
    call this before many threads start.
    """
    _set_malloc(_M_MMAP_THRESHOLD, _LARGE_BYTES)
    _set_malloc(_M_ARENA_MAX, 2)


def give_memory_back() -> None:
    """Collect garbage, and return freed memory to the system.

    glibc keeps the memory that threads have freed: hundreds of megabytes after
    indexing, until the process ends. Other systems return it by themselves.
    """
    gc.collect()
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):  # the C library musl has no such function
            ctypes.CDLL(None).malloc_trim(0)


def _set_malloc(option: int, value: int) -> bool:
    """Change one setting; return whether glibc accepted the value."""
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):  # the C library musl has no such settings
            return bool(ctypes.CDLL(None).mallopt(option, value))
    return False
