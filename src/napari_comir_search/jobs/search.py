"""A query is searched, fitted again near a place, and compared with every place of a slide."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from comir_search.index.index import Index
from comir_search.progress import Job
from comir_search.records import Candidate, SearchResult
from comir_search.retrieval.options import SearchOptions
from comir_search.study.entries import ProjectQuery
from napari_comir_search.jobs.queries import open_query
from napari_comir_search.jobs.threads import leave_a_core

if TYPE_CHECKING:
    from comir_search.retrieval.heat_map import HeatMap


def search_steps(
    index: Index,
    query: ProjectQuery,
    image: np.ndarray | None,
    options: SearchOptions,
) -> Job[SearchResult]:
    """Search a query; ticks carry what is known from the first stage on.

    Parameters
    ----------
    index : Index
    query : ProjectQuery
    image : ndarray or None
        Its pixels, where they lie in no file.
    options : SearchOptions
        Kind and pixel size are those of the query.
    """
    from comir_search.retrieval.search import search_steps as engine_steps

    leave_a_core()
    with open_query(query, image) as slide:
        own = replace(options, modality=query.modality or None, pixel_size_um=query.pixel_size_um)
        result = yield from engine_steps(index, slide, own)
    return replace(result, query=query.name)


def refit_steps(
    index: Index, query: ProjectQuery, image: np.ndarray | None, candidate: Candidate
) -> Job[Candidate]:
    """Look for the best fit close to a place.

    Parameters
    ----------
    index : Index
    query : ProjectQuery
    image : ndarray or None
        The pixels of the query, None where they are in its file.
    candidate : Candidate
        Where to start.
    """
    from comir_search.retrieval.refit import refit_candidate_steps

    leave_a_core()
    with open_query(query, image) as slide:
        fitted = yield from refit_candidate_steps(index, slide, query.modality, candidate)
    return fitted


def heat_map_steps(
    index: Index, query: ProjectQuery, image: np.ndarray | None, name: str, *, mirror: bool
) -> Job[HeatMap]:
    """Compare a query with every place of the slide of this name in the index.

    Parameters
    ----------
    index : Index
    query : ProjectQuery
    image : ndarray or None
        The pixels of the query, None where they are in its file.
    name : str
        The slide's name in the index.
    mirror : bool
        Search for the mirrored query too.
    """
    from comir_search.retrieval.heat_map import heat_map_steps as engine_steps

    leave_a_core()
    modality = query.modality or index.model.other(index.modality)
    with open_query(query, image) as slide:
        heat_map = yield from engine_steps(index, slide, modality, name, mirror=mirror)
    return heat_map
