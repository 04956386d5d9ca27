"""Search with a sliding bag of words over the stored word maps.

The index stores the word at each grid point and no histograms. A query of any size can
therefore be compared with every window of every slide: see `comir_search.matching.word_maps`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from comir_search.compute.threads import run_side_by_side
from comir_search.geometry import normalise_angle_deg
from comir_search.index.index import IndexedSlide
from comir_search.matching.places import Place, keep_distinct
from comir_search.matching.query import Query
from comir_search.matching.word_maps import (
    CELLS,
    POOL,
    WordScorer,
    find_cells,
    make_table,
    share_inside,
    vote,
)
from comir_search.model.vocabulary import NO_WORD, Vocabulary, join_channels, turn_projections
from comir_search.retrieval.workers import LocalSearchRunner, SearchRunner

GLASS = 128 / 255
NEAREST_WORDS = 4  # each descriptor of the query votes for this many words
MAX_SIDE_POINTS = 64  # at most this many points along a side of the query are described
MIN_INSIDE = 0.55  # share of a point's surroundings that must lie inside the query
PART_LIMIT = (
    64  # as many as in two or three large slides; if there are more, the best-fitting parts are scored
)
FIRST_PARTS, FIRST_PLACES = 8, 24  # after this number of parts, this number of places is shown
PART_POINTS = 256  # side of the parts of a map in grid points; small parts skip more of the empty glass


class BagOfWords:
    """The words of one query, for several angles.

    Parameters
    ----------
    query : Query
    vocabulary : Vocabulary
    frequencies : ndarray (n_blocks, n_words) float64
        Share of each word in the slides, from `word_frequencies`.
    """

    def __init__(self, query: Query, vocabulary: Vocabulary, frequencies: NDArray[np.float64]) -> None:
        self.query, self.vocabulary, self.frequencies = query, vocabulary, frequencies
        self.scorer = WordScorer(vocabulary.n_words)

    def __reduce__(self) -> tuple[Any, ...]:
        # The weights of the words are ten times larger than the rest, and are computed again in a second.
        return _describe_again, (self.query, self.vocabulary, self.frequencies, len(self.scorer.angles_deg))

    def describe(self, count: int) -> Iterator[tuple[int, int]]:
        """Compute the weights of the words in `count` rotated copies of the query.

        Only a quarter of the copies is described. A rotation by a multiple of 90
        degrees only changes the order of a descriptor's entries, so for the other
        copies the projections are rotated instead.

        Yields
        ------
        done, total : int
        """
        quarter = count // 4
        projections = turn_projections(self.vocabulary)
        steps = [(step * 360.0 / count, projections) for step in range(quarter)]
        # The rotated copy with its intermediate results, and the descriptors.
        n_values = 4 * len(self.query.comir) * int(self.query.diagonal_px) ** 2
        bytes_each = 4 * (n_values + 2 * self.vocabulary.projection[..., 0].size * MAX_SIDE_POINTS**2)
        described: list[list[tuple[float, Tensor, float]] | None] = []
        for done, described in run_side_by_side(self._describe_turns, steps, bytes_each):
            yield done, quarter
        for copies in described:
            for angle_deg, table, spacing in copies or ():
                self.scorer.add(angle_deg, table, spacing)

    def _describe_turns(
        self, angle_deg: float, projections: Sequence[Tensor]
    ) -> list[tuple[float, Tensor, float]]:
        """Return angle, table and cell spacing (in pools) of a copy rotated by 0, 90, 180 and 270 degrees."""
        side, inside, joined = self._describe(angle_deg)
        copies = []
        for turns, projection in enumerate(projections):
            projected = self.vocabulary.project_joined(joined, projection)
            table = self._weigh(*(torch.rot90(points, turns, (1, 2)) for points in (projected, inside)))
            # In an image rotated counter-clockwise, the query has a smaller angle.
            copies.append((normalise_angle_deg(angle_deg - 90.0 * turns), table, side / CELLS / POOL))
        return copies

    def _describe(self, angle_deg: float) -> tuple[float, Tensor, Tensor]:
        """Describe a rotated copy.

        Returns
        -------
        side : float
            Side of the copy, in grid points.
        inside : Tensor (n_blocks, rows, columns)
            Share of each point's surroundings that the query covers.
        joined : Tensor (n_blocks, rows, columns, channels * 64)
            Descriptors. The step between them is larger for a large query.
        """
        block_px, step = self.vocabulary.block_px, self.vocabulary.step_px
        templates = self.query.turn([angle_deg], level=0)
        step *= -(-templates.side // (step * MAX_SIDE_POINTS))
        spare = -templates.side % step
        pads = (spare // 2, spare - spare // 2) * 2
        mask = torch.nn.functional.pad(templates.masks[0], pads)
        # The value outside the query is that of glass in the index, a whole grey level without rounding noise.
        grey = torch.nn.functional.pad(templates.pixels[0] / 2 + GLASS, pads, value=GLASS)
        joined = join_channels(grey, step, block_px)
        inside = torch.stack([share_inside(mask, size_px, step, joined.shape[1]) for size_px in block_px])
        return (templates.side + spare) / self.vocabulary.step_px, inside, joined

    def _weigh(self, projected: Tensor, inside: Tensor) -> Tensor:
        """Return the table of words of a rotated copy, see `make_table`."""
        vocabulary = self.vocabulary
        cells = find_cells(*projected.shape[1:3])
        counts = np.zeros((vocabulary.n_blocks, vocabulary.n_words + 1, CELLS**2))
        for block, covered in enumerate(inside.flatten(1)):
            keep = covered >= MIN_INSIDE
            if not keep.any():
                continue
            words, distances = vocabulary.nearest(projected[block].flatten(0, 1)[keep], block, NEAREST_WORDS)
            numbers = np.minimum(words, vocabulary.n_words).astype(np.intp)
            votes = vote(distances, covered[keep].numpy())
            np.add.at(counts[block], (numbers, cells[keep].numpy()[:, None]), votes)
        return make_table(counts, vocabulary.idf, self.frequencies)

    def screen(self, slide: IndexedSlide, part: tuple[int, int]) -> float:
        """Return how well the words of the best window of a part fit, ignoring position and rotation.

        This is quick. It only distinguishes kinds of tissue.

        Parameters
        ----------
        slide : IndexedSlide
        part : (int, int)
            One of `parts`.
        """
        words = self._read(slide, part, 0)
        if (words == NO_WORD).all():
            return -np.inf
        return self.scorer.fit(words)

    def _read(self, slide: IndexedSlide, part: tuple[int, int], halo: int) -> NDArray[np.uint16]:
        """Read the words of a part of a slide, with `halo` more points on each side."""
        _, rows, columns = slide.words_shape
        x, y = part
        width, height = (min(PART_POINTS, extent - at) + 2 * halo for extent, at in ((columns, x), (rows, y)))
        return slide.read_words(x - halo, y - halo, width, height)

    def scan(
        self, slide: IndexedSlide, number: int, part: tuple[int, int], count: int, radius_px: float
    ) -> list[Place]:
        """Return the best windows of one part of a slide, best first.

        Parameters
        ----------
        slide : IndexedSlide
        number : int
            The slide's position in the index.
        part : (int, int)
            One of `parts`.
        count : int
            Largest number of windows.
        radius_px : float
            Of windows closer than this, in CoMIR pixels, only the best is returned.
        """
        step, halo = self.vocabulary.step_px, self.scorer.halo_points
        reach = max(1, int(radius_px / step / POOL))
        words = self._read(slide, part, halo)
        if (words[0, halo:-halo, halo:-halo] == NO_WORD).all():
            return []
        left, top = part
        return [
            Place(number, (x + left) * step, (y + top) * step, angle_deg, score, mirrored=self.query.mirrored)
            for x, y, angle_deg, score in self.scorer.find_peaks(words, reach, count)
        ]


def _describe_again(
    query: Query, vocabulary: Vocabulary, frequencies: NDArray[np.float64], n_angles: int
) -> BagOfWords:
    bag = BagOfWords(query, vocabulary, frequencies)
    for _ in bag.describe(n_angles):
        pass
    return bag


def parts(slide: IndexedSlide) -> list[tuple[int, int]]:
    """Return the (x, y) of the parts in which a slide's word map is read, in grid points."""
    _, rows, columns = slide.words_shape
    return [(x, y) for y in range(0, rows, PART_POINTS) for x in range(0, columns, PART_POINTS)]


def word_frequencies(vocabulary: Vocabulary, slides: Sequence[IndexedSlide]) -> NDArray[np.float64]:
    """Return the share of each word among the words of slides, (n_blocks, n_words)."""
    counts = np.full((vocabulary.n_blocks, vocabulary.n_words), 1e-3)
    for slide in slides:
        counts += slide.count_words(vocabulary.n_words)
    return counts / counts.sum(axis=1, keepdims=True)


def scan_slides(
    bag: BagOfWords,
    slides: list[tuple[int, IndexedSlide]],
    count: int,
    radius_px: float,
    runner: SearchRunner | None = None,
    *,
    everywhere: bool = False,
) -> Iterator[tuple[int, int, list[Place]]]:
    """Score the windows of slides, part by part.

    Parameters
    ----------
    bag : BagOfWords
    slides, count, radius_px, runner
        See `comir_search.retrieval.scan.scan_slides`.
    everywhere : bool
        Score all parts. Otherwise at most `PART_LIMIT` parts are scored: those whose
        words fit best, ignoring their position in the query.

    Yields
    ------
    done, total : int
        Number of parts.
    places : list of Place
        Distinct places, best first: some after the first parts, all at the end,
        none in between.
    """
    runner = runner or LocalSearchRunner()
    work = [(slide, number, part) for number, slide in slides for part in parts(slide)]
    screened = 0
    if len(work) > PART_LIMIT and not everywhere:
        fits: list[float | None] = []
        screened = len(work)
        for done, fits in runner.run(bag.screen, [(slide, part) for slide, _, part in work]):
            yield done, screened + PART_LIMIT, []
        work = [work[number] for number in np.argsort(np.array(fits, float))[::-1][:PART_LIMIT]]
    total = screened + len(work)
    found: list[list[Place] | None] = []
    shown = False
    for done, found in runner.run(bag.scan, [(*job, count, radius_px) for job in work]):
        first: list[Place] = []
        if done >= FIRST_PARTS and not shown:
            first, shown = keep_distinct(_join(found), radius_px, FIRST_PLACES), True
        yield screened + done, total, first
    yield total, total, keep_distinct(_join(found), radius_px, count)


def _join(found: list[list[Place] | None]) -> Iterator[Place]:
    return chain.from_iterable(places for places in found if places)
