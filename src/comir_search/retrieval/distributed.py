"""Index on a cluster: one task a region or block, on `dask.distributed`.

Workers read the slide and write chunks themselves; only what is finished comes
back, and the process that started it all records that. A task may run twice,
on a worker that was thought lost or beside one that is slow: both write the
same bytes, whole files at a time.
"""

from __future__ import annotations

import json
import logging
import statistics
import time
from collections import deque
from collections.abc import Callable, Generator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from comir_search.errors import ComirSearchError
from comir_search.retrieval.index import Index
from comir_search.retrieval.indexed_slide import IndexedSlide
from comir_search.retrieval.layout import comir_array
from comir_search.retrieval.regions import derive_block, embed_pixels, read_block, read_region
from comir_search.retrieval.slide_record import SlideRecord

if TYPE_CHECKING:
    from distributed import Client, Future, LocalCluster

    from comir_search.slides import Slide

POLL_S = 0.2
CONNECT_S, RETRY_S = 10.0, 1.0
RECONNECT_S = 120.0
TASKS_PER_THREAD = 3
ATTEMPTS = 4
# A task is started a second time when nothing else is left to start and it has
# taken this many times the median, but no less than these seconds.
SLOW_TIMES, SLOW_S = 4.0, 10.0
WORKER_CACHE_BYTES = 64 * 2**20

Cell = tuple[int, int]
Task = Callable[..., None]


class ClusterRunner:
    """Work on a cluster; see `comir_search.retrieval.indexing.Runner`.

    Parameters
    ----------
    index : Index
        In a folder that all workers see under the same name, or behind a URL.
    device : str
        Where the workers' networks run.
    scheduler : str, optional
        Address of a running scheduler.
    workers : int, optional
        Otherwise, how many worker processes to start on this machine.

    Raises
    ------
    ComirSearchError
        If `distributed` is not installed, or the scheduler does not answer.
    """

    def __init__(
        self, index: Index, device: str, *, scheduler: str | None = None, workers: int | None = None
    ) -> None:
        try:
            import distributed
        except ImportError as error:
            raise ComirSearchError(
                "Indexing on several workers needs the package distributed; install it with "
                "`pip install napari-comir-search[distributed]`."
            ) from error
        self._index = index
        self._where = str(index.path), index.model_fingerprint, device
        self._cluster: LocalCluster | None = None
        if scheduler is None:
            self._cluster = distributed.LocalCluster(
                n_workers=workers, threads_per_worker=1, dashboard_address=None
            )
            scheduler = self._cluster.scheduler_address
        self._scheduler = scheduler
        try:
            self._client = self._connect(CONNECT_S)
        except ComirSearchError:
            self.close()
            raise

    def embed(
        self, slide: Slide, target: IndexedSlide, regions: list[Cell], mark: Callable[[Cell], None]
    ) -> Generator[None, None, None]:
        """Embed regions, see `Runner`."""
        return self._run(embed_on_worker, target, regions, mark)

    def derive(
        self, target: IndexedSlide, blocks: list[Cell], mark: Callable[[Cell], None]
    ) -> Generator[None, None, None]:
        """Derive blocks, see `Runner`."""
        return self._run(derive_on_worker, target, blocks, mark)

    def close(self) -> None:
        """Leave the cluster; end it if it was started here."""
        client = getattr(self, "_client", None)
        if client is not None:
            client.close()
        if self._cluster is not None:
            self._cluster.close()

    def _connect(self, timeout_s: float) -> Client:
        from distributed import Client

        try:
            return Client(self._scheduler, timeout=timeout_s, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ComirSearchError(
                f"No scheduler answers at {self._scheduler}; start one with `dask scheduler`, or check the "
                "address."
            ) from error

    def _reconnect(self) -> Generator[None, None, None]:
        """Wait for the scheduler to come back; what is finished stays finished."""
        give_up_s = time.monotonic() + RECONNECT_S
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what it would tell is expected here
        self._client.close(timeout=1)
        while True:
            try:
                self._client = self._connect(RETRY_S)
                return
            except ComirSearchError:
                if time.monotonic() > give_up_s:
                    raise ComirSearchError(
                        f"The scheduler at {self._scheduler} was lost; start it and run the same command "
                        "again, it goes on where it stopped."
                    ) from None
            yield

    def _run(
        self, task: Task, target: IndexedSlide, cells: list[Cell], mark: Callable[[Cell], None]
    ) -> Generator[None, None, None]:
        """Run one task a cell; mark what is finished."""
        waiting = deque(cells)
        running: dict[Cell, list[Future[Any]]] = {}
        started_s: dict[Cell, float] = {}
        attempts = dict.fromkeys(cells, 0)
        taken_s: list[float] = []
        record = target.record.to_dict()

        def start(cell: Cell) -> None:
            future = self._client.submit(task, *self._where, record, cell, pure=False)
            running.setdefault(cell, []).append(future)
            started_s[cell] = time.monotonic()

        try:
            while waiting or running:
                if self._client.status != "running":
                    waiting.extendleft(reversed(running))
                    running.clear()
                    yield from self._reconnect()
                room = TASKS_PER_THREAD * max(1, sum(self._client.nthreads().values())) - len(running)
                for _ in range(min(room, len(waiting))):
                    start(waiting.popleft())
                if not waiting and taken_s:
                    slow_s = max(SLOW_S, SLOW_TIMES * statistics.median(taken_s))
                    for cell, futures in running.items():
                        if len(futures) == 1 and time.monotonic() - started_s[cell] > slow_s:
                            start(cell)
                            break
                time.sleep(POLL_S)
                for cell, futures in list(running.items()):
                    states = [future.status for future in futures]
                    if "finished" in states:
                        taken_s.append(time.monotonic() - started_s[cell])
                        mark(cell)
                    elif all(state in ("error", "cancelled", "lost") for state in states):
                        attempts[cell] += 1
                        self._check_failure(futures[-1], attempts[cell])
                        waiting.append(cell)
                    else:
                        continue
                    del running[cell]
                    for future in futures:
                        future.cancel() if not future.done() else future.release()
                yield
        finally:
            for futures in running.values():
                self._client.cancel(futures)

    @staticmethod
    def _check_failure(future: Future[Any], attempts: int) -> None:
        """Raise what a task raised, unless trying again may help."""
        from distributed import KilledWorker

        failure = future.exception(timeout=CONNECT_S) if future.status == "error" else None
        if failure is not None and not isinstance(failure, KilledWorker | OSError):
            raise failure
        if attempts >= ATTEMPTS:
            raise ComirSearchError(
                f"A part of the slide was lost with its worker {attempts} times "
                f"({failure or future.status}); see the workers' logs, mend them, and run the same command "
                "again, it goes on where it stopped."
            ) from failure


def embed_on_worker(location: str, model: str, device: str, record: dict[str, Any], region: Cell) -> None:
    """Embed one region, on a worker."""
    index, target, slide = _open(location, model, device, json.dumps(record))
    pixels = read_region(slide, target, index.model, region)
    target.write_chunks(comir_array(0), embed_pixels(pixels, target, index.model, index.modality, region))


def derive_on_worker(location: str, model: str, device: str, record: dict[str, Any], block: Cell) -> None:
    """Derive one block, on a worker."""
    index, target, _ = _open(location, model, device, json.dumps(record))
    made = derive_block(read_block(target, block), target, index.model, block, target.layout.derived_arrays)
    for array, chunks in made.items():
        target.write_chunks(array, chunks)


@lru_cache(maxsize=4)
def _open_index(location: str, model: str, device: str) -> Index:
    index = Index.open(location, device, cache_bytes=WORKER_CACHE_BYTES, leave_out_damaged=True)
    if index.model_fingerprint != model:
        raise ComirSearchError(
            f"A worker sees another index at {location}; give a folder or URL that all share."
        )
    return index


@lru_cache(maxsize=4)
def _open(location: str, model: str, device: str, record: str) -> tuple[Index, IndexedSlide, Slide]:
    """Open a slide and its place in the index, once per worker."""
    from comir_search.slides import open_slide

    index = _open_index(location, model, device)
    target = index.slide_of(SlideRecord.from_dict(json.loads(record)))
    slide = open_slide(target.path, pixel_size_um=target.pixel_size_um)
    if slide.fingerprint != target.fingerprint:
        raise ComirSearchError(
            f"A worker sees another file at {target.path}; share the slides' folder with it."
        )
    return index, target, slide
