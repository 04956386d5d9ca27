"""The SQLite file under a project: its schema, its opening, its refusals in one sentence."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from comir_search.errors import ComirSearchError
from comir_search.io.atomic import atomic_path

SUFFIX = ".comirproj"
FORMAT_VERSION = 1
APPLICATION_ID = 0x434F4D52  # "COMR" in the SQLite header

SCHEMA = """
CREATE TABLE slide (
    fingerprint TEXT PRIMARY KEY, name TEXT NOT NULL,
    relative_path TEXT NOT NULL, absolute_path TEXT NOT NULL,
    pixel_size_um REAL, pixel_size_source TEXT NOT NULL
);
CREATE TABLE query (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL,
    relative_path TEXT NOT NULL, absolute_path TEXT NOT NULL,
    modality TEXT NOT NULL, pixel_size_um REAL, source TEXT NOT NULL, image BLOB,
    result TEXT, provenance TEXT NOT NULL
);
CREATE TABLE verdict (
    id INTEGER PRIMARY KEY AUTOINCREMENT, query_id INTEGER NOT NULL REFERENCES query (id) ON DELETE CASCADE,
    candidate TEXT NOT NULL, verdict TEXT NOT NULL, note TEXT NOT NULL,
    reviewer TEXT NOT NULL, time TEXT NOT NULL
);
CREATE INDEX verdict_of_query ON verdict (query_id);
CREATE TABLE state (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


def create_database(path: Path) -> None:
    """Write an empty project, replacing a file of this name."""
    with atomic_path(path) as temporary, stating(path), closing(sqlite3.connect(temporary)) as connection:
        connection.executescript(SCHEMA)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        connection.commit()


def open_database(path: Path) -> sqlite3.Connection:
    """Open a project's file so that every statement is durable once it returns.

    Raises
    ------
    ComirSearchError
        For a missing file, one that is not a project, a newer format, damage.
    """
    if not path.is_file():
        raise ComirSearchError(f"{path} is not there: choose an existing project file.")
    with stating(path):
        connection = sqlite3.connect(path, timeout=2, check_same_thread=False, isolation_level=None)
        try:
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if application != APPLICATION_ID:
                raise ComirSearchError(
                    f"{path} is not a project of napari-comir-search: choose a {SUFFIX} file."
                )
            if version > FORMAT_VERSION:
                raise ComirSearchError(
                    f"{path} was written by a newer version (format {version}, this one reads up to "
                    f"{FORMAT_VERSION}): update napari-comir-search."
                )
            # A rollback journal keeps the project one movable file, on network folders too;
            # EXTRA is FULL that also waits for the folder once the journal is gone.
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute("PRAGMA synchronous = EXTRA")
            connection.execute("PRAGMA foreign_keys = ON")
        except BaseException:
            connection.close()
            raise
    return connection


def both_paths(path: str, folder: Path) -> tuple[str, str]:
    """Return a path relative to the project's folder ("" where impossible) and absolute."""
    if not path:
        return "", ""
    absolute = os.path.abspath(path)
    try:
        return Path(os.path.relpath(absolute, folder.absolute())).as_posix(), absolute
    except ValueError:  # another drive
        return "", absolute


def resolve_path(relative: str, absolute: str, folder: Path) -> str:
    """Return where a file lies now: beside the project if it moved with it, else where it was."""
    beside = os.path.normpath(folder.absolute() / relative) if relative else ""
    return beside if beside and os.path.exists(beside) else absolute


REFUSALS = {
    sqlite3.SQLITE_FULL: "could not be saved: the disk is full; free some space and try again.",
    sqlite3.SQLITE_READONLY: "is read-only: save the project under another name.",
    sqlite3.SQLITE_CANTOPEN: "or its folder may not be written: save the project in another folder.",
    sqlite3.SQLITE_BUSY: "is being written by another program: close it there and try again.",
    sqlite3.SQLITE_LOCKED: "is being written by another program: close it there and try again.",
    sqlite3.SQLITE_NOTADB: f"is not a project of napari-comir-search: choose a {SUFFIX} file.",
    sqlite3.SQLITE_CORRUPT: "is damaged: restore it from a copy.",
    sqlite3.SQLITE_IOERR: "could not be read or written: check the disk or the network it lies on.",
}


@contextmanager
def stating(path: Path) -> Iterator[None]:
    """Turn SQLite's refusals into one sentence."""
    try:
        yield
    except sqlite3.Error as error:
        refusal = REFUSALS.get((getattr(error, "sqlite_errorcode", None) or 0) & 0xFF)
        if refusal is None:
            raise
        raise ComirSearchError(f"{path} {refusal}") from error
