"""OME-XML: which images and planes of a set are stored in the file that was opened.

One description may cover many files, such as one for each position or channel. Only
the part about the opened file counts, so the other files need not be there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from comir_search.errors import ComirSearchError
from comir_search.slides.folder import is_plain_name
from comir_search.slides.guard import is_regular
from comir_search.slides.pixel_size import MISSING, PixelSize, believe, parse_number, unit_in_um
from comir_search.slides.xml import find_children, parse_xml

_MOST_PLANES = 1 << 20
_MOST_COMPANION_BYTES = 64 << 20


@dataclass(frozen=True)
class OmePlane:
    """One plane of an image: its position in the stack, and its page (directory) in the file."""

    place: dict[str, int]  # by axis: C, Z, T
    page: int


@dataclass(frozen=True)
class OmeImage:
    """An image as the OME-XML describes it.

    Parameters
    ----------
    name : str
    shape : (int, int)
        Height and width in px.
    sizes : dict of str to int
        Planes along C (channels of several samples count once), Z and T, over all files.
    samples : int
        Samples per pixel of its first channel.
    pixel_size : tuple
        (x, unit), (y, unit) as written.
    planes : tuple of OmePlane
        The planes stored in this file.
    """

    name: str
    shape: tuple[int, int]
    sizes: dict[str, int]
    samples: int
    pixel_size: tuple[tuple[str | None, str], tuple[str | None, str]]
    planes: tuple[OmePlane, ...]

    def find_pixel_size(self, file_name: str, shape: tuple[int, int]) -> PixelSize:
        """Return the pixel size that the OME-XML gives; `shape` is that of the image's pages in the file."""
        sides = []
        for value, unit in self.pixel_size:
            number, unit_um = parse_number(value), unit_in_um(unit)
            if number is None or unit_um is None:
                return MISSING
            sides.append(number * unit_um)
        if shape != self.shape:
            return PixelSize(
                None,
                MISSING.source,
                f"its OME-XML describes an image of {self.shape[1]} x {self.shape[0]} px, but this image has "
                f"{shape[1]} x {shape[0]} px: give --pixel-size",
            )
        return believe(file_name, sides[0], sides[1], "OME PhysicalSizeX")


@dataclass(frozen=True)
class OmeSet:
    """What an OME-XML description says about one file.

    Parameters
    ----------
    images : tuple of OmeImage
        The images with at least one plane in the file.
    is_ambiguous : bool
        Whether it describes several files and does not say which one this is.
    missing : str
        Why there are no images, if known.
    """

    images: tuple[OmeImage, ...]
    is_ambiguous: bool = False
    missing: str = ""


def read_ome(xml: str, path: Path, pages: int) -> OmeSet:
    """Return what an OME-XML description says about the file that contains it.

    Parameters
    ----------
    xml : str
    path : Path
        The file.
    pages : int
        Number of pages (directories) in the file.

    Raises
    ------
    ComirSearchError
        If the description is harmful or impossible.
    """
    root = parse_xml(xml, path.name)
    if root is None:
        return OmeSet(())
    uuid = root.get("UUID")
    for binary_only in find_children(root, "BinaryOnly"):
        companion = binary_only.get("MetadataFile", "")
        found = _read_companion(path, companion)
        if found is None:
            return OmeSet(
                (),
                missing=f"its description is in {companion or 'another file'}, which was not found or not "
                "readable beside it: put that file there, or give --pixel-size",
            )
        root = found
    return _find_own(root, path.name, uuid, pages)


def _read_companion(path: Path, name: str) -> ElementTree.Element | None:
    """Read a description that is stored in a file beside this one."""
    companion = path.with_name(name) if is_plain_name(name) else None
    if companion is None or not is_regular(companion) or companion.stat().st_size > _MOST_COMPANION_BYTES:
        return None
    try:
        text = companion.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return parse_xml(text, companion.name)


def _find_own(root: ElementTree.Element, name: str, uuid: str | None, pages: int) -> OmeSet:
    """Return the images that have a plane in the file with this name and UUID."""
    described = [
        (image, pixels)
        for image in find_children(root, "Image")
        for pixels in find_children(image, "Pixels")[:1]
    ]
    files = {
        (reference.text or "", reference.get("FileName", ""))
        for _, pixels in described
        for block in find_children(pixels, "TiffData")
        for reference in find_children(block, "UUID")
    }
    own = {reference for reference in files if uuid is not None and reference[0] == uuid}
    own = own or {reference for reference in files if reference[1].lower() == name.lower()}
    if not own and len(files) == 1:
        own = files  # the file was renamed
    images = [_read_image(image, pixels, own, pages, name) for image, pixels in described]
    found = tuple(image for image in images if image.planes)
    return OmeSet(found or tuple(images), is_ambiguous=not found and bool(files))


def _read_image(
    image: ElementTree.Element,
    pixels: ElementTree.Element,
    own: set[tuple[str, str]],
    pages: int,
    name: str,
) -> OmeImage:
    channels = find_children(pixels, "Channel")
    samples = _whole(channels[0].get("SamplesPerPixel"), 1, name) if channels else 1
    sizes = {axis: _whole(pixels.get(f"Size{axis}"), 1, name) for axis in "CZT"}
    sizes["C"] = max(sizes["C"] // max(samples, 1), 1)
    if math.prod(sizes.values()) > _MOST_PLANES or min(sizes.values()) < 1:
        raise ComirSearchError(
            f"{name} claims {math.prod(sizes.values())} planes in its OME-XML: it is damaged, export it again"
        )
    order = [axis for axis in pixels.get("DimensionOrder", "XYCZT") if axis in sizes]
    return OmeImage(
        name=image.get("Name") or "",
        shape=(_whole(pixels.get("SizeY"), 0, name), _whole(pixels.get("SizeX"), 0, name)),
        sizes=sizes,
        samples=samples,
        pixel_size=tuple(  # type: ignore[arg-type]
            (pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "XY"
        ),
        planes=tuple(_list_planes(pixels, sizes, order, own, pages, name)),
    )


def _list_planes(
    pixels: ElementTree.Element,
    sizes: dict[str, int],
    order: list[str],
    own: set[tuple[str, str]],
    pages: int,
    name: str,
) -> Iterator[OmePlane]:
    """Yield the planes of an image that are stored in this file, in the order of the description."""
    for block in find_children(pixels, "TiffData"):
        references = find_children(block, "UUID")
        if references and (references[0].text or "", references[0].get("FileName", "")) not in own:
            continue
        page = _whole(block.get("IFD"), 0, name)
        all_planes = math.prod(sizes.values())
        stated = block.get("PlaneCount", block.get("NumPlanes"))
        count = _whole(stated, 1 if "IFD" in block.attrib else all_planes, name)
        place = {axis: _whole(block.get(f"First{axis}"), 0, name) for axis in order}
        number, step = 0, 1
        for axis in order:
            number += place[axis] * step
            step *= sizes[axis]
        for offset in range(min(count, all_planes - number, pages - page)):
            rest = number + offset
            there = {}
            for axis in order:
                rest, there[axis] = divmod(rest, sizes[axis])
            yield OmePlane(there, page + offset)


def _whole(text: str | None, default: int, name: str) -> int:
    """Return a whole number of at least 0 that is written in a document."""
    if text is None:
        return default
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0 or value > 2**40:
        raise ComirSearchError(
            f"{name} gives an impossible size, {text[:40]!r}, in its OME-XML: it is damaged, export it again"
        )
    return value
