"""A pipeline: stages that run at the same time in threads, connected by short queues.

While one item is read, the one before it is computed and the one before that is
written. The queues are short, so that a fast stage cannot fill the memory.
"""

from __future__ import annotations

import atexit
import time
from collections.abc import Callable, Generator, Iterable
from itertools import chain
from queue import Empty, Full, Queue
from threading import Event, Lock, Thread
from typing import Any

POLL_S = 0.1  # how often a waiting thread checks whether it must stop
PATIENCE_S = 0.5  # how long the end waits for the stages between the first and the last
QUEUED = 1  # items that may wait between two stages
_END = object()  # follows the last item through the queues


class _Stopped(Exception):
    """The consumer has closed the generator, so the thread ends."""


def run_stages(
    items: Iterable[Any],
    stages: list[Callable[[Any], Any]],
    threads: int = 1,
    begin: Callable[[], None] | None = None,
    interrupt: Callable[[], None] | None = None,
) -> Generator[Any, None, None]:
    """Pass items through stages that run at the same time.

    Parameters
    ----------
    items : iterable
        Input of the first stage. No item may be None.
    stages : list of callable
        The first stage is called with an item, each other one with the result of
        the stage before. The first and the last stage use files and have one
        thread each.
    threads : int
        Number of threads of each stage between the first and the last. With more
        than one, the results may come in another order than the items.
    begin : callable, optional
        Called once by each of these threads when it starts.
    interrupt : callable, optional
        Called if the generator ends before all items are done. It should make a
        long call of a stage raise an error.

    Yields
    ------
    object or None
        A result of the last stage, or None every tenth of a second while there is
        none, so that the consumer can stop. Closing the generator waits until the
        first and the last stage have finished their current item. The stages
        between them only compute: their unfinished items are dropped.

    Raises
    ------
    Exception
        The first error that a stage raised.
    """
    stop = Event()
    queues: list[Queue[Any]] = [Queue(QUEUED) for _ in range(len(stages) + 1)]

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
        put(target if is_last else source, _END)  # the stage's other threads must see the end too

    def guard(body: Callable[..., None], *arguments: Any) -> None:
        try:
            body(*arguments)
        except _Stopped:
            pass
        except BaseException as error:  # noqa: BLE001  (raised again for the consumer)
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
                atexit.register(thread.join)  # the process crashes if Python ends a thread inside torch
