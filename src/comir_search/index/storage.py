"""Read and write files in a folder or in an object store (fsspec URL), in the same way.

Names are relative, with forward slashes. A file is complete or absent: a local file is
renamed into place, and an object store writes whole files anyway. Local writes and
deletions go through `resolve_below`, so a received index cannot make this program
touch files outside its folder.
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

INDEX_FILE = "index.json"  # a folder without it is not an index, or cannot be reached
MAX_DOCUMENT_BYTES = 4 << 20
_NOT_THERE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


def is_url(location: str | Path) -> bool:
    """Return whether a location is an fsspec URL ("s3://bucket/index") rather than a folder."""
    return re.match(r"[a-z][a-z0-9+.-]+(::|://)", str(location)) is not None


class CannotRead(ComirSearchError):
    """The operating system cannot read a file, so its content is unknown."""


class Storage:
    """The files of an index.

    Parameters
    ----------
    location : str or Path
        A folder (it need not exist yet) or an fsspec URL.

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
        """Return the same location as a Zarr store."""
        if self.folder is not None:
            from comir_search.index.guarded_store import GuardedStore

            return GuardedStore(self.folder)
        from zarr.storage import FsspecStore

        return FsspecStore.from_url(self.location)

    def exists(self, name: str) -> bool:
        """Return whether a file of this name exists.

        Raises
        ------
        CannotRead
            If the operating system cannot tell.
        """
        if self.folder is None:
            return bool(self._fs.isfile(f"{self._root}/{name}"))
        with self._reading(name), suppress(*_NOT_THERE):
            return stat.S_ISREG(os.stat(self.folder / name).st_mode)
        return False

    def check_own(self, name: str) -> None:
        """Check that a name stays inside the folder and passes through no link; see `resolve_below`."""
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
        """Check that the index as a whole is still there.

        Raises
        ------
        CannotRead
            If it is not: then a missing file does not mean damage.
        """
        if not self.exists(INDEX_FILE):
            raise CannotRead(
                f"The index {self.location} is no longer there; put its folder back, or connect its disk again, and "
                "try again."
            )

    def read(self, name: str, max_bytes: int | None = None) -> bytes | None:
        """Return a file's content, None if there is no such file.

        Parameters
        ----------
        name : str
        max_bytes : int, optional
            Read at most one byte more than this of a local file.

        Raises
        ------
        CannotRead
            If the operating system cannot read it.
        """
        with self._reading(name), suppress(*_NOT_THERE):
            if self.folder is None:
                return bytes(self._fs.cat_file(f"{self._root}/{name}"))
            # Reading from a pipe could wait for ever.
            flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
            with open(os.open(self.folder / name, flags), "rb", buffering=0) as file:
                about = os.fstat(file.fileno())
                if not stat.S_ISREG(about.st_mode):
                    return None
                limit = about.st_size if max_bytes is None else min(about.st_size, max_bytes + 1)
                return _read_exactly(file, limit)
        return None

    def write(self, name: str, content: bytes) -> None:
        """Write a file, complete or not at all; a local file is on the disk when this returns.

        Raises
        ------
        ComirSearchError
            If it cannot be written, or its name leads out of the folder.
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
        """Return the content of a JSON file without checking it; None if there is no such file.

        Raises
        ------
        BadDocument
            If the file does not contain a JSON object.
        CannotRead
            If the operating system cannot read it.
        """
        content = self.read(name, MAX_DOCUMENT_BYTES)
        if content is None:
            return None
        known = f"{self.location}/{name}"
        if len(content) > MAX_DOCUMENT_BYTES:
            raise BadDocument(known, f"it is larger than {MAX_DOCUMENT_BYTES >> 20} MB", advice)
        values: dict[str, Any] = decode(content, dict[str, Any], name=known, advice=advice)
        return values

    def read_document(self, name: str, type: type[T], advice: str) -> T | None:
        """Return a JSON file decoded into a type; None if there is no such file.

        Parameters
        ----------
        name : str
            Name of the file.
        type : type
            See `comir_search.documents.decode`.
        advice : str
            What the user can do about a damaged file, for the message.

        Raises
        ------
        BadDocument
            If the content does not have this type, or its digest is wrong.
        CannotRead
            If the operating system cannot read it.
        """
        values = self.read_values(name, advice)
        if values is None:
            return None
        known = f"{self.location}/{name}"
        if has_wrong_digest(values):
            raise BadDocument(known, "its content does not match its checksum", advice)
        document: T = convert(values, type, name=known, advice=advice)
        return document

    def write_document(self, name: str, values: Mapping[str, Any]) -> None:
        """Write a JSON file with its digest, complete or not at all."""
        self.write(name, (json.dumps(with_digest(values), indent=1, allow_nan=False) + "\n").encode())

    def flush(self, name: str) -> None:
        """Wait until a file that another library wrote is on the disk."""
        if self.folder is not None:
            target = resolve_below(self.folder, name)
            with writing(target), target.open("r+b") as file:
                os.fsync(file.fileno())

    def entries(self, name: str) -> list[str]:
        """Return the names of all files and folders in a folder, sorted; none if there is no such folder."""
        return sorted(entry for entry, _ in self._list(name))

    def folders(self, name: str) -> list[str]:
        """Return the names of the folders in a folder, sorted."""
        return sorted(entry for entry, is_folder in self._list(name) if is_folder)

    def sizes(self, name: str) -> dict[str, int]:
        """Return the size in bytes of every file below a folder, by its name relative to that folder.

        Links are left out, and so is everything behind them.
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
            If it cannot be deleted, or its name leads out of the folder.
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
        """Delete a folder and its subfolders if they are empty."""
        if self.folder is None:  # an object store has no empty folders
            return
        folder = resolve_below(self.folder, name)
        for inner, _, _ in os.walk(folder, topdown=False):
            with suppress(OSError):
                os.rmdir(inner)

    def relative(self, path: Path) -> str | None:
        """Return a path relative to this folder, None if there is none."""
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
        """Turn an error of the operating system into one sentence; a missing file is still raised as such."""
        try:
            yield
        except _NOT_THERE:
            raise
        except (OSError, ValueError) as error:  # ValueError: a name that the system does not accept
            raise CannotRead(f"{self.location}/{name} cannot be read: {find_way_out(error)}.") from error


def _read_exactly(file: Any, n_bytes: int) -> bytes:
    """Read `n_bytes` bytes of a file, or fewer if it is shorter."""
    parts = []
    while n_bytes > 0 and (part := file.read(n_bytes)):
        parts.append(part)
        n_bytes -= len(part)
    return b"".join(parts)


def _walk_files(folder: Path, prefix: str) -> Iterator[tuple[str, int]]:
    """Yield the name and size in bytes of each file below a folder, without following links."""
    if not os.path.isdir(folder):
        return
    with os.scandir(folder) as found:
        entries = list(found)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk_files(Path(entry.path), f"{prefix}{entry.name}/")
        elif entry.is_file(follow_symlinks=False):
            yield prefix + entry.name, entry.stat(follow_symlinks=False).st_size
