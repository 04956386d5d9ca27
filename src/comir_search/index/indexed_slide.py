"""One slide in an index: its arrays, read on demand and written chunk by chunk."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from comir_search.compute.cache import ArrayCache
from comir_search.documents import BadDocument, decode
from comir_search.errors import ComirSearchError
from comir_search.files import cannot_write, writing
from comir_search.index.chunk_codec import ArrayDescription, decode_chunk, max_bytes_of
from comir_search.index.layout import NO_WORD, TISSUE_PX, ZERO_POINT, BoolGrid, Layout, comir_array
from comir_search.index.slide_group import folder_of
from comir_search.index.slide_record import SlideRecord
from comir_search.index.storage import Storage

if TYPE_CHECKING:
    import zarr

_DTYPES = {"tissue": ("bool", False), "words": ("uint16", NO_WORD)}
_MAX_DESCRIPTION_BYTES = 1 << 16
_keys = itertools.count()
_opening = Lock()  # zarr's settings belong to the whole process


class DamagedChunk(ComirSearchError):
    """A chunk is missing or damaged.

    Parameters
    ----------
    slide, fingerprint : str
        The slide's name (not always unique) and its fingerprint.
    array : str
        Array ("comir/0", "words", ...).
    chunk : (int, int) or None
        Row and column of the chunk; None if the array's description is damaged.
    problem : str
        What is wrong with it.
    location : str
        Folder or URL of the index.
    """

    def __init__(
        self,
        slide: str,
        fingerprint: str,
        array: str,
        chunk: tuple[int, int] | None,
        problem: str,
        location: str,
    ) -> None:
        self.slide, self.fingerprint = slide, fingerprint
        self.array, self.chunk, self.problem = array, chunk, problem
        place = "its description" if chunk is None else f"chunk {chunk[0]}/{chunk[1]}"
        super().__init__(
            f"The index of {slide} is damaged in array {array}, {place} ({problem}); "
            f"run `comir-search repair --index {location}`."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # By default only the message would be pickled, but this exception has more arguments.
        parts = self.slide, self.fingerprint, self.array, self.chunk, self.problem
        return _damaged_again, (self.args[0], parts)


def _damaged_again(message: str, parts: tuple[str, str, str, tuple[int, int] | None, str]) -> DamagedChunk:
    damage = DamagedChunk(*parts, location="")
    damage.args = (message,)
    return damage


class IndexedSlide:
    """A slide in an index, with its CoMIR, word map and tissue mask.

    Data are read on demand. Decoded chunks are kept in a bounded cache that the whole
    index shares. Several threads may read at once.

    Attributes
    ----------
    name, fingerprint : str
        As in `SlideInfo`.
    pixel_size_um : float
        Level-0 pixel size with which it was indexed.
    width_px, height_px : int
        Level-0 size.
    intensity : dict
        `Intensity.to_dict()`.
    word_counts : ndarray or None
        Result of `count_words`, here or in another process; None before.
    """

    def __init__(self, storage: Storage, layout: Layout, record: SlideRecord, cache: ArrayCache) -> None:
        self.record = record
        self.layout = layout
        self.grid = record.grid(layout)
        self.folder = folder_of(record.fingerprint)
        self._storage, self._cache = storage, cache
        self._store = storage.zarr_store()
        self._key = next(_keys)
        self._arrays: dict[str, zarr.Array[Any]] = {}
        self._checked: set[str] = set()
        self.word_counts: NDArray[np.int64] | None = None
        self._lock = Lock()

    @property
    def name(self) -> str:
        """File name with suffix."""
        return self.record.name

    @property
    def fingerprint(self) -> str:
        """Hash that recognises the slide after a move."""
        return self.record.fingerprint

    @property
    def pixel_size_um(self) -> float:
        """Level-0 pixel size with which the slide was indexed."""
        return self.record.pixel_size_um

    @property
    def width_px(self) -> int:
        """Level-0 width."""
        return self.record.width_px

    @property
    def height_px(self) -> int:
        """Level-0 height."""
        return self.record.height_px

    @property
    def size_um(self) -> tuple[float, float]:
        """Height and width."""
        return self.height_px * self.pixel_size_um, self.width_px * self.pixel_size_um

    @property
    def intensity(self) -> dict[str, Any]:
        """The normalisation that was measured on the slide."""
        return dict(self.record.intensity)

    @property
    def comir_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the finest CoMIR level."""
        return self.grid.comir_shape

    @property
    def words_shape(self) -> tuple[int, int, int]:
        """(block sizes, rows, columns) of the word map."""
        count, rows, columns = self.grid.shape("words")
        return count, rows, columns

    @property
    def tissue_pixel_size_um(self) -> float:
        """Pixel size of the tissue mask."""
        return self.layout.tissue_pixel_size_um

    @property
    def tissue_step_px(self) -> float:
        """CoMIR pixels per pixel of the tissue mask."""
        return TISSUE_PX / self.layout.stride

    @cached_property
    def tissue(self) -> BoolGrid:
        """The tissue mask, bool (rows, columns), pixels of `tissue_pixel_size_um`; read-only."""
        rows, columns = self.grid.shape("tissue")
        mask = self._read("tissue", 0, 0, columns, rows).astype(bool)
        mask.setflags(write=False)
        return mask

    @property
    def path(self) -> Path:
        """Expected path of the slide: relative to the index if it exists there, else where it was.

        `find_slide` also searches other folders and checks that it is the same slide.
        """
        folder, relative = self._storage.folder, self.record.relative_path
        if folder is not None and relative is not None and (folder / relative).exists():
            return (folder / relative).resolve()
        return Path(self.record.absolute_path)

    def read_comir(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read a part of the CoMIR.

        Parameters
        ----------
        level : int
            0 (CoMIR pixels) to 3 (area means of 8 x 8 of them).
        x, y, width, height : int
            Pixels of that level; may extend beyond the slide.

        Returns
        -------
        ndarray of uint8 (channels, height, width)
            Coded values. Glass and the area outside the slide are 128, the code of zero.

        Raises
        ------
        DamagedChunk
            If a chunk is missing or damaged.
        """
        return self._read(comir_array(level), x, y, width, height)

    def read_words(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint16]:
        """Read a part of the word map. Points without a word are 65535.

        Parameters
        ----------
        x, y, width, height : int
            Points of the word map; may extend beyond the slide.

        Returns
        -------
        ndarray of uint16 (block sizes, height, width)
        """
        return self._read("words", x, y, width, height)

    def count_words(self, n_words: int) -> NDArray[np.int64]:
        """Return how often each word occurs on the slide. Words are counted only once.

        Parameters
        ----------
        n_words : int
            Number of words of each block size.

        Returns
        -------
        ndarray of int64 (block sizes, n_words)
            Read-only.
        """
        if self.word_counts is None:
            counts = np.zeros((self.words_shape[0], n_words + 1), np.int64)
            for chunk in self.grid.chunks("words"):
                for total, words in zip(counts, self._cached("words", chunk), strict=True):
                    # Any other value counts as one more word, which is dropped below.
                    total += np.bincount(np.minimum(words, n_words).ravel(), minlength=n_words + 1)
            counts.setflags(write=False)
            self.word_counts = counts[:, :n_words]
        return self.word_counts

    def read_chunk(self, array: str, chunk: tuple[int, int]) -> NDArray[Any]:
        """Read one stored chunk from the disk, without the cache.

        Raises
        ------
        DamagedChunk
            If the chunk is missing or damaged.
        CannotRead
            If the operating system cannot read it.
        """
        self.check_array(array)
        file, shape, dtype = self.chunk_file(array, chunk), self._chunk_shape(array), _dtype(array)
        content = self._storage.read(file, max_bytes_of(shape, dtype))
        if content is None:
            self._storage.check_reachable()
            raise self._damaged(array, chunk, "missing")
        try:
            whole = decode_chunk(content, shape, dtype)
        except ValueError as error:
            raise self._damaged(array, chunk, str(error)) from error
        side = self.grid.chunk_side(array)
        rows, columns = self.grid.shape(array)[-2:]
        return whole[..., : rows - chunk[0] * side, : columns - chunk[1] * side]

    def check_array(self, array: str) -> None:
        """Check an array's description, once.

        Raises
        ------
        DamagedChunk
            If the description is missing or damaged.
        CannotRead
            If the operating system cannot read it.
        """
        if array in self._checked:
            return
        file = f"{self.folder}/{array}/zarr.json"
        content = self._storage.read(file, _MAX_DESCRIPTION_BYTES)
        if content is None:
            self._storage.check_reachable()
            raise self._damaged(array, None, "missing")
        try:
            description: ArrayDescription = decode(content, ArrayDescription, name=file, advice="")
        except BadDocument as error:
            raise self._damaged(array, None, error.problem) from error
        difference = description.find_difference(
            self.grid.shape(array), self._chunk_shape(array), _dtype(array), _fill(array)
        )
        if difference:
            raise self._damaged(array, None, difference)
        self._checked.add(array)

    def chunk_file(self, array: str, chunk: tuple[int, int]) -> str:
        """Return the name of a chunk's file, relative to the index."""
        lead = "" if array == "tissue" else "0/"
        return f"{self.folder}/{array}/c/{lead}{chunk[0]}/{chunk[1]}"

    def create(self) -> None:
        """Write the descriptions of all arrays; existing chunks stay."""
        import zarr

        with writing(f"{self._storage.location}/{self.folder}"):
            if not self._storage.exists(f"{self.folder}/zarr.json"):
                zarr.create_group(self._store, path=self.folder, zarr_format=3)
        for array in self.layout.arrays:
            self.create_array(array)

    def create_array(self, array: str) -> None:
        """Write the description of one array; existing chunks stay."""
        import zarr
        from zarr.codecs import Crc32cCodec, ZstdCodec

        self._storage.delete(f"{self.folder}/{array}/zarr.json")
        shape = self.grid.shape(array)
        with writing(f"{self._storage.location}/{self.folder}/{array}"):
            zarr.create_array(
                self._store,
                name=f"{self.folder}/{array}",
                shape=shape,
                chunks=self._chunk_shape(array),
                dtype=_dtype(array),
                fill_value=_fill(array),
                compressors=[ZstdCodec(level=3), Crc32cCodec()],
                config={"write_empty_chunks": True},
                zarr_format=3,
            )
        with self._lock:
            self._arrays.pop(array, None)
            self._checked.discard(array)

    def write_chunks(self, array: str, chunks: Iterable[tuple[tuple[int, int], NDArray[Any]]]) -> None:
        """Write chunks, and wait until they are on the disk.

        Parameters
        ----------
        array : str
        chunks : iterable of ((row, column), ndarray)
            Whole chunks; parts beyond the array's border are cut off.
        """
        target = self._array(array)
        side = self.grid.chunk_side(array)
        rows, columns = target.shape[-2:]
        for (row, column), values in chunks:
            y, x = row * side, column * side
            values = values[..., : rows - y, : columns - x]
            try:
                target[..., y : min(y + side, rows), x : min(x + side, columns)] = values
            except OSError as error:
                file = f"{self._storage.location}/{self.chunk_file(array, (row, column))}"
                raise cannot_write(file, error) from error
            self._storage.flush(self.chunk_file(array, (row, column)))
        self._cache.forget(lambda key: isinstance(key, tuple) and key[:2] == (self._key, array))

    def _read(self, array: str, x: int, y: int, width: int, height: int) -> NDArray[Any]:
        dtype = _dtype(array)
        shape, side, grid = self.grid.shape(array), self.grid.chunk_side(array), self.grid.chunk_grid(array)
        part = np.full((*shape[:-2], height, width), _fill(array), dtype)
        for row in range(max(y // side, 0), min((y + height - 1) // side + 1, grid.shape[0])):
            for column in range(max(x // side, 0), min((x + width - 1) // side + 1, grid.shape[1])):
                if not grid[row, column]:
                    continue
                chunk = self._cached(array, (row, column))
                top, left = row * side, column * side
                bottom, right = top + chunk.shape[-2], left + chunk.shape[-1]
                inside_y, inside_x = (
                    slice(max(y, top), min(y + height, bottom)),
                    slice(max(x, left), min(x + width, right)),
                )
                if inside_y.start < inside_y.stop and inside_x.start < inside_x.stop:
                    part[..., _shift(inside_y, y), _shift(inside_x, x)] = chunk[
                        ..., _shift(inside_y, top), _shift(inside_x, left)
                    ]
        return part

    def _cached(self, array: str, chunk: tuple[int, int]) -> NDArray[Any]:
        load: Callable[[], NDArray[Any]] = lambda: self.read_chunk(array, chunk)  # noqa: E731
        return self._cache.get((self._key, array, chunk), load)

    def _chunk_shape(self, array: str) -> tuple[int, ...]:
        side = self.grid.chunk_side(array)
        return (*self.grid.shape(array)[:-2], side, side)

    def _array(self, array: str) -> zarr.Array[Any]:
        """Return an array opened for writing."""
        import zarr

        with self._lock:
            if array not in self._arrays:
                self.check_array(array)
                # Zarr reads this setting on opening. Empty chunks must be written, or they would look lost.
                with (
                    writing(f"{self._storage.location}/{self.folder}/{array}"),
                    _opening,
                    zarr.config.set({"array.write_empty_chunks": True}),
                ):
                    self._arrays[array] = zarr.open_array(
                        self._store, path=f"{self.folder}/{array}", mode="r+", zarr_format=3
                    )
            return self._arrays[array]

    def _damaged(self, array: str, chunk: tuple[int, int] | None, problem: str) -> DamagedChunk:
        return DamagedChunk(self.name, self.fingerprint, array, chunk, problem, self._storage.location)


def _dtype(array: str) -> str:
    return _DTYPES.get(array, ("uint8", 0))[0]


def _fill(array: str) -> int | bool:
    return _DTYPES.get(array, ("uint8", ZERO_POINT))[1]


def _shift(part: slice, by: int) -> slice:
    return slice(part.start - by, part.stop - by)
