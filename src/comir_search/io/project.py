"""A project: slides, queries, results, verdicts and settings in one SQLite file.

Every change is on the disk before the call that makes it returns, so killing
the program loses nothing. Verdicts are never overwritten: each is appended with
its reviewer, time and note, and the last one on a place counts.
"""

from __future__ import annotations

import io
import json
import sqlite3
import threading
import zlib
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from comir_search.errors import ComirSearchError
from comir_search.io.atomic import atomic_path
from comir_search.io.database import both_paths, create_database, open_database, resolve_path, stating
from comir_search.io.entries import Judgement, ProjectQuery, ProjectSlide, same_place, user_name
from comir_search.records import Candidate, SearchResult, SlideInfo, Verdict


def pack_image(image: np.ndarray) -> bytes:
    """Return an image as a project keeps it."""
    with io.BytesIO() as buffer:
        np.save(buffer, image, allow_pickle=False)
        return zlib.compress(buffer.getvalue(), 1)


class Project:
    """An open project file; use `create` or `open`, and `close` when done.

    Usable from several threads, one call at a time.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._lock = threading.RLock()

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
            For a missing file, a file that is not a project, a project of a
            newer format and a damaged one.
        """
        return cls(Path(path), open_database(Path(path)))

    def save_as(self, path: str | Path) -> Project:
        """Write a copy under another name and return it open; this one stays open."""
        path = Path(path)
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
        rows = self._read(
            "SELECT name, relative_path, absolute_path, fingerprint, pixel_size_um, pixel_size_source"
            " FROM slide ORDER BY rowid"
        )
        return [ProjectSlide(name, self._resolve(rel, full), *rest) for name, rel, full, *rest in rows]

    def add_slide(self, info: SlideInfo) -> None:
        """Add a slide, or note its new place and pixel size if it is known already."""
        self._write(
            "INSERT INTO slide"
            " (fingerprint, name, relative_path, absolute_path, pixel_size_um, pixel_size_source)"
            " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (fingerprint) DO UPDATE SET name = excluded.name,"
            " relative_path = excluded.relative_path, absolute_path = excluded.absolute_path,"
            " pixel_size_um = excluded.pixel_size_um, pixel_size_source = excluded.pixel_size_source",
            (
                info.fingerprint,
                info.name,
                *both_paths(info.path, self.path.parent),
                info.pixel_size_um,
                info.pixel_size_source,
            ),
        )

    def remove_slide(self, fingerprint: str) -> None:
        """Take a slide out of the project; its file, results and verdicts stay."""
        self._write("DELETE FROM slide WHERE fingerprint = ?", (fingerprint,))

    def missing_slides(self) -> list[ProjectSlide]:
        """Return the slides whose file is no longer where it was."""
        return [slide for slide in self.slides if slide.path and not slide.exists]

    def relocate_slides(self, paths: Iterable[str | Path]) -> list[ProjectSlide]:
        """Look for missing slides among files and in folders; return those still missing.

        A slide is known by its fingerprint; files that carry a missing slide's
        name are tried first.
        """
        from comir_search.slides import find_slides, open_slide

        missing = {slide.fingerprint: slide for slide in self.missing_slides()}
        names = {slide.name for slide in missing.values()}
        for path in sorted(
            find_slides([Path(path) for path in paths]), key=lambda path: path.name not in names
        ):
            if not missing:
                break
            try:
                with open_slide(path) as slide:
                    info = slide.info
            except ComirSearchError:
                continue  # a broken neighbour is not the slide that is sought
            known = missing.pop(info.fingerprint, None)
            if known is not None:
                self._write(
                    "UPDATE slide SET name = ?, relative_path = ?, absolute_path = ? WHERE fingerprint = ?",
                    (info.name, *both_paths(str(path), self.path.parent), info.fingerprint),
                )
        return list(missing.values())

    # Queries and results

    @property
    def queries(self) -> list[ProjectQuery]:
        """The queries in the order they were added, with their results."""
        rows = self._read(
            "SELECT id, name, relative_path, absolute_path, modality, pixel_size_um, source, result,"
            " provenance FROM query ORDER BY id"
        )
        return [
            ProjectQuery(
                id=key,
                name=name,
                path=self._resolve(relative, absolute),
                modality=modality,
                pixel_size_um=pixel_size_um,
                source=json.loads(source),
                result=None if result is None else _result_from_json(result),
                provenance=json.loads(provenance),
            )
            for key, name, relative, absolute, modality, pixel_size_um, source, result, provenance in rows
        ]

    def query(self, query_id: int) -> ProjectQuery:
        """Return one query; KeyError if it is not in the project."""
        for query in self.queries:
            if query.id == query_id:
                return query
        raise KeyError(query_id)

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
            As shown to the user and given in tables.
        path : path, optional
            Its file.
        modality : str, optional
            Which side of the model it is.
        pixel_size_um : float, optional
            Pixel size as used, the user's correction included.
        source : dict, optional
            Where it was drawn (JSON-ready): layer, corners, ...
        image : ndarray or bytes, optional
            Its pixels, for a query that lies in no file; as they are, or packed by
            `pack_image`, which takes a while for large ones.
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
        """Correct what is known of a query; what is not given stays."""
        self._write(
            "UPDATE query SET modality = coalesce(?, modality), pixel_size_um = coalesce(?, pixel_size_um)"
            " WHERE id = ?",
            (modality, pixel_size_um, query_id),
        )

    def query_image(self, query_id: int) -> np.ndarray | None:
        """Return the pixels kept in the project, or None for a query in a file."""
        rows = self._read("SELECT image FROM query WHERE id = ?", (query_id,))
        if not rows or rows[0][0] is None:
            return None
        return np.load(io.BytesIO(zlib.decompress(rows[0][0])), allow_pickle=False)

    def remove_query(self, query_id: int) -> None:
        """Take a query out, with its result and verdicts."""
        self._write("DELETE FROM query WHERE id = ?", (query_id,))

    def set_result(
        self, query_id: int, result: SearchResult, provenance: dict[str, Any] | None = None
    ) -> None:
        """Keep a query's answer, replacing an earlier one; verdicts stay with their places."""
        self._write(
            "UPDATE query SET result = ?, provenance = ? WHERE id = ?",
            (json.dumps(asdict(result) | {"first_stage": {}}), json.dumps(provenance or {}), query_id),
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
            What is judged; a copy is kept with the verdict.
        verdict : Verdict
            `Verdict.NONE` takes an earlier one back.
        note : str, optional
            Why.
        reviewer : str, optional
            By default the name of the user who is logged in.
        """
        reviewer = user_name() if reviewer is None else reviewer
        judgement = Judgement(verdict, note, reviewer, datetime.now(UTC).isoformat(), candidate)
        self._write(
            "INSERT INTO verdict (query_id, candidate, verdict, note, reviewer, time)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (query_id, json.dumps(asdict(candidate)), verdict.value, note, reviewer, judgement.time),
        )
        return judgement

    def verdict_of(self, query_id: int, candidate: Candidate) -> Judgement:
        """Return the last verdict on a candidate's place (`Verdict.NONE` where there is none)."""
        events = self.history(query_id, candidate)
        return events[-1] if events else Judgement(Verdict.NONE)

    def verdicts_of(self, query_id: int) -> dict[int, Judgement]:
        """Return the last verdicts on the candidates of a query's result, by rank."""
        result, events = self.query(query_id).result, self.history(query_id)
        if result is None:
            return {}
        last: dict[int, Judgement] = {}
        for candidate in result.candidates:
            for event in events:
                if event.candidate is not None and same_place(candidate, event.candidate):
                    last[candidate.rank] = event
        return last

    def history(self, query_id: int, candidate: Candidate | None = None) -> list[Judgement]:
        """Return all verdicts on a query, or on one candidate's place, oldest first."""
        rows = self._read(
            "SELECT verdict, note, reviewer, time, candidate FROM verdict WHERE query_id = ? ORDER BY id",
            (query_id,),
        )
        events = [
            Judgement(Verdict(verdict), note, reviewer, time, Candidate(**json.loads(judged)))
            for verdict, note, reviewer, time, judged in rows
        ]
        return [
            event
            for event in events
            if candidate is None or (event.candidate is not None and same_place(candidate, event.candidate))
        ]

    # Settings and view

    @property
    def settings(self) -> dict[str, Any]:
        """JSON-ready settings of the project (index folder, model, search options, ...)."""
        return self._state("settings")

    @settings.setter
    def settings(self, values: dict[str, Any]) -> None:
        self._set_state("settings", values)

    @property
    def view(self) -> dict[str, Any]:
        """JSON-ready state of the window (camera, open slide, selection, ...)."""
        return self._state("view")

    @view.setter
    def view(self, values: dict[str, Any]) -> None:
        self._set_state("view", values)

    # The file

    def _state(self, name: str) -> dict[str, Any]:
        rows = self._read("SELECT value FROM state WHERE name = ?", (name,))
        return json.loads(rows[0][0]) if rows else {}

    def _set_state(self, name: str, values: dict[str, Any]) -> None:
        self._write("INSERT OR REPLACE INTO state (name, value) VALUES (?, ?)", (name, json.dumps(values)))

    def _read(self, statement: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        with self._lock, stating(self.path):
            return self._connection.execute(statement, values).fetchall()

    def _write(self, statement: str, values: tuple[Any, ...]) -> int:
        """Run one statement, which commits by itself; return the row it made."""
        with self._lock, stating(self.path):
            return self._connection.execute(statement, values).lastrowid or 0

    def _resolve(self, relative: str, absolute: str) -> str:
        return resolve_path(relative, absolute, self.path.parent)


def _result_from_json(text: str) -> SearchResult:
    values = json.loads(text)
    candidates = tuple(Candidate(**candidate) for candidate in values.pop("candidates"))
    return SearchResult(**values, candidates=candidates)
