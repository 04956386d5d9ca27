"""Pictures and slides written for the tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from comir_search.opencv import cv2


def paint(height: int, width: int, channels: int = 3, dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    """Return a picture with structure at every scale."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, channels))
    for side in (3, 12, 48):
        coarse = rng.random((side, side, channels))
        image += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).reshape(image.shape)
    image = (image - image.min()) / (image.max() - image.min())
    if np.dtype(dtype).kind in "ui":
        image = (image * np.iinfo(dtype).max).round()
    image = image.astype(dtype)
    return image[..., 0] if channels == 1 else image


def halve(image: np.ndarray) -> np.ndarray:
    """Return the next level of a pyramid, the odd last row and column dropped."""
    height, width = (side // 2 for side in image.shape[:2])
    return cv2.resize(image[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA)


@pytest.fixture
def write_pyramid(tmp_path: Path) -> Callable[..., Path]:
    """Write a pyramid: as sub-resolutions, or as pages one after the other."""

    def write(
        image: np.ndarray, name: str = "slide.ome.tif", *, levels: int = 3, flat: bool = False, **options
    ) -> Path:
        path = tmp_path / name
        photometric = "rgb" if image.ndim == 3 else "minisblack"
        options = {"photometric": photometric, "tile": (128, 128), "compression": "deflate", **options}
        size_um = options.pop("pixel_size_um", 0.5)
        axes = "YXS" if image.ndim == 3 else "YX"
        metadata = {"axes": axes, "PhysicalSizeX": size_um, "PhysicalSizeY": size_um}
        with tifffile.TiffWriter(path, ome=not flat) as tiff:
            tiff.write(
                image, subifds=0 if flat else levels - 1, metadata=None if flat else metadata, **options
            )
            for _ in range(levels - 1):
                image = halve(image)
                tiff.write(image, subfiletype=1, metadata=None, **options)
        return path

    return write
