"""Find where an image patch lies on whole-slide images of another modality.

The names below are the whole job: open slides, index them, search. They are
loaded when first used, so that importing the package is quick and reading
slides needs no torch.

Examples
--------
>>> from comir_search import index_slides, search
>>> index = index_slides(["slides/"], "slides.index", modality="bf")  # doctest: +SKIP
>>> search("patch.tif", index).candidates[0]  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from comir_search.version import find_version

if TYPE_CHECKING:
    from comir_search.errors import ComirSearchError
    from comir_search.index.build import index_slides
    from comir_search.index.index import Index
    from comir_search.index.options import IndexOptions
    from comir_search.matching.surf import dense_surf
    from comir_search.model.model import Model, load_model
    from comir_search.records import Candidate, SearchResult, SlideInfo
    from comir_search.retrieval.options import SearchOptions
    from comir_search.retrieval.search import search
    from comir_search.slides import Slide, open_slide
    from comir_search.training.options import TrainOptions

_MODULES = {
    "Candidate": "records",
    "ComirSearchError": "errors",
    "Index": "index.index",
    "IndexOptions": "index.options",
    "Model": "model.model",
    "SearchOptions": "retrieval.options",
    "SearchResult": "records",
    "Slide": "slides",
    "SlideInfo": "records",
    "TrainOptions": "training.options",
    "dense_surf": "matching.surf",
    "index_slides": "index.build",
    "load_model": "model.model",
    "open_slide": "slides",
    "search": "retrieval.search",
}

__all__ = [
    "Candidate",
    "ComirSearchError",
    "Index",
    "IndexOptions",
    "Model",
    "SearchOptions",
    "SearchResult",
    "Slide",
    "SlideInfo",
    "TrainOptions",
    "dense_surf",
    "index_slides",
    "load_model",
    "open_slide",
    "search",
]


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name == "__version__":
        return find_version()
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names without loading them."""
    return sorted({*globals(), *__all__, "__version__"})
