"""A safe Zarr store in a folder: it reads plain files only, and no chunk that unpacks to more than its size."""

from __future__ import annotations

import bz2
import lzma
import stat
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
from zarr.storage import LocalStore

# Codecs that compress, and codecs that only rearrange or check. All others are refused: some run code.
_PACKING = frozenset({"gzip", "zlib", "zstd", "blosc", "lz4", "bz2", "lzma"})
_HARMLESS = frozenset({"bytes", "transpose", "crc32c", "crc32", "adler32", "shuffle", "bitround", "delta"})
_SHARDING = "sharding_indexed"
_MOST_METADATA_BYTES = 16 << 20
_SPARE_BYTES = 1 << 16
_INDEX_BYTES = 16  # of each chunk in a shard


@dataclass(frozen=True)
class ChunkRule:
    """What the chunk files of an array may contain.

    Parameters
    ----------
    codec : str
        Name of the codec that compresses, "" if there is none.
    chunk_bytes : int
        Size of a chunk, unpacked.
    chunks : int
        Chunks in a file: more than one if chunks are stored in shards.
    is_shard : bool
        Whether files are shards.
    index_first : bool
        Whether a shard's list of chunks is at its beginning.
    """

    codec: str
    chunk_bytes: int
    chunks: int = 1
    is_shard: bool = False
    index_first: bool = False

    @property
    def limit_bytes(self) -> int:
        """Largest allowed size of a chunk, compressed or not."""
        return 2 * self.chunk_bytes + _SPARE_BYTES


def find_rule(array: Any) -> ChunkRule:
    """Return the rule for an array's chunks.

    Raises
    ------
    ValueError
        If its codecs cannot be read.
    """
    metadata = array.metadata
    chunk_bytes = array.dtype.itemsize
    for side in array.chunks:
        chunk_bytes *= int(side)
    if metadata.zarr_format == 2:
        codecs = [*(metadata.filters or ()), *([metadata.compressor] if metadata.compressor else [])]
        return ChunkRule(_find_packing([str(codec.codec_id) for codec in codecs]), chunk_bytes)
    described = [codec.to_dict() for codec in metadata.codecs]
    names = [_name_of(codec) for codec in described]
    if _SHARDING not in names:
        return ChunkRule(_find_packing(names), chunk_bytes)
    if names != [_SHARDING]:
        raise ValueError(f"the codecs {', '.join(names)} around shards cannot be read")
    inside = described[0]["configuration"]
    packing = _find_packing([_name_of(codec) for codec in inside["codecs"]])
    if packing == "lz4":
        raise ValueError("the codec lz4 in shards cannot be read")
    number = 1
    for whole, part in zip(array.shards, array.chunks, strict=True):
        number *= -(-int(whole) // int(part))
    location = inside.get("index_location", "end")
    return ChunkRule(packing, chunk_bytes, number, True, str(getattr(location, "value", location)) == "start")


def _name_of(codec: Any) -> str:
    described = codec if isinstance(codec, dict) else codec.to_dict()
    return str(described["name"]).removeprefix("numcodecs.")


def _find_packing(names: list[str]) -> str:
    """Return the one codec that compresses, "" for none."""
    packing = [name for name in names if name in _PACKING]
    unknown = [name for name in names if name not in _PACKING | _HARMLESS]
    if unknown or len(packing) > 1:
        raise ValueError(f"the codecs {', '.join(names)} cannot be read")
    return packing[0] if packing else ""


class CheckedStore(LocalStore):
    """A Zarr folder from which only plain files of a plausible size are read.

    `rules` has the rule for the chunks of each array, by the array's path in the folder.
    """

    def __init__(self, root: Path | str, *, read_only: bool = True) -> None:
        super().__init__(root, read_only=read_only)
        self.rules: dict[str, ChunkRule] = {}

    def with_read_only(self, read_only: bool = True) -> CheckedStore:
        """Return the store itself, since it is never written to."""
        return self

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        """Return the content of a file, None if there is no file.

        Parameters
        ----------
        key : str
            Path of the file in the store.
        prototype : zarr BufferPrototype, optional
            Kind of buffer to return.
        byte_range : zarr ByteRequest, optional
            Part of the file to read; by default all of it.

        Raises
        ------
        ValueError
            If the file is not a plain file, or its content is too large.
        """
        rule = self._check_file(key, byte_range)
        found = await super().get(key, prototype, byte_range)
        if found is not None and rule is not None:
            check_chunk(found.to_bytes(), rule, is_whole=byte_range is None)
        return found

    async def get_partial_values(self, prototype: Any, key_ranges: Iterable[tuple[str, Any]]) -> list[Any]:
        """Return parts of files."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    def _check_file(self, key: str, byte_range: Any) -> ChunkRule | None:
        """Return the rule for a file's content; raise if it is not a plain file or is too large."""
        try:
            about = (Path(self.root) / key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISDIR(about.st_mode):
            return None
        if not stat.S_ISREG(about.st_mode):
            raise ValueError(f"{key} is a pipe or a device")
        name = key.rpartition("/")[2]
        if name == "zarr.json" or name.startswith(".z"):
            if about.st_size > _MOST_METADATA_BYTES:
                raise ValueError(f"{key} is {about.st_size:,} bytes large")
            return None
        rule = next((rule for path, rule in self.rules.items() if key.startswith(f"{path}/")), None)
        if rule is None:
            raise ValueError(f"{key} does not belong to an array")
        if byte_range is None and about.st_size > rule.chunks * (rule.limit_bytes + _INDEX_BYTES):
            raise ValueError(f"{key} is {about.st_size:,} bytes large, more than it unpacks to")
        return rule


def check_chunk(data: bytes, rule: ChunkRule, *, is_whole: bool) -> None:
    """Raise an error if a chunk, or any chunk of a shard, unpacks to more than the rule allows.

    Parameters
    ----------
    data : bytes
        A whole file, or a part of a shard.
    rule : ChunkRule
    is_whole : bool
        Whether it is a whole file.
    """
    pieces = [data]
    if is_whole and rule.is_shard:
        pieces = list(_split_shard(data, rule))
    for piece in pieces:
        if not _unpacks_within(piece, rule.codec, rule.limit_bytes):
            raise ValueError(f"a chunk unpacks to more than {rule.chunk_bytes:,} bytes")


def _split_shard(data: bytes, rule: ChunkRule) -> Iterable[bytes]:
    """Yield the chunks of a shard."""
    index_bytes = _INDEX_BYTES * rule.chunks
    for checksum_bytes in (4, 0):
        start = 0 if rule.index_first else len(data) - index_bytes - checksum_bytes
        index = data[max(start, 0) : max(start, 0) + index_bytes]
        for place, length in struct.iter_unpack("<QQ", index[: len(index) // 16 * 16]):
            if place + length <= len(data):
                yield data[place : place + length]


def _unpacks_within(data: bytes, codec: str, limit_bytes: int) -> bool:
    """Whether data unpack to at most a limit; data with errors are left for the decoder to report."""
    if codec in ("gzip", "zlib"):
        return _streams_within(zlib.decompressobj(zlib.MAX_WBITS | 32), data, limit_bytes)
    if codec == "bz2":
        return _streams_within(bz2.BZ2Decompressor(), data, limit_bytes)
    if codec == "lzma":
        return _streams_within(lzma.LZMADecompressor(memlimit=256 << 20), data, limit_bytes)
    if codec == "zstd":
        return _zstd_within(data, limit_bytes)
    if codec == "blosc" and len(data) >= 16:
        return int.from_bytes(data[4:8], "little") <= limit_bytes
    if codec == "lz4" and len(data) >= 4:
        return int.from_bytes(data[:4], "little") <= limit_bytes
    return True


def _streams_within(decompressor: Any, data: bytes, limit_bytes: int) -> bool:
    """Unpack piece by piece without keeping the result."""
    if len(data) * 1032 <= limit_bytes and not isinstance(
        decompressor, bz2.BZ2Decompressor | lzma.LZMADecompressor
    ):
        return True  # deflate cannot compress more strongly than this
    unpacked = 0
    try:
        while True:
            unpacked += len(decompressor.decompress(data, 1 << 20))
            if unpacked > limit_bytes:
                return False
            data = getattr(decompressor, "unconsumed_tail", b"")
            if decompressor.eof or not (data or getattr(decompressor, "needs_input", True) is False):
                return True
    except (zlib.error, OSError, lzma.LZMAError, EOFError):
        return True


def _zstd_within(data: bytes, limit_bytes: int) -> bool:
    """Read the size from a Zstandard frame; if it has none, unpack within the limit."""
    if data[:4] != b"\x28\xb5\x2f\xfd" or len(data) < 6:
        return True
    flags = data[4]
    size_code, single = flags >> 6, flags >> 5 & 1
    size_bytes = (1 if single else 0, 2, 4, 8)[size_code]
    if size_bytes == 0:
        try:
            imagecodecs.zstd_decode(data, out=limit_bytes)
        except imagecodecs.ZstdError:
            return False
        return True
    start = 5 + (0 if single else 1) + (0, 1, 2, 4)[flags & 3]
    size = int.from_bytes(data[start : start + size_bytes], "little") + (256 if size_bytes == 2 else 0)
    return size <= limit_bytes
