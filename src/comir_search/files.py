"""Files and their names: why the system does not let one be read, and where this program may write and delete.

An index that was received from somebody else may hold anything: names that lead
out of it, links in the place of folders. Every name below an index that is to be
written or deleted goes through `resolve_below`, right before it is used.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
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
