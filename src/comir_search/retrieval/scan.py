"""First stage: correlate rotated copies of the query with whole slides at a coarse level."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor

from comir_search.geometry import cells_under, normalise_angle_deg
from comir_search.index.index import IndexedSlide
from comir_search.index.levels import read_level
from comir_search.matching.correlation import (
    Spectra,
    correlate_windows,
    transform_templates,
    weigh_places,
)
from comir_search.matching.places import Place, keep_distinct
from comir_search.matching.query import Query
from comir_search.matching.templates import coarsen_to
from comir_search.retrieval.workers import LocalSearchRunner, SearchRunner

MIN_WINDOW_PX = 192
FIRST_LEVEL = 2  # level of the coarse scan; large queries use a coarser one
MAX_TEMPLATE_PX = 128  # wider ones need gigabytes, and a coarser level is enough for them
PLACES_PER_TILE = 80
FIRST_TILES, FIRST_PLACES = 8, 24  # after this number of tiles, this number of places is shown


def choose_scan_levels(query: Query) -> tuple[int, int | None]:
    """Return the level of the coarse scan, and the level of a second, finer scan.

    The second level is one finer. It is None if the rotated copies of a large query
    would need too much memory.
    """
    finest = coarsen_to(query.diagonal_px, MAX_TEMPLATE_PX)
    coarse = max(FIRST_LEVEL, finest)
    return coarse, coarse - 1 if coarse > finest else None


def choose_finest_level(query: Query) -> int:
    """Return the level at which the final position and rotation are found.

    It is 0. Large queries use a coarser level, which is as exact for them and much
    faster.
    """
    return choose_scan_levels(query)[0] - FIRST_LEVEL


class Scanner:
    """Compares one query with tiles of slides. Its rotated copies are Fourier-transformed only once.

    Parameters
    ----------
    query : Query
    level : int
        Pyramid level to scan.
    n_angles : int
        Least number of angles. It is rounded up to a multiple of four; the angles are
        equally spaced.

    Attributes
    ----------
    angles_deg : ndarray
        In (-180, 180]; the first is 0.
    """

    def __init__(self, query: Query, level: int, n_angles: int) -> None:
        self.query, self.level = query, level
        quarter = -(-n_angles // 4)
        steps = np.arange(4 * quarter) * 90.0 / quarter
        self.angles_deg = np.array([normalise_angle_deg(angle) for angle in steps])
        # Only a quarter of the angles is needed here: the tiles are rotated by 90, 180 and 270 degrees too.
        templates = query.turn(steps[:quarter].tolist(), level=level)
        size = next_fast_len(max(MIN_WINDOW_PX, 2 * templates.side), real=True)
        self.spectra: Spectra = transform_templates(templates, size + size % 2, roughly=True)
        self.step_px = self.spectra.places

    def __reduce__(self) -> tuple[Any, ...]:
        # The spectra are a hundred times larger than the query, and are computed again in less than a second.
        return Scanner, (self.query, self.level, len(self.angles_deg))

    @property
    def bytes_each(self) -> int:
        """Memory that one tile needs: two copies of the products, the scores, and the windows with their spectra."""
        frequencies, channels, quarter = self.spectra.pixels.shape
        return 4 * frequencies * (16 * quarter + 48 * channels) + 16 * quarter * self.spectra.size**2

    def tiles(self, slide: IndexedSlide) -> list[tuple[int, int]]:
        """Return the (x, y) of all tiles with tissue, in pixels of the level."""
        factor = 2**self.level
        _, rows, columns = slide.comir_shape
        tissue, cell_px = slide.tissue, slide.tissue_step_px
        side_px = self.step_px * factor
        tiles = []
        for y in range(0, -(-rows // factor), self.step_px):
            for x in range(0, -(-columns // factor), self.step_px):
                under = (cells_under(start * factor, start * factor + side_px, cell_px) for start in (y, x))
                if tissue[tuple(under)].any():
                    tiles.append((x, y))
        return tiles

    def tile_of(self, place: Place) -> tuple[int, tuple[int, int]]:
        """Return the slide's number and the (x, y) of the tile in which a place lies."""
        step = self.step_px * 2**self.level
        return place.slide, (int(place.x // step) * self.step_px, int(place.y // step) * self.step_px)

    def correlate(self, slide: IndexedSlide, tile: tuple[int, int]) -> Tensor:
        """Compare the query with every position of one tile.

        Parameters
        ----------
        slide : IndexedSlide
        tile : (int, int)

        Returns
        -------
        Tensor (rows, columns)
            For the query's centre at each pixel of the tile, the best score over all
            angles. A tile ends at the slide's edge, so at most half of the query lies
            outside the slide.
        """
        return self._inside(slide, tile, self._compare(slide, tile)[1].amax(0))

    def scan(self, slide: IndexedSlide, number: int, tile: tuple[int, int], count: int) -> list[Place]:
        """Return the best places of one tile, best first.

        Parameters
        ----------
        slide : IndexedSlide
        number : int
            The slide's position in the index.
        tile : (int, int)
        count : int
            At most this many.
        """
        factor = 2**self.level
        turned, tops = self._compare(slide, tile)
        scores = self._inside(slide, tile, tops.amax(0))
        radius = max(1, int(self.query.short_side_px / factor / 8))
        highest = scores[None]
        for size in ((2 * radius + 1, 1), (1, 2 * radius + 1)):
            highest = torch.nn.functional.max_pool2d(highest, size, 1, (size[0] // 2, size[1] // 2))
        peaks = highest[0] == scores
        ys, xs = torch.nonzero(peaks, as_tuple=True)
        order = scores[ys, xs].argsort(descending=True)[:count]
        ys, xs = ys[order], xs[order]
        turns = tops[:, ys, xs].argmax(0)
        angles = turns * len(turned[0])
        for number_of_turns, copies in enumerate(turned):
            own = turns == number_of_turns
            rows, columns = _turn(ys[own], xs[own], number_of_turns, tops.shape[-1])
            angles[own] += copies[:, rows, columns].argmax(0)
        return [
            Place(number, x * factor, y * factor, angle_deg, score, mirrored=self.query.mirrored)
            for x, y, angle_deg, score in zip(
                (xs + tile[0]).double().tolist(),
                (ys + tile[1]).double().tolist(),
                self.angles_deg[angles.numpy()].tolist(),
                scores[ys, xs].tolist(),
                strict=True,
            )
        ]

    def _compare(self, slide: IndexedSlide, tile: tuple[int, int]) -> tuple[list[Tensor], Tensor]:
        """Correlate the query with a tile and its surroundings, rotated by 0, 90, 180 and 270 degrees.

        Returns
        -------
        turned : list of 4 Tensor (angles / 4, places, places)
            Scores for each rotation of the tile. To rotate the tile by 90 degrees is
            the same as to rotate the query by 90 degrees in the other direction.
        tops : Tensor (4, places, places)
            The best scores over the angles, rotated back to the tile's orientation.
        """
        spectra = self.spectra
        x0, y0 = tile[0] - spectra.side // 2, tile[1] - spectra.side // 2
        window = torch.from_numpy(read_level(slide, self.level, x0, y0, spectra.size, spectra.size))
        windows = torch.stack([torch.rot90(window, turns, (1, 2)) for turns in range(4)])
        # A square looks the same after 90 degrees and a rectangle after 180, so weights can be reused.
        distinct = 1 if np.isclose(*self.query.size_px) else 2
        weights = [weigh_places(spectra, turned) for turned in windows[:distinct]]
        for turns in range(distinct, 4):
            weights.append(torch.rot90(weights[turns - distinct], distinct, (1, 2)).contiguous())
        turned = correlate_windows(spectra, windows, weights)
        tops = [torch.rot90(scores.amax(0), -turns) for turns, scores in enumerate(turned)]
        return turned, torch.stack(tops)

    def _inside(self, slide: IndexedSlide, tile: tuple[int, int], scores: Tensor) -> Tensor:
        """Remove the scores of positions beyond the slide's edge."""
        _, rows, columns = slide.comir_shape
        factor = 2**self.level
        return scores[: -(-rows // factor) - tile[1], : -(-columns // factor) - tile[0]]


def _turn(y: Tensor, x: Tensor, turns: int, side: int) -> tuple[Tensor, Tensor]:
    """Return the positions in a square after it is rotated counter-clockwise by `turns` x 90 degrees."""
    for _ in range(turns):
        y, x = side - 1 - x, y
    return y, x


def scan_slides(
    scanner: Scanner,
    slides: list[tuple[int, IndexedSlide]],
    count: int,
    radius_px: float,
    runner: SearchRunner | None = None,
    *,
    near: Sequence[Place] = (),
    tile_limit: int | None = None,
    per_tile: int = PLACES_PER_TILE,
) -> Iterator[tuple[int, int, list[Place]]]:
    """Scan slides tile by tile.

    Parameters
    ----------
    scanner : Scanner
    slides : list of (int, IndexedSlide)
        Each with its position in the index.
    count : int
        Find at most this many places.
    radius_px : float
        Places closer than this, in CoMIR pixels, count as one.
    runner : SearchRunner, optional
        Where the tiles are scanned; by default in this process.
    near : sequence of Place, optional
        The tiles of these places are scanned first, in this order.
    tile_limit : int, optional
        Scan at most this many tiles.
    per_tile : int
        Take at most this many places of each tile.

    Yields
    ------
    done, total : int
        Number of tiles.
    places : list of Place
        Distinct places, best first: some after the first tiles, all at the end,
        none in between.
    """
    runner = runner or LocalSearchRunner()
    work = [(slide, number, tile, per_tile) for number, slide in slides for tile in scanner.tiles(slide)]
    if near:
        ranks = {scanner.tile_of(place): rank for rank, place in reversed(list(enumerate(near)))}
        work.sort(key=lambda job: ranks.get((job[1], job[2]), len(near)))
    work = work[:tile_limit]
    found: list[list[Place] | None] = []
    shown = False
    for done, found in runner.run(scanner.scan, work, scanner.bytes_each):
        first: list[Place] = []
        if done >= FIRST_TILES and not shown:
            first, shown = keep_distinct(_join(found), radius_px, FIRST_PLACES), True
        yield done, len(work), first
    yield len(work), len(work), keep_distinct(_join(found), radius_px, count)


def _join(found: list[list[Place] | None]) -> Iterator[Place]:
    return chain.from_iterable(places for places in found if places)
