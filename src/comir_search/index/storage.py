"""A folder, or an object store behind an fsspec URL, seen the same way.

Names are relative, with forward slashes. A file is complete or absent: locally
it is renamed into place, and an object store's PUT is atomic by itself. All that
is written or deleted locally goes through `resolve_below`, so nothing that a
received index holds can lead out of its folder.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from comir_search.documents import BadDocument, convert, decode, has_wrong_digest, with_digest
from comir_search.errors import ComirSearchError
from comir_search.files import UnsafeName, atomic_path, find_way_out, resolve_below, writing

if TYPE_CHECKING:
    from zarr.abc.store import Store

T = TypeVar("T")

INDEX_FILE = "index.json"  # a folder without it is no index, or is out of reach
MAX_DOCUMENT_BYTES = 4 << 20
_NOT_THERE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


def is_url(location: str | Path) -> bool:
    """Return whether a location is an fsspec URL ("s3://bucket/index") rather than a folder."""
    return re.match(r"[a-z][a-z0-9+.-]+(::|://)", str(location)) is not None


class CannotRead(ComirSearchError):
    """The operating system did not let a file be read, which says nothing about what it holds."""


class Storage:
    """Where an index lies.

    Parameters
    ----------
    location : str or Path
        A folder, which need not exist yet, or an fsspec URL.

    Raises
    ------
    ComirSearchError
        For a URL whose protocol needs a package that is not installed.
    """

    def __init__(self, location: str | Path) -> None:
        self.location = str(location)
        self.folder: Path | None = None
        if not is_url(location):
            self.folder = Path(location).absolute()
            return
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem

        try:
            self._fs, self._root = url_to_fs(self.location)
        except (ImportError, ValueError) as error:
            raise ComirSearchError(f"{location} cannot be opened: {error}.") from error
        if isinstance(self._fs, LocalFileSystem):
            self.folder = Path(self._root)

    def zarr_store(self) -> Store:
        """Return the same place as a Zarr store."""
        if self.folder is not None:
            from comir_search.index.guarded_store import GuardedStore

            return GuardedStore(self.folder)
        from zarr.storage import FsspecStore

        return FsspecStore.from_url(self.location)

    def exists(self, name: str) -> bool:
        """Return whether a file of that name is there.

        Raises
        ------
        CannotRead
            If the operating system does not say.
        """
        if self.folder is None:
            return bool(self._fs.isfile(f"{self._root}/{name}"))
        with self._reading(name), suppress(*_NOT_THERE):
            return stat.S_ISREG(os.stat(self.folder / name).st_mode)
        return False

    def check_own(self, name: str) -> None:
        """Make sure that a name lies inside, and that nothing on the way to it is a link; see `resolve_below`."""
        if self.folder is not None:
            resolve_below(self.folder, name)

    def is_own(self, name: str) -> bool:
        """Whether `check_own` passes."""
        try:
            self.check_own(name)
        except UnsafeName:
            return False
        return True

    def check_reachable(self) -> None:
        """Make sure that the index as a whole is where it was.

        Raises
        ------
        CannotRead
            If it is not, so that a file that is missing says nothing.
        """
        if not self.exists(INDEX_FILE):
            raise CannotRead(
                f"The index {self.location} is no longer there; put its folder back, or connect its disk again, and "
                "try again."
            )

    def read(self, name: str, max_bytes: int | None = None) -> bytes | None:
        """Return a file's content, or None where there is no such file.

        Parameters
        ----------
        name : str
        max_bytes : int, optional
            Read no more of a local file than one byte beyond this.

        Raises
        ------
        CannotRead
            If the operating system does not let it be read.
        """
        with self._reading(name), suppress(*_NOT_THERE):
            if self.folder is None:
                return bytes(self._fs.cat_file(f"{self._root}/{name}"))
            # What is no regular file, such as a pipe, could be waited for for ever.
            flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
            with open(os.open(self.folder / name, flags), "rb", buffering=0) as file:
                about = os.fstat(file.fileno())
                if not stat.S_ISREG(about.st_mode):
                    return None
                limit = about.st_size if max_bytes is None else min(about.st_size, max_bytes + 1)
                return _read_exactly(file, limit)
        return None

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all; locally it is on the disk before this returns.

        Raises
        ------
        ComirSearchError
            If it cannot be written, or the name leads out of the folder.
        """
        if self.folder is not None:
            target = resolve_below(self.folder, name)
            with writing(target):
                target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(target) as temporary:
                temporary.write_bytes(content)
            return
        with writing(f"{self.location}/{name}"):
            self._fs.makedirs(f"{self._root}/{name}".rsplit("/", 1)[0], exist_ok=True)
            self._fs.pipe_file(f"{self._root}/{name}", content)

    def read_values(self, name: str, advice: str) -> dict[str, Any] | None:
        """Return what a JSON document holds, whatever it is; None where there is no such file.

        Raises
        ------
        BadDocument
            If the file holds no JSON object.
        CannotRead
            If the operating system does not let it be read.
        """
        content = self.read(name, MAX_DOCUMENT_BYTES)
        if content is None:
            return None
        known = f"{self.location}/{name}"
        if len(content) > MAX_DOCUMENT_BYTES:
            raise BadDocument(known, f"larger than {MAX_DOCUMENT_BYTES >> 20} MB", advice)
        values: dict[str, Any] = decode(content, dict[str, Any], name=known, advice=advice)
        return values

    def read_document(self, name: str, type: type[T], advice: str) -> T | None:
        """Return a JSON document as a type, see `comir_search.documents`; None where there is no such file.

        Raises
        ------
        BadDocument
            If the file does not hold such a document, or its digest is not that of its content.
        CannotRead
            If the operating system does not let it be read.
        """
        values = self.read_values(name, advice)
        if values is None:
            return None
        known = f"{self.location}/{name}"
        if has_wrong_digest(values):
            raise BadDocument(known, "its content does not fit its digest", advice)
        document: T = convert(values, type, name=known, advice=advice)
        return document

    def write_document(self, name: str, values: Mapping[str, Any]) -> None:
        """Write a JSON document with its digest, whole or not at all."""
        self.write(name, (json.dumps(with_digest(values), indent=1, allow_nan=False) + "\n").encode())

    def flush(self, name: str) -> None:
        """Wait until the disk holds a file that another library wrote."""
        if self.folder is not None:
            target = resolve_below(self.folder, name)
            with writing(target), target.open("r+b") as file:
                os.fsync(file.fileno())

    def entries(self, name: str) -> list[str]:
        """Return the names of all that lies in a folder, sorted; none where there is no such folder."""
        return sorted(entry for entry, _ in self._list(name))

    def folders(self, name: str) -> list[str]:
        """Return the names of the folders in a folder, sorted."""
        return sorted(entry for entry, is_folder in self._list(name) if is_folder)

    def sizes(self, name: str) -> dict[str, int]:
        """Return the bytes of every file in a folder and below, by its name relative to that folder.

        What lies behind links is left out, and so are the links.
        """
        if self.folder is not None:
            with self._reading(name), suppress(*_NOT_THERE):
                return dict(sorted(_walk_files(self.folder / name, "")))
            return {}
        self._fs.invalidate_cache()
        prefix = f"{self._root}/{name}".rstrip("/")
        found = self._fs.find(prefix, detail=True)
        return {path[path.index(prefix) + len(prefix) + 1 :]: entry["size"] for path, entry in found.items()}

    def delete(self, name: str) -> None:
        """Delete a file, if it is there.

        Raises
        ------
        ComirSearchError
            If it cannot be deleted, or the name leads out of the folder.
        """
        if self.folder is not None:
            target = resolve_below(self.folder, name)
            with writing(target), suppress(NotADirectoryError):
                target.unlink(missing_ok=True)
            return
        self._fs.invalidate_cache()
        if self._fs.exists(f"{self._root}/{name}"):
            self._fs.rm(f"{self._root}/{name}")

    def prune(self, name: str) -> None:
        """Delete a folder and those below it, as far as they hold nothing."""
        if self.folder is None:  # an object store has no empty folders
            return
        folder = resolve_below(self.folder, name)
        for inner, _, _ in os.walk(folder, topdown=False):
            with suppress(OSError):
                os.rmdir(inner)

    def relative(self, path: Path) -> str | None:
        """Return a path relative to this folder, or None where there is no such way."""
        if self.folder is None:
            return None
        try:
            return Path(os.path.relpath(path, self.folder)).as_posix()
        except ValueError:  # another drive
            return None

    def _list(self, name: str) -> Iterator[tuple[str, bool]]:
        """Yield the name of each entry of a folder, and whether it is a folder."""
        if self.folder is not None:
            with self._reading(name), suppress(*_NOT_THERE), os.scandir(self.folder / name) as entries:
                yield from [(entry.name, entry.is_dir()) for entry in entries]
            return
        self._fs.invalidate_cache()
        with self._reading(name), suppress(*_NOT_THERE):
            for entry in self._fs.ls(f"{self._root}/{name}", detail=True):
                yield entry["name"].rstrip("/").rsplit("/", 1)[-1], entry["type"] == "directory"

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Turn an operating system's refusal to read a file into one sentence; that it is not there passes."""
        try:
            yield
        except _NOT_THERE:
            raise
        except (OSError, ValueError) as error:  # ValueError: a name that the system cannot take
            raise CannotRead(f"{self.location}/{name} cannot be read: {find_way_out(error)}.") from error


def _read_exactly(file: Any, n_bytes: int) -> bytes:
    """Read so many bytes of a file, or all that it has."""
    parts = []
    while n_bytes > 0 and (part := file.read(n_bytes)):
        parts.append(part)
        n_bytes -= len(part)
    return b"".join(parts)


def _walk_files(folder: Path, prefix: str) -> Iterator[tuple[str, int]]:
    """Yield the name and bytes of each file in a folder and below, nothing behind links."""
    if not os.path.isdir(folder):
        return
    with os.scandir(folder) as found:
        entries = list(found)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk_files(Path(entry.path), f"{prefix}{entry.name}/")
        elif entry.is_file(follow_symlinks=False):
            yield prefix + entry.name, entry.stat(follow_symlinks=False).st_size
