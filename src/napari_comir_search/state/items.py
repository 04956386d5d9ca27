"""What a session lists: slides with their place in the index."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from comir_search.records import SlideInfo
from comir_search.study.entries import ProjectSlide


class IndexState(str, Enum):
    """How far a slide has come into the index."""

    NONE = "not indexed"
    PART = "partly indexed"
    DONE = "indexed"
    OTHER_MODEL = "other model"
    STALE = "index again"  # its pixel size was corrected since
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
    indexed_um : float or None
        Pixel size with which it was indexed, where it was.
    """

    info: SlideInfo
    state: IndexState = IndexState.NONE
    indexed_um: float | None = None

    @property
    def fingerprint(self) -> str:
        """What knows the slide again."""
        return self.info.fingerprint

    @property
    def state_tip(self) -> str:
        """The state in a sentence."""
        if self.state is IndexState.STALE:
            return (
                f"Indexed with {self.indexed_um:g} µm per pixel, now {self.info.pixel_size_um:g} µm: index it again. "
                "Until then it is not searched."
            )
        return self.state.value

    @property
    def pixels_text(self) -> str:
        """How many pixels there are, as shown; of a missing slide, where it was."""
        if self.state is IndexState.MISSING:
            return f"was in {Path(self.info.path).parent}"
        return f"{self.info.width_px:,} × {self.info.height_px:,} px".replace(",", "\u2009")

    @property
    def pixel_size_text(self) -> str:
        """The pixel size and where it comes from, as shown; "" where it cannot be corrected."""
        if self.state is IndexState.MISSING:
            return ""
        if self.info.pixel_size_um is None:
            return "pixel size missing"
        indexed = f", indexed with {self.indexed_um:.4g}" if self.state is IndexState.STALE else ""
        return f"{self.info.pixel_size_um:.4g} µm ({self.info.pixel_size_source}{indexed})"

    @property
    def size_text(self) -> str:
        """Size and pixel size, as shown."""
        return " · ".join(text for text in (self.pixels_text, self.pixel_size_text) if text)


def missing_item(slide: ProjectSlide) -> SlideItem:
    """Return a slide of a project whose file is no longer where it was; its size is not known."""
    info = SlideInfo(
        name=slide.name,
        path=slide.path,
        format="",
        width_px=0,
        height_px=0,
        channels=0,
        dtype="",
        level_shapes_px=(),
        pixel_size_um=slide.pixel_size_um,
        pixel_size_source=slide.pixel_size_source,
        fingerprint=slide.fingerprint,
        identity=slide.identity,
    )
    return SlideItem(info, IndexState.MISSING)
