"""MRXS, BIF, DICOM and other vendors' slides through OpenSlide, an extra."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from comir_search.errors import ComirSearchError
from comir_search.slides.fingerprint import content_fingerprint, file_fingerprint
from comir_search.slides.pixel_size import MISSING, PixelSize, square_pixel_size
from comir_search.slides.tiled import TiledSlide

_TILE_PX = 512
_VENDORS = {
    "mirax": "MIRAX MRXS", "ventana": "Ventana BIF", "dicom": "DICOM", "hamamatsu": "Hamamatsu",
    "zeiss": "Zeiss CZI", "sakura": "Sakura SVSLIDE", "aperio": "Aperio SVS", "leica": "Leica SCN",
    "trestle": "Trestle",
    "philips-tiff": "Philips TIFF", "generic-tiff": "tiled TIFF pyramid",
}  # fmt: skip


class OpenSlideSlide(TiledSlide):
    """A slide that OpenSlide reads. Use `open_slide`.

    What was never scanned is transparent in OpenSlide and white here. OpenSlide
    takes places in pixels of level 0 only and interpolates where the ratio of
    two levels is not whole: pixels of coarser levels may then be off by up to
    a quarter of a pixel.

    Parameters
    ----------
    path : Path
    pixel_size : PixelSize, optional
        Overrides what the file states.
    """

    def __init__(self, path: Path, pixel_size: PixelSize | None = None) -> None:
        try:
            import openslide
        except ImportError as error:
            raise ComirSearchError(
                f"{path.name} needs OpenSlide, which is not installed: "
                "pip install 'napari-comir-search[openslide]'"
            ) from error
        try:
            slide = openslide.OpenSlide(path)
        except Exception as error:
            raise ComirSearchError(
                f"{path.name} cannot be read by OpenSlide ({error}): it is damaged, or files that belong "
                "to it are missing beside it"
            ) from error
        properties = slide.properties
        if pixel_size is None:
            pixel_size = MISSING
            if "openslide.mpp-x" in properties and "openslide.mpp-y" in properties:
                x_um, y_um = (float(properties[f"openslide.mpp-{axis}"]) for axis in "xy")
                pixel_size = square_pixel_size(path.name, x_um, y_um, "OpenSlide mpp")
        # The named file may be a small part of the slide, or one of several that name it (MRXS, DICOM).
        quick_hash = properties.get("openslide.quickhash-1")
        fingerprint = content_fingerprint(quick_hash.encode()) if quick_hash else file_fingerprint(path)
        tiles = [
            tuple(
                int(properties.get(f"openslide.level[{level}].tile-{side}", _TILE_PX))
                for side in ("height", "width")
            )
            for level in range(slide.level_count)
        ]
        super().__init__(
            name=path.name,
            path=str(path),
            format=_VENDORS.get(properties.get("openslide.vendor", ""), "OpenSlide"),
            level_shapes=[(height, width) for width, height in slide.level_dimensions],
            tile_shapes=[(height, width) for height, width in tiles],
            channels=3,
            dtype=np.uint8,
            pixel_size=pixel_size,
            fingerprint=fingerprint,
        )
        self._slide = slide

    def close(self) -> None:
        """Release the file and the tiles held of it."""
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
