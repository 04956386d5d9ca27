"""Index and search on a cluster, on `dask.distributed`.

Of indexing a task is a region or block: workers read the slide and write chunks
themselves; only what is finished comes back, and the process that started it all
records that. Of searching it is a few places to look at: workers read the index
themselves, and what they found comes back. A task may run twice, on a worker that
was thought lost or beside one that is slow: both come to the same, and write whole
files at a time.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

from comir_search.documents import decode
from comir_search.errors import ComirSearchError
from comir_search.memory import reuse_large_blocks
from comir_search.retrieval.cluster import FAILED, Cluster
from comir_search.retrieval.index import Index
from comir_search.retrieval.indexed_slide import IndexedSlide
from comir_search.retrieval.layout import comir_array
from comir_search.retrieval.regions import derive_block, embed_pixels, read_block, read_region
from comir_search.retrieval.slide_record import SlideRecord

if TYPE_CHECKING:
    from distributed import Client, Future

    from comir_search.slides import Slide

WORKER_CACHE_BYTES = 64 * 2**20
SEARCH_CACHE_BYTES = 256 * 2**20
# Of a search, tasks for each thread, so that slow and fast workers end together, and how many places
# one looks at at most, because a worker finishes what it has begun though the search is cancelled.
TASKS_PER_THREAD, PLACES_PER_TASK = 6, 16

Cell = tuple[int, int]
Task = Callable[..., None]
Result = TypeVar("Result")


class ClusterRunner:
    """Index on a cluster; see `comir_search.retrieval.indexing.Runner`.

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
        again = "run the same command again, it goes on where it stopped"
        self._cluster = Cluster(scheduler=scheduler, workers=workers, again=again)
        self._where = str(index.path), index.model_fingerprint, device
        # While the slide is measured here, workers load what takes them as long.
        self._cluster.prepare(open_on_worker, *self._where)

    def embed(
        self, slide: Slide, target: IndexedSlide, regions: list[Cell], mark: Callable[[Cell], None]
    ) -> Generator[None, None, None]:
        """Embed regions, see `Runner`."""
        return self._run(embed_on_worker, target, regions, target.grid.region_chunks, mark)

    def derive(
        self, target: IndexedSlide, blocks: list[Cell], mark: Callable[[Cell], None]
    ) -> Generator[None, None, None]:
        """Derive blocks, see `Runner`."""
        chunks = partial(target.grid.block_chunks, comir_array(0))
        return self._run(derive_on_worker, target, blocks, chunks, mark)

    def close(self) -> None:
        """Leave the cluster; end it if it was started here."""
        self._cluster.close()

    def _run(
        self,
        task: Task,
        target: IndexedSlide,
        cells: list[Cell],
        chunks_of: Callable[[Cell], list[Cell]],
        mark: Callable[[Cell], None],
    ) -> Generator[None, None, None]:
        """Run one task a cell; mark what is finished."""
        record = _pack_record(target)
        # Those that hold most go first: else the last worker may be left with a large one, all others waiting.
        cells = sorted(cells, key=lambda cell: len(chunks_of(cell)), reverse=True)

        def submit(client: Client, cell: Cell) -> Future[Any]:
            return client.submit(task, *self._where, record, cell, pure=False)

        with closing(self._cluster.run(submit, cells)) as running:
            for finished in running:
                for cell, _ in finished:
                    mark(cell)
                yield


class ClusterSearchRunner:
    """Search on a cluster; see `comir_search.retrieval.runner.SearchRunner`.

    Parameters
    ----------
    index : Index
        In a folder that all workers see under the same name, or behind a URL.
    scheduler, workers
        As of `ClusterRunner`.

    Raises
    ------
    ComirSearchError
        If `distributed` is not installed, or the scheduler does not answer.
    """

    def __init__(self, index: Index, *, scheduler: str | None = None, workers: int | None = None) -> None:
        self._cluster = Cluster(scheduler=scheduler, workers=workers)
        self._where = str(index.path), index.model_fingerprint, "cpu"  # no network runs there

    def run(
        self, tool: Callable[..., Result], jobs: Sequence[tuple[Any, ...]], bytes_each: int = 0
    ) -> Generator[tuple[int, list[Result | None]], None, None]:
        """Share jobs out, see `SearchRunner`; a worker's threads are its owner's choice."""
        packed = pickle.dumps(tool)
        size = -(-len(jobs) // (TASKS_PER_THREAD * self._cluster.n_threads))
        size = max(1, min(size, PLACES_PER_TASK))
        shared: dict[Client, Future[bytes]] = {}

        def submit(client: Client, first: int) -> Future[Any]:
            # The tool is a task of its own: it travels once to every worker, and is made again if lost.
            if client not in shared or shared[client].status in FAILED:
                shared[client] = client.submit(bytes, packed, pure=False)
            own = [(_pack_record(slide), rest) for slide, *rest in jobs[first : first + size]]
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
        """Leave the cluster; end it if it was started here."""
        self._cluster.close()


def open_on_worker(location: str, model: str, device: str) -> None:
    """Load what indexing needs, on a worker."""
    _open_index(location, model, device, WORKER_CACHE_BYTES)


def embed_on_worker(location: str, model: str, device: str, record: str, region: Cell) -> None:
    """Embed one region, on a worker."""
    index, target, slide = _open(location, model, device, record)
    pixels = read_region(slide, target, index.model, region)
    target.write_chunks(comir_array(0), embed_pixels(pixels, target, index.model, index.modality, region))


def derive_on_worker(location: str, model: str, device: str, record: str, block: Cell) -> None:
    """Derive one block, on a worker."""
    index, target, _ = _open(location, model, device, record)
    made = derive_block(read_block(target, block), target, index.model, block, target.layout.derived_arrays)
    for array, chunks in made.items():
        target.write_chunks(array, chunks)


def search_on_worker(
    location: str, model: str, device: str, tool: bytes, jobs: list[tuple[str, list[Any]]]
) -> list[Any]:
    """Do some of a search's jobs, on a worker."""
    use = _unpack(tool)
    return [use(_indexed_slide(location, model, device, record), *rest) for record, rest in jobs]


def _pack_record(slide: IndexedSlide) -> str:
    return json.dumps(slide.record.to_dict())


def _unpack_record(record: str) -> SlideRecord:
    unpacked: SlideRecord = decode(
        record, SlideRecord, name="a task", advice="use the same version everywhere"
    )
    return unpacked


@lru_cache(maxsize=2)
def _unpack(tool: bytes) -> Callable[..., Any]:
    """Make a tool, once per worker."""
    made: Callable[..., Any] = pickle.loads(tool)
    return made


@lru_cache(maxsize=4)
def _open_index(location: str, model: str, device: str, cache_bytes: int) -> Index:
    # A nanny makes its workers give each freed block back, and getting it anew can take them as long as the
    # work itself. Here rather than where workers start, since a user's own scheduler starts its own.
    reuse_large_blocks()
    index = Index.open(location, device, cache_bytes=cache_bytes)
    if index.model_fingerprint != model:
        raise ComirSearchError(
            f"A worker sees another index at {location}; give a folder or URL that all share."
        )
    return index


@lru_cache(maxsize=1024)
def _indexed_slide(location: str, model: str, device: str, record: str) -> IndexedSlide:
    """Open a slide of the index to search it, once per worker."""
    index = _open_index(location, model, device, SEARCH_CACHE_BYTES)
    return index.slide_of(_unpack_record(record))


@lru_cache(maxsize=4)
def _open(location: str, model: str, device: str, record: str) -> tuple[Index, IndexedSlide, Slide]:
    """Open a slide and its place in the index, once per worker."""
    from comir_search.slides import open_slide

    index = _open_index(location, model, device, WORKER_CACHE_BYTES)
    target = index.slide_of(_unpack_record(record))
    slide = open_slide(target.path, pixel_size_um=target.pixel_size_um)
    if not target.record.is_of(slide):
        raise ComirSearchError(
            f"A worker sees another file at {target.path}; share the slides' folder with it."
        )
    return index, target, slide
