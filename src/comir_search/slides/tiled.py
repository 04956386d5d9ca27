"""Slides stored in tiles. A read decodes only the tiles it needs."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from typing import Any

import numpy as np

from comir_search.compute.cache import ArrayCache
from comir_search.slides.guard import stated_failures
from comir_search.slides.slide import Slide

TILE_CACHE = ArrayCache(96 << 20, keep_oversize=True)

_numbers = itertools.count()


class TiledSlide(Slide):
    """A slide that is stored in tiles, each decoded when it is needed.

    Tiles lie on a regular grid. The last tile of a row or column may be whole or cut
    at the slide's border.
    """

    def __init__(self, **description: Any) -> None:
        super().__init__(**description)
        self._number = next(_numbers)

    @abstractmethod
    def _decode_tile(self, level: int, row: int, column: int) -> np.ndarray | None:
        """Return a tile (height, width[, 3]), or None if the file has no such tile.

        Any error it raises is reported as a damaged file.
        """

    def _read_inside(self, level: int, x_px: int, y_px: int, width_px: int, height_px: int) -> np.ndarray:
        tile_height, tile_width = self.tile_shapes[level]
        region = self._empty(height_px, width_px)
        for row in range(y_px // tile_height, -(-(y_px + height_px) // tile_height)):
            for column in range(x_px // tile_width, -(-(x_px + width_px) // tile_width)):
                tile = self._tile(level, row, column)
                if tile is None:
                    continue
                top, left = row * tile_height, column * tile_width
                y0, y1 = max(top, y_px), min(top + tile.shape[0], y_px + height_px)
                x0, x1 = max(left, x_px), min(left + tile.shape[1], x_px + width_px)
                region[y0 - y_px : y1 - y_px, x0 - x_px : x1 - x_px] = tile[
                    y0 - top : y1 - top, x0 - left : x1 - left
                ]
        return region

    def _tile(self, level: int, row: int, column: int) -> np.ndarray | None:
        def decode() -> np.ndarray:
            tile = self._decode_tile(level, row, column)
            return np.empty(0, self.dtype) if tile is None else tile

        with stated_failures(
            self.name,
            f"{self.name}: tile ({row}, {column}) of level {level} cannot be decoded ({{error}}): the file "
            "is damaged, copy or export it again",
        ):
            tile = TILE_CACHE.get((self._number, level, row, column), decode)
        return None if tile.size == 0 else tile

    def close(self) -> None:
        """Release the file and its cached tiles."""
        TILE_CACHE.forget(lambda key: isinstance(key, tuple) and key[0] == self._number)
