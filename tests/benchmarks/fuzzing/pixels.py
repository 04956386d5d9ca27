"""Small pictures and slides that the sound inputs are made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile

from comir_search.opencv import cv2

PIXEL_SIZE_UM = 2.0


def paint(height: int, width: int, channels: int = 3, dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    """Return a picture with structure at several scales; stained on white where it has colour."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width), np.float32)
    for step in (4, 16, 64):
        coarse = rng.random((height // step + 2, width // step + 2), dtype=np.float32)
        image += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    image = (image - image.min()) / (image.max() - image.min())
    if channels == 3:
        image = 0.92 - image[..., None] * np.array([0.25, 0.6, 0.3], np.float32)
    full = np.iinfo(dtype).max if np.dtype(dtype).kind in "ui" else 1
    return (image * full).astype(dtype)


def write_slide(path: Path, image: np.ndarray, pixel_size_um: float = PIXEL_SIZE_UM) -> Path:
    """Write a plain tiled TIFF, the same bytes each time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
        path,
        image,
        photometric="rgb" if image.ndim == 3 else "minisblack",
        tile=(128, 128),
        compression="deflate",
        resolution=(1e4 / pixel_size_um,) * 2,
        resolutionunit="CENTIMETER",
        metadata=None,
    )
    return path
