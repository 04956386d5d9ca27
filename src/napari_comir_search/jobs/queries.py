"""Queries are opened, cut out of images, and shown as the network sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from comir_search.errors import ComirSearchError, LeftOut
from comir_search.index.index import Index
from comir_search.pictures.display import to_display
from comir_search.progress import Job, Tick
from comir_search.records import Candidate, SlideInfo
from comir_search.slides import Slide, find_slides, open_slide, slide_from_array
from comir_search.slides.crop import extract_candidate
from comir_search.study.entries import ProjectQuery
from comir_search.study.project import pack_image
from napari_comir_search.jobs.slides import LOOK_PX, Opening
from napari_comir_search.jobs.threads import leave_a_core
from napari_comir_search.state.log import LOGGER

PREVIEW_PX = 256  # of a query's longer side
MOST_KEPT_PX = 2**26  # of a query whose grey values are kept in the project


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
class OpenedQueries(Opening):
    """Queries that were opened."""

    queries: list[OpenedQuery] = field(default_factory=list)


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
    yield Tick("searching for images", 0, 0)
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
    """Return the sentence that says why an RGB image is treated as a grey image."""
    why = "its three channels are equal" if seen == "equal" else "only one of its channels is not empty"
    return f"{name} is treated as a grey image such as SHG, because {why}. Correct its kind if that is wrong."


def open_query(query: ProjectQuery, image: np.ndarray | None) -> Slide:
    """Open a query as a small slide, from its file or from the pixels kept in the project."""
    if image is not None:
        return slide_from_array(image, pixel_size_um=query.pixel_size_um, name=query.name)
    return open_slide(query.path, pixel_size_um=query.pixel_size_um)


def preview_steps(index: Index | None, query: ProjectQuery, image: np.ndarray | None) -> Job[QueryPreview]:
    """Read a query as the network does and measure its signal; without an index it is only shown.

    Parameters
    ----------
    index : Index or None
    query : ProjectQuery
    image : ndarray or None
        The pixels of the query, None where they are in its file.
    """
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
    share = f"{100 * prepared.signal:.0f} % of the query shows structure that can be recognised"
    little = prepared.signal < LITTLE_EVIDENCE
    reason = f"{share}: too little for a confident position." if little else f"{share}."
    return QueryPreview(query.id, seen, prepared.signal, reason)


@dataclass(frozen=True)
class Cut:
    """A query's pixels, and the same packed for the project: packing is too slow for the window.

    `note` says why a colour image is treated as a grey image, "" where it is not.
    """

    image: np.ndarray
    packed: bytes
    note: str = ""


def cut_steps(data: Any, place: Candidate, name: str) -> Job[Cut]:
    """Cut a place out of an image, turned upright, at the image's own resolution.

    Parameters
    ----------
    data : array
        (height, width) or (height, width, 3).
    place : Candidate
        In pixels of `data`.
    name : str
        Of the new query.
    """
    yield Tick(f"cutting {name}", 0, 0)
    with slide_from_array(data, pixel_size_um=place.pixel_size_um, name=name) as slide:
        image = extract_candidate(slide, place, place.pixel_size_um)
    return _cut(image, name)


def read_steps(data: Any, name: str) -> Job[Cut]:
    """Read a whole image."""
    yield Tick(f"reading {name}", 0, 0)
    return _cut(np.asarray(data), name)


def _cut(image: np.ndarray, name: str) -> Cut:
    """Return an image as a query: grey where its colours hold one signal only."""
    note = ""
    if image.ndim == 3:
        image = image[..., :3] if image.shape[2] >= 3 else image[..., 0]
    if image.ndim == 3 and (seen := lit_channels(image)) != "colour":
        image, note = np.ascontiguousarray(image.max(axis=2)), describe_signal(name, seen)
    return Cut(image, pack_image(image), note)
