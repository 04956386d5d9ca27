"""How the arrays of an index are divided into regions, blocks and chunks.

A slide is embedded region by region and finished block by block. All are counted from
the slide's top-left corner and nest in each other, so two tasks never write to the
same chunk.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from comir_search.documents import Micrometres

REGION_PX = 1024
CHUNK_PX = 256
BLOCK_REGIONS = 2
TISSUE_PX = 16
TISSUE_CHUNK_PX = 1024
N_LEVELS = 4
ZERO_POINT = 128
NO_WORD = 65535
MAX_REGION_PX = 4096
# The largest slide, in model pixels: at 2 um a square of 26 cm. It limits the memory of the tissue mask.
MAX_AREA_PX = 2**34

BoolGrid = NDArray[np.bool_]
Shape = tuple[int, ...]


def comir_array(level: int) -> str:
    """Return the name of the array of a CoMIR level."""
    return f"comir/{level}"


@dataclass(frozen=True)
class Layout:
    """Sizes that are the same for all slides of an index.

    Parameters
    ----------
    model_pixel_size_um : float
        Pixel size at which the networks work. The grid of model pixels starts at
        the slide's corner.
    stride : int
        Model pixels per CoMIR pixel.
    comir_channels : int
    word_step_px : int
        CoMIR pixels per point of the word map.
    word_halo_px : int
        CoMIR pixels around a block on which its words depend.
    word_maps : int
        Words per point: one for each block size.
    region_px : int
        Side of a region, model pixels.
    """

    model_pixel_size_um: Micrometres
    stride: Annotated[int, Meta(ge=1, le=TISSUE_PX)]
    comir_channels: Annotated[int, Meta(ge=1, le=256)]
    word_step_px: Annotated[int, Meta(ge=1, le=CHUNK_PX)]
    word_halo_px: Annotated[int, Meta(ge=0, le=MAX_REGION_PX)]
    word_maps: Annotated[int, Meta(ge=1, le=64)]
    region_px: Annotated[int, Meta(ge=8 * TISSUE_PX, le=MAX_REGION_PX)] = REGION_PX

    def __post_init__(self) -> None:
        side = self.region_px // self.stride
        fits = (
            TISSUE_PX % self.stride == 0
            and self.region_px % (TISSUE_PX * 2 ** (N_LEVELS - 1)) == 0
            and side % self.chunk_px == 0
            and self.block_px % self.word_step_px == 0
            and self.word_halo_px % self.word_step_px == 0
        )
        if not fits:
            raise ValueError("regions, chunks and word steps of these sizes do not fit into each other")

    @property
    def chunk_px(self) -> int:
        """Side of a chunk of the finest CoMIR level, CoMIR pixels."""
        return min(CHUNK_PX, self.region_px // self.stride)

    @property
    def region_chunks(self) -> int:
        """Chunks along a region's side."""
        return self.region_px // self.stride // self.chunk_px

    @property
    def block_px(self) -> int:
        """Side of a block, CoMIR pixels."""
        return BLOCK_REGIONS * self.region_px // self.stride

    @property
    def tissue_pixel_size_um(self) -> float:
        """Pixel size of the tissue mask."""
        return TISSUE_PX * self.model_pixel_size_um

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of all arrays of a slide, each after those from which it is computed."""
        return ("tissue", *(comir_array(level) for level in range(N_LEVELS)), "words")

    @property
    def derived_arrays(self) -> tuple[str, ...]:
        """Names of the arrays that are computed from the finest CoMIR."""
        return self.arrays[2:]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return asdict(self)


@dataclass(frozen=True)
class SlideGrid:
    """One slide divided by a layout.

    Parameters
    ----------
    layout : Layout
    height_px, width_px : int
        Size of the slide in model pixels.
    stored : ndarray of bool (rows, columns)
        Which chunks of the finest CoMIR level contain tissue; the others are
        glass and are never written.
    """

    layout: Layout
    height_px: int
    width_px: int
    stored: BoolGrid

    @property
    def comir_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the finest CoMIR level."""
        stride = self.layout.stride
        return self.layout.comir_channels, _ceil(self.height_px, stride), _ceil(self.width_px, stride)

    def shape(self, array: str) -> Shape:
        """Return the shape of an array: (channels, rows, columns), or (rows, columns) for the tissue mask."""
        if array == "tissue":
            return _ceil(self.height_px, TISSUE_PX), _ceil(self.width_px, TISSUE_PX)
        channels, height, width = self.comir_shape
        step = self._step(array)
        count = self.layout.word_maps if array == "words" else channels
        return count, _ceil(height, step), _ceil(width, step)

    def chunk_side(self, array: str) -> int:
        """Return the side of an array's square chunks, in the array's pixels."""
        if array == "tissue":
            return TISSUE_CHUNK_PX
        if array == comir_array(0):
            return self.layout.chunk_px
        return max(1, min(self.layout.block_px // self._step(array), CHUNK_PX))

    def chunk_grid(self, array: str) -> BoolGrid:
        """Return which chunks of an array are stored, bool (rows, columns)."""
        rows, columns = (_ceil(side, self.chunk_side(array)) for side in self.shape(array)[-2:])
        if array == "tissue":
            return np.ones((rows, columns), bool)
        span = self.chunk_side(array) * self._step(array) // self.layout.chunk_px
        return reduce_any(self.stored, span)[:rows, :columns]

    def chunks(self, array: str) -> list[tuple[int, int]]:
        """Return (row, column) of the stored chunks of an array, in reading order."""
        return [(int(row), int(column)) for row, column in np.argwhere(self.chunk_grid(array))]

    def regions(self) -> list[tuple[int, int]]:
        """Return (row, column) of the regions with tissue, in reading order."""
        grid = reduce_any(self.stored, self.layout.region_chunks)
        return [(int(row), int(column)) for row, column in np.argwhere(grid)]

    def region_chunks(self, region: tuple[int, int]) -> list[tuple[int, int]]:
        """Return (row, column) of a region's chunks with tissue."""
        side = self.layout.region_chunks
        row, column = region[0] * side, region[1] * side
        inside = np.argwhere(self.stored[row : row + side, column : column + side])
        return [(row + int(down), column + int(right)) for down, right in inside]

    def blocks(self) -> list[tuple[int, int]]:
        """Return (row, column) of the blocks with tissue, in reading order."""
        grid = reduce_any(self.stored, self.layout.block_px // self.layout.chunk_px)
        return [(int(row), int(column)) for row, column in np.argwhere(grid)]

    def block_chunks(self, array: str, block: tuple[int, int]) -> list[tuple[int, int]]:
        """Return (row, column) of the stored chunks of an array (not the tissue mask) within a block."""
        side = self.layout.block_px // self._step(array) // self.chunk_side(array)
        row, column = block[0] * side, block[1] * side
        inside = np.argwhere(self.chunk_grid(array)[row : row + side, column : column + side])
        return [(row + int(down), column + int(right)) for down, right in inside]

    def block_of(self, array: str, chunk: tuple[int, int]) -> tuple[int, int]:
        """Return the block that contains a chunk of a derived array."""
        side = self.layout.block_px // self._step(array) // self.chunk_side(array)
        return chunk[0] // side, chunk[1] // side

    def region_of(self, chunk: tuple[int, int]) -> tuple[int, int]:
        """Return the region that contains a chunk of the finest CoMIR level."""
        return chunk[0] // self.layout.region_chunks, chunk[1] // self.layout.region_chunks

    def _step(self, array: str) -> int:
        """CoMIR pixels per pixel of an array."""
        return self.layout.word_step_px if array == "words" else 2 ** int(array.rsplit("/", 1)[1])


def tissue_chunks(layout: Layout, height_px: int, width_px: int, tissue: BoolGrid, margin: int) -> BoolGrid:
    """Return which chunks of the finest CoMIR level lie within `margin` tissue pixels of tissue.

    The margin keeps the edge of the stored CoMIR away from the tissue that is searched.

    Parameters
    ----------
    layout : Layout
    height_px, width_px : int
        Size of the slide in model pixels.
    tissue : ndarray of bool (rows, columns)
        The tissue mask.
    margin : int
        Width of the margin, pixels of the tissue mask.

    Returns
    -------
    ndarray of bool (chunk rows, chunk columns)
    """
    from scipy.ndimage import maximum_filter

    chunk_model_px = layout.chunk_px * layout.stride
    rows, columns = _ceil(height_px, chunk_model_px), _ceil(width_px, chunk_model_px)
    near = maximum_filter(tissue, 2 * margin + 1, mode="constant", cval=False)
    return reduce_any(near, chunk_model_px // TISSUE_PX)[:rows, :columns]


def reduce_any(grid: BoolGrid, span: int) -> BoolGrid:
    """Return which cells of span x span values contain a true value; the last cells may be smaller."""
    rows, columns = grid.shape
    padded = np.zeros((_ceil(rows, span) * span, _ceil(columns, span) * span), bool)
    padded[:rows, :columns] = grid
    cells = padded.reshape(padded.shape[0] // span, span, padded.shape[1] // span, span)
    return np.asarray(cells.any(axis=(1, 3)))


def area_mean(image: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Shrink coded values (channels, rows, columns) by area means, rounded half up.

    Rows and columns must be multiples of `factor`.
    """
    channels, rows, columns = image.shape
    cells = image.reshape(channels, rows // factor, factor, columns // factor, factor)
    area = factor * factor
    total = cells.sum(axis=(2, 4), dtype=np.uint32)
    return ((total + area // 2) // area).astype(np.uint8)


def _ceil(length: int, step: int) -> int:
    return -(-length // step)
