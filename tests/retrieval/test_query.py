"""A query is checked before its pixels are read, and takes bounded memory."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest

from comir_search import load_model
from comir_search.errors import ComirSearchError, PixelSizeMissing
from comir_search.retrieval import query as module
from comir_search.retrieval.query import check_fits, check_query, prepare_query
from comir_search.slides import slide_from_array


class Unread:
    """An image of any size whose pixels nobody may ask for, but for the few that name it."""

    def __init__(self, height: int, width: int) -> None:
        self.shape, self.dtype, self.ndim = (height, width), np.dtype(np.uint8), 2

    def __getitem__(self, part: tuple[slice, slice]) -> np.ndarray:
        sides = [len(range(*each.indices(side))) for each, side in zip(part, self.shape, strict=True)]
        assert max(sides) <= 1024, "the pixels of a query were read that cannot be one"
        return np.zeros(sides, np.uint8)


@pytest.fixture(scope="module")
def model():
    return load_model(device="cpu")


def paint(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 255, (height // 8 + 1, width // 8 + 1), np.uint8)
    return np.kron(blocks, np.ones((8, 8), np.uint8))[:height, :width]


@pytest.mark.parametrize(
    ("side_px", "pixel_size_um", "words"),
    [
        (60_000, 1.0, ("million px", "1 um", "--pixel-size")),
        (256, 352.8, ("million px", "352.8 um", "--pixel-size")),
        (60, 1.0, ("at least 32 px", "1 um")),
    ],
)
def test_a_query_has_bounds_that_are_checked_without_reading_it(model, side_px, pixel_size_um, words):
    slide = slide_from_array(Unread(side_px, side_px), pixel_size_um=pixel_size_um, name="q.tif")
    for call in (check_query, prepare_query):
        with pytest.raises(ComirSearchError) as raised:
            call(model, slide, "shg")
        assert all(word in str(raised.value) for word in ("q.tif", *words))


def test_a_query_without_pixel_size_asks_for_it(model):
    with pytest.raises(PixelSizeMissing, match=r"q\.tif.*--pixel-size"):
        check_query(model, slide_from_array(Unread(200, 200), pixel_size_um=None, name="q.tif"), "shg")


@pytest.mark.parametrize(
    ("height", "width", "fits"),
    [(900, 900, True), (1000, 1000, True), (1200, 1000, False), (40, 2000, False), (40, 1400, True)],
)
def test_a_query_larger_than_every_slide_is_refused_with_its_pixel_size(height, width, fits):
    slide = slide_from_array(Unread(height, width), pixel_size_um=84.67, name="q.tif")
    slides = [(100.0, 100.0), (84_670.0, 84_670.0)]
    with (
        nullcontext()
        if fits
        else pytest.raises(
            ComirSearchError, match=r"q\.tif covers .* larger than|q\.tif.*84\.67 um.*--pixel-size"
        )
    ):
        check_fits(slide, slides)


def test_a_large_query_is_kept_on_a_coarser_level_and_says_the_same(model, monkeypatch):
    slide = slide_from_array(paint(500, 700), pixel_size_um=2.0, name="q.tif")
    for mirrored in (False, True):
        fine = prepare_query(model, slide, "shg", mirrored=mirrored)
        with monkeypatch.context() as patch:
            patch.setattr(module, "LONGEST_COMIR_PX", 128)
            patch.setattr(module, "PART_PX", 128)
            coarse = prepare_query(model, slide, "shg", mirrored=mirrored)
        assert (fine.level, coarse.level) == (0, 2)
        assert (fine.size_px, fine.width_um) == (coarse.size_px, coarse.width_um)
        assert coarse.signal == pytest.approx(fine.signal, abs=0.002)
        assert coarse.comir.shape == (model.comir_channels, 63, 88)
        for level in (2, 3):
            expected, found = (each.turn([33.0], level=level) for each in (fine, coarse))
            assert expected.pixels.shape == found.pixels.shape
            assert (expected.masks == found.masks).all()
            difference = (expected.pixels - found.pixels).abs()
            assert float(difference.mean()) < 0.002 and float(difference.max()) < 0.1


def test_a_constant_query_is_refused_in_parts_too(model, monkeypatch):
    monkeypatch.setattr(module, "LONGEST_COMIR_PX", 128)
    monkeypatch.setattr(module, "embed_parts", None)  # nothing is embedded before it is said
    slide = slide_from_array(np.full((500, 500), 9, np.uint8), pixel_size_um=2.0, name="q.tif")
    with pytest.raises(ComirSearchError, match=r"q\.tif is constant"):
        prepare_query(model, slide, "shg")


def test_a_query_that_differs_in_a_detail_alone_is_searched(model, monkeypatch):
    monkeypatch.setattr(module, "OVERVIEW_PX", 10)
    image = np.full((500, 500), 9, np.uint8)
    image[490:494, 490:494] = 11
    slide = slide_from_array(image, pixel_size_um=2.0, name="q.tif")
    assert np.ptp(slide.overview(10)[0]) == 0
    assert prepare_query(model, slide, "shg").comir.shape[0] == model.comir_channels


def test_a_grey_image_in_the_place_of_a_coloured_one_is_said_to_be_one(model):
    grey = paint(200, 200)
    colour = np.stack([grey, grey // 2, grey], axis=2)
    equal = np.stack([grey] * 3, axis=2)
    queries = [
        prepare_query(model, slide_from_array(image, pixel_size_um=2.0, name="q.tif"), modality)
        for image, modality in ((grey, "bf"), (equal, "bf"), (colour, "bf"), (equal, "shg"))
    ]
    assert [bool(each.mismatch) for each in queries] == [True, True, False, False]
    assert "q.tif is a grey image" in queries[1].mismatch and "--modality shg" in queries[1].mismatch
