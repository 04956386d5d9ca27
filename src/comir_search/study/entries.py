"""The entries of a project: slides, queries with their results, and judgements."""

from __future__ import annotations

import getpass
import os
from dataclasses import dataclass, field
from typing import Any

from comir_search.geometry import angle_difference_deg, place_error_px
from comir_search.records import Candidate, SearchResult, Verdict


@dataclass(frozen=True)
class Judgement:
    """A verdict with its reviewer, time (ISO 8601, UTC) and note."""

    verdict: Verdict
    note: str = ""
    reviewer: str = ""
    time: str = ""
    candidate: Candidate | None = None


@dataclass(frozen=True)
class ProjectSlide:
    """A slide of the project; `path` is its last known path.

    `fingerprint` is its key in the project: its fingerprint, or its `identity` if the
    project already has another slide with the same fingerprint.
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
        File of the query; empty if its pixels are stored in the project.
    has_image : bool
        Whether its pixels are stored in the project.
    source : dict
        Origin of a drawn query, as described by the caller.
    result : SearchResult or None
        The last answer.
    provenance : dict
        Index, model and options of the result, only to be shown. Comparisons use
        ``result.provenance``.
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
    """Whether two candidates are the same: at most a tenth of the shorter side and 5 degrees apart."""
    tolerance_px = 0.1 * min(first.width_um, first.height_um) / first.pixel_size_um
    return (
        (first.fingerprint or first.slide) == (second.fingerprint or second.slide)
        and first.mirrored == second.mirrored
        and place_error_px(first, second.center_x_px, second.center_y_px) <= tolerance_px
        and angle_difference_deg(first.angle_deg, second.angle_deg) <= 5
    )


def user_name() -> str:
    """Return the name of the user who is logged in, or "" if the system has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return ""
