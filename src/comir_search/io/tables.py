"""Results as a table: one row per candidate, for spreadsheets and scripts."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from comir_search.io.atomic import atomic_path
from comir_search.io.entries import Judgement
from comir_search.records import SearchResult, Verdict

CANDIDATE_COLUMNS = (
    "rank",
    "slide",
    "fingerprint",
    "center_x_px",
    "center_y_px",
    "center_x_um",
    "center_y_um",
    "width_um",
    "height_um",
    "angle_deg",
    "mirrored",
    "scale",
    "score",
    "confidence",
)
VERDICT_COLUMNS = ("verdict", "note", "reviewer", "time")
COLUMNS = ("query", "found", *CANDIDATE_COLUMNS, *VERDICT_COLUMNS, "reason")


def write_csv(
    path: str | Path,
    results: Sequence[SearchResult],
    verdicts: Sequence[Mapping[int, Judgement]] | None = None,
) -> None:
    """Write results as CSV (UTF-8, comma, header); a query without candidates keeps one row.

    Parameters
    ----------
    path : path
        The file; replaced if it exists.
    results : sequence of SearchResult
        One per query. Places are given in level-0 pixels and in um, both from
        the slide's top-left corner; angles in degrees.
    verdicts : sequence of mapping from rank to Judgement, optional
        What was judged of each result's candidates, as `Project.verdicts_of`
        gives it.

    Raises
    ------
    ComirSearchError
        When the file cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        for result, judged in zip(results, verdicts or [{}] * len(results), strict=True):
            row = {"query": result.query, "found": int(result.found), "reason": result.reason}
            for candidate in result.candidates:
                judgement = judged.get(candidate.rank, Judgement(Verdict.NONE))
                values = candidate.to_dict() | {"mirrored": int(candidate.mirrored)}
                writer.writerow(
                    row
                    | values
                    | {
                        "verdict": judgement.verdict.value,
                        "note": judgement.note,
                        "reviewer": judgement.reviewer,
                        "time": judgement.time,
                    }
                )
            if not result.candidates:
                writer.writerow(row)
