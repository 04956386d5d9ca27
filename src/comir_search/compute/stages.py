"""Stages of work that run at the same time, in threads connected by bounded queues."""

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
    """Raised in the threads when the consumer has stopped."""


def run_stages(
    items: Iterable[Any],
    stages: list[Callable[[Any], Any]],
    waiting: int = 1,
    threads: int = 1,
    begin: Callable[[], None] | None = None,
    interrupt: Callable[[], None] | None = None,
) -> Generator[Any, None, None]:
    """Pass items through stages that run at the same time.

    Parameters
    ----------
    items : iterable
        Input of the first stage; never None.
    stages : list of callable
        Each takes what the stage before it returned. The first and the last stage work
        with files and have one thread each.
    waiting : int
        Largest number of items that wait between two stages; this bounds the memory.
    threads : int
        Threads of each middle stage. With more than one, the order of items may change.
    begin : callable, optional
        Each of these threads calls it first.
    interrupt : callable, optional
        Called when the generator ends early. It can make a slow stage raise an error.

    Yields
    ------
    object or None
        What the last stage returned. While nothing is ready it is None, ten times a
        second, so that the consumer can stop. Errors of the stages are raised here.
        Closing the generator waits until the first and the last stage have finished
        their item. Middle stages only compute: their results are then dropped.
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
