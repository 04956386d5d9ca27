"""Candidates cut out as the query shows them."""

import numpy as np
import pytest

from comir_search.geometry import query_to_slide, transform
from comir_search.pictures.display import Contrast, fit_picture, to_display
from comir_search.records import Candidate
from comir_search.slides import slide_from_array
from comir_search.slides.crop import extract_candidate

PIXEL_SIZE_UM = 0.5


def place(x, y, angle_deg=0.0, mirrored=False, width_um=40.0, height_um=30.0):
    return Candidate(
        1, "s", x, y, PIXEL_SIZE_UM, width_um, height_um, angle_deg, mirrored, score=1.0, confidence=1.0
    )


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("angle_deg", [0.0, 33.0, -120.0, 180.0])
@pytest.mark.parametrize("pixel_size_um", [0.5, 0.25, 1.0])
def test_every_pixel_comes_from_its_place(angle_deg, mirrored, pixel_size_um):
    candidate = place(150.3, 118.9, angle_deg, mirrored)
    shape = (round(30 / pixel_size_um), round(40 / pixel_size_um))
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    picture_px = np.stack([columns, rows], axis=-1) + 0.5
    expected = transform(query_to_slide(candidate, shape, pixel_size_um), picture_px)
    for axis, ramp in enumerate(np.mgrid[:320, :240].astype(np.float32)):
        slide = slide_from_array(ramp.T, pixel_size_um=PIXEL_SIZE_UM)  # its value is x, then y
        picture = extract_candidate(slide, candidate, pixel_size_um)
        assert picture.shape == shape
        np.testing.assert_allclose(picture + 0.5, expected[..., axis], atol=0.1)


def test_beyond_the_border_is_background():
    slide = slide_from_array(np.zeros((100, 100, 3), np.uint8), pixel_size_um=PIXEL_SIZE_UM)
    picture = extract_candidate(slide, place(0, 50, width_um=20, height_um=20), PIXEL_SIZE_UM)
    assert picture.shape == (40, 40, 3)
    assert (picture[:, :18] == 255).all() and (picture[:, 22:] == 0).all()


def test_display_of_12_bit_grey_is_not_black():
    grey = np.linspace(90, 4000, 10000).reshape(100, 100).astype(np.uint16)
    shown = to_display(grey)
    assert shown.shape == (100, 100, 3) and shown.dtype == np.uint8
    assert shown.min() == 0 and shown.max() == 255 and 110 < shown.mean() < 145


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535), (np.float32, 1.0)])
def test_display_of_colour_keeps_values(dtype, white):
    colour = (np.array([[[1.0, 0.5, 0.0]]]) * white).astype(dtype)
    assert np.abs(to_display(colour)[0, 0].astype(int) - [255, 127, 0]).max() <= 1


def test_display_of_constant_and_nan():
    assert to_display(np.full((4, 4), 7, np.uint8)).max() == 0
    assert to_display(np.full((4, 4), np.nan)).max() == 0


def test_a_contrast_that_was_set_is_kept():
    grey = np.array([[100, 200, 300, 400]], np.uint16)
    assert to_display(grey, Contrast(200, 400))[0, :, 0].tolist() == [0, 0, 128, 255]
    assert to_display(grey, Contrast(200, 400, 2.0))[0, 2].tolist() == [64, 64, 64]
    colour = np.array([[[0, 128, 255]]], np.uint8)
    assert to_display(colour, Contrast(128, 255))[0, 0].tolist() == [0, 0, 255]


def test_fit_keeps_proportions():
    assert fit_picture(np.zeros((100, 200, 3), np.uint8), 50, 50).shape == (25, 50, 3)
