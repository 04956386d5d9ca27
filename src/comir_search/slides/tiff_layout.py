"""Where the levels and tiles of a TIFF file lie, and whether all of them are there."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from comir_search.errors import ComirSearchError
from comir_search.slides.slide import find_downsample

_VIRTUAL_STRIP_BYTES = 1 << 20
_LARGEST_TILE_BYTES = 1 << 30
_TAG_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}  # by type


@dataclass(frozen=True)
class Level:
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
        """The page that describes all of them."""
        return self.pages[0].keyframe


def find_levels(tiff: Any, name: str) -> list[Level]:
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


def _continues(levels: list[Level], level: Level) -> bool:
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


def _describe_level(series: Any, name: str) -> Level:
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
    return Level(
        pages=pages,
        planes=int(keyframe.samplesperpixel) if separate else 1,
        shape=shape,
        tile_shape=(int(height_in_tile), int(width_in_tile)),
        raw_offsets=raw_offsets,
    )


def check_complete(tiff: Any, levels: list[Level], path: Path) -> None:
    """Raise where the file ends before the last byte of its tags or tiles."""
    for number, level in enumerate(levels):
        _check_tags(tiff, level, path)
        _check_tiles(level, number, path)


def _check_tags(tiff: Any, level: Level, path: Path) -> None:
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


def _check_tiles(level: Level, number: int, path: Path) -> None:
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
