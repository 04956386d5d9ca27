"""The slow work behind the window, as generators of `Tick`: no Qt, no layers.

Engine modules are imported when a job runs, so that opening the dock is quick.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from comir_search.errors import ComirSearchError
from comir_search.io.entries import ProjectQuery, ProjectSlide
from comir_search.progress import Job, Tick
from comir_search.records import Candidate, SearchResult, SlideInfo
from napari_comir_search.items import IndexState, SlideItem
from napari_comir_search.log import LOGGER

if TYPE_CHECKING:
    from comir_search.io.project import Project
    from comir_search.retrieval.heat_map import HeatMap
    from comir_search.retrieval.index import Index
    from comir_search.slides import Slide

THUMBNAIL_PX = 96
MOST_CORES = 4  # threads of more would hold the window up, which needs Python's lock as well


@dataclass
class Opened:
    """Slides that were opened, a sentence for each file that could not be, and those that moved."""

    infos: list[SlideInfo] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    missing: list[ProjectSlide] = field(default_factory=list)


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


def describe_slides_steps(paths: Sequence[Path], sizes_um: Mapping[str, float] | None = None) -> Job[Opened]:
    """Find slides in files and folders and describe them.

    Parameters
    ----------
    paths : sequence of Path
        Files and folders; folders are searched whole.
    sizes_um : mapping from fingerprint to float, optional
        Pixel sizes that the user gave.
    """
    from comir_search.slides import find_slides, open_slide

    yield Tick("looking for slides", 0, 0)
    files, opened = find_slides(paths), Opened()
    for done, path in enumerate(files):
        yield Tick(f"opening {path.name}", done, len(files))
        try:
            with open_slide(path) as slide:
                info = slide.info
        except ComirSearchError as error:
            LOGGER.error("%s", error)
            opened.problems.append(str(error))
            continue
        size_um = (sizes_um or {}).get(info.fingerprint)
        if size_um is not None:
            info = replace(info, pixel_size_um=size_um, pixel_size_source="user")
        opened.infos.append(info)
    return opened


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
    if places:
        project.relocate_slides(places)
    present = [Path(slide.path) for slide in project.slides if slide.exists]
    sizes_um = pixel_sizes_given_um(project.slides)
    opened = (yield from describe_slides_steps(present, sizes_um)) if present else Opened()
    opened.missing = project.missing_slides()
    return opened


def slide_thumbnails_steps(items: Sequence[SlideItem]) -> Job[None]:
    """Make a small picture of each slide; ticks carry them by fingerprint."""
    from comir_search.io.pictures import to_display
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
        image, _ = slide.overview(512)
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
    from comir_search.retrieval.indexing import index_slides_steps

    leave_a_core()
    if not options.modality and not (path / "index.json").exists():
        options = replace(options, modality=_guess_modality(repository, options))
    index = None
    for item in items:
        index = yield from index_slides_steps(
            [Path(item.info.path)],
            path,
            model=options.model or None,
            modality=options.modality or None,
            pixel_size_um=item.info.pixel_size_um if item.info.pixel_size_source == "user" else None,
            device=options.device,
        )
        now = OpenedIndex(path, index, _states_in(index, repository, options))
        yield Tick(f"{item.info.name} indexed", 1, 1, now)
    return OpenedIndex(path, index, _states_in(index, repository, options))


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
        Fingerprints of the slides to search; all by default.
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
    index: Index, query: ProjectQuery, image: np.ndarray | None, fingerprint: str, *, mirror: bool
) -> Job[HeatMap]:
    """Compare a query with every place of one slide."""
    from comir_search.retrieval.heat_map import heat_map_steps as engine_steps

    leave_a_core()
    modality = query.modality or index.model.other(index.modality)
    with open_query(query, image) as slide:
        heat_map = yield from engine_steps(index, slide, modality, fingerprint, mirror=mirror)
    return heat_map


def open_query(query: ProjectQuery, image: np.ndarray | None) -> Slide:
    """Open a query as a small slide, from its file or from the pixels kept in the project."""
    from comir_search.slides import open_slide, slide_from_array

    if image is not None:
        return slide_from_array(image, pixel_size_um=query.pixel_size_um, name=query.name)
    return open_slide(query.path, pixel_size_um=query.pixel_size_um)


def preview_steps(index: Index | None, query: ProjectQuery, image: np.ndarray | None) -> Job[QueryPreview]:
    """Read a query as the network does and measure its signal; without an index it is only shown."""
    from comir_search.io.pictures import to_display

    yield Tick("reading the query", 0, 0)
    with open_query(query, image) as slide:
        picture = to_display(slide.overview(512)[0])
        if index is None or query.pixel_size_um is None:
            missing = "the repository is indexed" if index is None else "its pixel size is known"
            return QueryPreview(query.id, picture, None, f"The signal is measured once {missing}.")
        leave_a_core()
        from comir_search.retrieval.query import LITTLE_EVIDENCE, prepare_query

        try:
            prepared = prepare_query(index.model, slide, query.modality)
        except ComirSearchError as error:
            return QueryPreview(query.id, picture, 0.0, str(error))
        height, width = slide.scaled_shape(index.model.pixel_size_um)
        seen = to_display(slide.read_scaled(index.model.pixel_size_um, 0, 0, width, height))
    share = f"{100 * prepared.signal:.0f} % of the query shows something that can be recognised"
    little = prepared.signal < LITTLE_EVIDENCE
    reason = f"{share}: too little to be placed with confidence." if little else f"{share}."
    return QueryPreview(query.id, seen, prepared.signal, reason)


def candidate_thumbnails_steps(candidates: Iterable[tuple[Candidate, SlideInfo]], side_px: int) -> Job[None]:
    """Cut a small picture of each candidate, turned to match the query; ticks carry them by rank."""
    from comir_search.io.pictures import extract_candidate, to_display
    from comir_search.slides import open_slide

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
    from comir_search.retrieval.index import Index

    if not (path / "index.json").exists():
        return None
    index = Index.open(path, device=device)
    index.model  # noqa: B018 - loads it here, not when the window asks for it
    return index


def _guess_modality(repository: Sequence[SlideItem], options: IndexOptions) -> str:
    """Return the side of the model whose channels all slides have, "" where that does not decide."""
    from comir_search.comir.model import load_model

    model = load_model(options.model or None, "cpu")
    channels = {item.info.channels for item in repository}
    fitting = [side for side in model.modalities if channels == {model.channels_of(side)}]
    return fitting[0] if len(fitting) == 1 else ""


def _states_in(
    index: Index | None, items: Sequence[SlideItem], options: IndexOptions
) -> dict[str, IndexState]:
    """Return how far each slide has come."""
    from comir_search.retrieval.slide_progress import SlideProgress

    if index is None:
        return {}
    complete = {slide.fingerprint for slide in index.slides}
    done = IndexState.DONE if _is_own_model(index, options) else IndexState.OTHER_MODEL
    states = {}
    for item in items:
        if item.fingerprint in complete:
            states[item.fingerprint] = done
        elif SlideProgress.read(index, item.fingerprint) is not None:
            states[item.fingerprint] = IndexState.PART
    return states


def _is_own_model(index: Index, options: IndexOptions) -> bool:
    """Whether an index was made with the model of the user's choice."""
    if not options.model or not Path(options.model).is_file():
        return True  # the index brings its own, and nobody asked for another that is there
    from comir_search.comir.model import load_model

    return load_model(options.model, "cpu").words_fingerprint == index.model_fingerprint
