"""Open a slide or a query: choose the reader by content, not by suffix alone."""

from __future__ import annotations

from pathlib import Path

from comir_search.errors import ComirSearchError
from comir_search.slides.pixel_size import user_pixel_size
from comir_search.slides.slide import Slide

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def open_slide(path: str | Path, *, pixel_size_um: float | None = None) -> Slide:
    """Open a slide or a query image.

    Parameters
    ----------
    path : str or Path
    pixel_size_um : float, optional
        Level-0 pixel size; overrides what the file states.

    Returns
    -------
    Slide

    Raises
    ------
    ComirSearchError
        Where the file is missing, empty, truncated or no image.
    """
    path = Path(path)
    pixel_size = None if pixel_size_um is None else user_pixel_size(pixel_size_um)
    if not path.exists():
        raise ComirSearchError(f"{path} does not exist: check the path")
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise ComirSearchError(f"{path} cannot be read ({error.strerror}): check its permissions") from error
    if not head:
        raise ComirSearchError(f"{path.name} is empty: copy or export it again")
    if head.startswith(_TIFF):
        from comir_search.slides.tiff import TiffSlide

        return TiffSlide(path, pixel_size)
    raise ComirSearchError(f"{path.name} is not an image of a known format: export it as OME-TIFF")
