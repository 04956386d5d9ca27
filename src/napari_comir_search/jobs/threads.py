"""How jobs share the processor with the window, and wait for what cannot be stopped."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Thread
from typing import TypeVar

from comir_search.progress import Job, Tick

Result = TypeVar("Result")

POLL_S = 0.1
MOST_CORES = 4  # threads of more would hold the window up, which needs Python's lock as well


def leave_a_core() -> None:
    """Keep torch, in the calling thread, from taking what the window needs."""
    import torch

    torch.set_num_threads(max(1, min((os.cpu_count() or 2) - 1, MOST_CORES)))


def wait_steps(stage: str, work: Callable[[], Result]) -> Job[Result]:
    """Do in a thread what takes long and only reads: who stops does not wait for its end."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001  (raised by who waits)
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    while not wait([future], POLL_S).done:
        yield Tick(stage, 0, 0)
    return future.result()
