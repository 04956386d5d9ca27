"""First stage (a): a sliding bag of words over the stored word maps.

The index stores which word lies where, not histograms, so every window of every
slide can be asked for, whatever the query's size. A turned copy of the query
gives each word a weight (tf-idf); the score of a window is the sum of the
weights of the words in it, one table look-up per grid point and a box sum, over
the norm of the window's own tf-idf vector.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, uniform_filter

from comir_search.retrieval.index import IndexedSlide
from comir_search.retrieval.places import Place, keep_distinct
from comir_search.retrieval.query import Query
from comir_search.retrieval.templates import turn_templates
from comir_search.retrieval.vocabulary import NO_WORD, Vocabulary

NEAREST_WORDS = 4  # words that a query's descriptor votes for
MIN_INSIDE = 0.55  # share of a point's surroundings that must lie in the query
PART_POINTS = 768  # side of the parts in which a slide's map is scored, grid points
BURSTINESS = 0.5  # power of the term frequency: repeated structures count less


class BagOfWords:
    """The words of one query, for several angles.

    Parameters
    ----------
    query : Query
    vocabulary : Vocabulary
    angles_deg : sequence of float
    """

    def __init__(self, query: Query, vocabulary: Vocabulary, angles_deg: NDArray[np.float64]) -> None:
        self.query, self.vocabulary, self.angles_deg = query, vocabulary, angles_deg
        self.tables = np.stack([self._weights(float(angle)) for angle in angles_deg])
        idf = np.append(vocabulary.idf, np.zeros((vocabulary.n_blocks, 1), np.float32), axis=1)
        self._squares = (idf**2).astype(np.float32)
        self._boxes = [self._box(float(angle)) for angle in angles_deg]

    def _weights(self, angle_deg: float) -> NDArray[np.float32]:
        """Return the query's tf-idf weights, (n_blocks, n_words + 1); the last is "no word"."""
        vocabulary = self.vocabulary
        templates = turn_templates(self.query.comir, self.query.size_px, [angle_deg])
        mask = templates.masks[0]
        # Outside the query lies the neutral grey that a coded zero is.
        projected = vocabulary.project((templates.pixels[0] + 1) / 2)
        counts = np.zeros((vocabulary.n_blocks, vocabulary.n_words + 1), np.float32)
        for block, size_px in enumerate(vocabulary.block_px):
            inside = _share_inside(mask, size_px, vocabulary.step_px, projected.shape[1:3])
            keep = (inside >= MIN_INSIDE).flatten()
            if not keep.any():
                continue
            words, distances = vocabulary.nearest(projected[block].flatten(0, 1)[keep], block, NEAREST_WORDS)
            votes = np.exp(-(distances - distances[:, :1]) / max(float(np.median(distances[:, -1])), 1e-6) * 4)
            votes *= inside.flatten()[keep].numpy()[:, None] / votes.sum(axis=1, keepdims=True)
            np.add.at(counts[block], np.minimum(words, vocabulary.n_words), votes)
        counts[:, -1] = 0
        weights = counts**BURSTINESS * np.append(vocabulary.idf, np.zeros((len(counts), 1)), axis=1) ** 2
        return (weights / max(float(np.linalg.norm(weights)), 1e-9)).astype(np.float32)

    def _box(self, angle_deg: float) -> tuple[int, int]:
        """Return the (rows, columns) of an upright box as large as the turned query, grid points."""
        height, width = (extent / self.vocabulary.step_px for extent in self.query.size_px)
        cos, sin = abs(np.cos(np.deg2rad(angle_deg))), abs(np.sin(np.deg2rad(angle_deg)))
        bound_y, bound_x = height * cos + width * sin, height * sin + width * cos
        shrink = np.sqrt(height * width / (bound_y * bound_x))
        return max(1, round(bound_y * shrink)), max(1, round(bound_x * shrink))

    def score(self, words: NDArray[np.uint16]) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        """Score every window of a word map.

        Parameters
        ----------
        words : ndarray (n_blocks, rows, columns) uint16

        Returns
        -------
        scores : ndarray (rows, columns) float32
            Of the window centred at each grid point, for the best angle.
        angles : ndarray (rows, columns) int
            Number of that angle.
        """
        numbers = np.where(words == NO_WORD, self.vocabulary.n_words, words).astype(np.intp)
        squares = sum(self._squares[block][numbers[block]] for block in range(len(numbers)))
        best = np.full(words.shape[1:], -np.inf, np.float32)
        best_angle = np.zeros(words.shape[1:], np.intp)
        floor = 0.1 * float(np.mean(self.vocabulary.idf**2)) * len(numbers)
        norms: dict[tuple[int, int], NDArray[np.float32]] = {}
        for angle, (table, box) in enumerate(zip(self.tables, self._boxes, strict=True)):
            weights = sum(table[block][numbers[block]] for block in range(len(numbers)))
            if box not in norms:
                norms[box] = np.sqrt(uniform_filter(squares, box, mode="constant") + floor)
            scores = uniform_filter(weights, box, mode="constant") / norms[box]
            better = scores > best
            best[better] = scores[better]
            best_angle[better] = angle
        return best, best_angle

    def scan(self, slide: IndexedSlide, number: int, count: int, radius_px: float) -> Iterator[list[Place]]:
        """Score a slide part by part.

        Yields
        ------
        list of Place
            The best windows of one part, best first, at most `count`.
        """
        step = self.vocabulary.step_px
        _, rows, columns = slide.words_shape
        halo = max(max(box) for box in self._boxes) // 2 + 1
        reach = max(1, int(radius_px / step))
        for y in range(0, rows, PART_POINTS):
            for x in range(0, columns, PART_POINTS):
                words = slide.read_words(x - halo, y - halo, PART_POINTS + 2 * halo, PART_POINTS + 2 * halo)
                if (words == NO_WORD).all():
                    yield []
                    continue
                scores, angles = self.score(words)
                peaks = scores == maximum_filter(scores, 2 * reach + 1)
                peaks &= np.isfinite(scores) & (scores > 0)
                ys, xs = np.nonzero(peaks[halo:-halo, halo:-halo])
                values = scores[ys + halo, xs + halo]
                order = np.argsort(values)[::-1][:count]
                yield [
                    Place(
                        number,
                        float((xs[i] + x + 0.5) * step),
                        float((ys[i] + y + 0.5) * step),
                        float(self.angles_deg[angles[ys[i] + halo, xs[i] + halo]]),
                        float(values[i]),
                        mirrored=self.query.mirrored,
                    )
                    for i in order
                ]


def _share_inside(mask: torch.Tensor, size_px: int, step_px: int, grid: torch.Size | tuple[int, ...]) -> torch.Tensor:
    """Return the share of each grid point's surroundings that the mask covers, (rows, columns)."""
    half = size_px // 2
    padded = torch.nn.functional.pad(mask[None], (half,) * 4)
    shares = torch.nn.functional.avg_pool2d(padded, 2 * half, 1)[0]
    first = step_px // 2
    return shares[first::step_px, first::step_px][: grid[0], : grid[1]]


def scan_slides(
    bag: BagOfWords, slides: list[tuple[int, IndexedSlide]], count: int, radius_px: float
) -> Iterator[tuple[int, int, list[Place]]]:
    """Score slides one by one; see `comir_search.retrieval.scan.scan_slides`."""
    places: list[Place] = []
    for done, (number, slide) in enumerate(slides):
        for found in bag.scan(slide, number, count, radius_px):
            places = keep_distinct([*places, *found], radius_px, count)
            yield done, len(slides), places
    yield len(slides), len(slides), places
