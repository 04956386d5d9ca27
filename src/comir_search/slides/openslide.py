"""MRXS, BIF, DICOM and other vendors' slides, read with OpenSlide (an optional package)."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any

import numpy as np

from comir_search.errors import ComirSearchError
from comir_search.slides.fingerprint import content_fingerprint, file_fingerprint
from comir_search.slides.folder import is_plain_name, list_companions, list_named_files
from comir_search.slides.guard import is_regular, stated_failures
from comir_search.slides.pixel_size import PixelSize, believe, parse_number
from comir_search.slides.tiled import TiledSlide

_TILE_PX = 512
_LARGEST_TILE_PX = 4 << 20
_UNREAD_KINDS = re.compile(
    r"not supported|unsupported|unrecognized|unknown|unexpected|cannot handle|can't handle|\!=", re.IGNORECASE
)
_VENDORS = {
    "mirax": "MIRAX MRXS", "ventana": "Ventana BIF", "dicom": "DICOM", "hamamatsu": "Hamamatsu",
    "zeiss": "Zeiss CZI", "sakura": "Sakura SVSLIDE", "aperio": "Aperio SVS", "leica": "Leica SCN",
    "trestle": "Trestle",
    "philips-tiff": "Philips TIFF", "generic-tiff": "tiled TIFF pyramid",
}  # fmt: skip


class OpenSlideSlide(TiledSlide):
    """A slide that OpenSlide reads. Use `open_slide`.

    Areas that were never scanned are transparent in OpenSlide and white here.
    OpenSlide accepts positions in level-0 pixels only and interpolates if the ratio
    of two levels is not a whole number. Pixels of coarser levels may then be off by
    up to a quarter of a pixel.

    Parameters
    ----------
    path : Path
    pixel_size : PixelSize, optional
        Overrides the file's own.
    """

    def __init__(self, path: Path, pixel_size: PixelSize | None = None) -> None:
        try:
            import openslide
        except ImportError as error:
            raise ComirSearchError(
                f"{path.name} needs OpenSlide, which is not installed: "
                "pip install 'napari-comir-search[openslide]'"
            ) from error
        _check_members(path)
        try:
            slide = openslide.OpenSlide(path)
        except Exception as error:
            raise _explain(path, error) from error
        try:
            with stated_failures(
                path.name, f"{path.name} contains impossible metadata ({{error}}): export it as OME-TIFF"
            ):
                self._describe(slide, path, pixel_size)
        except BaseException:
            slide.close()
            raise
        self._slide = slide

    def _describe(self, slide: Any, path: Path, pixel_size: PixelSize | None) -> None:
        properties = slide.properties
        if pixel_size is None:
            x_um, y_um = (parse_number(properties.get(f"openslide.mpp-{axis}")) or 0.0 for axis in "xy")
            pixel_size = believe(path.name, x_um, y_um, "OpenSlide mpp")
        # This file may be only a small part of the slide (MRXS, DICOM): prefer OpenSlide's own hash.
        quick_hash = properties.get("openslide.quickhash-1")
        fingerprint = content_fingerprint(quick_hash.encode()) if quick_hash else file_fingerprint(path)
        tiles = []
        for level in range(slide.level_count):
            height, width = (
                int(properties.get(f"openslide.level[{level}].tile-{side}", _TILE_PX))
                for side in ("height", "width")
            )
            # OpenSlide reads any rectangle, so our tiles need not be the file's tiles.
            is_handy = 0 < height * width <= _LARGEST_TILE_PX and height > 0
            tiles.append((height, width) if is_handy else (_TILE_PX, _TILE_PX))
        super().__init__(
            name=path.name,
            path=str(path),
            format=_VENDORS.get(properties.get("openslide.vendor", ""), "OpenSlide"),
            level_shapes=[(height, width) for width, height in slide.level_dimensions],
            tile_shapes=tiles,
            channels=3,
            dtype=np.uint8,
            pixel_size=pixel_size,
            fingerprint=fingerprint,
            other_images=[
                f"{name!r}, {image_width} x {image_height} px"
                for name, (image_width, image_height) in _list_associated(slide)
            ],
            bounds_origin_px=(
                int(properties.get("openslide.bounds-x", 0)),
                int(properties.get("openslide.bounds-y", 0)),
            ),
        )

    def close(self) -> None:
        """Release the file and its cached tiles."""
        super().close()
        self._slide.close()

    def _decode_tile(self, level: int, row: int, column: int) -> np.ndarray | None:
        tile_height, tile_width = self.tile_shapes[level]
        level_height, level_width = self.level_shapes[level]
        top, left = row * tile_height, column * tile_width
        size = (min(tile_width, level_width - left), min(tile_height, level_height - top))
        downsample = self._slide.level_downsamples[level]
        place = (round(left * downsample), round(top * downsample))
        pixels = np.asarray(self._slide.read_region(place, level, size))
        alpha = pixels[..., 3:]
        if not alpha.any():
            return None
        if alpha.min() == 255:
            return np.ascontiguousarray(pixels[..., :3])
        opaque = alpha / np.float32(255)
        return np.rint(pixels[..., :3] * opaque + 255 * (1 - opaque)).astype(np.uint8)


def _list_associated(slide: Any) -> list[tuple[str, tuple[int, int]]]:
    """Return name and (width, height) of the label, macro and thumbnail, without decoding them."""

    def side_of(name: str, side: str) -> int:
        return int(slide.properties.get(f"openslide.associated.{name}.{side}", 0))

    names = slide.associated_images.keys()
    return [(name, (side_of(name, "width"), side_of(name, "height"))) for name in names]


def _check_members(path: Path) -> None:
    """Raise an error if OpenSlide would open a pipe, a device or a file in another folder."""
    for name in list_named_files(path):
        if not is_plain_name(name):
            raise ComirSearchError(
                f"{path.name} refers to a file in another folder ({name[:100]!r}), which is not opened: put all "
                "its files into one folder"
            )
    folders = [path.parent] if path.suffix.lower() == ".dcm" else []
    for companion in list_companions(path) if path.suffix.lower() != ".dcm" else ():
        if companion.is_dir():
            folders.append(companion)
        elif companion.exists() and not is_regular(companion):
            raise _no_file(companion)
    for folder in folders:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.is_dir() and not is_regular(Path(entry.path)) and _is_special(entry):
                    raise _no_file(Path(entry.path))


def _is_special(entry: os.DirEntry[str]) -> bool:
    """Whether it is a pipe, a socket or a device; a broken link is not."""
    try:
        mode = entry.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _no_file(path: Path) -> ComirSearchError:
    return ComirSearchError(
        f"{path.parent.name}/{path.name} is a pipe or a device, on which OpenSlide would wait for ever: remove it"
    )


def _explain(path: Path, error: Exception) -> ComirSearchError:
    """Return the error that explains why OpenSlide cannot open a file."""
    said = " ".join(str(error).replace(f"{path.parent}{os.sep}", "").split()).rstrip(".")
    kind = {"": "DICOM", "DCM": "DICOM"}.get(path.suffix.lstrip(".").upper(), path.suffix.lstrip(".").upper())
    if type(error).__name__ == "OpenSlideUnsupportedFormatError":
        return ComirSearchError(
            f"{path.name} cannot be read by OpenSlide (OpenSlide does not know this format): "
            "export it as OME-TIFF"
        )
    if _UNREAD_KINDS.search(said):
        return ComirSearchError(
            f"{path.name} is a kind of {kind} that OpenSlide cannot read ({said}): export it as OME-TIFF"
        )
    return ComirSearchError(
        f"{path.name} cannot be read by OpenSlide ({said}): it is damaged, or files that belong to it are "
        "missing beside it"
    )
