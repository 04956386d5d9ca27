"""Rotated copies of a query's CoMIR for the correlation.

A template is the query's CoMIR resampled into the slide's frame for one angle, inside a
square that contains all of it, with a mask of the query's area. As everywhere, a positive
angle rotates the query's outline clockwise (see `comir_search.geometry`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from comir_search.geometry import turn_matrix


@dataclass(frozen=True)
class Templates:
    """Rotated copies of one query at one pyramid level.

    Parameters
    ----------
    pixels : Tensor (angles, channels, side, side) float32
        Zero outside the query, whose centre is the square's.
    masks : Tensor (angles, side, side) float32
        Share of each pixel that the query covers.
    angles_deg : ndarray (angles,)
    """

    pixels: Tensor
    masks: Tensor
    angles_deg: NDArray[np.float64]

    @property
    def side(self) -> int:
        """Side of the square, pixels of the level."""
        return int(self.pixels.shape[-1])


def shrink(comir: NDArray[Any], factor: int) -> NDArray[Any]:
    """Return means over factor x factor pixels as float32; the border is repeated to fill the last ones."""
    if factor == 1:
        return comir
    channels, rows, columns = comir.shape
    padded = np.pad(comir, ((0, 0), (0, -rows % factor), (0, -columns % factor)), mode="edge")
    blocks = padded.reshape(channels, padded.shape[1] // factor, factor, padded.shape[2] // factor, factor)
    return blocks.mean(axis=(2, 4), dtype=np.float32)


def turn_templates(
    comir: NDArray[np.float32],
    size_px: tuple[float, float],
    angles_deg: Sequence[float],
    *,
    level: int = 0,
    scale: float = 1.0,
    comir_level: int = 0,
) -> Templates:
    """Rotate a query's CoMIR into the slide's frame.

    Parameters
    ----------
    comir : ndarray (channels, rows, columns) float32
        Decoded CoMIR of the query; its top-left corner is the query's.
    size_px : (float, float)
        Height and width of the query, CoMIR pixels of level 0.
    angles_deg : sequence of float
    level : int
        Pyramid level: pixels of the templates are 2 ** level CoMIR pixels wide.
    scale : float
        Factor by which the query is enlarged, if its pixel size may be wrong.
    comir_level : int
        Level of `comir`, `level` or finer.
    """
    factor = 2**level
    reduced = torch.from_numpy(np.ascontiguousarray(shrink(comir, 2 ** (level - comir_level))))
    height, width = (extent * scale / factor for extent in size_px)
    side = int(np.ceil(np.hypot(height, width)))
    side += side % 2  # even, to have the centre on a pixel corner
    offsets = np.arange(side) - (side - 1) / 2
    grid_x, grid_y = np.meshgrid(offsets, offsets)
    on_slide = np.stack([grid_x, grid_y], axis=-1)
    grids, masks = [], []
    rows, columns = reduced.shape[-2:]
    for angle_deg in angles_deg:
        on_query = on_slide @ turn_matrix(angle_deg)  # the inverse rotation, for points as rows
        # A ramp of one pixel at the outline: the covered share of the pixel.
        inside = [
            np.clip(extent / 2 - np.abs(on_query[..., axis]) + 0.5, 0, 1)
            for axis, extent in ((0, width), (1, height))
        ]
        masks.append(inside[0] * inside[1])
        corner_px = on_query / scale + np.array([size_px[1], size_px[0]]) / factor / 2
        grids.append(2 * corner_px / [columns, rows] - 1)
    grid = torch.from_numpy(np.stack(grids).astype(np.float32))
    mask = torch.from_numpy(np.stack(masks).astype(np.float32))
    sampled = torch.nn.functional.grid_sample(
        reduced[None].expand(len(grid), -1, -1, -1),
        grid,
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    return Templates(sampled * mask[:, None], mask, np.asarray(angles_deg, float))


def coarsen_to(extent_px: float, limit_px: float, first: int = 0) -> int:
    """Return the finest pyramid level at which an extent is within a limit.

    Parameters
    ----------
    extent_px : float
        The extent, CoMIR pixels of level 0.
    limit_px : float
        The limit, pixels of the level.
    first : int
        The finest level to try.
    """
    return max(first, int(np.ceil(np.log2(max(extent_px / limit_px, 1.0)))))
