"""What a session lists: slides with their place in the index."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from comir_search.records import SlideInfo


class IndexState(str, Enum):
    """How far a slide has come into the index."""

    NONE = "not indexed"
    PART = "partly indexed"
    DONE = "indexed"
    OTHER_MODEL = "other model"
    DAMAGED = "damaged"
    MISSING = "file missing"


@dataclass(frozen=True)
class SlideItem:
    """A slide of the repository.

    Parameters
    ----------
    info : SlideInfo
        The slide; `pixel_size_um` is the user's where it was corrected.
    state : IndexState
        Whether it can be searched.
    """

    info: SlideInfo
    state: IndexState = IndexState.NONE

    @property
    def fingerprint(self) -> str:
        """What knows the slide again."""
        return self.info.fingerprint

    @property
    def size_text(self) -> str:
        """Size and pixel size, as shown."""
        pixels = f"{self.info.width_px:,} × {self.info.height_px:,} px".replace(",", "\u2009")
        if self.info.pixel_size_um is None:
            return f"{pixels} · pixel size missing"
        return f"{pixels} · {self.info.pixel_size_um:.4g} µm ({self.info.pixel_size_source})"
