"""A project: slides, queries, results, verdicts and settings in one SQLite file.

Every change is on the disk before its call returns, so nothing is lost if the program
is killed. Verdicts are never overwritten: each is appended with its reviewer, time and
note, and the last one on a candidate counts. Removed slides and queries stay in the
file and can be restored.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from comir_search.documents import convert
from comir_search.errors import ComirSearchError, LeftOut
from comir_search.files import atomic_path
from comir_search.records import Candidate, SearchResult, SlideInfo, Verdict
from comir_search.slides import find_slides, open_slide
from comir_search.study.database import (
    ADVICE,
    both_paths,
    create_database,
    open_database,
    resolve_path,
    stating,
)
from comir_search.study.entries import Judgement, ProjectQuery, ProjectSlide, same_place, user_name
from comir_search.study.stored import (
    QueryRow,
    SlideRow,
    VerdictRow,
    decode_candidate,
    decode_object,
    decode_result,
    decode_settings,
    decode_shown,
    decode_source,
    pack_image,
    unpack_image,
)

__all__ = ["Project", "pack_image"]
SLIDE_COLUMNS = "name, relative_path, absolute_path, fingerprint, pixel_size_um, pixel_size_source, identity"
QUERY_COLUMNS = (
    "id, name, relative_path, absolute_path, modality, pixel_size_um, source, result, provenance,"
    " image IS NOT NULL"
)
VERDICT_COLUMNS = "verdict, note, reviewer, time, candidate"


class Project:
    """An open project file; use `create` or `open`, and `close` when done.

    Several threads may use it, one call at a time.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._lock = threading.RLock()
        self._known: dict[int, tuple[tuple[Any, ...], ProjectQuery]] = {}  # row and record by the query's id

    @classmethod
    def create(cls, path: str | Path) -> Project:
        """Make a new, empty project, replacing a file of this name."""
        create_database(Path(path))
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path) -> Project:
        """Open a project.

        Raises
        ------
        ComirSearchError
            If the file is missing, not a project, of a newer format, or damaged.
        """
        project = cls(Path(path), open_database(Path(path)))
        try:
            project._check()
        except BaseException:
            project.close()
            raise
        return project

    def _check(self) -> None:
        """Read everything but pixels once, to notice damage before anything is shown."""
        for query in self.queries:
            self.history(query.id)
        _ = self.slides, self.settings, self.view

    def save_as(self, path: str | Path) -> Project:
        """Write a copy under another name and return it open; this project stays open.

        With the project's own name nothing is written, since its file is up to date.
        """
        path = Path(path)
        if is_same_file(self.path, path):
            return Project.open(path)
        with (
            atomic_path(path) as temporary,
            stating(path),
            self._lock,
            closing(sqlite3.connect(temporary)) as copy,
        ):
            self._connection.backup(copy)
            for table in ("slide", "query"):
                rows = copy.execute(f"SELECT rowid, relative_path, absolute_path FROM {table}").fetchall()
                for row, relative, absolute in rows:
                    paths = both_paths(self._resolve(relative, absolute), path.parent)
                    copy.execute(
                        f"UPDATE {table} SET relative_path = ?, absolute_path = ? WHERE rowid = ?",
                        (*paths, row),
                    )
            copy.commit()
        return Project.open(path)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Project:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Slides

    @property
    def slides(self) -> list[ProjectSlide]:
        """The slides in the order they were added."""
        rows = self._read(f"SELECT {SLIDE_COLUMNS} FROM slide WHERE removed IS NULL ORDER BY rowid")
        slides = []
        for values in rows:
            row: SlideRow = self._convert(values, SlideRow, f"slide {values[0]}")
            slides.append(
                ProjectSlide(
                    row.name,
                    self._resolve(row.relative_path, row.absolute_path),
                    row.fingerprint,
                    row.pixel_size_um,
                    row.pixel_size_source,
                    row.identity,
                )
            )
        return slides

    def add_slide(self, info: SlideInfo) -> None:
        """Add a slide, or update path and pixel size if its key (`info.fingerprint`) is in the project."""
        self._write(
            "INSERT INTO slide"
            " (fingerprint, name, relative_path, absolute_path, pixel_size_um, pixel_size_source, identity)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (fingerprint) DO UPDATE SET name = excluded.name,"
            " relative_path = excluded.relative_path, absolute_path = excluded.absolute_path,"
            " pixel_size_um = excluded.pixel_size_um, pixel_size_source = excluded.pixel_size_source,"
            " identity = CASE excluded.identity WHEN '' THEN identity ELSE excluded.identity END,"
            " removed = NULL",
            (
                info.fingerprint,
                info.name,
                *both_paths(info.path, self.path.parent),
                info.pixel_size_um,
                info.pixel_size_source,
                info.identity,
            ),
        )

    def remove_slide(self, fingerprint: str) -> None:
        """Remove a slide from the project; its file, results and verdicts stay."""
        self._write("UPDATE slide SET removed = ? WHERE fingerprint = ?", (_now(), fingerprint))

    def restore_slide(self, fingerprint: str) -> None:
        """Restore a slide that was removed."""
        self._write("UPDATE slide SET removed = NULL WHERE fingerprint = ?", (fingerprint,))

    def missing_slides(self) -> list[ProjectSlide]:
        """Return the slides whose file is missing."""
        return [slide for slide in self.slides if slide.path and not slide.exists]

    def relocate_slides(
        self, paths: Iterable[str | Path], left_out: list[LeftOut] | None = None
    ) -> list[ProjectSlide]:
        """Search for missing slides among files and in folders; return those still missing.

        A slide is recognised by its identity, in older projects by its fingerprint.
        Files with the name of a missing slide are tried first. A file that cannot be
        read is skipped and added to `left_out` with the reason.
        """
        missing = {slide.fingerprint: slide for slide in self.missing_slides()}

        def known(info: SlideInfo) -> ProjectSlide | None:
            for slide in missing.values():
                if slide.identity and info.identity:
                    if slide.identity == info.identity:
                        return slide
                elif slide.fingerprint == info.fingerprint:
                    return slide
            return None

        names = {slide.name for slide in missing.values()}
        left_out = [] if left_out is None else left_out
        files = find_slides([Path(path) for path in paths], left_out)
        for path in sorted(files, key=lambda path: path.name not in names):
            if not missing:
                break
            try:
                with open_slide(path) as slide:
                    info = replace(slide.info, identity=slide.identity)
            except ComirSearchError:
                continue  # a damaged file is not the missing slide
            found = known(info)
            if found is not None:
                del missing[found.fingerprint]
                self._write(
                    "UPDATE slide SET name = ?, relative_path = ?, absolute_path = ? WHERE fingerprint = ?",
                    (info.name, *both_paths(str(path), self.path.parent), found.fingerprint),
                )
        return list(missing.values())

    # Queries and results

    @property
    def queries(self) -> list[ProjectQuery]:
        """The queries with their results, in the order they were added."""
        rows = self._read(f"SELECT {QUERY_COLUMNS} FROM query WHERE removed IS NULL ORDER BY id")
        return [self._query(row) for row in rows]

    def query(self, query_id: int) -> ProjectQuery:
        """Return one query; KeyError if it is not in the project or was removed."""
        rows = self._read(f"SELECT {QUERY_COLUMNS} FROM query WHERE id = ? AND removed IS NULL", (query_id,))
        if not rows:
            raise KeyError(query_id)
        return self._query(rows[0])

    def _query(self, values: tuple[Any, ...]) -> ProjectQuery:
        """Return a row as a record; it is only decoded again if the row changed."""
        known = self._known.get(values[0])
        if known is not None and known[0] == values:
            return known[1]
        row: QueryRow = self._convert(values, QueryRow, f"query {values[0]}")
        name = f"{self.path} (answer to {row.name})"
        shown = decode_shown(row.provenance, name)
        result = None if row.result is None else decode_result(row.result, name)
        if result is not None and shown.get("stopped"):
            result = _unfinished(result)  # older versions kept the partial result of a stopped search
        query = ProjectQuery(
            id=row.id,
            name=row.name,
            path=self._resolve(row.relative_path, row.absolute_path),
            modality=row.modality,
            pixel_size_um=row.pixel_size_um,
            source=decode_source(row.source, f"{self.path} (query {row.name})"),
            result=result,
            provenance=shown,
            has_image=bool(row.has_image),
        )
        self._known[row.id] = values, query
        return query

    def add_query(
        self,
        name: str,
        *,
        path: str | Path = "",
        modality: str = "",
        pixel_size_um: float | None = None,
        source: dict[str, Any] | None = None,
        image: np.ndarray | bytes | None = None,
    ) -> int:
        """Add a query and return its id.

        Parameters
        ----------
        name : str
            Name in the window and in tables.
        path : path, optional
            Its file.
        modality : str, optional
            Its modality, one of the model's.
        pixel_size_um : float, optional
            Its pixel size, after any correction by the user.
        source : dict, optional
            Where it was drawn (JSON-ready): layer, corners, ...
        image : ndarray or bytes, optional
            Its pixels if it has no file: an array, or bytes from `pack_image`, which
            takes some time for large images.
        """
        blob = pack_image(image) if isinstance(image, np.ndarray) else image
        return self._write(
            "INSERT INTO query"
            " (name, relative_path, absolute_path, modality, pixel_size_um, source, image, provenance)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, '{}')",
            (
                name,
                *both_paths(str(path) if path else "", self.path.parent),
                modality,
                pixel_size_um,
                json.dumps(source or {}),
                blob,
            ),
        )

    def update_query(
        self, query_id: int, *, modality: str | None = None, pixel_size_um: float | None = None
    ) -> None:
        """Correct the modality or pixel size of a query.

        Parameters
        ----------
        query_id : int
        modality : str, optional
            By default it stays the same.
        pixel_size_um : float, optional
            By default it stays the same.
        """
        source = self.query(query_id).source
        if pixel_size_um is not None:
            source = source | {"pixel size": "user"}
        self._write(
            "UPDATE query SET modality = coalesce(?, modality), pixel_size_um = coalesce(?, pixel_size_um),"
            " source = ? WHERE id = ?",
            (modality, pixel_size_um, json.dumps(source), query_id),
        )

    def query_image(self, query_id: int) -> np.ndarray | None:
        """Return the pixels stored in the project, None for a query in a file."""
        rows = self._read("SELECT image FROM query WHERE id = ?", (query_id,))
        if not rows or rows[0][0] is None:
            return None
        return unpack_image(rows[0][0], f"{self.path} (query {query_id})")

    def remove_query(self, query_id: int) -> None:
        """Remove a query with its result and verdicts; it can be restored."""
        self._write("UPDATE query SET removed = ? WHERE id = ?", (_now(), query_id))

    def restore_query(self, query_id: int) -> None:
        """Restore a removed query with its result and verdicts."""
        self._write("UPDATE query SET removed = NULL WHERE id = ?", (query_id,))

    def set_result(
        self, query_id: int, result: SearchResult, provenance: dict[str, Any] | None = None
    ) -> None:
        """Store a query's answer in place of an earlier one; verdicts stay with their candidates.

        Parameters
        ----------
        query_id : int
        result : SearchResult
            A finished result.
        provenance : dict, optional
            Index, model and options, to be shown; by default the result's own.

        Raises
        ------
        ValueError
            If the result is not finished.
        """
        if not result.finished:
            raise ValueError("an unfinished result is not an answer")
        if provenance is None:
            provenance = {} if result.provenance is None else asdict(result.provenance)
        self._write(
            "UPDATE query SET result = ?, provenance = ? WHERE id = ?",
            (json.dumps(asdict(result)), json.dumps(provenance), query_id),
        )

    # Verdicts

    def set_verdict(
        self,
        query_id: int,
        candidate: Candidate,
        verdict: Verdict,
        *,
        note: str = "",
        reviewer: str | None = None,
    ) -> Judgement:
        """Record a verdict on a candidate; it is on the disk when this returns.

        Parameters
        ----------
        query_id : int
            The query that the candidate answers.
        candidate : Candidate
            The judged candidate; a copy is stored with the verdict.
        verdict : Verdict
            `Verdict.NONE` cancels an earlier one.
        note : str, optional
            The reason.
        reviewer : str, optional
            By default the name of the user who is logged in.
        """
        reviewer = user_name() if reviewer is None else reviewer
        judgement = Judgement(verdict, note, reviewer, _now(), candidate)
        self._write(
            "INSERT INTO verdict (query_id, candidate, verdict, note, reviewer, time)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (query_id, json.dumps(asdict(candidate)), verdict.value, note, reviewer, judgement.time),
        )
        return judgement

    def verdicts_of(self, query_id: int) -> dict[int, Judgement]:
        """Return the last verdicts on the candidates of a query's result, by rank."""
        result, events = self.query(query_id).result, self.history(query_id)
        if result is None:
            return {}
        last: dict[int, Judgement] = {}
        for candidate in result.candidates:
            for event in reversed(events):
                if event.candidate is not None and same_place(candidate, event.candidate):
                    last[candidate.rank] = event
                    break
        return last

    def history(self, query_id: int, candidate: Candidate | None = None) -> list[Judgement]:
        """Return all verdicts on a query or on one candidate, oldest first."""
        events = []
        for values in self._read(
            f"SELECT {VERDICT_COLUMNS} FROM verdict WHERE query_id = ? ORDER BY id", (query_id,)
        ):
            part = f"verdict on query {query_id}"
            row: VerdictRow = self._convert(values, VerdictRow, part)
            judged = decode_candidate(row.candidate, f"{self.path} ({part})")
            if candidate is None or same_place(candidate, judged):
                events.append(Judgement(row.verdict, row.note, row.reviewer, row.time, judged))
        return events

    # Settings and view

    @property
    def settings(self) -> dict[str, Any]:
        """JSON-ready settings of the project (index folder, model, search options, ...)."""
        return self._state("settings", decode_settings)

    @settings.setter
    def settings(self, values: dict[str, Any]) -> None:
        self._set_state("settings", values)

    @property
    def view(self) -> dict[str, Any]:
        """JSON-ready state of the window (camera, open slide, selection, ...)."""
        return self._state("view", decode_object)

    @view.setter
    def view(self, values: dict[str, Any]) -> None:
        self._set_state("view", values)

    # The file

    def _state(self, name: str, decode: Callable[[str, str], dict[str, Any]]) -> dict[str, Any]:
        rows = self._read("SELECT value FROM state WHERE name = ?", (name,))
        if not rows:
            return {}
        part = f"{self.path} ({name})"
        text: str = convert(rows[0][0], str, name=part, advice=ADVICE)
        return decode(text, part)

    def _convert(self, values: tuple[Any, ...], type: Any, part: str) -> Any:
        return convert(values, type, name=f"{self.path} ({part[:100]})", advice=ADVICE)

    def _set_state(self, name: str, values: dict[str, Any]) -> None:
        self._write("INSERT OR REPLACE INTO state (name, value) VALUES (?, ?)", (name, json.dumps(values)))

    def _read(self, statement: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        with self._lock, stating(self.path):
            return self._connection.execute(statement, values).fetchall()

    def _write(self, statement: str, values: tuple[Any, ...]) -> int:
        """Run one statement, which commits itself; return the id of the new row."""
        with self._lock, stating(self.path):
            return self._connection.execute(statement, values).lastrowid or 0

    def _resolve(self, relative: str, absolute: str) -> str:
        return resolve_path(relative, absolute, self.path.parent)


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _unfinished(result: SearchResult) -> SearchResult:
    """Return a result without the numbers that only a finished search has."""
    candidates = tuple(replace(candidate, confidence=None) for candidate in result.candidates)
    return replace(result, found=False, finished=False, candidates=candidates)


def is_same_file(first: Path, second: Path) -> bool:
    """Whether two paths lead to the same existing file."""
    try:
        return first.samefile(second)
    except OSError:
        return False
