"""The chunks of an index as the disk holds them: Zarr's codecs bytes, zstd and crc32c, decoded within bounds.

Zarr writes them. They are decoded here, because what a chunk may take is known
before it is read, and because a chunk that is damaged must not be confused with
one that the operating system cannot read.
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
    """What the ``zarr.json`` of an array says, as far as reading it depends on that."""

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
        """Return what differs from an array as it is written, empty where nothing does."""
        if self.shape != shape or self.chunk_grid.configuration.chunk_shape != chunk_shape:
            return "another shape than slide.json says"
        if self.data_type != dtype or self.fill_value != fill:
            return "another type than an index has"
        if tuple(codec.name for codec in self.codecs) != CODECS or self.storage_transformers:
            return "another compression than an index has"
        return ""


def max_bytes_of(shape: tuple[int, ...], dtype: str) -> int:
    """Return the largest number of bytes that a chunk of that shape can take on the disk."""
    raw = math.prod(shape) * np.dtype(dtype).itemsize
    return raw + raw // 128 + 1024


def decode_chunk(content: bytes, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Decode one chunk.

    Parameters
    ----------
    content : bytes
        The file.
    shape : tuple of int
        Of the whole chunk, also at the array's border.
    dtype : {"bool", "uint8", "uint16"}

    Returns
    -------
    ndarray

    Raises
    ------
    ValueError
        If it is not what was written. No more memory is taken than the shape needs.
    """
    if len(content) > max_bytes_of(shape, dtype):
        raise ValueError("larger than a chunk can be")
    packed, checksum = content[:-_CHECKSUM_BYTES], content[-_CHECKSUM_BYTES:]
    if crc32c(packed).to_bytes(_CHECKSUM_BYTES, "little") != checksum:
        raise ValueError("checksum")
    stored = np.dtype(np.uint8 if dtype == "bool" else dtype).newbyteorder("<")
    values = np.zeros(shape, stored)
    raw = values.reshape(-1).view(np.uint8)
    try:
        zstd.decompress(packed, raw)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"cannot be decompressed: {error}") from None
    return values.astype(bool) if dtype == "bool" else values.astype(dtype, copy=False)
