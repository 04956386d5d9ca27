"""Scan and pose on CoMIRs of known content: the geometry of the whole search."""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch

from comir_search.geometry import angle_difference_deg, turn_matrix
from comir_search.index.levels import read_level
from comir_search.matching.correlation import correlate_window, transform_templates
from comir_search.matching.places import Place, keep_distinct
from comir_search.matching.pose import PoseFinder
from comir_search.matching.query import Query
from comir_search.matching.templates import shrink, turn_templates
from comir_search.model.embedding import decode
from comir_search.opencv import cv2
from comir_search.progress import finish
from comir_search.retrieval.scan import Scanner, choose_finest_level, choose_scan_levels, scan_slides
from comir_search.retrieval.verification import Verifier
from comir_search.retrieval.workers import LocalSearchRunner

CHANNELS = 3


class MemorySlide:
    """An indexed slide that lies in memory."""

    fingerprint = "f" * 32

    def __init__(self, comir: np.ndarray) -> None:
        self.comir_shape = comir.shape
        coded = (comir + 1) * 127.5
        self._levels = [np.rint(shrink(coded, 2**level)).astype(np.uint8) for level in range(4)]
        self.tissue = np.ones((comir.shape[1] // 8, comir.shape[2] // 8), bool)
        self.tissue_step_px = 8.0
        self.size_um = comir.shape[1] * 4.0, comir.shape[2] * 4.0

    def read_comir(self, level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
        whole = self._levels[level]
        part = np.full((len(whole), height, width), 128, np.uint8)
        top, bottom = max(y, 0), min(y + height, whole.shape[1])
        left, right = max(x, 0), min(x + width, whole.shape[2])
        if top < bottom and left < right:
            part[:, top - y : bottom - y, left - x : right - x] = whole[:, top:bottom, left:right]
        return part


@pytest.fixture(scope="module")
def comir():
    """Smooth noise, as CoMIRs are."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((CHANNELS, 560, 640)).astype(np.float32)
    smooth = np.stack([cv2.GaussianBlur(channel, (0, 0), 4.0) for channel in noise])
    return np.tanh(smooth / smooth.std())


def cut(
    comir: np.ndarray, x: float, y: float, angle_deg: float, size: tuple[int, int], mirrored=False
) -> Query:
    """Cut a query out as a microscope would, by the convention of the design."""
    height, width = size
    u, v = np.meshgrid(np.arange(width) + 0.5 - width / 2, np.arange(height) + 0.5 - height / 2)
    offsets = np.stack([u, v], axis=-1) @ turn_matrix(angle_deg, mirrored).T
    points = (offsets + [x, y] - 0.5).astype(np.float32)
    patch = np.stack(
        [cv2.remap(channel, points[..., 0], points[..., 1], cv2.INTER_LINEAR) for channel in comir]
    )
    return Query("q", patch, (height, width), height * 4.0, width * 4.0, 1.0)


@pytest.mark.parametrize(
    ("x", "y", "angle_deg", "size"),
    [(200.3, 310.7, 0.0, (96, 96)), (400.5, 150.2, 37.0, (96, 96)), (300.0, 300.0, -141.0, (72, 110)),
     (150.8, 200.1, 90.0, (110, 64)), (420.0, 400.0, 179.0, (80, 80))],
)  # fmt: skip
def test_scan_and_pose_find_place_and_angle(comir, x, y, angle_deg, size):
    slide, query = MemorySlide(comir), cut(comir, x, y, angle_deg, size)
    scanner = Scanner(query, 2, 36)
    for _, _, places in scan_slides(scanner, [(0, slide)], 5, 10.0):
        pass
    best = PoseFinder(query, 1, 6).refine(places[0], partial(read_level, slide), (-5.0, 0.0, 5.0))
    best = PoseFinder(query, 0, 6).refine(best, partial(read_level, slide), (-2.5, 0.0, 2.5))
    best = PoseFinder(query, 0, 4).refine(best, partial(read_level, slide), (-1.0, 0.0, 1.0))
    assert np.hypot(best.x - x, best.y - y) < 0.4
    assert angle_difference_deg(best.angle_deg, angle_deg) < 0.6
    assert best.score > 0.9


def test_poses_are_found_side_by_side_while_turned_copies_are_dropped(comir, monkeypatch):
    monkeypatch.setattr("comir_search.matching.pose.CACHE_BYTES", 0)  # each copy drops all others

    class Forgetful(dict):
        """Gives other threads time to drop what is found."""

        def __contains__(self, key: object) -> bool:
            return self._late(super().__contains__(key))

        def get(self, key: object, default: object = None) -> object:
            return self._late(super().get(key, default))

        @staticmethod
        def _late(found: object) -> object:
            time.sleep(0.001)
            return found

    slide, query = MemorySlide(comir), cut(comir, 300, 250, 20.0, (40, 40))
    finder = PoseFinder(query, 0, 4)
    finder._cache = Forgetful()
    places = [Place(0, 301, 249, 20.0 + number % 3, 0.0) for number in range(60)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda place: finder.refine(place, partial(read_level, slide), (0.0,)), places))
    assert all(np.hypot(place.x - 300, place.y - 250) < 1 for place in found)


def test_pose_finds_a_wrong_scale(comir):
    slide, query = MemorySlide(comir), cut(comir, 300, 250, 20.0, (100, 100))
    stretched = np.stack([cv2.resize(channel, (104, 104)) for channel in query.comir])
    wrong = Query("q", stretched, (104, 104), 416, 416, 1.0)
    start = Place(0, 301, 249, 21.0, 0.0)
    finder = PoseFinder(wrong, 0, 6)
    fixed = finder.refine(start, partial(read_level, slide), (-2, 0, 2))
    scaled = finder.refine(start, partial(read_level, slide), (-2, 0, 2), scales=(0.96, 1.0, 1.04))
    assert scaled.scale == pytest.approx(0.96)
    assert scaled.score > fixed.score


def test_empty_glass_does_not_win(comir):
    half = comir.copy()
    half[:, :, :320] *= 0.01
    slide, query = MemorySlide(half), cut(comir, 480, 300, 10.0, (64, 64))
    scanner = Scanner(query, 2, 36)
    for _, _, places in scan_slides(scanner, [(0, slide)], 5, 8.0):
        pass
    assert np.hypot(places[0].x - 480, places[0].y - 300) < 8


def test_query_may_overhang_the_slide(comir):
    query = cut(
        np.pad(comir, ((0, 0), (0, 0), (60, 0))), 75, 250, 0.0, (96, 96)
    )  # 33 px hang over the left border
    slide = MemorySlide(comir)
    for _, _, places in scan_slides(Scanner(query, 2, 36), [(0, slide)], 5, 10.0):
        pass
    assert np.hypot(places[0].x - 15, places[0].y - 250) < 6


@pytest.mark.parametrize("size", [(64, 64), (48, 100), (90, 40)], ids=["square", "wide", "high"])
def test_a_tile_is_compared_with_the_query_at_all_angles(comir, size):
    """Turning what is scanned stands for three quarters of the angles."""
    slide, query = MemorySlide(comir), cut(comir, 300, 260, 100.0, size)
    scanner = Scanner(query, 2, 23)
    assert list(scanner.angles_deg[[0, 1, 6, 12, 18]]) == [0, 15, 90, 180, -90]
    (tile, *_) = scanner.tiles(slide)
    scores = scanner.correlate(slide, tile)
    spectra = scanner.spectra
    window = slide.read_comir(2, *(start - spectra.side // 2 for start in tile), spectra.size, spectra.size)
    templates = turn_templates(query.comir, query.size_px, [float(a) for a in scanner.angles_deg], level=2)
    expected = correlate_window(
        transform_templates(templates, spectra.size, roughly=True), torch.from_numpy(decode(window))
    )[:, : scores.shape[0], : scores.shape[1]]
    assert torch.allclose(scores, expected.amax(0), atol=2e-4)
    for place in scanner.scan(slide, 0, tile, 9):
        column = expected[:, int(place.y / 4) - tile[1], int(place.x / 4) - tile[0]]
        assert place.score == pytest.approx(float(column.max()), abs=2e-4)
        assert float(column[list(scanner.angles_deg).index(place.angle_deg)]) == pytest.approx(
            place.score, abs=2e-4
        )


def test_tiles_of_given_places_are_scanned_first(comir):
    slides = [(number, MemorySlide(comir)) for number in (0, 1)]
    scanner = Scanner(cut(comir, 480, 400, 10.0, (64, 64)), 1, 36)
    tiles = [len(scanner.tiles(slide)) for _, slide in slides]
    assert min(tiles) > 3
    near = [Place(1, 480, 400, 0, 0.5), Place(0, 20, 20, 0, 0.4)]
    steps = list(scan_slides(scanner, slides, 5, 10.0, near=near, tile_limit=2))
    assert steps[-1][:2] == (2, 2)
    assert {place.slide for place in steps[-1][2]} == {0, 1}
    best = steps[-1][2][0]
    assert best.slide == 1 and np.hypot(best.x - 480, best.y - 400) < 6
    assert list(scan_slides(scanner, slides, 5, 10.0, near=near))[-1][1] == sum(tiles)


@pytest.mark.parametrize(
    ("side_um", "levels"),
    [
        (128, (2, 1)),
        (384, (2, 1)),
        (700, (2, 1)),
        (1000, (2, None)),
        (2000, (3, None)),
        (4000, (4, None)),
        (8000, (5, None)),
        (15000, (6, None)),
    ],
)
def test_large_queries_are_scanned_more_coarsely(side_um, levels):
    side = side_um // 4
    query = Query("q", np.zeros((1, side, side), np.float32), (side, side), side_um, side_um, 1.0)
    assert choose_scan_levels(query) == levels


def test_templates_follow_the_convention(comir):
    """A template for the true angle is the slide's own content."""
    query = cut(comir, 300, 280, 63.0, (60, 90))
    templates = turn_templates(query.comir, query.size_px, [63.0])
    side = templates.side
    own = comir[:, 280 - side // 2 : 280 + side // 2, 300 - side // 2 : 300 + side // 2]
    mask = templates.masks[0].numpy() > 0.99
    assert mask.sum() == pytest.approx(60 * 90, rel=0.08)
    assert np.corrcoef(templates.pixels[0].numpy()[:, mask].ravel(), own[:, mask].ravel())[0, 1] > 0.98


@pytest.mark.parametrize("wanted", [10, 30, 100])
def test_as_many_distinct_places_are_verified_as_are_asked_for(comir, wanted):
    slide, query = MemorySlide(comir), cut(comir, 200, 310, 0.0, (32, 32))
    radius_px = 0.2 * query.short_side_px
    for _, _, places in scan_slides(Scanner(query, 2, 24), [(0, slide)], 4000, radius_px, per_tile=4000):
        pass
    verifier = Verifier([query], [slide], 15.0, radius_px, wanted, LocalSearchRunner())
    best, coarsest = finish(verifier.verify_steps(places, wanted=wanted))
    assert len(coarsest) > wanted
    assert wanted <= len(best) <= max(wanted, 12)
    centers = np.array([(place.x, place.y) for place in best])
    apart = np.hypot(*(centers[:, None] - centers[None]).T)
    assert apart[np.triu_indices(len(best), 1)].min() >= radius_px
    assert np.hypot(best[0].x - 200, best[0].y - 310) < 1
    quick, _ = finish(
        Verifier([query], [slide], 15.0, radius_px, 10, LocalSearchRunner()).verify_steps(places)
    )
    assert [place.score for place in quick[:3]] == pytest.approx([place.score for place in best[:3]])


def test_fewer_are_verified_only_where_there_are_no_more(comir):
    slide, query = MemorySlide(comir), cut(comir, 200, 310, 0.0, (64, 64))
    places = [Place(0, 200 + 4 * number, 310, 0.0, 1.0 - number / 100) for number in range(3)]
    places += [Place(0, 400, 100 + 90 * number, 0.0, 0.5) for number in range(3)]
    best, _ = finish(
        Verifier([query], [slide], 15.0, 12.8, 10, LocalSearchRunner()).verify_steps(places, wanted=10)
    )
    assert 4 <= len(best) < 6  # the first three are one


def test_a_large_query_is_placed_on_levels_that_the_index_does_not_store():
    rng = np.random.default_rng(4)
    coarse = np.stack([cv2.GaussianBlur(rng.standard_normal((200, 220)).astype(np.float32), (0, 0), 1.5)] * 2)
    coarse[1] = cv2.GaussianBlur(rng.standard_normal((200, 220)).astype(np.float32), (0, 0), 1.5)
    large = np.stack(
        [cv2.resize(np.tanh(6 * each), (2640, 2400), interpolation=cv2.INTER_CUBIC) for each in coarse]
    )
    slide = MemorySlide(np.clip(large, -1, 1))
    query = cut(large, 1400.0, 1150.0, 21.0, (1500, 1400))
    levels = choose_scan_levels(query)
    assert levels == (5, None) and choose_finest_level(query) == 3
    for _, _, places in scan_slides(Scanner(query, levels[0], 90), [(0, slide)], 40, 280.0):
        pass
    best, _ = finish(Verifier([query], [slide], 4.0, 280.0, 3, LocalSearchRunner(), 3).verify_steps(places))
    assert np.hypot(best[0].x - 1400, best[0].y - 1150) < 4
    assert angle_difference_deg(best[0].angle_deg, 21.0) < 0.3


def test_tissue_near_the_far_edge_of_a_wide_slide_is_scanned():
    """The last tile whose tissue lies in the first part of a pixel of the mask."""
    slide = MemorySlide(np.zeros((2, 96, 8 * 170 * 4 + 1), np.float32))
    slide.tissue = np.zeros((12, 170 * 4 + 1), bool)
    scanner = Scanner(Query("q", np.zeros((2, 32, 32), np.float32), (32, 32), 128, 128, 1.0), 2, 4)
    for column in range(slide.tissue.shape[1]):
        slide.tissue[:] = False
        slide.tissue[:, column] = True
        first, last = column * 8 // 4, (column * 8 + 7) // 4
        expected = {pixel // scanner.step_px * scanner.step_px for pixel in (first, last)}
        assert {x for x, _ in scanner.tiles(slide)} == expected


def test_keep_distinct_keeps_the_best_of_neighbours():
    places = [
        Place(0, 10, 10, 0, 0.5),
        Place(0, 14, 10, 90, 0.9),
        Place(1, 10, 10, 0, 0.4),
        Place(0, 80, 10, 0, 0.1),
    ]
    kept = keep_distinct(places, 8.0, 10)
    assert [place.score for place in kept] == [0.9, 0.4, 0.1]
    assert len(keep_distinct(places, 8.0, 2)) == 2
