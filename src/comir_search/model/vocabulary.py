"""The visual vocabulary turns a CoMIR into a map of words.

It is part of the model, so new slides do not change it. At each point of a grid and for
each block size, the SURF descriptors of all CoMIR channels are joined and projected
onto the directions in which matching points of the two modalities agree best (linear
discriminants). The point gets the nearest word of the block size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from msgspec import Meta
from numpy.typing import NDArray
from torch import Tensor

from comir_search.documents import BadDocument, convert
from comir_search.matching.surf import DESCRIPTOR_LENGTH, project_surf, surf_maps
from comir_search.model.tensor_file import Shape, find_misfit

NO_WORD = 65535
MAX_WORDS = NO_WORD
MAX_DIMENSIONS = 4096
_ASSIGN_CHUNK = 1024  # descriptors at a time: their distances to all words fit into the processor's cache


@dataclass(frozen=True)
class VocabularySettings:
    """The settings of a vocabulary that are not arrays.

    Parameters
    ----------
    step_px : int
        CoMIR pixels between grid points.
    block_px : tuple of int
        Block sizes, CoMIR pixels.
    """

    step_px: Annotated[int, Meta(ge=1, le=64)]
    block_px: Annotated[tuple[Annotated[int, Meta(ge=4, le=512)], ...], Meta(min_length=1, max_length=16)]

    def shapes(self, found: Mapping[str, Shape]) -> dict[str, Shape]:
        """Return the required shapes of the arrays, by name.

        Parameters
        ----------
        found : mapping of str to tuple of int
            Their actual shapes. The numbers of channels, dimensions and words are
            taken from them, up to a limit.
        """
        projection, words = (found.get(name, ()) + (0,) * 3 for name in ("projection", "words"))
        n_blocks = len(self.block_px)
        features = DESCRIPTOR_LENGTH * max(1, projection[1] // DESCRIPTOR_LENGTH)
        dimensions = min(max(1, projection[2]), MAX_DIMENSIONS)
        n_words = min(max(1, words[1]), MAX_WORDS)
        return {
            "projection": (n_blocks, features, dimensions),
            "offset": (n_blocks, dimensions),
            "words": (n_blocks, n_words, dimensions),
            "idf": (n_blocks, n_words),
        }


@dataclass(frozen=True)
class Vocabulary:
    """Words of every block size.

    Parameters
    ----------
    step_px : int
        CoMIR pixels between grid points.
    block_px : tuple of int
        Block sizes, CoMIR pixels.
    projection : ndarray (n_blocks, channels * 64, dimensions) float32
    offset : ndarray (n_blocks, dimensions) float32
        Subtracted after projecting.
    words : ndarray (n_blocks, n_words, dimensions) float32
    idf : ndarray (n_blocks, n_words) float32
        Inverse document frequency of each word over windows of the training images
        of the indexed modality.
    """

    step_px: int
    block_px: tuple[int, ...]
    projection: NDArray[np.float32]
    offset: NDArray[np.float32]
    words: NDArray[np.float32]
    idf: NDArray[np.float32]

    @property
    def n_blocks(self) -> int:
        """Words per grid point."""
        return len(self.block_px)

    @property
    def n_words(self) -> int:
        """Words of each block size."""
        return int(self.words.shape[1])

    @property
    def halo_px(self) -> int:
        """CoMIR pixels around an area on which its words depend."""
        return max(self.block_px) * 21 // 40 + 2

    def settings(self) -> dict[str, Any]:
        """Return the settings that are not arrays, JSON-ready."""
        return {"step_px": self.step_px, "block_px": list(self.block_px)}

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return the arrays by name."""
        return {"projection": self.projection, "offset": self.offset, "words": self.words, "idf": self.idf}

    @property
    def comir_channels(self) -> int:
        """Number of channels of its CoMIRs."""
        return int(self.projection.shape[1]) // DESCRIPTOR_LENGTH

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, NDArray[np.float32]], settings: VocabularySettings | Mapping[str, Any]
    ) -> Vocabulary:
        """Build from `arrays` and `settings`.

        Raises
        ------
        BadDocument
            If a setting is out of range, or if an array is missing, unexpected or
            not finite float32 of the right shape.
        """
        name, advice = "The vocabulary", "learn it again"
        if not isinstance(settings, VocabularySettings):
            settings = convert(dict(settings), VocabularySettings, name=name, advice=advice)
        found = {key: array.shape for key, array in arrays.items()}
        if problem := find_misfit(settings.shapes(found), found):
            raise BadDocument(name, problem, advice)
        if any(array.dtype != np.float32 or not np.isfinite(array).all() for array in arrays.values()):
            raise BadDocument(name, "it contains values that are not float32 numbers", advice)
        return cls(settings.step_px, settings.block_px, **arrays)

    def project(self, comir: NDArray[np.float32] | Tensor) -> Tensor:
        """Describe a CoMIR on the grid.

        Parameters
        ----------
        comir : (channels, rows, columns) float32
            In [0, 1].

        Returns
        -------
        Tensor (n_blocks, rows // step, columns // step, dimensions) float32
            NaN where the CoMIR is constant in every channel.
        """
        matrices, offset = torch.from_numpy(self.projection), torch.from_numpy(self.offset)
        image = torch.as_tensor(comir, dtype=torch.float32)
        projected = project_surf(image, matrices, step_px=self.step_px, block_px=self.block_px)
        return projected.sub_(offset[:, None, None])

    def project_joined(self, joined: Tensor, projection: Tensor | None = None) -> Tensor:
        """Project descriptors from `join_channels`, with the vocabulary's projection or another; see `project`."""
        projection = torch.from_numpy(self.projection) if projection is None else projection
        offset = torch.from_numpy(self.offset)
        projected = torch.einsum("byxd,bde->byxe", joined, projection) - offset[:, None, None]
        flat = (joined == 0).all(-1, keepdim=True)
        return projected.masked_fill_(flat, torch.nan)

    def assign(self, projected: Tensor) -> NDArray[np.uint16]:
        """Return the nearest word of each projected descriptor, `NO_WORD` for NaN.

        Parameters
        ----------
        projected : Tensor (n_blocks, rows, columns, dimensions)

        Returns
        -------
        ndarray (n_blocks, rows, columns) uint16
            Exact: all words are compared, by one matrix product per block size.
        """
        found = np.empty(projected.shape[:3], np.uint16)
        for block, descriptors in enumerate(projected):
            nearest, _ = self.nearest(descriptors.flatten(0, 1), block, 1)
            found[block] = nearest[:, 0].reshape(found.shape[1:])
        return found

    def nearest(
        self, descriptors: Tensor, block: int, count: int
    ) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
        """Return the `count` nearest words of each descriptor, and their squared distances.

        Parameters
        ----------
        descriptors : Tensor (n, dimensions)
        block : int
            Number of the block size.
        count : int

        Returns
        -------
        words : ndarray (n, count) uint16
            `NO_WORD` where the descriptor is NaN.
        distances : ndarray (n, count) float32
        """
        words = torch.from_numpy(self.words[block])
        # |w|^2 - 2 d w as one product: each descriptor gets a last entry of 1.
        table = torch.cat([-2 * words, (words**2).sum(1, keepdim=True)], 1).T.contiguous()
        numbers = np.empty((len(descriptors), count), np.uint16)
        distances = np.empty((len(descriptors), count), np.float32)
        for first in range(0, len(descriptors), _ASSIGN_CHUNK):
            part = descriptors[first : first + _ASSIGN_CHUNK]
            flat = torch.isnan(part).any(1)
            part = part.nan_to_num(0.0)
            far = torch.nn.functional.pad(part, (0, 1), value=1.0) @ table
            if count == 1:  # NumPy's argmin is several times as fast as PyTorch's
                near = torch.from_numpy(far.numpy().argmin(1))[:, None]
                values = far.gather(1, near)
            else:
                values, near = far.topk(count, largest=False)
            numbers[first : first + len(part)] = near.masked_fill_(flat[:, None], NO_WORD).numpy()
            distances[first : first + len(part)] = (values + (part**2).sum(1, keepdim=True)).numpy()
        return numbers, distances


def join_channels(comir: NDArray[np.float32] | Tensor, step_px: int, block_px: Sequence[int]) -> Tensor:
    """Return the SURF descriptors of all channels side by side.

    Parameters
    ----------
    comir : (channels, rows, columns) float32
        In [0, 1].
    step_px : int
        CoMIR pixels between grid points.
    block_px : sequence of int
        Block sizes, CoMIR pixels.

    Returns
    -------
    Tensor (n_blocks, rows // step, columns // step, channels * 64) float32
    """
    maps: Tensor = surf_maps(torch.as_tensor(comir), step_px=step_px, block_px=block_px)
    return maps.permute(1, 2, 3, 0, 4).flatten(3)


def turn_projections(vocabulary: Vocabulary) -> list[Tensor]:
    """Return projections for rotated images: applied to unrotated descriptors, they give the rotated words.

    Returns
    -------
    list of Tensor (n_blocks, channels * 64, dimensions)
        For zero to three quarter turns, counter-clockwise.

    Notes
    -----
    The grid is half a pixel off its centre, so the points of the rotated image are one
    pixel away from the grid that would be used for it.
    """
    projection = torch.from_numpy(vocabulary.projection)
    unit = torch.eye(projection.shape[1])
    return [turn_entries(unit, turns) @ projection for turns in range(4)]


def turn_entries(descriptors: Tensor, turns: int) -> Tensor:
    """Return descriptors (..., channels * 64) after counter-clockwise quarter turns of the image."""
    for _ in range(turns % 4):
        cells = torch.rot90(descriptors.unflatten(-1, (-1, 4, 4, 4)), 1, (-3, -2))
        dx, dy, size_dx, size_dy = cells.unbind(-1)
        descriptors = torch.stack([dy, -dx, size_dy, size_dx], -1).flatten(-4)
    return descriptors
