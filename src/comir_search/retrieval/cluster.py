"""Search on a cluster of `dask.distributed`.

Each task searches a few tiles or places. The workers read the index themselves and send
back the places that they find.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from comir_search.compute.cluster import FAILED, Cluster
from comir_search.index.cluster import open_shared_index, pack_record, unpack_record
from comir_search.index.index import Index, IndexedSlide

if TYPE_CHECKING:
    from distributed import Client, Future

CACHE_BYTES = 256 * 2**20
# Several tasks for each thread let slow and fast workers end together. The number of jobs in a task is limited,
# because a worker always finishes the task that it has begun, even if the search is cancelled.
TASKS_PER_THREAD, PLACES_PER_TASK = 6, 16

Result = TypeVar("Result")


class ClusterSearchRunner:
    """Search on a cluster; see `comir_search.retrieval.workers.SearchRunner`.

    Parameters
    ----------
    index : Index
        In a folder that all workers see under the same path, or at a URL.
    scheduler, workers
        See `comir_search.index.cluster.ClusterRunner`.

    Raises
    ------
    ComirSearchError
        If `distributed` is not installed, or the scheduler does not answer.
    """

    def __init__(self, index: Index, *, scheduler: str | None = None, workers: int | None = None) -> None:
        self._cluster = Cluster(scheduler=scheduler, workers=workers)
        self._where = str(index.path), index.model_fingerprint, "cpu"  # no network runs on the workers

    def run(
        self, tool: Callable[..., Result], jobs: Sequence[tuple[Any, ...]], bytes_each: int = 0
    ) -> Generator[tuple[int, list[Result | None]], None, None]:
        """Run jobs on the cluster. The number of threads of a worker is set where it is started.

        Parameters
        ----------
        tool, jobs, bytes_each
            See `SearchRunner.run`; `bytes_each` is not used.
        """
        packed = pickle.dumps(tool)
        size = -(-len(jobs) // (TASKS_PER_THREAD * self._cluster.n_threads))
        size = max(1, min(size, PLACES_PER_TASK))
        shared: dict[Client, Future[bytes]] = {}

        def submit(client: Client, first: int) -> Future[Any]:
            # The tool is a task of its own: it is sent to each worker once, and again if it is lost.
            if client not in shared or shared[client].status in FAILED:
                shared[client] = client.submit(bytes, packed, pure=False)
            own = [(pack_record(slide), rest) for slide, *rest in jobs[first : first + size]]
            return client.submit(search_on_worker, *self._where, shared[client], own, pure=False)

        results: list[Result | None] = [None] * len(jobs)
        done = 0
        yield done, results
        with closing(self._cluster.run(submit, range(0, len(jobs), size))) as running:
            for finished in running:
                for first, found in finished:
                    results[first : first + len(found)] = found
                    done += len(found)
                yield done, results

    def close(self) -> None:
        """Disconnect from the cluster; shut it down if it was started here."""
        self._cluster.close()


def search_on_worker(
    location: str, model: str, device: str, tool: bytes, jobs: list[tuple[str, list[Any]]]
) -> list[Any]:
    """Run some jobs of a search, on a worker.

    Parameters
    ----------
    location, model, device
        See `open_shared_index`.
    tool : bytes
        The pickled function.
    jobs : list of (str, list)
        Packed slide and further arguments of each call.
    """
    use = _unpack(tool)
    return [use(_indexed_slide(location, model, device, record), *rest) for record, rest in jobs]


@lru_cache(maxsize=2)
def _unpack(tool: bytes) -> Callable[..., Any]:
    """Unpickle the function, once per worker."""
    made: Callable[..., Any] = pickle.loads(tool)
    return made


@lru_cache(maxsize=1024)
def _indexed_slide(location: str, model: str, device: str, record: str) -> IndexedSlide:
    """Open a slide of the index to search it, once per worker."""
    index = open_shared_index(location, model, device, CACHE_BYTES)
    return index.slide_of(unpack_record(record))
