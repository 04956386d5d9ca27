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
ENCODING = "utf-8-sig"  # without the mark at the start of the file, Excel shows µ as two letters
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


def write_csv(
    path: str | Path,
    results: Sequence[SearchResult],
    verdicts: Sequence[Mapping[int, Judgement]] | None = None,
    states: Sequence[str] | None = None,
) -> None:
    """Write results as CSV (UTF-8 with byte-order mark, comma, header).

    A query without candidates has one row. A text that a spreadsheet would run as a
    formula gets an apostrophe in front; numbers stay unchanged. Score and confidence
    are empty for a candidate that was moved by hand.

    Parameters
    ----------
    path : path
        The file; replaced if it exists.
    results : sequence of SearchResult
        One per query. Positions are written in level-0 pixels and in um, both from
        the slide's top-left corner; angles in degrees.
    verdicts : sequence of mapping from rank to Judgement, optional
        Verdicts on each result's candidates, from `Project.verdicts_of`.
    states : sequence of str, optional
        Note on each answer, such as that it is out of date and why; "" if there is
        nothing to note.

    Raises
    ------
    ComirSearchError
        If the file cannot be written.
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
    """Return a row whose texts a spreadsheet does not run as formulas."""
    return {
        column: f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value
        for column, value in row.items()
    }
