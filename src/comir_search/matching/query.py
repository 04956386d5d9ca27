"""The query as arrays: its CoMIR, which is turned and compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from comir_search.matching.templates import Templates, turn_templates


@dataclass(frozen=True)
class Query:
    """An embedded query.

    Parameters
    ----------
    name : str
    comir : ndarray (channels, rows, columns) float32
        Decoded, at `level`; the top-left corner is the query's.
    size_px : (float, float)
        Height and width of the query, CoMIR pixels of level 0.
    height_um, width_um : float
    signal : float
        Share of the CoMIR's pixels that say anything, in [0, 1].
    mirrored : bool
        Whether the image was flipped left-right before embedding.
    level : int
        Pyramid level of `comir`: 0 but for large queries.
    mismatch : str
        A sentence that says why the image may be of another modality than the one
        it is searched as; "" where nothing speaks for that.
    """

    name: str
    comir: NDArray[np.float32]
    size_px: tuple[float, float]
    height_um: float
    width_um: float
    signal: float
    mirrored: bool = False
    level: int = 0
    mismatch: str = ""

    @property
    def short_side_px(self) -> float:
        """Shorter side, CoMIR pixels."""
        return min(self.size_px)

    @property
    def diagonal_px(self) -> float:
        """Diagonal, CoMIR pixels."""
        return math.hypot(*self.size_px)

    def turn(self, angles_deg: Sequence[float], *, level: int, scale: float = 1.0) -> Templates:
        """Return turned copies at a pyramid level, `self.level` or coarser; see `turn_templates`."""
        return turn_templates(
            self.comir, self.size_px, angles_deg, level=level, scale=scale, comir_level=self.level
        )
