"""A folder, or an object store behind an fsspec URL, seen the same way.

Names are relative, with forward slashes. A file is complete or absent: locally
it is renamed into place, and an object store's PUT is atomic by itself.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comir_search.errors import ComirSearchError
from comir_search.io.atomic import atomic_path, writing

if TYPE_CHECKING:
    from zarr.abc.store import Store


def is_url(location: str | Path) -> bool:
    """Return whether a location is an fsspec URL ("s3://bucket/index") rather than a folder."""
    return re.match(r"[a-z][a-z0-9+.-]+(::|://)", str(location)) is not None


class DamagedJson(ComirSearchError):
    """A file that should hold a JSON object and does not."""


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
        from zarr.storage import FsspecStore, LocalStore

        return LocalStore(self.folder) if self.folder is not None else FsspecStore.from_url(self.location)

    def exists(self, name: str) -> bool:
        """Return whether a file of that name is there."""
        if self.folder is not None:
            return (self.folder / name).is_file()
        return bool(self._fs.isfile(f"{self._root}/{name}"))

    def read(self, name: str) -> bytes | None:
        """Return a file's content, or None where there is no such file."""
        try:
            if self.folder is not None:
                return (self.folder / name).read_bytes()
            return bytes(self._fs.cat_file(f"{self._root}/{name}"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise ComirSearchError(
                f"{self.location}/{name} cannot be read: {error.strerror or error}."
            ) from error

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all; locally it is on the disk before this returns."""
        if self.folder is not None:
            target = self._resolve(name)
            with writing(target):
                target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(target) as temporary:
                temporary.write_bytes(content)
            return
        with writing(f"{self.location}/{name}"):
            self._fs.makedirs(f"{self._root}/{name}".rsplit("/", 1)[0], exist_ok=True)
            self._fs.pipe_file(f"{self._root}/{name}", content)

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Return a JSON object, or None where there is no such file.

        Raises
        ------
        DamagedJson
            If the file is not a JSON object.
        """
        content = self.read(name)
        if content is None:
            return None
        try:
            values = json.loads(content)
        except ValueError:
            values = None
        if not isinstance(values, dict):
            raise DamagedJson(
                f"{self.location}/{name} is damaged; run `comir-search repair --index {self.location}`."
            )
        return values

    def write_json(self, name: str, values: dict[str, Any]) -> None:
        """Write a JSON object, whole or not at all."""
        self.write(name, (json.dumps(values, indent=1, allow_nan=False) + "\n").encode())

    def flush(self, name: str) -> None:
        """Wait until the disk holds a file that another library wrote."""
        if self.folder is not None:
            with writing(self.folder / name), (self.folder / name).open("r+b") as file:
                os.fsync(file.fileno())

    def folders(self, name: str) -> list[str]:
        """Return the names of the folders in a folder, sorted."""
        if self.folder is not None:
            parent = self.folder / name
            return (
                sorted(child.name for child in parent.iterdir() if child.is_dir()) if parent.is_dir() else []
            )
        try:
            self._fs.invalidate_cache()
            entries = self._fs.ls(f"{self._root}/{name}", detail=True)
        except FileNotFoundError:
            return []
        return sorted(
            entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in entries if entry["type"] == "directory"
        )

    def sizes(self, name: str) -> dict[str, int]:
        """Return the bytes of every file in a folder and below, by its name relative to that folder."""
        if self.folder is not None:
            parent = self.folder / name
            return {
                path.relative_to(parent).as_posix(): path.stat().st_size
                for path in sorted(parent.rglob("*"))
                if path.is_file()
            }
        self._fs.invalidate_cache()
        prefix = f"{self._root}/{name}".rstrip("/")
        found = self._fs.find(prefix, detail=True)
        return {path[path.index(prefix) + len(prefix) + 1 :]: entry["size"] for path, entry in found.items()}

    def leftovers(self, name: str) -> list[str]:
        """Return what writers that were killed left in a folder and below: files under temporary names."""
        files = ((file, file.rsplit("/", 1)[-1]) for file in self.sizes(name))
        return [
            f"{name}/{file}" if name else file
            for file, last in files
            if last.endswith(".partial") or (last.startswith(".") and ".part" in last)
        ]

    def delete(self, name: str) -> None:
        """Delete a file or a folder with all it holds, if it is there."""
        if self.folder is not None:
            target = self._resolve(name)
            with writing(target):
                if target.is_dir() and not target.is_symlink():
                    shutil.rmtree(target)
                else:
                    target.unlink(missing_ok=True)
            return
        self._fs.invalidate_cache()
        if self._fs.exists(f"{self._root}/{name}"):
            self._fs.rm(f"{self._root}/{name}", recursive=True)

    def _resolve(self, name: str) -> Path:
        """Return where a name is written or deleted: always below the folder, never through a link.

        Raises
        ------
        ComirSearchError
            If the name leads out of the folder, or one of its parts is a link.
        """
        assert self.folder is not None
        parts = name.split("/")
        target = self.folder
        for number, part in enumerate(parts):
            if part in ("", ".", "..") or "\\" in part or Path(part).is_absolute():
                raise ComirSearchError(
                    f"{self.location} names a file outside itself ({name}); nothing was written or deleted there."
                )
            target = target / part
            if target.is_symlink() and number < len(parts) - 1:
                raise ComirSearchError(
                    f"{target} is a link, and an index writes only in its own folder; replace it by a folder."
                )
        return target

    def relative(self, path: Path) -> str | None:
        """Return a path relative to this folder, or None where there is no such way."""
        if self.folder is None:
            return None
        try:
            return Path(os.path.relpath(path, self.folder)).as_posix()
        except ValueError:  # another drive
            return None
