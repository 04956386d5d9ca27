"""Query and candidate in one frame: the query's, in um from its centre. No Qt, no layers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from comir_search.errors import ComirSearchError
from comir_search.geometry import at_pixel_size, candidate_corners_px
from comir_search.index.index import Index, IndexedSlide
from comir_search.pictures.display import Contrast, to_display
from comir_search.progress import Job, Tick
from comir_search.records import Candidate, SlideInfo
from comir_search.slides import open_slide, slide_from_array
from comir_search.slides.crop import extract_candidate
from comir_search.study.entries import ProjectQuery
from napari_comir_search.jobs.queries import open_query
from napari_comir_search.jobs.threads import leave_a_core
from napari_comir_search.state.inspection import Face

LONGEST_PX = 900
CONTEXT = 1.6  # the candidate's picture shows this much more than the query, in each direction


@dataclass(frozen=True)
class Picture:
    """A picture centred on the query's centre.

    Parameters
    ----------
    image : ndarray
        uint8 (height, width, 3).
    height_um, width_um : float
        What it covers.
    """

    image: np.ndarray
    height_um: float
    width_um: float

    @property
    def pixel_um(self) -> tuple[float, float]:
        """Height and width of a pixel."""
        return self.height_um / self.image.shape[0], self.width_um / self.image.shape[1]


@dataclass(frozen=True)
class Comparison:
    """A query and a candidate, ready to be laid on one another."""

    query_id: int
    candidate: Candidate
    query: Picture
    slide: Picture


def compare_steps(
    query: ProjectQuery,
    image: np.ndarray | None,
    candidate: Candidate,
    info: SlideInfo,
    index: Index | None = None,
    faces: tuple[Face, Face] = (Face.IMAGE, Face.IMAGE),
    contrast: Contrast | None = None,
) -> Job[Comparison]:
    """Read both pictures.

    Parameters
    ----------
    query : ProjectQuery
    image : ndarray or None
        The query's pixels, where they lie in no file.
    candidate : Candidate
    info : SlideInfo
        The candidate's slide.
    index : Index, optional
        Needed for CoMIRs.
    faces : (Face, Face)
        What to show of the query and of the slide.
    contrast : Contrast, optional
        With which the slide is shown on the canvas; a query from a layer brings its own.
    """
    yield Tick("reading the query", 0, 2)
    seen = read_query(query, image, candidate, index, faces[0])
    yield Tick("reading the slide", 1, 2)
    return Comparison(query.id, candidate, seen, read_slide(candidate, info, index, faces[1], contrast))


def read_query(
    query: ProjectQuery, image: np.ndarray | None, candidate: Candidate, index: Index | None, face: Face
) -> Picture:
    """Read the query, at the size at which the candidate fits it.

    Parameters
    ----------
    query : ProjectQuery
    image : ndarray or None
        The pixels of the query, None where they are in its file.
    candidate : Candidate
    index : Index or None
        Needed for CoMIRs.
    face : Face
        Image or CoMIR.
    """
    with open_query(query, image) as slide:
        if face is Face.COMIR:
            from comir_search.retrieval.query import prepare_query

            leave_a_core()
            prepared = prepare_query(_require(index).model, slide, query.modality)
            rows, columns = prepared.comir.shape[1:]
            pixel_px = 2**prepared.level  # a large query is kept on a coarser level than its size is given in
            cover = pixel_px * rows / prepared.size_px[0], pixel_px * columns / prepared.size_px[1]
            shown = comir_to_display(np.round(127.5 + 127.5 * prepared.comir).astype(np.uint8))
            return Picture(shown, candidate.height_um * cover[0], candidate.width_um * cover[1])
        kept = query.source.get("contrast")
        shown = to_display(slide.overview(LONGEST_PX)[0], Contrast(*kept) if kept else None)
    return Picture(shown, candidate.height_um, candidate.width_um)


def read_slide(
    candidate: Candidate,
    info: SlideInfo,
    index: Index | None,
    face: Face,
    contrast: Contrast | None = None,
) -> Picture:
    """Read the candidate with its surroundings, turned to match the query.

    Parameters
    ----------
    candidate : Candidate
    info : SlideInfo
        The candidate's slide.
    index : Index or None
        Needed for CoMIRs.
    face : Face
        Image or CoMIR.
    contrast : Contrast, optional
        With which the slide is shown.
    """
    wide = replace(candidate, width_um=candidate.width_um * CONTEXT, height_um=candidate.height_um * CONTEXT)
    if face is Face.COMIR:
        leave_a_core()
        opened = _require(index)
        shown = extract_comir(opened.slide(candidate.fingerprint), wide, opened.model.comir_pixel_size_um)
        return Picture(shown, wide.height_um, wide.width_um)
    with open_slide(info.path, pixel_size_um=info.pixel_size_um) as slide:
        size_um = max(candidate.pixel_size_um, max(wide.width_um, wide.height_um) / (LONGEST_PX * CONTEXT))
        shown = to_display(extract_candidate(slide, wide, size_um), contrast)
    return Picture(shown, wide.height_um, wide.width_um)


def extract_comir(slide: IndexedSlide, candidate: Candidate, comir_pixel_um: float) -> np.ndarray:
    """Cut a candidate out of its slide's CoMIR, turned to match the query, to look at.

    Parameters
    ----------
    slide : IndexedSlide
    candidate : Candidate
    comir_pixel_um : float
        Size of a pixel of the CoMIR.
    """
    place = at_pixel_size(candidate, comir_pixel_um)
    corners = candidate_corners_px(place)
    left, top = (int(value) for value in np.floor(corners.min(axis=0)) - 2)
    right, bottom = (int(value) for value in np.ceil(corners.max(axis=0)) + 2)
    region = comir_to_display(slide.read_comir(0, left, top, right - left, bottom - top))
    inside = replace(place, center_x_px=place.center_x_px - left, center_y_px=place.center_y_px - top)
    with slide_from_array(region, pixel_size_um=comir_pixel_um) as cut:
        return extract_candidate(cut, inside, comir_pixel_um)


def comir_to_display(comir: np.ndarray) -> np.ndarray:
    """Return the first three channels of coded CoMIRs as RGB, uint8 (height, width, 3)."""
    channels = [comir[min(number, len(comir) - 1)] for number in range(3)]
    return np.ascontiguousarray(np.stack(channels, axis=-1))


def checkerboard(shape: tuple[int, int], tiles: int) -> np.ndarray:
    """Return a mask, bool (height, width), of every second of `tiles` tiles across the longer side."""
    side = max(1, max(shape) // tiles)
    rows, columns = np.indices(shape) // side
    return (rows + columns) % 2 == 0


def curtain(shape: tuple[int, int], share: float) -> np.ndarray:
    """Return a mask, bool (height, width), of the left `share` of a picture."""
    mask = np.zeros(shape, bool)
    mask[:, : round(shape[1] * share)] = True
    return mask


def _require(index: Index | None) -> Index:
    if index is None:
        raise ComirSearchError("There are no CoMIRs yet: index the slides first.")
    return index
