"""Where and how images are measured and embedded, whatever their size."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from comir_search.model.embedding import SAMPLE_PX, embed_array, embed_parts, intensity_of
from comir_search.model.model import BF, SHG, Model
from comir_search.model.networks import build_network
from comir_search.slides.pixel_size import PixelSize
from comir_search.slides.slide import Slide

UM = 2.0
MODEL = SimpleNamespace(pixel_size_um=UM, modality=lambda name: {"bf": BF, "shg": SHG}[name])
WHITE, STAINED = 3700, 2900


class WideSlide(Slide):
    """A slide of any size that is computed where it is read; with a list of what was read at full size."""

    def __init__(self, height_px: int, width_px: int, pixel_size_um: float, channels: int = 3) -> None:
        shapes = [(height_px, width_px)]
        while max(shapes[-1]) > 1024:
            shapes.append(tuple(-(-side // 2) for side in shapes[-1]))
        super().__init__(
            name="wide",
            path="",
            format="made here",
            level_shapes=shapes,
            tile_shapes=[(512, 512)] * len(shapes),
            channels=channels,
            dtype=np.uint16,
            pixel_size=PixelSize(pixel_size_um, "user"),
            fingerprint="",
        )
        self.fields: list[tuple[int, int, int, int]] = []

    def read_scaled(self, pixel_size_um: float, x: int, y: int, width: int, height: int) -> np.ndarray:
        self.fields.append((x, y, width, height))
        return super().read_scaled(pixel_size_um, x, y, width, height)

    def _read_inside(self, level: int, x_px: int, y_px: int, width_px: int, height_px: int) -> np.ndarray:
        rows, columns = self.level_shapes[level]
        x = (np.arange(x_px, x_px + width_px) + 0.5) / columns
        y = (np.arange(y_px, y_px + height_px) + 0.5) / rows
        values = self.values(x[None, :], y[:, None]).astype(np.uint16)
        return values if self.channels == 1 else np.repeat(values[..., None], 3, axis=2)

    def values(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return stored values at shares of the width and the height."""
        return np.where(np.hypot(x - 0.5, y - 0.5) < 0.3, STAINED, WHITE)


@pytest.mark.parametrize("width_mm", [10, 15, 20, 30, 50, 75, 100])
def test_the_white_of_16_bit_slides_is_measured_right_at_every_width(width_mm):
    slide = WideSlide(round(width_mm * 370), width_mm * 1000, 1.0)
    assert intensity_of(MODEL, slide, "bf").high == pytest.approx(WHITE, rel=0.01)


@pytest.mark.parametrize("width_mm", [10, 31, 100])
def test_fields_are_measured_inside_the_slide_and_where_it_is_bright(width_mm):
    class Signal(WideSlide):
        def values(self, x, y):
            return np.where((x > 0.9) & (y > 0.5), 3000, 40) + 0 * x * y

    slide = Signal(width_mm * 500, width_mm * 1000, 1.0, channels=1)
    measured = intensity_of(MODEL, slide, "shg")
    height, width = slide.scaled_shape(UM)
    assert len(slide.fields) == 16
    for x, y, columns, rows in slide.fields:
        assert 0 <= x <= width - columns and 0 <= y <= height - rows
    bright = [x > 0.9 * width - SAMPLE_PX and y > 0.5 * height - SAMPLE_PX for x, y, *_ in slide.fields]
    assert all(bright) or width_mm < 31  # a small slide has fewer bright fields than are measured
    assert measured.high == pytest.approx(3000, rel=0.01)


@pytest.mark.parametrize("seed", range(12))
def test_the_brightest_fields_are_the_ones_that_are_read(seed):
    """Cells of the overview and fields of the slide are the same places, at any size and pixel size."""
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(4200, 60_000, 2))
    spots = rng.uniform(0.05, 0.95, (2, 3))

    class Spots(WideSlide):
        def values(self, x, y):
            far_um = [
                np.hypot((x - u) * width * self.pixel_size_um, (y - v) * height * self.pixel_size_um)
                for u, v in spots.T
            ]
            return 40 + 3000 * np.exp(-((np.min(far_um, axis=0) / 1500) ** 2))

    slide = Spots(height, width, float(rng.uniform(0.9, 2.2)), channels=1)
    intensity_of(MODEL, slide, "shg")
    x, y, *_ = slide.fields[0]
    scaled = slide.scaled_shape(UM)
    u, v = (x + SAMPLE_PX / 2) / scaled[1], (y + SAMPLE_PX / 2) / scaled[0]
    reach_um = SAMPLE_PX * UM * 1.5  # the brightest field is the one next to a spot
    near_um = min(np.hypot((u - a) * scaled[1] * UM, (v - b) * scaled[0] * UM) for a, b in spots.T)
    assert near_um < reach_um


def test_a_strip_narrower_than_a_field_is_measured_inside():
    slide = WideSlide(300, 60_000, 1.0)
    assert intensity_of(MODEL, slide, "bf").high == pytest.approx(WHITE, rel=0.01)


@pytest.mark.parametrize(("height", "width"), [(300, 420), (97, 513), (640, 333)])
def test_parts_are_embedded_as_the_whole_is(height, width):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks = nn.ModuleDict(
            {side.name: build_network("compact", side.channels, 4) for side in (BF, SHG)}
        )
    model = Model(networks, (BF, SHG), architecture="compact", comir_channels=4, pixel_size_um=UM)
    image = np.random.default_rng(1).random((height, width, 1), dtype=np.float32)
    whole = embed_array(model, image, "shg")
    parted = np.full_like(whole, np.nan)

    def read(x, y, width, height):
        assert min(x, y) >= 0 and x + width <= image.shape[1] and y + height <= image.shape[0]
        return image[y : y + height, x : x + width]

    for row, column, latents in embed_parts(model, read, image.shape[:2], "shg", 128):
        parted[:, row : row + latents.shape[1], column : column + latents.shape[2]] = latents
    np.testing.assert_allclose(parted, whole, atol=1e-4)
