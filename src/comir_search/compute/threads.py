"""Threads that compute at the same time, each on one core.

By default torch divides each operation among all cores. Indexing and searching consist
of small operations, for which that hardly helps. Here each thread does its own work on
one core. Torch releases Python's lock (GIL) while it computes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from threading import Lock
from typing import Any, TypeVar

import torch

MOST_THREADS = 8  # more threads would wait for Python's lock; use more processes instead
MEMORY_BYTES = 1200 << 20  # limit for all threads together
SEARCH_BYTES = 800 << 20  # limit for the threads of a search; the index's cache is extra

Result = TypeVar("Result")
Running = Generator[tuple[int, list[Result | None]], None, None]


_lock = Lock()
_sharing, _n_cores = 0, 1


@contextmanager
def share_cores(bytes_each: int = 0, memory_bytes: int = MEMORY_BYTES) -> Iterator[int]:
    """Let several threads share the cores that torch uses in this thread.

    Parameters
    ----------
    bytes_each : int
        Memory that each thread needs.
    memory_bytes : int
        Limit for all threads together.

    Yields
    ------
    int
        How many threads to start. Each must first call what `beginning` returns.
    """
    global _sharing, _n_cores
    with _lock:
        # New threads inherit torch's setting. If several of these blocks run at the same time, only the first
        # sees the true number of cores, and only the last restores it.
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
    """Return what each thread calls first; a single thread may use all cores."""
    return take_one_core if n_threads > 1 else None


def run_side_by_side(
    call: Callable[..., Result], jobs: Sequence[tuple[Any, ...]], bytes_each: int = 0
) -> Running[Result]:
    """Call a function once for each job, one job per core.

    Parameters
    ----------
    call : callable
        The function; several threads call it at the same time.
    jobs : sequence of tuple
    bytes_each : int
        Memory that one job needs. The more it is, the fewer run at the same time.

    Yields
    ------
    done : int
        Number of finished jobs, from 0 to all.
    results : list
        The returned values, in the order of the jobs; None for a job that is not
        finished. It is the same list every time. Closing the generator waits for
        the jobs that have started.
    """
    results: list[Result | None] = [None] * len(jobs)
    yield 0, results
    waiting, done = iter(enumerate(jobs)), 0
    running: dict[Future[Result], int] = {}
    with (
        share_cores(bytes_each, SEARCH_BYTES) as n_threads,
        ThreadPoolExecutor(n_threads, "cores", beginning(n_threads)) as pool,
    ):
        # Submit only as many as there are threads: nothing runs while the consumer does not ask.
        while done < len(jobs):
            for number, job in islice(waiting, n_threads - len(running)):
                running[pool.submit(call, *job)] = number
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                results[running.pop(future)] = future.result()
                done += 1
            yield done, results
