"""Dense SURF and its alternatives behind one small interface, for comparisons."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from comir_search.errors import ComirSearchError
from comir_search.matching.surf import BLOCKS_PX, STEP_PX, surf_maps

NAMES = ("surf", "sift", "sift-dense", "resnet")
FloatArray = NDArray[np.float32]

# The published SIFT (Fiji's): four steps an octave from this blur; images are not doubled.
_SIFT_STEPS = 4
_SIFT_SIGMA = 1.6
_SIFT_LENGTH = 128
# OpenCV's SIFT sees 4 cells of 3 x size / 2 px around a point of a size.
_SIFT_WINDOW_SIZES = 6


class Extractor(Protocol):
    """Descriptors of an image, and how strong each is."""

    def describe(self, image: FloatArray) -> FloatArray:
        """Return the descriptors (n, d) of an image (rows, columns) in [0, 1]."""
        ...

    def strength(self, descriptors: FloatArray) -> FloatArray:
        """Return how strong each descriptor is, (n,): the strongest make the vocabulary."""
        ...


class DenseSurf:
    """Upright SURF on a grid; strength is the variance of the entries."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def describe(self, image: FloatArray) -> FloatArray:
        """Return descriptors (n, 64)."""
        maps: torch.Tensor = surf_maps(torch.from_numpy(np.ascontiguousarray(image)).to(self._device))
        return maps.reshape(-1, maps.shape[-1]).cpu().numpy()

    def strength(self, descriptors: FloatArray) -> FloatArray:
        """Return the variance of each descriptor's entries."""
        return descriptors.var(axis=1)


class Sift:
    """SIFT at its own keypoints, or upright on the grid of dense SURF.

    Unlike the published run, patches and images are described at the same
    scale: there, octaves wider than 512 px were skipped, and a large image began
    at half the resolution of its patch.
    """

    def __init__(self, dense: bool) -> None:
        from comir_search.opencv import cv2

        self._dense = dense
        self._cv2 = cv2
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
            self._cv2.KeyPoint(float(x), float(y), block / _SIFT_WINDOW_SIZES, 0.0)
            for block in BLOCKS_PX
            for y in range(first, rows // STEP_PX * STEP_PX, STEP_PX)
            for x in range(first, columns // STEP_PX * STEP_PX, STEP_PX)
        ]


class ResnetFeatures:
    """2048 features of 64 values, one for each channel of the last block; strength is their sum."""

    def __init__(self, weights: Path | None, device: torch.device) -> None:
        from comir_search.evaluation.baselines.resnet import load_resnet

        self._network = load_resnet(require_weights(weights), device)

    def describe(self, image: FloatArray) -> FloatArray:
        """Return features (2048, 64)."""
        from comir_search.evaluation.baselines.resnet import pooled_features, resnet_maps

        return pooled_features(resnet_maps(self._network, image))

    def strength(self, descriptors: FloatArray) -> FloatArray:
        """Return the sum of each feature's values."""
        return descriptors.sum(axis=1)


def require_weights(weights: Path | None) -> Path:
    """Return the weights, or say that the user has to give them."""
    if weights is None:
        raise ComirSearchError(
            "ResNet features need ImageNet weights, which are not part of this package; download "
            "torchvision's ResNet-152 weights and give the file with --weights."
        )
    return weights


def make_extractor(name: str, device: torch.device, weights: Path | None = None) -> Extractor:
    """Build an extractor by name.

    Parameters
    ----------
    name : {"surf", "sift", "sift-dense", "resnet"}
    device : torch.device
        Where SURF and ResNet run.
    weights : Path, optional
        Of ResNet.

    Raises
    ------
    ComirSearchError
        If ResNet lacks its weights, or the name is unknown.
    """
    if name == "surf":
        return DenseSurf(device)
    if name in ("sift", "sift-dense"):
        return Sift(dense=name == "sift-dense")
    if name == "resnet":
        return ResnetFeatures(weights, device)
    raise ComirSearchError(f"There are no features named {name!r}; use one of {', '.join(NAMES)}.")
