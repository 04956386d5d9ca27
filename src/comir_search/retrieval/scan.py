"""First stage: correlate turned copies of the query with whole slides, coarsely."""

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
FIRST_LEVEL = 2  # of the coarse scan, for all but large queries
MAX_TEMPLATE_PX = 128  # wider ones take gigabytes, and say enough on a coarser level
PLACES_PER_TILE = 80
FIRST_TILES, FIRST_PLACES = 8, 24  # after so many tiles, show so many places


def choose_scan_levels(query: Query) -> tuple[int, int | None]:
    """Return the level of the coarse scan, and that of a closer look.

    The latter is one finer; None where the turned copies of so large a query
    would take too much memory.
    """
    finest = coarsen_to(query.diagonal_px, MAX_TEMPLATE_PX)
    coarse = max(FIRST_LEVEL, finest)
    return coarse, coarse - 1 if coarse > finest else None


def choose_finest_level(query: Query) -> int:
    """Return the level at which place and angle are found in the end.

    It is 0, but coarser for large queries, which are as exact there, in a fraction
    of the time.
    """
    return choose_scan_levels(query)[0] - FIRST_LEVEL


class Scanner:
    """Turned copies of one query, transformed once for every tile of every slide.

    Parameters
    ----------
    query : Query
    level : int
        Pyramid level to scan.
    n_angles : int
        How many angles to try at least: a multiple of four of them, equally spaced.

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
        # Three quarters of the angles are seen by turning what is scanned.
        templates = query.turn(steps[:quarter].tolist(), level=level)
        size = next_fast_len(max(MIN_WINDOW_PX, 2 * templates.side), real=True)
        self.spectra: Spectra = transform_templates(templates, size + size % 2, roughly=True)
        self.step_px = self.spectra.places

    def __reduce__(self) -> tuple[Any, ...]:
        # The spectra take a hundred times the query, and are made again in less than a second.
        return Scanner, (self.query, self.level, len(self.angles_deg))

    @property
    def bytes_each(self) -> int:
        """Memory that one tile takes: products twice, scores, windows with what is made of them."""
        frequencies, channels, quarter = self.spectra.pixels.shape
        return 4 * frequencies * (16 * quarter + 48 * channels) + 16 * quarter * self.spectra.size**2

    def tiles(self, slide: IndexedSlide) -> list[tuple[int, int]]:
        """Return the (x, y) of the tiles of places that hold tissue, pixels of the level."""
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
        """Return the slide's number and the (x, y) of the tile that holds a place."""
        step = self.step_px * 2**self.level
        return place.slide, (int(place.x // step) * self.step_px, int(place.y // step) * self.step_px)

    def correlate(self, slide: IndexedSlide, tile: tuple[int, int]) -> Tensor:
        """Compare the query with every place of one tile.

        Parameters
        ----------
        slide : IndexedSlide
        tile : (int, int)

        Returns
        -------
        Tensor (rows, columns)
            The best score over all angles with the query's centre at each pixel of
            the tile; a tile at the slide's edge ends there, so a query overhangs by
            half at most.
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
        """Correlate with the surroundings of a tile, turned by each quarter.

        Returns
        -------
        turned : list of 4 Tensor (angles / 4, places, places)
            A query turned by 90 degrees more on the slide is the query as it is on
            the slide turned back.
        tops : Tensor (4, places, places)
            The best over the angles, turned to the tile's frame.
        """
        spectra = self.spectra
        x0, y0 = tile[0] - spectra.side // 2, tile[1] - spectra.side // 2
        window = torch.from_numpy(read_level(slide, self.level, x0, y0, spectra.size, spectra.size))
        windows = torch.stack([torch.rot90(window, turns, (1, 2)) for turns in range(4)])
        # The outline looks the same after a quarter or half turn, and so do the places' weights.
        distinct = 1 if np.isclose(*self.query.size_px) else 2
        weights = [weigh_places(spectra, turned) for turned in windows[:distinct]]
        for turns in range(distinct, 4):
            weights.append(torch.rot90(weights[turns - distinct], distinct, (1, 2)).contiguous())
        turned = correlate_windows(spectra, windows, weights)
        tops = [torch.rot90(scores.amax(0), -turns) for turns, scores in enumerate(turned)]
        return turned, torch.stack(tops)

    def _inside(self, slide: IndexedSlide, tile: tuple[int, int], scores: Tensor) -> Tensor:
        """Leave out places beyond the slide's edge."""
        _, rows, columns = slide.comir_shape
        factor = 2**self.level
        return scores[: -(-rows // factor) - tile[1], : -(-columns // factor) - tile[0]]


def _turn(y: Tensor, x: Tensor, turns: int, side: int) -> tuple[Tensor, Tensor]:
    """Return where places of a square lie after counter-clockwise quarter turns."""
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
        Places closer than this, CoMIR pixels, are one.
    runner : SearchRunner, optional
        Who looks at the tiles; by default this process.
    near : sequence of Place, optional
        Tiles that hold these are scanned first, in this order.
    tile_limit : int, optional
        Scan no more tiles than this.
    per_tile : int
        Take at most this many places of each tile.

    Yields
    ------
    done, total : int
        Tiles.
    places : list of Place
        The best so far, distinct, best first: a few after the first tiles, all at
        the end, none in between.
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
