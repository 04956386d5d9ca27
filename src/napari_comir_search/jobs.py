"""The slow work behind the window, as generators of `Tick`: no Qt, no layers.

Engine modules are imported when a job runs, so that opening the dock is quick.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from comir_search.errors import BatchIncomplete, ComirSearchError, LeftOut
from comir_search.progress import Job, Tick
from comir_search.records import Candidate, SearchResult, SlideInfo
from comir_search.study.entries import ProjectQuery, ProjectSlide
from napari_comir_search.items import IndexState, SlideItem
from napari_comir_search.log import LOGGER
from napari_comir_search.names import find_record, names_in

if TYPE_CHECKING:
    from comir_search.index.index import Index
    from comir_search.retrieval.heat_map import HeatMap
    from comir_search.slides import Slide
    from comir_search.study.project import Project

Result = TypeVar("Result")

THUMBNAIL_PX = 96
PREVIEW_PX = 256  # of a query's longer side
POLL_S = 0.1
LOOK_PX = 512  # of an image's longer side: enough to see which values its channels hold
MOST_KEPT_PX = 2**26  # of a query whose grey values are kept in the project
MOST_CORES = 4  # threads of more would hold the window up, which needs Python's lock as well


@dataclass
class Opened:
    """Slides that were opened, a sentence for each file that could not be, and those that moved.

    `notes` are sentences on what was opened, such as a file that is left out
    because it is the same as another.
    """

    infos: list[SlideInfo] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    missing: list[ProjectSlide] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class OpenedQuery:
    """A query's file, described.

    Parameters
    ----------
    info : SlideInfo
    is_signal : bool
        Whether it shows one signal, in colour or not, rather than a stain.
    image, packed : ndarray and bytes, or None
        Its pixels as grey values, where the file holds them in one of its colours.
    """

    info: SlideInfo
    is_signal: bool
    image: np.ndarray | None = None
    packed: bytes | None = None


@dataclass
class OpenedQueries:
    """Queries that were opened, and a sentence for each file that could not be."""

    queries: list[OpenedQuery] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class OpenedIndex:
    """An index with how far each slide has come in it."""

    path: Path
    index: Index | None
    states: dict[str, IndexState]


@dataclass(frozen=True)
class Thumbnail:
    """A small picture, uint8 (height, width, 3), of what `key` names."""

    key: Any
    image: np.ndarray


@dataclass(frozen=True)
class QueryPreview:
    """A query as the network sees it, and how much there is to go by.

    Parameters
    ----------
    query_id : int
    image : ndarray
        uint8 (height, width, 3).
    signal : float or None
        Share of the CoMIR that says anything, None where it is not known.
    reason : str
        One sentence on it.
    """

    query_id: int
    image: np.ndarray
    signal: float | None
    reason: str


@dataclass(frozen=True)
class IndexOptions:
    """How slides are indexed: model file ("" is the shipped one), modality ("" is the usual), device."""

    model: str = ""
    modality: str = ""
    device: str = "auto"


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


def describe_slides_steps(
    paths: Sequence[Path], known: Sequence[ProjectSlide | SlideInfo] = ()
) -> Job[Opened]:
    """Find slides in files and folders and describe them.

    Parameters
    ----------
    paths : sequence of Path
        Files and folders; folders are searched whole.
    known : sequence of ProjectSlide or SlideInfo, optional
        The project's slides. One of them that is opened again keeps its key and
        the pixel size that the user gave; a copy of one is left out and noted; a
        different slide of the same fingerprint goes by its identity.
    """
    from comir_search.slides import find_slides, open_slide

    yield Tick("looking for slides", 0, 0)
    left_out: list[LeftOut] = []
    files = find_slides(paths, left_out)
    opened = Opened(problems=[each.reason for each in left_out])
    for done, path in enumerate(files):
        yield Tick(f"opening {path.name}", done, len(files))
        try:
            with open_slide(path) as slide:
                info = replace(slide.info, identity=slide.identity)
            match = yield from _find_known_steps(info, [*known, *opened.infos])
        except ComirSearchError as error:
            LOGGER.error("%s", error)
            opened.problems.append(str(error))
            continue
        if match is None:
            opened.infos.append(_named_apart(info, [*known, *opened.infos]))
        elif _is_other_file(match.path, info.path):
            opened.notes.append(
                f"{info.name} is the same image as {match.name}, which is listed already, and was left out."
            )
        else:
            info = replace(info, fingerprint=match.fingerprint)
            if match.pixel_size_source == "user" and match.pixel_size_um is not None:
                info = replace(info, pixel_size_um=match.pixel_size_um, pixel_size_source="user")
            opened.infos.append(info)
    opened.notes += [note for info in opened.infos for note in info.notes]
    return opened


def _find_known_steps(
    info: SlideInfo, known: Sequence[ProjectSlide | SlideInfo]
) -> Job[ProjectSlide | SlideInfo | None]:
    """Return the slide that a file is, wherever it lies; slides that only sample alike are told apart."""
    from comir_search.slides.fingerprint import is_same_content

    for other in known:
        if info.fingerprint != other.fingerprint and info.identity not in (other.identity, other.fingerprint):
            continue
        if other.identity and info.identity and other.identity != info.identity:
            continue
        if not _is_other_file(other.path, info.path):
            return other
        compare = partial(is_same_content, other.path, info.path)
        is_same = yield from wait_steps(f"comparing {info.name} with {other.name}", compare)
        if is_same:
            return other
    return None


def _named_apart(info: SlideInfo, known: Sequence[ProjectSlide | SlideInfo]) -> SlideInfo:
    """Return a slide under a key that no other has."""
    taken = {other.fingerprint for other in known}
    return replace(info, fingerprint=info.identity) if info.fingerprint in taken else info


def _is_other_file(known: str, path: str) -> bool:
    """Whether both files are there, and are two."""
    try:
        return not os.path.samefile(known, path)
    except (OSError, ValueError):
        return False  # the known one is gone: it moved


def describe_queries_steps(
    paths: Sequence[Path], sizes_um: Mapping[str, float] | None = None
) -> Job[OpenedQueries]:
    """Find queries in files and folders and describe them.

    Parameters
    ----------
    paths : sequence of Path
    sizes_um : mapping from fingerprint to float, optional
        Pixel sizes that the user gave.
    """
    from comir_search.slides import find_slides, open_slide
    from comir_search.study.project import pack_image

    yield Tick("looking for images", 0, 0)
    left_out: list[LeftOut] = []
    files = find_slides(paths, left_out)
    opened = OpenedQueries(problems=[each.reason for each in left_out])
    for done, path in enumerate(files):
        yield Tick(f"opening {path.name}", done, len(files))
        try:
            with open_slide(path) as slide:
                info, is_signal, image = slide.info, True, None
                if slide.channels == 3:
                    seen = lit_channels(slide.overview(LOOK_PX)[0])
                    is_signal = seen != "colour"
                    if seen == "one" and info.width_px * info.height_px <= MOST_KEPT_PX:
                        pixels = slide.read_level(0, 0, 0, info.width_px, info.height_px)
                        image = np.ascontiguousarray(pixels.max(axis=2))
                    if is_signal:
                        opened.notes.append(describe_signal(info.name, seen))
        except ComirSearchError as error:
            LOGGER.error("%s", error)
            opened.problems.append(str(error))
            continue
        size_um = (sizes_um or {}).get(info.fingerprint)
        if size_um is not None:
            info = replace(info, pixel_size_um=size_um, pixel_size_source="user")
        packed = None if image is None else pack_image(image)
        opened.queries.append(OpenedQuery(info, is_signal, image, packed))
        opened.notes += info.notes
    return opened


def lit_channels(image: np.ndarray) -> str:
    """Return what an RGB image shows: "equal" channels, "one" lit channel, or "colour"."""
    values = image.astype(np.float32)
    if float(np.ptp(values, axis=2).max()) == 0:
        return "equal"
    spans = np.ptp(values.reshape(-1, values.shape[2]), axis=0)
    return "one" if int((spans > 0).sum()) == 1 else "colour"


def describe_signal(name: str, seen: str) -> str:
    """Say why an RGB image is taken for a signal."""
    why = "its three channels are the same" if seen == "equal" else "only one of its colours holds anything"
    return f"{name} is taken for a grey image of a signal, as {why}; change its kind if that is wrong."


def first_of(problems: Sequence[str]) -> str:
    """Say the first of several problems, and how many there are more."""
    more = f" ({len(problems) - 1} more could not be opened.)" if len(problems) > 1 else ""
    return problems[0] + more


def pixel_sizes_given_um(slides: Iterable[ProjectSlide | SlideInfo]) -> dict[str, float]:
    """Return the pixel sizes that the user gave, by fingerprint."""
    return {
        slide.fingerprint: slide.pixel_size_um
        for slide in slides
        if slide.pixel_size_um is not None and slide.pixel_size_source == "user"
    }


def restore_slides_steps(project: Project, places: Sequence[str | Path] = ()) -> Job[Opened]:
    """Describe a project's slides again; those that moved are sought in `places` first.

    What is still missing is told in one sentence.
    """
    yield Tick("looking for slides", 0, 0)
    left_out: list[LeftOut] = []
    if places:
        project.relocate_slides(places, left_out)
    slides = project.slides
    present = [Path(slide.path) for slide in slides if slide.exists]
    opened = (yield from describe_slides_steps(present, slides)) if present else Opened()
    opened.problems[:0] = [each.reason for each in left_out]
    opened.missing = project.missing_slides()
    return opened


def slide_thumbnails_steps(items: Sequence[SlideItem]) -> Job[None]:
    """Make a small picture of each slide; ticks carry them by fingerprint."""
    from comir_search.pictures.display import to_display
    from comir_search.slides import open_slide

    for done, item in enumerate(items):
        try:
            with open_slide(item.info.path) as slide:
                image, _ = slide.overview(THUMBNAIL_PX)
        except ComirSearchError:
            continue  # a picture less; whoever uses the slide will hear why
        yield Tick("thumbnails", done + 1, len(items), Thumbnail(item.fingerprint, to_display(image)))


def open_slide_steps(info: SlideInfo) -> Job[tuple[Slide, tuple[float, float] | None]]:
    """Open a slide to look at; return it, open, with contrast limits where it is not 8-bit RGB."""
    from comir_search.slides import open_slide

    with suppress(ImportError):  # napari needs them for its first layers, and the window would wait
        import pandas  # noqa: F401
        import scipy.ndimage  # noqa: F401

    yield Tick(f"opening {info.name}", 0, 0)
    slide = open_slide(info.path, pixel_size_um=info.pixel_size_um)
    try:
        if len(slide.levels) > 1:
            slide.levels[-1][...]  # kept by the level: the window asks for it first, and would wait here
        if slide.channels == 3 and slide.dtype == np.uint8:
            return slide, None
        image, _ = slide.overview(LOOK_PX)
        if slide.channels == 3:
            from comir_search.pictures.display import display_range

            return slide, display_range(image)
    except BaseException:
        slide.close()
        raise
    low, high = np.percentile(image[np.isfinite(image)], [0.5, 99.8]) if np.isfinite(image).any() else (0, 1)
    return slide, (float(low), float(max(high, low + 1e-6)))


def open_index_steps(path: Path, items: Sequence[SlideItem], options: IndexOptions) -> Job[OpenedIndex]:
    """Open an index, if there is one in that folder, and see which slides are in it."""
    yield Tick("opening the index", 0, 0)
    index = _open_index(path, options.device)
    yield Tick("opening the index", 1, 2)
    return OpenedIndex(path, index, _states_in(index, items, options))


def index_steps(
    path: Path, items: Sequence[SlideItem], repository: Sequence[SlideItem], options: IndexOptions
) -> Job[OpenedIndex]:
    """Index slides one after the other; each is searchable once it is done.

    Ticks carry the `OpenedIndex` as it stands after each slide.

    Parameters
    ----------
    path : Path
        The index folder; made if it is not there.
    items : sequence of SlideItem
        The slides to index.
    repository : sequence of SlideItem
        All slides whose state is told.
    options : IndexOptions
    """
    from comir_search.index.build import STOPS_ALL, index_slides_steps

    leave_a_core()
    if not options.modality and not (path / "index.json").exists():
        options = replace(options, modality=_guess_modality(repository, options))
    index, left_out = None, []
    for item in items:
        _check_writable(path)
        try:
            if item.state is IndexState.STALE:
                yield Tick(f"opening {item.info.name}", 0, 0)
                _check_readable(path, item.info)
                yield Tick(f"taking {item.info.name} out of the index", 0, 0)
                _take_out(path, item.info)
            index = yield from index_slides_steps(
                [Path(item.info.path)],
                path,
                model=options.model or None,
                modality=options.modality or None,
                pixel_size_um=item.info.pixel_size_um if item.info.pixel_size_source == "user" else None,
                device=options.device,
            )
        except ComirSearchError as error:
            if len(items) == 1 or isinstance(error, STOPS_ALL) or isinstance(error.__cause__, STOPS_ALL):
                for each in left_out:
                    yield Tick(f"indexing {item.info.name}", 0, 0, note=each.reason)
                raise  # what goes wrong with the index or its disk would do so for each of the others
            left_out.append(LeftOut(item.info.name, str(error)))  # the others are indexed all the same
            continue
        now = OpenedIndex(path, index, _states_in(index, repository, options))
        yield Tick(f"{item.info.name} indexed", 1, 1, now)
    if index is None:
        index = _open_index(path, options.device)
    opened = OpenedIndex(path, index, _states_in(index, repository, options))
    if left_out:
        raise BatchIncomplete(opened, tuple(left_out), len(items))
    return opened


def _check_writable(path: Path) -> None:
    """Refuse to go on where another process writes to an index, as it would be for every slide."""
    from comir_search.index.lock import writer_lock
    from comir_search.index.storage import INDEX_FILE, Storage

    storage = Storage(path)
    if storage.exists(INDEX_FILE):
        with writer_lock(storage):
            pass


def _check_readable(path: Path, info: SlideInfo) -> None:
    """Refuse to index again what cannot be: while its old entry is still there."""
    from comir_search.index.index import Index
    from comir_search.index.layout import MAX_AREA_PX
    from comir_search.slides import open_slide

    layout = Index.open(path, "cpu").layout
    with open_slide(info.path, pixel_size_um=info.pixel_size_um) as slide:
        if info.identity and slide.identity != info.identity:
            raise ComirSearchError(
                f"{info.path} is another slide than it was when it was added: remove it from the project and add it "
                "again."
            )
        height, width = slide.scaled_shape(layout.model_pixel_size_um)
        if height * width > MAX_AREA_PX:
            raise ComirSearchError(
                f"{info.name} is too large to be indexed with {info.pixel_size_um:g} µm per pixel: correct its pixel "
                "size, or cut it into parts."
            )
        slide.overview(THUMBNAIL_PX)


def _take_out(path: Path, info: SlideInfo) -> None:
    """Take a slide out of an index, which it is to enter again with another pixel size."""
    from comir_search.index.index import Index

    index = Index.open(path, "cpu")
    record = find_record((slide.record for slide in index.slides), info)
    if record is not None:
        index.remove(record.fingerprint)


def search_steps(
    index: Index,
    query: ProjectQuery,
    image: np.ndarray | None,
    *,
    top: int,
    mirror: bool,
    slides: Sequence[str] | None = None,
) -> Job[SearchResult]:
    """Search a query; ticks carry what is known from the first stage on.

    Parameters
    ----------
    index : Index
    query : ProjectQuery
    image : ndarray or None
        Its pixels, where they lie in no file.
    top : int
        Number of candidates.
    mirror : bool
        Whether the query may be mirrored.
    slides : sequence of str, optional
        Names in the index of the slides to search; all by default.
    """
    from comir_search.retrieval.search import search_steps as engine_steps

    leave_a_core()
    with open_query(query, image) as slide:
        result = yield from engine_steps(
            index,
            slide,
            modality=query.modality or None,
            pixel_size_um=query.pixel_size_um,
            top=top,
            mirror=mirror,
            slides=slides,
        )
    return replace(result, query=query.name)


def refit_steps(
    index: Index, query: ProjectQuery, image: np.ndarray | None, candidate: Candidate
) -> Job[Candidate]:
    """Look for the best fit close to a place."""
    from comir_search.retrieval.refit import refit_candidate_steps

    leave_a_core()
    with open_query(query, image) as slide:
        fitted = yield from refit_candidate_steps(index, slide, query.modality, candidate)
    return fitted


def heat_map_steps(
    index: Index, query: ProjectQuery, image: np.ndarray | None, name: str, *, mirror: bool
) -> Job[HeatMap]:
    """Compare a query with every place of the slide of this name in the index."""
    from comir_search.retrieval.heat_map import heat_map_steps as engine_steps

    leave_a_core()
    modality = query.modality or index.model.other(index.modality)
    with open_query(query, image) as slide:
        heat_map = yield from engine_steps(index, slide, modality, name, mirror=mirror)
    return heat_map


def open_query(query: ProjectQuery, image: np.ndarray | None) -> Slide:
    """Open a query as a small slide, from its file or from the pixels kept in the project."""
    from comir_search.slides import open_slide, slide_from_array

    if image is not None:
        return slide_from_array(image, pixel_size_um=query.pixel_size_um, name=query.name)
    return open_slide(query.path, pixel_size_um=query.pixel_size_um)


def preview_steps(index: Index | None, query: ProjectQuery, image: np.ndarray | None) -> Job[QueryPreview]:
    """Read a query as the network does and measure its signal; without an index it is only shown."""
    from comir_search.pictures.display import to_display

    yield Tick("reading the query", 0, 0)
    with open_query(query, image) as slide:
        picture = to_display(slide.overview(PREVIEW_PX)[0])
        if index is None or query.pixel_size_um is None:
            missing = "the repository is indexed" if index is None else "its pixel size is known"
            return QueryPreview(query.id, picture, None, f"The signal is measured once {missing}.")
        leave_a_core()
        from comir_search.retrieval.query import LITTLE_EVIDENCE, prepare_query

        try:
            prepared = prepare_query(index.model, slide, query.modality)
        except ComirSearchError as error:
            return QueryPreview(query.id, picture, 0.0, str(error))
        longest_um = max(slide.level_shapes[0]) * slide.require_pixel_size()
        seen_um = max(index.model.pixel_size_um, longest_um / PREVIEW_PX)
        height, width = slide.scaled_shape(seen_um)
        seen = to_display(slide.read_scaled(seen_um, 0, 0, width, height))
    share = f"{100 * prepared.signal:.0f} % of the query shows something that can be recognised"
    little = prepared.signal < LITTLE_EVIDENCE
    reason = f"{share}: too little to be placed with confidence." if little else f"{share}."
    return QueryPreview(query.id, seen, prepared.signal, reason)


def candidate_thumbnails_steps(candidates: Iterable[tuple[Candidate, SlideInfo]], side_px: int) -> Job[None]:
    """Cut a small picture of each candidate, turned to match the query; ticks carry them by rank."""
    from comir_search.pictures.display import to_display
    from comir_search.slides import open_slide
    from comir_search.slides.crop import extract_candidate

    open_slides: dict[str, Slide] = {}
    candidates = list(candidates)
    try:
        for done, (candidate, info) in enumerate(candidates):
            try:
                if info.fingerprint not in open_slides:
                    open_slides[info.fingerprint] = open_slide(info.path, pixel_size_um=info.pixel_size_um)
                size_um = max(candidate.width_um, candidate.height_um) / side_px
                image = to_display(extract_candidate(open_slides[info.fingerprint], candidate, size_um))
            except ComirSearchError:
                continue  # a picture less; inspecting the candidate tells why
            yield Tick("thumbnails", done + 1, len(candidates), Thumbnail(candidate.rank, image))
    finally:
        for slide in open_slides.values():
            slide.close()


def _open_index(path: Path, device: str) -> Index | None:
    from comir_search.index.index import Index

    if not (path / "index.json").exists():
        return None
    index = Index.open(path, device=device)
    _ = index.model.embedding_fingerprint  # loaded and measured here, not when the window asks for it
    return index


def _guess_modality(repository: Sequence[SlideItem], options: IndexOptions) -> str:
    """Return the side of the model whose channels all slides have, "" where that does not decide."""
    from comir_search.model.model import load_model

    model = load_model(options.model or None, "cpu")
    channels = {item.info.channels for item in repository}
    fitting = [side for side in model.modalities if channels == {model.channels_of(side)}]
    return fitting[0] if len(fitting) == 1 else ""


def _states_in(
    index: Index | None, items: Sequence[SlideItem], options: IndexOptions
) -> dict[str, IndexState]:
    """Return how far each slide has come, by its key."""
    from comir_search.index.slide_group import group_names

    if index is None:
        return {}
    done = IndexState.DONE if _is_own_model(index, options) else IndexState.OTHER_MODEL
    complete = names_in([slide.record for slide in index.slides], (item.info for item in items))
    states = dict.fromkeys(complete, done)
    left = [item for item in items if item.fingerprint not in states]
    names = set(group_names(index.storage)) - {slide.fingerprint for slide in index.slides} if left else ()
    begun = [progress for name in sorted(names) if (progress := index.read_progress(name))]
    part = names_in([progress.target.record for progress in begun], (item.info for item in left))
    return states | dict.fromkeys(part, IndexState.PART)


def _is_own_model(index: Index, options: IndexOptions) -> bool:
    """Whether an index was made with the model of the user's choice."""
    if not options.model or not Path(options.model).is_file():
        return True  # the index brings its own, and nobody asked for another that is there
    from comir_search.model.model import load_model

    return load_model(options.model, "cpu").words_fingerprint == index.model_fingerprint
