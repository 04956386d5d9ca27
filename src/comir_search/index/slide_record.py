"""The record that an index keeps of each slide beside its arrays, and the names of its files."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

import numpy as np
from msgspec import Meta

from comir_search.documents import Fingerprint, Micrometres, SidePx
from comir_search.index.layout import MAX_AREA_PX, BoolGrid, Layout, SlideGrid

if TYPE_CHECKING:
    from comir_search.slides import Slide

SLIDES = "slides"
SLIDE_FILE = "slide.json"
PROGRESS_FILE = "progress.json"
REMOVED_FILE = "removed.json"

Bits = Annotated[str, Meta(pattern=r"^([0-9a-f]{2})*\Z")]
Text = Annotated[str, Meta(pattern=r"^[^\0]*\Z", max_length=1 << 15)]


class IntensityValues(TypedDict):
    """The values of `Intensity.to_dict`."""

    kind: Literal["full_scale", "log_full_scale", "signal"]
    low: float
    high: float


@dataclass(frozen=True)
class SlideRecord:
    """The record that an index keeps of a slide beside its arrays.

    Parameters
    ----------
    name : str
        As in `SlideInfo`.
    fingerprint : str
        The slide's name in the index: its fingerprint, or its identity if another
        slide of the index has the same fingerprint.
    relative_path : str or None
        Path of the slide relative to the index, at the time of indexing.
    absolute_path : str
        Absolute path of the slide at the time of indexing.
    pixel_size_um : float
        Level-0 pixel size with which it was indexed.
    pixel_size_source : str
        Source of the pixel size.
    width_px, height_px : int
        Level-0 size.
    scaled_width_px, scaled_height_px : int
        Size in model pixels.
    intensity : dict
        `Intensity.to_dict()`.
    stored : str
        Which chunks of the finest CoMIR level contain tissue: bits in reading
        order, as hexadecimal digits.
    identity : str
        `Slide.identity`; empty in indexes of older versions.
    """

    name: Text
    fingerprint: Fingerprint
    relative_path: Text | None
    absolute_path: Text
    pixel_size_um: Micrometres
    pixel_size_source: Text
    width_px: SidePx
    height_px: SidePx
    scaled_width_px: SidePx
    scaled_height_px: SidePx
    intensity: IntensityValues
    stored: Bits
    identity: Annotated[str, Meta(pattern=r"^([0-9a-f]{32})?\Z")] = ""

    def __post_init__(self) -> None:
        if self.intensity["low"] >= self.intensity["high"]:
            raise ValueError("its intensity range is empty")
        if self.scaled_width_px * self.scaled_height_px > MAX_AREA_PX:
            raise ValueError("its slide is impossibly large")

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return asdict(self)

    def grid(self, layout: Layout) -> SlideGrid:
        """Return the slide divided by a layout.

        Raises
        ------
        ValueError
            If the sizes in the record do not match each other or the layout.
        """
        scale = self.pixel_size_um / layout.model_pixel_size_um
        for side_px, scaled_px in (
            (self.width_px, self.scaled_width_px),
            (self.height_px, self.scaled_height_px),
        ):
            if abs(side_px * scale - scaled_px) > 1 + 1e-6 * scaled_px:
                raise ValueError("its size and pixel size do not match")
        chunk_px = layout.chunk_px * layout.stride
        shape = -(-self.scaled_height_px // chunk_px), -(-self.scaled_width_px // chunk_px)
        return SlideGrid(layout, self.scaled_height_px, self.scaled_width_px, unpack_bits(self.stored, shape))

    def is_of(self, slide: Slide) -> bool:
        """Whether a slide is this one: by its identity if both are known, else by its fingerprint."""
        if self.identity and slide.identity:
            return self.identity == slide.identity
        return self.fingerprint == slide.fingerprint


def pack_bits(grid: BoolGrid) -> str:
    """Write bits in reading order as hexadecimal digits."""
    return np.packbits(grid).tobytes().hex()


def unpack_bits(digits: str, shape: tuple[int, ...]) -> BoolGrid:
    """Read `pack_bits`' digits; ValueError if their number does not match the shape."""
    count = int(np.prod(shape))
    if len(digits) != 2 * -(-count // 8):
        raise ValueError(f"it has {4 * len(digits)} bits, not {count}")
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(digits), np.uint8), count=count)
    return bits.astype(bool).reshape(shape)
