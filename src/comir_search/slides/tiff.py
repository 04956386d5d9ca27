"""TIFF files through tifffile: OME-TIFF, Aperio SVS, tiled pyramids, plain TIFF.

tifffile (either generation, before and after 2026.5) finds the levels and
decodes single tiles or strips; which of them, when, and the file handle are
ours, so that a read touches only the tiles it needs.
"""

from __future__ import annotations

import logging
import struct
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from comir_search.errors import ComirSearchError
from comir_search.slides.fingerprint import file_fingerprint
from comir_search.slides.pixel_size import PixelSize, tiff_pixel_size
from comir_search.slides.slide import TiledSlide, find_downsample

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # failures are stated once, by us

_VIRTUAL_STRIP_BYTES = 1 << 20
_LARGEST_TILE_BYTES = 1 << 30
_TAG_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}  # by type
_JPEG = {6, 7, 34892, 33007}
_JPEG_2000 = {33003, 33004, 33005, 34712}
_MINISWHITE, _MINISBLACK, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_COLOURS = {_MINISWHITE, _MINISBLACK, _RGB, _PALETTE, _YCBCR}
_FORMATS = (
    ("svs", "Aperio SVS"), ("ndpi", "Hamamatsu NDPI"), ("philips", "Philips TIFF"), ("scn", "Leica SCN"),
    ("bif", "Ventana BIF"), ("qpi", "QPTIFF"), ("ome", "OME-TIFF"), ("imagej", "ImageJ TIFF"),
)  # fmt: skip


@dataclass(frozen=True)
class _Level:
    """Where the tiles of a level lie.

    `pages` holds one page per channel, or a single one; `planes` is 3 where that
    one page stores its channels one after the other. `raw_offsets` are set where
    the pixels lie uncompressed in one piece per plane.
    """

    pages: tuple[Any, ...]
    planes: int
    shape: tuple[int, int]
    tile_shape: tuple[int, int]
    raw_offsets: tuple[int, ...] | None

    @property
    def keyframe(self) -> Any:
        return self.pages[0].keyframe


class TiffSlide(TiledSlide):
    """A TIFF file. Use `open_slide`.

    Parameters
    ----------
    path : Path
    pixel_size : PixelSize, optional
        Overrides what the file states.
    """

    def __init__(self, path: Path, pixel_size: PixelSize | None = None) -> None:
        name = path.name
        try:
            tiff = tifffile.TiffFile(path)
        except Exception as error:
            raise ComirSearchError(
                f"{name} is not a readable TIFF ({error}): it is damaged or truncated, "
                "copy or export it again"
            ) from error
        try:
            self._levels = _find_levels(tiff, name)
            for number, level in enumerate(self._levels):
                _check_tags(tiff, level, path)
                _check_complete(level, number, path)
            page = self._levels[0].pages[0]
            keyframe = self._levels[0].keyframe
            channels, dtype = _find_kind(self._levels[0], name)
            if pixel_size is None:
                pixel_size = tiff_pixel_size(tiff, keyframe if page is not keyframe else page, name)
            kind = next((label for flag, label in _FORMATS if getattr(tiff, f"is_{flag}", False)), None)
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
            )
        except ComirSearchError:
            tiff.close()
            raise
        except Exception as error:
            tiff.close()
            raise ComirSearchError(
                f"{name} cannot be read as TIFF ({type(error).__name__}: {error}): it is damaged or of an "
                "unknown kind, export it again as OME-TIFF"
            ) from error
        tiff.filehandle.set_lock(True)  # late tag reads (JPEG tables) from several threads
        self._tiff = tiff
        self._file = path.open("rb")
        self._file_lock = threading.Lock()

    def close(self) -> None:
        """Release the file and the tiles held of it."""
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
            indices = [
                (page, first + plane * across * down) for page in found.pages for plane in range(found.planes)
            ]
            decoded = [self._decode_segment(page, index) for page, index in indices]
            planes = [plane for plane in decoded if plane is not None]
            if len(planes) < len(decoded):
                return None
        tile = planes[0] if len(planes) == 1 else np.concatenate(planes[:3], axis=2)
        return _to_pixels(tile, found.keyframe, self.channels)

    def _read_raw(self, level: _Level, offset: int, row: int) -> np.ndarray:
        """Read a virtual strip of uncompressed pixels: (rows, width, samples)."""
        keyframe = level.keyframe
        samples = keyframe.samplesperpixel if keyframe.planarconfig == 1 else 1
        first = row * level.tile_shape[0]
        rows = min(level.tile_shape[0], level.shape[0] - first)
        dtype = keyframe.dtype.newbyteorder(keyframe.parent.byteorder)
        row_bytes = level.shape[1] * samples * dtype.itemsize
        data = self._read_bytes(offset + first * row_bytes, rows * row_bytes)
        pixels = np.frombuffer(data, dtype).reshape(rows, level.shape[1], samples)
        return pixels.astype(keyframe.dtype.newbyteorder("="), copy=False)

    def _decode_segment(self, page: Any, index: int) -> np.ndarray | None:
        """Decode one tile or strip of a page: (height, width, samples)."""
        count = int(page.databytecounts[index])
        if count == 0 or page.dataoffsets[index] == 0:
            return None
        data = self._read_bytes(int(page.dataoffsets[index]), count)
        keyframe = page.keyframe
        tables = {}
        if keyframe.compression in _JPEG:
            tables = {"jpegtables": page.jpegtables, "jpegheader": keyframe.jpegheader}
        decoded = keyframe.decode(data, index, **tables)[0]
        return None if decoded is None else decoded[0]


def _find_levels(tiff: Any, name: str) -> list[_Level]:
    """Return the levels of the largest image of a file, finest first."""
    candidates = [series for series in tiff.series if series.keyframe is not None and _area(series) > 0]
    if not candidates:
        raise ComirSearchError(f"{name} holds no image: it is damaged or truncated, copy or export it again")
    main = candidates[0] if tiff.is_svs else max(candidates, key=_area)
    first = _describe_level(main.levels[0], name)
    levels = [first]
    # Readers group most levels by themselves; the rest are tiled copies marked as such. In an SVS the
    # mark says nothing, and a level that takes the place of the thumbnail is known by its tiles.
    others = [
        series
        for series in candidates
        if series is not main
        and series.keyframe.is_tiled
        and (tiff.is_svs or series.keyframe.subfiletype & 1)
    ]
    reduced = sorted([*main.levels[1:], *others], key=_area, reverse=True)
    for series in reduced:
        level = _describe_level(series, name)
        if _continues(levels, level):
            levels.append(level)
    return levels


def _area(series: Any) -> int:
    return int(series.keyframe.imagelength) * int(series.keyframe.imagewidth)


def _continues(levels: list[_Level], level: _Level) -> bool:
    """Whether a level is a smaller copy of the first: same kind, same proportions."""
    first, last = levels[0], levels[-1]
    same = (
        first.keyframe.dtype == level.keyframe.dtype
        and first.keyframe.samplesperpixel == level.keyframe.samplesperpixel
        and len(first.pages) == len(level.pages)
    )
    if not same or level.shape[0] >= last.shape[0] or level.shape[1] >= last.shape[1]:
        return False
    downsample = find_downsample(first.shape, level.shape)
    return all(
        abs(side / downsample - own) <= max(1.5, 0.01 * own)
        for side, own in zip(first.shape, level.shape, strict=True)
    )


def _describe_level(series: Any, name: str) -> _Level:
    """Find the pages and tiles of one level."""
    keyframe = series.keyframe
    shape = (int(keyframe.imagelength), int(keyframe.imagewidth))
    sizes = dict(zip(series.axes, series.shape, strict=True))
    planes = {axis: size for axis, size in sizes.items() if axis not in "YXS" and size > 1}
    count = int(np.prod(list(planes.values()), dtype=int))
    if planes and (set(planes) != {"C"} or count != 3):
        inside = " x ".join(f"{size} ({axis})" for axis, size in planes.items())
        raise ComirSearchError(
            f"{name} holds {count} planes, {inside}: save the one to use as a single grey or RGB image"
        )
    pages = tuple(series.pages[index] for index in range(count))
    if any(page is None for page in pages) or keyframe.imagedepth > 1:
        raise ComirSearchError(f"{name} is a volume or keeps its channels apart: save one grey or RGB image")
    width_in_tile, height_in_tile = (
        (keyframe.tilewidth, keyframe.tilelength)
        if keyframe.is_tiled
        else (shape[1], min(keyframe.rowsperstrip, shape[0]))
    )
    separate = keyframe.planarconfig == 2 and keyframe.samplesperpixel > 1
    raw_offsets = None
    if (
        not keyframe.is_tiled
        and keyframe.predictor == 1
        and keyframe.fillorder == 1
        and keyframe.dtype.kind in "uif"
        and all(page.is_contiguous for page in pages)
    ):
        plane_bytes = shape[0] * shape[1] * keyframe.dtype.itemsize
        stored = int(keyframe.samplesperpixel) if separate else 1
        raw_offsets = tuple(
            int(page.dataoffsets[0]) + n * plane_bytes for page in pages for n in range(stored)
        )
        samples = 1 if separate else int(keyframe.samplesperpixel)
        height_in_tile = max(
            1, min(shape[0], _VIRTUAL_STRIP_BYTES // (shape[1] * samples * keyframe.dtype.itemsize))
        )
    tile_bytes = height_in_tile * width_in_tile * keyframe.samplesperpixel * keyframe.dtype.itemsize
    if tile_bytes > _LARGEST_TILE_BYTES:
        raise ComirSearchError(
            f"{name} is compressed in one piece of {tile_bytes / 2**30:.1f} GB, which cannot be read in "
            "parts: save it as a tiled TIFF"
        )
    return _Level(
        pages=pages,
        planes=int(keyframe.samplesperpixel) if separate else 1,
        shape=shape,
        tile_shape=(int(height_in_tile), int(width_in_tile)),
        raw_offsets=raw_offsets,
    )


def _check_tags(tiff: Any, level: _Level, path: Path) -> None:
    """Raise where the file ends before the value of a tag, which tifffile passes over in silence."""
    if tiff.is_ndpi:  # its offsets have more bits than its tags have room for
        return
    size = path.stat().st_size
    count = struct.Struct(tiff.byteorder + ("Q" if tiff.is_bigtiff else "H"))
    entry = struct.Struct(tiff.byteorder + ("HHQQ" if tiff.is_bigtiff else "HHII"))
    inline_bytes = 8 if tiff.is_bigtiff else 4
    with path.open("rb") as file:
        for page in level.pages:
            file.seek(page.offset)
            tags = file.read(count.unpack(file.read(count.size))[0] * entry.size)
            for _, kind, length, offset in entry.iter_unpack(tags):
                value_bytes = length * _TAG_BYTES.get(kind, 1)
                if value_bytes > inline_bytes and offset + value_bytes > size:
                    raise _truncated(path.name, size, offset + value_bytes)


def _truncated(name: str, size: int, end: int) -> ComirSearchError:
    return ComirSearchError(
        f"{name} is truncated: {size:,} of at least {end:,} bytes are there, copy or export it again"
    )


def _check_complete(level: _Level, number: int, path: Path) -> None:
    """Raise where the file ends before the level's last tile."""
    size = path.stat().st_size
    for page in level.pages:
        keyframe = level.keyframe
        if level.raw_offsets is not None:
            samples = keyframe.samplesperpixel if level.planes == 1 else 1
            plane_bytes = level.shape[0] * level.shape[1] * samples * keyframe.dtype.itemsize
            end = max(level.raw_offsets) + plane_bytes
        else:
            offsets = np.asarray(page.dataoffsets, np.int64)
            counts = np.asarray(page.databytecounts, np.int64)
            tiles = level.planes * np.prod(
                [-(-side // piece) for side, piece in zip(level.shape, level.tile_shape, strict=True)],
                dtype=int,
            )
            if len(offsets) < tiles or len(counts) < tiles:
                raise ComirSearchError(
                    f"{path.name} lists {min(len(offsets), len(counts))} of the {tiles} tiles of level "
                    f"{number}: it is damaged, copy or export it again"
                )
            end = int(np.where(counts > 0, offsets + counts, 0).max(initial=0))
        if end > size:
            raise _truncated(path.name, size, end)


def _find_kind(level: _Level, name: str) -> tuple[int, np.dtype[Any]]:
    """Return channels (1 or 3) and the type of the pixels handed out."""
    keyframe = level.keyframe
    photometric, samples = int(keyframe.photometric), int(keyframe.samplesperpixel)
    coded = keyframe.compression in _JPEG or keyframe.compression in _JPEG_2000
    if photometric not in _COLOURS or (photometric == _YCBCR and not coded):
        raise ComirSearchError(
            f"{name} stores its colours as {keyframe.photometric.name}, which is not read: save it as grey "
            "or RGB"
        )
    if keyframe.dtype is None or keyframe.dtype.kind not in "uifb":
        raise ComirSearchError(
            f"{name} stores pixels of a type that is not read: save it as 8-bit, 16-bit or float"
        )
    if photometric == _PALETTE:
        return 3, np.dtype(np.uint8)
    if len(level.pages) == 3:
        samples = 3
    elif samples > 4 or (samples > 1 and photometric not in (_RGB, _YCBCR) and samples != 2):
        raise ComirSearchError(f"{name} has {samples} channels: save the one to use as a single grey image")
    dtype = keyframe.dtype
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
