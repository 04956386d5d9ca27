"""Malformed tables and lists of places: truth tables (CSV) and annotations (GeoJSON)."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from comir_search.evaluation.localisation import Truth, read_truth, summarise
from comir_search.evaluation.stages import StagedResult
from comir_search.export.geojson import read_geojson, write_geojson
from comir_search.records import Candidate, SearchResult, Verdict
from comir_search.slides import open_slide
from comir_search.study.entries import Judgement
from fuzzing.case import MEBIBYTE, Attempt, Case, copy_tree, pick
from fuzzing.mutations import NUMBERS, TEXTS, break_bytes, break_document
from fuzzing.pixels import paint, write_slide

MEMORY_BYTES = 1024 * MEBIBYTE
_NUMBERS = (*NUMBERS, "0x10", "1_000", "1,5", " 1 ", "-inf")
_TABLE, _PLACES = "truth.csv", "places.geojson"
_CANDIDATE = Candidate(1, "slide.tif", 100.0, 80.0, 0.5, 50.0, 40.0, 10.0, False, 0.5, 0.9, "0" * 32)
_PX, _UM = ("center_x_px", "center_y_px"), ("center_x_um", "center_y_um")
_HEADER = ("query", "slide", *_PX, *_UM, "angle_deg", "mirrored", "core")


def make_bases(folder: Path) -> None:
    """Write a truth table with a query, and annotations."""
    queries = folder / "queries"
    write_slide(queries / "a.tif", paint(64, 64, 1))
    rows = [
        ("a.tif", "slide.tif", "100.5", "80", "50.25", "40", "10", "0", "core 1"),
        ("b.tif", "slide.tif", "20", "30.25", "10", "15.1", "-170.5", "1", "core 2"),
        ("c.tif", "", "", "", "", "", "", "0", "core 3"),
    ]
    (folder / _TABLE).write_text(_write_rows([_HEADER, *rows]))
    result = SearchResult("a.tif", True, "Clear.", {"total": 1.0}, (_CANDIDATE,))
    write_geojson(
        folder / _PLACES, [result], [{1: Judgement(Verdict.ACCEPTED, "a note", "Ada", "2026-01-01")}]
    )


def copy_bases(bases: Path, folder: Path) -> list[Case]:
    """Return the table, and the annotations, as cases."""
    return [_begin(bases, folder / name, name) for name in (_TABLE, _PLACES)]


def write_case(bases: Path, folder: Path, rng: np.random.Generator) -> Case:
    """Break the table or the annotations."""
    case = _begin(bases, folder, _TABLE if rng.random() < 0.8 else _PLACES)
    if case.target.name == _PLACES:
        text, note = break_document(case.target.read_text(), rng)
        content = text.encode("utf-8", "surrogatepass")
    elif rng.random() < 0.7:
        content, note = _break_table(case.target.read_text(), rng)
    else:
        content, note = break_bytes(case.target.read_bytes(), rng)
    case.target.write_bytes(content)
    case.notes.append(note)
    return case


def act(case: Case, attempt: Attempt) -> None:
    """Read the file and use what it says, as the commands do."""
    if case.target.name == _PLACES:
        attempt("read", lambda: read_geojson(case.target))
        return
    rows = attempt("read", lambda: read_truth(case.target))
    if not rows:
        return
    for number, truth in enumerate(rows[:4]):
        if number == 0 or truth.query not in ("b.tif", "c.tif"):  # which are not there
            attempt(
                f"query {number}",
                lambda truth=truth: open_slide(case.folder / "queries" / truth.query).close(),
            )
    attempt("summarise", lambda: summarise([(truth, _answer(truth)) for truth in rows[:100]]))


def _answer(truth: Truth) -> StagedResult:
    return StagedResult(truth.query, True, "", {"total": 1.0}, (_CANDIDATE,))


def _begin(bases: Path, folder: Path, name: str) -> Case:
    case = Case.begin(folder, name)
    copy_tree(bases / name, case.target)
    copy_tree(bases / "queries", case.folder / "queries")
    return case


def _write_rows(rows: list[tuple[str, ...]] | list[list[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def _break_table(text: str, rng: np.random.Generator) -> tuple[bytes, str]:
    """Change cells, rows, columns or how they are written."""
    rows = [list(row) for row in csv.reader(text.splitlines())]
    notes = []
    for _ in range(int(rng.integers(1, 4))):
        action = pick(rng, ("cell", "cell", "cell", "number", "row", "column", "header", "long"))
        row = int(rng.integers(len(rows)))
        column = int(rng.integers(max(1, len(rows[row]))))
        if action in ("cell", "number") and rows[row]:
            rows[row][column] = pick(rng, TEXTS if action == "cell" else _NUMBERS)
        elif action == "row":
            rows[row : row + 1] = pick(
                rng, ([], [rows[row]] * 2, [rows[row][:3]], [[]], [rows[row] * 3], [[""] * 9])
            )
            rows = rows or [[]]
        elif action == "column":
            for each in rows:
                if column < len(each):
                    del each[column]
        elif action == "header" and rows[0]:
            rows[0][column % len(rows[0])] = pick(rng, (*_HEADER, "", "QUERY", "\ufeffquery", " query"))
        elif action == "long" and rows[row]:
            rows[row][column] = pick(rng, ("a" * 200_000, "9" * 10_000, "a\nb" * 1000, '"' * 1001, "\r"))
        notes.append(f"{action} {row}.{column}")
    written = _write_rows(rows)
    if rng.random() < 0.25:
        written = pick(
            rng,
            (
                written.replace(",", ";"),
                written.replace(",", "\t"),
                written.replace("\n", "\r\n"),
                written.replace("\n", "\r"),
                written + '"',
                written.replace(",", '"', 3),
                "\ufeff" + written,
                "sep=,\n" + written,
            ),
        )
        notes.append("written otherwise")
    encoding = pick(rng, ("utf-8",) * 6 + ("utf-16", "latin-1", "utf-32", "utf-8-sig"))
    if encoding != "utf-8":
        notes.append(encoding)
    errors = "surrogatepass" if encoding.startswith("utf") else "replace"
    return written.encode(encoding, errors), ", ".join(notes)
