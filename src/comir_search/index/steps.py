"""The two steps that turn a slide into an index: embed a region, derive a block.

Both depend only on the slide, the model and the index, so they can run in any process,
in any order and repeatedly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from comir_search.index.indexed_slide import IndexedSlide
from comir_search.index.layout import (
    N_LEVELS,
    NO_WORD,
    TISSUE_CHUNK_PX,
    TISSUE_PX,
    BoolGrid,
    Layout,
    area_mean,
    comir_array,
    tissue_chunks,
)
from comir_search.index.slide_record import IntensityValues, SlideRecord, pack_bits
from comir_search.slides import Slide, tissue_mask

if TYPE_CHECKING:
    from comir_search.model.model import Model

# Glass within this distance of tissue is embedded too; pixels of the tissue mask.
TISSUE_MARGIN = 2

Chunk = tuple[tuple[int, int], NDArray[Any]]


class Pixels:
    """A part of a slide in memory, in place of the slide for `embed_region`.

    Parameters
    ----------
    slide : Slide
    box : (int, int, int, int)
        x, y, width, height in pixels of the model's size.
    halo_px : int
        Pixels around the box that are read too.
    pixel_size_um : float
    """

    def __init__(
        self, slide: Slide, box: tuple[int, int, int, int], halo_px: int, pixel_size_um: float
    ) -> None:
        x, y, width, height = box
        self.name, self.box = slide.name, box
        self._x, self._y, self._pixel_size_um = x - halo_px, y - halo_px, pixel_size_um
        self._image = slide.read_scaled(
            pixel_size_um, self._x, self._y, width + 2 * halo_px, height + 2 * halo_px
        )

    def read_scaled(self, pixel_size_um: float, x: int, y: int, width: int, height: int) -> NDArray[Any]:
        """Return a rectangle of the part in memory.

        Parameters
        ----------
        pixel_size_um : float
            Must be that of the part.
        x, y, width, height : int
            In pixels of this size, from the slide's corner.

        Raises
        ------
        ValueError
            If the rectangle is not inside the part, or the pixel size differs.
        """
        top, left = y - self._y, x - self._x
        part = self._image[max(top, 0) : top + height, max(left, 0) : left + width]
        if pixel_size_um != self._pixel_size_um or part.shape[:2] != (height, width):
            raise ValueError("a region asked for pixels that were not read")
        return part


def plan_slide(
    slide: Slide, path: str, relative_path: str | None, model: Model, modality: str, layout: Layout
) -> tuple[SlideRecord, BoolGrid]:
    """Measure a slide before it is embedded: its intensities and its tissue.

    Parameters
    ----------
    slide : Slide
    path, relative_path : str
        Absolute path, and path relative to the index.
    model : Model
    modality : str
    layout : Layout

    Returns
    -------
    record : SlideRecord
    tissue : ndarray of bool (rows, columns)
    """
    from comir_search.model.embedding import intensity_of

    height, width = slide.scaled_shape(layout.model_pixel_size_um)
    tissue = measure_tissue(slide, model, modality, layout)
    record = SlideRecord(
        name=slide.name,
        fingerprint=slide.fingerprint,
        relative_path=relative_path,
        absolute_path=path,
        pixel_size_um=slide.require_pixel_size(),
        pixel_size_source=slide.info.pixel_size_source,
        width_px=slide.info.width_px,
        height_px=slide.info.height_px,
        scaled_width_px=width,
        scaled_height_px=height,
        intensity=cast("IntensityValues", intensity_of(model, slide, modality).to_dict()),
        stored=pack_bits(tissue_chunks(layout, height, width, tissue, TISSUE_MARGIN)),
    )
    return record, tissue


def measure_tissue(slide: Slide, model: Model, modality: str, layout: Layout) -> BoolGrid:
    """Return the tissue mask on the layout's grid.

    Parameters
    ----------
    slide : Slide
    model : Model
    modality : str
    layout : Layout

    Returns
    -------
    ndarray of bool (rows, columns)
        In pixels of ``layout.tissue_pixel_size_um``.
    """
    side = model.modality(modality)
    # Empty areas of a grey brightfield image may be dark: let the slide's own pixels decide.
    is_bright = False if side.intensity == "signal" else True if side.channels == 3 else None
    mask = tissue_mask(slide, layout.tissue_pixel_size_um, is_bright)
    height, width = slide.scaled_shape(layout.model_pixel_size_um)
    rows, columns = -(-height // TISSUE_PX), -(-width // TISSUE_PX)
    # Both sizes are rounded up, so they may differ by one row or column.
    return np.pad(mask, ((0, max(rows - mask.shape[0], 0)), (0, max(columns - mask.shape[1], 0))))[
        :rows, :columns
    ]


def tissue_to_chunks(tissue: BoolGrid) -> list[Chunk]:
    """Divide the tissue mask into chunks."""
    side = TISSUE_CHUNK_PX
    rows, columns = (-(-length // side) for length in tissue.shape)
    return [
        ((row, column), tissue[row * side : (row + 1) * side, column * side : (column + 1) * side])
        for row in range(rows)
        for column in range(columns)
    ]


def read_region(slide: Slide, target: IndexedSlide, model: Model, region: tuple[int, int]) -> Pixels:
    """Read the pixels that are needed to embed a region's tissue.

    Parameters
    ----------
    slide : Slide
    target : IndexedSlide
    model : Model
    region : (int, int)
        Row and column.
    """
    layout = target.layout
    chunks = np.array(target.grid.region_chunks(region))
    (top, left), (bottom, right) = chunks.min(axis=0), chunks.max(axis=0) + 1
    side = layout.chunk_px * layout.stride
    box = int(left) * side, int(top) * side, int(right - left) * side, int(bottom - top) * side
    return Pixels(slide, box, model.halo_px, layout.model_pixel_size_um)


def embed_pixels(
    pixels: Pixels, target: IndexedSlide, model: Model, modality: str, region: tuple[int, int]
) -> list[Chunk]:
    """Embed a region; return its chunks of the finest CoMIR level.

    Parameters
    ----------
    pixels : Pixels
        From `read_region`.
    target : IndexedSlide
    model : Model
    modality : str
    region : (int, int)
        Row and column.

    Returns
    -------
    list of ((row, column), ndarray of uint8)
    """
    from comir_search.model.embedding import embed_region
    from comir_search.model.intensity import Intensity

    layout = target.layout
    x, y, width, height = pixels.box
    intensity = Intensity.from_dict(target.intensity)
    comir = embed_region(model, cast("Slide", pixels), modality, intensity, x, y, width, height)
    row0, column0 = y // layout.stride, x // layout.stride
    chunks = []
    for row, column in target.grid.region_chunks(region):
        top, left = row * layout.chunk_px - row0, column * layout.chunk_px - column0
        chunk = comir[:, top : top + layout.chunk_px, left : left + layout.chunk_px]
        chunks.append(((row, column), np.ascontiguousarray(chunk)))
    return chunks


def read_block(target: IndexedSlide, block: tuple[int, int]) -> NDArray[np.uint8]:
    """Read the finest CoMIR of a block, with the halo that its words need."""
    layout = target.layout
    y, x = (position * layout.block_px for position in block)
    halo = layout.word_halo_px
    side = layout.block_px + 2 * halo
    return target.read_comir(0, x - halo, y - halo, side, side)


def derive_block(
    comir: NDArray[np.uint8],
    target: IndexedSlide,
    model: Model,
    block: tuple[int, int],
    arrays: tuple[str, ...],
) -> dict[str, list[Chunk]]:
    """Compute the arrays that derive from the finest CoMIR: its area means and the word map.

    Parameters
    ----------
    comir : ndarray of uint8
        From `read_block`.
    target : IndexedSlide
    model : Model
    block : (int, int)
    arrays : tuple of str
        Names of the arrays to compute.

    Returns
    -------
    dict of str to list of ((row, column), ndarray)
        The block's chunks of each array.
    """
    layout = target.layout
    halo = layout.word_halo_px
    inner = comir[:, halo : halo + layout.block_px, halo : halo + layout.block_px]
    made: dict[str, list[Chunk]] = {}
    for level in range(1, N_LEVELS):
        if comir_array(level) in arrays:
            made[comir_array(level)] = _cut(area_mean(inner, 2**level), target, comir_array(level), block)
    if "words" in arrays:
        made["words"] = _cut(_words(comir, target, model, block), target, "words", block)
    return made


def _words(
    comir: NDArray[np.uint8], target: IndexedSlide, model: Model, block: tuple[int, int]
) -> NDArray[np.uint16]:
    """Return the words of a block, without words outside tissue."""
    layout, tissue, vocabulary = target.layout, target.tissue, model.vocabulary
    assert vocabulary is not None  # no index is made with a model without vocabulary
    step, halo = layout.word_step_px, layout.word_halo_px // layout.word_step_px
    count = layout.block_px // step
    words = np.full((layout.word_maps, count, count), NO_WORD, np.uint16)
    # Take the tissue pixel under the middle of each point's cell.
    middles = (
        ((position * count + np.arange(count)) * step + step // 2) * layout.stride // TISSUE_PX
        for position in block
    )
    under = [np.minimum(cells, length - 1) for cells, length in zip(middles, tissue.shape, strict=True)]
    inside = tissue[np.ix_(*under)]
    if not inside.any():
        return words
    # Compute words only for the part of the block with tissue, plus the halo that it needs.
    (y0, x0), (y1, x1) = np.argwhere(inside).min(axis=0), np.argwhere(inside).max(axis=0) + 1
    part = comir[:, y0 * step : (y1 + 2 * halo) * step, x0 * step : (x1 + 2 * halo) * step]
    described = vocabulary.project(part.astype(np.float32) / 255)
    found = vocabulary.assign(described[:, halo : halo + y1 - y0, halo : halo + x1 - x0])
    words[:, y0:y1, x0:x1] = np.where(inside[y0:y1, x0:x1], found, NO_WORD)
    return words


def _cut(image: NDArray[Any], target: IndexedSlide, array: str, block: tuple[int, int]) -> list[Chunk]:
    """Divide a block of an array into its chunks."""
    side = target.grid.chunk_side(array)
    chunks = target.grid.block_chunks(array, block)
    row0, column0 = (position * (image.shape[-1] // side) for position in block)
    return [
        (
            (row, column),
            image[
                :,
                (row - row0) * side : (row - row0 + 1) * side,
                (column - column0) * side : (column - column0 + 1) * side,
            ],
        )
        for row, column in chunks
    ]
