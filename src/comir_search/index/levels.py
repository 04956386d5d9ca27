"""Read CoMIRs at any pyramid level; levels coarser than the stored ones are computed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from comir_search.index.indexed_slide import IndexedSlide
from comir_search.index.layout import N_LEVELS
from comir_search.matching.templates import shrink
from comir_search.model.embedding import decode


def read_level(
    slide: IndexedSlide, level: int, x: int, y: int, width: int, height: int
) -> NDArray[np.float32]:
    """Read a part of a slide's CoMIR at a level, decoded.

    Parameters
    ----------
    slide : IndexedSlide
    level : int
        0 or more: pixels are area means of ``2 ** level`` CoMIR pixels squared.
    x, y, width, height : int
        Pixels of that level; may extend beyond the slide.

    Returns
    -------
    ndarray (channels, height, width) float32
    """
    stored = min(level, N_LEVELS - 1)
    factor = 2 ** (level - stored)
    return decode(
        shrink(slide.read_comir(stored, x * factor, y * factor, width * factor, height * factor), factor)
    )
