"""PNG and JPEG."""

from __future__ import annotations

import struct
import zlib

import imagecodecs
import numpy as np
import pytest

from comir_search.errors import ComirSearchError
from comir_search.slides import open_slide

from .conftest import paint


def add_chunk(png: bytes, kind: bytes, data: bytes) -> bytes:
    """Put a chunk behind a PNG's header."""
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return png[:33] + chunk + png[33:]


@pytest.mark.parametrize(
    ("channels", "dtype"), [(1, "uint8"), (1, "uint16"), (3, "uint8"), (3, "uint16"), (4, "uint8")]
)
def test_png(tmp_path, channels, dtype):
    image = paint(91, 70, channels, dtype)
    path = tmp_path / "a.png"
    path.write_bytes(imagecodecs.png_encode(image))
    with open_slide(path) as slide:
        assert slide.info.format == "PNG"
        assert slide.level_shapes == ((91, 70),)
        expected = image[..., :3] if channels > 1 else image
        np.testing.assert_array_equal(slide.read_level(0, 0, 0, 70, 91), expected)
        np.testing.assert_array_equal(slide.read_level(0, 11, 22, 33, 44), expected[22:66, 11:44])
        assert slide.dtype == dtype


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_png_of_few_bits(tmp_path, bits):
    """Grey of fewer than eight bits is spread over eight, a palette becomes RGB."""
    samples = (paint(16, 16, 1) >> (8 - bits)).astype(np.uint8)
    packed = [
        bytes([0]) + np.packbits(np.unpackbits(row[:, None], axis=1)[:, -bits:].ravel()).tobytes()
        for row in samples
    ]
    palette = np.random.default_rng(0).integers(0, 256, (1 << bits, 3), np.uint8)
    for colour in (0, 3):
        png = b"\x89PNG\r\n\x1a\n"
        parts = [(b"IHDR", struct.pack(">IIBBBBB", 16, 16, bits, colour, 0, 0, 0))]
        parts += [(b"PLTE", palette.tobytes())] if colour == 3 else []
        parts += [(b"IDAT", zlib.compress(b"".join(packed))), (b"IEND", b"")]
        for kind, data in parts:
            png += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        path = tmp_path / f"{colour}.png"
        path.write_bytes(png)
        with open_slide(path) as slide:
            image = slide.read_level(0, 0, 0, 16, 16)
        expected = palette[samples] if colour == 3 else samples * (255 // ((1 << bits) - 1))
        np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg(tmp_path, channels):
    path = tmp_path / "a.jpg"
    path.write_bytes(imagecodecs.jpeg_encode(paint(91, 70, channels), level=95))
    with open_slide(path) as slide:
        assert slide.info.format == "JPEG"
        assert slide.channels == channels
        image = slide.read_level(0, 0, 0, 70, 91)
    np.testing.assert_array_equal(image, imagecodecs.jpeg_decode(path.read_bytes()))


def test_cmyk_jpeg_is_refused(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(imagecodecs.jpeg_encode(paint(91, 70, 4), colorspace="CMYK", outcolorspace="CMYK"))
    with pytest.raises(ComirSearchError, match="a.jpg stores its colours as CMYK: save it as grey or RGB"):
        open_slide(path)


@pytest.mark.parametrize(
    ("density", "unit", "expected"), [(2_000_000, 1, 0.5), (3937, 1, None), (2_000_000, 0, None)]
)
def test_png_pixel_size(tmp_path, density, unit, expected):
    path = tmp_path / "a.png"
    path.write_bytes(
        add_chunk(imagecodecs.png_encode(paint(9, 9)), b"pHYs", struct.pack(">IIB", density, density, unit))
    )
    with open_slide(path) as slide:
        assert slide.pixel_size_um == expected
        assert slide.info.pixel_size_source == ("missing" if expected is None else "PNG density")


@pytest.mark.parametrize(
    ("density", "unit", "expected"), [(96, 1, None), (300, 1, None), (20000, 2, 0.5), (1, 0, None)]
)
def test_jpeg_pixel_size(tmp_path, density, unit, expected):
    path = tmp_path / "a.jpg"
    data = bytearray(imagecodecs.jpeg_encode(paint(9, 9)))
    at = data.index(b"JFIF\0")
    data[at + 7 : at + 12] = struct.pack(">BHH", unit, density, density)
    path.write_bytes(data)
    with open_slide(path) as slide:
        assert slide.pixel_size_um == expected


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_truncated_pictures(tmp_path, suffix, share):
    encode = {"png": imagecodecs.png_encode, "jpg": imagecodecs.jpeg_encode}[suffix]
    data = encode(np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8))
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(
        ComirSearchError, match=f"a.{suffix} is truncated or damaged: copy or export it again"
    ):
        open_slide(path)


def test_damaged_png_is_named_when_read(tmp_path):
    data = bytearray(imagecodecs.png_encode(paint(90, 90)))
    data[len(data) // 2 :][:20] = bytes(20)
    data[200:300] = bytes(100)
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with open_slide(path) as slide, pytest.raises(ComirSearchError, match="a.png: .* the file is damaged"):
        slide.read_level(0, 0, 0, 9, 9)
