"""What the paper's pipeline needs of local features, whichever they are."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


class Extractor(Protocol):
    """Descriptors of an image, and how strong each is."""

    def describe(self, image: FloatArray) -> FloatArray:
        """Return the descriptors (n, d) of an image (rows, columns) in [0, 1]."""
        ...

    def strength(self, descriptors: FloatArray) -> FloatArray:
        """Return how strong each descriptor is, (n,): the strongest make the vocabulary."""
        ...
