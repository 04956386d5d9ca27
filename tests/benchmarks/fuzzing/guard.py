"""Watching what a case does to the disk, whether it runs code, and how much memory it takes."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fuzzing.case import Case

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC
_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
# Events of the standard library that change files: positions of the names among their arguments.
_CHANGES = {
    "os.remove": (0,),
    "os.rename": (0, 1),
    "os.rmdir": (0,),
    "os.mkdir": (0,),
    "os.truncate": (0,),
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.link": (1,),
    "os.symlink": (1,),
    "os.utime": (0,),
    "shutil.rmtree": (0,),
    "shutil.move": (0, 1),
}
_RUNS = {
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "subprocess.Popen",
    "pickle.find_class",
    "socket.connect",
    "webbrowser.open",
}
_HASHED_BYTES = 1 << 20


class Guard:
    """Notes each change outside what a case owns, and each attempt to run something.

    Only one may be made in a process: Python's audit hooks stay.
    """

    def __init__(self) -> None:
        self._owned: tuple[str, ...] | None = None
        self._harms: list[str] = []
        self._before: dict[str, str] = {}
        sys.addaudithook(self._note)

    def start(self, case: Case) -> None:
        """Watch from now on."""
        self._harms, self._before = [], snapshot(case)
        self._owned = tuple(os.path.realpath(path) for path in case.owned)

    def stop(self, case: Case) -> list[str]:
        """Return what harm was done since `start`, in words."""
        self._owned = None
        harms = dict.fromkeys(self._harms)
        after = snapshot(case)
        for name in sorted(self._before.keys() | after.keys()):
            if self._before.get(name) != after.get(name):
                change = "removed" if name not in after else "made" if name not in self._before else "changed"
                harms[f"{change} {name}"] = None
        if os.path.lexists(case.executed):
            harms["code of the input was run"] = None
        return list(harms)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._owned is None:
            return
        if event == "open":
            path, mode, flags = arguments
            # `os.open` does not say which folder a relative name is below; what it does shows in the snapshot.
            named = isinstance(path, str | bytes) and (mode is not None or os.path.isabs(path))
            if named and (flags or 0) & _WRITES:
                self._check(f"opened for writing (mode {mode})", path, bool(flags & _NOFOLLOW))
        elif event in _CHANGES:
            for position in _CHANGES[event]:
                path = arguments[position]
                if isinstance(path, str | bytes) and os.path.isabs(path):
                    self._check(event, path, True)
        elif event in _RUNS:
            self._harms.append(f"{event} {arguments[:2]!r}"[:200])

    def _check(self, what: str, path: str | bytes, names_link: bool) -> None:
        """Note a change of a path outside what is owned; a link itself lies where its name says."""
        assert self._owned is not None
        owned, self._owned = self._owned, None  # looking up a path must not call this again
        try:
            folder, name = os.path.split(os.fsdecode(path))
            real = os.path.realpath(path) if not names_link else os.path.join(os.path.realpath(folder), name)
            real = os.fsdecode(real)
            inside = any(real == root or real.startswith(root + os.sep) for root in owned)
            if not inside and real != os.devnull:
                self._harms.append(f"{what}: {real}")
        finally:
            self._owned = owned


def snapshot(case: Case) -> dict[str, str]:
    """Return what every file that must stay is: all of the case but what is owned, and the canaries."""
    owned = set(case.owned)
    return {
        path.relative_to(case.folder).as_posix(): _describe(path)
        for path in [*_walk(case.folder, owned), *case.canaries]
        if os.path.lexists(path)
    }


def _walk(folder: Path, owned: set[Path]) -> Iterable[Path]:
    for entry in sorted(folder.iterdir()):
        if entry in owned:
            continue
        yield entry
        if entry.is_dir() and not entry.is_symlink():
            yield from _walk(entry, owned)


def _describe(path: Path) -> str:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        return f"link to {os.readlink(path)}"
    if not stat.S_ISREG(status.st_mode):
        return f"mode {status.st_mode:o}"
    with path.open("rb") as file:
        digest = hashlib.blake2b(file.read(_HASHED_BYTES), digest_size=8).hexdigest()
    return f"{status.st_size} bytes, {digest}"
