"""Open a slide or a query: the reader is chosen by content, by suffix where content does not tell."""

from __future__ import annotations

from pathlib import Path

from comir_search.errors import ComirSearchError
from comir_search.slides.folder import is_zarr
from comir_search.slides.pixel_size import user_pixel_size
from comir_search.slides.slide import Slide

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
# BIF is a TIFF, but only OpenSlide joins its overlapping fields.
_OPENSLIDE_SUFFIXES = {".mrxs", ".bif", ".vms", ".vmu", ".dcm", ".czi", ".svslide"}


def open_slide(path: str | Path, *, pixel_size_um: float | None = None) -> Slide:
    """Open a slide or a query image.

    Parameters
    ----------
    path : str or Path
        A file, or the folder of an OME-Zarr image.
    pixel_size_um : float, optional
        Level-0 pixel size; overrides what the file states.

    Returns
    -------
    Slide

    Raises
    ------
    ComirSearchError
        Where the file is missing, empty, truncated or no image that is read.
    """
    path = Path(path)
    pixel_size = None if pixel_size_um is None else user_pixel_size(pixel_size_um)
    if not path.exists():
        raise ComirSearchError(f"{path} does not exist: check the path")
    if path.is_dir():
        if is_zarr(path):
            from comir_search.slides.ome_zarr import OmeZarrSlide

            return OmeZarrSlide(path, pixel_size)
        raise ComirSearchError(f"{path} is a folder and no OME-Zarr image: name a file in it")
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError as error:
        raise ComirSearchError(f"{path} cannot be read ({error.strerror}): check its permissions") from error
    if not head:
        raise ComirSearchError(f"{path.name} is empty: copy or export it again")
    if path.suffix.lower() in _OPENSLIDE_SUFFIXES or head[128:] == b"DICM":
        from comir_search.slides.openslide import OpenSlideSlide

        return OpenSlideSlide(path, pixel_size)
    if head.startswith(_TIFF):
        from comir_search.slides.tiff import TiffSlide

        return TiffSlide(path, pixel_size)
    if head.startswith((_PNG, _JPEG)):
        from comir_search.slides.picture import PictureSlide

        return PictureSlide(path, pixel_size)
    raise ComirSearchError(
        f"{path.name} is not an image of a known format: export it as TIFF, OME-TIFF, PNG or JPEG"
    )
