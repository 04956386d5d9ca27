"""Localisation on slides: how often, how exactly and how honestly queries are placed."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from comir_search.errors import ComirSearchError
from comir_search.geometry import angle_difference_deg, place_error_px
from comir_search.progress import Job, Tick
from comir_search.records import Candidate, SearchResult
from comir_search.retrieval.index import Index
from comir_search.retrieval.search import search_steps

HIT_SHARE = 0.25  # of the query's shorter side
POSE_DEG = 5.0
RANKS = (1, 5, 10)
FIRST_STAGE_RANK = 100
_COLUMNS = ("query", "slide", "center_x_px", "center_y_px", "angle_deg", "mirrored")


@dataclass(frozen=True)
class Truth:
    """Where a query was really taken.

    Parameters
    ----------
    query : str
        File name.
    slide : str
        File name of the slide; empty where the tissue is on none.
    x_px, y_px : float
        Centre, level-0 pixels, corner frame.
    angle_deg : float
    mirrored : bool
    group : str
        Of the query, for tables; the core's name where there is one.
    """

    query: str
    slide: str
    x_px: float
    y_px: float
    angle_deg: float
    mirrored: bool
    group: str = ""


def read_truth(path: str | Path) -> list[Truth]:
    """Read a truth table as ``make_tma_slide.py`` and `comir-search demo` write it.

    Raises
    ------
    ComirSearchError
        If the file or a column is missing, or a place is not a number.
    """
    path = Path(path)
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise ComirSearchError(
                    f"{path} has no column {missing[0]!r}; it is not a table of true places."
                )
            rows = list(reader)
    except (OSError, UnicodeDecodeError) as error:
        raise ComirSearchError(
            f"{path} cannot be read ({error}); give the truth.csv of the queries."
        ) from error
    try:
        return [
            Truth(
                row["query"],
                row["slide"],
                float(row["center_x_px"] or "nan"),
                float(row["center_y_px"] or "nan"),
                float(row["angle_deg"] or 0),
                row["mirrored"].strip() in ("1", "True", "true"),
                row.get("core") or "",
            )
            for row in rows
        ]
    except ValueError as error:
        raise ComirSearchError(
            f"{path} holds a place that is not a number ({error}); mend the table."
        ) from error


def is_hit(candidate: Candidate, truth: Truth, *, pose: bool = False) -> bool:
    """Return whether a candidate is the true place: right slide, centre near enough.

    Parameters
    ----------
    candidate : Candidate
    truth : Truth
    pose : bool
        Ask for the angle within `POSE_DEG`, and the right handedness, too.
    """
    if candidate.slide != truth.slide:
        return False
    reach_px = HIT_SHARE * min(candidate.width_um, candidate.height_um) / candidate.pixel_size_um
    if place_error_px(candidate, truth.x_px, truth.y_px) > reach_px:
        return False
    if not pose:
        return True
    near = angle_difference_deg(candidate.angle_deg, truth.angle_deg) <= POSE_DEG
    return near and candidate.mirrored == truth.mirrored


def hit_rank(candidates: Sequence[Candidate], truth: Truth, *, pose: bool = False) -> float:
    """Return the rank (from 1) of the first hit, infinity without one."""
    return next((rank for rank, c in enumerate(candidates, 1) if is_hit(c, truth, pose=pose)), np.inf)


def evaluate_slide_steps(
    index: Index,
    queries: str | Path,
    truth: str | Path,
    *,
    modality: str | None = None,
    top: int = 10,
    mirror: bool = False,
) -> Job[dict[str, Any]]:
    """Search for every query of a truth table and count.

    Parameters
    ----------
    index : Index
    queries : path
        Folder of the query images.
    truth : path
        Table of their places.
    modality : str, optional
        Of the queries; by default the one that is not indexed.
    top : int
        Candidates to look at.
    mirror : bool
        Look for flipped queries too.

    Returns
    -------
    dict
        As the command `evaluate-slide` prints it.

    Raises
    ------
    ComirSearchError
        If the table or a query is missing or unreadable.
    """
    answers = yield from search_all_steps(index, queries, truth, modality=modality, top=top, mirror=mirror)
    return summarise(answers)


def search_all_steps(
    index: Index,
    queries: str | Path,
    truth: str | Path,
    *,
    modality: str | None = None,
    top: int = 10,
    mirror: bool = False,
) -> Job[list[tuple[Truth, SearchResult]]]:
    """Search for every query of a truth table; see `evaluate_slide_steps`."""
    rows = read_truth(truth)
    if not rows:
        raise ComirSearchError(f"{truth} lists no query; there is nothing to evaluate.")
    answers = []
    for done, row in enumerate(rows):
        yield Tick("searching", done, len(rows))
        job = search_steps(
            index, Path(queries) / row.query, modality=modality, top=top, mirror=mirror, first_stage=True
        )
        try:
            while True:
                next(job)
                yield Tick("searching", done, len(rows))
        except StopIteration as stop:
            answers.append((row, stop.value))
        finally:
            job.close()
    return answers


def summarise(answers: Sequence[tuple[Truth, SearchResult]]) -> dict[str, Any]:
    """Return the counts of design section 4, ``evaluate-slide``."""
    present = [(truth, result) for truth, result in answers if truth.slide]
    absent = [result for truth, result in answers if not truth.slide]
    ranks = np.array([hit_rank(result.candidates, truth) for truth, result in present])
    pose_ranks = np.array([hit_rank(result.candidates, truth, pose=True) for truth, result in present])
    hits = [
        (result.candidates[0], truth)
        for (truth, result), rank in zip(present, ranks, strict=True)
        if rank == 1
    ]
    found = [(truth, result) for truth, result in answers if result.found]
    right = sum(bool(truth.slide) and is_hit(result.candidates[0], truth) for truth, result in found)
    found_present = sum(result.found for _, result in present)
    seconds = [result.seconds["total"] for _, result in answers]
    return {
        "n_queries": len(answers),
        "n_absent": len(absent),
        "hit": _shares(ranks),
        "hit_pose": _shares(pose_ranks),
        "recall": {
            f"{stage}_{FIRST_STAGE_RANK}": _recall(present, stage)
            for stage in ("bow", "correlation", "fused")
        },
        "found": {
            "n": len(found),
            "precision": right / len(found) if found else None,
            "coverage": found_present / len(present) if present else None,
            "false_found": sum(result.found for result in absent) / len(absent) if absent else None,
        },
        "median_error_um": _median(
            [place_error_px(c, truth.x_px, truth.y_px) * c.pixel_size_um for c, truth in hits]
        ),
        "median_angle_error_deg": _median(
            [angle_difference_deg(c.angle_deg, truth.angle_deg) for c, truth in hits]
        ),
        "seconds_per_query": {"median": _median(seconds), "max": max(seconds)},
    }


def _shares(ranks: np.ndarray) -> dict[str, float | None]:
    return {str(k): float((ranks <= k).mean()) if len(ranks) else None for k in RANKS}


def _recall(present: Sequence[tuple[Truth, SearchResult]], stage: str) -> float | None:
    if not present:
        return None
    places = [(result.first_stage.get(stage, ())[:FIRST_STAGE_RANK], truth) for truth, result in present]
    return float(np.mean([hit_rank(candidates, truth) <= FIRST_STAGE_RANK for candidates, truth in places]))


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if len(values) else None
