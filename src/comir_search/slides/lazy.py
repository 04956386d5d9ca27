"""A level of a slide as an array that is read when it is sliced, for viewers."""

from __future__ import annotations

from collections.abc import Callable
from types import EllipsisType
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEPT_BYTES = 512 << 20

Read = Callable[[int, int, int, int], np.ndarray]
Index = int | slice | EllipsisType | np.ndarray


class LazyLevel:
    """A level as an array (height, width) or (height, width, 3).

    It is sliced as NumPy slices, every axis by itself, and reads in the calling
    thread: a viewer that waits for other threads waits for all that compete with
    them. The part read last is kept unless it is large, because viewers ask for
    the same part again and again.

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
        """Read a part; it is shared, and read-only."""
        parts = list(index) if isinstance(index, tuple) else [index]
        if any(part is None or getattr(part, "ndim", 0) > 1 for part in parts):
            raise IndexError("a level is indexed by numbers, slices and one-dimensional arrays only")
        gap = next((place for place, part in enumerate(parts) if part is Ellipsis), len(parts))
        rest = parts[gap + 1 :]
        parts = parts[:gap] + [slice(None)] * (self.ndim - gap - len(rest)) + rest
        (top, height, rows), (left, width, columns) = (
            _span(part, side) for part, side in zip(parts[:2], self.shape[:2], strict=False)
        )
        region = self._rectangle(left, top, width, height)
        # From the last axis to the first: a number takes its axis away.
        for axis, part in reversed(list(enumerate([rows, columns, *parts[2:]]))):
            region = region[(slice(None),) * axis + (part,)]
        return region

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self[...], dtype, copy=copy or None)

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
    """Return first and number of the places to read along an axis, and how to index what was read."""
    if isinstance(part, slice):
        start, stop, step = part.indices(side)
        if step == 1:
            return start, max(stop - start, 0), slice(None)
    places = np.arange(side)[part]
    if places.size == 0:
        return 0, 0, places
    first = int(places.min())
    return first, int(places.max()) + 1 - first, places - first
