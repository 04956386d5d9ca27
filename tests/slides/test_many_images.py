"""Files that hold, or speak of, more than one image: own pixels, own pixel size, and nothing taken in silence."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from comir_search.errors import ComirSearchError
from comir_search.pictures.display import to_display
from comir_search.slides import open_slide

from .conftest import paint
from .test_ome_zarr import write_zarr

NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


def write_ome(path: Path, image: np.ndarray, xml: str) -> Path:
    tifffile.imwrite(path, image, description=xml.encode(), metadata=None, photometric="minisblack")
    return path


def make_pixels(image: np.ndarray, size_um: str, inside: str, *, number: int = 0, channels: int = 1) -> str:
    height, width = image.shape[:2]
    listed = "".join(
        f'<Channel ID="Channel:{number}:{each}" SamplesPerPixel="1"/>' for each in range(channels)
    )
    return (
        f'<Image ID="Image:{number}" Name="field {number}"><Pixels ID="Pixels:{number}" DimensionOrder="XYCZT" '
        f'Type="uint8" SizeX="{width}" SizeY="{height}" SizeC="{channels}" SizeZ="1" SizeT="1" '
        f'PhysicalSizeX="{size_um}" PhysicalSizeXUnit="µm" PhysicalSizeY="{size_um}" PhysicalSizeYUnit="µm">'
        f"{listed}{inside}</Pixels></Image>"
    )


def make_xml(own: str, images: str) -> str:
    return f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{NAMESPACE}" UUID="{own}">{images}</OME>'


def name_plane(file: str, own: str, channel: int = 0) -> str:
    return (
        f'<TiffData FirstC="{channel}" FirstT="0" FirstZ="0" IFD="0" PlaneCount="1">'
        f'<UUID FileName="{file}">{own}</UUID></TiffData>'
    )


@pytest.mark.parametrize("alone", [False, True])
def test_one_position_per_file(tmp_path, alone):
    """Micro-Manager writes one field a file, and lists all of them in each."""
    fields = [paint(60, 80, 1, seed=seed) for seed in range(2)]
    names, owns = ["Pos0.ome.tif", "Pos1.ome.tif"], [f"urn:uuid:{uuid.UUID(int=n + 1)}" for n in range(2)]
    images = "".join(
        make_pixels(field, size_um, name_plane(name, own), number=number)
        for number, (field, size_um, name, own) in enumerate(
            zip(fields, ("1.0", "0.5"), names, owns, strict=True)
        )
    )
    for name, own, field in zip(names, owns, fields, strict=True):
        write_ome(tmp_path / name, field, make_xml(own, images))
    if alone:
        (tmp_path / names[0]).unlink()
    for name, field, size_um in list(zip(names, fields, (1.0, 0.5), strict=True))[alone:]:
        with open_slide(tmp_path / name) as slide:
            np.testing.assert_array_equal(slide.read_level(0, 0, 0, 80, 60), field)
            assert slide.pixel_size_um == size_um


@pytest.mark.parametrize("alone", [False, True])
def test_one_channel_per_file(tmp_path, alone):
    """PrairieView writes one channel a file, and lists all of them in each."""
    planes = [paint(60, 80, 1, seed=seed) for seed in range(3)]
    names, owns = (
        [f"Ch{n}.ome.tif" for n in (1, 2, 3)],
        [f"urn:uuid:{uuid.UUID(int=n + 1)}" for n in range(3)],
    )
    listed = "".join(name_plane(name, own, n) for n, (name, own) in enumerate(zip(names, owns, strict=True)))
    xml = make_pixels(planes[0], "0.5", listed, channels=3)
    for name, own, plane in zip(names, owns, planes, strict=True):
        write_ome(tmp_path / name, plane, make_xml(own, xml))
    if alone:
        for name in (names[0], names[2]):
            (tmp_path / name).unlink()
    with open_slide(tmp_path / names[1]) as slide:
        np.testing.assert_array_equal(slide.read_level(0, 0, 0, 80, 60), planes[1])
        assert slide.channels == 1 and slide.pixel_size_um == 0.5
        assert any(note.startswith("channel 2 of 3") for note in slide.info.notes)


def test_a_companion_file_gives_the_pixel_size(tmp_path):
    image, own = paint(60, 80, 1), f"urn:uuid:{uuid.UUID(int=2)}"
    binary = f'<BinaryOnly MetadataFile="set.companion.ome" UUID="urn:uuid:{uuid.UUID(int=1)}"/>'
    path = write_ome(tmp_path / "a.ome.tif", image, make_xml(own, binary))
    with open_slide(path) as slide:
        assert slide.pixel_size_um is None
        with pytest.raises(ComirSearchError, match="--pixel-size"):
            slide.require_pixel_size()
    companion = make_xml(
        f"urn:uuid:{uuid.UUID(int=1)}", make_pixels(image, "0.5", name_plane(path.name, own))
    )
    (tmp_path / "set.companion.ome").write_text(companion, encoding="utf-8")
    with open_slide(path) as slide:
        assert slide.pixel_size_um == 0.5
        np.testing.assert_array_equal(slide.read_level(0, 0, 0, 80, 60), image)


def test_a_companion_that_lies_elsewhere_is_not_opened(tmp_path):
    secret = tmp_path / "secret.companion.ome"
    image, own = paint(60, 80, 1), f"urn:uuid:{uuid.UUID(int=2)}"
    (tmp_path / "in").mkdir()
    secret.write_text(make_xml("urn:x", make_pixels(image, "0.5", name_plane("a.ome.tif", own))), "utf-8")
    for name in ("../secret.companion.ome", str(secret)):
        binary = f'<BinaryOnly MetadataFile="{name}" UUID="urn:x"/>'
        with open_slide(write_ome(tmp_path / "in" / "a.ome.tif", image, make_xml(own, binary))) as slide:
            assert slide.pixel_size_um is None


def test_a_decimal_comma_is_a_point(tmp_path):
    image, own = paint(60, 80, 1), f"urn:uuid:{uuid.UUID(int=2)}"
    xml = make_xml(own, make_pixels(image, "0,5", '<TiffData IFD="0" PlaneCount="1"/>'))
    with open_slide(write_ome(tmp_path / "a.ome.tif", image, xml)) as slide:
        assert slide.pixel_size_um == 0.5


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_the_layout_of_bioformats2raw(tmp_path, version):
    folder = tmp_path / "a.zarr"
    group = zarr.open_group(str(folder), mode="w", zarr_format=2 if version == "0.4" else 3)
    image, macro = paint(130, 150), paint(40, 50, seed=1)
    layout = {"bioformats2raw.layout": 3}
    group.attrs.update(layout if version == "0.4" else {"ome": {"version": "0.5", **layout}})
    for name, picture in (("0", image), ("1", macro)):
        write_zarr(folder / name, [picture.transpose(2, 0, 1)], version=version, axes="cyx")
    with open_slide(folder) as slide:
        np.testing.assert_array_equal(slide.read_level(0, 0, 0, 150, 130), image)
        assert slide.channels == 3 and slide.pixel_size_um == 0.5
        assert slide.info.other_images or any("1 of 2" in note for note in slide.info.notes)
        assert any("colour" in note for note in slide.info.notes)


def test_three_channels_of_a_zarr_that_names_stains_are_no_colour(tmp_path):
    folder = write_zarr(tmp_path / "a.zarr", [paint(60, 80).transpose(2, 0, 1)], version="0.4", axes="cyx")
    attributes = json.loads((folder / ".zattrs").read_text())
    colours = ("0000FF", "00FF00", "FFFFFF")
    attributes["omero"] = {"channels": [{"label": f"stain {n}", "color": c} for n, c in enumerate(colours)]}
    (folder / ".zattrs").write_text(json.dumps(attributes))
    with pytest.raises(ComirSearchError, match="channels"):
        open_slide(folder)
    attributes["omero"] = {"channels": [{"color": c} for c in ("FF0000", "00FF00", "0000FF")]}
    (folder / ".zattrs").write_text(json.dumps(attributes))
    with open_slide(folder) as slide:
        assert slide.channels == 3


def test_three_grey_channels_of_imagej_are_no_colour(tmp_path):
    path = tmp_path / "a.tif"
    planes = np.ascontiguousarray(paint(60, 80).transpose(2, 0, 1))
    tifffile.imwrite(path, planes, imagej=True, metadata={"axes": "CYX"})
    with pytest.raises(ComirSearchError, match=r"a.tif contains 3 planes, 3 \(C\)"):
        open_slide(path)


def test_a_zipped_zarr_says_unzip(tmp_path):
    path = tmp_path / "a.zarr.zip"
    path.write_bytes(b"PK\x03\x04" + bytes(200))
    with pytest.raises(ComirSearchError, match=r"a\.zarr\.zip is a zip archive.*unzip it"):
        open_slide(path)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "uint32"])
def test_colour_of_twelve_bits_is_not_shown_black(dtype):
    image = (paint(60, 80).astype(np.uint32) * 4095 // 255).astype(dtype)
    shown = to_display(image)
    assert abs(int(shown.max()) - 255) <= 3
    np.testing.assert_allclose(shown, paint(60, 80), atol=3)
