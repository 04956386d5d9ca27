"""The slides that the benchmarks are run on are what scanners write."""

from __future__ import annotations

import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tifffile

from comir_search.slides import open_slide

sys.path.insert(0, str(Path(__file__).parent))
import giant_slide

SIDE_PX = 10_000  # 0.1 gigapixels


@pytest.fixture(scope="module")
def canvas() -> giant_slide.Canvas:
    """One cell of tissue, at 0.5 um, on glass."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(60, 220, (128, 128, 3), dtype=np.uint8)
    source = giant_slide.Source.make(coarse.repeat(16, axis=0).repeat(16, axis=1), 0.5)
    patch = giant_slide.Patch(source, (512.0, 512.0), turns=1)
    return giant_slide.Canvas(SIDE_PX, {(1, 0): patch}, origin_px=-1600)


@pytest.mark.parametrize(
    ("kind", "name", "tile_px", "steps", "source"),
    [
        ("svs", "Aperio SVS", 256, (1, 4, 16), "Aperio MPP"),
        ("ome", "OME-TIFF", 512, (1, 2, 4, 8), "OME PhysicalSizeX"),
    ],
)
def test_a_slide_is_written_tile_by_tile_and_read_again(canvas, tmp_path, kind, name, tile_px, steps, source):
    path = tmp_path / f"giant.{'svs' if kind == 'svs' else 'ome.tif'}"
    tracemalloc.start()
    giant_slide.write_slide(path, canvas, kind)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.1 * 3 * SIDE_PX**2
    with open_slide(path) as slide:
        assert slide.info.format == name
        assert (slide.pixel_size_um, slide.info.pixel_size_source) == (0.25, source)
        assert slide.level_shapes[: len(steps)] == tuple((SIDE_PX // step,) * 2 for step in steps)
        # Where the tissue begins, on glass and in a corner that the file's tiles do not fill.
        for x, y in ((0, 2400), (900, 4000), (7000, 300), (9900, 9900)):
            fine = slide.read_level(0, x, y, 96, 96).astype(float)
            coarse = slide.read_level(1, x // steps[1], y // steps[1], 96 // steps[1], 96 // steps[1])
            means = fine.reshape(96 // steps[1], steps[1], 96 // steps[1], steps[1], 3).mean(axis=(1, 3))
            assert np.abs(means - coarse).mean() < 8
        assert slide.read_level(0, 900, 4000, 96, 96).std() > 8 > slide.read_level(0, 7000, 300, 96, 96).std()
    with tifffile.TiffFile(path) as file:
        first = file.pages[0]
        assert first.compression.name == "JPEG" and first.tile == (tile_px, tile_px)
        if kind == "svs":
            assert "AppMag = 40|MPP = 0.25" in first.description and not file.pages[1].is_tiled
            assert all(page.is_tiled for page in file.pages[2:])
