"""Heat map: how well a query fits at each position of a slide, by the coarse correlation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from comir_search.compute.threads import run_side_by_side
from comir_search.geometry import cells_at
from comir_search.index.index import Index, IndexedSlide
from comir_search.matching.query import Query
from comir_search.matching.templates import coarsen_to
from comir_search.progress import Job, Tick
from comir_search.retrieval.query import check_fits, check_query, prepare_query
from comir_search.retrieval.scan import Scanner
from comir_search.slides import Slide

LEVEL = 2  # level of the map; large queries have coarser maps
WIDEST_TEMPLATE_PX = 256
N_ANGLES = 36
LONGEST_PX = 1024  # longer side of the map; a larger one would show nothing more


@dataclass(frozen=True)
class HeatMap:
    """How well a query fits with its centre at each position of a slide.

    Parameters
    ----------
    fingerprint : str
        Fingerprint of the slide.
    scores : ndarray (rows, columns) float32
        The best correlation over all angles, about in [-1, 1]; NaN where there is no
        tissue.
    pixel_um : float
        Side of the map's pixels.
    first_um : float
        Distance of the first pixel's centre from the slide's corner, to the right and down.
    """

    fingerprint: str
    scores: NDArray[np.float32]
    pixel_um: float
    first_um: float

    @property
    def limits(self) -> tuple[float, float]:
        """Scores of the first and the last colour: the median and the best score."""
        known = self.scores[np.isfinite(self.scores)]
        if not len(known):
            return 0.0, 1.0
        low, high = float(np.median(known)), float(known.max())
        return low, max(high, low + 1e-3)


def heat_map_steps(
    index: Index,
    image: Slide,
    modality: str,
    fingerprint: str,
    *,
    mirror: bool = False,
) -> Job[HeatMap]:
    """Correlate a query with every position of one slide.

    Parameters
    ----------
    index : Index
    image : Slide
        Image of the query.
    modality : str
        Modality of the query.
    fingerprint : str
        Fingerprint of the slide.
    mirror : bool
        Whether to search for the flipped query too.

    Raises
    ------
    ComirSearchError
        If the slide is not in the index, or the query cannot be used.
    """
    slide = index.slide(fingerprint)
    check_query(index.model, image, modality)
    check_fits(image, [each.size_um for each in index.slides])
    yield Tick("embedding the query", 0, 1)
    queries = [
        prepare_query(index.model, image, modality, mirrored=flipped)
        for flipped in (False, True)[: 1 + mirror]
    ]
    made = yield from draw_map_steps(slide, queries, index.model.comir_pixel_size_um)
    return made


def draw_map_steps(slide: IndexedSlide, queries: Sequence[Query], comir_pixel_size_um: float) -> Job[HeatMap]:
    """Correlate a query with every position of a slide.

    The map of a large query is coarser, which bounds the memory.

    Parameters
    ----------
    slide : IndexedSlide
    queries : sequence of Query
        The query, and its mirror image if that is searched too.
    comir_pixel_size_um : float
        Pixel size of the finest CoMIR level.
    """
    level = coarsen_to(queries[0].diagonal_px, WIDEST_TEMPLATE_PX, LEVEL)
    scanners = [Scanner(query, level, N_ANGLES) for query in queries]
    factor, step_px = 2**level, scanners[0].step_px
    _, rows, columns = slide.comir_shape
    shape = -(-rows // factor), -(-columns // factor)
    scores = np.full(shape, np.nan, np.float32)
    tiles = scanners[0].tiles(slide)

    def compare(x: int, y: int) -> None:
        parts = [scanner.correlate(slide, (x, y)).numpy() for scanner in scanners]
        scores[y : y + step_px, x : x + step_px] = np.maximum.reduce(parts)

    for done, _ in run_side_by_side(compare, tiles, scanners[0].bytes_each):
        yield Tick("comparing every place", done, len(tiles))
    scores[~_spread(slide.tissue, slide.tissue_step_px / factor, shape)] = np.nan
    pixel_um = factor * comir_pixel_size_um
    step = max(1, -(-max(shape) // LONGEST_PX))
    return HeatMap(slide.fingerprint, _keep_best(scores, step), pixel_um * step, pixel_um * (step - 1) / 2)


def _spread(mask: NDArray[np.bool_], cell: float, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return a mask at a finer resolution: one pixel of the mask becomes `cell` x `cell` pixels."""
    rows, columns = (
        cells_at(np.arange(length) + 0.5, cell, count)
        for length, count in zip(shape, mask.shape, strict=True)
    )
    return mask[np.ix_(rows, columns)]


def _keep_best(scores: NDArray[np.float32], step: int) -> NDArray[np.float32]:
    """Return a smaller map with the best score of each `step` x `step` pixels, which keeps the peaks."""
    if step == 1:
        return scores
    rows, columns = scores.shape
    padded = np.pad(scores, ((0, -rows % step), (0, -columns % step)), constant_values=np.nan)
    blocks = padded.reshape(padded.shape[0] // step, step, padded.shape[1] // step, step)
    best: NDArray[np.float32] = np.where(np.isnan(blocks), -np.inf, blocks).max(axis=(1, 3))
    best[np.isneginf(best)] = np.nan
    return best
