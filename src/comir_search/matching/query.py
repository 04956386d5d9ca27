"""The query as arrays: its CoMIR, which is rotated and compared."""

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
        Decoded, at `level`; its top-left corner is the query's.
    size_px : (float, float)
        Height and width of the query, CoMIR pixels of level 0.
    height_um, width_um : float
    signal : float
        Share of the CoMIR's pixels with signal, in [0, 1].
    mirrored : bool
        Whether the image was flipped left-right before embedding.
    level : int
        Pyramid level of `comir`: 0 except for large queries.
    mismatch : str
        A sentence on why the image may have another modality than the chosen one; ""
        if there is no sign of it.
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
        """Return rotated copies at a pyramid level; see `turn_templates`.

        Parameters
        ----------
        angles_deg : sequence of float
        level : int
            Pyramid level, `self.level` or coarser.
        scale : float
            Factor by which the query is enlarged.
        """
        return turn_templates(
            self.comir, self.size_px, angles_deg, level=level, scale=scale, comir_level=self.level
        )
