"""Dense SURF, the features of the published pipeline."""

from __future__ import annotations

import numpy as np
import torch

from comir_search.evaluation.baselines.extractor import FloatArray
from comir_search.matching.surf import surf_maps


class DenseSurf:
    """SURF without rotation on a grid. The strength is the variance of the entries."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def describe(self, image: FloatArray) -> FloatArray:
        """Return descriptors (n, 64)."""
        maps: torch.Tensor = surf_maps(torch.from_numpy(np.ascontiguousarray(image)).to(self._device))
        return maps.reshape(-1, maps.shape[-1]).cpu().numpy()

    def strength(self, descriptors: FloatArray) -> FloatArray:
        """Return the variance of each descriptor's entries."""
        return descriptors.var(axis=1)
