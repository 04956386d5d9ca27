"""A store that several processes share and that is no folder to them: only its URL names it."""

from __future__ import annotations

import os
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractFileSystem

ROOT = "COMIR_SEARCH_TEST_STORE"


class SharedStore(AbstractFileSystem):
    """Stands in for an object store; its files lie below the folder that an environment variable names."""

    protocol = "shared"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._local = LocalFileSystem(auto_mkdir=True)

    def _at(self, path: str) -> str:
        return f"{os.environ[ROOT]}/{self._strip_protocol(path)}"

    def _renamed(self, entry: dict[str, Any]) -> dict[str, Any]:
        return entry | {"name": entry["name"].removeprefix(f"{os.environ[ROOT]}/")}

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        return self._renamed(self._local.info(self._at(path)))

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        entries = [self._renamed(entry) for entry in self._local.ls(self._at(path), detail=True)]
        return entries if detail else [entry["name"] for entry in entries]

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        return self._local.open(self._at(path), mode)

    def rm(self, path: str, recursive: bool = False, maxdepth: int | None = None) -> None:
        self._local.rm(self._at(path), recursive=recursive)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Do nothing, as in an object store."""


def register() -> None:
    """Make ``shared://`` known to this process."""
    fsspec.register_implementation("shared", SharedStore, clobber=True)
