"""Score every window of a slide's word map by the words of a query.

A rotated copy of the query gives each word a weight (tf-idf) in each of 5 x 5 cells. The
score of a window is the sum of its words' weights in their cells, divided by the root of
the sum of their squares, as in a cosine: otherwise a few words repeated all over a
window would score higher than many that agree. This takes one table look-up per grid
point and block size, and two box sums.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter
from torch import Tensor

from comir_search.matching.correlation import box_means

CELLS = 5  # cells along a side: the coarse position of a word in the query
TABLE_WIDTH = 32  # entries per word: its weights in all cells, padded since this is faster to look up
POOL = 2  # grid points along a side that are scored together, since coarse positions are enough
ENERGY_FLOOR = 0.05  # added to the squared weights of a window, which are about 0.25 by chance
SOFTNESS = 4.0  # how strongly votes decrease from the nearest word to the next
BURSTINESS = 0.5  # exponent of the term frequency: repeated structures count less


class WordScorer:
    """The weights of a query's words in each cell, for several angles.

    Parameters
    ----------
    n_words : int
        Words of the vocabulary for each block size.
    """

    def __init__(self, n_words: int) -> None:
        self.n_words = n_words
        self.angles_deg: list[float] = []
        self._tables: list[Tensor] = []
        self._spacings: list[float] = []

    def add(self, angle_deg: float, table: Tensor, spacing: float) -> None:
        """Add a rotated copy of the query.

        Parameters
        ----------
        angle_deg : float
        table : Tensor (n_blocks * (n_words + 1), TABLE_WIDTH)
            From `make_table`.
        spacing : float
            Distance between cells, in pools.
        """
        self.angles_deg.append(angle_deg)
        self._tables.append(table)
        self._spacings.append(spacing)

    @property
    def halo_points(self) -> int:
        """Grid points around a part on which its scores depend, in whole pools."""
        return POOL * int(np.ceil(max(self._spacings) * (CELLS / 2) + 2))

    def score(self, words: NDArray[np.uint16]) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        """Score every window of a word map.

        Parameters
        ----------
        words : ndarray (n_blocks, rows, columns) uint16

        Returns
        -------
        scores : ndarray (rows / POOL, columns / POOL) float32
            Score of the window centred at each pool of grid points, for the best angle.
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
        """Collect the words of each pool of points.

        Returns
        -------
        bags : Tensor (n, n_blocks * POOL ** 2) int32
            Rows of the tables, for the pools with words.
        at : Tensor (n,) int64
            Numbers of these pools among all pools.
        shape : (int, int)
            Rows and columns of pools.
        """
        n_blocks, n_words = len(words), self.n_words
        edges = ((0, 0), (0, -words.shape[1] % POOL), (0, -words.shape[2] % POOL))
        numbers = np.pad(np.minimum(words, n_words).astype(np.int32), edges, constant_values=n_words)
        pooled = torch.from_numpy(numbers).unflatten(2, (-1, POOL)).unflatten(1, (-1, POOL))
        bags = pooled.permute(1, 3, 0, 2, 4).flatten(3).flatten(0, 1)
        at = (bags < n_words).flatten(1).any(1).nonzero()[:, 0]
        first = torch.arange(n_blocks, dtype=torch.int32)[:, None] * (n_words + 1)
        return (bags[at] + first).flatten(1), at, (pooled.shape[1], pooled.shape[3])

    def fit(self, words: NDArray[np.uint16]) -> float:
        """Return how well the words of a map's best window fit, without regard to positions and rotation.

        This is fast, but only distinguishes kinds of tissue.

        Parameters
        ----------
        words : ndarray (n_blocks, rows, columns) uint16
            At least one point must have a word.
        """
        bags, at, shape = self._pool(words)
        weights = torch.zeros(2, shape[0] * shape[1], dtype=torch.float64)
        weights[0, at] = self._plain_table[bags].sum(1)
        weights[1] = weights[0] ** 2
        side = round(CELLS * self._spacings[0])
        # If the map is narrower than the query, the rest of the window has no words.
        edges = (0, max(side - shape[1], 0), 0, max(side - shape[0], 0))
        sums, energies = box_means(torch.nn.functional.pad(weights.view(2, *shape), edges), side)
        return float((sums / (energies + ENERGY_FLOOR).sqrt()).max())

    @cached_property
    def _plain_table(self) -> Tensor:
        """The words' weights for any cell and angle: they describe the kind of tissue."""
        return torch.stack([table[:, : CELLS**2].mean(1) for table in self._tables]).mean(0).double()

    def find_peaks(
        self, words: NDArray[np.uint16], reach: int, count: int
    ) -> list[tuple[float, float, float, float]]:
        """Return the best windows of a map, best first.

        Parameters
        ----------
        words : ndarray (n_blocks, rows, columns) uint16
            The searched part, with `halo_points` more on each side.
        reach : int
            Only the best of windows closer than this is returned, in pools.
        count : int
            Largest number of windows.

        Returns
        -------
        list of (x, y, angle_deg, score)
            Centres in grid points from the corner of the searched part.
        """
        scores, angles = self.score(words)
        edge = self.halo_points // POOL
        inner = slice(edge, -edge)  # halos are whole pools, and so are all parts except the last
        scores, angles = scores[inner, inner], angles[inner, inner]
        peaks = (scores == maximum_filter(scores, 2 * reach + 1)) & (scores > 0)
        ys, xs = np.nonzero(peaks)
        order = np.argsort(scores[ys, xs])[::-1][:count]
        return [
            (
                float((xs[i] + 0.5) * POOL),
                float((ys[i] + 0.5) * POOL),
                self.angles_deg[angles[ys[i], xs[i]]],
                float(scores[ys[i], xs[i]]),
            )
            for i in order
        ]


def vote(distances: NDArray[np.floating], covered: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the vote of each descriptor for each of its nearest words, (n, nearest).

    Parameters
    ----------
    distances : ndarray (n, nearest)
        Distances to these words, the nearest first.
    covered : ndarray (n,)
        Share of each descriptor's block that the query covers; its votes sum up to this.
    """
    spread = max(float(np.median(distances[:, -1])), 1e-6) / SOFTNESS
    votes: NDArray[np.floating] = np.exp(-(distances - distances[:, :1]) / spread)
    votes *= covered[:, None] / votes.sum(axis=1, keepdims=True)
    return votes


def make_table(
    counts: NDArray[np.float64], idf: NDArray[np.floating], frequencies: NDArray[np.float64]
) -> Tensor:
    """Return the tf-idf weights of the words in each cell, (n_blocks * (n_words + 1), TABLE_WIDTH).

    Parameters
    ----------
    counts : ndarray (n_blocks, n_words + 1, CELLS ** 2)
        Votes for each word in each cell; the last word means no word.
    idf : ndarray (n_blocks, n_words)
    frequencies : ndarray (n_blocks, n_words)
        Frequency of each word on the slides.
    """
    weights = counts**BURSTINESS
    weights[:, :-1] *= idf[..., None] ** 2
    weights[:, -1] = 0
    # Subtract the score of the slides' mean words and divide by the random spread: the scores of the rotated
    # copies can then be compared.
    shares = frequencies[..., None]
    weights[:, :-1] -= (weights[:, :-1] * shares).sum(axis=1, keepdims=True)
    chance = np.sqrt((weights[:, :-1] ** 2 * shares).sum())
    weights /= max(float(chance), 1e-9) * POOL**2
    table = torch.zeros(weights.shape[0] * weights.shape[1], TABLE_WIDTH)
    table[:, : CELLS**2] = torch.from_numpy(weights).flatten(0, 1)
    return table


def find_cells(rows: int, columns: int) -> Tensor:
    """Return the cell of each of rows x columns points of a query, flattened."""
    row_cells = torch.arange(rows) * CELLS // rows
    column_cells = torch.arange(columns) * CELLS // columns
    return (row_cells[:, None] * CELLS + column_cells).flatten()


def share_inside(mask: Tensor, size_px: int, step_px: int, side: int) -> Tensor:
    """Return the share of each grid point's block that the mask covers.

    Parameters
    ----------
    mask : Tensor (rows, columns)
    size_px : int
        Side of a block.
    step_px : int
        Distance between grid points.
    side : int
        Grid points along a side.

    Returns
    -------
    Tensor (side, side)
    """
    half = size_px // 2
    padded = torch.nn.functional.pad(mask[None], (half,) * 4)
    first = step_px // 2
    shares = torch.nn.functional.avg_pool2d(padded[:, first:, first:], 2 * half, step_px)[0]
    return shares[:side, :side]


def _gather_cells(weights: Tensor, spacing: float) -> tuple[Tensor, Tensor]:
    """Sum up each window's cells: means over cells, each at its position in the window.

    Parameters
    ----------
    weights : Tensor (CELLS ** 2, rows, columns)
    spacing : float
        Distance between cells, pixels of `weights`.

    Returns
    -------
    sums, energies : Tensor (rows, columns)
        Sums of the weights and of their squares.
    """
    rows, columns = weights.shape[1:]
    offsets = [round((cell - CELLS // 2) * spacing) for cell in range(CELLS)]
    reach = offsets[-1]
    # All cells have the same size: shifted onto each other, they need only one box sum.
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
