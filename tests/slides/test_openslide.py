"""OpenSlide's reader, on files that both readers know."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import tifffile

from comir_search.errors import ComirSearchError
from comir_search.slides import open_slide

from .conftest import halve, paint


def test_missing_extra_is_named(tmp_path, monkeypatch):
    path = tmp_path / "a.mrxs"
    path.write_bytes(b"\xff\xd8\xff\xe0 a picture")
    monkeypatch.setitem(sys.modules, "openslide", None)
    with pytest.raises(
        ComirSearchError, match=r"a.mrxs needs OpenSlide.*pip install 'napari-comir-search\[openslide\]'"
    ):
        open_slide(path)


@pytest.mark.parametrize("suffix", [".mrxs", ".bif", ".vms", ".dcm", ".czi", ".svslide"])
def test_what_openslide_cannot_read_is_named(tmp_path, suffix):
    pytest.importorskip("openslide")
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"nothing of the kind" * 50)
    with pytest.raises(ComirSearchError, match=f"a{suffix} cannot be read by OpenSlide"):
        open_slide(path)


def test_same_pixels_as_the_tiff_reader(tmp_path):
    pytest.importorskip("openslide")
    from comir_search.slides.openslide import OpenSlideSlide

    image = paint(1000, 800)
    path = tmp_path / "a.svs"
    description = "Aperio Image Library v12|AppMag = 20|MPP = 0.499"
    options = {"photometric": "rgb", "compression": "jpeg", "tile": (240, 240), "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        for level in (image, halve(halve(image))):
            tiff.write(level, description=description, **options)
    with open_slide(path) as slide, OpenSlideSlide(path) as other:
        assert other.level_shapes == slide.level_shapes == ((1000, 800), (250, 200))
        assert other.level_downsamples == slide.level_downsamples
        assert other.pixel_size_um == slide.pixel_size_um == 0.499
        assert other.info.pixel_size_source == "OpenSlide mpp"
        assert other.info.format == "Aperio SVS"
        for level, (height, width) in enumerate(slide.level_shapes):
            expected = slide.read_level(level, 0, 0, width, height)
            whole = other.read_level(level, 0, 0, width, height)
            assert np.abs(whole.astype(int) - expected).max() <= 1  # two JPEG decoders
        assert other.fingerprint != slide.fingerprint  # two readers may round differently: two slides
