"""Malformed and hostile projects: what their rows hold, what their tables are, and the file itself."""

from __future__ import annotations

import csv
import io
import json
import os
import sqlite3
import zlib
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from comir_search.export.geojson import write_geojson
from comir_search.export.report import write_report_steps
from comir_search.export.tables import write_csv
from comir_search.progress import finish
from comir_search.records import Candidate, SearchResult, Verdict
from comir_search.slides import open_slide
from comir_search.study.project import Project
from fuzzing.case import MEBIBYTE, Attempt, Case, copy_tree, pick
from fuzzing.images import deflate_zeros
from fuzzing.mutations import MARKUP, TEXTS, break_bytes, break_document
from fuzzing.pixels import paint, write_slide

MEMORY_BYTES = 1024 * MEBIBYTE
_PROJECT, _SLIDE = "study.comirproj", "slide.tif"
_TABLES = ("slide", "query", "verdict", "state")
_JSON_COLUMNS = {"source", "result", "provenance", "candidate", "value"}
_CELLS: tuple[Any, ...] = (
    *(text for text in TEXTS if "\ud800" not in text),
    *(None, 0, -1, 1, 2**31, 2**62, -(2**63), 0.5, -2.0, 1e308, float("inf"), 1e-300, b"", b"\xff\xfe\0blob"),
    *(
        "[]",
        "{}",
        "null",
        '{"a": NaN}',
        "[" * 50_000,
        "1e999",
        "2026-01-01T00:00:00",
        "accepted",
        "shg",
        "bf",
    ),
)
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")


def make_bases(folder: Path) -> None:
    """Make a project with a slide, a query in a file and one kept in the project, answers, verdicts and settings."""
    write_slide(folder / _SLIDE, paint(200, 240))
    write_slide(folder / "query.tif", paint(48, 48, 1))
    with Project.create(folder / _PROJECT) as project:
        with open_slide(folder / _SLIDE) as slide:
            project.add_slide(slide.info)
            fingerprint = slide.fingerprint
        for number, (name, place) in enumerate([("query.tif", folder / "query.tif"), ("drawn", "")]):
            image = None if place else paint(40, 30, 1, "uint16")
            query = project.add_query(
                name, path=place, modality="shg", pixel_size_um=2.0, source={"layer": "a"}, image=image
            )
            candidates = tuple(
                Candidate(
                    rank, _SLIDE, 60.0 * rank, 80.0, 2.0, 96.0, 96.0, 10.0, False, 0.6, 0.9, fingerprint
                )
                for rank in (1, 2)
            )
            result = SearchResult(name, number == 0, "A clear match.", {"total": 1.0}, candidates, 0.5)
            project.set_result(query, result, {"index": "study.index", "top": 10, "mirror": False})
            verdict = (Verdict.ACCEPTED, Verdict.REJECTED)[number]
            project.set_verdict(query, candidates[0], verdict, note="fibres agree", reviewer="Ada")
        project.settings = {"index": "study.index", "top": 10, "mirror": False}
        project.view = {"center": [1.5, 2.5], "zoom": 2.0}
    with closing(sqlite3.connect(folder / _PROJECT)) as connection:
        connection.execute("UPDATE verdict SET time = '2026-01-01T00:00:00+00:00'")
        for table in ("slide", "query"):  # absolute names would depend on this folder
            connection.execute(f"UPDATE {table} SET absolute_path = '' WHERE absolute_path != ''")
        connection.commit()
        connection.execute("VACUUM")


def copy_bases(bases: Path, folder: Path) -> list[Case]:
    """Return the project as a case."""
    return [_begin(bases, folder / "sound")]


def write_case(bases: Path, folder: Path, rng: np.random.Generator) -> Case:
    """Break one to four things of the project."""
    case = _begin(bases, folder)
    if rng.random() < 0.15:
        content, note = break_bytes(case.target.read_bytes(), rng)
        case.target.write_bytes(content)
        case.notes.append(note)
        return case
    if rng.random() < 0.1:
        _lay_beside(case, rng)
    with closing(sqlite3.connect(case.target)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        if rng.random() < 0.5:
            _drop_constraints(connection)
            case.notes.append("no constraints")
        for _ in range(int(rng.integers(1, 5))):
            try:
                case.notes.append(_break_database(connection, rng))
            except (sqlite3.Error, OverflowError) as error:
                case.notes.append(f"not done ({error})")
        connection.commit()
    return case


def act(case: Case, attempt: Attempt) -> None:
    """Read all of the project, export it, change it, and copy it."""
    project = attempt("open", lambda: Project.open(case.target))
    if project is None:
        return
    with project:
        _read(project, attempt)
        _export(project, case, attempt)
        _change(project, case, attempt)


def _read(project: Project, attempt: Attempt) -> None:
    attempt("slides", lambda: project.slides)
    attempt("missing slides", project.missing_slides)
    attempt("settings", lambda: project.settings)
    attempt("view", lambda: project.view)
    for query in attempt("queries", lambda: project.queries) or []:
        attempt("query", lambda query=query: project.query(query.id))
        attempt("history", lambda query=query: project.history(query.id))
        attempt("verdicts", lambda query=query: project.verdicts_of(query.id))
        attempt("image", lambda query=query: project.query_image(query.id))
        if query.result is not None:
            attempt("result", lambda query=query: json.dumps(query.result.to_dict()))
    attempt("look for slides", lambda: project.relocate_slides([project.path.parent]))


def _export(project: Project, case: Case, attempt: Attempt) -> None:
    answered = attempt("answers", lambda: [query for query in project.queries if query.result is not None])
    if answered is not None:
        results = [query.result for query in answered]
        verdicts = attempt("all verdicts", lambda: [project.verdicts_of(query.id) for query in answered])
        if verdicts is not None:
            attempt("CSV", lambda: write_csv(case.out / "table.csv", results, verdicts))
            attempt("GeoJSON", lambda: write_geojson(case.out / "places.geojson", results, verdicts))
    attempt("report", lambda: finish(write_report_steps(case.out / "report.html", project)))
    report, table = case.out / "report.html", case.out / "table.csv"
    if report.exists():
        for problem in find_active_content(report.read_text("utf-8")):
            attempt.complain("report", f"active content: {problem}")
    if table.exists():
        for problem in find_formulas(table.read_text("utf-8-sig")):
            attempt.complain("CSV", f"formula: {problem}")


def _change(project: Project, case: Case, attempt: Attempt) -> None:
    attempt("save as", lambda: project.save_as(case.out / "copy.comirproj").close())
    candidate = Candidate(1, _SLIDE, 10.0, 10.0, 2.0, 96.0, 96.0, 0.0, False, 0.5, 0.5)
    query = attempt("add a query", lambda: project.add_query("new", pixel_size_um=1.0))
    if query is not None:
        attempt("judge", lambda: project.set_verdict(query, candidate, Verdict.UNSURE, reviewer="Ada"))
        attempt("answer", lambda: project.set_result(query, SearchResult("new", False, "No.", {})))
        attempt("remove the query", lambda: project.remove_query(query))
    attempt("set settings", lambda: setattr(project, "settings", {"top": 5}))


def _begin(bases: Path, folder: Path) -> Case:
    case = Case.begin(folder, _PROJECT)
    for name in (_PROJECT, _SLIDE, "query.tif"):
        copy_tree(bases / name, folder / name)
    case.owned += [case.target, *(folder / f"{_PROJECT}-{ending}" for ending in ("journal", "wal", "shm"))]
    return case


def _lay_beside(case: Case, rng: np.random.Generator) -> None:
    """Put what SQLite takes for an unfinished change beside the project, or a pipe where a slide should be."""
    what = pick(rng, ("journal", "wal", "fifo"))
    if what == "fifo" and hasattr(os, "mkfifo"):
        (case.folder / _SLIDE).unlink()
        os.mkfifo(case.folder / _SLIDE)
    elif what != "fifo":
        head = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" if what == "journal" else b"\x37\x7f\x06\x82"
        (case.folder / f"{_PROJECT}-{what}").write_bytes(head + rng.bytes(2000))
    case.notes.append(f"beside: {what}")


def _drop_constraints(connection: sqlite3.Connection) -> None:
    """Make each table anew without types, keys and bounds, so that anything fits in."""
    for table in _TABLES:
        rows = connection.execute(f"PRAGMA table_info({table})").fetchall()
        columns = ", ".join(row[1] for row in rows)
        if rows:
            connection.execute(f"ALTER TABLE {table} RENAME TO {table}_old")
            connection.execute(f"CREATE TABLE {table} ({columns})")
            connection.execute(f"INSERT INTO {table} SELECT {columns} FROM {table}_old")
            connection.execute(f"DROP TABLE {table}_old")


def _break_database(connection: sqlite3.Connection, rng: np.random.Generator) -> str:
    """Change a cell, a row, a table, or what the file says of itself."""
    connection.text_factory = bytes
    names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    table = pick(rng, [name for name in _TABLES if (name.encode(),) in names] or ["slide"])
    columns = [row[1].decode() for row in connection.execute(f"PRAGMA table_info({table})")]
    column = pick(rng, columns)
    choice = rng.random()
    if choice < 0.4 and (wanted := sorted(_JSON_COLUMNS & set(columns))):
        column = pick(rng, wanted)
        return _break_json(connection, table, column, rng)
    if choice < 0.7:
        value = pick(rng, _CELLS)
        connection.execute(f"UPDATE {table} SET {column} = ?", (value,))
        return f"{table}.{column} = {value!r}"[:80]
    if choice < 0.8:
        value, note = _break_image(rng)
        connection.execute("UPDATE query SET image = ?", (value,))
        return f"image: {note}"
    statement = pick(rng, _STATEMENTS).format(table=table, column=column, columns=", ".join(columns))
    connection.executescript(statement)
    return statement[:120]


def _break_json(connection: sqlite3.Connection, table: str, column: str, rng: np.random.Generator) -> str:
    rows = connection.execute(f"SELECT rowid, {column} FROM {table} WHERE {column} IS NOT NULL").fetchall()
    if not rows:
        return "nothing"
    row, content = pick(rng, rows)
    text = content.decode(errors="replace") if isinstance(content, bytes) else str(content)
    if rng.random() < 0.2:
        broken, note = text.replace("slide.tif", json.dumps(pick(rng, (MARKUP, *TEXTS)))[1:-1]), "names"
    else:
        broken, note = break_document(text, rng)
    connection.execute(
        f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (broken.encode("utf-8", "replace").decode(), row)
    )
    return f"{table}.{column}: {note}"


def _break_image(rng: np.random.Generator) -> tuple[Any, str]:
    """Return what a project may hold in the place of a query's pixels."""
    header = "{'descr': '%s', 'fortran_order': %s, 'shape': %s, }"
    kinds = ("|O", "<f8", "|u1", "<M8[s]", "|S0", "<U1000000", "|V0", "<c16", "[('a', '<i4')]", ">u2", "|b1")
    shapes = (
        "(4, 4)",
        "(1000000, 1000000)",
        "(-1, 4)",
        "()",
        "(0,)",
        "(2, 2, 2, 2)",
        "(2**40,)",
        "4",
        "(10**30,)",
    )
    choice = rng.random()
    if choice < 0.25:
        size = int(pick(rng, (2**24, 2**31, 2**33)))
        return deflate_zeros(size), f"inflates to {size} zeros"
    if choice < 0.4:
        return pick(
            rng, (b"", b"x" * 100, zlib.compress(b""), zlib.compress(b"\x93NUMPY"), "text", 5, 1.5)
        ), "no array"
    text = header % (pick(rng, kinds), pick(rng, ("True", "False", "None")), pick(rng, shapes))
    if choice < 0.5:
        text = pick(rng, ("{}", "[]", "(" * 5000, "'a' * 10**9", text * 500))
    encoded = text.encode() + b"\n"
    content = (
        b"\x93NUMPY\x01\0" + min(len(encoded), 65535).to_bytes(2, "little") + encoded[:65535] + bytes(64)
    )
    if choice < 0.6:
        buffer = io.BytesIO()
        np.save(buffer, paint(20, 20, 1))
        content, text = break_bytes(buffer.getvalue(), rng)
    packed = zlib.compress(content)
    if rng.random() < 0.2:
        packed = break_bytes(packed, rng)[0]
    return packed, text[:60]


_STATEMENTS = (
    "DELETE FROM {table}",
    "DELETE FROM query",
    "DROP TABLE {table}",
    "ALTER TABLE {table} RENAME COLUMN {column} TO other",
    "ALTER TABLE {table} ADD COLUMN more",
    "INSERT INTO {table} SELECT {columns} FROM {table}",
    "INSERT INTO {table} DEFAULT VALUES",
    "UPDATE {table} SET {column} = CAST(X'FFFE00' AS TEXT)",
    "UPDATE {table} SET {column} = CAST(X'FFFE00' AS TEXT)",
    "UPDATE {table} SET {column} = zeroblob(2000000)",
    "UPDATE {table} SET {column} = CAST(zeroblob(2000000) AS TEXT)",
    "UPDATE {table} SET rowid = rowid + 9000000000000000000",
    "PRAGMA user_version = -1",
    "PRAGMA user_version = 0",
    "PRAGMA user_version = 2147483647",
    "PRAGMA application_id = 0",
    "PRAGMA journal_mode = WAL",
    "PRAGMA max_page_count = 1",
    "CREATE TRIGGER t AFTER INSERT ON query BEGIN DELETE FROM verdict; END",
    "CREATE TRIGGER t BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'no'); END",
    "CREATE TRIGGER t AFTER UPDATE ON {table} BEGIN SELECT load_extension('x'); END",
    (
        "CREATE TRIGGER t AFTER INSERT ON query BEGIN INSERT INTO state SELECT hex(randomblob(9)), 'x' FROM"
        " (WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c); END"
    ),
    (
        "DROP TABLE {table}; CREATE VIEW {table} AS WITH RECURSIVE c({column}) AS"
        " (SELECT 1 UNION ALL SELECT {column} + 1 FROM c) SELECT c.{column} AS {column} FROM c"
    ),
    (
        "ALTER TABLE slide RENAME TO hidden; CREATE VIEW slide AS WITH RECURSIVE c(x) AS"
        " (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT hidden.*, hidden.rowid FROM hidden, c"
    ),
    "ALTER TABLE {table} RENAME TO hidden; CREATE VIEW {table} AS SELECT rowid, * FROM hidden",
    "CREATE INDEX i ON {table} (abs({column}))",
    "INSERT INTO slide SELECT hex(randomblob(16)), name, '', '/dev/zero', 1.0, '' FROM slide",
    "INSERT INTO slide SELECT hex(randomblob(16)), name, '', '/etc/passwd', 1.0, '' FROM slide",
    "UPDATE query SET relative_path = '../../../../etc/passwd'",
    "UPDATE query SET absolute_path = '/dev/zero', relative_path = ''",
    (
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 3000) INSERT INTO verdict"
        " (query_id, candidate, verdict, note, reviewer, time)"
        " SELECT query_id, candidate, verdict, note, reviewer, time FROM verdict, c"
    ),
)


class _Page(HTMLParser):
    """Finds what a browser would run or fetch."""

    ACTIVE = frozenset(
        {"script", "iframe", "object", "embed", "base", "link", "form", "applet", "frame", "portal"}
    )

    def __init__(self) -> None:
        super().__init__()
        self.problems: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at a tag."""
        if tag in self.ACTIVE:
            self.problems.append(f"<{tag}>")
        for name, value in attrs:
            text = "".join((value or "").split()).lower()
            if name.startswith("on") or name in ("srcdoc", "formaction"):
                self.problems.append(f"<{tag} {name}>")
            if name in ("src", "href", "xlink:href", "action", "data") and not text.startswith(
                ("data:image/", "#")
            ):
                self.problems.append(f'<{tag} {name}="{text[:40]}">')
            if name == "http-equiv" and text == "refresh":
                self.problems.append("<meta refresh>")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at a tag that closes itself."""
        self.handle_starttag(tag, attrs)


def find_active_content(html: str) -> list[str]:
    """Return what of a page a browser would run or fetch."""
    page = _Page()
    page.feed(html)
    page.close()
    return page.problems


def find_formulas(table: str) -> list[str]:
    """Return the cells of a table that a spreadsheet would take for formulas."""

    def is_number(cell: str) -> bool:
        try:
            float(cell)
        except ValueError:
            return False
        return True

    csv.field_size_limit(2**30)
    cells = [cell for row in csv.reader(io.StringIO(table, newline="")) for cell in row]
    return [cell[:40] for cell in cells if cell.startswith(_FORMULAS) and not is_number(cell)]
