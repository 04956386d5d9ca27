"""Places on the way through a search, before they become candidates."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

_NEIGHBOURS = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
FIRST_STAGE_PLACES = 300  # patches of faint signal come late on coarse CoMIRs
FEWEST_PLACES, USUAL_SIDE_UM = 40, 500.0


def count_places(side_um: float) -> int:
    """Return how many places of the first stage are worth a second look.

    The larger a query, the more it tells, and the dearer each look is.
    """
    share = min(1.0, (USUAL_SIDE_UM / side_um) ** 2)
    return max(FEWEST_PLACES, round(share * FIRST_STAGE_PLACES))


@dataclass(frozen=True)
class Place:
    """Where and how a query may lie.

    Parameters
    ----------
    slide : int
        Position of the slide in the index.
    x, y : float
        The query's centre, level-0 CoMIR pixels of the slide, corner frame.
    angle_deg : float
    score : float
        Comparable within one stage only.
    scale : float
        By which the query was enlarged.
    mirrored : bool
    evidence : dict of str to float
        What the stages measured here, for the confidence.
    """

    slide: int
    x: float
    y: float
    angle_deg: float
    score: float
    scale: float = 1.0
    mirrored: bool = False
    evidence: dict[str, float] = field(default_factory=dict, compare=False)


def keep_distinct(places: Iterable[Place], radius_px: float, count: int) -> list[Place]:
    """Suppress all but the best of places that lie together, best first.

    Parameters
    ----------
    places : iterable of Place
    radius_px : float
        Places closer than this, CoMIR pixels, are one.
    count : int
        Keep at most this many.

    Notes
    -----
    Kept places lie in square cells a little wider than the radius, so that those near a
    place are in its own cell or the eight around it.
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
