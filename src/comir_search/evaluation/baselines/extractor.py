"""The interface of local features in the paper's pipeline."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


class Extractor(Protocol):
    """Computes the descriptors of an image and the strength of each."""

    def describe(self, image: FloatArray) -> FloatArray:
        """Return the descriptors (n, d) of an image (rows, columns) in [0, 1]."""
        ...

    def strength(self, descriptors: FloatArray) -> FloatArray:
        """Return the strength of each descriptor, (n,). The vocabulary is learnt from the strongest."""
        ...
