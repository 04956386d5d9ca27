"""Each failure that a user can mend is one sentence that names the file, the problem and the mend."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

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


@pytest.mark.parametrize("name", ["a.tif", "a.svs", "a.png", "a.txt"])
def test_no_image(tmp_path, name):
    (tmp_path / name).write_text("x,y\n1,2\n" * 100)
    assert "is not an image of a known format: export it as TIFF" in sentence(tmp_path / name)


def test_folder(tmp_path):
    assert "is a folder and no OME-Zarr image: name a file in it" in sentence(tmp_path)


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
    import struct

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


def test_strip_too_large_to_decode(tmp_path, monkeypatch):
    monkeypatch.setattr("comir_search.slides.tiff_layout._LARGEST_TILE_BYTES", 50_000)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, paint(200, 200), photometric="rgb", compression="deflate", rowsperstrip=200)
    assert (
        "a.tif is compressed in one piece of 0.0 GB, which cannot be read in parts: save it as"
        in sentence(path)
    )


def test_picture_too_large_to_decode(tmp_path, monkeypatch):
    import imagecodecs

    monkeypatch.setattr("comir_search.slides.picture._LARGEST_PX", 5000)
    path = tmp_path / "a.png"
    path.write_bytes(imagecodecs.png_encode(paint(100, 100)))
    assert "a.png has 100 x 100 pixels, too many for a PNG: save it as a tiled TIFF" in sentence(path)


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
