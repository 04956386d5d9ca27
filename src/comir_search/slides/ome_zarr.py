"""OME-Zarr 0.4 and 0.5 images through zarr."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from comir_search.errors import ComirSearchError
from comir_search.slides.fingerprint import content_fingerprint
from comir_search.slides.pixel_size import MISSING, PixelSize, square_pixel_size, unit_in_um
from comir_search.slides.tiled import TiledSlide

_SAMPLE_PX = 512


class OmeZarrSlide(TiledSlide):
    """An OME-Zarr folder. Use `open_slide`.

    Parameters
    ----------
    path : Path
    pixel_size : PixelSize, optional
        Overrides what the file states.
    """

    def __init__(self, path: Path, pixel_size: PixelSize | None = None) -> None:
        import zarr

        try:
            group = zarr.open_group(str(path), mode="r")
            attributes = dict(group.attrs)
            image = _first_image(attributes, path.name)
            self._arrays: list[Any] = [group[str(dataset["path"])] for dataset in image["datasets"]]
            axes = [axis["name"] if isinstance(axis, dict) else axis for axis in image.get("axes", "tczyx")]
            self._axes = [str(axis).lower() for axis in axes]
            channels = self._find_channels(path.name)
            if pixel_size is None:
                pixel_size = _find_pixel_size(image, self._axes, path.name)
            dtype = np.dtype(self._arrays[0].dtype)
            if dtype.kind not in "uifb":
                raise ComirSearchError(f"{path.name} holds {dtype}, which is not a type of pixels")
            y, x = self._axes.index("y"), self._axes.index("x")
            super().__init__(
                name=path.name,
                path=str(path),
                format=f"OME-Zarr {_find_version(attributes)}",
                level_shapes=[(array.shape[y], array.shape[x]) for array in self._arrays],
                tile_shapes=[(array.chunks[y], array.chunks[x]) for array in self._arrays],
                channels=channels,
                dtype=np.uint8 if dtype.kind == "b" else dtype.newbyteorder("="),
                pixel_size=pixel_size,
                fingerprint="",
            )
            self._sign(attributes)
        except ComirSearchError:
            raise
        except Exception as error:
            raise ComirSearchError(
                f"{path.name} is not a readable OME-Zarr image ({type(error).__name__}: {error}): it is "
                "damaged or of an unknown version, export it again as OME-Zarr 0.4 or 0.5"
            ) from error

    def _find_channels(self, name: str) -> int:
        """Return 1 or 3, and check that nothing else has more than one plane."""
        sizes = dict(zip(self._axes, self._arrays[0].shape, strict=True))
        planes = {axis: size for axis, size in sizes.items() if axis not in "yx" and size > 1}
        if planes and (set(planes) != {"c"} or planes["c"] not in (3, 4)):
            inside = " x ".join(f"{size} ({axis})" for axis, size in planes.items())
            raise ComirSearchError(f"{name} holds several planes, {inside}: save the one to use as one image")
        return 3 if planes else 1

    def _sign(self, attributes: dict[str, Any]) -> None:
        """Set the fingerprint: the metadata, and pixels of the middle of the coarsest level."""
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


def _first_image(attributes: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the first multiscale image that the metadata describe."""
    described = attributes.get("ome", attributes)
    images = described.get("multiscales")
    if not images:
        if "plate" in described or "well" in described:
            raise ComirSearchError(f"{name} is a plate or a well: name one of the images in it")
        raise ComirSearchError(
            f"{name} is a Zarr folder without OME metadata: export it as OME-Zarr 0.4 or 0.5"
        )
    image: dict[str, Any] = images[0]
    return image


def _find_version(attributes: dict[str, Any]) -> str:
    if "ome" in attributes:
        return str(attributes["ome"].get("version", "0.5"))
    return str(attributes["multiscales"][0].get("version", "0.4"))


def _find_pixel_size(image: dict[str, Any], axes: list[str], name: str) -> PixelSize:
    """Read the scale of level 0: the dataset's own times the image's."""
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
    if any(math.isnan(side) for side in sides):
        return MISSING
    return square_pixel_size(name, sides[0], sides[1], "OME-Zarr scale")
