"""What is checked before a file is believed: its kind, how much its pieces unpack to, why it failed.

Files come from anywhere. A pipe blocks whoever opens it, a few kilobytes can unpack to
gigabytes, and readers fail in as many ways as there are readers: every one of these
becomes one sentence here.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path

from comir_search.errors import ComirSearchError
from comir_search.files import find_way_out

HANDY_BYTES = 256 << 20  # a piece of a file may always unpack to this much
_CEILING_BYTES = 1 << 30
_MOST_RATIO = 32
HANDY_LEVEL_PX = 256 << 20  # a level of so many pixels is always looked at
_MOST_PX_PER_BYTE = 100
_SMALL_TILE_PX = 4096
_MOST_SMALL_TILES = 20_000


def is_regular(path: Path) -> bool:
    """Whether a path leads to a plain file, which can be read to its end."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def largest_piece_bytes(file_bytes: int) -> int:
    """Return how many bytes one piece (tile, strip, chunk, whole PNG) of a file may unpack to.

    256 MB, and up to 1 GB where the file itself is so large that this is plausible.
    """
    return min(max(HANDY_BYTES, _MOST_RATIO * file_bytes), _CEILING_BYTES)


def check_piece(name: str, piece_bytes: int, file_bytes: int, what: str) -> None:
    """Raise where one piece of a file would take more memory than `largest_piece_bytes`.

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
    """Raise where an overview would take minutes though there is hardly anything in the file.

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
            f"{name} states {level_px / 1e9:.3g} gigapixels but holds only {_in_words(file_bytes)}: it is "
            "nearly empty or damaged, export it again with a pyramid"
        )


def check_tiles(name: str, tile_px: int, tiles: int) -> None:
    """Raise where a level is stored in so many tiny pieces that reading them would take minutes."""
    if tile_px < _SMALL_TILE_PX and tiles > _MOST_SMALL_TILES:
        raise ComirSearchError(
            f"{name} is stored in {tiles:,} pieces of {tile_px:,} pixels, too small to be read in a sensible "
            "time: export it again in pieces of 256 x 256 pixels or more"
        )


@contextlib.contextmanager
def stated_failures(name: str, damage: str) -> Iterator[None]:
    """Turn whatever a reader raises into a `ComirSearchError`.

    What the system says (no permission, too many open files, a disk that fails)
    keeps its reason; everything else means that the file is not as it should be.

    Parameters
    ----------
    name : str
        File name, for messages.
    damage : str
        What to say of a file that is not as it should be: `{error}` in it is
        replaced by what the reader says.
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
    """Return the sentence on a file that the system does not let us read."""
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
