"""One writer at a time per index.

A folder is locked by the operating system, which frees the lock when its
process ends in whatever way, and the lock file says who holds it. Some network
folders keep such locks to one machine, and object stores have none: there the
lock file's content alone decides.

The file is opened without following a link, and a file that is not a lock of ours
is neither locked nor changed. (A lock library would lock the same way, but none
that we know writes into the file that it has locked who holds it.)
"""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Annotated

from msgspec import Meta

from comir_search.documents import BadDocument, decode
from comir_search.errors import ComirSearchError
from comir_search.files import resolve_below, writing
from comir_search.index.storage import Storage

LOCK_NAME = "writer.lock"
_MAX_BYTES = 4096
_OPEN = os.O_RDWR | os.O_CREAT
for _name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY", "O_CLOEXEC"):  # a pipe is not waited for
    _OPEN |= getattr(os, _name, 0)


@dataclass(frozen=True)
class _Holder:
    """Who writes: what the lock file holds."""

    host: Annotated[str, Meta(max_length=255, pattern=r"^[^\x00-\x1f\x7f]*\Z")]
    pid: Annotated[int, Meta(ge=1, lt=2**31)]


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
    file = _open(storage.folder)
    with file:
        locked = _lock(file)
        content = file.read(_MAX_BYTES + 1)
        holder = None
        try:
            holder = _read_holder(content, storage)
        except ComirSearchError:
            if locked is not False:  # else it may be writing its few words right now
                raise
        # Where the system keeps locks, it knows the dead of this machine; what
        # another machine left may be alive, and our lock may not reach that far.
        if locked is False or (holder and not (_is_here(holder) and (locked or _has_ended(holder)))):
            raise ComirSearchError(_refusal(storage, holder))
        with writing(storage.folder / LOCK_NAME):
            _rewrite(file, _signature())
        try:
            yield
        finally:
            _rewrite(file, b"")
            _unlock(file)


def _open(folder: Path) -> IO[bytes]:
    """Open the lock file of a folder, which is made if needed."""
    path = resolve_below(folder, LOCK_NAME)
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        file = os.fdopen(os.open(path, _OPEN, 0o666), "r+b", buffering=0)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ComirSearchError(f"{path} is not a file; move it elsewhere, or choose another folder.")
    return file


def _hold_object(storage: Storage) -> Iterator[None]:
    holder = _read_holder(storage.read(LOCK_NAME) or b"", storage)
    if holder and not (_is_here(holder) and _has_ended(holder)):
        raise ComirSearchError(_refusal(storage, holder))
    storage.write(LOCK_NAME, _signature())
    try:
        yield
    finally:
        storage.delete(LOCK_NAME)


def _signature() -> bytes:
    return json.dumps(asdict(_Holder(socket.gethostname(), os.getpid()))).encode()


def _read_holder(content: bytes, storage: Storage) -> _Holder | None:
    """Return who a lock file says holds it, None where it says nobody.

    Raises
    ------
    ComirSearchError
        If the file is not a lock of ours.
    """
    # What a power cut leaves of our own few words is nothing, or zeros.
    if not content.strip(b"\0 \n"):
        return None
    name = f"{storage.location}/{LOCK_NAME}"
    try:
        holder: _Holder = decode(content, _Holder, name=name, advice="")
    except BadDocument:
        raise ComirSearchError(
            f"{name} is not a lock of this program; move it elsewhere, or choose another folder."
        ) from None
    return holder


def _refusal(storage: Storage, holder: _Holder | None) -> str:
    who = f"process {holder.pid} on {holder.host}" if holder else "another process"
    if holder and not _is_here(holder):
        way_out = f"wait until it has finished, or, if it is gone, delete {storage.location}/{LOCK_NAME}"
    else:
        way_out = "wait until it has finished, or stop it"
    return f"The index {storage.location} is being written by {who}; {way_out}."


def _is_here(holder: _Holder) -> bool:
    return holder.host == socket.gethostname()


def _has_ended(holder: _Holder) -> bool:
    if sys.platform == "win32" or holder.pid == os.getpid():
        return False
    try:
        os.kill(holder.pid, 0)
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
