from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from comir_search.geometry import (
    adjust_candidate,
    query_to_slide,
    rows_first,
    transform,
    turn_about,
    turn_between_deg,
)
from comir_search.index.index import Index
from comir_search.progress import finish
from comir_search.records import Candidate
from comir_search.retrieval import query as query_module
from comir_search.slides import open_slide
from comir_search.slides.crop import extract_candidate
from comir_search.study.entries import ProjectQuery
from napari_comir_search.jobs.comparison import CONTEXT, checkerboard, compare_steps, curtain, read_query
from napari_comir_search.state.inspection import Face

PLACE = Candidate(1, "first.ome.tif", 500.0, 400.0, 1.0, 300.0, 260.0, 37.0, False, 0.5, 0.9)


@pytest.mark.parametrize("mirrored", [False, True])
def test_query_and_slide_lie_in_one_frame(study, mirrored: bool) -> None:
    place = replace(PLACE, mirrored=mirrored)
    with open_slide(study.slides / "first.ome.tif") as slide:
        image, info = extract_candidate(slide, place, 1.0), slide.info
    query = ProjectQuery(1, "q", "", "bf", 1.0, {"shape": image.shape[:2]})
    comparison = finish(compare_steps(query, image, place, info))
    seen, around = comparison.query, comparison.slide
    assert (seen.height_um, seen.width_um) == (260, 300)
    assert (around.height_um, around.width_um) == pytest.approx((260 * CONTEXT, 300 * CONTEXT))
    # Both are centred on the same point, so the middle of the larger one is the query.
    height, width = seen.image.shape[:2]
    top, left = (around.image.shape[0] - height) // 2, (around.image.shape[1] - width) // 2
    middle = around.image[top : top + height, left : left + width].astype(float)
    np.testing.assert_allclose(middle[5:-5, 5:-5], seen.image[5:-5, 5:-5], atol=3)


def test_the_comir_of_a_large_query_covers_all_of_it(study, monkeypatch) -> None:
    monkeypatch.setattr(query_module, "LONGEST_COMIR_PX", 60)  # so that a small query is kept coarser
    index = Index.open(study.index, "cpu")
    with open_slide(study.slides / "first.ome.tif") as slide:
        image = np.asarray(slide.read_level(0, 400, 300, 300, 260))
    query = ProjectQuery(1, "q", "", "bf", 1.0)
    picture = read_query(query, image, PLACE, index, Face.COMIR)
    assert picture.image.shape[1] < 100
    assert (picture.height_um, picture.width_um) == pytest.approx((260, 300), rel=0.05)


@pytest.mark.parametrize("mirrored", [False, True])
def test_adjusting_moves_the_slide_as_seen(mirrored: bool) -> None:
    place = replace(PLACE, mirrored=mirrored)
    adjusted = adjust_candidate(place, (12.0, -7.0), 4.0)
    before, after = (np.linalg.inv(query_to_slide(one, (260, 300))) for one in (place, adjusted))
    points = np.array([[480.0, 350.0], [600.0, 420.0]])
    moved = transform(turn_about([150, 130], 4.0, (12, -7)), transform(before, points))
    np.testing.assert_allclose(transform(after, points), moved, atol=1e-9)


def test_turns_are_counter_clockwise_as_seen() -> None:
    assert turn_between_deg((0, 0), (1, 0), (0, -1)) == pytest.approx(90)  # from the right to the top
    np.testing.assert_allclose(transform(turn_about((0, 0), 90), [1, 0]), [0, -1], atol=1e-12)
    np.testing.assert_allclose(
        transform(rows_first(turn_about((2, 3), 30, (1, 0))), [5, 4]),
        transform(turn_about((2, 3), 30, (1, 0)), [4, 5])[::-1],
    )


def test_masks() -> None:
    board = checkerboard((40, 60), tiles=6)
    assert board[0, 0] and not board[0, 10] and not board[10, 0] and board[10, 10]
    hung = curtain((40, 60), 0.25)
    assert hung[:, :15].all() and not hung[:, 15:].any()
