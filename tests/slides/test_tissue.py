"""The tissue mask keeps all tissue and drops plainly empty places."""

from __future__ import annotations

import numpy as np
import pytest

from comir_search.errors import PixelSizeMissing
from comir_search.opencv import cv2
from comir_search.slides import slide_from_array, tissue_mask

from .conftest import paint


def brightfield(glass=(240, 238, 241), pale=12, side=2000) -> tuple[np.ndarray, np.ndarray]:
    """Two pieces on noisy glass: a dark one, and one barely darker than the glass."""
    rng = np.random.default_rng(0)
    truth = np.zeros((side, side), np.uint8)
    cv2.ellipse(truth, (600, 700), (400, 300), 20, 0, 360, 1, -1)
    cv2.ellipse(truth, (1400, 1300), (350, 450), 0, 0, 360, 2, -1)
    image = np.full((side, side, 3), glass, float)
    texture = paint(side, side, 1) / 255.0
    image[truth == 1] = np.stack([180 - 60 * texture, 110 - 60 * texture, 160 - 40 * texture], axis=2)[
        truth == 1
    ]
    image[truth == 2] -= pale
    image += rng.normal(0, 2, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), truth > 0


@pytest.mark.parametrize("grey", [False, True])
def test_brightfield(grey):
    image, truth = brightfield()
    slide = slide_from_array(image.mean(axis=2).astype(np.uint8) if grey else image, pixel_size_um=1.0)
    mask = tissue_mask(slide, 16.0)
    assert mask.shape == slide.scaled_shape(16.0)
    wanted = cv2.resize(truth.astype(np.uint8), mask.shape[::-1], interpolation=cv2.INTER_AREA) > 0
    assert mask[wanted].all()
    far = cv2.dilate(wanted.astype(np.uint8), np.ones((13, 13))) == 0
    assert mask[far].mean() < 0.01


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_signal_in_the_dark(dtype):
    rng = np.random.default_rng(0)
    _, truth = brightfield()
    peak = {"uint8": 255, "uint16": 4095, "float32": 1.0}[dtype]
    image = np.abs(rng.normal(0, 0.004, truth.shape)) * peak
    image[truth] += (0.08 + 0.9 * (paint(*truth.shape, 1) / 255.0) ** 4)[truth] * peak
    mask = tissue_mask(slide_from_array(np.clip(image, 0, peak).astype(dtype), pixel_size_um=1.0), 16.0)
    wanted = cv2.resize(truth.astype(np.uint8), mask.shape[::-1], interpolation=cv2.INTER_AREA) > 0
    assert mask[wanted].mean() > 0.999
    far = cv2.dilate(wanted.astype(np.uint8), np.ones((13, 13))) == 0
    assert mask[far].mean() < 0.01


def test_padding_is_empty_and_its_border_is_no_tissue():
    image, _ = brightfield()
    image[:, 1900:] = 255
    mask = tissue_mask(slide_from_array(image, pixel_size_um=1.0), 16.0)
    assert not mask[:, 115:].any()


def test_slide_full_of_tissue_is_kept_whole():
    image = np.stack(
        [
            170 - 60 * paint(900, 900, 1, "float32"),
            *[120 + 50 * paint(900, 900, 2, "float32")[..., c] for c in (0, 1)],
        ],
        axis=2,
    )
    mask = tissue_mask(slide_from_array(image.astype(np.uint8), pixel_size_um=1.0), 16.0)
    assert mask.all()


def test_blocks_leave_no_joints(monkeypatch):
    image, _ = brightfield()
    slide = slide_from_array(image, pixel_size_um=1.0)
    whole = tissue_mask(slide, 8.0)
    monkeypatch.setattr("comir_search.slides.tissue._BLOCK_PX", 61)
    np.testing.assert_array_equal(tissue_mask(slide, 8.0), whole)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_constant_images(value):
    for shape in ((300, 200), (300, 200, 3)):
        mask = tissue_mask(slide_from_array(np.full(shape, value, np.uint8), pixel_size_um=1.0), 8.0)
        assert mask.shape == (38, 25)


def test_needs_a_pixel_size():
    with pytest.raises(PixelSizeMissing):
        tissue_mask(slide_from_array(paint(30, 30), pixel_size_um=None), 8.0)
