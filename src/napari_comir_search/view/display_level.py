"""Levels of colour slides of more than 8 bits, as a canvas can show them."""

from __future__ import annotations

import numpy as np

from comir_search.pictures.display import Contrast, to_display
from comir_search.slides.lazy import LazyLevel


class DisplayLevel(LazyLevel):
    """A level in 8 bits, made from what is stored when it is sliced.

    napari shows 16-bit colours by the range of their type, so 12 bits of them would be
    nearly black.

    Parameters
    ----------
    stored : LazyLevel
        The level as the file holds it, (height, width, 3).
    contrast : Contrast
        Stored values that are shown black and white.
    """

    def __init__(self, stored: LazyLevel, contrast: Contrast) -> None:
        def read(x: int, y: int, width: int, height: int) -> np.ndarray:
            return to_display(stored[y : y + height, x : x + width], contrast)

        super().__init__(read, stored.shape, np.dtype(np.uint8))
        self.stored, self.contrast = stored, contrast
