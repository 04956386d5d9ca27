"""SIFT, which the published comparison compares with dense SURF."""

from __future__ import annotations

from typing import Any

import numpy as np

from comir_search.evaluation.baselines.extractor import FloatArray
from comir_search.matching.surf import BLOCKS_PX, STEP_PX
from comir_search.opencv import cv2

# Settings of the published SIFT (Fiji's): four steps for each octave, and this blur at the first; the image is not
# enlarged before.
_SIFT_STEPS = 4
_SIFT_SIGMA = 1.6
_SIFT_LENGTH = 128
# OpenCV's SIFT describes 4 cells of 3 x size / 2 px around a point.
_SIFT_WINDOW_SIZES = 6


class Sift:
    """SIFT at its own keypoints, or without rotation on the grid of dense SURF.

    Patches and images are described at the same scale. The published run differs: it
    skipped octaves wider than 512 px, so that large images began at half the resolution
    of their patches.
    """

    def __init__(self, dense: bool) -> None:
        self._dense = dense
        self._sift = cv2.SIFT.create(nOctaveLayers=_SIFT_STEPS, sigma=_SIFT_SIGMA)

    def describe(self, image: FloatArray) -> FloatArray:
        """Return L2-normalised descriptors (n, 128)."""
        grey = np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
        points = self._grid(*grey.shape) if self._dense else self._sift.detect(grey, None)
        descriptors = self._sift.compute(grey, points)[1] if points else None
        if descriptors is None:
            return np.zeros((0, _SIFT_LENGTH), np.float32)
        descriptors = descriptors.astype(np.float32)
        norms = np.linalg.norm(descriptors, axis=1, keepdims=True)
        normalised: FloatArray = descriptors / np.maximum(norms, np.finfo(np.float32).eps)
        return normalised

    def strength(self, descriptors: FloatArray) -> FloatArray:
        """Return the variance of each descriptor's entries."""
        return descriptors.var(axis=1)

    def _grid(self, rows: int, columns: int) -> list[Any]:
        first = STEP_PX // 2
        return [
            cv2.KeyPoint(float(x), float(y), block / _SIFT_WINDOW_SIZES, 0.0)
            for block in BLOCKS_PX
            for y in range(first, rows // STEP_PX * STEP_PX, STEP_PX)
            for x in range(first, columns // STEP_PX * STEP_PX, STEP_PX)
        ]
