"""Threads that compute at the same time, one on each core of the processor.

By default torch divides each operation among all cores. Indexing and searching
consist of many small operations, for which that is slow. Here each thread does its
own job on one core. The threads do not block each other, because torch releases
Python's global lock while it computes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from threading import Lock
from typing import Any, TypeVar

import torch

MOST_THREADS = 8  # more threads would wait for Python's global lock; more processes are faster then
MEMORY_BYTES = 1200 << 20  # largest memory of all threads together
SEARCH_BYTES = 800 << 20  # the same for a search, which also needs memory for the index's cache

Result = TypeVar("Result")
Running = Generator[tuple[int, list[Result | None]], None, None]

_lock = Lock()
_sharing, _n_cores = 0, 1


@contextmanager
def share_cores(bytes_each: int = 0, memory_bytes: int = MEMORY_BYTES) -> Iterator[int]:
    """Choose the number of threads to start; afterwards torch uses all cores again.

    Parameters
    ----------
    bytes_each : int
        Memory that one thread needs.
    memory_bytes : int
        Largest memory of all threads together.

    Yields
    ------
    int
        Number of threads to start. Each must first call the function that
        `beginning` returns.
    """
    global _sharing, _n_cores
    with _lock:
        # A new thread inherits torch's number of cores, which another caller may have set to one. So only the first
        # of several callers at a time reads the number, and each sets it again when it ends.
        _n_cores = _n_cores if _sharing else torch.get_num_threads()
        _sharing += 1
    try:
        yield max(1, min(_n_cores, MOST_THREADS, memory_bytes // max(bytes_each, 1)))
    finally:
        with _lock:
            _sharing -= 1
            torch.set_num_threads(_n_cores)


def take_one_core() -> None:
    """Keep torch to one core in the calling thread."""
    torch.set_num_threads(1)


def beginning(n_threads: int) -> Callable[[], None] | None:
    """Return what each new thread must call first; a single thread keeps all cores, and gets None."""
    return take_one_core if n_threads > 1 else None


def run_side_by_side(
    call: Callable[..., Result], jobs: Sequence[tuple[Any, ...]], bytes_each: int = 0
) -> Running[Result]:
    """Call a function once for each job, several jobs at a time, each on one core.

    Parameters
    ----------
    call : callable
        The function; several threads call it at the same time.
    jobs : sequence of tuple
        Each job holds the arguments of one call.
    bytes_each : int
        Memory that one job needs. The more it is, the fewer jobs run at a time.

    Yields
    ------
    done : int
        Number of finished jobs, from 0 to all.
    results : list
        The returned values in the order of the jobs, None for unfinished jobs. It is
        the same list every time. Closing the generator waits for the jobs that
        have started.
    """
    results: list[Result | None] = [None] * len(jobs)
    yield 0, results
    waiting, done = iter(enumerate(jobs)), 0
    running: dict[Future[Result], int] = {}
    with (
        share_cores(bytes_each, SEARCH_BYTES) as n_threads,
        ThreadPoolExecutor(n_threads, "cores", beginning(n_threads)) as pool,
    ):
        # Start only as many jobs as there are threads, so that no more start while the consumer pauses.
        while done < len(jobs):
            for number, job in islice(waiting, n_threads - len(running)):
                running[pool.submit(call, *job)] = number
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                results[running.pop(future)] = future.result()
                done += 1
            yield done, results
