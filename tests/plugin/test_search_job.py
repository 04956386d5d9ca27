"""Searching as the dock does it."""

from __future__ import annotations

import numpy as np
import pytest

from comir_search.index.build import index_slides
from comir_search.index.index import Index
from comir_search.progress import finish
from comir_search.retrieval.options import SearchOptions
from comir_search.slides import open_slide
from comir_search.study.entries import ProjectQuery
from napari_comir_search.jobs.search import search_steps


@pytest.fixture
def twins(study) -> Index:
    """Two slides of one name."""
    other = study.folder / "other"
    other.mkdir()
    (study.slides / "second.ome.tif").rename(other / "first.ome.tif")
    return index_slides([other], study.index, device="cpu")


def test_slides_of_one_name_are_told_apart(study, twins: Index) -> None:
    assert [slide.name for slide in twins.slides] == ["first.ome.tif"] * 2
    with open_slide(study.folder / "other" / "first.ome.tif") as slide:
        sought = slide.fingerprint
        image = np.asarray(slide.read_level(0, 200, 150, 200, 200))
    query = ProjectQuery(1, "q", "", "bf", 1.0, {"shape": image.shape[:2]})
    for chosen in ([sought], [slide.fingerprint for slide in twins.slides if slide.fingerprint != sought]):
        result = finish(search_steps(twins, query, image, SearchOptions(top=3, slides=tuple(chosen))))
        assert {candidate.fingerprint for candidate in result.candidates} == set(chosen)
