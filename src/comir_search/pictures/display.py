"""Convert images of any data type to 8-bit RGB for display."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from comir_search.opencv import cv2


@dataclass(frozen=True)
class Contrast:
    """The contrast that a person set for an image.

    Parameters
    ----------
    low, high : float
        Values that are shown black and white.
    gamma : float
        Exponent for the values between.
    """

    low: float
    high: float
    gamma: float = 1.0


def display_range(array: np.ndarray) -> tuple[float, float]:
    """Return the values that are shown black and white, from an image's content, not its data type.

    Colour is shown from 0 to the largest value of the bits that it uses: 255 for 8
    bits, 4095 for 12 bits in a 16-bit file, 1 for floats up to 1. Grey is shown from
    its 1st to its 99.7th percentile, so dim SHG is not black.

    Parameters
    ----------
    array : ndarray (height, width), (height, width, 1) or (height, width, 3)
        Any integer or float type.
    """
    values = np.asarray(array)
    if values.dtype == bool:
        return 0.0, 1.0
    is_colour = values.ndim == 3 and values.shape[2] == 3
    if is_colour and values.dtype == np.uint8:
        return 0.0, 255.0
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    if not is_colour:
        low, high = np.percentile(values, (1, 99.7))
        return float(low), float(high)
    brightest = float(np.percentile(values, 99.9))  # ignores a few hot pixels
    if values.dtype.kind == "f" and brightest <= 1.001:
        return 0.0, 1.0
    bits = max(8, math.ceil(math.log2(max(brightest, 1.0) + 1) - 1e-9))
    return 0.0, float(2**bits - 1)


def to_display(array: np.ndarray, contrast: Contrast | None = None) -> NDArray[np.uint8]:
    """Return an image as 8-bit RGB for display.

    Parameters
    ----------
    array : ndarray (height, width), (height, width, 1) or (height, width, 3)
        Any integer or float type; NaN is shown black.
    contrast : Contrast, optional
        By default the range is that of `display_range`.
    """
    values = np.nan_to_num(np.asarray(array, np.float32), posinf=0.0, neginf=0.0)
    if contrast is None:
        contrast = Contrast(*display_range(array))
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    shares = np.clip((values - contrast.low) / max(contrast.high - contrast.low, 1e-6), 0, 1)
    if contrast.gamma != 1.0:
        shares **= contrast.gamma
    shown = (255 * shares + 0.5).astype(np.uint8)
    return shown if shown.ndim == 3 else np.repeat(shown[..., None], 3, axis=2)


def fit_picture(picture: NDArray[np.uint8], width_px: int, height_px: int) -> NDArray[np.uint8]:
    """Resize an RGB picture to fit into a box, keeping its proportions.

    Parameters
    ----------
    picture : ndarray (height, width, 3) uint8
    width_px, height_px : int
        Size of the box.
    """
    height, width = picture.shape[:2]
    scale = min(width_px / width, height_px / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
