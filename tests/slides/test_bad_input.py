"""Each failure that a user can do something about is one sentence: the file, the reason, the way out."""

from __future__ import annotations

import errno
import json
import os
import resource
import struct
import sys
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr

from comir_search.errors import ComirSearchError
from comir_search.slides import open_slide

from .conftest import paint


def sentence(path, read=False) -> str:
    with pytest.raises(ComirSearchError) as caught, open_slide(path) as slide:
        if read:
            height, width = slide.level_shapes[0]
            slide.read_level(0, 0, 0, width, height)
    text = str(caught.value)
    assert path.name in text and ": " in text and "\n" not in text
    return text


def test_missing(tmp_path):
    assert sentence(tmp_path / "a.tif").endswith("a.tif does not exist: check the path")


@pytest.mark.parametrize("name", ["a.tif", "a.svs", "a.png", "a.mrxs", "a"])
def test_empty(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    assert sentence(tmp_path / name) == f"{name} is empty: copy or export it again"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such a name themselves")
def test_a_name_that_is_no_text_is_refused_as_an_index_could_not_keep_it(tmp_path):
    file = tmp_path / os.fsdecode(b"bad\xff.tif")
    file.write_bytes(b"")
    with pytest.raises(ComirSearchError) as caught:
        open_slide(file)
    assert str(caught.value).endswith(
        "bad?.tif has characters in its name that are not UTF-8 text: rename the file, or its folder"
    )


def test_what_a_file_says_can_be_printed_and_stored(tmp_path):
    zarr.save_array(tmp_path / "a.zarr" / "0", np.zeros((3, 64, 64), np.uint8))
    (tmp_path / "a.zarr" / "zarr.json").write_text(
        json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {"ome": {"version": "\ud800",
            "multiscales": [{"axes": [{"name": name} for name in "cyx"], "datasets": [{"path": "0"}]}]}}})
    )  # fmt: skip
    with open_slide(tmp_path / "a.zarr") as slide:
        assert slide.info.format.encode("utf-8") == b"OME-Zarr ?"


@pytest.mark.parametrize("name", ["a.tif", "a.svs", "a.png", "a.txt"])
def test_no_image(tmp_path, name):
    (tmp_path / name).write_text("x,y\n1,2\n" * 100)
    assert "is not an image of a known format: export it as TIFF" in sentence(tmp_path / name)


def test_folder(tmp_path):
    assert "is a folder but not an OME-Zarr image: choose a file in it" in sentence(tmp_path)


@pytest.mark.parametrize(
    "content", [b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0+\0\x08\0\0", b"II*\0\x08\0\0\0\0\0\0\0\0\0"]
)
def test_tiff_of_a_header_alone(tmp_path, content):
    (tmp_path / "a.tif").write_bytes(content)
    assert "copy or export it again" in sentence(tmp_path / "a.tif")


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
@pytest.mark.parametrize("compression", [None, "deflate", "jpeg"])
@pytest.mark.parametrize("kind", ["pyramid", "pages", "strips"])
def test_truncated_tiff_is_told_when_opened(tmp_path, write_pyramid, share, compression, kind):
    image = paint(600, 500)
    if kind == "strips":
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, image, photometric="rgb", compression=compression, rowsperstrip=32)
    else:
        path = write_pyramid(image, compression=compression, flat=kind == "pages")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    text = sentence(path)
    assert "truncated" in text and "copy or export it again" in text


def test_index_at_the_end_of_a_truncated_file(tmp_path):
    """libtiff writes the directory last: a truncated file has none."""
    data = struct.pack("<2sHI", b"II", 42, 100_000) + bytes(50_000)
    (tmp_path / "a.tif").write_bytes(data)
    assert "truncated" in sentence(tmp_path / "a.tif")


@pytest.mark.parametrize("compression", ["deflate", "jpeg", "jpeg2000"])
def test_damaged_tile_is_named_when_read(tmp_path, compression):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, paint(300, 300), photometric="rgb", compression=compression, tile=(128, 128))
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        offset, count = page.dataoffsets[4], page.databytecounts[4]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(np.random.default_rng(0).integers(0, 256, count, np.uint8).tobytes())
    with open_slide(path) as slide:
        slide.read_level(0, 0, 0, 100, 100)
    text = sentence(path, read=True)
    assert text.startswith("a.tif: tile (1, 1) of level 0 cannot be decoded")
    assert text.endswith("the file is damaged, copy or export it again")


def test_file_cut_while_open(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, paint(300, 300), photometric="rgb", compression="deflate", tile=(128, 128))
    with open_slide(path) as slide:
        with path.open("r+b") as file:
            file.truncate(1000)
        with pytest.raises(ComirSearchError, match="a.tif is truncated: copy or export it again"):
            slide.read_level(0, 0, 0, 300, 300)


def write_header(path, *, width, height, rows, data=b"", compression=8, tile=None):
    """Write a TIFF of a few bytes that states any size it likes."""
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1),
            (277, 3, 1, 1)]  # fmt: skip
    if tile:
        tags += [(322, 4, 1, tile), (323, 4, 1, tile), (324, 4, 1, 8), (325, 4, 1, len(data))]
    else:
        tags += [(273, 4, 1, 8), (278, 4, 1, rows), (279, 4, 1, len(data))]
    at = 8 + len(data) + len(data) % 2
    content = struct.pack("<2sHI", b"II", 42, at) + data + b"\0" * (len(data) % 2)
    content += struct.pack("<H", len(tags))
    content += b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags)) + struct.pack("<I", 0)
    path.write_bytes(content)
    return path


def test_strip_too_large_to_unpack(tmp_path):
    data = zlib.compress(bytes(1000))
    path = write_header(tmp_path / "a.tif", width=40_000, height=40_000, rows=40_000, data=data)
    assert "a.tif is compressed in pieces of 1.49 GB each (strips of 40000 x 40000 px)" in sentence(path)
    path = write_header(tmp_path / "a.tif", width=60_000, height=60_000, rows=0, data=data, tile=60_000)
    assert "a.tif is compressed in pieces of 3.35 GB each (tiles of 60000 x 60000 px)" in sentence(path)
    assert "save it as a tiled, pyramidal TIFF" in sentence(path)


def test_tile_that_states_another_size_than_the_file(tmp_path):
    """A JPEG of a few hundred bytes can state 65,000 x 65,000 pixels, whatever the TIFF says of its tiles."""
    jpeg = bytearray(imagecodecs.jpeg_encode(np.zeros((64, 64), np.uint8)))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 65000, 65000)
    path = write_header(
        tmp_path / "a.tif", width=64, height=64, rows=0, data=bytes(jpeg), compression=7, tile=64
    )
    assert "contains 65000 x 65000 pixels instead of 64 x 64" in sentence(path, read=True)


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_picture_too_large_to_unpack(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "png":
        data = bytearray(imagecodecs.png_encode(paint(10, 10)))
        data[16:24] = struct.pack(">II", 40_000, 30_000)
    else:
        data = bytearray(imagecodecs.jpeg_encode(paint(10, 10)))
        at = data.index(b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", 30_000, 40_000)
    path.write_bytes(data)
    text = sentence(path)
    assert f"a.{kind} is compressed in pieces of 3.35 GB each (one {kind[:1]}" in text.replace(
        "PNG", "pNG"
    ).replace("JPEG", "jPEG")
    assert "40000 x 30000 px" in text and "save it as a tiled, pyramidal TIFF" in text


def test_nearly_empty_giant(tmp_path):
    """A file of 1 kB that states 90 gigapixels is not looked through."""
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(
            iter([b""] * 36), shape=(300_000, 300_000), dtype="uint8", tile=(50_000, 50_000),
            compression="deflate", photometric="minisblack", metadata=None,
        )  # fmt: skip
    assert "compressed in pieces of 2.33 GB" in sentence(path)
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(
            iter([b""] * 900), shape=(300_000, 300_000), dtype="uint8", tile=(10_000, 10_000),
            compression="deflate", photometric="minisblack", metadata=None,
        )  # fmt: skip
    assert "a.tif claims 90 gigapixels but contains only" in sentence(path)


def test_pages_without_end(tmp_path):
    """A chain of directories that leads back to itself, and one that is absurdly long."""
    page = struct.pack("<HHHII", 1, 256, 4, 1, 5)
    path = tmp_path / "a.tif"
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 8) + page + struct.pack("<I", 8))
    assert "contains more than 20,000 pages" in sentence(path)
    chain = b"".join(page + struct.pack("<I", 8 + 18 * (n + 1)) for n in range(25_000))
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 8) + chain + bytes(4))
    assert "contains more than 20,000 pages" in sentence(path)


def test_pipe(tmp_path):
    os.mkfifo(tmp_path / "a.tif")
    assert "is a pipe or a device, not a file: choose an image file" in sentence(tmp_path / "a.tif")


def test_no_permission_and_no_handles_are_no_damage(tmp_path, monkeypatch):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, paint(300, 300), photometric="rgb", compression="deflate", tile=(128, 128))
    with open_slide(path) as slide:
        monkeypatch.setattr(
            type(slide),
            "_read_bytes",
            lambda *_: (_ for _ in ()).throw(OSError(errno.EMFILE, "Too many open files")),
        )
        with pytest.raises(ComirSearchError, match="a.tif cannot be read: too many files are open; close"):
            slide.read_level(0, 0, 0, 100, 100)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.close(lowest_free := os.dup(0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limit[1]))
    try:
        with pytest.raises(ComirSearchError, match="a.tif cannot be read: too many files are open"):
            open_slide(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


def test_xml_that_defines_entities(tmp_path):
    path = tmp_path / "a.ome.tif"
    bomb = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))
    xml = f'<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY a0 "lol">{bomb}]><OME><Image Name="&a11;"/></OME>'
    tifffile.imwrite(path, paint(30, 40, 1), description=xml, metadata=None)
    assert "a.ome.tif contains XML that defines its own entities, which is unsafe to read" in sentence(path)


def test_xml_nested_without_end(tmp_path):
    path = tmp_path / "a.ome.tif"
    xml = "<OME>" * 200_000 + "</OME>" * 200_000
    tifffile.imwrite(path, paint(30, 40, 1), description=xml, metadata=None)
    with open_slide(path) as slide:
        assert slide.pixel_size_um is None


def test_random_damage_never_escapes_as_another_error(tmp_path):
    """Bytes of a small pyramid changed at random: it opens and reads, or the failure is stated."""
    rng = np.random.default_rng(0)
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, paint(100, 90), photometric="rgb", compression="jpeg", tile=(64, 64), resolution=(5000, 5000)
    )
    data = np.frombuffer(path.read_bytes(), np.uint8)
    failures = 0
    for _ in range(150):
        changed = data.copy()
        changed[rng.integers(0, 400, 3)] = rng.integers(0, 256, 3)
        path.write_bytes(changed.tobytes())
        try:
            with open_slide(path) as slide:
                if max(slide.level_shapes[0]) < 2000:
                    slide.overview(64)
        except ComirSearchError as error:
            assert "a.tif" in str(error)
            failures += 1
    assert failures > 20
