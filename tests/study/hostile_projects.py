"""Projects that a stranger may send: mutations of a sound one, from a seed."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import numpy as np

from comir_search.export.geojson import write_geojson
from comir_search.export.report import write_report_steps
from comir_search.export.tables import write_csv
from comir_search.geometry import candidate_corners_px
from comir_search.progress import finish
from comir_search.records import Candidate, Provenance, SearchResult, SlideInfo, Verdict
from comir_search.study.freshness import describe_state, inputs_of
from comir_search.study.project import Project
from comir_search.study.stored import decode_view

COLUMNS = {
    "slide": (
        "fingerprint", "name", "relative_path", "absolute_path", "pixel_size_um", "pixel_size_source",
        "identity", "removed",
    ),
    "query": (
        "name", "relative_path", "absolute_path", "modality", "pixel_size_um", "source", "image", "result",
        "provenance", "removed",
    ),
    "verdict": ("query_id", "candidate", "verdict", "note", "reviewer", "time"),
    "state": ("name", "value"),
}  # fmt: skip
JSON_COLUMNS = (
    ("query", "source"), ("query", "result"), ("query", "provenance"), ("verdict", "candidate"),
    ("state", "value"),
)  # fmt: skip
VALUES = (
    None, "", "x", "\x00", "a" * 10_000, "../../../etc/passwd", "/dev/zero", "/dev/fd/0", "=1+1", b"\xff\xfe", b"",
    0, -1, 1, 2**31, 2**63 - 1, -(2**63), 0.0, -0.5, 1e-320, 1e308, float("inf"), "[]", "{}", "null", "NaN",
    "[" * 5000, '{"a":' * 3000, "1e999", "<script>alert(1)</script>",
)  # fmt: skip
JSON_VALUES = (
    None, True, "", "x", "<img src=x onerror=alert(1)>", 0, -1, 10**30, 2**63, 1e308, -1e-320, [], {}, [[]],
    [1, 2, 3], {"a": 1}, [None] * 9, "a" * 5000, "\ud7ff\x00",
)  # fmt: skip
STATEMENTS = (
    "CREATE TRIGGER t AFTER INSERT ON verdict BEGIN DELETE FROM query; END",
    "CREATE TRIGGER t AFTER UPDATE ON query BEGIN INSERT INTO state VALUES (hex(randomblob(9)), 'x'); END",
    "DROP TABLE state",
    "DROP TABLE verdict",
    "ALTER TABLE query DROP COLUMN provenance",
    "ALTER TABLE query ADD COLUMN more TEXT",
    "ALTER TABLE slide RENAME COLUMN name TO title",
    "CREATE TABLE other (a)",
    "CREATE VIEW other AS SELECT * FROM query",
    "CREATE INDEX other ON query (name)",
    "DROP TABLE slide; CREATE VIEW slide AS SELECT name, name AS relative_path FROM query",
    "DROP TABLE state; CREATE TABLE state (name TEXT PRIMARY KEY, value TEXT AS (name || 'x') STORED)",
    "PRAGMA user_version = 0",
    "PRAGMA user_version = 1",
    "PRAGMA user_version = -5",
    "PRAGMA user_version = 99",
    "PRAGMA application_id = 1",
    "PRAGMA journal_mode = WAL",
    "INSERT INTO query (name, relative_path, absolute_path, modality, source, provenance) SELECT * FROM state",
    "INSERT INTO verdict (query_id, candidate, verdict, note, reviewer, time) VALUES (1, '{}', 'maybe', '', '', '')",
    "DELETE FROM query WHERE id = 1",
    "DELETE FROM verdict",
)


def make_project(path: Path) -> None:
    """Write a sound project with all that one can hold."""
    candidates = tuple(
        Candidate(rank, "a.svs", 100.0 * rank, 90.0, 0.5, 60.0, 50.0, 10.0 * rank, False, 0.5, 0.9 / rank, "f" * 32)
        for rank in (1, 2, 3)
    )  # fmt: skip
    origin = Provenance(
        "e" * 32, 1.0, "shg", {"top": 10, "mirror": False}, {"f" * 32: 0.5}, "/i", "m", "n", "1"
    )
    with Project.create(path) as project:
        project.add_slide(
            SlideInfo(
                "a.svs", "/no/a.svs", "TIFF", 1000, 800, 3, "uint8", ((800, 1000),), 0.5, "user", "f" * 32
            )
        )
        image = np.arange(3000, dtype=np.uint16).reshape(50, 60)
        for name in ("one", "two"):
            query = project.add_query(
                name,
                modality="shg",
                pixel_size_um=1.0,
                image=image,
                source={"shape": [50, 60], "pixel size": "layer", "contrast": [0.0, 3000.0, 1.0]},
            )
            project.set_result(
                query, SearchResult(name, True, "Found.", {"total": 1.0}, candidates, 0.4, provenance=origin)
            )
            project.set_verdict(query, candidates[1], Verdict.ACCEPTED, note="n", reviewer="Ada")
        project.settings = {"index": "/i", "model": "", "search": {"top": 10, "mirror": False}}
        project.view = {"query": query, "rank": 2, "slide": "f" * 32, "center": [0.0, 1.0, 2.0], "zoom": 2.0}


def spoil(path: Path, rng: np.random.Generator) -> str:
    """Change a project at random; return what was done."""
    kind = rng.integers(5)
    if kind == 0:
        content = bytearray(path.read_bytes())
        for _ in range(int(rng.integers(1, 12))):
            content[int(rng.integers(len(content)))] = int(rng.integers(256))
        if rng.random() < 0.2:
            del content[int(rng.integers(len(content))) :]
        path.write_bytes(content)
        return "bytes"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        if kind == 1:
            statement = STATEMENTS[int(rng.integers(len(STATEMENTS)))]
            with suppress(sqlite3.Error):
                connection.executescript(statement)
            return statement
        said = []
        for _ in range(int(rng.integers(1, 3))):
            if kind == 2:
                table = list(COLUMNS)[int(rng.integers(len(COLUMNS)))]
                column = COLUMNS[table][int(rng.integers(len(COLUMNS[table])))]
                value = VALUES[int(rng.integers(len(VALUES)))]
            else:
                table, column = JSON_COLUMNS[int(rng.integers(len(JSON_COLUMNS)))]
                (text,) = connection.execute(f"SELECT {column} FROM {table} LIMIT 1").fetchone()
                with suppress(ValueError, TypeError):
                    text = json.dumps(change(json.loads(text), rng))
                if kind == 4 and text:
                    cut = int(rng.integers(len(text)))
                    text = text[:cut] + chr(int(rng.integers(1, 256))) + text[cut + 1 :]
                value = text
            with suppress(sqlite3.Error):
                connection.execute(f"UPDATE {table} SET {column} = ?", (value,))
            said.append(f"{table}.{column} = {value!r}"[:300])
    return "; ".join(said)


def change(value: object, rng: np.random.Generator) -> object:
    """Change one place of a JSON value, however deep."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = list(value)[int(rng.integers(len(value)))]
        if rng.random() < 0.15:
            return {name: item for name, item in value.items() if name != key}
        return {**value, key: change(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        place = int(rng.integers(len(value)))
        return [*value[:place], change(value[place], rng), *value[place + 1 :]]
    return JSON_VALUES[int(rng.integers(len(JSON_VALUES)))]


def use(path: Path, out: Path) -> None:
    """Do with a project all that can be done without a window."""
    with Project.open(path) as project:
        queries = project.queries
        states = [describe_state(query, inputs_of(project)) for query in queries]
        verdicts = [project.verdicts_of(query.id) for query in queries]
        view, _, _ = decode_view(project.view), project.settings, project.missing_slides()
        assert view.zoom is None or view.zoom > 0
        answered = [
            each for each in zip(queries, verdicts, states, strict=True) if each[0].result is not None
        ]
        results = [query.result for query, _, _ in answered]
        write_csv(
            out / "a.csv", results, [judged for _, judged, _ in answered], [state for _, _, state in answered]
        )
        write_geojson(out / "a.geojson", results)
        finish(write_report_steps(out / "a.html", project))
        page = (out / "a.html").read_text(encoding="utf-8")
        assert "<script" not in page and "<img src=x" not in page
        for query in queries:
            for candidate in query.result.candidates if query.result else ():
                candidate_corners_px(candidate)
                project.set_verdict(query.id, candidate, Verdict.UNSURE)
            project.query_image(query.id)
            project.remove_query(query.id)
            project.restore_query(query.id)
        project.save_as(out / "copy.comirproj").close()
