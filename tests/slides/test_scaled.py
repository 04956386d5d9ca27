"""Regions at any resolution: overlapping reads agree, and they are what they should be."""

from __future__ import annotations

import numpy as np
import pytest

from comir_search.errors import ComirSearchError, PixelSizeMissing
from comir_search.opencv import cv2
from comir_search.slides import open_slide, slide_from_array
from comir_search.slides.resample import find_taps
from comir_search.slides.slide import find_downsample

from .conftest import paint


def mean_over_areas(image: np.ndarray, scale: float, height: int, width: int) -> np.ndarray:
    """Area means by an independent way: exact integrals of the image, interpolated at the borders."""
    for axis, count in ((0, height), (1, width)):
        length = image.shape[axis]
        integral = np.insert(np.cumsum(image.astype(float), axis=axis), 0, 0, axis=axis)
        borders = np.clip(np.arange(count + 1) * scale, 0, length)
        low = np.minimum(borders.astype(int), length - 1)
        part = (borders - low).reshape([-1 if a == axis else 1 for a in range(image.ndim)])
        at_borders = np.take(integral, low, axis) * (1 - part) + np.take(integral, low + 1, axis) * part
        covered = np.diff(borders).reshape([-1 if a == axis else 1 for a in range(image.ndim)])
        image = np.diff(at_borders, axis=axis) / covered
    return image


@pytest.mark.parametrize("scale", [1.0, 1.003, 1.5, 2.0, 3.0, 4.7, 7.99, 16.0])
@pytest.mark.parametrize(("channels", "dtype"), [(3, "uint8"), (1, "uint16"), (1, "float32")])
def test_shrinking_is_the_mean_over_areas(scale, channels, dtype):
    image = paint(211, 307, channels, dtype)
    slide = slide_from_array(image, pixel_size_um=0.5)
    height, width = slide.scaled_shape(0.5 * scale)
    assert (height, width) == (int(np.ceil(211 / scale)), int(np.ceil(307 / scale)))
    scaled = slide.read_scaled(0.5 * scale, 0, 0, width, height)
    assert scaled.dtype == image.dtype
    expected = mean_over_areas(image, scale, height, width)
    np.testing.assert_allclose(scaled, expected, atol=1e-5 if dtype == "float32" else 0.51, rtol=1e-5)


@pytest.mark.parametrize("scale", [0.25, 0.4, 0.93])
def test_enlarging_is_linear(scale):
    image = paint(61, 87, 1, "float32")
    slide = slide_from_array(image, pixel_size_um=1.0)
    height, width = slide.scaled_shape(scale)
    scaled = slide.read_scaled(scale, 0, 0, width, height)
    y, x = ((np.arange(count) + 0.5) * scale - 0.5 for count in (height, width))
    map_x, map_y = np.meshgrid(x.astype(np.float32), y.astype(np.float32))
    expected = cv2.remap(image, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    np.testing.assert_allclose(scaled, expected, atol=0.02)  # cv2 works in 1/32 px


@pytest.mark.parametrize("pixel_size_um", [0.3, 0.5, 0.77, 1.0, 2.0, 2.9, 4.0, 13.0])
def test_overlapping_reads_agree(write_pyramid, pixel_size_um):
    rng = np.random.default_rng(1)
    with open_slide(write_pyramid(paint(1003, 871), levels=4)) as slide:
        height, width = slide.scaled_shape(pixel_size_um)
        whole = slide.read_scaled(pixel_size_um, -40, -40, width + 80, height + 80).astype(int)
        assert (whole[:40] == 255).all() and (whole[:, -40:] == 255).all()
        for _ in range(12):
            x, y = rng.integers(-40, width), rng.integers(-40, height)
            w, h = rng.integers(1, width + 41 - x), rng.integers(1, height + 41 - y)
            part = slide.read_scaled(pixel_size_um, x, y, w, h).astype(int)
            assert np.abs(part - whole[y + 40 : y + 40 + h, x + 40 : x + 40 + w]).max() <= 1


def test_large_reads_are_made_of_blocks_without_joints():
    """More level pixels than one step may hold."""
    image = paint(2500, 5000, 1)
    slide = slide_from_array(image, pixel_size_um=1.0)
    height, width = slide.scaled_shape(1.3)
    scaled = slide.read_scaled(1.3, 0, 0, width, height)
    np.testing.assert_allclose(scaled, mean_over_areas(image, 1.3, height, width), atol=0.51)


def test_content_stays_in_place_at_every_resolution(write_pyramid):
    """A spot's centre, in um, is the same whichever level is read."""
    y, x = (np.arange(1024) + 0.5 - middle for middle in (351.3, 532.8))
    image = 50 * np.exp(-(y[:, None] ** 2 + x**2) / (2 * 30.0**2))
    with open_slide(write_pyramid(image.astype(np.float32), levels=4)) as slide:
        for size_um in (0.35, 0.5, 0.8, 1.0, 1.7, 2.0, 3.1, 4.0, 6.0):
            height, width = slide.scaled_shape(size_um)
            weight = slide.read_scaled(size_um, 0, 0, width, height).astype(float)
            y = (weight.sum(axis=1) * (np.arange(height) + 0.5)).sum() / weight.sum() * size_um
            x = (weight.sum(axis=0) * (np.arange(width) + 0.5)).sum() / weight.sum() * size_um
            assert abs(y - 351.3 * 0.5) < 0.01 and abs(x - 532.8 * 0.5) < 0.01


def test_outside_is_background():
    grey = slide_from_array(paint(40, 30, 1, "uint16"), pixel_size_um=1.0)
    colour = slide_from_array(paint(40, 30, 3, "uint16"), pixel_size_um=1.0)
    for slide, background in ((grey, 0), (colour, 65535)):
        assert (slide.read_level(0, -10, 100, 5, 6) == background).all()
        assert (slide.read_scaled(2.0, 100, -100, 5, 6) == background).all()
        assert slide.read_level(0, 0, 0, 0, 5).shape[:2] == (5, 0)
        beyond = slide.read_level(0, 25, 35, 10, 10)
        assert (beyond[5:] == background).all() and (beyond[:, 5:] == background).all()
        np.testing.assert_array_equal(beyond[:5, :5], slide.read_level(0, 25, 35, 5, 5))


def test_nearest_finer_level_is_read(write_pyramid):
    with open_slide(write_pyramid(paint(800, 800), levels=4)) as slide:
        assert [slide.level_for(d) for d in (0.3, 1, 1.99, 2, 3.9, 4, 7, 8, 100)] == [
            0,
            0,
            0,
            1,
            1,
            2,
            2,
            3,
            3,
        ]


def test_overview(write_pyramid):
    with open_slide(write_pyramid(paint(900, 1400))) as slide:
        image, size_um = slide.overview(256)
        assert image.shape == (165, 256, 3)
        assert size_um == pytest.approx(0.5 * 1400 / 256)
    small = slide_from_array(paint(30, 40, 1), pixel_size_um=None)
    image, size_um = small.overview(256)
    np.testing.assert_array_equal(image, paint(30, 40, 1))
    assert size_um is None


def test_without_pixel_size_only_scaled_reads_fail():
    slide = slide_from_array(paint(40, 30), pixel_size_um=None, name="patch.tif")
    for read in (lambda: slide.read_scaled(1.0, 0, 0, 4, 4), lambda: slide.scaled_shape(1.0)):
        with pytest.raises(
            PixelSizeMissing, match="patch.tif gives no pixel size: give it with --pixel-size"
        ):
            read()


@pytest.mark.parametrize("shape", [(4,), (3, 4, 5, 6), (4, 5, 2), (0, 5)])
def test_arrays_that_are_no_images(shape):
    with pytest.raises(ComirSearchError, match="layer"):
        slide_from_array(np.zeros(shape, np.uint8), pixel_size_um=1.0, name="layer")


def test_arrays_keep_their_type_and_lose_alpha():
    assert slide_from_array(paint(9, 8, 4), pixel_size_um=1.0).channels == 3
    assert slide_from_array(paint(9, 8, 1)[..., None], pixel_size_um=1.0).channels == 1
    mask = slide_from_array(paint(9, 8, 1) > 99, pixel_size_um=1.0)
    assert set(np.unique(mask.read_level(0, 0, 0, 8, 9))) == {0, 255}


def test_fingerprint_of_an_array_is_its_content():
    first, again, other = (
        slide_from_array(paint(90, 80, seed=seed), pixel_size_um=1.0) for seed in (0, 0, 1)
    )
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_dask_arrays_are_not_computed_whole():
    import dask.array

    seen = []

    def block(block_info):
        seen.append(block_info[None]["chunk-location"])
        return np.full((100, 100), len(seen), np.uint8)

    array = dask.array.map_blocks(
        block, chunks=((100,) * 20, (100,) * 20), dtype=np.uint8, meta=np.empty((0, 0), np.uint8)
    )
    slide = slide_from_array(array, pixel_size_um=1.0)
    before = len(seen)
    assert before <= 16  # the fingerprint's sample
    slide.read_level(0, 10, 20, 50, 50)
    assert len(seen) == before + 1


@pytest.mark.parametrize(
    ("full", "level", "downsample"),
    [((3567, 4443), (1783, 2221), 2), ((5901, 7966), (369, 498), 16), ((1000, 1000), (400, 400), 2.5),
     ((100_000, 90_001), (3125, 2812), 32), ((7, 7), (1, 1), 7)],
)  # fmt: skip
def test_downsample(full, level, downsample):
    assert find_downsample(full, level) == pytest.approx(downsample)


def test_taps_do_not_depend_on_the_part():
    for scale in (0.37, 1.0, 1.9, 6.3):
        whole = find_taps(-5, 60, scale, 90)
        part = find_taps(11, 20, scale, 90)
        used = part.index.shape[1]
        np.testing.assert_array_equal(part.inside, whole.inside[16:36])
        np.testing.assert_allclose(part.weight, whole.weight[16:36, :used], atol=1e-7)
