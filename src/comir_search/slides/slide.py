"""A slide: any part can be read at any resolution, and it is never held in memory as a whole.

Each file format describes its levels and reads a rectangle of one level. Everything
else (borders, resampling, overviews, lazy levels) is here, the same for all formats.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property, partial
from types import TracebackType
from typing import Any

import numpy as np

from comir_search.errors import PixelSizeMissing
from comir_search.records import SlideInfo
from comir_search.slides.fingerprint import identity_of
from comir_search.slides.lazy import LazyLevel
from comir_search.slides.pixel_size import PixelSize
from comir_search.slides.resample import find_downsample, find_taps, resample, resample_in_parts

_BLOCK_PX = 4 << 20  # largest number of level pixels in one step of a scaled read
_LARGEST_BLOCK_PX = 4 * _BLOCK_PX  # if one row of the result needs more, it is read in parts


class ReadInterrupted(Exception):
    """A read was stopped because its result is no longer needed."""


class Slide(ABC):
    """A slide or a query: one image in levels, finest first.

    Several threads may read at once. Use it as a context manager, or call `close`.

    Parameters
    ----------
    name, path, format : str
        As in `SlideInfo`.
    level_shapes : sequence of (int, int)
        (height, width) of each level, finest first.
    tile_shapes : sequence of (int, int)
        (height, width) of the pieces in which each level is best read.
    channels : int
        1 or 3.
    dtype : numpy dtype
        Data type of the pixels.
    pixel_size : PixelSize
        Pixel size of level 0.
    fingerprint : str
        Hash of the content.
    notes, other_images, bounds_origin_px
        As in `SlideInfo`. A doubt about the pixel size is added to the notes.
    """

    def __init__(
        self,
        *,
        name: str,
        path: str,
        format: str,
        level_shapes: Sequence[tuple[int, int]],
        tile_shapes: Sequence[tuple[int, int]],
        channels: int,
        dtype: Any,
        pixel_size: PixelSize,
        fingerprint: str,
        notes: Sequence[str] = (),
        other_images: Sequence[str] = (),
        bounds_origin_px: tuple[int, int] = (0, 0),
    ) -> None:
        self._interrupted = False
        self._pixel_size_doubt = pixel_size.doubt
        self.dtype = np.dtype(dtype)
        self.level_shapes = tuple((int(height), int(width)) for height, width in level_shapes)
        self.tile_shapes = tuple((int(height), int(width)) for height, width in tile_shapes)
        self.level_downsamples = tuple(
            find_downsample(self.level_shapes[0], shape) for shape in self.level_shapes
        )
        self.info = SlideInfo(
            name=name,
            path=path,
            format=format,
            width_px=self.level_shapes[0][1],
            height_px=self.level_shapes[0][0],
            channels=channels,
            dtype=self.dtype.name,
            level_shapes_px=self.level_shapes,
            pixel_size_um=pixel_size.um,
            pixel_size_source=pixel_size.source,
            fingerprint=fingerprint,
            notes=(*notes, pixel_size.doubt) if pixel_size.doubt else tuple(notes),
            other_images=tuple(other_images),
            bounds_origin_px=bounds_origin_px,
        )

    @abstractmethod
    def _read_inside(self, level: int, x_px: int, y_px: int, width_px: int, height_px: int) -> np.ndarray:
        """Return a rectangle that lies inside the level: (height, width[, 3])."""

    def close(self) -> None:
        """Release the file. The slide cannot be read afterwards."""

    def interrupt(self) -> None:
        """Make running and later scaled reads in all threads raise `ReadInterrupted`.

        Without a pyramid a read may take minutes. It stops after the current block of a few megapixels.
        """
        self._interrupted = True

    @property
    def name(self) -> str:
        """File name with suffix."""
        return self.info.name

    @property
    def pixel_size_um(self) -> float | None:
        """Level-0 pixel size, None if unknown."""
        return self.info.pixel_size_um

    @property
    def fingerprint(self) -> str:
        """Hash of the content; it does not depend on the file's path."""
        return self.info.fingerprint

    @cached_property
    def identity(self) -> str:
        """Hash of the slide's structure and of pieces spread over all of it; see `identity_of`.

        Stronger than the fingerprint. It is read from the file when first needed.
        """
        return identity_of(self.info.path)

    @property
    def channels(self) -> int:
        """1 (grey) or 3 (RGB)."""
        return self.info.channels

    @property
    def background(self) -> float:
        """Value of pixels outside the slide: black in grey images, white in RGB."""
        if self.channels == 1:
            return 0
        return float(np.iinfo(self.dtype).max) if self.dtype.kind in "ui" else 1.0

    def require_pixel_size(self) -> float:
        """Return the level-0 pixel size in um.

        Raises
        ------
        PixelSizeMissing
            If neither the file nor the user gives it, or the file's is impossible.
        """
        if self.pixel_size_um is None:
            if self._pixel_size_doubt:
                raise PixelSizeMissing(f"{self.name}: {self._pixel_size_doubt}, in micrometres per pixel")
            raise PixelSizeMissing(
                f"{self.name} gives no pixel size: give it with --pixel-size, in micrometres per pixel"
            )
        return self.pixel_size_um

    def read_level(self, level: int, x_px: int, y_px: int, width_px: int, height_px: int) -> np.ndarray:
        """Read a rectangle of one level.

        Parameters
        ----------
        level : int
            0 is the finest.
        x_px, y_px, width_px, height_px : int
            In pixels of that level. Parts outside the slide are background.

        Returns
        -------
        ndarray (height_px, width_px) or (height_px, width_px, 3)
            In the slide's data type.
        """
        level_height, level_width = self.level_shapes[level]
        left, top = max(x_px, 0), max(y_px, 0)
        right, bottom = min(x_px + width_px, level_width), min(y_px + height_px, level_height)
        if right - left == width_px and bottom - top == height_px and width_px > 0 and height_px > 0:
            return self._read_inside(level, left, top, width_px, height_px)
        region = self._empty(height_px, width_px)
        if right > left and bottom > top:
            inside = self._read_inside(level, left, top, right - left, bottom - top)
            region[top - y_px : bottom - y_px, left - x_px : right - x_px] = inside
        return region

    def read_downsampled(self, downsample: float, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Read a rectangle in pixels `downsample` times as large as those of level 0.

        The grid starts at the slide's corner, so overlapping reads agree. The
        nearest finer level is used. Its pixels are averaged to shrink it and
        interpolated linearly to enlarge it.

        Parameters
        ----------
        downsample : float
            Level-0 pixels per pixel of the result; below 1 enlarges.
        x, y, width, height : int
            In pixels of the result. Parts outside the slide are background.

        Returns
        -------
        ndarray (height, width) or (height, width, 3)
            In the slide's data type, integers rounded.
        """
        level = self.level_for(downsample)
        scale = downsample / self.level_downsamples[level]
        if abs(scale - round(scale)) < 1e-6:
            scale = float(max(round(scale), 1))
        level_height, level_width = self.level_shapes[level]
        tile_width = self.tile_shapes[level][1]
        block_width_px = max(2048, tile_width)
        block_width = max(1, int(block_width_px / scale))
        block_height = max(1, int(min(2048, max(_BLOCK_PX // block_width_px, 1)) / scale))
        region = self._empty(height, width)
        for top in range(0, height, block_height):
            rows = find_taps(y + top, min(block_height, height - top), scale, level_height)
            for left in range(0, width, block_width):
                if self._interrupted:
                    raise ReadInterrupted(f"reading {self.name} was stopped")
                columns = find_taps(x + left, min(block_width, width - left), scale, level_width)
                if not (rows.inside.any() and columns.inside.any()):
                    continue
                (y0, y1), (x0, x1) = rows.span, columns.span
                if (y1 - y0) * (x1 - x0) > _LARGEST_BLOCK_PX:
                    read = partial(self._read_part, level)
                    block = resample_in_parts(read, rows, columns, self.background, self.dtype, _BLOCK_PX)
                else:
                    source = self._read_inside(level, x0, y0, x1 - x0, y1 - y0)
                    block = resample(source, rows, columns, self.background)
                region[top : top + block.shape[0], left : left + block.shape[1]] = block
        return region

    def _read_part(self, level: int, x_px: int, y_px: int, width_px: int, height_px: int) -> np.ndarray:
        """Read a rectangle inside a level, unless the read was interrupted."""
        if self._interrupted:
            raise ReadInterrupted(f"reading {self.name} was stopped")
        return self._read_inside(level, x_px, y_px, width_px, height_px)

    def read_scaled(self, pixel_size_um: float, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Read a rectangle in pixels of `pixel_size_um`; see `read_downsampled`.

        Parameters
        ----------
        pixel_size_um : float
            Pixel size of the result.
        x, y, width, height : int
            In pixels of the result. Parts outside the slide are background.

        Returns
        -------
        ndarray (height, width) or (height, width, 3)
            In the slide's data type, integers rounded.

        Raises
        ------
        PixelSizeMissing
            If the slide's own pixel size is not known.
        """
        return self.read_downsampled(pixel_size_um / self.require_pixel_size(), x, y, width, height)

    def scaled_shape(self, pixel_size_um: float) -> tuple[int, int]:
        """Return (height, width) of the whole slide in pixels of `pixel_size_um`, rounded up."""
        return self.downsampled_shape(pixel_size_um / self.require_pixel_size())

    def downsampled_shape(self, downsample: float) -> tuple[int, int]:
        """Return (height, width) of the whole slide in pixels `downsample` times as large, rounded up."""
        height, width = (max(1, int(np.ceil(side / downsample - 1e-6))) for side in self.level_shapes[0])
        return height, width

    def level_for(self, downsample: float) -> int:
        """Return the coarsest level whose downsampling is at most `downsample`."""
        fine = [level for level, own in enumerate(self.level_downsamples) if own <= downsample * (1 + 1e-3)]
        return fine[-1] if fine else 0

    def overview(self, max_side_px: int = 1024) -> tuple[np.ndarray, float | None]:
        """Return the whole slide, at most `max_side_px` in either direction.

        Returns
        -------
        image : ndarray (height, width) or (height, width, 3)
        pixel_size_um : float or None
            Pixel size of the image; None if the slide's own is not known.
        """
        downsample = max(1.0, max(self.level_shapes[0]) / max_side_px)
        height, width = self.downsampled_shape(downsample)
        image = self.read_downsampled(downsample, 0, 0, width, height)
        return image, None if self.pixel_size_um is None else self.pixel_size_um * downsample

    @cached_property
    def levels(self) -> list[LazyLevel]:
        """The levels as arrays (height, width[, 3]) that are read when they are sliced, for viewers."""
        last = () if self.channels == 1 else (3,)
        return [
            LazyLevel(partial(self.read_level, level), shape + last, self.dtype)
            for level, shape in enumerate(self.level_shapes)
        ]

    def _empty(self, height: int, width: int) -> np.ndarray:
        """Return an image of this size that is all background."""
        shape = (height, width) if self.channels == 1 else (height, width, 3)
        return np.full(shape, self.background, self.dtype)

    def __enter__(self) -> Slide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        size = f"{self.info.width_px} x {self.info.height_px}"
        return f"<{type(self).__name__} {self.name} {size}, {len(self.level_shapes)} levels>"
