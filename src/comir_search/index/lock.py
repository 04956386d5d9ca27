"""The lock of an index: only one process at a time may write to it.

The operating system locks a file in the folder, and releases the lock when the process
ends, even after a crash. The file contains the machine and the process that write. In some
network folders such locks only work within one machine, and object stores have no locks;
there only the content of the file counts.

Links are not followed, and a file that is not a lock of this program is neither locked nor
changed. Lock libraries are not used, because they do not write the owner of the lock into
the file.
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
for _name in (
    "O_NOFOLLOW",
    "O_NONBLOCK",
    "O_BINARY",
    "O_CLOEXEC",
):  # O_NONBLOCK: do not wait if the file is a pipe
    _OPEN |= getattr(os, _name, 0)


@dataclass(frozen=True)
class _Holder:
    """The content of the lock file: the machine and the process that write."""

    host: Annotated[str, Meta(max_length=255, pattern=r"^[^\x00-\x1f\x7f]*\Z")]
    pid: Annotated[int, Meta(ge=1, lt=2**31)]


@contextmanager
def writer_lock(storage: Storage) -> Iterator[None]:
    """Lock an index while it is written.

    Raises
    ------
    ComirSearchError
        If another process writes to it, or may still do so.
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
            if locked is not False:  # if it is locked, its owner may be writing the content now
                raise
        # The lock shows whether a process on this machine still runs. A process on another machine may run
        # even if this lock succeeds, because locks may not work between machines.
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
    """Open the lock file of a folder; create both if they are missing."""
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
    """Return the owner of the lock from the content of its file, or None if it names none.

    Raises
    ------
    ComirSearchError
        If the file is not a lock of this program.
    """
    # After a power cut, a lock file of this program may be empty or contain zeros.
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

    # Only byte 2**30 is locked, so that other processes can still read the content.
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
