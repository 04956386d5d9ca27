"""Stages that work at the same time, one thread each, joined by bounded queues."""

from __future__ import annotations

import atexit
import time
from collections.abc import Callable, Generator, Iterable
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any

POLL_S = 0.1
PATIENCE_S = 0.5
_END = object()


class _Stopped(Exception):
    """The consumer has gone."""


def run_stages(
    items: Iterable[Any],
    stages: list[Callable[[Any], Any]],
    waiting: int = 1,
    interrupt: Callable[[], None] | None = None,
) -> Generator[Any, None, None]:
    """Pass items through stages that overlap.

    Parameters
    ----------
    items : iterable
        What the first stage takes; never None.
    stages : list of callable
        Each takes what the one before returned, in its own thread, in order.
    waiting : int
        Items that may wait between two stages: the bound on memory.
    interrupt : callable, optional
        Called where it ends before all items are through, so that a stage which
        takes long can be made to raise.

    Yields
    ------
    object or None
        What the last stage returned, in order; None every tenth of a second
        while nothing is ready, so that the consumer can stop. What a stage
        raises is raised here. Closing the generator waits until the first and
        the last stage, which hold files, have ended the item they work on; those
        between only compute, and what they end later is dropped.
    """
    stop = Event()
    queues: list[Queue[Any]] = [Queue(waiting) for _ in range(len(stages) + 1)]

    def put(queue: Queue[Any], item: Any) -> None:
        while not stop.is_set():
            try:
                return queue.put(item, timeout=POLL_S)
            except Full:
                continue
        raise _Stopped

    def get(queue: Queue[Any]) -> Any:
        while not stop.is_set():
            try:
                return queue.get(timeout=POLL_S)
            except Empty:
                continue
        raise _Stopped

    def feed() -> None:
        for item in items:
            put(queues[0], item)
        put(queues[0], _END)

    def work(stage: Callable[[Any], Any], source: Queue[Any], target: Queue[Any]) -> None:
        while (item := get(source)) is not _END:
            put(target, stage(item))
        put(target, _END)

    def guard(body: Callable[..., None], *arguments: Any) -> None:
        try:
            body(*arguments)
        except _Stopped:
            pass
        except BaseException as error:  # noqa: BLE001  (raised by the consumer)
            failures.append(error)

    failures: list[BaseException] = []
    threads = [Thread(target=guard, args=(feed,), daemon=True)]
    for number, stage in enumerate(stages):
        threads.append(
            Thread(target=guard, args=(work, stage, queues[number], queues[number + 1]), daemon=True)
        )
    for thread in threads:
        thread.start()
    try:
        while True:
            try:
                item = queues[-1].get(timeout=POLL_S)
            except Empty:
                item = None
            if item is _END:
                interrupt = None
                return
            if item is None and failures:
                break
            yield item
        raise failures[0]
    finally:
        stop.set()
        if interrupt is not None:
            interrupt()
        feeder, *workers = threads
        for thread in (feeder, workers[0], workers[-1]):
            thread.join()
        give_up_s = time.monotonic() + PATIENCE_S
        for thread in workers[1:-1]:
            thread.join(max(0.0, give_up_s - time.monotonic()))
            if thread.is_alive():
                atexit.register(thread.join)  # a thread that Python ends inside torch takes the process down
