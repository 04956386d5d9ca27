"""One writer at a time per index.

A folder is locked by the operating system, which frees the lock when its
process ends in whatever way, and the lock file says who holds it. Some network
folders keep such locks to one machine, and object stores have none: there the
lock file's content alone decides.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from comir_search.errors import ComirSearchError
from comir_search.io.atomic import writing
from comir_search.retrieval.storage import Storage

LOCK_NAME = "writer.lock"


@contextmanager
def writer_lock(storage: Storage) -> Iterator[None]:
    """Hold an index for writing.

    Raises
    ------
    ComirSearchError
        If another process writes to it, or seems to.
    """
    if storage.folder is None:
        yield from _hold_object(storage)
        return
    path = storage.folder / LOCK_NAME
    with writing(path):
        storage.folder.mkdir(parents=True, exist_ok=True)
        file = os.fdopen(
            os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)),
            "r+b",
        )
    with file:
        locked = _lock(file)
        holder = _holder(file.read())
        # Where the system keeps locks, it knows the dead of this machine; what
        # another machine left may be alive, and our lock may not reach that far.
        if locked is False or (holder and not (_is_here(holder) and (locked or _has_ended(holder)))):
            raise ComirSearchError(_refusal(storage, holder))
        with writing(path):
            _rewrite(file, _signature())
        try:
            yield
        finally:
            _rewrite(file, b"")
            _unlock(file)


def _hold_object(storage: Storage) -> Iterator[None]:
    holder = _holder(storage.read(LOCK_NAME) or b"")
    if holder and not (_is_here(holder) and _has_ended(holder)):
        raise ComirSearchError(_refusal(storage, holder))
    storage.write(LOCK_NAME, _signature())
    try:
        yield
    finally:
        storage.delete(LOCK_NAME)


def _signature() -> bytes:
    return json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode()


def _holder(content: bytes) -> dict[str, str | int]:
    try:
        holder = json.loads(content)
        return {"host": str(holder["host"]), "pid": int(holder["pid"])}
    except (ValueError, KeyError, TypeError):
        return {}


def _refusal(storage: Storage, holder: dict[str, str | int]) -> str:
    who = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
    if holder and not _is_here(holder):
        mend = f"wait until it has finished, or, if it is gone, delete {storage.location}/{LOCK_NAME}"
    else:
        mend = "wait until it has finished, or stop it"
    return f"The index {storage.location} is being written by {who}; {mend}."


def _is_here(holder: dict[str, str | int]) -> bool:
    return holder["host"] == socket.gethostname()


def _has_ended(holder: dict[str, str | int]) -> bool:
    pid = int(holder["pid"])
    if sys.platform == "win32" or pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _rewrite(file: IO[bytes], content: bytes) -> None:
    file.seek(0)
    file.truncate()
    file.write(content)
    file.flush()


if sys.platform == "win32":
    import msvcrt

    # Byte 2**30 is locked, so that others can still read who holds the file.
    _LOCKED_BYTE = 2**30

    def _lock(file: IO[bytes]) -> bool | None:
        file.seek(_LOCKED_BYTE)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            file.seek(0)
        return True

    def _unlock(file: IO[bytes]) -> None:
        file.seek(_LOCKED_BYTE)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import errno
    import fcntl

    def _lock(file: IO[bytes]) -> bool | None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # None: this file system has no locks.
            return None if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS) else False
        return True

    def _unlock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)
