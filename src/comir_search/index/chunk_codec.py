"""Decode the chunks of an index (Zarr's codecs bytes, zstd and crc32c) with a memory limit.

Zarr writes the chunks. They are decoded here for two reasons: the size of a chunk is
known before it is read, and a damaged chunk must not be confused with one that the
operating system cannot read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from google_crc32c import value as crc32c
from msgspec import Meta
from numcodecs import zstd
from numpy.typing import NDArray

CODECS = ("bytes", "zstd", "crc32c")
_CHECKSUM_BYTES = 4

Sides = tuple[Annotated[int, Meta(ge=0, le=2**53)], ...]


@dataclass(frozen=True)
class _ChunkSides:
    chunk_shape: Sides


@dataclass(frozen=True)
class _ChunkGrid:
    name: Literal["regular"]
    configuration: _ChunkSides


@dataclass(frozen=True)
class _KeyEncoding:
    name: Literal["default"]


@dataclass(frozen=True)
class _CodecOptions:
    endian: Literal["little"] = "little"


@dataclass(frozen=True)
class _Codec:
    name: str
    configuration: _CodecOptions = _CodecOptions()


@dataclass(frozen=True)
class ArrayDescription:
    """The parts of an array's ``zarr.json`` on which reading depends."""

    shape: Sides
    data_type: str
    chunk_grid: _ChunkGrid
    chunk_key_encoding: _KeyEncoding
    fill_value: bool | int
    codecs: tuple[_Codec, ...]
    zarr_format: Literal[3]
    node_type: Literal["array"]
    storage_transformers: tuple[Any, ...] = ()

    def find_difference(
        self, shape: tuple[int, ...], chunk_shape: tuple[int, ...], dtype: str, fill: bool | int
    ) -> str:
        """Return how this description differs from that of an index array, "" if it does not.

        Parameters
        ----------
        shape, chunk_shape : tuple of int
            Shapes of the array and of its chunks.
        dtype : str
            NumPy name of the data type.
        fill : bool or int
            Value of chunks that are not stored.
        """
        if self.shape != shape or self.chunk_grid.configuration.chunk_shape != chunk_shape:
            return "its shape differs from that in slide.json"
        if self.data_type != dtype or self.fill_value != fill:
            return "its data type is not that of an index"
        if tuple(codec.name for codec in self.codecs) != CODECS or self.storage_transformers:
            return "its compression is not that of an index"
        return ""


def max_bytes_of(shape: tuple[int, ...], dtype: str) -> int:
    """Return the largest possible size on the disk of a chunk with this shape, in bytes."""
    raw = math.prod(shape) * np.dtype(dtype).itemsize
    return raw + raw // 128 + 1024


def decode_chunk(content: bytes, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Decode one chunk.

    Parameters
    ----------
    content : bytes
        Content of the file.
    shape : tuple of int
        Shape of the whole chunk, also at the array's border.
    dtype : {"bool", "uint8", "uint16"}

    Returns
    -------
    ndarray

    Raises
    ------
    ValueError
        If the chunk is damaged. Decoding never takes more memory than the shape needs.
    """
    if len(content) > max_bytes_of(shape, dtype):
        raise ValueError("it is larger than a chunk can be")
    packed, checksum = content[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
    if crc32c(packed).to_bytes(_CHECKSUM_BYTES, "little") != checksum:
        raise ValueError("checksum")
    stored = np.dtype(np.uint8 if dtype == "bool" else dtype).newbyteorder("<")
    values = np.zeros(shape, stored)
    raw = values.reshape(-1).view(np.uint8)
    try:
        zstd.decompress(packed, raw)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"it cannot be decompressed: {error}") from None
    return values.astype(bool) if dtype == "bool" else values.astype(dtype, copy=False)
