"""A slide made of an array: layers of a viewer, and tests."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from comir_search.errors import ComirSearchError
from comir_search.slides.fingerprint import content_fingerprint
from comir_search.slides.pixel_size import MISSING, user_pixel_size
from comir_search.slides.slide import Slide

_WHOLE_SAMPLES = 16 << 20  # the fingerprint of a larger array uses pieces spread over it


class ArraySlide(Slide):
    """An array as a slide. Use `slide_from_array`.

    Parameters
    ----------
    array : ndarray or dask array
        (height, width), (height, width, 1), (height, width, 3) or
        (height, width, 4); the alpha channel is dropped.
    pixel_size_um : float or None
    name, path : str
    """

    def __init__(
        self, array: Any, *, pixel_size_um: float | None, name: str = "array", path: str = ""
    ) -> None:
        if array.ndim == 3 and array.shape[2] in (1, 4):
            array = array[..., 0] if array.shape[2] == 1 else array[..., :3]
        elif array.ndim != 2 and (array.ndim != 3 or array.shape[2] != 3):
            raise ComirSearchError(
                f"{name} has the shape {tuple(array.shape)}: images are (height, width) or (height, width, 3)"
            )
        if 0 in array.shape:
            raise ComirSearchError(f"{name} is empty: its shape is {tuple(array.shape)}")
        if array.dtype.kind not in "uifb":
            raise ComirSearchError(f"{name} contains {array.dtype}, which cannot be pixel values")
        self._array = array
        self._dtype = np.dtype(np.uint8) if array.dtype.kind == "b" else np.dtype(array.dtype)
        height, width = array.shape[:2]
        chunks = getattr(array, "chunks", None)  # dask
        tile = (max(chunks[0]), max(chunks[1])) if chunks else (min(height, 512), min(width, 512))
        super().__init__(
            name=name,
            path=path,
            format="array",
            level_shapes=[(height, width)],
            tile_shapes=[tile],
            channels=1 if array.ndim == 2 else 3,
            dtype=self._dtype,
            pixel_size=MISSING if pixel_size_um is None else user_pixel_size(pixel_size_um),
            fingerprint=content_fingerprint(
                str((array.shape, array.dtype.str)).encode(),
                *(np.ascontiguousarray(piece).tobytes() for piece in _sample(array)),
            ),
        )

    @property
    def identity(self) -> str:
        """The fingerprint: it already uses pieces from the whole array."""
        return self.fingerprint

    def _read_inside(self, level: int, x_px: int, y_px: int, width_px: int, height_px: int) -> np.ndarray:
        region = np.asarray(self._array[y_px : y_px + height_px, x_px : x_px + width_px])
        return (
            region.astype(np.uint8) * 255
            if region.dtype.kind == "b"
            else region.astype(self._dtype, copy=True)
        )


def _sample(array: Any) -> Iterator[Any]:
    """Yield the whole array if it is small, otherwise pieces spread over it."""
    # A piece of an array that is not in memory may need a whole tile to be decoded.
    in_memory = isinstance(array, np.ndarray)
    pieces, side_px = (16, 128) if in_memory else (3, 32)
    if math.prod(array.shape) <= (_WHOLE_SAMPLES if in_memory else (pieces * side_px) ** 2):
        yield array[:, :]
        return
    tops, lefts = (np.linspace(0, max(0, side - side_px), pieces).astype(int) for side in array.shape[:2])
    for top, left in itertools.product(tops, lefts):
        yield array[top : top + side_px, left : left + side_px]


def slide_from_array(
    array: Any, *, pixel_size_um: float | None, name: str = "array", path: str = ""
) -> ArraySlide:
    """Return an array as a slide.

    Parameters
    ----------
    array : ndarray or dask array
        (height, width), (height, width, 1), (height, width, 3) or
        (height, width, 4); the alpha channel is dropped. It is not copied.
    pixel_size_um : float or None
        Micrometres per pixel, None if unknown.
    name : str
        Shown as the file's name.
    path : str, optional
        Source of the array.
    """
    return ArraySlide(array, pixel_size_um=pixel_size_um, name=name, path=path)
