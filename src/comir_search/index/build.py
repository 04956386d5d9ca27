"""Index slides: embed their tissue region by region, then derive the arrays that a search needs.

A slide is written in two passes. The first embeds its regions. The second computes
the area means and the word map from the result, block by block, with a halo from the
neighbouring blocks. Each region and block is recorded once it is on the disk, so an
interrupted run continues where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from comir_search.compute.cache import DEFAULT_CACHE_BYTES
from comir_search.compute.cluster import ClusterLost, check_choice
from comir_search.compute.stages import run_stages
from comir_search.compute.threads import beginning, share_cores
from comir_search.errors import BatchIncomplete, ComirSearchError, LeftOut
from comir_search.files import CannotWrite
from comir_search.index.index import Index, check_new_place, layout_for
from comir_search.index.indexed_slide import DamagedChunk, IndexedSlide
from comir_search.index.layout import MAX_AREA_PX, BoolGrid, comir_array
from comir_search.index.lock import writer_lock
from comir_search.index.options import IndexOptions
from comir_search.index.slide_group import check_group, clear_group, delete_leftovers
from comir_search.index.slide_progress import Cell, Kind, SlideProgress
from comir_search.index.slide_record import PROGRESS_FILE, REMOVED_FILE, SLIDE_FILE, SlideRecord
from comir_search.index.steps import (
    derive_block,
    embed_pixels,
    plan_slide,
    read_block,
    read_region,
    tissue_to_chunks,
)
from comir_search.index.storage import INDEX_FILE, CannotRead, Storage
from comir_search.progress import Job, Tick, finish
from comir_search.slides import Slide, find_slides, fingerprint, open_slide

if TYPE_CHECKING:
    from comir_search.model.model import Model

# Only the halos of blocks are read twice, so a smaller cache than for a search is enough.
CACHE_BYTES = 64 * 2**20
# Failures of the index or the workers, not of one slide: they end the whole run.
STOPS_ALL = (CannotWrite, CannotRead, ClusterLost)
DERIVE_BYTES_PER_VALUE = 20  # memory to compute a block's words, per value of its CoMIR

Mark = Callable[[Cell], None]
Waiting = Generator[None, None, None]


class Runner(Protocol):
    """Runs the work in this process or on a cluster."""

    def embed(self, slide: Slide, target: IndexedSlide, regions: list[Cell], mark: Mark) -> Waiting:
        """Embed regions of a slide, and yield now and then.

        Parameters
        ----------
        slide : Slide
        target : IndexedSlide
            Where the chunks are written.
        regions : list of (int, int)
            Row and column of each region.
        mark : callable
            Called with each region once it is on the disk.
        """

    def derive(self, target: IndexedSlide, blocks: list[Cell], mark: Mark) -> Waiting:
        """Derive blocks of a slide, and yield now and then.

        Parameters
        ----------
        target : IndexedSlide
            Where the chunks are read and written.
        blocks : list of (int, int)
            Row and column of each block.
        mark : callable
            Called with each block once it is on the disk.
        """

    def close(self) -> None:
        """Release everything that the work needed."""


class LocalRunner:
    """Work in this process: computing uses all cores and overlaps with reading and writing.

    Parameters
    ----------
    index : Index
    """

    def __init__(self, index: Index) -> None:
        self._index = index

    def embed(self, slide: Slide, target: IndexedSlide, regions: list[Cell], mark: Mark) -> Waiting:
        """Embed regions of a slide; see `Runner`.

        Parameters
        ----------
        slide : Slide
        target : IndexedSlide
        regions : list of (int, int)
        mark : callable
        """
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
            threads = (
                threads if model.device.type == "cpu" else 1
            )  # several regions at once are no faster on a GPU
            yield from run_stages(
                regions,
                [read, embed, write],
                threads=threads,
                begin=beginning(threads),
                interrupt=slide.interrupt,
            )

    def derive(self, target: IndexedSlide, blocks: list[Cell], mark: Mark) -> Waiting:
        """Derive blocks of a slide; see `Runner`.

        Parameters
        ----------
        target : IndexedSlide
        blocks : list of (int, int)
        mark : callable
        """
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
        """Do nothing, since all threads have ended."""


def index_slides(
    paths: Sequence[str | Path],
    index_path: str | Path,
    options: IndexOptions | None = None,
    **keywords: Any,
) -> Index:
    """Index slides without showing progress.

    Parameters
    ----------
    paths, index_path, options, **keywords
        See `index_slides_steps`.

    Returns
    -------
    Index
        With all its slides.
    """
    return finish(index_slides_steps(paths, index_path, options, **keywords))


def index_slides_steps(
    paths: Sequence[str | Path],
    index_path: str | Path,
    options: IndexOptions | None = None,
    **keywords: Any,
) -> Job[Index]:
    """Add slides to an index; a new index is made if there is none.

    Slides that are in the index are skipped, also after they were moved. An
    interrupted run continues where it stopped, with the same result. If one slide
    cannot be indexed, the others still are. An identical copy of a slide is left out
    with a note.

    Parameters
    ----------
    paths : sequence of path
        Slides, and folders of slides.
    index_path : path or str
        The index: a folder, or an fsspec URL.
    options : IndexOptions, optional
    **keywords
        Single options by the names of `IndexOptions`: `model`, `modality`,
        `pixel_size_um`, `device`, `workers`, `scheduler`.

    Returns
    -------
    Index
        With all its slides.

    Raises
    ------
    BatchIncomplete
        If some of several slides were left out, after all others were indexed. Its
        result is the index, or None if there is none.
    ComirSearchError
        If an option is out of range, there is no slide, the only slide cannot be read
        or has no pixel size, the index has another model or modality, another process
        writes to it, or the disk is full.
    TypeError
        If an option name is unknown.
    """
    options = IndexOptions.of(options, keywords)
    if options.workers is not None or options.scheduler is not None:
        check_choice(options.scheduler, options.workers)  # raises before anything is read
    batch = _find_files(paths)
    yield from _open_files_steps(batch, options.pixel_size_um)
    storage = Storage(index_path)
    if not storage.exists(INDEX_FILE):
        if not batch.files:
            raise batch.failure(None)
        model = _choose_model(options)
        modality = options.modality or model.modalities[0]
        options = replace(options, model=model, modality=modality)
        layout_for(model, modality)  # raises before anything is written
        check_new_place(storage, model)
    with writer_lock(storage):
        if storage.exists(INDEX_FILE):
            index = Index.open(index_path, options.device, cache_bytes=CACHE_BYTES)
            _check_index(index, options)
        else:
            index = Index.create(
                index_path, _choose_model(options), str(options.modality), cache_bytes=CACHE_BYTES
            )
        for reason in index.damaged.values():
            yield Tick("opening slides", len(batch.files), len(batch.files), note=reason)
        wanted = yield from _choose_files_steps(index, batch, options.pixel_size_um)
        index.refresh()
        try:
            if wanted:
                yield from _index_files_steps(index, batch, wanted, options)
        except CannotWrite as error:
            if error.is_full:
                raise ComirSearchError(
                    f"The disk with {index.path} is full; free some space and run the same command "
                    "again. It continues where it stopped."
                ) from error
            raise
    index.cache.resize(DEFAULT_CACHE_BYTES)
    if batch.left_out:
        raise batch.failure(index)
    return index


@dataclass
class _Batch:
    """The files of one run, and their outcome.

    Parameters
    ----------
    n_members : int
        Number of files, and of paths that led to no file.
    files : list of Path
        The files that are still to be indexed.
    known_as : dict of Path to (str, str)
        Fingerprint and identity of each file.
    left_out : list of (str, ComirSearchError)
        Name and error of each file that could not be indexed.
    """

    n_members: int = 0
    files: list[Path] = field(default_factory=list)
    known_as: dict[Path, tuple[str, str]] = field(default_factory=dict)
    left_out: list[tuple[str, ComirSearchError]] = field(default_factory=list)

    def leave_out(self, name: str | Path, failure: ComirSearchError) -> None:
        """Note that a file could not be indexed."""
        self.left_out.append((str(name), failure))

    def failure(self, result: Index | None) -> ComirSearchError:
        """Return the error to raise at the end: of a single file its own, of several one that lists all."""
        if self.n_members == 1:
            return self.left_out[0][1]
        left_out = tuple(LeftOut(name, str(failure)) for name, failure in self.left_out)
        return BatchIncomplete(result, left_out, self.n_members)


def _find_files(paths: Sequence[str | Path]) -> _Batch:
    """Find the slides in files and folders, each once."""
    batch, found = _Batch(), dict[Path, Path]()
    for path in map(Path, paths):
        try:
            files = find_slides([path])
        except BatchIncomplete as incomplete:
            files = incomplete.result or []
            for each in incomplete.left_out:
                batch.leave_out(each.name, ComirSearchError(each.reason))
        except ComirSearchError as error:
            batch.leave_out(path, error)
            continue
        for file in files:
            found.setdefault(file.resolve(), file)
    batch.files = list(found.values())
    batch.n_members = len(batch.files) + len(batch.left_out)
    if batch.n_members == 0:
        raise ComirSearchError("No slide was given; give slides, or folders of slides.")
    return batch


def _open_files_steps(batch: _Batch, pixel_size_um: float | None) -> Job[None]:
    """Open every file once, before anything is written, and leave out files that are not slides."""
    for number, file in enumerate(batch.files):
        yield Tick("opening slides", number, len(batch.files))
        try:
            with open_slide(file, pixel_size_um=pixel_size_um) as slide:
                slide.require_pixel_size()
                for note in slide.info.notes:
                    yield Tick("opening slides", number, len(batch.files), note=f"{file}: {note}")
                batch.known_as[file] = slide.fingerprint, slide.identity
        except ComirSearchError as error:
            batch.leave_out(file, error)
    batch.files = list(batch.known_as)


def _compare_steps(first: Path, second: Path) -> Job[None]:
    """Compare two files with the same identity; note that the second is left out as a copy of the first.

    Raises
    ------
    ComirSearchError
        If they are different images: one index cannot tell them apart.
    """
    yield Tick(f"comparing {second.name}", 0, 0)
    for is_same in run_stages([(first, second)], [lambda pair: fingerprint.is_same_content(*pair)]):
        yield Tick(f"comparing {second.name}", 0, 0)
        if is_same is False:
            raise ComirSearchError(
                f"{second} was left out: it is not the same image as {first}, but so similar that one index cannot "
                "tell them apart; index it in another folder with --index."
            )
    note = f"{second} was left out: it is an identical copy of {first}."
    yield Tick(f"comparing {second.name}", 0, 0, note=note)


def _choose_files_steps(index: Index, batch: _Batch, pixel_size_um: float | None) -> Job[list[list[Path]]]:
    """Return the files to index, each with its copies; record the paths of slides already in the index."""
    indexed = {slide.path.resolve() for slide in index.slides}
    same: dict[tuple[str, str], list[Path]] = {}
    # Prefer the copy that was indexed before, if it is among them.
    for file in sorted(batch.files, key=lambda file: file.resolve() not in indexed):
        same.setdefault(batch.known_as[file], []).append(file)
    wanted = []
    for copies in same.values():
        for number, file in enumerate(copies):
            yield Tick("opening slides", len(batch.files), len(batch.files))
            try:
                with open_slide(file, pixel_size_um=pixel_size_um) as slide:
                    record = index.read_record(_name_in(index, slide, file))
                    if record is not None:
                        yield from _know_again_steps(index, record, slide, file)
            except STOPS_ALL:
                raise
            except ComirSearchError as error:
                batch.leave_out(file, error)
                continue
            if record is None:
                wanted.append(copies[number:])
            else:
                yield from _drop_copies_steps(batch, file, copies[number + 1 :])
            break
    return wanted


def _drop_copies_steps(batch: _Batch, file: Path, copies: Sequence[Path]) -> Job[None]:
    """Leave out the copies of a file that is in the index."""
    for copy in copies:
        try:
            yield from _compare_steps(file, copy)
        except ComirSearchError as error:
            batch.leave_out(copy, error)


def _index_files_steps(
    index: Index, batch: _Batch, files: list[list[Path]], options: IndexOptions
) -> Job[None]:
    """Index files. If a file fails, try its copies in turn."""
    runner: Runner
    if options.workers is None and options.scheduler is None:
        runner = LocalRunner(index)
    else:
        from comir_search.index.cluster import ClusterRunner

        yield Tick("starting workers", 0, 0)
        runner = ClusterRunner(index, options.device, scheduler=options.scheduler, workers=options.workers)
    with closing(runner):
        for copies in files:
            for number, file in enumerate(copies):
                try:
                    with open_slide(file, pixel_size_um=options.pixel_size_um) as slide:
                        yield from _index_slide_steps(index, slide, file, runner)
                except STOPS_ALL:
                    raise
                except ComirSearchError as error:
                    batch.leave_out(file, error)  # a copy of it may be intact
                    continue
                yield from _drop_copies_steps(batch, file, copies[number + 1 :])
                break
            index.refresh()


def _choose_model(options: IndexOptions) -> Model:
    from comir_search.model.model import load_model

    model = options.model
    return load_model(model, options.device) if model is None or isinstance(model, Path) else model


def _check_index(index: Index, options: IndexOptions) -> None:
    """Raise an error if the index has another modality or model than requested."""
    if options.modality is not None and options.modality != index.modality:
        raise ComirSearchError(
            f"The index {index.path} contains slides of the modality {index.modality}, not {options.modality}; choose "
            "another folder with --index."
        )
    if options.model is None:
        return
    chosen = _choose_model(options)
    if chosen.words_fingerprint != index.model_fingerprint:
        raise ComirSearchError(
            f"The index {index.path} was made with another model; leave --model out to use that one, or "
            "choose another folder with --index."
        )
    if chosen.fingerprint != index.model.fingerprint:
        index.renew_model(chosen)


def _name_in(index: Index, slide: Slide, file: Path) -> str:
    """Return the name of a slide in an index, also of one that is not indexed yet.

    This is its fingerprint, or its identity if another slide has the same fingerprint.
    """
    record = index.find_record(slide.fingerprint)
    is_it = record is None or _is_record_of(index, record, slide, file)
    return slide.fingerprint if is_it else slide.identity


def _is_record_of(index: Index, record: SlideRecord, slide: Slide, file: Path) -> bool:
    if record.identity:
        return record.is_of(slide)
    # Indexes of older versions have only the fingerprint: compare with the file that was indexed, if it exists.
    if (record.width_px, record.height_px) != (slide.info.width_px, slide.info.height_px):
        return False
    indexed = _find_file(index, record)
    return indexed is None or fingerprint.is_same_content(indexed, file)


def _find_file(index: Index, record: SlideRecord) -> Path | None:
    """Return the file that a slide was indexed from, None if it is no longer there."""
    for path in dict.fromkeys((index.slide_of(record).path, Path(record.absolute_path))):
        try:
            with open_slide(path) as slide:
                if record.is_of(slide):
                    return path
        except ComirSearchError:
            continue
    return None


def _know_again_steps(index: Index, record: SlideRecord, slide: Slide, file: Path) -> Job[None]:
    """Record the present path of a slide that is in the index.

    Raises
    ------
    ComirSearchError
        If its pixel size differs from the indexed one.
    """
    pixel_size_um = slide.require_pixel_size()
    if abs(record.pixel_size_um / pixel_size_um - 1) > 1e-6:
        raise ComirSearchError(
            f"{slide.name} is in the index {index.path} with {record.pixel_size_um:g} um per pixel, not "
            f"{pixel_size_um:g}; remove it from the index first, with `comir-search compact --index {index.path} "
            f'--remove "{record.name}"`.'
        )
    now = replace(record, identity=slide.identity)
    indexed = index.slide_of(record).path
    before = indexed if _is_same_file(indexed, file) else _find_file(index, record)
    if before is None or _is_same_file(before, file):
        now = _at(now, index, slide, file.absolute())
    else:
        yield from _compare_steps(before, file)
    if now != record:
        index.write_record(now)


def _is_same_file(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except OSError:
        return False


def _at(record: SlideRecord, index: Index, slide: Slide, path: Path) -> SlideRecord:
    """Return a slide's record with another path."""
    return replace(
        record, name=slide.name, absolute_path=str(path), relative_path=index.storage.relative(path)
    )


def _index_slide_steps(index: Index, slide: Slide, file: Path, runner: Runner) -> Job[None]:
    """Write one slide, or the part of it that an earlier run did not finish."""
    name = _name_in(index, slide, file)
    check_group(index.storage, name)
    progress = yield from _resume_steps(index, name, slide, file)
    if progress is None:
        progress = yield from _begin_steps(index, name, slide, file)
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
    index.write_record(target.record)


def _begin_steps(index: Index, name: str, slide: Slide, file: Path) -> Job[SlideProgress]:
    """Measure a slide and create its arrays, replacing any earlier ones."""
    stage = f"measuring {slide.name}"
    yield Tick(stage, 0, 2)
    path = file.absolute()
    model, relative = index.model, index.storage.relative(path)
    height, width = slide.scaled_shape(index.layout.model_pixel_size_um)
    if height * width > MAX_AREA_PX:
        raise ComirSearchError(
            f"{slide.name} is too large to be indexed ({slide.info.width_px} x {slide.info.height_px} px at "
            f"{slide.pixel_size_um:g} um); check its pixel size, or cut it into parts."
        )

    def measure(slide: Slide) -> tuple[SlideRecord, BoolGrid]:
        return plan_slide(slide, str(path), relative, model, index.modality, index.layout)

    plans = []
    for plan in run_stages([slide], [measure], interrupt=slide.interrupt):
        yield Tick(stage, 0, 2)
        plans.append(plan)
    record, tissue = plans[-1]
    yield Tick(stage, 1, 2)
    target = index.slide_of(replace(record, fingerprint=name, identity=slide.identity))
    progress = SlideProgress(index.storage, target)
    index.storage.delete(f"{target.folder}/{SLIDE_FILE}")
    progress.write()  # first: it marks everything that follows as written by this program
    clear_group(index.storage, name, PROGRESS_FILE)
    target.create()
    target.write_chunks("tissue", tissue_to_chunks(tissue))
    return progress


def _resume_steps(index: Index, name: str, slide: Slide, file: Path) -> Job[SlideProgress | None]:
    """Return the checked progress of an earlier run on a slide; None if it must be indexed from the start."""
    progress = index.read_progress(name)
    if progress is None:
        return None
    record, path = progress.target.record, file.absolute()
    same_scale = abs(record.pixel_size_um / slide.require_pixel_size() - 1) < 1e-6
    if not same_scale or (record.height_px, record.width_px) != (slide.info.height_px, slide.info.width_px):
        return None
    delete_leftovers(index.storage, name)
    moved = replace(_at(record, index, slide, path), identity=slide.identity)
    checked = SlideProgress(index.storage, index.slide_of(moved))
    checked.done = progress.done
    try:
        yield from checked.check_steps()
    except DamagedChunk:
        return None
    return checked
