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

from comir_search.errors import ComirSearchError
from comir_search.retrieval.chunk_cache import ChunkCache
from comir_search.retrieval.layout import NO_WORD, TISSUE_PX, ZERO_POINT, BoolGrid, Layout, comir_array
from comir_search.retrieval.slide_record import SLIDES, SlideRecord
from comir_search.retrieval.storage import Storage

if TYPE_CHECKING:
    import zarr

_DTYPES = {"tissue": ("bool", False), "words": ("uint16", NO_WORD)}
_keys = itertools.count()
_opening = Lock()  # zarr's settings are the process's


class DamagedChunk(ComirSearchError):
    """A chunk that is missing, or is not what was written.

    Parameters
    ----------
    slide, fingerprint : str
        The slide's name, which another may have too, and its fingerprint.
    array : str
        Array ("comir/0", "words", ...).
    chunk : (int, int) or None
        Row and column of the chunk; None where the array's description is
        damaged.
    problem : str
        What is wrong.
    location : str
        The index.
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
        # Exceptions are pickled by their message alone, and this one is made of more.
        parts = self.slide, self.fingerprint, self.array, self.chunk, self.problem
        return _damaged_again, (self.args[0], parts)


def _damaged_again(message: str, parts: tuple[str, str, str, tuple[int, int] | None, str]) -> DamagedChunk:
    damage = DamagedChunk(*parts, location="")
    damage.args = (message,)
    return damage


class IndexedSlide:
    """A slide in an index, with its CoMIR, word map and tissue mask.

    Nothing is read before it is asked for, and decoded chunks go through a
    bounded cache that the whole index shares. Reading is safe from threads.

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
        What `count_words` returned, here or in another process; None before.
    """

    def __init__(self, storage: Storage, layout: Layout, record: SlideRecord, cache: ChunkCache) -> None:
        self.record = record
        self.layout = layout
        self.grid = record.grid(layout)
        self.folder = f"{SLIDES}/{record.fingerprint}"
        self._storage, self._cache = storage, cache
        self._store = storage.zarr_store()
        self._key = next(_keys)
        self._arrays: dict[str, zarr.Array[Any]] = {}
        self.word_counts: NDArray[np.int64] | None = None
        self._lock = Lock()

    @property
    def name(self) -> str:
        """File name with suffix."""
        return self.record.name

    @property
    def fingerprint(self) -> str:
        """Hash that knows the slide again after a move."""
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
        return self.record.intensity

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
        """Where the slide should be: beside the index if it is there, else where it was.

        `find_slide` looks further and checks that it is the same slide.
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
            Pixels of that level; may reach beyond the slide.

        Returns
        -------
        ndarray of uint8 (channels, height, width)
            Coded values; 128, the code of zero, on glass and outside.

        Raises
        ------
        DamagedChunk
            If a chunk is missing or is not what was written.
        """
        return self._read(comir_array(level), x, y, width, height)

    def read_words(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint16]:
        """Read a part of the word map; 65535 where there is no word.

        Parameters
        ----------
        x, y, width, height : int
            Points of the word map; may reach beyond the slide.

        Returns
        -------
        ndarray of uint16 (block sizes, height, width)
        """
        return self._read("words", x, y, width, height)

    def count_words(self, n_words: int) -> NDArray[np.int64]:
        """Return how often each word occurs on the slide; counted once while it is open.

        Parameters
        ----------
        n_words : int
            Words of each block size.

        Returns
        -------
        ndarray of int64 (block sizes, n_words)
            Read-only.
        """
        if self.word_counts is None:
            counts = np.zeros((self.words_shape[0], n_words + 1), np.int64)
            for chunk in self.grid.chunks("words"):
                for total, words in zip(counts, self._cached("words", chunk), strict=True):
                    # Whatever is no word counts as the number after the last one.
                    total += np.bincount(np.minimum(words, n_words).ravel(), minlength=n_words + 1)
            counts.setflags(write=False)
            self.word_counts = counts[:, :n_words]
        return self.word_counts

    def read_chunk(self, array: str, chunk: tuple[int, int]) -> NDArray[Any]:
        """Read one written chunk from the disk, past the cache; DamagedChunk where it cannot be."""
        try:
            with_checks = self._array(array).get_block_selection((0,) * (self._array(array).ndim - 2) + chunk)
        except DamagedChunk:
            raise
        except Exception as error:
            problem = "checksum" if "checksum" in str(error) else str(error) or type(error).__name__
            raise self._damaged(array, chunk, problem) from error
        decoded: NDArray[Any] = np.asarray(with_checks)
        # Zarr takes a missing chunk for an empty one; only written chunks get here.
        if (decoded == _fill(array)).all() and not self._storage.exists(self.chunk_file(array, chunk)):
            raise self._damaged(array, chunk, "missing")
        return decoded

    def check_array(self, array: str) -> None:
        """Read an array's description; DamagedChunk where it is not the one that was written."""
        self._array(array)

    def chunk_file(self, array: str, chunk: tuple[int, int]) -> str:
        """Return the name, within the index, of the file that holds a chunk."""
        lead = "" if array == "tissue" else "0/"
        return f"{self.folder}/{array}/c/{lead}{chunk[0]}/{chunk[1]}"

    def create(self) -> None:
        """Write the descriptions of all arrays; chunks that are there stay."""
        import zarr

        if self._storage.read(f"{self.folder}/zarr.json") is None:
            zarr.create_group(self._store, path=self.folder, zarr_format=3)
        for array in self.layout.arrays:
            self.create_array(array)

    def create_array(self, array: str) -> None:
        """Write the description of one array; chunks that are there stay."""
        import zarr
        from zarr.codecs import Crc32cCodec, ZstdCodec

        self._storage.delete(f"{self.folder}/{array}/zarr.json")
        shape, side = self.grid.shape(array), self.grid.chunk_side(array)
        zarr.create_array(
            self._store,
            name=f"{self.folder}/{array}",
            shape=shape,
            chunks=(*shape[:-2], side, side),
            dtype=_DTYPES.get(array, ("uint8", 0))[0],
            fill_value=_fill(array),
            compressors=[ZstdCodec(level=3), Crc32cCodec()],
            config={"write_empty_chunks": True},
            zarr_format=3,
        )
        with self._lock:
            self._arrays.pop(array, None)

    def write_chunks(self, array: str, chunks: Iterable[tuple[tuple[int, int], NDArray[Any]]]) -> None:
        """Write chunks, and wait until the disk holds them.

        Parameters
        ----------
        array : str
        chunks : iterable of ((row, column), ndarray)
            Whole chunks; what lies beyond the array's border is cut off.
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
                from comir_search.io.atomic import describe_write_failure

                file = f"{self._storage.location}/{self.chunk_file(array, (row, column))}"
                raise ComirSearchError(describe_write_failure(file, error)) from error
            self._storage.flush(self.chunk_file(array, (row, column)))
        self._cache.forget(lambda key: isinstance(key, tuple) and key[:2] == (self._key, array))

    def _read(self, array: str, x: int, y: int, width: int, height: int) -> NDArray[Any]:
        dtype, _ = _DTYPES.get(array, ("uint8", 0))
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

    def _array(self, array: str) -> zarr.Array[Any]:
        import zarr

        with self._lock:
            if array not in self._arrays:
                try:
                    # Taken in on opening: a chunk that is all zero point must be written, or it looks lost.
                    with _opening, zarr.config.set({"array.write_empty_chunks": True}):
                        opened = zarr.open_array(
                            self._store, path=f"{self.folder}/{array}", mode="r+", zarr_format=3
                        )
                    side = self.grid.chunk_side(array)
                    if opened.shape != self.grid.shape(array) or opened.chunks[-2:] != (side, side):
                        raise ValueError("another shape than slide.json says")
                except Exception as error:
                    raise self._damaged(array, None, str(error) or type(error).__name__) from error
                self._arrays[array] = opened
            return self._arrays[array]

    def _damaged(self, array: str, chunk: tuple[int, int] | None, problem: str) -> DamagedChunk:
        return DamagedChunk(self.name, self.fingerprint, array, chunk, problem, self._storage.location)


def _fill(array: str) -> int | bool:
    return _DTYPES.get(array, ("uint8", ZERO_POINT))[1]


def _shift(part: slice, by: int) -> slice:
    return slice(part.start - by, part.stop - by)
