"""OME-Zarr 0.4 and 0.5 images through zarr."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from comir_search.errors import ComirSearchError
from comir_search.slides.fingerprint import content_fingerprint, stored_bytes
from comir_search.slides.guard import HANDY_BYTES, check_piece, check_tiles, stated_failures
from comir_search.slides.pixel_size import MISSING, PixelSize, believe, unit_in_um
from comir_search.slides.tiled import TiledSlide
from comir_search.slides.zarr_images import ZarrImage, choose_image

_SAMPLE_PX = 512


class OmeZarrSlide(TiledSlide):
    """An OME-Zarr folder. Use `open_slide`.

    Parameters
    ----------
    path : Path
    pixel_size : PixelSize, optional
        Overrides the file's own.
    """

    def __init__(self, path: Path, pixel_size: PixelSize | None = None) -> None:
        import zarr

        from comir_search.slides.zarr_store import CheckedStore

        with stated_failures(
            path.name,
            f"{path.name} is not a readable OME-Zarr image ({{error}}): it is damaged or of an unknown "
            "version, export it again as OME-Zarr 0.4 or 0.5",
        ):
            store = CheckedStore(path)
            group = zarr.open_group(store, mode="r")
            image = choose_image(group, path.name)
            self._describe(image, path, pixel_size, store)
            self._sign(image.signed)

    def _describe(self, image: ZarrImage, path: Path, pixel_size: PixelSize | None, store: Any) -> None:
        """Check the arrays and describe them."""
        self._arrays = image.arrays
        self._axes = image.axes
        channels, notes = _find_channels(self._axes, self._arrays[0], image.attributes, path.name)
        if pixel_size is None:
            pixel_size = _find_pixel_size(image.multiscale, self._axes, path.name)
        dtype = np.dtype(self._arrays[0].dtype)
        if dtype.kind not in "uifb":
            raise ComirSearchError(f"{path.name} contains {dtype}, which cannot be pixel values")
        y, x = self._axes.index("y"), self._axes.index("x")
        for array in self._arrays:
            _check_array(array, (y, x), path, store)
        super().__init__(
            name=path.name,
            path=str(path),
            format=f"OME-Zarr {image.version}",
            level_shapes=[(array.shape[y], array.shape[x]) for array in self._arrays],
            tile_shapes=[(array.chunks[y], array.chunks[x]) for array in self._arrays],
            channels=channels,
            dtype=np.uint8 if dtype.kind == "b" else dtype.newbyteorder("="),
            pixel_size=pixel_size,
            fingerprint="",
            notes=[*image.notes, *notes],
            other_images=image.others,
        )

    def _sign(self, attributes: dict[str, Any]) -> None:
        """Set the fingerprint from the metadata and the middle of the coarsest level."""
        last = len(self.level_shapes) - 1
        height, width = (min(side, _SAMPLE_PX) for side in self.level_shapes[last])
        top, left = (
            (side - piece) // 2 for side, piece in zip(self.level_shapes[last], (height, width), strict=True)
        )
        sample = self.read_level(last, left, top, width, height)
        described = json.dumps([attributes, self.level_shapes], sort_keys=True, default=str)
        fingerprint = content_fingerprint(described.encode(), sample.tobytes())
        self.info = replace(self.info, fingerprint=fingerprint)

    def _decode_tile(self, level: int, row: int, column: int) -> np.ndarray:
        array = self._arrays[level]
        selection: list[slice | int] = []
        kept: list[str] = []
        for axis in self._axes:
            if axis in "yx":
                number, side = (
                    (row, self.tile_shapes[level][0]) if axis == "y" else (column, self.tile_shapes[level][1])
                )
                selection.append(slice(number * side, (number + 1) * side))
                kept.append(axis)
            elif axis == "c" and self.channels == 3:
                selection.append(slice(0, 3))
                kept.append(axis)
            else:
                selection.append(0)
        tile = np.asarray(array[tuple(selection)])
        tile = tile.transpose([kept.index(axis) for axis in ("y", "x", "c") if axis in kept])
        if tile.dtype.kind == "b":
            tile = tile.astype(np.uint8) * 255
        return np.ascontiguousarray(tile, self.dtype)


def _check_array(array: Any, places: tuple[int, int], path: Path, store: Any) -> None:
    """Raise an error if a level is empty or its chunks are too large or too small; have the store check them."""
    from comir_search.slides.zarr_store import find_rule

    name = path.name
    if 0 in array.shape or 0 in array.chunks:
        raise ComirSearchError(f"{name} contains an empty level: export it again")
    rule = find_rule(array)
    if rule.chunk_bytes > HANDY_BYTES:
        pieces = " x ".join(str(side) for side in array.chunks)
        check_piece(name, rule.chunk_bytes, stored_bytes(path), f"chunks of {pieces}")
    tiles, tile_px = 1, 1
    for place in places:
        tiles *= -(-array.shape[place] // array.chunks[place])
        tile_px *= array.chunks[place]
    check_tiles(name, tile_px, tiles)
    store.rules[array.path.strip("/")] = rule


def _find_channels(
    axes: list[str], array: Any, attributes: dict[str, Any], name: str
) -> tuple[int, list[str]]:
    """Return the number of channels (1 or 3) and notes; raise for a stack or several grey channels.

    OME-Zarr cannot mark an image as RGB. Three channels count as colour if the file
    calls them red, green and blue, or if they are 8-bit and the file does not name
    their colours.
    """
    sizes = dict(zip(axes, array.shape, strict=True))
    planes = {axis: size for axis, size in sizes.items() if axis not in "yx" and size > 1}
    if not planes:
        return 1, []
    inside = " x ".join(f"{size} ({axis})" for axis, size in planes.items())
    several = ComirSearchError(f"{name} contains several planes, {inside}: save the one to use as one image")
    count = planes.get("c", 1)
    if set(planes) != {"c"} or count not in (3, 4) or (count == 4 and axes[-1] != "c"):
        raise several
    stated = _list_colours(attributes)
    if stated[:3] == ["FF0000", "00FF00", "0000FF"]:
        return 3, ["its three channels are read as colour: the file says they are red, green and blue"]
    if stated or np.dtype(array.dtype) != np.uint8:
        named = f", shown in {', '.join(stated[:count])}" if stated else ""
        raise ComirSearchError(
            f"{name} contains {count} channels that are not red, green and blue{named}: save the one to use as "
            "one image"
        )
    return 3, ["its three channels are read as colour: the file does not say what they are"]


def _list_colours(attributes: dict[str, Any]) -> list[str]:
    """Return the colour of each channel in the `omero` metadata, as RRGGBB."""
    omero = attributes.get("omero")
    channels = omero.get("channels") if isinstance(omero, dict) else None
    return [str(channel.get("color", "")).lstrip("#").upper()[:6] for channel in channels or ()]


def _find_pixel_size(image: dict[str, Any], axes: list[str], name: str) -> PixelSize:
    """Read the scale of level 0: the scale of its dataset times that of the image."""
    scale = [1.0] * len(axes)
    stated = False
    for holder in (image["datasets"][0], image):
        for step in holder.get("coordinateTransformations", []):
            if step.get("type") == "scale":
                stated = True
                scale = [own * float(factor) for own, factor in zip(scale, step["scale"], strict=True)]
    described = {axis["name"].lower(): axis for axis in image.get("axes", []) if isinstance(axis, dict)}
    sides = []
    for axis in "xy":
        unit_um = unit_in_um(described.get(axis, {}).get("unit"))
        if not stated or unit_um is None:
            return MISSING
        sides.append(scale[axes.index(axis)] * unit_um)
    return believe(name, sides[0], sides[1], "OME-Zarr scale")
