"""The picture of an answer: rectangles where they belong, nothing missing that can be shown."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from comir_search.errors import ComirSearchError
from comir_search.export.overlay import MARGIN_PX, scale_bar_um, write_overlay
from comir_search.geometry import candidate_corners_px
from comir_search.pictures.palette import SERIES
from comir_search.records import Candidate, SearchResult
from comir_search.slides import slide_from_array


def slide(name="a.tif", width_px=1000, height_px=800):
    pixels = np.full((height_px, width_px, 3), 200, np.uint8)
    return slide_from_array(pixels, pixel_size_um=1.0, name=name)


def query(name="q.tif"):
    return slide_from_array(np.random.default_rng(0).random((64, 64)), pixel_size_um=2.0, name=name)


def place(rank=1, x=500.0, y=400.0, angle_deg=30.0, name="a.tif"):
    return Candidate(rank, name, x, y, 1.0, 128.0, 128.0, angle_deg, False, 0.5, 0.8)


def draw(path, results, queries, slides):
    write_overlay(path, results, queries, {slide.name: slide for slide in slides})
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_rectangle_lies_where_the_candidate_does(tmp_path):
    candidate = place()
    result = SearchResult("q.tif", True, "Clear.", {}, (candidate,))
    page = draw(tmp_path / "out.png", [result], [query()], [slide()])
    grey = np.abs(page - 200).max(axis=2) < 3
    scale = np.flatnonzero(grey[MARGIN_PX + 5])[-1] - MARGIN_PX
    scale = (scale + 1) / 1000
    corners = candidate_corners_px(candidate) * scale + MARGIN_PX
    for first, second in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        x, y = np.rint(0.3 * first + 0.7 * second).astype(int)
        assert np.abs(page[y - 1 : y + 2, x - 1 : x + 2] - SERIES[0]).max(axis=2).min() < 40
    x, y = np.rint(corners.mean(axis=0)).astype(int)
    assert grey[y, x]


def test_single_result_draws_several_candidates(tmp_path):
    candidates = tuple(place(rank, x=150.0 * rank, angle_deg=0.0) for rank in (1, 2, 3))
    result = SearchResult("q.tif", False, "Doubtful.", {}, candidates)
    page = draw(tmp_path / "out.png", [result], [query()], [slide()])
    for colour in SERIES[:3]:
        assert (np.abs(page - colour).max(axis=2) < 10).sum() > 200


def test_several_results_draw_what_was_found(tmp_path):
    results = [
        SearchResult("q.tif", True, "Clear.", {}, (place(),)),
        SearchResult("r.tif", False, "Nothing agrees.", {}, (place(x=200.0),)),
        SearchResult("s.tif", True, "Clear.", {}, (place(name="b.tif"),)),
    ]
    queries = [query("q.tif"), query("r.tif"), query("s.tif")]
    page = draw(tmp_path / "out.png", results, queries, [slide(), slide("b.tif")])
    seen = [(np.abs(page - colour).max(axis=2) < 10).sum() > 200 for colour in SERIES[:3]]
    assert seen == [True, False, True]


@pytest.mark.parametrize("slides", [[], [slide("other.tif")]])
def test_slides_that_are_not_at_hand_are_only_listed(tmp_path, slides):
    result = SearchResult("q.tif", True, "Clear.", {}, (place(),))
    assert draw(tmp_path / "out.png", [result], [query()], slides).min() < 100


def test_a_candidate_is_drawn_on_the_slide_of_its_name_in_the_index(tmp_path):
    """Two slides of one fingerprint: the second is called by its identity."""
    slides = {"f" * 32: slide(), "1" * 32: slide()}
    for name, column in (("f" * 32, 0), ("1" * 32, 1)):
        candidate = replace(place(), fingerprint=name)
        other = replace(place(angle_deg=0.0), fingerprint="f" * 32 if column else "1" * 32)
        results = [SearchResult("q.tif", True, "Clear.", {}, (each,)) for each in (candidate, other)]
        write_overlay(tmp_path / "out.png", results, [query()] * 2, slides)
        with Image.open(tmp_path / "out.png") as image:
            page = np.asarray(image.convert("RGB")).astype(int)
        for colour in SERIES[:2]:
            assert (np.abs(page - colour).max(axis=2) < 10).sum() > 200
    write_overlay(
        tmp_path / "out.png",
        results[:1],
        [query()],
        {"1" * 32: slide("b.tif", 400, 800)} | {"e" * 32: slide()},
    )
    with Image.open(tmp_path / "out.png") as image:
        narrow = image.width
    write_overlay(tmp_path / "out.png", results[:1], [query()], {"1" * 32: slide()})
    with Image.open(tmp_path / "out.png") as image:
        assert narrow < image.width


def test_no_candidate_at_all(tmp_path):
    page = draw(tmp_path / "out.png", [SearchResult("q.tif", False, "Dark.")], [query()], [slide()])
    assert page.shape[1] > 1000


def test_unwritable_place_is_said(tmp_path):
    with pytest.raises(ComirSearchError, match="its folder does not exist"):
        write_overlay(tmp_path / "none" / "out.png", [SearchResult("q.tif", False, "")], [query()], {})


@pytest.mark.parametrize(("span_um", "bar_um"), [(3000, 500), (999, 100), (52000, 10000), (10, 2)])
def test_scale_bar_is_round(span_um, bar_um):
    assert scale_bar_um(span_um) == pytest.approx(bar_um)
