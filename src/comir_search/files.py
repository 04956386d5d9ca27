"""Write and delete files safely, and explain why a file cannot be read or written.

An index from another person may contain file names or links that lead out of its
folder. Every name in an index is therefore checked by `resolve_below` right before it
is written or deleted.

A file is written under a temporary name in its own folder and renamed when it is
complete. A crash or a full disk never leaves half a file under the final name.
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
    errno.EACCES: "you have no permission to read it; change its permissions",
    errno.EPERM: "you have no permission to read it; change its permissions",
    errno.EIO: "the disk reports an error; check the disk and its connection, and try again",
    errno.ELOOP: "it is a link that leads back to itself; replace it by the file itself",
}


def replace_undecodable(text: str) -> str:
    """Return a text with "?" in place of invalid characters, which cannot be printed or stored.

    Names of files whose bytes are not UTF-8, and escapes in JSON, may contain such code points.
    """
    return text.encode("utf-8", "replace").decode("utf-8")


def find_way_out(error: Exception, ways_out: Mapping[int, str] = WAYS_OUT) -> str:
    """Return why the operating system cannot read a file, and what the user can do, in one clause.

    Parameters
    ----------
    error : OSError, or ValueError for a name that the system does not accept
    ways_out : mapping of int to str, optional
        Text for each errno; by default for reading.
    """
    code, text = getattr(error, "errno", None), getattr(error, "strerror", None)
    return ways_out.get(code or 0, text or str(error))


class UnsafeName(ComirSearchError):
    """A file name leads, or may lead, out of its folder."""


def resolve_below(root: Path, name: str) -> Path:
    """Return the path of a name below a folder, for writing or deleting.

    Parameters
    ----------
    root : Path
        The folder. It need not exist, and its own path may contain links.
    name : str
        Relative, with forward slashes. It need not exist.

    Raises
    ------
    UnsafeName
        If the name is empty or absolute, a part of it is ``.`` or ``..``, or a part of
        it exists and is a link.
    """
    parts = name.split("/")
    if not all(map(_is_plain, parts)):
        raise UnsafeName(
            f"{root} refers to a file outside itself ({name!r}), where this program writes and deletes nothing; get "
            "the folder again from its source."
        )
    path = root
    for part in parts:
        path = path / part
        if is_link(path):
            raise UnsafeName(
                f"{path} is a link to another file or folder, and this program writes and deletes nothing behind "
                "links; replace the link by that file or folder, or use another folder."
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
        raise ComirSearchError(f"{path} cannot be accessed: {error.strerror or error}.") from error
    tag = getattr(about, "st_reparse_tag", 0)
    return stat.S_ISLNK(about.st_mode) or bool(
        tag and tag == getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", None)
    )


def _is_plain(part: str) -> bool:
    """Whether a part of a name stays in its folder on every operating system."""
    return part not in ("", ".", "..") and not any(letter in part for letter in "\\:\0")


_WAYS_OUT_OF_WRITING = WAYS_OUT | {
    errno.ENOSPC: "the disk is full; free some space or choose another folder",
    errno.EDQUOT: "your disk quota is used up; free some space or choose another folder",
    errno.EACCES: "you have no permission to write there; change its permissions or choose another folder",
    errno.EPERM: "you have no permission to write there; change its permissions or choose another folder",
    errno.EROFS: "the disk is read-only; choose another folder",
    errno.ENOENT: "its folder does not exist; create it or choose another folder",
    errno.ENOTDIR: "a part of its path is a file, not a folder; choose another folder",
    errno.EEXIST: "a part of its path is a file, not a folder; choose another folder",
    errno.EISDIR: "there is a folder of this name; choose another name",
    errno.EFBIG: "the file is too big for this disk; choose another folder",
}


class CannotWrite(ComirSearchError):
    """The operating system cannot write or delete a file.

    Attributes
    ----------
    is_full : bool
        Whether the disk, or the user's share of it, is full.
    """

    is_full = False


def cannot_write(path: str | Path, error: OSError) -> CannotWrite:
    """Return the error that explains why a file could not be written and what the user can do."""
    way_out = find_way_out(error, _WAYS_OUT_OF_WRITING)
    failure = CannotWrite(f"{path} could not be written: {way_out}.")
    failure.is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return failure


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn an error of the operating system while writing `path` into one sentence.

    Raises
    ------
    CannotWrite
        Instead of OSError (full disk, no permission, missing folder, ...).
    """
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path that is renamed to `path` when the block succeeds.

    The temporary file lies beside the target and has the same suffix. It is flushed to
    the disk before it is renamed, and removed if the block fails. Its name is unlike
    that of any other program: ``.NAME.comir-XXXXXXXX.part.SUFFIX``.

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
        If the file cannot be written, instead of OSError.
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
    """Wait until a file is on the disk, since it must not be renamed before."""
    descriptor = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
