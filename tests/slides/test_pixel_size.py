"""The pixel size and its source."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from comir_search.errors import ComirSearchError, PixelSizeMissing
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


@pytest.mark.parametrize(
    ("um", "words"),
    [(25400 / 300, "print density"), (25400 / 72, "print density"), (44.25, "print density"),
     (0.001, "not possible for a microscope"), (10.583333, "print density")],
)  # fmt: skip
def test_what_no_microscope_has_is_not_believed_whatever_states_it(tmp_path, um, words):
    path = tmp_path / "a.ome.tif"
    metadata = {"axes": "YX", "PhysicalSizeX": um, "PhysicalSizeY": um}
    tifffile.imwrite(path, IMAGE, metadata=metadata)
    other = tmp_path / "b.tif"
    tifffile.imwrite(other, IMAGE, imagej=True, resolution=(1 / um, 1 / um), metadata={"unit": "um"})
    plain = tmp_path / "c.tif"
    tifffile.imwrite(plain, IMAGE, resolution=(1e4 / um, 1e4 / um), resolutionunit="CENTIMETER")
    for file in (path, other, plain):
        with open_slide(file) as slide:
            assert slide.pixel_size_um is None and slide.info.pixel_size_source == "missing"
            assert any(f"the file gives {um:.4g} um" in note for note in slide.info.notes)
            with pytest.raises(PixelSizeMissing, match=r"--pixel-size"):
                slide.require_pixel_size()
        assert stated(file, pixel_size_um=um) == (um, "user")
    if um != 44.25:  # of a tag it is a density, of anything else only out of range
        with open_slide(path) as slide:
            assert any(words in note for note in slide.info.notes)


def test_imagej_with_a_unit_for_each_axis(tmp_path):
    path = tmp_path / "a.tif"
    description = "ImageJ=1.54f\nunit=micron\nyunit=nm\n"
    tifffile.imwrite(
        path, IMAGE, description=description, metadata=None, resolution=(2.0, 0.002), resolutionunit="NONE"
    )
    assert stated(path) == (pytest.approx(0.5), "ImageJ")


def test_micromanager(tmp_path):
    path = tmp_path / "a.tif"
    settings = b'{"Width": 30, "Height": 20, "PixelSizeUm": 0.65, "PixelType": "GRAY8"}'
    tifffile.imwrite(
        path, IMAGE, metadata=None, extratags=[(51123, 2, len(settings), settings, True)], software=None
    )
    assert stated(path) == (0.65, "Micro-Manager PixelSizeUm")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("zeiss.lsm", 0.31), ("micromanager.tif", 0.65), ("ij_yunit.tif", 0.5), ("ome_comma.ome.tif", 0.5),
        ("companion/a.ome.tif", 0.5), ("mm_positions/Pos0.ome.tif", 1.0), ("mm_positions/Pos1.ome.tif", 0.5),
        ("alone/Pos1.ome.tif", 0.5), ("prairie/shg_Ch2.ome.tif", 0.5), ("ij_inch_300dpi.tif", None),
        ("desc_only.tif", None), ("b2r_v04.zarr", 0.5), ("b2r_v05.ome.zarr", 0.5),
    ],
)  # fmt: skip
def test_files_of_microscopes(shared_data, name, expected):
    path = shared_data.parent / "inputs" / name
    if not path.exists():
        pytest.skip(f"needs {path}")
    assert stated(path)[0] == (None if expected is None else pytest.approx(expected))
