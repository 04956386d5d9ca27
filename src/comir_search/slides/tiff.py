"""TIFF files through tifffile: OME-TIFF, Aperio SVS, tiled pyramids, plain TIFF.

tifffile (versions before and after 2026.5) finds the levels and decodes single tiles
or strips. This module chooses which tiles to read, so a read uses only those it needs.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from comir_search.errors import ComirSearchError
from comir_search.opencv import cv2
from comir_search.slides.fingerprint import file_fingerprint
from comir_search.slides.guard import stated_failures
from comir_search.slides.ome_xml import OmeSet
from comir_search.slides.picture_header import JPEG_2000, PNG, WEBP, check_picture
from comir_search.slides.pixel_size import MISSING, PixelSize, first_believed, tiff_pixel_sizes
from comir_search.slides.tiff_images import TiffImage, check_pages, check_planes, choose_image, list_images
from comir_search.slides.tiff_layout import Level, check_complete, find_levels
from comir_search.slides.tiled import TiledSlide

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # failures are reported by our own messages

_JPEG = {6, 7, 34892, 33007}
# Compressions that unpack to the size in the tags; CCITT faxes; tiles that are pictures with a header.
_PACKED = {1, 5, 8, 32773, 32946, 34925, 34926, 50000, 50013}
_COMPRESSIONS = _PACKED | {2, 3, 4} | _JPEG | JPEG_2000 | WEBP | PNG
_APERIO_YCBCR = 33003
_MINISWHITE, _MINISBLACK, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_COLOURS = {_MINISWHITE, _MINISBLACK, _RGB, _PALETTE, _YCBCR}
_FORMATS = (
    ("svs", "Aperio SVS"), ("ndpi", "Hamamatsu NDPI"), ("philips", "Philips TIFF"), ("scn", "Leica SCN"),
    ("bif", "Ventana BIF"), ("qpi", "QPTIFF"), ("lsm", "Zeiss LSM"), ("imagej", "ImageJ TIFF"),
    ("micromanager", "Micro-Manager TIFF"), ("scanimage", "ScanImage TIFF"),
)  # fmt: skip


class TiffSlide(TiledSlide):
    """A TIFF file. Use `open_slide`.

    Parameters
    ----------
    path : Path
    pixel_size : PixelSize, optional
        Overrides the file's own.
    """

    def __init__(self, path: Path, pixel_size: PixelSize | None = None) -> None:
        name = path.name
        if path.suffix.lower() == ".vsi":
            raise ComirSearchError(
                f"{name} contains only a preview; the slide is in the .ets files in the folder _{path.stem}_, "
                "which cannot be read: export it as OME-TIFF"
            )
        with stated_failures(
            name,
            f"{name} is not a readable TIFF ({{error}}): it is damaged or truncated, copy or export it again",
        ):
            # Otherwise tifffile opens any file that the metadata refer to.
            tiff = tifffile.TiffFile(path, is_ome=False, is_ndtiff=False, is_mmstack=False)
        try:
            with stated_failures(
                name,
                f"{name} cannot be read as TIFF ({{error}}): it is damaged or of an unknown kind, export it "
                "again as OME-TIFF",
            ):
                self._describe(tiff, path, pixel_size)
            self._file = path.open("rb")
        except BaseException:
            tiff.close()
            raise
        tiff.filehandle.set_lock(True)  # several threads may still read tags (JPEG tables)
        self._tiff = tiff
        self._file_lock = threading.Lock()

    def _describe(self, tiff: Any, path: Path, pixel_size: PixelSize | None) -> None:
        name = path.name
        check_pages(path, tiff)
        images, ome = list_images(tiff, path)
        chosen = choose_image(images, name)
        image = chosen.image
        self._levels = find_levels(tiff, image, chosen.others, path)
        check_complete(tiff, self._levels, path)
        check_planes(image, name)
        page = self._levels[0].page
        channels, dtype = _find_kind(page, name)
        if pixel_size is None:
            pixel_size = first_believed(_list_pixel_sizes(tiff, image, ome, name))
        kind = "OME-TIFF" if ome is not None else None
        kind = kind or next((label for flag, label in _FORMATS if getattr(tiff, f"is_{flag}", False)), None)
        if kind is None:
            kind = "tiled TIFF pyramid" if len(self._levels) > 1 else "TIFF"
        super().__init__(
            name=name,
            path=str(path),
            format=kind,
            level_shapes=[level.shape for level in self._levels],
            tile_shapes=[level.tile_shape for level in self._levels],
            channels=channels,
            dtype=dtype,
            pixel_size=pixel_size,
            fingerprint=file_fingerprint(path),
            notes=chosen.notes,
            other_images=[
                str(other)
                for other in chosen.others
                if not any(other.pages[0] is level.page for level in self._levels)
            ],
        )

    def close(self) -> None:
        """Release the file and its cached tiles."""
        super().close()
        self._file.close()
        self._tiff.close()

    def _read_bytes(self, offset: int, count: int) -> bytes:
        with self._file_lock:
            self._file.seek(offset)
            data = self._file.read(count)
        if len(data) < count:
            raise ComirSearchError(f"{self.name} is truncated: copy or export it again")
        return data

    def _decode_tile(self, level: int, row: int, column: int) -> np.ndarray | None:
        found = self._levels[level]
        if found.raw_offsets is not None:
            planes = [self._read_raw(found, offset, row) for offset in found.raw_offsets]
        else:
            tile_height, tile_width = found.tile_shape
            across, down = -(-found.shape[1] // tile_width), -(-found.shape[0] // tile_height)
            first = row * across + column
            decoded = [
                self._decode_segment(found, first + plane * across * down) for plane in range(found.planes)
            ]
            planes = [plane for plane in decoded if plane is not None]
            if len(planes) < len(decoded):
                return None
        tile = planes[0] if len(planes) == 1 else np.concatenate(planes[:3], axis=2)
        return _to_pixels(tile, found.page, self.channels)

    def _read_raw(self, level: Level, offset: int, row: int) -> np.ndarray:
        """Read some rows of uncompressed pixels: (rows, width, samples)."""
        keyframe = level.page
        samples = keyframe.samplesperpixel if keyframe.planarconfig == 1 else 1
        first = row * level.tile_shape[0]
        rows = min(level.tile_shape[0], level.shape[0] - first)
        dtype = keyframe.dtype.newbyteorder(keyframe.parent.byteorder)
        row_bytes = level.shape[1] * samples * dtype.itemsize
        data = self._read_bytes(offset + first * row_bytes, rows * row_bytes)
        pixels = np.frombuffer(data, dtype).reshape(rows, level.shape[1], samples)
        return pixels.astype(keyframe.dtype.newbyteorder("="), copy=False)

    def _decode_segment(self, level: Level, index: int) -> np.ndarray | None:
        """Decode one tile or strip of a level: (height, width, samples)."""
        page = level.page
        count = int(page.databytecounts[index])
        if count == 0 or page.dataoffsets[index] == 0:
            return None
        data = self._read_bytes(int(page.dataoffsets[index]), count)
        tables = {}
        if page.compression in _JPEG:
            tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
        check_picture(data, int(page.compression), level.tile_shape, header=tables.get("jpegheader"))
        decoded = page.decode(data, index, **tables)[0]
        if decoded is None:
            return None
        if page.compression == _APERIO_YCBCR and data[46:48] == b"\1\1":
            # If chroma has full resolution in the tile's header, the decoder takes it for RGB.
            return cv2.cvtColor(decoded[0][..., [0, 2, 1]], cv2.COLOR_YCrCb2RGB)
        return decoded[0]


def _list_pixel_sizes(tiff: Any, image: TiffImage, ome: OmeSet | None, name: str) -> Iterator[PixelSize]:
    """Yield the pixel sizes that the file gives for the image, the OME-XML's first."""
    if image.ome is not None:
        yield image.ome.find_pixel_size(name, image.shape)
    elif ome is not None:
        if ome.missing:
            yield PixelSize(None, MISSING.source, ome.missing)
        sizes = {other.pixel_size for other in ome.images}
        if ome.images and len(sizes) == 1:
            yield ome.images[0].find_pixel_size(name, image.shape)
        elif ome.is_ambiguous:
            yield PixelSize(
                None,
                MISSING.source,
                "its OME-XML describes several files and does not say which one this is: give --pixel-size",
            )
    yield from tiff_pixel_sizes(tiff, image.pages[0], name)


def _find_kind(page: Any, name: str) -> tuple[int, np.dtype[Any]]:
    """Return the number of channels (1 or 3) and the data type of the pixels."""
    photometric, samples = int(page.photometric), int(page.samplesperpixel)
    if int(page.compression) not in _COMPRESSIONS:
        raise ComirSearchError(
            f"{name} is compressed by {getattr(page.compression, 'name', page.compression)}, which cannot be "
            "read: save it uncompressed, or with deflate, LZW or JPEG"
        )
    coded = page.compression in _JPEG or page.compression in JPEG_2000
    if photometric not in _COLOURS or (photometric == _YCBCR and not coded):
        raise ComirSearchError(
            f"{name} stores its colours as {getattr(page.photometric, 'name', photometric)}, which cannot be "
            "read: save it as grey or RGB"
        )
    if page.dtype is None or page.dtype.kind not in "uifb":
        raise ComirSearchError(
            f"{name} stores pixels of a type that cannot be read: save it as 8-bit, 16-bit or float"
        )
    if photometric == _PALETTE:
        return 3, np.dtype(np.uint8)
    is_colour = photometric in (_RGB, _YCBCR)
    if samples > 4 or (samples > 2 and not is_colour):
        raise ComirSearchError(f"{name} has {samples} channels: save the one to use as a single grey image")
    dtype = page.dtype
    if dtype.kind == "b":
        dtype = np.dtype(np.uint8)
    elif dtype == np.float16:
        dtype = np.dtype(np.float32)
    return (3 if samples >= 3 else 1), dtype.newbyteorder("=")


def _to_pixels(tile: np.ndarray, keyframe: Any, channels: int) -> np.ndarray:
    """Turn decoded samples (height, width, samples) into grey or RGB pixels."""
    photometric = int(keyframe.photometric)
    if photometric == _PALETTE:
        colours = np.asarray(keyframe.colormap).T
        colours = (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)
        return colours[tile[..., 0]]
    tile = tile[..., :3] if channels == 3 else tile[..., 0]
    if tile.dtype.kind == "b":
        tile = tile.astype(np.uint8) * 255
        brightest = 255
    elif tile.dtype == np.float16:
        tile = tile.astype(np.float32)
    if photometric == _MINISWHITE and tile.dtype.kind == "u":
        brightest = 255 if keyframe.dtype.kind == "b" else 2 ** int(keyframe.bitspersample) - 1
        tile = (brightest - tile).astype(tile.dtype)
    return np.ascontiguousarray(tile)
