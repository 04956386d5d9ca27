"""Places on the way through a search, before they become candidates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from comir_search.geometry import angle_difference_deg

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


def keep_distinct(
    places: Iterable[Place], radius_px: float, count: int, *, angle_deg: float = 360.0
) -> list[Place]:
    """Suppress all but the best of places that lie together, best first.

    Parameters
    ----------
    places : iterable of Place
    radius_px : float
        Places closer than this, CoMIR pixels, are one.
    count : int
        Keep at most this many.
    angle_deg : float
        Unless their angles differ by more than this.
    """
    kept: list[Place] = []
    places = sorted(places, key=lambda place: -place.score)
    count = min(count, len(places))
    centers = np.empty((count, 3))
    for place in places:
        if len(kept) == count:
            break
        here = centers[: len(kept)]
        near = (here[:, 0] == place.slide) & (
            np.hypot(here[:, 1] - place.x, here[:, 2] - place.y) < radius_px
        )
        if any(
            kept[i].mirrored == place.mirrored or angle_deg >= 360.0
            for i in np.flatnonzero(near)
            if angle_difference_deg(kept[i].angle_deg, place.angle_deg) <= angle_deg
        ):
            continue
        centers[len(kept)] = place.slide, place.x, place.y
        kept.append(place)
    return kept
