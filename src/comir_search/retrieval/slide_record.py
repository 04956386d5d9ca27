"""What an index remembers of a slide beside its arrays, and where it keeps it."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from comir_search.retrieval.layout import BoolGrid, Layout, SlideGrid

SLIDES = "slides"
SLIDE_FILE = "slide.json"
PROGRESS_FILE = "progress.json"
REMOVED_FILE = "removed.json"


def is_slide_folder(name: str) -> bool:
    """Return whether a folder's name is one that an index gives a slide: its fingerprint."""
    return re.fullmatch(r"[0-9a-f]{32}", name) is not None


@dataclass(frozen=True)
class SlideRecord:
    """What an index remembers of a slide beside its arrays.

    Parameters
    ----------
    name, fingerprint : str
        As in `SlideInfo`.
    relative_path : str or None
        Where the slide was, as seen from the index.
    absolute_path : str
        Where the slide was.
    pixel_size_um : float
        Level-0 pixel size with which it was indexed.
    pixel_size_source : str
        Where that came from.
    width_px, height_px : int
        Level-0 size.
    scaled_width_px, scaled_height_px : int
        Size in model pixels.
    intensity : dict
        `Intensity.to_dict()`.
    stored : str
        Which chunks of the finest CoMIR level hold tissue: bits in reading
        order, as hexadecimal digits.
    """

    name: str
    fingerprint: str
    relative_path: str | None
    absolute_path: str
    pixel_size_um: float
    pixel_size_source: str
    width_px: int
    height_px: int
    scaled_width_px: int
    scaled_height_px: int
    intensity: dict[str, Any]
    stored: str

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SlideRecord:
        """Build from `to_dict`'s values; KeyError where one is missing."""
        return cls(**{field.name: values[field.name] for field in fields(cls)})

    def grid(self, layout: Layout) -> SlideGrid:
        """Return the slide cut by a layout."""
        chunk_px = layout.chunk_px * layout.stride
        shape = -(-self.scaled_height_px // chunk_px), -(-self.scaled_width_px // chunk_px)
        return SlideGrid(layout, self.scaled_height_px, self.scaled_width_px, unpack_bits(self.stored, shape))


def pack_bits(grid: BoolGrid) -> str:
    """Write bits in reading order as hexadecimal digits."""
    return np.packbits(grid).tobytes().hex()


def unpack_bits(digits: str, shape: tuple[int, ...]) -> BoolGrid:
    """Read `pack_bits`' digits."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(digits), np.uint8), count=int(np.prod(shape)))
    return bits.astype(bool).reshape(shape)
