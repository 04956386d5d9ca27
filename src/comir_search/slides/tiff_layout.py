"""Where the levels and tiles of a TIFF file are stored, and whether the file is complete."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from comir_search.errors import ComirSearchError
from comir_search.slides.guard import check_piece
from comir_search.slides.tiff_images import TiffImage, is_smaller_copy, shape_of

_VIRTUAL_STRIP_BYTES = 1 << 20
_TAG_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}  # by type


@dataclass(frozen=True)
class Level:
    """Where the tiles of a level are stored.

    `planes` is 3 if the page stores its colours one after the other. `raw_offsets` are
    set if the pixels of each plane are stored in one uncompressed piece.
    """

    page: Any
    planes: int
    shape: tuple[int, int]
    tile_shape: tuple[int, int]
    raw_offsets: tuple[int, ...] | None


def find_levels(tiff: Any, image: TiffImage, others: list[TiffImage], path: Path) -> list[Level]:
    """Return the levels of an image of a file, finest first.

    tifffile groups most levels itself. The others are tiled copies that are marked as smaller copies.
    In an SVS this mark is unreliable; there a level differs from a thumbnail by its tiles.

    Parameters
    ----------
    tiff : tifffile.TiffFile
    image : TiffImage
        The image that is the slide.
    others : list of TiffImage
        The other images in the file; some may be further levels.
    path : Path
        The file.
    """
    levels = [_describe_level(image.pages[0], path)]
    copies = [
        page
        for other in others
        for page in other.pages[:1]
        if page.is_tiled and (tiff.is_svs or page.subfiletype & 1) and not other.planes
    ]
    for page in sorted([*image.pages[1:], *copies], key=_area, reverse=True):
        level = _describe_level(page, path)
        if _continues(levels, level):
            levels.append(level)
    return levels


def _area(page: Any) -> int:
    return int(page.imagelength) * int(page.imagewidth)


def _continues(levels: list[Level], level: Level) -> bool:
    """Whether a level is a smaller copy of the first: same type, same proportions."""
    first, last = levels[0], levels[-1]
    same = first.page.dtype == level.page.dtype and first.page.samplesperpixel == level.page.samplesperpixel
    if not same or level.shape[0] >= last.shape[0] or level.shape[1] >= last.shape[1]:
        return False
    return is_smaller_copy(first.shape, level.shape)


def _describe_level(page: Any, path: Path) -> Level:
    """Find the tiles of one level."""
    shape = shape_of(page)
    if page.imagedepth > 1:
        raise ComirSearchError(
            f"{path.name} is a volume (three-dimensional): save the plane to use as one grey or RGB image"
        )
    width_in_tile, height_in_tile = (
        (page.tilewidth, page.tilelength) if page.is_tiled else (shape[1], min(page.rowsperstrip, shape[0]))
    )
    if min(width_in_tile, height_in_tile) < 1 or page.dtype is None:
        raise ComirSearchError(
            f"{path.name} stores pixels of a type that cannot be read: save it as 8-bit, 16-bit or float"
        )
    separate = page.planarconfig == 2 and page.samplesperpixel > 1
    samples = 1 if separate else int(page.samplesperpixel)
    pixel_bytes = samples * page.dtype.itemsize
    raw_offsets = None
    if (
        not page.is_tiled
        and page.predictor == 1
        and page.fillorder == 1
        and page.dtype.kind in "uif"
        and page.is_contiguous
    ):
        plane_bytes = shape[0] * shape[1] * page.dtype.itemsize
        raw_offsets = tuple(
            int(page.dataoffsets[0]) + n * plane_bytes
            for n in range(int(page.samplesperpixel) if separate else 1)
        )
        height_in_tile = max(1, min(shape[0], _VIRTUAL_STRIP_BYTES // (shape[1] * pixel_bytes)))
    check_piece(
        path.name,
        height_in_tile * width_in_tile * pixel_bytes,
        path.stat().st_size,
        f"{'tiles' if page.is_tiled else 'strips'} of {width_in_tile} x {height_in_tile} px",
    )
    return Level(
        page=page,
        planes=int(page.samplesperpixel) if separate else 1,
        shape=shape,
        tile_shape=(int(height_in_tile), int(width_in_tile)),
        raw_offsets=raw_offsets,
    )


def check_complete(tiff: Any, levels: list[Level], path: Path) -> None:
    """Raise an error if the file ends before the last byte of its tags or tiles.

    Parameters
    ----------
    tiff : tifffile.TiffFile
    levels : list of Level
        The levels to check.
    path : Path
        The file.
    """
    for number, level in enumerate(levels):
        _check_tags(tiff, level, path)
        _check_tiles(level, number, path)


def _check_tags(tiff: Any, level: Level, path: Path) -> None:
    """Raise an error if the file ends before the value of a tag: tifffile ignores this."""
    if tiff.is_ndpi:  # its offsets have more bits than its tags have room for
        return
    size = path.stat().st_size
    count = struct.Struct(tiff.byteorder + ("Q" if tiff.is_bigtiff else "H"))
    entry = struct.Struct(tiff.byteorder + ("HHQQ" if tiff.is_bigtiff else "HHII"))
    inline_bytes = 8 if tiff.is_bigtiff else 4
    with path.open("rb") as file:
        file.seek(level.page.offset)
        tags = file.read(count.unpack(file.read(count.size))[0] * entry.size)
    for _, kind, length, offset in entry.iter_unpack(tags):
        value_bytes = length * _TAG_BYTES.get(kind, 1)
        if value_bytes > inline_bytes and offset + value_bytes > size:
            raise _truncated(path.name, size, offset + value_bytes)


def _truncated(name: str, size: int, end: int) -> ComirSearchError:
    return ComirSearchError(
        f"{name} is truncated: it has {size:,} of at least {end:,} bytes, copy or export it again"
    )


def _check_tiles(level: Level, number: int, path: Path) -> None:
    """Raise an error if the file ends before the level's last tile."""
    size = path.stat().st_size
    page = level.page
    if level.raw_offsets is not None:
        samples = page.samplesperpixel if level.planes == 1 else 1
        plane_bytes = level.shape[0] * level.shape[1] * samples * page.dtype.itemsize
        end = max(level.raw_offsets) + plane_bytes
    else:
        offsets = np.asarray(page.dataoffsets, np.int64)
        counts = np.asarray(page.databytecounts, np.int64)
        tiles = level.planes
        for side, piece in zip(level.shape, level.tile_shape, strict=True):
            tiles *= -(-side // piece)
        if len(offsets) < tiles or len(counts) < tiles:
            raise ComirSearchError(
                f"{path.name} lists {min(len(offsets), len(counts))} of the {tiles} tiles of level "
                f"{number}: it is damaged, copy or export it again"
            )
        end = int(np.where(counts > 0, offsets + counts, 0).max(initial=0))
    if end > size:
        raise _truncated(path.name, size, end)
