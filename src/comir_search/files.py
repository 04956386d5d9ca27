"""Files: which may be written and deleted, how to write one whole or not at all, and why one cannot be read.

An index that was received from somebody else may hold anything: names that lead
out of it, links in the place of folders. Every name below an index that is to be
written or deleted goes through `resolve_below`, right before it is used.

A file is written under a temporary name in its own folder and renamed when it
is complete, so a reader, a crash or a full disk never sees half of it.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from comir_search.errors import ComirSearchError

_TOO_MANY = "too many files are open; close other programs, or raise the limit (ulimit -n)"
WAYS_OUT = {
    errno.ENOENT: "it does not exist; check the path",
    errno.EMFILE: _TOO_MANY,
    errno.ENFILE: _TOO_MANY,
    errno.EACCES: "you may not read it; change its permissions",
    errno.EPERM: "you may not read it; change its permissions",
    errno.EIO: "the disk reports an error; check the disk and its connection, and try again",
    errno.ELOOP: "it is a link that leads back to itself; put the file that was there in its place",
}


def replace_undecodable(text: str) -> str:
    """Return a text with "?" for what is no character and cannot be printed or stored.

    Names of files whose bytes are not UTF-8, and escapes in JSON, may hold such code points.
    """
    return text.encode("utf-8", "replace").decode("utf-8")


def find_way_out(error: Exception, ways_out: Mapping[int, str] = WAYS_OUT) -> str:
    """Return why the system refused to read a file, and the way out, in one clause.

    Parameters
    ----------
    error : OSError, or ValueError for a name that the system cannot take
    ways_out : mapping of int to str, optional
        What to say for each errno; by default of reading.
    """
    code, text = getattr(error, "errno", None), getattr(error, "strerror", None)
    return ways_out.get(code or 0, text or str(error))


class UnsafeName(ComirSearchError):
    """A name that leads, or may lead, out of the folder it should lie in."""


def resolve_below(root: Path, name: str) -> Path:
    """Return the path of a name below a folder, for writing or deleting.

    Parameters
    ----------
    root : Path
        The folder, which may itself be reached through links. It need not exist.
    name : str
        Relative, with forward slashes. Nothing of it needs to exist.

    Raises
    ------
    UnsafeName
        If the name is empty or absolute, a part of it is ``.`` or ``..``, or what
        lies there under any part of it is a link.
    """
    parts = name.split("/")
    if not all(map(_is_plain, parts)):
        raise UnsafeName(
            f"{root} names a file outside itself ({name!r}), where nothing is written or deleted; get that folder "
            "again from where it came from."
        )
    path = root
    for part in parts:
        path = path / part
        if is_link(path):
            raise UnsafeName(
                f"{path} is a link to another place, and this program writes and deletes nothing behind links; put "
                "what it leads to in its place, or use another folder."
            )
    return path


def is_link(path: Path) -> bool:
    """Whether a path itself is a symbolic link, or a junction of Windows."""
    try:
        about = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise ComirSearchError(f"{path} cannot be looked at: {error.strerror or error}.") from error
    tag = getattr(about, "st_reparse_tag", 0)
    return stat.S_ISLNK(about.st_mode) or bool(
        tag and tag == getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", None)
    )


def _is_plain(part: str) -> bool:
    """Whether a part of a name names something in its own folder, on every system."""
    return part not in ("", ".", "..") and not any(letter in part for letter in "\\:\0")


_WAYS_OUT_OF_WRITING = WAYS_OUT | {
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
    way_out = find_way_out(error, _WAYS_OUT_OF_WRITING)
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
