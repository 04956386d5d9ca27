"""What a project keeps: slides, queries with their results, and judgements."""

from __future__ import annotations

import getpass
import os
from dataclasses import dataclass, field
from typing import Any

from comir_search.geometry import angle_difference_deg, place_error_px
from comir_search.records import Candidate, SearchResult, Verdict


@dataclass(frozen=True)
class Judgement:
    """A verdict with who gave it, when (ISO 8601, UTC) and why."""

    verdict: Verdict
    note: str = ""
    reviewer: str = ""
    time: str = ""
    candidate: Candidate | None = None


@dataclass(frozen=True)
class ProjectSlide:
    """A slide of the project; `path` is where it was last seen.

    `fingerprint` is its key in the project: its fingerprint, or its `identity`
    where another slide of the same fingerprint is there already.
    """

    name: str
    path: str
    fingerprint: str
    pixel_size_um: float | None
    pixel_size_source: str
    identity: str = ""

    @property
    def exists(self) -> bool:
        """Whether the file is still there."""
        return os.path.exists(self.path)


@dataclass(frozen=True)
class ProjectQuery:
    """A query of the project with its last result.

    Parameters
    ----------
    id : int
        Key within the project.
    path : str
        File of the query; empty when its pixels are kept in the project.
    has_image : bool
        Whether its pixels are kept in the project.
    source : dict
        Where a drawn query was taken from, as the caller described it.
    result : SearchResult or None
        The last answer.
    provenance : dict
        What made the result, to be shown: index, model, options. What is compared
        is ``result.provenance``.
    """

    id: int
    name: str
    path: str
    modality: str
    pixel_size_um: float | None
    source: dict[str, Any] = field(default_factory=dict)
    result: SearchResult | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    has_image: bool = False


def same_place(first: Candidate, second: Candidate) -> bool:
    """Whether two candidates claim the same: a tenth of the shorter side and 5 degrees apart at most."""
    tolerance_px = 0.1 * min(first.width_um, first.height_um) / first.pixel_size_um
    return (
        (first.fingerprint or first.slide) == (second.fingerprint or second.slide)
        and first.mirrored == second.mirrored
        and place_error_px(first, second.center_x_px, second.center_y_px) <= tolerance_px
        and angle_difference_deg(first.angle_deg, second.angle_deg) <= 5
    )


def user_name() -> str:
    """Return the name of the user who is logged in, or "" where the system knows none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return ""
