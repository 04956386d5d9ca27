"""The pixel size and its source."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from comir_search.errors import ComirSearchError
from comir_search.slides import open_slide

IMAGE = np.zeros((20, 30), np.uint8)


def stated(path, **options):
    with open_slide(path, **options) as slide:
        return slide.pixel_size_um, slide.info.pixel_size_source


@pytest.mark.parametrize(
    ("per_unit", "unit", "expected"),
    [(5000, "CENTIMETER", 2.0), (50800, "INCH", 0.5), (10000 / 0.2525, "CENTIMETER", 0.2525),
     (72, "INCH", None), (96, "INCH", None), (300, "INCH", None), (1, "INCH", None), (1, "CENTIMETER", None),
     (28.346, "CENTIMETER", None), (118.11, "CENTIMETER", None), (5000, "NONE", None)],
)  # fmt: skip
def test_resolution_tag(tmp_path, per_unit, unit, expected):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, resolution=(per_unit, per_unit), resolutionunit=unit)
    size_um, source = stated(path)
    if expected is None:
        assert (size_um, source) == (None, "missing")
    else:
        assert size_um == pytest.approx(expected, rel=1e-5)
        assert source == "TIFF resolution tag"


@pytest.mark.parametrize(
    ("value", "unit", "expected"), [(0.5, "µm", 0.5), (250, "nm", 0.25), (0.001, "mm", 1), (2, "pixel", None)]
)
def test_ome(tmp_path, value, unit, expected):
    path = tmp_path / "a.ome.tif"
    metadata = {
        f"PhysicalSize{axis}{what}": by for axis in "XY" for what, by in (("", value), ("Unit", unit))
    }
    tifffile.imwrite(path, IMAGE, metadata={"axes": "YX", **metadata})
    size_um, source = stated(path)
    assert size_um == (None if expected is None else pytest.approx(expected))
    assert source == ("missing" if expected is None else "OME PhysicalSizeX")


@pytest.mark.parametrize(
    ("unit", "per_unit", "expected"),
    [("um", 2, 0.5), ("micron", 2, 0.5), ("nm", 0.002, 0.5), ("nm", 2, None), ("pixel", 2, None)],
)
def test_imagej(tmp_path, unit, per_unit, expected):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, imagej=True, resolution=(per_unit, per_unit), metadata={"unit": unit})
    size_um, source = stated(path)
    assert size_um == (None if expected is None else pytest.approx(expected))
    assert source == ("missing" if expected is None else "ImageJ")


def test_user_goes_before_the_file(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, resolution=(5000, 5000), resolutionunit="CENTIMETER")
    assert stated(path, pixel_size_um=0.25) == (0.25, "user")


@pytest.mark.parametrize("size_um", [0, -1, float("nan"), float("inf")])
def test_impossible_sizes(tmp_path, size_um):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE)
    with pytest.raises(ComirSearchError, match="a pixel size of .* um is not possible"):
        open_slide(path, pixel_size_um=size_um)


def test_pixels_that_are_not_square(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, resolution=(20000, 10000), resolutionunit="CENTIMETER")
    with pytest.raises(
        ComirSearchError, match=r"a.tif: its pixels are not square \(0.5 x 1 um, TIFF resolution tag\)"
    ):
        open_slide(path)
    assert stated(path, pixel_size_um=0.7) == (0.7, "user")


def test_nearly_square_pixels_are_averaged(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, resolution=(20000, 19900), resolutionunit="CENTIMETER")
    assert stated(path)[0] == pytest.approx(0.50125, abs=1e-4)


@pytest.mark.parametrize("resolution", [(0, 0), (5000, 0)])
def test_nonsense_is_missing(tmp_path, resolution):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, resolution=resolution, resolutionunit="CENTIMETER")
    assert stated(path) == (None, "missing")


def test_philips(tmp_path):
    path = tmp_path / "a.tiff"
    spacings = "".join(
        f'<Attribute Name="DICOM_PIXEL_SPACING" Group="0x0028">"{mm}" "{mm}"</Attribute>'
        for mm in (0.0005, 0.00025)
    )
    text = f'<?xml version="1.0"?><DataObject ObjectType="DPUfsImport">{spacings}</DataObject>'
    options = {"software": "Philips DP v1.0", "description": text, "metadata": None, "tile": (16, 16)}
    tifffile.imwrite(path, IMAGE, **options)
    with open_slide(path) as slide:
        assert slide.info.format == "Philips TIFF"
        assert slide.pixel_size_um == pytest.approx(0.25)
        assert slide.info.pixel_size_source == "Philips pixel spacing"
