"""Index slides: embed their tissue region by region, then derive what searching needs.

A slide is written in two passes. The first embeds its regions; the second,
block by block with a halo from the neighbours, makes the area means and the
word map from what the first wrote. Each finished region and block is recorded
once the disk holds it, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from comir_search.errors import ComirSearchError
from comir_search.progress import Job, Tick, finish
from comir_search.retrieval.chunk_cache import DEFAULT_CACHE_BYTES
from comir_search.retrieval.index import INDEX_FILE, Index, layout_for
from comir_search.retrieval.indexed_slide import DamagedChunk, IndexedSlide
from comir_search.retrieval.layout import BoolGrid, comir_array
from comir_search.retrieval.pipeline import run_stages
from comir_search.retrieval.regions import (
    derive_block,
    embed_pixels,
    plan_slide,
    read_block,
    read_region,
    tissue_to_chunks,
)
from comir_search.retrieval.slide_progress import Cell, Kind, SlideProgress
from comir_search.retrieval.slide_record import REMOVED_FILE, SLIDE_FILE, SLIDES, SlideRecord
from comir_search.retrieval.storage import Storage
from comir_search.retrieval.threads import beginning, share_cores
from comir_search.retrieval.writer_lock import writer_lock

if TYPE_CHECKING:
    from comir_search.comir.model import Model
    from comir_search.slides import Slide

# Blocks overlap by a halo, so little is read twice and less need be kept than for searching.
CACHE_BYTES = 64 * 2**20
DERIVE_BYTES_PER_VALUE = 20  # memory that the words of a block take for each value of its CoMIR

Mark = Callable[[Cell], None]
Waiting = Generator[None, None, None]


class Runner(Protocol):
    """Who does the work: this process, or a cluster."""

    def embed(self, slide: Slide, target: IndexedSlide, regions: list[Cell], mark: Mark) -> Waiting:
        """Embed regions; `mark` each as soon as the disk holds it, and yield now and then."""

    def derive(self, target: IndexedSlide, blocks: list[Cell], mark: Mark) -> Waiting:
        """Derive blocks, as `embed` does regions."""

    def close(self) -> None:
        """Release what doing the work needed."""


class LocalRunner:
    """Work in this process: reading and writing overlap with networks and words, of which each core does some.

    Parameters
    ----------
    index : Index
    """

    def __init__(self, index: Index) -> None:
        self._index = index

    def embed(self, slide: Slide, target: IndexedSlide, regions: list[Cell], mark: Mark) -> Waiting:
        """Embed regions, see `Runner`."""
        model, modality = self._index.model, self._index.modality

        def read(region: Cell) -> tuple[Cell, Any]:
            return region, read_region(slide, target, model, region)

        def embed(work: tuple[Cell, Any]) -> tuple[Cell, Any]:
            return work[0], embed_pixels(work[1], target, model, modality, work[0])

        def write(work: tuple[Cell, Any]) -> None:
            target.write_chunks(comir_array(0), work[1])
            mark(work[0])

        bytes_each = model.bytes_per_px * (target.layout.region_px + 2 * model.halo_px) ** 2
        with share_cores(bytes_each) as threads:
            threads = threads if model.device.type == "cpu" else 1  # a GPU does one region as fast as several
            yield from run_stages(
                regions,
                [read, embed, write],
                threads=threads,
                begin=beginning(threads),
                interrupt=slide.interrupt,
            )

    def derive(self, target: IndexedSlide, blocks: list[Cell], mark: Mark) -> Waiting:
        """Derive blocks, see `Runner`."""
        model = self._index.model

        def read(block: Cell) -> tuple[Cell, Any]:
            return block, read_block(target, block)

        def derive(work: tuple[Cell, Any]) -> tuple[Cell, Any]:
            return work[0], derive_block(work[1], target, model, work[0], target.layout.derived_arrays)

        def write(work: tuple[Cell, Any]) -> None:
            for array, chunks in work[1].items():
                target.write_chunks(array, chunks)
            mark(work[0])

        side = target.layout.block_px + 2 * target.layout.word_halo_px
        with share_cores(DERIVE_BYTES_PER_VALUE * model.comir_channels * side**2) as threads:
            yield from run_stages(blocks, [read, derive, write], threads=threads, begin=beginning(threads))

    def close(self) -> None:
        """Do nothing: all threads have ended."""


def index_slides(
    paths: Sequence[str | Path],
    index_path: str | Path,
    *,
    model: Model | str | Path | None = None,
    modality: str | None = None,
    pixel_size_um: float | None = None,
    device: str = "auto",
    workers: int | None = None,
    scheduler: str | None = None,
) -> Index:
    """Index slides; see `index_slides_steps`."""
    return finish(
        index_slides_steps(
            paths,
            index_path,
            model=model,
            modality=modality,
            pixel_size_um=pixel_size_um,
            device=device,
            workers=workers,
            scheduler=scheduler,
        )
    )


def index_slides_steps(
    paths: Sequence[str | Path],
    index_path: str | Path,
    *,
    model: Model | str | Path | None = None,
    modality: str | None = None,
    pixel_size_um: float | None = None,
    device: str = "auto",
    workers: int | None = None,
    scheduler: str | None = None,
) -> Job[Index]:
    """Add slides to an index, which is made if there is none.

    Slides that the index holds are skipped, and one that moved is known again.
    A run that was interrupted in whatever way goes on where it stopped, with
    the same result.

    Parameters
    ----------
    paths : sequence of path
        Slides, and folders of slides.
    index_path : path or str
        The index: a folder, or an fsspec URL.
    model : Model or path, optional
        By default that of the index, or the shipped one for a new index.
    modality : str, optional
        The slides' side of the model; by default that of the index, or the
        model's first.
    pixel_size_um : float, optional
        Level-0 pixel size, instead of what the files state.
    device : {"auto", "cpu", "cuda"}
    workers : int, optional
        Work in so many processes on this machine, instead of in this one.
    scheduler : str, optional
        Work on the cluster of the `dask.distributed` scheduler at this address,
        whose workers see the slides and the index under the same names.

    Returns
    -------
    Index
        With all its slides.

    Raises
    ------
    ComirSearchError
        If there is no slide, one cannot be read or has no pixel size, the index
        was made otherwise, another process writes to it, or the disk is full.
    """
    from comir_search.slides import find_slides, open_slide

    if workers is not None or scheduler is not None:
        from comir_search.retrieval.cluster import check_choice

        check_choice(scheduler, workers)  # refuses before anything is read
    files = find_slides([Path(path) for path in paths])
    fingerprints: dict[str, Path] = {}
    for number, file in enumerate(files):
        yield Tick("opening slides", number, len(files))
        with open_slide(file, pixel_size_um=pixel_size_um) as slide:
            slide.require_pixel_size()
            fingerprints.setdefault(slide.fingerprint, file)
    storage = Storage(index_path)
    if not storage.exists(INDEX_FILE):
        model = _choose_model(model, device)
        modality = modality or model.modalities[0]
        layout_for(model, modality)  # refuses before anything is written
    with writer_lock(storage):
        if storage.exists(INDEX_FILE):
            index = Index.open(index_path, device, cache_bytes=CACHE_BYTES)
            _check_index(index, model, modality, device)
        else:
            index = Index.create(
                index_path, _choose_model(model, device), str(modality), cache_bytes=CACHE_BYTES
            )
        wanted = []
        for file in fingerprints.values():
            yield Tick("opening slides", len(files), len(files))
            with open_slide(file, pixel_size_um=pixel_size_um) as slide:
                if not _is_indexed(index, slide, file):
                    wanted.append(file)
        index.refresh()
        try:
            if wanted:
                yield from _index_files_steps(index, wanted, pixel_size_um, device, workers, scheduler)
        except ComirSearchError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENOSPC, errno.EDQUOT):
                raise ComirSearchError(
                    f"The disk that holds {index.path} is full; free some space and run the same command "
                    "again, it goes on where it stopped."
                ) from error
            raise
    index.cache.max_bytes = DEFAULT_CACHE_BYTES
    return index


def _index_files_steps(
    index: Index,
    files: list[Path],
    pixel_size_um: float | None,
    device: str,
    workers: int | None,
    scheduler: str | None,
) -> Job[None]:
    from comir_search.slides import open_slide

    runner: Runner
    if workers is None and scheduler is None:
        runner = LocalRunner(index)
    else:
        from comir_search.retrieval.distributed import ClusterRunner

        yield Tick("starting workers", 0, 0)
        runner = ClusterRunner(index, device, scheduler=scheduler, workers=workers)
    with closing(runner):
        for file in files:
            with open_slide(file, pixel_size_um=pixel_size_um) as slide:
                yield from _index_slide_steps(index, slide, file, runner)
            index.refresh()


def _choose_model(model: Model | str | Path | None, device: str) -> Model:
    from comir_search.comir.model import load_model

    return load_model(model, device) if model is None or isinstance(model, str | Path) else model


def _check_index(index: Index, model: Model | str | Path | None, modality: str | None, device: str) -> None:
    """Refuse to add to an index that was made otherwise than it is asked for now."""
    if modality is not None and modality != index.modality:
        raise ComirSearchError(
            f"The index {index.path} holds slides of the modality {index.modality}, not {modality}; choose "
            "another folder with --index."
        )
    if model is not None and _choose_model(model, device).words_fingerprint != index.model_fingerprint:
        raise ComirSearchError(
            f"The index {index.path} was made with another model; leave --model out to use that one, or "
            "choose another folder with --index."
        )


def _is_indexed(index: Index, slide: Slide, file: Path) -> bool:
    """Return whether the index holds a slide; if so, note where the slide lies now."""
    record = index.read_record(slide.fingerprint)
    if record is None:
        return False
    pixel_size_um = slide.require_pixel_size()
    if abs(record.pixel_size_um / pixel_size_um - 1) > 1e-6:
        raise ComirSearchError(
            f"{slide.name} is in the index {index.path} with {record.pixel_size_um:g} um per pixel, not "
            f"{pixel_size_um:g}; take it out first, with `comir-search compact --index {index.path} --remove "
            f'"{record.name}"`.'
        )
    path = file.absolute()
    moved = replace(
        record, name=slide.name, absolute_path=str(path), relative_path=index.storage.relative(path)
    )
    if moved != record:
        index.storage.write_json(f"{SLIDES}/{slide.fingerprint}/{SLIDE_FILE}", moved.to_dict())
    return True


def _index_slide_steps(index: Index, slide: Slide, file: Path, runner: Runner) -> Job[None]:
    """Write one slide, or what an earlier run left of it to be written."""
    progress = yield from _resume_steps(index, slide, file)
    if progress is None:
        progress = yield from _begin_steps(index, slide, file)
    target = progress.target

    def watch_steps(kind: Kind, stage: str, waiting: Waiting) -> Job[None]:
        total = len(progress.cells[kind])
        with closing(waiting):
            yield Tick(stage, len(progress.done[kind]), total)
            for _ in waiting:
                yield Tick(stage, len(progress.done[kind]), total)

    regions, blocks = progress.left("regions"), progress.left("blocks")
    embedding = runner.embed(slide, target, regions, partial(progress.mark, "regions"))
    yield from watch_steps("regions", f"embedding {slide.name}", embedding)
    deriving = runner.derive(target, blocks, partial(progress.mark, "blocks"))
    yield from watch_steps("blocks", f"words {slide.name}", deriving)
    index.storage.delete(f"{target.folder}/{REMOVED_FILE}")
    index.storage.write_json(f"{target.folder}/{SLIDE_FILE}", target.record.to_dict())


def _begin_steps(index: Index, slide: Slide, file: Path) -> Job[SlideProgress]:
    """Measure a slide and make its arrays, in place of whatever is there."""
    stage = f"measuring {slide.name}"
    yield Tick(stage, 0, 2)
    path = file.absolute()
    model, relative = index.model, index.storage.relative(path)

    def measure(slide: Slide) -> tuple[SlideRecord, BoolGrid]:
        return plan_slide(slide, str(path), relative, model, index.modality, index.layout)

    plans = []
    for plan in run_stages([slide], [measure], interrupt=slide.interrupt):
        yield Tick(stage, 0, 2)
        plans.append(plan)
    record, tissue = plans[-1]
    yield Tick(stage, 1, 2)
    target = index.slide_of(record)
    index.storage.delete(target.folder)
    target.create()
    target.write_chunks("tissue", tissue_to_chunks(tissue))
    progress = SlideProgress(index.storage, target)
    progress.write()
    return progress


def _resume_steps(index: Index, slide: Slide, file: Path) -> Job[SlideProgress | None]:
    """Return what an earlier run left of a slide, checked; None where it has to be begun."""
    progress = SlideProgress.read(index, slide.fingerprint)
    if progress is None:
        return None
    record, path = progress.target.record, file.absolute()
    same_scale = abs(record.pixel_size_um / slide.require_pixel_size() - 1) < 1e-6
    if not same_scale or (record.height_px, record.width_px) != (slide.info.height_px, slide.info.width_px):
        return None
    for name in index.storage.leftovers(progress.target.folder):
        index.storage.delete(name)
    moved = replace(
        record, name=slide.name, absolute_path=str(path), relative_path=index.storage.relative(path)
    )
    checked = SlideProgress(index.storage, index.slide_of(moved))
    checked.done = progress.done
    try:
        yield from checked.check_steps()
    except DamagedChunk:
        return None
    return checked
