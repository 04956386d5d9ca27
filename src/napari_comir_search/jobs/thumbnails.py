"""Small pictures of slides and of candidates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from comir_search.errors import ComirSearchError
from comir_search.pictures.display import to_display
from comir_search.progress import Job, Tick
from comir_search.records import Candidate, SlideInfo
from comir_search.slides import Slide, open_slide
from comir_search.slides.crop import extract_candidate
from napari_comir_search.state.items import SlideItem

THUMBNAIL_PX = 96


@dataclass(frozen=True)
class Thumbnail:
    """A small picture, uint8 (height, width, 3), of what `key` names."""

    key: Any
    image: np.ndarray


def slide_thumbnails_steps(items: Sequence[SlideItem]) -> Job[None]:
    """Make a small picture of each slide; ticks carry them by fingerprint."""
    for done, item in enumerate(items):
        try:
            with open_slide(item.info.path) as slide:
                image, _ = slide.overview(THUMBNAIL_PX)
        except ComirSearchError:
            continue  # one picture less; opening the slide shows the reason
        yield Tick("thumbnails", done + 1, len(items), Thumbnail(item.fingerprint, to_display(image)))


def candidate_thumbnails_steps(candidates: Iterable[tuple[Candidate, SlideInfo]], side_px: int) -> Job[None]:
    """Cut a small picture of each candidate, turned to match the query; ticks carry them by rank."""
    open_slides: dict[str, Slide] = {}
    candidates = list(candidates)
    try:
        for done, (candidate, info) in enumerate(candidates):
            try:
                if info.fingerprint not in open_slides:
                    open_slides[info.fingerprint] = open_slide(info.path, pixel_size_um=info.pixel_size_um)
                size_um = max(candidate.width_um, candidate.height_um) / side_px
                image = to_display(extract_candidate(open_slides[info.fingerprint], candidate, size_um))
            except ComirSearchError:
                continue  # one picture less; comparing the candidate shows the reason
            yield Tick("thumbnails", done + 1, len(candidates), Thumbnail(candidate.rank, image))
    finally:
        for slide in open_slides.values():
            slide.close()
