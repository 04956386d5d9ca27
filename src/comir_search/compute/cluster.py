"""Tasks on a `dask.distributed` cluster whose workers may start, stop and be killed at any time.

distributed's own retries do not replace the ones here. `submit(retries=...)` repeats
every error, also those that a second try cannot fix, such as a damaged file. It does
not start a second copy of a slow task, and does not survive the loss of the scheduler.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from comir_search.compute.memory import REUSE_ENVIRON
from comir_search.errors import ComirSearchError

if TYPE_CHECKING:
    from distributed import Client, Future, LocalCluster

CONNECT_S, RETRY_S = 10.0, 1.0
RECONNECT_S = 120.0
WORKERLESS_S = 180.0  # how long a cluster may have no worker, since killed ones need time to start again
# How long to wait between two checks: at first short, then longer and longer while no task finishes.
POLL_S, LONGEST_POLL_S = 0.01, 0.2
FETCH_S = 1.0
TASKS_PER_THREAD = 3
ATTEMPTS = 4
# Once all tasks are started, a copy of a slow task is started: one that has taken this many times the
# median time, and at least these seconds.
SLOW_TIMES, SLOW_S = 4.0, 10.0
FAILED = ("error", "cancelled", "lost")
_ENVIRON_KEY = "distributed.nanny.pre-spawn-environ"
# By default each process of a cluster samples its stack, event loop and memory 10 to 100 times a second. Nobody
# sees these statistics here, and once a second is enough to stop a worker that uses too much memory. The samples
# take a fifteenth of the processor time and interrupt the task each time.
_SELDOM = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.worker.memory.monitor-interval": "1s",
}

Item = TypeVar("Item")
Submit = Callable[["Client", Item], "Future[Any]"]


class ClusterLost(ComirSearchError):
    """The scheduler or the workers cannot be reached, or tasks fail again and again."""


def check_choice(scheduler: str | None, workers: int | None) -> None:
    """Raise an error unless exactly one of `scheduler` and `workers` is given; see `Cluster`.

    Parameters
    ----------
    scheduler : str, optional
    workers : int, optional

    Raises
    ------
    ComirSearchError
    """
    if (scheduler is None) == (workers is None):
        raise ComirSearchError(
            "Give either the number of workers to start, or the scheduler whose workers to use, not both."
        )
    if workers is not None and workers < 1:
        raise ComirSearchError(f"The number of workers to start must be at least 1, not {workers}.")


class Cluster:
    """A connection to a cluster. It is made again if it breaks.

    Parameters
    ----------
    scheduler : str, optional
        Address of a running scheduler.
    workers : int, optional
        Number of worker processes to start on this machine, without a scheduler.
    again : str
        End of each error message: how the user continues.

    Raises
    ------
    ComirSearchError
        If `distributed` is not installed, the scheduler does not answer, or not
        exactly one of `scheduler` and `workers` is given.
    """

    def __init__(
        self,
        *,
        scheduler: str | None = None,
        workers: int | None = None,
        again: str = "run the same command again",
    ) -> None:
        self._cluster: LocalCluster | None = None
        check_choice(scheduler, workers)
        try:
            import dask
            import distributed
        except ImportError as error:
            raise ComirSearchError(
                "Sharing work out to other processes needs the package distributed; install it with "
                "`pip install napari-comir-search[distributed]`."
            ) from error
        self._again = again
        if scheduler is None:
            # By default dask's nanny makes workers return freed memory at once, and allocating it again can take
            # as long as the work itself. The settings are environment variables, because they must hold before a
            # worker starts its first thread.
            environ = {**dask.config.get(_ENVIRON_KEY), **REUSE_ENVIRON}
            with dask.config.set({_ENVIRON_KEY: environ, **_SELDOM}):
                self._cluster = _finish_starting(
                    partial(
                        distributed.LocalCluster,
                        n_workers=workers,
                        threads_per_worker=1,
                        dashboard_address=None,
                    )
                )
            scheduler = self._cluster.scheduler_address
        self._scheduler = scheduler
        self._preparing: list[Future[Any]] = []
        self._is_cut_short = False
        self._workerless_since_s: float | None = None
        try:
            self._client = self._connect(CONNECT_S)
        except ClusterLost:
            self.close()
            raise

    @property
    def n_threads(self) -> int:
        """Number of tasks that the present workers run at the same time; 1 if there are none."""
        return max(1, self._count_threads() or 0)

    def _count_threads(self) -> int | None:
        """Return how many tasks the workers run at the same time; None if the scheduler does not answer."""
        if self._client.status == "running":
            with suppress(OSError):
                return sum(self._client.nthreads().values())
        return None

    def _require_threads(self) -> int:
        """Return `n_threads`, or raise an error if there has been no worker for `WORKERLESS_S`."""
        n_threads = self._count_threads()
        if n_threads != 0:
            self._workerless_since_s = None
            return n_threads or 1
        now_s = time.monotonic()
        self._workerless_since_s = self._workerless_since_s or now_s
        if now_s - self._workerless_since_s > WORKERLESS_S:
            raise ClusterLost(
                f"The cluster has had no worker for {WORKERLESS_S:.0f} seconds; start workers, or use fewer if the "
                f"machine is too busy or short of memory, and {self._again}."
            )
        return 1

    def prepare(self, task: Callable[..., Any], *arguments: Any) -> None:
        """Start a task on every worker that prepares it for the work, such as loading the model.

        Its end is not waited for, and its errors are ignored.

        Parameters
        ----------
        task : callable
        *arguments : object
        """
        for _ in range(self.n_threads):
            self._preparing.append(self._client.submit(task, *arguments, pure=False))

    def close(self) -> None:
        """Disconnect from the cluster; shut it down if it was started here."""
        is_at_work = self._is_cut_short or not all(future.done() for future in self._preparing)
        client = getattr(self, "_client", None)
        if client is not None:
            client.close()
        if self._cluster is not None:
            if is_at_work:
                _kill_workers(self._cluster)
            self._cluster.close()

    def run(
        self, submit: Submit[Item], items: Sequence[Item]
    ) -> Generator[list[tuple[Item, Any]], None, None]:
        """Run one task for each item. A task that is lost with its worker, or is slow, is started again.

        Parameters
        ----------
        submit : callable
            Called with the client and an item; starts the item's task and returns its
            future. A task may run twice, even at the same time.
        items : sequence of hashable

        Yields
        ------
        list of (item, object)
            The items that have finished since the last list, with the returned values,
            in any order; empty while none has finished. Closing the generator cancels
            all tasks.

        Raises
        ------
        ComirSearchError
            If a task was lost too often, there are no workers, or the scheduler
            does not come back.
        Exception
            The error of a task.
        """
        waiting = deque(items)
        running: dict[Item, list[Future[Any]]] = {}
        started_s: dict[Item, float] = {}
        attempts = dict.fromkeys(items, 0)
        taken_s: list[float] = []
        pause_s = POLL_S

        def start(item: Item) -> None:
            running.setdefault(item, []).append(submit(self._client, item))
            started_s[item] = time.monotonic()

        try:
            while waiting or running:
                if self._client.status != "running":
                    waiting.extendleft(reversed(running))
                    running.clear()
                    for _ in self._reconnect():
                        yield []
                # The scheduler is asked once in a round, and only where the answer is used.
                n_threads = self._require_threads() if waiting or pause_s >= LONGEST_POLL_S else 0
                if waiting:
                    room = TASKS_PER_THREAD * n_threads - len(running)
                    for _ in range(min(room, len(waiting))):
                        start(waiting.popleft())
                elif taken_s:
                    slow_s = max(SLOW_S, SLOW_TIMES * statistics.median(taken_s))
                    for item, futures in running.items():
                        if len(futures) == 1 and time.monotonic() - started_s[item] > slow_s:
                            start(item)
                            break
                time.sleep(pause_s)
                finished = []
                for item, futures in list(running.items()):
                    states = [future.status for future in futures]
                    failure: BaseException | str | None = None
                    if "finished" in states:
                        try:
                            patience_s = FETCH_S * 2 ** attempts[item]
                            result = futures[states.index("finished")].result(timeout=patience_s)
                            taken_s.append(time.monotonic() - started_s[item])
                            finished.append((item, result))
                        except (TimeoutError, CancelledError, OSError) as error:
                            if self._client.status != "running":
                                continue  # lost with the scheduler; `_reconnect` waits for it
                            failure = error  # lost with its worker, or during the transfer
                    elif all(state in FAILED for state in states):
                        failed = "error" if "error" in states else states[-1]
                        failure = self._failure_of(futures[states.index(failed)])
                    else:
                        continue
                    if failure is not None:
                        attempts[item] += 1
                        self._check_attempts(failure, attempts[item])
                        waiting.append(item)
                    del running[item]
                    for future in futures:
                        future.cancel() if not future.done() else future.release()
                pause_s = POLL_S if finished else min(2 * pause_s, LONGEST_POLL_S)
                yield finished
        finally:
            self._is_cut_short = bool(running)
            for futures in running.values():
                self._client.cancel(futures)

    def _connect(self, timeout_s: float) -> Client:
        from distributed import Client

        try:
            return Client(self._scheduler, timeout=timeout_s, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ClusterLost(
                f"No scheduler answers at {self._scheduler}; start one with `dask scheduler`, or check the "
                "address."
            ) from error

    def _reconnect(self) -> Generator[None, None, None]:
        """Wait for the scheduler to come back. Finished items stay finished."""
        give_up_s = time.monotonic() + RECONNECT_S
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # its warnings are expected here
        self._client.close(timeout=1)
        while True:
            try:
                self._client = self._connect(RETRY_S)
                return
            except ClusterLost:
                if time.monotonic() > give_up_s:
                    raise ClusterLost(
                        f"The scheduler at {self._scheduler} was lost; start it and {self._again}."
                    ) from None
            yield

    def _failure_of(self, future: Future[Any]) -> BaseException | str:
        """Return why a future failed, if a second try may help; otherwise raise the task's error."""
        from distributed import KilledWorker

        failure = future.exception(timeout=CONNECT_S) if future.status == "error" else None
        if failure is not None and not isinstance(failure, KilledWorker | OSError):
            raise failure
        return failure or str(future.status)

    def _check_attempts(self, failure: BaseException | str, attempts: int) -> None:
        """Raise an error if a task was lost too often."""
        if attempts >= ATTEMPTS:
            cause = failure if isinstance(failure, BaseException) else None
            raise ClusterLost(
                f"A part of the work was lost with its worker {attempts} times "
                f"({str(failure) or type(failure).__name__}); see the workers' logs, fix what they say, and "
                f"{self._again}."
            ) from cause


def _finish_starting(start: Callable[[], LocalCluster]) -> LocalCluster:
    """Start a cluster. On Ctrl-C wait until it has started, and close it.

    A cluster that is only partly started can be neither used nor closed.
    """
    with ThreadPoolExecutor(1) as pool:  # Ctrl-C interrupts only the main thread
        starting = pool.submit(start)
        try:
            return starting.result()
        except KeyboardInterrupt:
            starting.result().close()
            raise


def _kill_workers(cluster: LocalCluster) -> None:
    """Kill the workers at once, since they would first finish their tasks, which takes seconds."""
    import psutil

    for nanny in cluster.workers.values():
        nanny.auto_restart = False
        if nanny.pid:
            with suppress(psutil.NoSuchProcess):
                psutil.Process(nanny.pid).kill()
