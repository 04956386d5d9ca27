"""PNG and JPEG pictures, decoded whole on the first read and kept in the tile cache."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np

from comir_search.errors import ComirSearchError
from comir_search.slides.fingerprint import file_fingerprint
from comir_search.slides.guard import check_piece, stated_failures
from comir_search.slides.picture_header import check_scans
from comir_search.slides.pixel_size import MISSING, PixelSize, resolution_pixel_size
from comir_search.slides.tiled import TiledSlide

PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 1, 6: 3}  # by colour type
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_TAIL_BYTES = 4096  # some programs write more data after the end of the picture


class PictureSlide(TiledSlide):
    """A PNG or JPEG file. Use `open_slide`.

    Parameters
    ----------
    path : Path
    pixel_size : PixelSize, optional
        Overrides the file's own.
    """

    def __init__(self, path: Path, pixel_size: PixelSize | None = None) -> None:
        with stated_failures(path.name, _truncated(path.name)):
            data = path.read_bytes()
            is_png = data.startswith(PNG)
            width, height, channels, dtype, density = _describe_png(data) if is_png else _describe_jpeg(data)
            if not is_png:
                check_scans(data)
        kind = "PNG" if is_png else "JPEG"
        if width * height == 0:
            raise ComirSearchError(_truncated(path.name))
        picture_bytes = width * height * max(channels, 1) * np.dtype(dtype).itemsize
        check_piece(path.name, picture_bytes, len(data), f"one {kind} picture of {width} x {height} px")
        end = b"IEND" if is_png else b"\xff\xd9"
        if end not in data[-_TAIL_BYTES:]:
            raise ComirSearchError(_truncated(path.name))
        if channels == 0:
            raise ComirSearchError(f"{path.name} stores its colours as CMYK: save it as grey or RGB")
        if pixel_size is None:
            pixel_size = resolution_pixel_size(path.name, *density, f"{kind} density") if density else MISSING
        super().__init__(
            name=path.name,
            path=str(path),
            format=kind,
            level_shapes=[(height, width)],
            tile_shapes=[(height, width)],
            channels=channels,
            dtype=dtype,
            pixel_size=pixel_size,
            fingerprint=file_fingerprint(path),
        )

    def _decode_tile(self, level: int, row: int, column: int) -> np.ndarray:
        data = Path(self.info.path).read_bytes()
        if self.info.format == "PNG":
            image = imagecodecs.png_decode(data)
        else:
            image = imagecodecs.jpeg_decode(data, outcolorspace="GRAYSCALE" if self.channels == 1 else "RGB")
        if image.ndim == 3:
            image = image[..., :3] if self.channels == 3 else image[..., 0]
        if image.ndim == 2 and self.channels == 3:
            image = np.repeat(image[..., None], 3, axis=2)
        if image.shape[:2] != self.level_shapes[0]:
            raise ValueError(f"{image.shape[:2]} pixels instead of {self.level_shapes[0]}")
        return np.ascontiguousarray(image.astype(self.dtype, copy=False))


def _truncated(name: str) -> str:
    return f"{name} is truncated or damaged: copy or export it again"


def _describe_png(data: bytes) -> tuple[int, int, int, Any, tuple[float, float, float] | None]:
    """Return width, height, channels, data type and density (x, y, unit in um) of a PNG."""
    width, height, bits, colour = struct.unpack(">IIBB", data[16:26])
    density = None
    at = 8
    while at + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        if kind == b"pHYs":
            x, y, unit = struct.unpack(">IIB", data[at + 8 : at + 17])
            density = (float(x), float(y), 1e6) if unit == 1 else None
        if kind in (b"IDAT", b"IEND"):
            break
        at += 12 + length
    return width, height, _PNG_CHANNELS.get(colour, 3), np.uint16 if bits == 16 else np.uint8, density


def _describe_jpeg(data: bytes) -> tuple[int, int, int, Any, tuple[float, float, float] | None]:
    """Return width, height, channels, data type and density (x, y, unit in um) of a JPEG."""
    density = None
    at = 2
    while True:
        while data[at] == 0xFF and data[at + 1] == 0xFF:  # fill bytes
            at += 1
        marker, (length,) = data[at + 1], struct.unpack(">H", data[at + 2 : at + 4])
        if marker == 0xE0 and data[at + 4 : at + 9] == b"JFIF\0":
            unit, x, y = struct.unpack(">BHH", data[at + 11 : at + 16])
            unit_um = {1: 25400.0, 2: 10000.0}.get(unit)
            density = (float(x), float(y), unit_um) if unit_um else None
        if marker in _JPEG_FRAMES:
            bits, height, width, samples = struct.unpack(">BHHB", data[at + 4 : at + 10])
            dtype = np.uint8 if bits == 8 else np.uint16
            return width, height, {1: 1, 3: 3}.get(samples, 0), dtype, density
        at += 2 + length
