"""The finished parts of a slide, kept on the disk so that another run can continue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from comir_search.documents import BadDocument
from comir_search.index.indexed_slide import DamagedChunk, IndexedSlide
from comir_search.index.layout import comir_array
from comir_search.index.slide_group import folder_of
from comir_search.index.slide_record import (
    PROGRESS_FILE,
    Bits,
    SlideRecord,
    pack_bits,
    unpack_bits,
)
from comir_search.index.storage import Storage
from comir_search.progress import Job, Tick

Cell = tuple[int, int]
Kind = Literal["regions", "blocks"]
KINDS: tuple[Kind, Kind] = ("regions", "blocks")


@dataclass(frozen=True)
class _Document:
    """Content of progress.json."""

    record: SlideRecord
    regions: Bits
    blocks: Bits


class SlideProgress:
    """The regions and blocks of a slide, and which of them are finished.

    Parameters
    ----------
    storage : Storage
    target : IndexedSlide

    Attributes
    ----------
    cells : dict of str to list of (int, int)
        All regions and all blocks with tissue.
    done : dict of str to set of (int, int)
        The finished ones.
    """

    def __init__(self, storage: Storage, target: IndexedSlide) -> None:
        self._storage, self.target = storage, target
        self.cells: dict[Kind, list[Cell]] = {
            "regions": target.grid.regions(),
            "blocks": target.grid.blocks(),
        }
        self.done: dict[Kind, set[Cell]] = {kind: set() for kind in KINDS}

    @classmethod
    def read(
        cls, storage: Storage, name: str, slide_of: Callable[[SlideRecord], IndexedSlide]
    ) -> SlideProgress | None:
        """Return the progress that an earlier run recorded; None if there is no usable record.

        Parameters
        ----------
        storage : Storage
        name : str
            The slide's name in the index.
        slide_of : callable
            Returns the arrays of a slide; see `Index.slide_of`.

        Raises
        ------
        CannotRead
            If the operating system cannot read the record.
        """
        try:
            document = storage.read_document(f"{folder_of(name)}/{PROGRESS_FILE}", _Document, "")
            if document is None or document.record.fingerprint != name:
                return None
            progress = cls(storage, slide_of(document.record))
            for kind, cells in progress.cells.items():
                finished = unpack_bits(getattr(document, kind), (len(cells),))
                progress.done[kind] = {cell for cell, is_done in zip(cells, finished, strict=True) if is_done}
        except (BadDocument, ValueError):
            return None
        return progress

    def write(self) -> None:
        """Write it to the disk, replacing an earlier version."""
        values: dict[str, Any] = {"record": self.target.record.to_dict()}
        for kind, cells in self.cells.items():
            values[kind] = pack_bits(np.array([cell in self.done[kind] for cell in cells], bool))
        self._storage.write_document(f"{self.target.folder}/{PROGRESS_FILE}", values)

    def mark(self, kind: Kind, cell: Cell) -> None:
        """Record that a region or block is on the disk."""
        self.done[kind].add(cell)
        self.write()

    def left(self, kind: Kind) -> list[Cell]:
        """Return the regions or blocks that are not finished, in reading order."""
        return [cell for cell in self.cells[kind] if cell not in self.done[kind]]

    def check_steps(self) -> Job[None]:
        """Read all parts recorded as finished, and remove those that are damaged from the record.

        After a power failure the record may be on the disk but a chunk may be lost.

        Raises
        ------
        DamagedChunk
            If the tissue mask or an array's description is damaged: the slide must be indexed from the start.
        """
        grid, stage = self.target.grid, f"checking {self.target.name}"
        for array in self.target.layout.arrays:
            self.target.check_array(array)
        for chunk in grid.chunks("tissue"):
            self.target.read_chunk("tissue", chunk)
        cells = [(kind, cell) for kind in KINDS for cell in self.cells[kind] if cell in self.done[kind]]
        for number, (kind, cell) in enumerate(cells):
            yield Tick(stage, number, len(cells))
            if kind == "regions":
                chunks = [(comir_array(0), chunk) for chunk in grid.region_chunks(cell)]
            else:
                chunks = [
                    (array, chunk)
                    for array in self.target.layout.derived_arrays
                    for chunk in grid.block_chunks(array, cell)
                ]
            try:
                for array, chunk in chunks:
                    self.target.read_chunk(array, chunk)
            except DamagedChunk:
                self.done[kind].discard(cell)
