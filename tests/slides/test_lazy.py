"""Reads touch only the tiles they need, hold little, and may come from many threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from comir_search.slides import lazy, open_slide
from comir_search.slides.lazy import LazyLevel
from comir_search.slides.tiled import TILE_CACHE

from .conftest import paint


def count_decodes(slide, monkeypatch) -> list:
    decoded = []
    decode = slide._decode_tile

    def counted(level, row, column):
        decoded.append((level, row, column))
        return decode(level, row, column)

    monkeypatch.setattr(slide, "_decode_tile", counted)
    return decoded


def test_only_the_tiles_needed_are_decoded_and_once(write_pyramid, monkeypatch):
    with open_slide(write_pyramid(paint(1024, 1024))) as slide:
        decoded = count_decodes(slide, monkeypatch)
        slide.read_level(0, 130, 260, 200, 100)
        assert sorted(decoded) == [(0, 2, 1), (0, 2, 2)]
        slide.read_level(0, 140, 270, 20, 20)
        slide.read_scaled(1.0, 10, 20, 30, 40)
        assert sorted(decoded) == [(0, 2, 1), (0, 2, 2), (1, 0, 0)]


def test_lazy_levels(write_pyramid, monkeypatch):
    image = paint(2100, 1300)
    with open_slide(write_pyramid(image)) as slide:
        decoded = count_decodes(slide, monkeypatch)
        levels = slide.levels
        assert [level.shape for level in levels] == [(2100, 1300, 3), (1050, 650, 3), (525, 325, 3)]
        assert (levels[0].ndim, levels[0].size, levels[0].dtype) == (3, image.size, np.uint8)
        assert not decoded
        np.testing.assert_array_equal(levels[0][1500:1600, 1100:1200], image[1500:1600, 1100:1200])
        assert len(decoded) == 4
        np.testing.assert_array_equal(np.asarray(levels[0]), image)


@pytest.mark.parametrize(
    "index",
    [
        np.s_[...], np.s_[5], np.s_[-3, 7], np.s_[4, 5, 1], np.s_[..., 0], np.s_[10:20], np.s_[10:20, ..., ::-1],
        np.s_[-20:, :-30], np.s_[::7, 200:90:-3], np.s_[30:30, 4:2], np.s_[250:900, 190:], np.s_[..., 3, 4, 2],
        np.s_[np.array([9, 2, 100]), 5],
    ],
    ids=str,
)  # fmt: skip
def test_lazy_levels_are_sliced_as_arrays_are(write_pyramid, index):
    image = paint(300, 200)
    with open_slide(write_pyramid(image)) as slide:
        np.testing.assert_array_equal(slide.levels[0][index], image[index])


SIDES = 90, 70


@st.composite
def indices(draw):
    """Whatever NumPy takes one axis at a time, at places where they exist."""

    def part(side):
        places = st.integers(-side, side - 1)
        some = st.lists(places, max_size=9).map(lambda chosen: np.array(chosen, int))
        return draw(st.one_of(places, st.slices(side), some))

    n_arrays = 0
    parts = [part(side) for side in (*SIDES, 3)[: draw(st.integers(0, 3))]]
    for place, one in enumerate(parts):  # NumPy pairs several arrays up; a level takes them one by one
        n_arrays += isinstance(one, np.ndarray)
        if n_arrays > 1 or (n_arrays and isinstance(one, int)):
            parts[place] = slice(None)
    if any(isinstance(one, np.ndarray) for one in parts):
        parts = [slice(one, one + 1 or None) if isinstance(one, int) else one for one in parts]
    if len(parts) < 3 and draw(st.booleans()):
        parts.append(Ellipsis)
    return tuple(parts)


@settings(max_examples=300, deadline=None)
@given(index=indices(), block_px=st.integers(1, 100))
def test_any_slice_of_a_level_is_that_of_an_array(index, block_px):
    image = paint(*SIDES)
    level = LazyLevel(
        lambda x, y, width, height: image[y : y + height, x : x + width].copy(), image.shape, image.dtype
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lazy, "BLOCK_PX", block_px)
        patch.setattr(lazy, "WHOLE_BYTES", 500)
        np.testing.assert_array_equal(level[index], image[index])


@pytest.mark.parametrize("index", [np.s_[::8, ::8], np.s_[::-640, 5:], np.s_[:, [7, 9000, 3]]], ids=str)
def test_every_so_many_pixels_are_read_a_block_at_a_time(index):
    """Of a level of 0.4 gigabytes, whose pixels say where they lie."""
    side, asked = 20_000, []

    def read(x, y, width, height):
        asked.append(width * height)
        rows, columns = np.ogrid[y : y + height, x : x + width]
        return (rows + columns // 8).astype(np.uint8)

    part = LazyLevel(read, (side, side), np.dtype(np.uint8))[index]
    rows, columns = (np.arange(side)[one] for one in index)
    np.testing.assert_array_equal(part, (rows[:, None] + columns // 8).astype(np.uint8))
    assert max(asked) < side * side / 50


def test_what_a_viewer_asks_for_again_is_not_read_again(write_pyramid, monkeypatch):
    with open_slide(write_pyramid(paint(600, 600))) as slide:
        first = slide.levels[0][100:500, 100:500]
        monkeypatch.setattr(slide, "_read_inside", lambda *_: pytest.fail("read again"))
        assert np.shares_memory(slide.levels[0][100:500, 100:500], first)
        assert not first.flags.writeable


def test_threads_read_the_same(write_pyramid):
    image = paint(1500, 1500)
    rng = np.random.default_rng(0)
    places = rng.integers(-50, 1400, (200, 2))
    with open_slide(write_pyramid(image, compression="jpeg")) as slide, ThreadPoolExecutor(8) as pool:
        alone = [slide.read_level(0, x, y, 150, 120) for x, y in places]
        TILE_CACHE.forget()
        together = list(pool.map(lambda place: slide.read_level(0, *place, 150, 120), places.tolist()))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_level_refuses_indices_that_it_would_take_wrongly(write_pyramid):
    with open_slide(write_pyramid(paint(256, 256))) as slide:
        for index in (None, (..., None), np.zeros((256, 256), bool)):
            with pytest.raises(IndexError, match="numbers, slices and one-dimensional arrays"):
                slide.levels[0][index]


def test_closing_releases_tiles_and_file(write_pyramid):
    path = write_pyramid(paint(512, 512))
    held = TILE_CACHE.n_bytes
    with open_slide(path) as slide:
        slide.read_level(0, 0, 0, 512, 512)
        assert TILE_CACHE.n_bytes >= held + 512 * 512 * 3
    assert TILE_CACHE.n_bytes <= held
    path.unlink()


def test_what_is_read_may_be_changed(write_pyramid):
    image = paint(256, 256)
    with open_slide(write_pyramid(image)) as slide:
        slide.read_level(0, 0, 0, 128, 128)[:] = 0
        np.testing.assert_array_equal(slide.read_level(0, 0, 0, 128, 128), image[:128, :128])


@pytest.mark.parametrize("rows", [64, 12000], ids=["strips", "one strip"])
def test_memory_of_uncompressed_strips(tmp_path, run_python, rows):
    """A 12,000 x 8,000 RGB image of 288 MB is read in a fraction of that."""
    path = tmp_path / "large.tif"
    tifffile.imwrite(path, shape=(12000, 8000, 3), dtype="uint8", photometric="rgb", rowsperstrip=rows)
    grown_mb = run_python(
        f"""
import resource
from comir_search.slides import open_slide
peak_mb = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
slide = open_slide({str(path)!r}, pixel_size_um=0.5)
slide.read_level(0, 0, 0, 10, 10)
before = peak_mb()
slide.overview(1000)
slide.read_scaled(1.3, 1000, 4000, 500, 500)
print(peak_mb() - before)
"""
    )
    assert float(grown_mb) < 200
