"""Sharing a processor's cores out to threads that compute side by side.

Torch divides one operation among all cores, which pays for few of the small ones
that indexes and searches are made of. Here each thread works on something else,
on one core. Torch lets go of Python's lock while it computes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from threading import Lock
from typing import Any, TypeVar

import torch

MOST_THREADS = 8  # more would wait for Python's lock: further processes do better
MEMORY_BYTES = 1200 << 20  # that threads may take together
SEARCH_BYTES = 800 << 20  # that a search's may, beside the index's cache

Result = TypeVar("Result")
Running = Generator[tuple[int, list[Result | None]], None, None]


_lock = Lock()
_sharing, _n_cores = 0, 1


@contextmanager
def share_cores(bytes_each: int = 0, memory_bytes: int = MEMORY_BYTES) -> Iterator[int]:
    """Let other threads use the cores that torch may use in this one.

    Parameters
    ----------
    bytes_each : int
        Memory that each of them takes.
    memory_bytes : int
        That they may take together.

    Yields
    ------
    int
        How many threads to start, each of which does first what `beginning` says.
    """
    global _sharing, _n_cores
    with _lock:
        # What one thread sets, threads that are started later begin with: among several of these calls at a time
        # only the first sees how many cores there are, and only the last may say so again.
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
    """Return what each of some threads calls first; one alone may use all cores."""
    return take_one_core if n_threads > 1 else None


def run_side_by_side(
    call: Callable[..., Result], jobs: Sequence[tuple[Any, ...]], bytes_each: int = 0
) -> Running[Result]:
    """Call something with every job's entries, each core with a job of its own.

    Parameters
    ----------
    call : callable
        Safe to be called by several threads at a time.
    jobs : sequence of tuple
    bytes_each : int
        Memory that a job takes: the larger, the fewer run at a time.

    Yields
    ------
    done : int
        Jobs that are finished: at first none, at last all.
    results : list
        What was returned, in the order of the jobs; None where a job is not
        finished. The same list every time. Closing the generator waits for the
        jobs that have begun.
    """
    results: list[Result | None] = [None] * len(jobs)
    yield 0, results
    waiting, done = iter(enumerate(jobs)), 0
    running: dict[Future[Result], int] = {}
    with (
        share_cores(bytes_each, SEARCH_BYTES) as n_threads,
        ThreadPoolExecutor(n_threads, "cores", beginning(n_threads)) as pool,
    ):
        # No more than the threads can begin: nothing runs on while the consumer does not ask.
        while done < len(jobs):
            for number, job in islice(waiting, n_threads - len(running)):
                running[pool.submit(call, *job)] = number
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                results[running.pop(future)] = future.result()
                done += 1
            yield done, results
