"""Files that are either complete or absent.

A file is written under a temporary name in its own folder and renamed when it
is complete, so a reader, a crash or a full disk never sees half of it.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from comir_search.errors import ComirSearchError
from comir_search.files import WAYS_OUT, find_way_out

_WAYS_OUT = WAYS_OUT | {
    errno.ENOSPC: "the disk is full; free some space or choose another place",
    errno.EDQUOT: "your disk quota is used up; free some space or choose another place",
    errno.EACCES: "you may not write there; change its permissions or choose another place",
    errno.EPERM: "you may not write there; change its permissions or choose another place",
    errno.EROFS: "the disk is read-only; choose another place",
    errno.ENOENT: "its folder does not exist; make it or choose another place",
    errno.ENOTDIR: "a part of its path is a file, not a folder; choose another place",
    errno.EEXIST: "a part of its path is a file, not a folder; choose another place",
    errno.EISDIR: "there is a folder of this name; choose another name",
    errno.EFBIG: "the file is too big for this disk; choose another place",
}


class CannotWrite(ComirSearchError):
    """The operating system did not let a file be written or deleted.

    Attributes
    ----------
    is_full : bool
        Whether the disk, or the user's share of it, is full.
    """

    is_full = False


def cannot_write(path: str | Path, error: OSError) -> CannotWrite:
    """Return the failure that says in one sentence why a file could not be written, and the way out."""
    way_out = find_way_out(error, _WAYS_OUT)
    failure = CannotWrite(f"{path} could not be written: {way_out}.")
    failure.is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return failure


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn an operating system's refusal to write `path` into one sentence.

    Raises
    ------
    CannotWrite
        In place of OSError (full disk, no permission, missing folder, ...).
    """
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name that becomes `path` when the block succeeds.

    The temporary file lies beside the target and keeps its suffix; it is
    flushed to the disk before it is renamed, and removed when the block fails.
    Its name is one that nobody else gives a file: ``.NAME.comir-XXXXXXXX.part.SUFFIX``.

    Parameters
    ----------
    path : path
        The file to write; it is replaced if it exists.

    Yields
    ------
    Path
        Where to write.

    Raises
    ------
    CannotWrite
        When the file cannot be written, in place of OSError.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem[:80]}.comir-{secrets.token_hex(4)}.part{path.suffix}")
    with writing(path):
        try:
            yield temporary
            _flush(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file, complete or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _flush(path: Path) -> None:
    """Wait until the disk holds a file, so that the rename cannot overtake its content."""
    descriptor = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
