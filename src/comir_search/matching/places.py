"""Positions during a search, before they become candidates."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

_NEIGHBOURS = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
FIRST_STAGE_PLACES = 300  # patches with faint signal rank low on coarse CoMIRs
FEWEST_PLACES, USUAL_SIDE_UM = 40, 500.0


def count_places(side_um: float) -> int:
    """Return how many positions of the first stage are verified.

    A larger query is more distinctive, and each verification takes longer.
    """
    share = min(1.0, (USUAL_SIDE_UM / side_um) ** 2)
    return max(FEWEST_PLACES, round(share * FIRST_STAGE_PLACES))


@dataclass(frozen=True)
class Place:
    """A possible position and rotation of a query.

    Parameters
    ----------
    slide : int
        Number of the slide in the index.
    x, y : float
        The query's centre, level-0 CoMIR pixels of the slide, corner frame.
    angle_deg : float
    score : float
        Comparable only within one stage.
    scale : float
        Factor by which the query was enlarged.
    mirrored : bool
    """

    slide: int
    x: float
    y: float
    angle_deg: float
    score: float
    scale: float = 1.0
    mirrored: bool = False


def keep_distinct(places: Iterable[Place], radius_px: float, count: int) -> list[Place]:
    """Keep only the best of positions that lie close together, best first.

    Parameters
    ----------
    places : iterable of Place
    radius_px : float
        Positions closer than this count as one, CoMIR pixels.
    count : int
        Largest number to keep.

    Notes
    -----
    Kept positions are sorted into square cells a little wider than the radius, so the
    neighbours of a position are in its own cell or the eight around it.
    """
    kept: list[Place] = []
    cells: dict[tuple[int, int, int], list[tuple[float, float]]] = {}
    side_px = 1.001 * radius_px
    for place in sorted(places, key=lambda place: -place.score):
        if len(kept) >= count:
            break
        if side_px > 0:
            row, column = math.floor(place.y / side_px), math.floor(place.x / side_px)
            around = [cells.get((place.slide, row + down, column + right)) for down, right in _NEIGHBOURS]
            if any(
                np.hypot(x - place.x, y - place.y) < radius_px for cell in around if cell for x, y in cell
            ):
                continue
            cells.setdefault((place.slide, row, column), []).append((place.x, place.y))
        kept.append(place)
    return kept
