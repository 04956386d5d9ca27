"""Slides and queries: opening, pixel size, regions at any resolution, tissue."""

from comir_search.slides.array import slide_from_array
from comir_search.slides.folder import find_slides
from comir_search.slides.opening import open_slide
from comir_search.slides.slide import Slide
from comir_search.slides.tissue import tissue_mask

__all__ = ["Slide", "find_slides", "open_slide", "slide_from_array", "tissue_mask"]
