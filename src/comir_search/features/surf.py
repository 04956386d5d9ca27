"""Dense upright SURF: 64 numbers for each point of a grid and each block size.

The realisation follows OpenCV's (Bay et al. 2008, as MATLAB's ``bagOfFeatures``
uses it): at scale ``s = block / 20`` the surroundings of a point are averaged
over areas of ``s`` px, 2 x 2 differences of those samples give 20 x 20
gradients, a Gaussian of 3.3 samples weighs them, and each of 4 x 4 cells adds up
``dx, dy, |dx|, |dy|``.

OpenCV resamples around each point anew. Here it is done once for all of them:
a cell of 5 samples is ``block / 4`` px wide, which is a simple fraction of the
grid's step, so that the samples of all points lie on a few shared lattices, one
for each *phase* of the grid against the cells. Areas come from one integral
image, so the cost does not depend on the block size. Surroundings are centred
exactly, where OpenCV rounds windows of an even width by half a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

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


@dataclass(frozen=True)
class DenseFeatures:
    """Descriptors of the points of a grid.

    Parameters
    ----------
    xy : ndarray (n, 2), float32
        Points as pixel-centre indices (the pixel at the top left is (0, 0)).
    block_px : ndarray (n,), int32
        Width of the surroundings that each descriptor sees.
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
        step`` by ``height // step`` of them for each block size; surroundings
        that leave the image see its border repeated.
    block_px : sequence of int
        Widths of the surroundings.

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
    if step_px < 1 or not block_px or min(block_px) < 4:
        raise ComirSearchError(
            f"dense SURF takes steps of 1 px and blocks of 4 px or more, not {step_px} and {block_px}"
        )
    with torch.no_grad():
        tensor = torch.as_tensor(image).to(torch.float32)
        batch, (height, width) = tensor.shape[:-2], tensor.shape[-2:]
        margin = max(block_px) * 21 // 40 + 2
        padded = pad(tensor.reshape(-1, 1, height, width).clamp(0, 1), (margin,) * 4, mode="replicate")[:, 0]
        integral = pad(padded.to(torch.float64).cumsum(-1).cumsum_(-2), (1, 0, 1, 0))
        points = height // step_px, width // step_px
        maps = torch.stack([_describe(integral, points, margin, step_px, block) for block in block_px], dim=1)
        maps = maps.reshape(*batch, *maps.shape[1:])
    return maps if isinstance(image, Tensor) else maps.cpu().numpy()


def _describe(integral: Tensor, points: tuple[int, int], margin: int, step_px: int, block: int) -> Tensor:
    """Return the maps (n, rows, columns, 64) of one block size."""
    turns = Fraction(step_px * _CELLS, block)  # cells from one point to the next
    cells_per_cycle, phases = turns.numerator, turns.denominator
    cycles = [-(-count // phases) for count in points]
    if not all(cycles):
        return integral.new_zeros((len(integral), *points, DESCRIPTOR_LENGTH), dtype=torch.float32)
    spacing = block / (_CELLS * _CELL_SAMPLES)

    edges = []
    for count, size in zip(cycles, integral.shape[-2:], strict=True):
        n_cells = cells_per_cycle * (count - 1) + _CELLS
        first = margin + step_px // 2 + 0.5 - spacing * (_CELLS * _CELL_SAMPLES + 1) / 2
        along = first + spacing * torch.arange(n_cells * _CELL_SAMPLES + 2, dtype=torch.float64)
        # The last cycle may run over the border: those points are dropped below.
        along = (along + step_px * torch.arange(phases)[:, None]).clamp(max=size - 1.001)
        edges.append(along.to(integral.device))
    samples = _box_sums(_box_sums(integral, edges[0], -2), edges[1], -1)
    # OpenCV's patch has 8 bits; it also keeps rounding noise from posing as texture where the image is flat.
    samples = (samples * (_GREY_LEVELS / spacing**2)).round_().to(torch.float32)

    across = samples[..., 1:] - samples[..., :-1]
    down = samples[:, :, 1:] - samples[:, :, :-1]
    dx = across[:, :, 1:] + across[:, :, :-1]
    dy = down[..., 1:] + down[..., :-1]
    maps = torch.stack([dx, dy, dx.abs(), dy.abs()], dim=1)
    # (n, 4, phase, y, phase, x): rows of cells first, then columns of cells.
    weights = _cell_weights().to(maps)
    n, kinds, _, n_y, _, n_x = maps.shape
    maps = weights @ maps.reshape(n, kinds, phases, n_y // _CELL_SAMPLES, _CELL_SAMPLES, phases * n_x)
    maps = _cells_of_points(maps, 3, 4, cells_per_cycle, cycles[0])
    maps = maps.reshape(*maps.shape[:-1], phases, n_x // _CELL_SAMPLES, _CELL_SAMPLES) @ weights.T
    maps = _cells_of_points(maps, 6, 7, cells_per_cycle, cycles[1])
    # (n, kind, phase y, cycle y, cell y, phase x, cycle x, cell x) -> points, then cells, then kinds.
    maps = maps.permute(0, 3, 2, 6, 5, 4, 7, 1).reshape(
        n, cycles[0] * phases, cycles[1] * phases, DESCRIPTOR_LENGTH
    )[:, : points[0], : points[1]]
    return maps / (maps.norm(dim=-1, keepdim=True) + torch.finfo(torch.float32).eps)


def _box_sums(integral: Tensor, edges: Tensor, axis: int) -> Tensor:
    """Turn running sums along `axis` into sums between fractional edges (phases, n + 1)."""
    below = edges.floor().long().flatten()
    fraction = (edges.flatten() - below).reshape(-1, *[1] * (-1 - axis))
    lower = integral.index_select(axis, below)
    lower += (integral.index_select(axis, below + 1) - lower).mul_(fraction)
    return lower.unflatten(axis, edges.shape).diff(dim=axis)


def _cell_weights() -> Tensor:
    """Return the Gaussian's weights (cell, sample within the cell)."""
    n_samples = _CELLS * _CELL_SAMPLES
    offsets = torch.arange(n_samples) - (n_samples - 1) / 2
    weights = torch.exp(-(offsets**2) / (2 * _SIGMA_SAMPLES**2))
    return (weights / weights.sum()).reshape(_CELLS, _CELL_SAMPLES)


def _cells_of_points(maps: Tensor, cell_axis: int, role_axis: int, stride: int, count: int) -> Tensor:
    """Pick for each of `count` points the cells that play the first to the last role around it."""
    roles = []
    for role in range(_CELLS):
        cells = maps.select(role_axis, role).narrow(cell_axis, role, stride * (count - 1) + 1)
        index = [slice(None)] * cells.ndim
        index[cell_axis] = slice(None, None, stride)
        roles.append(cells[tuple(index)])
    return torch.stack(roles, dim=role_axis)
