"""Slides and queries: opening, pixel size, regions at any resolution, tissue."""

from comir_search.slides.array import slide_from_array
from comir_search.slides.opening import open_slide
from comir_search.slides.slide import Slide

__all__ = ["Slide", "open_slide", "slide_from_array"]
