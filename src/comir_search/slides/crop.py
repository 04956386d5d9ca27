"""Cut a candidate out of its slide, rotated as the query shows it."""

from __future__ import annotations

import numpy as np

from comir_search.geometry import center_frame_matrix, query_to_slide, transform
from comir_search.opencv import cv2
from comir_search.records import Candidate
from comir_search.slides.slide import Slide


def extract_candidate(
    slide: Slide,
    candidate: Candidate,
    pixel_size_um: float,
    shape: tuple[int, int] | None = None,
) -> np.ndarray:
    """Cut a candidate out of its slide, rotated and mirrored as the query shows it.

    Parameters
    ----------
    slide : Slide
        The candidate's slide.
    candidate : Candidate
        Its position, rotation and size on the slide.
    pixel_size_um : float
        Pixel size of the picture that is returned.
    shape : (int, int), optional
        Height and width of the picture, centred on the candidate; by default
        the candidate's own size.

    Returns
    -------
    ndarray (height, width) or (height, width, 3)
        In the slide's data type. Parts outside the slide are background.
    """
    if shape is None:
        shape = (
            max(1, round(candidate.height_um / pixel_size_um)),
            max(1, round(candidate.width_um / pixel_size_um)),
        )
    height, width = shape
    # Maps the picture to the slide, both in pixels of the picture's size.
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
