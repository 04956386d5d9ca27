"""Second look: a sliding bag of words over the stored word maps.

The index stores which word lies where, not histograms, so every window of every
slide can be asked for, whatever the query's size. A turned copy of the query
gives each word a weight (tf-idf) in each of 5 x 5 cells; the score of a window
is the sum of its words' weights in the cells in which they lie, over the root of
their squares' sum, as a cosine has it: else a few words, repeated all over a
window, would outdo many that agree. That takes one table look-up per grid point
and block size, and two box sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter
from torch import Tensor

from comir_search.geometry import normalise_angle_deg
from comir_search.retrieval.correlation import box_means
from comir_search.retrieval.index import IndexedSlide
from comir_search.retrieval.places import Place, keep_distinct
from comir_search.retrieval.query import Query
from comir_search.retrieval.runner import LocalSearchRunner, SearchRunner
from comir_search.retrieval.threads import run_side_by_side
from comir_search.retrieval.vocabulary import NO_WORD, Vocabulary, join_channels, turn_projections

GLASS = 128 / 255
CELLS = 5  # along a side: where in the query a word lies, coarsely
TABLE_WIDTH = 32  # of the words' weights in each cell, with entries to spare: looking them up is faster
SOFTNESS = 4.0  # how much less the second nearest word counts
NEAREST_WORDS = 4  # words that a query's descriptor votes for
MAX_SIDE_POINTS = 64  # of a query's points along a side that are described
MIN_INSIDE = 0.55  # share of a point's surroundings that must lie in the query
POOL = 2  # grid points along a side that are scored as one: a window's place need not be finer
PART_LIMIT = 64  # two or three large slides have as many; of more, those whose words fit best are scored
PART_POINTS = 256  # side of the parts in which a map is scored, grid points: small ones skip more glass
ENERGY_FLOOR = 0.05  # added to the squared weights of a window, which are about 0.25 by chance
BURSTINESS = 0.5  # power of the term frequency: repeated structures count less


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
        self.angles_deg: list[float] = []
        self._tables: list[Tensor] = []
        self._spacings: list[float] = []

    def __reduce__(self) -> tuple[Any, ...]:
        # The words' weights take ten times the rest, and are found again in a second.
        return _describe_again, (self.query, self.vocabulary, self.frequencies, len(self.angles_deg))

    def describe(self, count: int) -> Iterator[tuple[int, int]]:
        """Weigh the words of `count` turned copies of the query.

        Only a quarter of the copies is described: quarter turns of an image
        permute the entries of its descriptors, so turned projections do for them.

        Yields
        ------
        done, total : int
        """
        quarter = count // 4
        projections = turn_projections(self.vocabulary)
        steps = [(step * 360.0 / count, projections) for step in range(quarter)]
        # The turned copy and what is made of it, and the descriptors.
        n_values = 4 * len(self.query.comir) * int(self.query.diagonal_px) ** 2
        bytes_each = 4 * (n_values + 2 * self.vocabulary.projection[..., 0].size * MAX_SIDE_POINTS**2)
        described: list[list[tuple[float, Tensor, float]] | None] = []
        for done, described in run_side_by_side(self._describe_turns, steps, bytes_each):
            yield done, quarter
        for copies in described:
            for angle_deg, table, spacing in copies or ():
                self.angles_deg.append(angle_deg)
                self._tables.append(table)
                self._spacings.append(spacing)

    def _describe_turns(
        self, angle_deg: float, projections: Sequence[Tensor]
    ) -> list[tuple[float, Tensor, float]]:
        """Return angle, table and pools from cell to cell of a copy and of its quarter turns."""
        side, inside, joined = self._describe(angle_deg)
        copies = []
        for turns, projection in enumerate(projections):
            projected = self.vocabulary.project_joined(joined, projection)
            table = self._weigh(*(torch.rot90(points, turns, (1, 2)) for points in (projected, inside)))
            # An image turned counter-clockwise shows the query at a smaller angle.
            copies.append((normalise_angle_deg(angle_deg - 90.0 * turns), table, side / CELLS / POOL))
        return copies

    def _describe(self, angle_deg: float) -> tuple[float, Tensor, Tensor]:
        """Describe a turned copy.

        Returns
        -------
        side : float
            Of the copy, grid points.
        inside : Tensor (n_blocks, rows, columns)
            Share of each point's surroundings that the query covers.
        joined : Tensor (n_blocks, rows, columns, channels * 64)
            Descriptors; of a large query at larger steps, which are enough to know its words.
        """
        block_px, step = self.vocabulary.block_px, self.vocabulary.step_px
        templates = self.query.turn([angle_deg], level=0)
        step *= -(-templates.side // (step * MAX_SIDE_POINTS))
        spare = -templates.side % step
        pads = (spare // 2, spare - spare // 2) * 2
        mask = torch.nn.functional.pad(templates.masks[0], pads)
        # Outside the query lies what glass is in the index: a whole grey level, or rounding would look like texture.
        grey = torch.nn.functional.pad(templates.pixels[0] / 2 + GLASS, pads, value=GLASS)
        joined = join_channels(grey, step, block_px)
        inside = torch.stack([_share_inside(mask, size_px, step, joined.shape[1]) for size_px in block_px])
        return (templates.side + spare) / self.vocabulary.step_px, inside, joined

    def _weigh(self, projected: Tensor, inside: Tensor) -> Tensor:
        """Return the tf-idf weights of every cell's words, (n_blocks * (n_words + 1), TABLE_WIDTH)."""
        vocabulary = self.vocabulary
        rows, columns = projected.shape[1:3]
        row_cells = torch.arange(rows) * CELLS // rows
        column_cells = torch.arange(columns) * CELLS // columns
        cells = (row_cells[:, None] * CELLS + column_cells).flatten()
        weights = np.zeros((vocabulary.n_blocks, vocabulary.n_words + 1, CELLS**2))
        for block, covered in enumerate(inside.flatten(1)):
            keep = covered >= MIN_INSIDE
            if not keep.any():
                continue
            words, distances = vocabulary.nearest(projected[block].flatten(0, 1)[keep], block, NEAREST_WORDS)
            spread = max(float(np.median(distances[:, -1])), 1e-6) / SOFTNESS
            votes = np.exp(-(distances - distances[:, :1]) / spread)
            votes *= covered[keep].numpy()[:, None] / votes.sum(axis=1, keepdims=True)
            numbers = np.minimum(words, vocabulary.n_words).astype(np.intp)
            np.add.at(weights[block], (numbers, cells[keep].numpy()[:, None]), votes)
        weights = weights**BURSTINESS
        weights[:, :-1] *= vocabulary.idf[..., None] ** 2
        weights[:, -1] = 0
        # What a window scores by the slides' mean words says nothing: count from there, in units of the chance
        # spread, so that the turned copies can be compared.
        shares = self.frequencies[..., None]
        weights[:, :-1] -= (weights[:, :-1] * shares).sum(axis=1, keepdims=True)
        chance = np.sqrt((weights[:, :-1] ** 2 * shares).sum())
        weights /= max(float(chance), 1e-9) * POOL**2
        table = torch.zeros(weights.shape[0] * weights.shape[1], TABLE_WIDTH)
        table[:, : CELLS**2] = torch.from_numpy(weights).flatten(0, 1)
        return table

    def score(self, words: NDArray[np.uint16]) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        """Score every window of a word map.

        Parameters
        ----------
        words : ndarray (n_blocks, rows, columns) uint16

        Returns
        -------
        scores : ndarray (rows / POOL, columns / POOL) float32
            Of the window centred at each pool of grid points, for the best angle.
        angles : ndarray (rows / POOL, columns / POOL) int
            Number of that angle.
        """
        bags, at, shape = self._pool(words)
        best = torch.full(shape, -torch.inf)
        best_angle = torch.zeros(shape, dtype=torch.long)
        cells = torch.zeros(CELLS**2, shape[0] * shape[1])
        for number, (table, spacing) in enumerate(zip(self._tables, self._spacings, strict=True)):
            weights = torch.nn.functional.embedding_bag(bags, table, mode="sum")
            cells.index_copy_(1, at, weights[:, : CELLS**2].T)
            sums, energies = _gather_cells(cells.view(-1, *shape), spacing)
            scores = sums / (energies + ENERGY_FLOOR).sqrt()
            better = scores > best
            best = torch.where(better, scores, best)
            best_angle = torch.where(better, number, best_angle)
        return best.numpy(), best_angle.numpy()

    def _pool(self, words: NDArray[np.uint16]) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """Put the words of each pool of points together.

        Returns
        -------
        bags : Tensor (n, n_blocks * POOL ** 2) int32
            Rows of the tables, of the pools that hold words.
        at : Tensor (n,) int64
            Where these lie among all pools.
        shape : (int, int)
            Rows and columns of all.
        """
        n_blocks, n_words = len(words), self.vocabulary.n_words
        edges = ((0, 0), (0, -words.shape[1] % POOL), (0, -words.shape[2] % POOL))
        numbers = np.pad(np.minimum(words, n_words).astype(np.int32), edges, constant_values=n_words)
        pooled = torch.from_numpy(numbers).unflatten(2, (-1, POOL)).unflatten(1, (-1, POOL))
        bags = pooled.permute(1, 3, 0, 2, 4).flatten(3).flatten(0, 1)
        at = (bags < n_words).flatten(1).any(1).nonzero()[:, 0]
        first = torch.arange(n_blocks, dtype=torch.int32)[:, None] * (n_words + 1)
        return (bags[at] + first).flatten(1), at, (pooled.shape[1], pooled.shape[3])

    def screen(self, slide: IndexedSlide, part: tuple[int, int]) -> float:
        """Return how well the words of a part's best window fit, wherever they lie in the query, turned anyhow.

        That is quick, and tells kinds of tissue apart, no more.

        Parameters
        ----------
        slide : IndexedSlide
        part : (int, int)
            One of `parts`.
        """
        words = self._read(slide, part, 0)
        if (words == NO_WORD).all():
            return -np.inf
        bags, at, shape = self._pool(words)
        weights = torch.zeros(2, shape[0] * shape[1], dtype=torch.float64)
        weights[0, at] = self._plain_table[bags].sum(1)
        weights[1] = weights[0] ** 2
        side = round(CELLS * self._spacings[0])
        # Of a part that is narrower than the query, the rest of the window holds no words.
        edges = (0, max(side - shape[1], 0), 0, max(side - shape[0], 0))
        sums, energies = box_means(torch.nn.functional.pad(weights.view(2, *shape), edges), side)
        return float((sums / (energies + ENERGY_FLOOR).sqrt()).max())

    @cached_property
    def _plain_table(self) -> Tensor:
        """The words' weights, whatever their cell and the query's angle: what kind of tissue it shows."""
        return torch.stack([table[:, : CELLS**2].mean(1) for table in self._tables]).mean(0).double()

    def _read(self, slide: IndexedSlide, part: tuple[int, int], halo: int) -> NDArray[np.uint16]:
        """Read the words of a part of a slide, and some points around it."""
        _, rows, columns = slide.words_shape
        x, y = part
        width, height = (min(PART_POINTS, extent - at) + 2 * halo for extent, at in ((columns, x), (rows, y)))
        return slide.read_words(x - halo, y - halo, width, height)

    @property
    def halo_points(self) -> int:
        """Grid points around a part that its scores depend on, whole pools."""
        return POOL * int(np.ceil(max(self._spacings) * (CELLS / 2) + 2))

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
            At most this many.
        radius_px : float
            Of windows closer than this, CoMIR pixels, only the best.
        """
        step, halo = self.vocabulary.step_px, self.halo_points
        reach = max(1, int(radius_px / step / POOL))
        x, y = part
        words = self._read(slide, part, halo)
        if (words[0, halo:-halo, halo:-halo] == NO_WORD).all():
            return []
        scores, angles = self.score(words)
        edge = halo // POOL
        inner = slice(edge, -edge)  # halos are whole pools, and so is all but the last part
        scores, angles = scores[inner, inner], angles[inner, inner]
        peaks = (scores == maximum_filter(scores, 2 * reach + 1)) & (scores > 0)
        ys, xs = np.nonzero(peaks)
        order = np.argsort(scores[ys, xs])[::-1][:count]
        return [
            Place(
                number,
                float(((xs[i] + 0.5) * POOL + x) * step),
                float(((ys[i] + 0.5) * POOL + y) * step),
                self.angles_deg[angles[ys[i], xs[i]]],
                float(scores[ys[i], xs[i]]),
                mirrored=self.query.mirrored,
            )
            for i in order
        ]


def _describe_again(
    query: Query, vocabulary: Vocabulary, frequencies: NDArray[np.float64], n_angles: int
) -> BagOfWords:
    bag = BagOfWords(query, vocabulary, frequencies)
    for _ in bag.describe(n_angles):
        pass
    return bag


def _gather_cells(weights: Tensor, spacing: float) -> tuple[Tensor, Tensor]:
    """Add up each window's cells: means over cells, each taken where it lies in the window.

    Parameters
    ----------
    weights : Tensor (CELLS ** 2, rows, columns)
    spacing : float
        From cell to cell, pixels of `weights`.

    Returns
    -------
    sums, energies : Tensor (rows, columns)
        Of the weights and of their squares.
    """
    rows, columns = weights.shape[1:]
    offsets = [round((cell - CELLS // 2) * spacing) for cell in range(CELLS)]
    reach = offsets[-1]
    # All cells are of one size: moved onto each other, they take one box sum together.
    padded = torch.zeros((2, rows + 2 * reach, columns + 2 * reach))
    for cell, layer in enumerate(weights):
        y, x = reach - offsets[cell // CELLS], reach - offsets[cell % CELLS]
        target = padded[:, y : y + rows, x : x + columns]
        target[0] += layer
        target[1].addcmul_(layer, layer)
    moved = padded[:, reach : reach + rows, reach : reach + columns]
    side = max(1, round(spacing))
    before, after = side // 2, side - 1 - side // 2
    means = box_means(torch.nn.functional.pad(moved.double(), (before, after, before, after)), side)
    return means[0].float(), means[1].float()


def parts(slide: IndexedSlide) -> list[tuple[int, int]]:
    """Return the (x, y) of the parts in which a slide's word map is read, grid points."""
    _, rows, columns = slide.words_shape
    return [(x, y) for y in range(0, rows, PART_POINTS) for x in range(0, columns, PART_POINTS)]


def word_frequencies(vocabulary: Vocabulary, slides: Sequence[IndexedSlide]) -> NDArray[np.float64]:
    """Return the share of each word among the words of slides, (n_blocks, n_words)."""
    counts = np.full((vocabulary.n_blocks, vocabulary.n_words), 1e-3)
    for slide in slides:
        counts += slide.count_words(vocabulary.n_words)
    return counts / counts.sum(axis=1, keepdims=True)


def _share_inside(mask: Tensor, size_px: int, step_px: int, side: int) -> Tensor:
    """Return the share of each grid point's surroundings that the mask covers, (side, side)."""
    half = size_px // 2
    padded = torch.nn.functional.pad(mask[None], (half,) * 4)
    first = step_px // 2
    shares = torch.nn.functional.avg_pool2d(padded[:, first:, first:], 2 * half, step_px)[0]
    return shares[:side, :side]


def scan_slides(
    bag: BagOfWords,
    slides: list[tuple[int, IndexedSlide]],
    count: int,
    radius_px: float,
    runner: SearchRunner | None = None,
) -> Iterator[tuple[int, int, list[Place]]]:
    """Score slides part by part; see `comir_search.retrieval.scan.scan_slides`.

    Yields
    ------
    done, total : int
        Parts.
    places : list of Place
        The best, distinct, best first; only at the end.
    """
    runner = runner or LocalSearchRunner()
    work = [(slide, number, part) for number, slide in slides for part in parts(slide)]
    screened = 0
    if len(work) > PART_LIMIT:
        fits: list[float | None] = []
        screened = len(work)
        for done, fits in runner.run(bag.screen, [(slide, part) for slide, _, part in work]):
            yield done, screened + PART_LIMIT, []
        work = [work[number] for number in np.argsort(np.array(fits, float))[::-1][:PART_LIMIT]]
    total = screened + len(work)
    found: list[list[Place] | None] = []
    for done, found in runner.run(bag.scan, [(*job, count, radius_px) for job in work]):
        yield screened + done, total, []
    places = chain.from_iterable(places for places in found if places)
    yield total, total, keep_distinct(places, radius_px, count)
