"""Resampling on a grid that is fixed to the slide, so that overlapping reads agree.

Target pixel i of an axis covers [i s, (i + 1) s) source pixels, counted from the
slide's corner. The source pixels and weights of a target pixel do not depend on the
part of the slide that is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from comir_search.opencv import cv2

_CACHED_SAMPLES = 1 << 15


@dataclass(frozen=True)
class Taps:
    """The source pixels of each target pixel along one axis.

    Parameters
    ----------
    index : ndarray (count, taps) of int
        Source pixels, all inside the source.
    weight : ndarray (count, taps) of float32
        Their weights. They sum to 1 if the target pixel overlaps the source.
    inside : ndarray (count,) of bool
        Whether the target pixel overlaps the source.
    block : int
        n if every target pixel is the plain mean of n source pixels of its own
        (n = 1: a copy), 0 otherwise.
    """

    index: NDArray[np.int64]
    weight: NDArray[np.float32]
    inside: NDArray[np.bool_]
    block: int

    @property
    def span(self) -> tuple[int, int]:
        """First source pixel that is needed, and the one after the last."""
        needed = self.index[self.inside]
        return (int(needed.min()), int(needed.max()) + 1) if needed.size else (0, 0)


def find_taps(start: int, count: int, scale: float, length: int) -> Taps:
    """Return the source pixels and weights of `count` target pixels from `start`.

    Parameters
    ----------
    start, count : int
        Target pixels to find; they may lie outside the source.
    scale : float
        Source pixels per target pixel. Above 1 the target is an area mean,
        below 1 it is interpolated linearly.
    length : int
        Source pixels along this axis.
    """
    target = np.arange(start, start + count, dtype=np.float64)
    if scale >= 1:
        low = target * scale
        first = np.floor(low + 1e-6)  # a rounding error must not shift a border to the next pixel
        index = first[:, None] + np.arange(int(np.ceil(scale - 1e-6)) + 1)
        weight = np.minimum(index + 1, (low + scale)[:, None]) - np.maximum(index, low[:, None])
        weight[weight < 1e-5] = 0
        weight[(index < 0) | (index >= length)] = 0
    else:
        centre = (target + 0.5) * scale - 0.5
        first = np.floor(centre)
        index = first[:, None] + np.arange(2)
        weight = np.stack([1 - (centre - first), centre - first], axis=1)
        weight[((target + 1) * scale <= 1e-6) | (target * scale >= length - 1e-6)] = 0
    total = weight.sum(axis=1)
    inside = total > 0
    weight /= np.where(inside, total, 1)[:, None]
    used = max(1, int(np.flatnonzero((weight > 0).any(axis=0)).max(initial=0)) + 1)
    index = np.clip(index[:, :used], 0, max(length - 1, 0)).astype(np.int64)
    whole = round(scale)
    even = inside.all() and abs(scale - whole) < 1e-9 and used == whole
    plain = even and bool(np.allclose(weight[:, :used], 1 / whole, atol=1e-6))
    return Taps(index, weight[:, :used].astype(np.float32), inside, whole if plain else 0)


def resample(source: np.ndarray, rows: Taps, columns: Taps, background: float) -> np.ndarray:
    """Resample an image that contains exactly the source pixels within the span of the taps.

    Parameters
    ----------
    source : ndarray (height, width) or (height, width, channels)
        Rows ``rows.span``, columns ``columns.span`` of the level.
    rows, columns : Taps
    background : float
        Value of target pixels outside the source.

    Returns
    -------
    ndarray
        (rows, columns[, channels]) in the data type of `source`; integers are rounded.
    """
    shape = (len(rows.inside), len(columns.inside), *source.shape[2:])
    if source.size == 0:
        return np.full(shape, background, source.dtype)
    if rows.block == columns.block == 1:
        return np.ascontiguousarray(source)
    if rows.block and rows.block == columns.block and source.dtype in (np.uint8, np.uint16, np.float32):
        return cv2.resize(source, shape[1::-1], interpolation=cv2.INTER_AREA).reshape(shape)
    exact = np.float64 if source.dtype.itemsize > 2 and source.dtype != np.float32 else np.float32
    image = _mix_rows(source.astype(exact, copy=False), rows)
    image = _transpose(_mix_rows(_transpose(image), columns))
    if source.dtype.kind in "ui":
        np.rint(image, out=image)
    result = image.astype(source.dtype)
    result[~rows.inside] = background
    result[:, ~columns.inside] = background
    return result


def resample_in_parts(
    read: Callable[[int, int, int, int], np.ndarray],
    rows: Taps,
    columns: Taps,
    background: float,
    dtype: np.dtype[Any],
    part_px: int,
) -> np.ndarray:
    """Resample like `resample`, but read the source in bands of rows, to bound the memory.

    Parameters
    ----------
    read : callable
        ``read(x, y, width, height)`` returns source pixels, in the source's own frame.
    rows, columns : Taps
    background : float
        Value of target pixels outside the source.
    dtype : numpy dtype
        Data type of the result.
    part_px : int
        Source pixels held at a time; at least one row is read.
    """
    (y0, y1), (x0, x1) = rows.span, columns.span
    exact = np.float64 if dtype.itemsize > 2 and dtype != np.float32 else np.float32
    of_rows = _weigh(rows, exact)
    samples = 0
    band = max(1, part_px // (x1 - x0))
    for top in range(y0, y1, band):
        height = min(band, y1 - top)
        source = read(x0, top, x1 - x0, height)
        flat = source.reshape(height, -1)
        if not samples:
            after, samples = source.shape[2:], flat.shape[1]
            mixed = np.zeros((len(rows.inside), samples), exact)
        weights = of_rows[:, top - y0 : top - y0 + height].toarray()
        for left in range(0, samples, _CACHED_SAMPLES):  # small enough to stay in the processor's cache
            piece = flat[:, left : left + _CACHED_SAMPLES].astype(exact)
            mixed[:, left : left + _CACHED_SAMPLES] += weights @ piece
    turned = np.moveaxis(mixed.reshape(len(rows.inside), x1 - x0, *after), 1, 0)
    across = _weigh(columns, exact) @ turned.reshape(x1 - x0, -1)
    total = np.moveaxis(across.reshape(len(columns.inside), *turned.shape[1:]), 0, 1)
    if dtype.kind in "ui":
        total = np.rint(total)
    result = total.astype(dtype)
    result[~rows.inside] = background
    result[:, ~columns.inside] = background
    return result


def _weigh(taps: Taps, exact: type) -> csr_array:
    """Return the weights as a matrix (target pixels, source pixels of the span), by columns."""
    count, used = taps.index.shape
    first, last = taps.span
    index = np.clip(taps.index - first, 0, last - first - 1)
    weights = csr_array(
        (taps.weight.ravel().astype(exact), index.ravel(), np.arange(0, count * used + 1, used)),
        shape=(count, last - first),
    )
    return weights.tocsc()


def _mix_rows(image: np.ndarray, taps: Taps) -> np.ndarray:
    """Return the weighted sums of rows that `taps` defines."""
    count, used = taps.index.shape
    index = np.clip(taps.index - taps.span[0], 0, image.shape[0] - 1)
    # One pass over the rows: several times as fast as a sum tap by tap.
    weights = csr_array(
        (taps.weight.ravel().astype(image.dtype), index.ravel(), np.arange(0, count * used + 1, used)),
        shape=(count, image.shape[0]),
    )
    mixed: np.ndarray = weights @ image.reshape(image.shape[0], -1)
    return mixed.reshape(count, *image.shape[1:])


def _transpose(image: np.ndarray) -> np.ndarray:
    """Return an image with rows and columns exchanged, contiguous in memory."""
    turned = cv2.transpose(image)
    return turned.reshape(image.shape[1], image.shape[0], *image.shape[2:])


def find_downsample(full: tuple[int, int], level: tuple[int, int]) -> float:
    """Return how many level-0 pixels a pixel of a level spans.

    Scanners cut or pad the last pixel of a level. If a whole number explains both
    sides to within one pixel of the level, it is taken as exact; otherwise the
    result is the mean of both ratios.
    """
    ratios = [side / own for side, own in zip(full, level, strict=True)]
    mean = sum(ratios) / 2
    whole = max(round(mean), 1)
    exact = all(abs(side / whole - own) <= 1 for side, own in zip(full, level, strict=True))
    return float(whole) if exact else mean
