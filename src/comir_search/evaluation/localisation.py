"""Measure the search on slides: how many queries it finds, how exactly, and how reliable its confidence is."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta

from comir_search.documents import MAX_SIDE_PX, BadDocument, convert
from comir_search.errors import BatchIncomplete, ComirSearchError, LeftOut
from comir_search.evaluation.stages import StagedResult, search_stages_steps
from comir_search.geometry import angle_difference_deg, place_error_px
from comir_search.index.index import Index
from comir_search.model.tensor_file import require_file
from comir_search.progress import Job, Tick, retitle
from comir_search.records import Candidate, SearchResult
from comir_search.retrieval.options import SearchOptions
from comir_search.retrieval.search import open_query

HIT_SHARE = 0.25  # of the query's shorter side
POSE_DEG = 5.0
RANKS = (1, 5, 10)
FIRST_STAGE_RANK = 100
_COLUMNS = ("query", "slide", "center_x_px", "center_y_px", "angle_deg", "mirrored")
_MAX_QUERIES = 100_000
_ADVICE = "correct the table"


@dataclass(frozen=True)
class Truth:
    """The true position of a query.

    Parameters
    ----------
    query : str
        File name.
    slide : str
        File name of the slide; empty if the query is on no slide.
    x_px, y_px : float
        Centre in level-0 pixels; (0, 0) is the corner of the slide.
    angle_deg : float
    mirrored : bool
    group : str
        Group of the query for tables: the name of its tissue core, if there is one.
    """

    query: str
    slide: str
    x_px: float
    y_px: float
    angle_deg: float
    mirrored: bool
    group: str = ""


@dataclass(frozen=True)
class _Row:
    """One line of a truth table, with the columns and types of the file."""

    query: Annotated[str, Meta(min_length=1, max_length=1000)]
    slide: Annotated[str, Meta(max_length=1000)]
    center_x_px: Annotated[float, Meta(ge=0, le=MAX_SIDE_PX)] | None
    center_y_px: Annotated[float, Meta(ge=0, le=MAX_SIDE_PX)] | None
    angle_deg: Annotated[float, Meta(ge=-360, le=360)]
    mirrored: Literal["0", "1", "false", "true"]
    core: str

    def __post_init__(self) -> None:
        name = PurePath(self.query)
        if name.is_absolute() or ".." in name.parts or not self.query.isprintable():
            raise ValueError("the query is no file name below the folder of the queries")
        if self.slide and None in (self.center_x_px, self.center_y_px):
            raise ValueError("the query's centre is missing")


def read_truth(path: str | Path) -> list[Truth]:
    """Read a table of true positions, in the format of ``make_tma_slide.py`` and `comir-search demo`.

    Raises
    ------
    ComirSearchError
        If the file or a column is missing, or a line is wrong. The message gives the
        number of the line.
    """
    path = Path(path)
    require_file(path, "the truth.csv of the queries")
    truths: dict[str, Truth] = {}
    lines: dict[str, int] = {}
    reader = None
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            _check_columns(path, reader.fieldnames or ())
            for values in reader:
                where = f"{path}, line {reader.line_num},"
                row: _Row = convert(_typed(values), _Row, name=where, advice=_ADVICE)
                if row.query in truths:
                    raise BadDocument(where, f"the query of line {lines[row.query]} is listed again", _ADVICE)
                if len(truths) == _MAX_QUERIES:
                    raise BadDocument(str(path), f"it lists more than {_MAX_QUERIES:,} queries", _ADVICE)
                lines[row.query] = reader.line_num
                truths[row.query] = _truth(row)
    except UnicodeDecodeError as error:
        raise BadDocument(str(path), "its text is not UTF-8", "save it as CSV in UTF-8") from error
    except OSError as error:
        raise ComirSearchError(
            f"{path} cannot be read ({error.strerror}); give the truth.csv of the queries."
        ) from error
    except csv.Error as error:
        where = f"{path}, line {reader.reader.line_num if reader else 1},"
        raise BadDocument(where, str(error), _ADVICE) from error
    return list(truths.values())


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    missing = [column for column in _COLUMNS if column not in columns]
    if missing and len(columns) == 1 and ";" in columns[0]:
        raise ComirSearchError(f"{path} separates its columns with semicolons; save it with commas.")
    if missing:
        raise ComirSearchError(
            f"{path} has no column {missing[0]!r}; give a table of true positions (truth.csv)."
        )
    if len(set(columns)) < len(columns):
        raise ComirSearchError(
            f"{path} has two columns with the same name; give a table of true positions (truth.csv)."
        )


def _typed(values: dict[str | None, Any]) -> dict[str, Any]:
    """Convert the texts of a row to numbers. Texts that are no numbers stay, and `convert` rejects them."""
    if None in values or None in values.values():
        raise csv.Error("it has more or fewer fields than the first line")
    row: dict[str, Any] = {str(name): text.strip() for name, text in values.items()}
    for name in ("center_x_px", "center_y_px", "angle_deg"):
        try:
            row[name] = float(row[name]) if row[name] else None
        except ValueError:
            continue
    row["angle_deg"] = 0.0 if row["angle_deg"] is None else row["angle_deg"]
    row["mirrored"] = row["mirrored"].lower() or "0"
    return {"core": "", **row}


def _truth(row: _Row) -> Truth:
    x_px, y_px = (math.nan if value is None else value for value in (row.center_x_px, row.center_y_px))
    mirrored = row.mirrored in ("1", "true")
    return Truth(row.query, row.slide, x_px, y_px, row.angle_deg, mirrored, row.core)


def is_hit(candidate: Candidate, truth: Truth, *, pose: bool = False) -> bool:
    """Return whether a candidate is right: on the true slide, with its centre near the true one.

    Parameters
    ----------
    candidate : Candidate
    truth : Truth
    pose : bool
        Whether the angle must be right within `POSE_DEG`, and `mirrored` too.
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
    """Return the rank (from 1) of the first hit, or infinity if there is none.

    Parameters
    ----------
    candidates : sequence of Candidate
    truth : Truth
    pose : bool
        Whether a hit must have the right rotation too.
    """
    return next((rank for rank, c in enumerate(candidates, 1) if is_hit(c, truth, pose=pose)), np.inf)


def evaluate_slide_steps(
    index: Index,
    queries: str | Path,
    truth: str | Path,
    options: SearchOptions | None = None,
    **keywords: Any,
) -> Job[dict[str, Any]]:
    """Search for every query of a truth table, and measure how well it works.

    Parameters
    ----------
    index : Index
    queries : path
        Folder of the query images.
    truth : path
        Table of their true positions.
    options : SearchOptions, optional
    **keywords
        Single options of the search, by name.

    Returns
    -------
    dict
        The report that the command `evaluate-slide` prints.

    Raises
    ------
    BatchIncomplete
        At the end, if some queries are missing or cannot be used. Its result is the
        report on the others.
    ComirSearchError
        If the table is missing or damaged.
    """
    try:
        answers = yield from search_all_steps(index, queries, truth, options, **keywords)
    except BatchIncomplete as incomplete:
        report = summarise(incomplete.result)
        raise BatchIncomplete(report, incomplete.left_out, incomplete.n_members) from None
    return summarise(answers)


def search_all_steps(
    index: Index,
    queries: str | Path,
    truth: str | Path,
    options: SearchOptions | None = None,
    **keywords: Any,
) -> Job[list[tuple[Truth, StagedResult]]]:
    """Search for every query of a truth table.

    Parameters
    ----------
    index, queries, truth, options, **keywords
        See `evaluate_slide_steps`.

    Raises
    ------
    BatchIncomplete
        Its result is the answers to the other queries.
    """
    options = SearchOptions.of(options, keywords)
    rows = read_truth(truth)
    if not rows:
        raise ComirSearchError(f"{truth} lists no query; there is nothing to evaluate.")
    answers: list[tuple[Truth, StagedResult]] = []
    left_out: list[LeftOut] = []
    for done, row in enumerate(rows):
        tick = Tick("searching", done, len(rows))
        yield tick
        try:
            with open_query(Path(queries) / row.query, options) as image:
                job = search_stages_steps(index, image, options)
                answers.append((row, (yield from retitle(job, instead=tick))))
        except ComirSearchError as error:
            left_out.append(LeftOut(row.query, str(error)))
            yield replace(tick, note=f"{row.query} is left out: {error}")
    if left_out:
        raise BatchIncomplete(answers, tuple(left_out), len(rows))
    return answers


def summarise(answers: Sequence[tuple[Truth, StagedResult]]) -> dict[str, Any]:
    """Return the report of ``evaluate-slide`` as a dictionary."""
    present = [(truth, result) for truth, result in answers if truth.slide]
    absent = [result for truth, result in answers if not truth.slide]
    ranks = np.array([hit_rank(result.candidates, truth) for truth, result in present])
    pose_ranks = np.array([hit_rank(result.candidates, truth, pose=True) for truth, result in present])
    hits = [
        (result.candidates[0], truth)
        for (truth, result), rank in zip(present, ranks, strict=True)
        if rank == 1
    ]
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
        "found": _count_found(answers),
        "median_error_um": _median(
            [place_error_px(c, truth.x_px, truth.y_px) * c.pixel_size_um for c, truth in hits]
        ),
        "median_angle_error_deg": _median(
            [angle_difference_deg(c.angle_deg, truth.angle_deg) for c, truth in hits]
        ),
        "seconds_per_query": {"median": _median(seconds), "max": max(seconds, default=None)},
    }


def _count_found(answers: Sequence[tuple[Truth, SearchResult]]) -> dict[str, Any]:
    """Return how reliable "found" is. If the model has no confidence, all values are None, with a note."""
    if any(result.candidates and result.candidates[0].confidence is None for _, result in answers):
        counts = dict.fromkeys(("n", "precision", "coverage", "false_found"))
        return {**counts, "note": "The model was never calibrated, so nothing is called found."}
    found = [(truth, result) for truth, result in answers if result.found]
    right = sum(bool(truth.slide) and is_hit(result.candidates[0], truth) for truth, result in found)
    present = [result.found for truth, result in answers if truth.slide]
    absent = [result.found for truth, result in answers if not truth.slide]
    return {
        "n": len(found),
        "precision": right / len(found) if found else None,
        "coverage": sum(present) / len(present) if present else None,
        "false_found": sum(absent) / len(absent) if absent else None,
    }


def _shares(ranks: np.ndarray) -> dict[str, float | None]:
    return {str(k): float((ranks <= k).mean()) if len(ranks) else None for k in RANKS}


def _recall(present: Sequence[tuple[Truth, StagedResult]], stage: str) -> float | None:
    """Return the share of queries that a stage found, or None if the method has no such stage."""
    if not any(stage in result.first_stage for _, result in present):
        return None
    places = [(result.first_stage.get(stage, ())[:FIRST_STAGE_RANK], truth) for truth, result in present]
    return float(np.mean([hit_rank(candidates, truth) <= FIRST_STAGE_RANK for candidates, truth in places]))


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if len(values) else None
