"""Find the best position and rotation near a candidate that a person moved."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from comir_search.geometry import at_pixel_size, normalise_angle_deg
from comir_search.index.index import Index
from comir_search.index.levels import read_level
from comir_search.matching.places import Place
from comir_search.matching.pose import PoseFinder
from comir_search.progress import Job, Tick
from comir_search.records import Candidate
from comir_search.retrieval.query import prepare_query
from comir_search.retrieval.scan import choose_finest_level
from comir_search.slides import Slide

# (levels above the finest, how far a place may move in pixels of the level, changes of the angle to try)
ROUNDS = (
    (1, 8, (-6.0, -3.0, 0.0, 3.0, 6.0)),
    (0, 6, (-1.5, 0.0, 1.5)),
    (0, 3, (-0.5, 0.0, 0.5)),
)


def refit_candidate_steps(index: Index, query: Slide, modality: str, candidate: Candidate) -> Job[Candidate]:
    """Correlate the query with a candidate's surroundings and return the best place near it.

    Parameters
    ----------
    index : Index
    query : Slide
        The query's image.
    modality : str
        Modality of the query.
    candidate : Candidate
        Where to begin. It may be wrong by a few CoMIR pixels and degrees.

    Returns
    -------
    Candidate
        With the new position, rotation and score; rank and confidence do not change.

    Raises
    ------
    ComirSearchError
        If the slide is not in the index, or the query cannot be used.
    """
    yield Tick("embedding the query", 0, 1)
    slide = index.slide(candidate.fingerprint)
    prepared = prepare_query(index.model, query, modality, mirrored=candidate.mirrored)
    size_um = index.model.comir_pixel_size_um
    start = at_pixel_size(candidate, size_um)
    # A place has the angle of the flipped query, a candidate that of the slide.
    sign = -1 if candidate.mirrored else 1
    place = Place(
        slide=0,
        x=start.center_x_px,
        y=start.center_y_px,
        angle_deg=normalise_angle_deg(sign * candidate.angle_deg),
        score=candidate.score,
        scale=candidate.width_um / prepared.width_um,
        mirrored=candidate.mirrored,
    )
    finest = choose_finest_level(prepared)
    for done, (level, margin_px, offsets_deg) in enumerate(ROUNDS):
        yield Tick("fitting", done, len(ROUNDS))
        place = PoseFinder(prepared, finest + level, margin_px).refine(
            place, partial(read_level, slide), offsets_deg
        )
    found = replace(
        start,
        center_x_px=float(place.x),
        center_y_px=float(place.y),
        angle_deg=normalise_angle_deg(sign * place.angle_deg),
        score=float(place.score),
    )
    return at_pixel_size(found, candidate.pixel_size_um)
