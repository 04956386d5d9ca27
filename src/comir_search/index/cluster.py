"""Index on a cluster, on `dask.distributed`.

A task is a region or a block. Workers read the slide and write the chunks; they send
back only which tasks are finished, and the main process records these. A task may run
twice, if its worker is slow or seems lost. This does no harm: both runs give the same
result and write complete files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from contextlib import closing
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from comir_search.compute.cluster import Cluster
from comir_search.compute.memory import reuse_large_blocks
from comir_search.documents import decode
from comir_search.errors import ComirSearchError
from comir_search.index.index import Index
from comir_search.index.indexed_slide import IndexedSlide
from comir_search.index.layout import comir_array
from comir_search.index.slide_record import SlideRecord
from comir_search.index.steps import derive_block, embed_pixels, read_block, read_region
from comir_search.slides import Slide, open_slide

if TYPE_CHECKING:
    from distributed import Client, Future

    from comir_search.slides import Slide

WORKER_CACHE_BYTES = 64 * 2**20

Cell = tuple[int, int]
Task = Callable[..., None]


class ClusterRunner:
    """Index on a cluster; see `comir_search.index.build.Runner`.

    Parameters
    ----------
    index : Index
        In a folder that all workers see under the same path, or at a URL.
    device : str
        Device of the workers' networks.
    scheduler : str, optional
        Address of a running scheduler.
    workers : int, optional
        Number of worker processes to start on this machine, without a scheduler.

    Raises
    ------
    ComirSearchError
        If `distributed` is not installed, or the scheduler does not answer.
    """

    def __init__(
        self, index: Index, device: str, *, scheduler: str | None = None, workers: int | None = None
    ) -> None:
        again = "run the same command again, it continues where it stopped"
        self._cluster = Cluster(scheduler=scheduler, workers=workers, again=again)
        self._where = str(index.path), index.model_fingerprint, device
        # Workers load their libraries and model while the slide is measured here.
        self._cluster.prepare(open_on_worker, *self._where)

    def embed(
        self, slide: Slide, target: IndexedSlide, regions: list[Cell], mark: Callable[[Cell], None]
    ) -> Generator[None, None, None]:
        """Embed regions of a slide; see `Runner`.

        Parameters
        ----------
        slide : Slide
        target : IndexedSlide
        regions : list of (int, int)
        mark : callable
        """
        return self._run(embed_on_worker, target, regions, target.grid.region_chunks, mark)

    def derive(
        self, target: IndexedSlide, blocks: list[Cell], mark: Callable[[Cell], None]
    ) -> Generator[None, None, None]:
        """Derive blocks of a slide; see `Runner`.

        Parameters
        ----------
        target : IndexedSlide
        blocks : list of (int, int)
        mark : callable
        """
        chunks = partial(target.grid.block_chunks, comir_array(0))
        return self._run(derive_on_worker, target, blocks, chunks, mark)

    def close(self) -> None:
        """Disconnect from the cluster; shut it down if it was started here."""
        self._cluster.close()

    def _run(
        self,
        task: Task,
        target: IndexedSlide,
        cells: list[Cell],
        chunks_of: Callable[[Cell], list[Cell]],
        mark: Callable[[Cell], None],
    ) -> Generator[None, None, None]:
        """Run one task per cell; mark the finished ones."""
        record = pack_record(target)
        # Largest tasks first: otherwise all workers may wait for one large task at the end.
        cells = sorted(cells, key=lambda cell: len(chunks_of(cell)), reverse=True)

        def submit(client: Client, cell: Cell) -> Future[Any]:
            return client.submit(task, *self._where, record, cell, pure=False)

        with closing(self._cluster.run(submit, cells)) as running:
            for finished in running:
                for cell, _ in finished:
                    mark(cell)
                yield


def open_on_worker(location: str, model: str, device: str) -> None:
    """Load the index and its model on a worker.

    Parameters
    ----------
    location : str
        Folder or URL of the index.
    model : str
        Fingerprint of its model.
    device : str
        Device of the networks.
    """
    open_shared_index(location, model, device, WORKER_CACHE_BYTES)


def embed_on_worker(location: str, model: str, device: str, record: str, region: Cell) -> None:
    """Embed one region on a worker.

    Parameters
    ----------
    location, model, device : str
        See `open_on_worker`.
    record : str
        The slide, from `pack_record`.
    region : (int, int)
        Row and column.
    """
    index, target, slide = _open(location, model, device, record)
    pixels = read_region(slide, target, index.model, region)
    target.write_chunks(comir_array(0), embed_pixels(pixels, target, index.model, index.modality, region))


def derive_on_worker(location: str, model: str, device: str, record: str, block: Cell) -> None:
    """Derive one block on a worker.

    Parameters
    ----------
    location, model, device : str
        See `open_on_worker`.
    record : str
        The slide, from `pack_record`.
    block : (int, int)
        Row and column.
    """
    index, target, _ = _open(location, model, device, record)
    made = derive_block(read_block(target, block), target, index.model, block, target.layout.derived_arrays)
    for array, chunks in made.items():
        target.write_chunks(array, chunks)


def pack_record(slide: IndexedSlide) -> str:
    """Return a slide's record as text, for a worker."""
    return json.dumps(slide.record.to_dict())


def unpack_record(record: str) -> SlideRecord:
    """Return the record from `pack_record`'s text."""
    unpacked: SlideRecord = decode(
        record, SlideRecord, name="a task", advice="use the same version everywhere"
    )
    return unpacked


@lru_cache(maxsize=4)
def open_shared_index(location: str, model: str, device: str, cache_bytes: int) -> Index:
    """Open an index on a worker, once, and check that it is the right one.

    Parameters
    ----------
    location : str
        Folder or URL of the index.
    model : str
        Fingerprint of the model that it must have.
    device : str
        Device of the networks.
    cache_bytes : int
        Limit of the cache of decoded chunks.

    Raises
    ------
    ComirSearchError
        If the worker sees another index at this location.
    """
    # dask's nanny makes workers return freed memory at once, and allocating it again can take as long as the
    # work itself. This is undone here, since a user's own scheduler starts its own workers.
    reuse_large_blocks()
    index = Index.open(location, device, cache_bytes=cache_bytes)
    if index.model_fingerprint != model:
        raise ComirSearchError(
            f"A worker sees another index at {location}; use a folder or URL that all workers share."
        )
    return index


@lru_cache(maxsize=4)
def _open(location: str, model: str, device: str, record: str) -> tuple[Index, IndexedSlide, Slide]:
    """Open a slide and its arrays in the index, once per worker."""
    index = open_shared_index(location, model, device, WORKER_CACHE_BYTES)
    target = index.slide_of(unpack_record(record))
    slide = open_slide(target.path, pixel_size_um=target.pixel_size_um)
    if not target.record.is_of(slide):
        raise ComirSearchError(
            f"A worker sees another file at {target.path}; give it access to the folder with the slides."
        )
    return index, target, slide
