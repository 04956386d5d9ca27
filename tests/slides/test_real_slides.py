"""Real slides, read as tifffile reads them whole and as OpenSlide does."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from comir_search.slides import open_slide, tissue_mask

SLIDES = {
    "wsi/CMU-1-Small-Region.svs": (1, 0.499, "Aperio MPP"),
    "wsi/TCGA-CR-7395-01A-01-TS1.svs": (2, None, "missing"),
    "wsi/fibrosis_HE_quarter.tif": (5, 2.016, "TIFF resolution tag"),
    "he_tma_mosaic/he_tma_mosaic.tif": (4, None, "missing"),
}


@pytest.mark.parametrize("name", SLIDES)
def test_same_pixels_as_other_readers(shared_data, name):
    openslide = pytest.importorskip("openslide")
    levels, size_um, source = SLIDES[name]
    path = shared_data / name
    with open_slide(path) as slide, tifffile.TiffFile(path) as tiff, openslide.OpenSlide(path) as other:
        assert len(slide.level_shapes) == levels == other.level_count
        assert slide.pixel_size_um == (None if size_um is None else pytest.approx(size_um))
        assert slide.info.pixel_size_source == source
        for number, (height, width) in enumerate(slide.level_shapes):
            assert other.level_dimensions[number] == (width, height)
            # From the corner: elsewhere OpenSlide interpolates where the levels' ratio is not whole.
            side = 1500 if number == 0 else 700
            size = (min(width, side), min(height, side))
            reference = np.asarray(other.read_region((0, 0), number, size))
            assert (reference[..., 3] == 255).all()
            np.testing.assert_array_equal(slide.read_level(number, 0, 0, *size), reference[..., :3])
            if number > 0 or levels == 1:
                whole = tiff.series[0].levels[number].asarray()
                np.testing.assert_array_equal(slide.read_level(number, 0, 0, width, height), whole)


@pytest.mark.parametrize(
    ("name", "share"), [("CMU-1-Small-Region.svs", 0.58), ("fibrosis_HE_quarter.tif", 0.57)]
)
def test_tissue(shared_data, name, share):
    """Shares seen to be right on overviews with the mask drawn in."""
    with open_slide(shared_data / "wsi" / name) as slide:
        assert tissue_mask(slide, 16.0).mean() == pytest.approx(share, abs=0.04)


def test_shg_core_is_tissue(shared_data):
    with open_slide(shared_data / "he_shg_tma" / "shg" / "2B_B7.png", pixel_size_um=2.0) as slide:
        height, width = slide.level_shapes[0]
        image = slide.read_level(0, 0, 0, width, height)
        mask = np.repeat(np.repeat(tissue_mask(slide, 16.0), 8, axis=0), 8, axis=1)
        assert mask[image > 60].mean() > 0.98
