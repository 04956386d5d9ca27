"""Open a slide or a query. The file's content decides on the reader, its suffix only if the content is unclear."""

from __future__ import annotations

import stat
from pathlib import Path

from comir_search.errors import ComirSearchError
from comir_search.files import replace_undecodable
from comir_search.slides.fingerprint import stored_bytes
from comir_search.slides.folder import is_zarr
from comir_search.slides.guard import HANDY_LEVEL_PX, check_extent, stated_failures, unreadable
from comir_search.slides.pixel_size import PixelSize, user_pixel_size
from comir_search.slides.slide import Slide

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG, _JPEG, _ZIP = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"PK\x03\x04"
# BIF is a TIFF, but only OpenSlide joins its overlapping fields.
_OPENSLIDE_SUFFIXES = {".mrxs", ".bif", ".vms", ".vmu", ".dcm", ".czi", ".svslide"}
_UNREAD_SUFFIXES = {
    ".lif": "a Leica LIF", ".nd2": "a Nikon ND2", ".ets": "a part of an Olympus VSI", ".oib": "an Olympus OIB",
    ".oif": "an Olympus OIF", ".oir": "an Olympus OIR", ".ims": "an Imaris", ".lof": "a Leica LOF",
    ".zvi": "a Zeiss ZVI", ".stk": "a MetaMorph", ".dv": "a DeltaVision", ".h5": "an HDF5", ".hdf5": "an HDF5",
    ".bmp": "a BMP", ".webp": "a WebP", ".jp2": "a JPEG 2000", ".gif": "a GIF", ".pdf": "a PDF",
}  # fmt: skip
_OVERVIEW_PX = 1024


def open_slide(path: str | Path, *, pixel_size_um: float | None = None) -> Slide:
    """Open a slide or a query image.

    Parameters
    ----------
    path : str or Path
        A file, or the folder of an OME-Zarr image.
    pixel_size_um : float, optional
        Level-0 pixel size; overrides the file's own.

    Returns
    -------
    Slide

    Raises
    ------
    ComirSearchError
        If the file is missing, empty, truncated or not of a known image format.
    """
    path = Path(path)
    _check_name(path)
    pixel_size = None if pixel_size_um is None else user_pixel_size(pixel_size_um)
    with stated_failures(
        path.name, f"{path.name} cannot be read ({{error}}): it is damaged, copy or export it again"
    ):
        slide = _open(path, pixel_size)
        try:
            _check_extent(slide, path)
        except BaseException:
            slide.close()
            raise
    return slide


def _check_name(path: Path) -> None:
    """Raise an error if a name contains bytes that are not text: indexes and projects could not store it."""
    if (shown := replace_undecodable(str(path))) != str(path):
        raise ComirSearchError(
            f"{shown} has characters in its name that are not UTF-8 text: rename the file, or its folder"
        )


def _open(path: Path, pixel_size: PixelSize | None) -> Slide:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise ComirSearchError(f"{path} does not exist: check the path") from error
    except (OSError, ValueError) as error:
        raise unreadable(path, error if isinstance(error, OSError) else OSError(str(error))) from error
    if stat.S_ISDIR(mode):
        if is_zarr(path):
            from comir_search.slides.ome_zarr import OmeZarrSlide

            return OmeZarrSlide(path, pixel_size)
        raise ComirSearchError(f"{path} is a folder but not an OME-Zarr image: choose a file in it")
    if not stat.S_ISREG(mode):
        raise ComirSearchError(f"{path} is a pipe or a device, not a file: choose an image file")
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError as error:
        raise unreadable(path, error) from error
    if not head:
        raise ComirSearchError(f"{path.name} is empty: copy or export it again")
    suffix = path.suffix.lower()
    if suffix in _OPENSLIDE_SUFFIXES or head[128:] == b"DICM":
        from comir_search.slides.openslide import OpenSlideSlide

        return OpenSlideSlide(path, pixel_size)
    if head.startswith(_TIFF):
        from comir_search.slides.tiff import TiffSlide

        return TiffSlide(path, pixel_size)
    if head.startswith((_PNG, _JPEG)):
        from comir_search.slides.picture import PictureSlide

        return PictureSlide(path, pixel_size)
    if head.startswith(_ZIP):
        raise ComirSearchError(
            f"{path.name} is a zip archive, which cannot be read: unzip it and choose the image or the OME-Zarr "
            "folder in it"
        )
    if suffix in _UNREAD_SUFFIXES:
        raise ComirSearchError(
            f"{path.name} is {_UNREAD_SUFFIXES[suffix]} file, which cannot be read: export it as OME-TIFF"
        )
    raise ComirSearchError(
        f"{path.name} is not an image of a known format: export it as TIFF, OME-TIFF, PNG or JPEG"
    )


def _check_extent(slide: Slide, path: Path) -> None:
    """Raise an error if an overview would take minutes although the file is nearly empty."""
    level = slide.level_for(max(1.0, max(slide.level_shapes[0]) / _OVERVIEW_PX))
    level_px = slide.level_shapes[level][0] * slide.level_shapes[level][1]
    if level_px > HANDY_LEVEL_PX:
        check_extent(slide.name, level_px, stored_bytes(path))
