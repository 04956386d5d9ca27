"""Stages that work at the same time, in threads that are joined by bounded queues."""

from __future__ import annotations

import atexit
import time
from collections.abc import Callable, Generator, Iterable
from itertools import chain
from queue import Empty, Full, Queue
from threading import Event, Lock, Thread
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
    threads: int = 1,
    begin: Callable[[], None] | None = None,
    interrupt: Callable[[], None] | None = None,
) -> Generator[Any, None, None]:
    """Pass items through stages that overlap.

    Parameters
    ----------
    items : iterable
        What the first stage takes; never None.
    stages : list of callable
        Each takes what the one before returned. The first and the last, which hold
        files, have one thread each.
    waiting : int
        Items that may wait between two stages: the bound on memory.
    threads : int
        Of each stage in between. Of more than one, some may overtake others.
    begin : callable, optional
        Called by each of these first.
    interrupt : callable, optional
        Called where it ends before all items are through, so that a stage which
        takes long can be made to raise.

    Yields
    ------
    object or None
        What the last stage returned; None every tenth of a second
        while nothing is ready, so that the consumer can stop. What a stage
        raises is raised here. Closing the generator waits until the first and
        the last stage have ended the item they work on; those between only
        compute, and what they end later is dropped.
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

    def work(number: int) -> None:
        stage, source, target = stages[number], queues[number], queues[number + 1]
        if begin is not None and 0 < number < len(stages) - 1:
            begin()
        while (item := get(source)) is not _END:
            put(target, stage(item))
        with counting:
            busy[number] -= 1
            is_last = not busy[number]
        put(target if is_last else source, _END)  # or the stage's next thread is to see it

    def guard(body: Callable[..., None], *arguments: Any) -> None:
        try:
            body(*arguments)
        except _Stopped:
            pass
        except BaseException as error:  # noqa: BLE001  (raised by the consumer)
            failures.append(error)

    failures: list[BaseException] = []
    busy = [1, *[threads] * (len(stages) - 2), 1][: len(stages)]
    counting = Lock()
    feeder = Thread(target=guard, args=(feed,), daemon=True)
    workers = [
        [Thread(target=guard, args=(work, number), daemon=True) for _ in range(count)]
        for number, count in enumerate(busy)
    ]
    for thread in (feeder, *chain.from_iterable(workers)):
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
        for thread in (feeder, *workers[0], *workers[-1]):
            thread.join()
        give_up_s = time.monotonic() + PATIENCE_S
        for thread in chain.from_iterable(workers[1:-1]):
            thread.join(max(0.0, give_up_s - time.monotonic()))
            if thread.is_alive():
                atexit.register(thread.join)  # a thread that Python ends inside torch takes the process down
