"""Find where an image patch lies on whole-slide images of another modality.

The public names are in ``__init__.pyi``. Each is loaded when it is first used, so
that importing the package is quick and reading slides needs no torch.

Examples
--------
>>> from comir_search import index_slides, search
>>> index = index_slides(["slides/"], "slides.index", modality="bf")  # doctest: +SKIP
>>> search("patch.tif", index).candidates[0]  # doctest: +SKIP
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
