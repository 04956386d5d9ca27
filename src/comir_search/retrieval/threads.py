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
from typing import Any, TypeVar

import torch

MOST_THREADS = 8  # each takes up to 0.2 GB; more would wait for Python's lock: further processes do better

Result = TypeVar("Result")
Running = Generator[tuple[int, list[Result | None]], None, None]


@contextmanager
def share_cores() -> Iterator[int]:
    """Let other threads use the cores that torch may use in this one.

    Yields
    ------
    int
        How many threads to start, `MOST_THREADS` or fewer. Each calls
        `take_one_core` first.
    """
    n_cores = torch.get_num_threads()
    try:
        yield min(n_cores, MOST_THREADS)
    finally:
        torch.set_num_threads(n_cores)  # what threads that are started later begin with


def take_one_core() -> None:
    """Keep torch to one core in the calling thread."""
    torch.set_num_threads(1)


def run_side_by_side(call: Callable[..., Result], jobs: Sequence[tuple[Any, ...]]) -> Running[Result]:
    """Call something with every job's entries, each core with a job of its own.

    Parameters
    ----------
    call : callable
        Safe to be called by several threads at a time.
    jobs : sequence of tuple

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
    with share_cores() as n_threads, ThreadPoolExecutor(n_threads, "cores", take_one_core) as pool:
        # No more than the threads can begin: nothing runs on while the consumer does not ask.
        while done < len(jobs):
            for number, job in islice(waiting, n_threads - len(running)):
                running[pool.submit(call, *job)] = number
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                results[running.pop(future)] = future.result()
                done += 1
            yield done, results
