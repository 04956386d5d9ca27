"""Results as a table: one row per candidate, for spreadsheets and scripts."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from comir_search.files import atomic_path
from comir_search.records import SearchResult, Verdict
from comir_search.study.entries import Judgement

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
    "by_hand",
)
VERDICT_COLUMNS = ("verdict", "note", "reviewer", "time")
COLUMNS = ("query", "found", *CANDIDATE_COLUMNS, *VERDICT_COLUMNS, "reason", "state")
ENCODING = "utf-8-sig"  # without the mark at its start, Excel reads µ as two letters
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


def write_csv(
    path: str | Path,
    results: Sequence[SearchResult],
    verdicts: Sequence[Mapping[int, Judgement]] | None = None,
    states: Sequence[str] | None = None,
) -> None:
    """Write results as CSV (UTF-8 with a mark, comma, header); a query without candidates keeps one row.

    A text that a spreadsheet would take for a formula is given an apostrophe in
    front; numbers stay as they are. Of a place that was moved by hand, score and
    confidence are empty.

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
    states : sequence of str, optional
        What is to be said of each answer, such as that it is out of date and why;
        "" where there is nothing.

    Raises
    ------
    ComirSearchError
        When the file cannot be written.
    """
    judgements = verdicts or [{}] * len(results)
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding=ENCODING) as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", extrasaction="ignore")
        writer.writeheader()
        for result, judged, state in zip(results, judgements, states or [""] * len(results), strict=True):
            row = {
                "query": result.query, "found": int(result.found), "reason": result.reason, "state": state
            }  # fmt: skip
            for candidate in result.candidates:
                judgement = judged.get(candidate.rank, Judgement(Verdict.NONE))
                values = candidate.to_dict() | {
                    "mirrored": int(candidate.mirrored),
                    "by_hand": int(candidate.by_hand),
                    "verdict": judgement.verdict.value,
                    "note": judgement.note,
                    "reviewer": judgement.reviewer,
                    "time": judgement.time,
                }
                writer.writerow(_inert(row | values))
            if not result.candidates:
                writer.writerow(_inert(row))


def _inert(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row whose texts no spreadsheet takes for formulas."""
    return {
        column: f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value
        for column, value in row.items()
    }
