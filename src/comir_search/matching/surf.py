"""Dense upright SURF: 64 numbers for each point of a grid and each block size.

The algorithm follows OpenCV (Bay et al. 2008, as used by MATLAB's ``bagOfFeatures``).
At scale ``s = block / 20`` the area around a point is averaged over squares of ``s``
px. 2 x 2 differences of these samples give 20 x 20 gradients, which are weighted by a
Gaussian of 3.3 samples. Each of 4 x 4 cells sums up ``dx, dy, |dx|, |dy|``.

OpenCV resamples around each point separately. Here all points share their samples: a
cell of 5 samples is ``block / 4`` px wide, a simple fraction of the grid step, so the
samples lie on a few common lattices, one for each *phase* of the grid against the
cells. Sampling and summing are matrix products over one axis at a time, on tiles that
fit into the processor's cache, so the cost does not depend on the block size. Blocks
are centred exactly, while OpenCV rounds blocks of even width by half a pixel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from comir_search.errors import ComirSearchError

BLOCKS_PX = (32, 64, 96, 128)
STEP_PX = 8
DESCRIPTOR_LENGTH = 64

_CELLS = 4
_CELL_SAMPLES = 5
_SIGMA_SAMPLES = 3.3
_GREY_LEVELS = 255
# Means of a few grey values often lie midway between two levels. They are always rounded up.
_TIE = 1 / 4096
_TILE_POINTS = 48  # a multiple of 2, 3 and 4, the usual numbers of phases


@dataclass(frozen=True)
class DenseFeatures:
    """Descriptors of the points of a grid.

    Parameters
    ----------
    xy : ndarray (n, 2), float32
        Points as pixel-centre indices (the pixel at the top left is (0, 0)).
    block_px : ndarray (n,), int32
        Width of the block that each descriptor covers.
    descriptors : ndarray (n, d), float32
        L2-normalised rows; all zero where the image is flat.
    """

    xy: NDArray[np.float32]
    block_px: NDArray[np.int32]
    descriptors: NDArray[np.float32]


def dense_surf(
    image: NDArray[np.floating] | Tensor, *, step_px: int = STEP_PX, block_px: Sequence[int] = BLOCKS_PX
) -> DenseFeatures:
    """Describe an image by upright SURF on a grid, at several block sizes.

    Parameters
    ----------
    image : (height, width) float
        Grey values in [0, 1]; values outside are clipped.
    step_px : int
        Spacing of the grid. Points lie at ``step // 2 + step * i``, ``width //
        step`` by ``height // step`` of them for each block size. Beyond the image its
        border is repeated.
    block_px : sequence of int
        Widths of the blocks.

    Returns
    -------
    DenseFeatures
        Ordered by block size, then row, then column; descriptors (n, 64).
    """
    maps = np.asarray(torch.as_tensor(surf_maps(image, step_px=step_px, block_px=block_px)).cpu())
    n_blocks, rows, columns, length = maps.shape
    y, x = np.mgrid[:rows, :columns] * step_px + step_px // 2
    xy = np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32)
    return DenseFeatures(
        xy=np.tile(xy, (n_blocks, 1)),
        block_px=np.repeat(np.asarray(block_px, np.int32), rows * columns),
        descriptors=maps.reshape(-1, length),
    )


def surf_maps(
    image: NDArray[np.floating] | Tensor, *, step_px: int = STEP_PX, block_px: Sequence[int] = BLOCKS_PX
) -> NDArray[np.float32] | Tensor:
    """Return the descriptors of `dense_surf` as maps over the grid.

    Parameters
    ----------
    image : (..., height, width) float, ndarray or tensor
        Grey values in [0, 1]; leading axes (channels, batch) are kept.
    step_px, block_px
        As in `dense_surf`; any block sizes, such as 16 at step 4.

    Returns
    -------
    (..., n_blocks, height // step, width // step, 64) float32
        An array for an array, a tensor on the same device for a tensor.
    """
    with torch.no_grad():
        tensor = torch.as_tensor(image).to(torch.float32)
        batch, (height, width) = tensor.shape[:-2], tensor.shape[-2:]
        points = _points((height, width), step_px, block_px)
        images = tensor.reshape(-1, height, width)
        maps = tensor.new_empty((len(images), len(block_px), *points, DESCRIPTOR_LENGTH))
        order = _standard_order()
        for rows, columns, block, number, found in _describe_tiles(images, step_px, block_px):
            norms = found.norm(dim=2, keepdim=True) + torch.finfo(torch.float32).eps
            maps[number, block, rows, columns] = _in_order(found / norms, rows, columns)[..., order]
        maps = maps.reshape(*batch, *maps.shape[1:])
    return maps if isinstance(image, Tensor) else maps.cpu().numpy()


def project_surf(image: Tensor, projection: Tensor, *, step_px: int, block_px: Sequence[int]) -> Tensor:
    """Return projections of all channels' descriptors, without keeping the descriptors in memory.

    Parameters
    ----------
    image : Tensor (channels, height, width) float32
        Grey values in [0, 1].
    projection : Tensor (n_blocks, channels * 64, dimensions) float32
        Applied to the channels' normalised descriptors side by side.
    step_px, block_px
        As in `surf_maps`.

    Returns
    -------
    Tensor (n_blocks, height // step, width // step, dimensions) float32
        NaN where all channels are flat.
    """
    with torch.no_grad():
        points = _points((image.shape[1], image.shape[2]), step_px, block_px)
        n_blocks, _, dimensions = projection.shape
        # One matrix per channel, with features in the order of the tiles.
        matrices = projection.unflatten(1, (len(image), -1))[
            :, :, _standard_order().argsort()
        ].mT.contiguous()
        projected = image.new_empty((n_blocks, *points, dimensions))
        total, flat = image.new_zeros(()), torch.ones((), dtype=torch.bool, device=image.device)
        for rows, columns, block, channel, found in _describe_tiles(image, step_px, block_px):
            norms = found.square().sum(2, keepdim=True).sqrt_()
            part = matrices[block, channel] @ found.flatten(3).flatten(0, 1)
            part = part.reshape(*found.shape[:2], -1, *found.shape[3:])
            part /= norms + torch.finfo(torch.float32).eps
            total, flat = (total + part, flat & (norms == 0)) if channel else (part, norms == 0)
            if channel == len(image) - 1:
                total = total.masked_fill_(flat, torch.nan)
                projected[block, rows, columns] = _in_order(total, rows, columns)
    return projected


def _points(shape: tuple[int, int], step_px: int, block_px: Sequence[int]) -> tuple[int, int]:
    """Return the rows and columns of the grid."""
    if step_px < 1 or not block_px or min(block_px) < 4:
        raise ComirSearchError(
            f"dense SURF takes steps of 1 px and blocks of 4 px or more, not {step_px} and {block_px}"
        )
    return shape[0] // step_px, shape[1] // step_px


def _in_order(values: Tensor, rows: slice, columns: slice) -> Tensor:
    """Reorder a tile's values (phases, cycles, n, phases, cycles) of columns and rows to (rows, columns, n)."""
    turned = values.permute(4, 3, 1, 0, 2).flatten(2, 3).flatten(0, 1)
    return turned[: rows.stop - rows.start, : columns.stop - columns.start]


def _standard_order() -> Tensor:
    """Return the number in a descriptor of each of a tile's features (cell column, cell row, kind)."""
    order = torch.arange(DESCRIPTOR_LENGTH).reshape(_CELLS, _CELLS, _CELLS)
    return order.permute(1, 0, 2).flatten()


def _describe_tiles(
    images: Tensor, step_px: int, block_px: Sequence[int]
) -> Iterator[tuple[slice, slice, int, int, Tensor]]:
    """Describe images (n, height, width) tile by tile.

    Yields
    ------
    rows, columns : slice
        The points of the tile.
    block, number : int
        Numbers of the block size and of the image; the image changes fastest.
    found : Tensor (phases, cycles, 64, phases, cycles) float32
        Descriptors of columns and rows before normalisation, for `_in_order`;
        features are in the order (cell column, cell row, kind).
    """
    margin = max(block_px) * 21 // 40 + 2
    height, width = images.shape[-2:]
    grey = pad(images.clamp(0, 1)[None], (margin,) * 4, mode="replicate")[0].mul_(_GREY_LEVELS)
    n_rows, n_columns = height // step_px, width // step_px
    for y in range(0, n_rows, _TILE_POINTS):
        for x in range(0, n_columns, _TILE_POINTS):
            rows, columns = min(_TILE_POINTS, n_rows - y), min(_TILE_POINTS, n_columns - x)
            tile = grey[
                :,
                y * step_px : (y + rows) * step_px + 2 * margin,
                x * step_px : (x + columns) * step_px + 2 * margin,
            ].contiguous()
            for block, size_px in enumerate(block_px):
                axes = [_Axis.of(count, step_px, size_px, margin, grey.device) for count in (rows, columns)]
                for number, image in enumerate(tile):
                    yield slice(y, y + rows), slice(x, x + columns), block, number, _describe(image, *axes)


@dataclass(frozen=True)
class _Axis:
    """How the points of a tile are sampled along one axis.

    Parameters
    ----------
    sampling : Tensor (phases * (samples + 1), pixels)
        Matrix from pixels to samples.
    phases, cycles : int
        Point number i has phase i % phases and cycle i // phases.
    samples : int
        Gradients per phase.
    stride : int
        Gradients from one cycle to the next.
    """

    sampling: Tensor
    phases: int
    cycles: int
    samples: int
    stride: int

    @staticmethod
    @lru_cache(maxsize=256)
    def of(count: int, step_px: int, block: int, margin: int, device: torch.device) -> _Axis:
        """Return the axis of `count` points; the first one lies half a step after the margin."""
        turns = Fraction(step_px * _CELLS, block)  # cells from one point to the next
        cycles = -(-count // turns.denominator)
        spacing = block / (_CELLS * _CELL_SAMPLES)
        samples = (turns.numerator * (cycles - 1) + _CELLS) * _CELL_SAMPLES
        first = margin + step_px // 2 + 0.5 - spacing * (_CELLS * _CELL_SAMPLES + 1) / 2
        edges = first + spacing * torch.arange(samples + 2, dtype=torch.float64)
        edges = edges + step_px * torch.arange(turns.denominator)[:, None]
        # The last cycle may go beyond the tile; those points are dropped.
        pixels = torch.arange(count * step_px + 2 * margin)
        upper, lower = edges[:, 1:, None].minimum(pixels + 1), edges[:, :-1, None].maximum(pixels)
        sampling = ((upper - lower).clamp_(min=0) / spacing).flatten(0, 1).to(device, torch.float32)
        return _Axis(sampling, turns.denominator, cycles, samples, turns.numerator * _CELL_SAMPLES)


def _describe(grey: Tensor, down: _Axis, across: _Axis) -> Tensor:
    """Return the descriptors of a tile of grey levels, (phase, cycle, 64, phase, cycle) of columns and of rows."""
    samples = down.sampling @ grey @ across.sampling.T
    # Round to 8 bits as OpenCV does; in flat areas rounding noise then does not look like texture.
    samples = samples.add_(_TIE).round_().unflatten(0, (down.phases, -1)).unflatten(2, (across.phases, -1))
    to_right = samples[..., 1:] - samples[..., :-1]
    to_below = samples[:, 1:] - samples[:, :-1]
    maps = samples.new_empty((4, down.phases, down.samples, across.phases, across.samples))
    torch.add(to_right[:, 1:], to_right[:, :-1], out=maps[0])
    torch.add(to_below[..., 1:], to_below[..., :-1], out=maps[1])
    torch.abs(maps[:2], out=maps[2:])
    # (kind, phase, cycle, cell row, x), then (x, cell row, kind, phase, cycle): one whole transposition is fastest.
    cells = _add_cells(maps.flatten(3), down).permute(3, 0, 1, 2, 4).flatten(0, 3).T.contiguous()
    found = _add_cells(cells.unflatten(0, (across.phases, across.samples)), across)
    return found.reshape(across.phases, across.cycles, DESCRIPTOR_LENGTH, down.phases, down.cycles)


def _add_cells(maps: Tensor, axis: _Axis) -> Tensor:
    """Sum up the cells of each point along the second last axis: (..., samples, n) to (..., cycles, cells, n)."""
    *lead, _, width = maps.shape
    n_samples = _CELLS * _CELL_SAMPLES
    # The samples point by point; neighbouring points share some of them.
    around = maps.as_strided(
        (*lead, axis.cycles, n_samples, width), (*maps.stride()[:-2], axis.stride * width, width, 1)
    )
    return _cell_weights(maps.device) @ around


@lru_cache(maxsize=8)
def _cell_weights(device: torch.device) -> Tensor:
    """Return the weights of the samples around a point in each of its cells along one axis, (cell, sample)."""
    n_samples = _CELLS * _CELL_SAMPLES
    offsets = torch.arange(n_samples) - (n_samples - 1) / 2
    gaussian = torch.exp(-(offsets**2) / (2 * _SIGMA_SAMPLES**2))
    gaussian /= gaussian.sum()
    cell_of = torch.arange(n_samples) // _CELL_SAMPLES
    return torch.where(cell_of == torch.arange(_CELLS)[:, None], gaussian, 0.0).to(device)
