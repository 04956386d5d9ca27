"""Places that lie together are one."""

import time

import numpy as np
import pytest

from comir_search.matching.places import Place, keep_distinct


def keep_slowly(places, radius_px, count):
    """The definition: the best place that is near none of those kept, again and again."""
    kept = []
    for place in sorted(places, key=lambda place: -place.score):
        near = (
            np.hypot(each.x - place.x, each.y - place.y) < radius_px
            for each in kept
            if each.slide == place.slide
        )
        if len(kept) < count and not any(near):
            kept.append(place)
    return kept


def scatter(count, side_px, seed=0):
    rng = np.random.default_rng(seed)
    values = zip(
        rng.integers(0, 3, count), rng.normal(0, side_px, (count, 2)), rng.random(count), strict=True
    )
    return [Place(int(slide), float(x), float(y), 0.0, round(score, 2)) for slide, (x, y), score in values]


@pytest.mark.parametrize("count", [0, 1, 40, 10_000])
@pytest.mark.parametrize("radius_px", [0.0, 0.3, 12.8, 70.0, 1e6])
def test_the_same_places_are_kept_as_by_definition(radius_px, count):
    places = scatter(600, 150.0)
    assert keep_distinct(places, radius_px, count) == keep_slowly(places, radius_px, count)


def test_places_on_the_borders_of_cells():
    radius_px = 12.5
    grid = np.arange(-3, 4) * radius_px
    rng = np.random.default_rng(1)
    places = [
        Place(0, float(x + dx), float(y), 0.0, rng.random()) for x in grid for y in grid for dx in (0, 1e-13)
    ]
    assert keep_distinct(places, radius_px, 99) == keep_slowly(places, radius_px, 99)


def test_many_places_take_no_longer_each_than_few():
    """Watchdog: comparing each with all took seconds, and four times as long for twice as many."""
    places = scatter(32_000, 20_000.0)
    started_s = time.process_time()
    assert len(keep_distinct(places, 60.0, 16_000)) == 16_000
    assert time.process_time() - started_s < 3
