"""Pictures for people: a candidate turned into the query's frame, and display values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from comir_search.geometry import center_frame_matrix, query_to_slide, transform
from comir_search.opencv import cv2
from comir_search.records import Candidate

if TYPE_CHECKING:
    from comir_search.slides import Slide


@dataclass(frozen=True)
class Contrast:
    """What a person set so as to see an image well.

    Parameters
    ----------
    low, high : float
        Values that are shown black and white.
    gamma : float
        Exponent of what lies between.
    """

    low: float
    high: float
    gamma: float = 1.0


def extract_candidate(
    slide: Slide,
    candidate: Candidate,
    pixel_size_um: float,
    shape: tuple[int, int] | None = None,
) -> np.ndarray:
    """Cut a candidate out of its slide, turned and mirrored as the query shows it.

    Parameters
    ----------
    slide : Slide
        The candidate's slide.
    candidate : Candidate
        The place.
    pixel_size_um : float
        Of the picture.
    shape : (int, int), optional
        Height and width of the picture, centred on the candidate; by default
        the candidate's own size.

    Returns
    -------
    ndarray (height, width) or (height, width, 3)
        In the slide's type; background where the candidate looks over the
        slide's border.
    """
    if shape is None:
        shape = (
            max(1, round(candidate.height_um / pixel_size_um)),
            max(1, round(candidate.width_um / pixel_size_um)),
        )
    height, width = shape
    # From the picture to the slide in pixels of the picture's size, where the slide is read.
    scale = candidate.pixel_size_um / pixel_size_um
    to_slide = np.diag([scale, scale, 1.0]) @ query_to_slide(candidate, shape, pixel_size_um)
    corners = transform(to_slide, [[0, 0], [width, 0], [width, height], [0, height]])
    left, top = np.floor(corners.min(axis=0)).astype(int) - 2
    right, bottom = np.ceil(corners.max(axis=0)).astype(int) + 2
    downsample = pixel_size_um / candidate.pixel_size_um
    region = slide.read_downsampled(downsample, int(left), int(top), int(right - left), int(bottom - top))
    to_region = center_frame_matrix(np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1.0]]) @ to_slide)
    return cv2.warpAffine(
        region,
        to_region[:2],
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


def display_range(array: np.ndarray) -> tuple[float, float]:
    """Return the values that are shown black and white, judged by what an image holds, not by its type.

    Colour is shown from 0 to the largest value of as many bits as it uses: 255 for
    8 bits, 4095 for 12 bits in a file of 16, 1 for floats up to 1. Grey is shown
    from its 1st to its 99.7th percentile, so that dim SHG is not black.

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
    brightest = float(np.percentile(values, 99.9))  # a few hot pixels do not count
    if values.dtype.kind == "f" and brightest <= 1.001:
        return 0.0, 1.0
    bits = max(8, math.ceil(math.log2(max(brightest, 1.0) + 1) - 1e-9))
    return 0.0, float(2**bits - 1)


def to_display(array: np.ndarray, contrast: Contrast | None = None) -> NDArray[np.uint8]:
    """Return an image as 8-bit RGB to look at.

    Parameters
    ----------
    array : ndarray (height, width), (height, width, 1) or (height, width, 3)
        Any integer or float type; not-a-number is shown black.
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
    """Resize an RGB picture to fit a box, keeping its proportions."""
    height, width = picture.shape[:2]
    scale = min(width_px / width, height_px / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
