"""A level of a slide as an array that is read when it is sliced, for viewers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import EllipsisType
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEPT_BYTES = 512 << 20
# Side of a block in pixels. If only parts of a larger area are needed, it is read block by block and only
# those parts are kept.
WHOLE_BYTES, BLOCK_PX = 64 << 20, 2048
ALL = slice(None)

Read = Callable[[int, int, int, int], np.ndarray]
Index = int | slice | EllipsisType | np.ndarray


class LazyLevel:
    """A level as an array (height, width) or (height, width, 3).

    It is sliced like a NumPy array, but several index arrays select where rows and
    columns cross. It reads in the calling thread, because other threads may be busy
    for long. The last part read is kept unless it is large, since viewers often
    request the same part again.

    Parameters
    ----------
    read : callable
        ``read(x, y, width, height)`` returns a rectangle of the level.
    shape : tuple of int
    dtype : numpy dtype
    """

    def __init__(self, read: Read, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._read = read
        self.shape = shape
        self.dtype = dtype
        self._last: tuple[tuple[int, int, int, int], np.ndarray] | None = None

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Index | tuple[Index, ...]) -> NDArray[Any]:
        """Read a part. The array is shared and read-only."""
        parts = list(index) if isinstance(index, tuple) else [index]
        if any(part is None or getattr(part, "ndim", 0) > 1 for part in parts):
            raise IndexError("a level is indexed by numbers, slices and one-dimensional arrays only")
        gap = next((place for place, part in enumerate(parts) if part is Ellipsis), len(parts))
        rest = parts[gap + 1 :]
        parts = parts[:gap] + [ALL] * (self.ndim - gap - len(rest)) + rest
        spans = [_span(part, side) for part, side in zip(parts[:2], self.shape[:2], strict=True)]
        (top, height, rows), (left, width, columns) = spans
        whole_bytes = height * width * self.dtype.itemsize * int(np.prod(self.shape[2:]))
        if whole_bytes <= WHOLE_BYTES or all(isinstance(part, slice) for part in (rows, columns)):
            region = self._rectangle(left, top, width, height)
        else:
            places = (np.atleast_1d(first + np.arange(number)[part]) for first, number, part in spans)
            region = self._pick(*places)
            # Everything is selected already; an index that is a number still removes its axis.
            rows, columns = (ALL if isinstance(part, slice) or part.ndim else 0 for part in (rows, columns))
        # From the last axis to the first, since an index that is a number removes its axis.
        for axis, part in reversed(list(enumerate([rows, columns, *parts[2:]]))):
            region = region[(ALL,) * axis + (part,)]
        return region

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self[...], dtype, copy=copy or None)

    def _pick(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Read the pixels where these rows and columns cross."""
        picked = np.empty((rows.size, columns.size, *self.shape[2:]), self.dtype)
        for near_rows, near_columns in itertools.product(_by_block(rows), _by_block(columns)):
            ys, xs = rows[near_rows], columns[near_columns]
            top, left = int(ys.min()), int(xs.min())
            block = self._read(left, top, int(xs.max()) + 1 - left, int(ys.max()) + 1 - top)
            picked[np.ix_(near_rows, near_columns)] = block[np.ix_(ys - top, xs - left)]
        picked.flags.writeable = False
        return picked

    def _rectangle(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        place, last = (x, y, width, height), self._last
        if last is not None and last[0] == place:
            return last[1]
        region = self._read(x, y, width, height)
        region.flags.writeable = False
        if region.nbytes <= KEPT_BYTES:
            self._last = place, region
        return region


def _span(part: Any, side: int) -> tuple[int, int, Any]:
    """Return the first index and the count to read along an axis, and how to index the result."""
    if isinstance(part, slice):
        start, stop, step = part.indices(side)
        if step == 1:
            return start, max(stop - start, 0), ALL
    places = np.arange(side)[part]
    if places.size == 0:
        return 0, 0, places
    first = int(places.min())
    return first, int(places.max()) + 1 - first, places - first


def _by_block(places: np.ndarray) -> list[np.ndarray]:
    """Return the given indices along an axis, grouped by block."""
    blocks = places // BLOCK_PX
    return [np.flatnonzero(blocks == block) for block in np.unique(blocks)]
