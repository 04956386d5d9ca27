"""The SQLite file of a project: its schema, how it is opened, and readable error messages.

A project may come from another person, so its file is checked: nothing in it may run
(triggers, views, functions in the schema), its tables must be those of a project, and
no value may be larger than `LARGEST_VALUE_BYTES`.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from comir_search.documents import BadDocument
from comir_search.errors import ComirSearchError
from comir_search.files import atomic_path

SUFFIX = ".comirproj"
FORMAT_VERSION = 2
APPLICATION_ID = 0x434F4D52  # "COMR" in the SQLite header
LARGEST_VALUE_BYTES = 2**30 - 1
ADVICE = "restore the project from a copy"

SCHEMA = """
CREATE TABLE slide (
    fingerprint TEXT PRIMARY KEY, name TEXT NOT NULL,
    relative_path TEXT NOT NULL, absolute_path TEXT NOT NULL,
    pixel_size_um REAL, pixel_size_source TEXT NOT NULL,
    identity TEXT NOT NULL DEFAULT '', removed TEXT
);
CREATE TABLE query (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL,
    relative_path TEXT NOT NULL, absolute_path TEXT NOT NULL,
    modality TEXT NOT NULL, pixel_size_um REAL, source TEXT NOT NULL, image BLOB,
    result TEXT, provenance TEXT NOT NULL, removed TEXT
);
CREATE TABLE verdict (
    id INTEGER PRIMARY KEY AUTOINCREMENT, query_id INTEGER NOT NULL REFERENCES query (id) ON DELETE CASCADE,
    candidate TEXT NOT NULL, verdict TEXT NOT NULL, note TEXT NOT NULL,
    reviewer TEXT NOT NULL, time TEXT NOT NULL
);
CREATE INDEX verdict_of_query ON verdict (query_id);
CREATE TABLE state (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
# The columns (table, name, type, constraint) that each older format lacks compared with the next.
STEPS: dict[int, tuple[tuple[str, str, str, str], ...]] = {
    1: (
        ("slide", "identity", "TEXT", "NOT NULL DEFAULT ''"),
        ("slide", "removed", "TEXT", ""),
        ("query", "removed", "TEXT", ""),
    ),
}


def create_database(path: Path) -> None:
    """Write an empty project, replacing a file of this name."""
    with atomic_path(path) as temporary, stating(path), closing(sqlite3.connect(temporary)) as connection:
        connection.executescript(SCHEMA)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        connection.commit()


def open_database(path: Path) -> sqlite3.Connection:
    """Open a project's file; every statement is on the disk when it returns.

    A file of an older format is updated in a single transaction. A read-only file is
    updated in memory and stays unchanged on the disk.

    Raises
    ------
    ComirSearchError
        If the file is missing, not a project, of a newer format, or damaged.
    """
    _check_file(path)
    with stating(path):
        connection = sqlite3.connect(path, timeout=2, check_same_thread=False, isolation_level=None)
        try:
            _distrust(connection)
            version = _check_header(connection, path)
            _check_schema(connection, path, version)
            # With a rollback journal the project is a single file that can be moved, also on network
            # folders. EXTRA also waits until the folder is on the disk after the journal was deleted.
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute("PRAGMA synchronous = EXTRA")
            if version < FORMAT_VERSION:
                connection = _bring_up(connection, version)
            connection.execute("PRAGMA foreign_keys = ON")
        except BaseException:
            connection.close()
            raise
    return connection


def _check_file(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        raise ComirSearchError(f"{path} does not exist: choose an existing project file.") from None
    if not stat.S_ISREG(mode):  # reading from a pipe could wait for ever
        raise ComirSearchError(f"{path} is not a project of napari-comir-search: choose a {SUFFIX} file.")


def _distrust(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST_VALUE_BYTES)
    connection.setlimit(sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH, 0)


def _check_header(connection: sqlite3.Connection, path: Path) -> int:
    """Return the version of the format."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise ComirSearchError(f"{path} is not a project of napari-comir-search: choose a {SUFFIX} file.")
    if version > FORMAT_VERSION:
        raise ComirSearchError(
            f"{path} was written by a newer version (format {version}, this one reads up to "
            f"{FORMAT_VERSION}): update napari-comir-search."
        )
    if version < 1:
        raise BadDocument(str(path), f"there is no format {version}", ADVICE)
    return int(version)


def _parts(connection: sqlite3.Connection) -> tuple[set[tuple[str, str]], dict[str, tuple[str, ...]]]:
    """Return (type, name) of everything in a schema, except SQLite's own, and the columns of each table."""
    rows = connection.execute(
        "SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    )
    parts = {(str(kind), str(name)) for kind, name in rows}
    columns = {
        name: tuple(
            f"{column} {kind} {hidden}"
            for _, column, kind, _, _, _, hidden in connection.execute(f'PRAGMA table_xinfo("{name}")')
        )
        for kind, name in parts
        if kind == "table" and name.isidentifier()
    }
    return parts, columns


def _check_schema(connection: sqlite3.Connection, path: Path, version: int) -> None:
    """Raise an error if the schema contains anything but the tables of a project."""
    parts, columns = _parts(connection)
    with closing(sqlite3.connect(":memory:")) as model:
        model.executescript(SCHEMA)
        own_parts, own_columns = _parts(model)
    foreign = sorted(f"{kind} {name}" for kind, name in parts - own_parts)
    if foreign:
        raise BadDocument(str(path), f"it contains a {foreign[0]}, which no project has", ADVICE)
    added = {
        (table, f"{name} {kind} 0")
        for older, columns_then in STEPS.items()
        if older >= version
        for table, name, kind, _ in columns_then
    }
    for name, wanted in own_columns.items():
        then = {column for column in wanted if (name, column) not in added}
        if set(columns.get(name, ())) != then:
            raise BadDocument(str(path), f"its table {name} is not that of a project", ADVICE)


def _bring_up(connection: sqlite3.Connection, version: int) -> sqlite3.Connection:
    """Update a project to the present format, completely or not at all."""
    try:
        _take_steps(connection, version)
    except sqlite3.OperationalError as error:
        if (error.sqlite_errorcode & 0xFF) not in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
            raise
        memory = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        _distrust(memory)
        connection.backup(memory)
        connection.close()
        _take_steps(memory, version)
        memory.execute("PRAGMA query_only = ON")
        return memory
    return connection


def _take_steps(connection: sqlite3.Connection, version: int) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for older in range(version, FORMAT_VERSION):
            for table, name, kind, constraint in STEPS[older]:
                connection.execute(f"ALTER TABLE {table} ADD COLUMN {name} {kind} {constraint}")
        connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def both_paths(path: str, folder: Path) -> tuple[str, str]:
    """Return a path relative to the project's folder ("" if impossible), and the absolute path."""
    if not path:
        return "", ""
    absolute = os.path.abspath(path)
    try:
        return Path(os.path.relpath(absolute, folder.absolute())).as_posix(), absolute
    except ValueError:  # another drive
        return "", absolute


def resolve_path(relative: str, absolute: str, folder: Path) -> str:
    """Return the present path of a file: relative to the project if it exists there, else where it was.

    Parameters
    ----------
    relative, absolute : str
        The two stored paths of the file; `relative` may be "".
    folder : Path
        The project's folder.
    """
    beside = os.path.normpath(folder.absolute() / relative) if relative else ""
    return beside if beside and os.path.exists(beside) else absolute


REFUSALS = {
    sqlite3.SQLITE_FULL: "could not be saved: the disk is full; free some space and try again.",
    sqlite3.SQLITE_READONLY: "is read-only: save the project under another name.",
    sqlite3.SQLITE_CANTOPEN: "or its folder may not be written: save the project in another folder.",
    sqlite3.SQLITE_BUSY: "is being written by another program: close it there and try again.",
    sqlite3.SQLITE_LOCKED: "is being written by another program: close it there and try again.",
    sqlite3.SQLITE_NOTADB: f"is not a project of napari-comir-search: choose a {SUFFIX} file.",
    sqlite3.SQLITE_IOERR: "could not be read or written: check its disk or the network.",
    sqlite3.SQLITE_TOOBIG: f"contains or would get more than {LARGEST_VALUE_BYTES >> 20} MB in one piece, which a "
    "project cannot store: take a smaller part of the image as the query.",
}


@contextmanager
def stating(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into one sentence; those without a cause in the system mean damage."""
    try:
        yield
    except sqlite3.ProgrammingError:  # an error in this program
        raise
    except sqlite3.Error as error:
        refusal = REFUSALS.get((getattr(error, "sqlite_errorcode", None) or 0) & 0xFF)
        if refusal is None:
            raise BadDocument(str(path), _first_line(error), ADVICE) from error
        raise ComirSearchError(f"{path} {refusal}") from error
    except UnicodeDecodeError as error:  # in a text, or in a name within SQLite's messages
        raise BadDocument(str(path), "it contains a text that is not UTF-8", ADVICE) from error


def _first_line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
