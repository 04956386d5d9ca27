"""Refine a position to a fraction of a pixel and its angle to a fraction of a degree.

Each position of the first stage is correlated again in a small window around it, over a
few angles (and scales), at finer and finer pyramid levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import next_fast_len

from comir_search.geometry import normalise_angle_deg
from comir_search.matching.correlation import Spectra, correlate_window, transform_templates
from comir_search.matching.places import Place
from comir_search.matching.query import Query

CACHE_BYTES = 256 << 20  # for rotated copies


class Reader(Protocol):
    """Reads parts of a slide's CoMIR."""

    def __call__(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.float32]:
        """Return a decoded part (channels, height, width).

        Parameters
        ----------
        level : int
            Pyramid level.
        x, y, width, height : int
            Pixels of the level; may extend beyond the slide.
        """


class PoseFinder:
    """Refine positions of one query at one pyramid level.

    Parameters
    ----------
    query : Query
    level : int
    margin_px : int
        Largest shift of a position, pixels of the level.
    """

    def __init__(self, query: Query, level: int, margin_px: int) -> None:
        self.query, self.level, self.margin_px = query, level, margin_px
        self._cache: dict[tuple[tuple[float, ...], float], Spectra] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return PoseFinder, (self.query, self.level, self.margin_px)  # without the cache

    def refine(
        self,
        place: Place,
        read: Reader,
        angle_offsets_deg: Sequence[float],
        scales: Sequence[float] = (1.0,),
    ) -> Place:
        """Return the position with refined coordinates, angle and score.

        Parameters
        ----------
        place : Place
        read : Reader
            Reads the CoMIR of the position's slide.
        angle_offsets_deg : sequence of float
            Equally spaced offsets to try from the position's angle; the best is
            interpolated if it has neighbours.
        scales : sequence of float
            Scales of the query to try, relative to the position's.
        """
        angles = tuple(
            round(normalise_angle_deg(place.angle_deg + offset), 3) for offset in angle_offsets_deg
        )
        best: Place | None = None
        for scale in scales:
            found = self._refine_one(place, read, angles, place.scale * scale)
            if best is None or found.score > best.score:
                best = found
        assert best is not None
        return best

    def _spectra(self, angles: tuple[float, ...], scale: float) -> Spectra:
        key = (angles, scale)
        spectra = self._cache.get(key)  # looked up only once, since another thread may drop it
        if spectra is None:
            templates = self.query.turn(angles, level=self.level, scale=scale)
            size = next_fast_len(templates.side + 2 * self.margin_px, real=True)
            spectra = transform_templates(templates, size + size % 2)
            room = CACHE_BYTES // (spectra.pixels.nbytes + spectra.masks.nbytes)
            if len(self._cache) >= room:  # at the last levels the same angle rarely occurs again
                self._cache.clear()
            self._cache[key] = spectra
        return spectra

    def _refine_one(self, place: Place, read: Reader, angles: tuple[float, ...], scale: float) -> Place:
        factor = 2**self.level
        spectra = self._spectra(angles, scale)
        spare = (spectra.size - spectra.side) // 2
        x0 = round(place.x / factor - spectra.side / 2) - spare
        y0 = round(place.y / factor - spectra.side / 2) - spare
        window = read(self.level, x0, y0, spectra.size, spectra.size)
        scores = correlate_window(spectra, torch.from_numpy(window)).numpy()
        peaks = scores.reshape(len(angles), -1).max(axis=1)
        number = int(peaks.argmax())
        row, column = np.unravel_index(int(scores[number].argmax()), scores[number].shape)
        dy, dx = _subpixel(scores[number], int(row), int(column))
        turn = _vertex(peaks, number)
        step_deg = normalise_angle_deg(angles[1] - angles[0]) if len(angles) > 1 else 0.0
        return replace(
            place,
            x=(x0 + column + dx + spectra.side / 2) * factor,
            y=(y0 + row + dy + spectra.side / 2) * factor,
            angle_deg=normalise_angle_deg(angles[number] + turn * step_deg),
            score=float(peaks[number]),
            scale=scale,
        )


def _vertex(values: NDArray[np.floating], at: int) -> float:
    """Return the offset of a parabola's vertex through a maximum and its neighbours, in [-0.5, 0.5]."""
    if not 0 < at < len(values) - 1:
        return 0.0
    left, middle, right = (float(value) for value in values[at - 1 : at + 2])
    curvature = left - 2 * middle + right
    return 0.0 if curvature >= 0 else float(np.clip(0.5 * (left - right) / curvature, -0.5, 0.5))


def _subpixel(scores: NDArray[np.floating], row: int, column: int) -> tuple[float, float]:
    """Return the sub-pixel offset (rows, columns) of a peak."""
    return _vertex(scores[:, column], row), _vertex(scores[row], column)
