"""Checks that protect against damaged and harmful files, and readable messages for failed reads.

A pipe blocks the program that opens it, and a few kilobytes can unpack to gigabytes.
Every image library raises its own kinds of errors; here each becomes one sentence.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path

from comir_search.errors import ComirSearchError
from comir_search.files import find_way_out

HANDY_BYTES = 256 << 20  # a piece of a file may always unpack to this size
_CEILING_BYTES = 1 << 30
_MOST_RATIO = 32
HANDY_LEVEL_PX = 256 << 20  # a level of up to so many pixels is always accepted
_MOST_PX_PER_BYTE = 100
_SMALL_TILE_PX = 4096
_MOST_SMALL_TILES = 20_000


def is_regular(path: Path) -> bool:
    """Whether a path leads to a plain file, not a folder, pipe or device."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def largest_piece_bytes(file_bytes: int) -> int:
    """Return how many bytes one piece (tile, strip, chunk, whole PNG) of a file may unpack to.

    This is 256 MB, or up to 1 GB if the file itself is large enough to make that plausible.
    """
    return min(max(HANDY_BYTES, _MOST_RATIO * file_bytes), _CEILING_BYTES)


def check_piece(name: str, piece_bytes: int, file_bytes: int, what: str) -> None:
    """Raise an error if one piece of a file would take more memory than `largest_piece_bytes`.

    Parameters
    ----------
    name : str
        File name, for the message.
    piece_bytes : int
        Size of a piece, unpacked.
    file_bytes : int
        Size of the file, or of all files of the slide.
    what : str
        What the piece is: "strip", "picture", "chunk".
    """
    limit = largest_piece_bytes(file_bytes)
    if piece_bytes > limit:
        raise ComirSearchError(
            f"{name} is compressed in pieces of {_in_words(piece_bytes)} each ({what}), more than the "
            f"{_in_words(limit)} that may be unpacked at once: save it as a tiled, pyramidal TIFF"
        )


def check_extent(name: str, level_px: int, file_bytes: int) -> None:
    """Raise an error if an overview would take minutes although the file is nearly empty.

    Parameters
    ----------
    name : str
        File name, for the message.
    level_px : int
        Pixels of the level that is read for an overview.
    file_bytes : int
        Size of the file, or of all files of the slide.
    """
    if level_px > max(HANDY_LEVEL_PX, _MOST_PX_PER_BYTE * file_bytes):
        raise ComirSearchError(
            f"{name} claims {level_px / 1e9:.3g} gigapixels but contains only {_in_words(file_bytes)}: it is "
            "nearly empty or damaged, export it again with a pyramid"
        )


def check_tiles(name: str, tile_px: int, tiles: int) -> None:
    """Raise an error if a level is stored in so many tiny pieces that reading it would take minutes.

    Parameters
    ----------
    name : str
        File name, for the message.
    tile_px : int
        Pixels in a piece.
    tiles : int
        Number of pieces.
    """
    if tile_px < _SMALL_TILE_PX and tiles > _MOST_SMALL_TILES:
        raise ComirSearchError(
            f"{name} is stored in {tiles:,} pieces of {tile_px:,} pixels, too small to be read in reasonable "
            "time: export it again in pieces of 256 x 256 pixels or more"
        )


@contextlib.contextmanager
def stated_failures(name: str, damage: str) -> Iterator[None]:
    """Turn any error of an image library into a `ComirSearchError`.

    An error of the operating system (no permission, too many open files, a failing
    disk) keeps its reason. Any other error means that the file is damaged.

    Parameters
    ----------
    name : str
        File name, for messages.
    damage : str
        Message for a damaged file. `{error}` in it is replaced by the library's
        error.
    """
    try:
        yield
    except ComirSearchError:
        raise
    except MemoryError as error:
        raise ComirSearchError(
            f"{name} needs more memory than this computer has free: close other programs, or export it as "
            "a tiled TIFF"
        ) from error
    except OSError as error:
        if error.errno is None:
            raise ComirSearchError(_fill(damage, error)) from error
        raise unreadable(name, error) from error
    except Exception as error:
        raise ComirSearchError(_fill(damage, error)) from error


def unreadable(name: str | Path, error: OSError) -> ComirSearchError:
    """Return the error for a file that the operating system cannot read."""
    if isinstance(error, FileNotFoundError):
        return ComirSearchError(f"{name} does not exist: check the path")
    return ComirSearchError(f"{name} cannot be read: {find_way_out(error)}")


def _fill(damage: str, error: Exception) -> str:
    said = " ".join(str(error).split())[:300]
    return damage.replace("{error}", f"{type(error).__name__}: {said}" if said else type(error).__name__)


def _in_words(size_bytes: int) -> str:
    for unit, step in (("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10)):
        if size_bytes >= step:
            return f"{size_bytes / step:.3g} {unit}"
    return f"{size_bytes} bytes"
