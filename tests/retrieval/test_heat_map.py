"""The map of a slide says where a query fits."""

from __future__ import annotations

import numpy as np
import pytest

from comir_search.progress import finish
from comir_search.retrieval import heat_map
from comir_search.retrieval.heat_map import HeatMap, draw_map_steps

from .test_stages import MemorySlide, comir, cut  # noqa: F401

UM = 4.0  # of a CoMIR pixel


@pytest.fixture
def slide(comir):  # noqa: F811
    slide = MemorySlide(comir)
    slide.tissue = slide.tissue.copy()
    slide.tissue[:, :10] = False
    return slide


def make_map(slide, queries) -> HeatMap:
    return finish(draw_map_steps(slide, queries, UM))


@pytest.mark.parametrize(("x", "y", "angle_deg"), [(330.0, 260.0, 0.0), (210.0, 300.0, 73.0)])
def test_the_peak_is_where_the_query_was_cut(slide, comir, x, y, angle_deg) -> None:  # noqa: F811
    made = make_map(slide, [cut(comir, x, y, angle_deg, (120, 140))])
    row, column = np.unravel_index(np.nanargmax(made.scores), made.scores.shape)
    assert (column * made.pixel_um + made.first_um) / UM == pytest.approx(x, abs=4)
    assert (row * made.pixel_um + made.first_um) / UM == pytest.approx(y, abs=4)
    low, high = made.limits
    assert low < 0.5 < high <= 1.0


def test_a_mirrored_query_is_found_where_it_was_asked_for(slide, comir) -> None:  # noqa: F811
    other = cut(comir, 150.0, 400.0, 0.0, (120, 120))
    made = make_map(slide, [cut(comir[:, ::-1], 300.0, 200.0, 20.0, (120, 120)), other])
    row, column = np.unravel_index(np.nanargmax(made.scores), made.scores.shape)
    assert (column * 4, row * 4) == pytest.approx((150, 400), abs=4)


def test_glass_has_no_score(slide, comir) -> None:  # noqa: F811
    made = make_map(slide, [cut(comir, 330.0, 260.0, 0.0, (120, 120))])
    assert made.scores.shape == (140, 160)
    assert np.isnan(made.scores[:, :20]).all() and np.isfinite(made.scores[:, 20:]).all()


def test_a_large_map_keeps_its_peaks(slide, comir, monkeypatch) -> None:  # noqa: F811
    query = cut(comir, 330.0, 260.0, 0.0, (120, 120))
    whole = make_map(slide, [query])
    monkeypatch.setattr(heat_map, "LONGEST_PX", 60)
    small = make_map(slide, [query])
    assert max(small.scores.shape) <= 60 and small.pixel_um == 3 * whole.pixel_um
    assert np.nanmax(small.scores) == np.nanmax(whole.scores)
    row, column = np.unravel_index(np.nanargmax(small.scores), small.scores.shape)
    assert (column * small.pixel_um + small.first_um) / UM == pytest.approx(330, abs=8)
    assert (row * small.pixel_um + small.first_um) / UM == pytest.approx(260, abs=8)


def test_an_empty_map_has_limits() -> None:
    assert HeatMap("p", np.full((3, 3), np.nan, np.float32), 1.0, 0.0).limits == (0.0, 1.0)
