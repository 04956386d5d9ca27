"""The images in a TIFF file, and which of them is the slide.

Only the pages in this file count. If it belongs to a set (one file for each position
or channel), the other files are never opened.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comir_search.errors import ComirSearchError
from comir_search.slides.ome_xml import OmeImage, OmeSet, read_ome
from comir_search.slides.resample import find_downsample
from comir_search.slides.xml import find_children, parse_xml

_MOST_PAGES = 20_000
_MOST_TAGS = 400_000
_MOST_SUB_PAGES = 1000
_SUB_PAGES_TAG = 330
_ASIDE = re.compile(r"\b(label|macro|thumbnail|map|barcode)\b", re.IGNORECASE)
_MOST_NAMED = 5
_AXES = {"C": "channel", "Z": "z position", "T": "time point"}
_PLURALS = {"C": "channels", "Z": "z positions", "T": "time points", "I": "pages"}
_MACRO_MAGNIFICATION = 2.0  # a lower magnification shows the whole glass slide


@dataclass(frozen=True)
class TiffImage:
    """One image of a file.

    Parameters
    ----------
    name : str
        Name in the file, or "".
    pages : tuple
        Its tifffile pages, finest level first, of the first plane.
    planes : dict of str to int
        Axes (C, Z, T, I) along which it has more than one plane.
    is_aside : bool
        Whether it is a label, a picture of the whole glass slide, or a thumbnail.
    ome : OmeImage, optional
        Its description in the OME-XML.
    siblings : dict of str to (int, int)
        Axes along which a set of files is split, this file with one plane only:
        the number of that plane, from 0, and the number of planes.
    """

    name: str
    pages: tuple[Any, ...]
    planes: dict[str, int] = field(default_factory=dict)
    is_aside: bool = False
    ome: OmeImage | None = None
    siblings: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the finest level."""
        return shape_of(self.pages[0])

    def __str__(self) -> str:
        size = f"{self.shape[1]} x {self.shape[0]} px"
        return f"{self.name!r}, {size}" if self.name else size


def shape_of(page: Any) -> tuple[int, int]:
    """Return the height and width of a page."""
    return int(page.imagelength), int(page.imagewidth)


def is_smaller_copy(full: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether an image is smaller than another by the same factor in both directions."""
    if not (0 < other[0] < full[0] and 0 < other[1] < full[1]):
        return False
    downsample = find_downsample(full, other)
    return all(
        abs(side / downsample - own) <= max(1.5, 0.01 * own) for side, own in zip(full, other, strict=True)
    )


def is_aside(name: str) -> bool:
    """Whether an image's name says that it shows a label or the whole glass slide."""
    return bool(_ASIDE.search(name))


def list_images(tiff: Any, path: Path) -> tuple[list[TiffImage], OmeSet | None]:
    """Return the images of a file in their order, and what its OME-XML says about the file.

    `tiff` must have been opened with `is_ome=False`, so that tifffile does not open other files.
    """
    if len(tiff.pages) == 0:
        return [], None
    first = tiff.pages[0]
    described = (first.description or "").lstrip("\ufeff \r\n\t")
    if described.startswith("<"):
        parse_xml(described, path.name)  # before tifffile parses it
    ome = None
    if first.is_ome:
        ome = read_ome(described, path, len(tiff.pages))
        images = list(_list_ome_images(tiff, ome))
        if images:
            return images, ome
    return list(_list_series(tiff, described, path.name)), ome


def _list_ome_images(tiff: Any, ome: OmeSet) -> Iterator[TiffImage]:
    for image in ome.images:
        if not image.planes:
            continue
        page = tiff.pages[image.planes[0].page]
        if 0 in shape_of(page):
            continue
        planes, siblings = {}, {}
        for axis, size in image.sizes.items():
            here = {plane.place.get(axis, 0) for plane in image.planes}
            if len(here) > 1:
                planes[axis] = len(here)
            elif size > 1:
                siblings[axis] = (here.pop(), size)
        yield TiffImage(
            name=image.name,
            pages=(page, *(page.pages or ())),
            planes=planes,
            is_aside=is_aside(image.name),
            ome=image,
            siblings=siblings,
        )


def _list_series(tiff: Any, description: str, name: str) -> Iterator[TiffImage]:
    macros = _find_macros(description, name) if tiff.is_scn else set()
    for number, series in enumerate(tiff.series):
        page = series.keyframe
        if page is None or 0 in shape_of(page):
            continue
        sizes = dict(zip(series.axes, series.shape, strict=True))
        planes = {axis: size for axis, size in sizes.items() if axis not in "YXS" and size > 1}
        if len(series.pages) == 1 and list(planes) == ["C"] and planes["C"] == page.samplesperpixel:
            planes = {}  # the colours of one page
        label = str(series.name or "")
        reduced = bool(page.subfiletype & 1) and not tiff.is_svs
        yield TiffImage(
            name=label,
            pages=(page, *(level.keyframe for level in series.levels[1:])),
            planes=planes,
            is_aside=reduced or is_aside(label) or number in macros,
        )


def _find_macros(description: str, name: str) -> set[int]:
    """Return which images of a Leica SCN file show the whole glass slide."""
    root = parse_xml(description, name)
    macros: set[int] = set()
    number = 0
    for collection in find_children(root, "collection") if root is not None else ():
        for image in find_children(collection, "image"):
            views = find_children(image, "view")
            is_whole = any(
                view.get("offsetX") == view.get("offsetY") == "0"
                and all(view.get(side) == collection.get(side) for side in ("sizeX", "sizeY"))
                for view in views
            )
            magnifications = [
                objective.text or ""
                for objective in image.iter()
                if isinstance(objective.tag, str) and objective.tag.endswith("}objective")
            ]
            if is_whole or any(_is_below(text, _MACRO_MAGNIFICATION) for text in magnifications):
                macros.add(number)
            number += len(find_children(image, "pixels"))
    return macros


def _is_below(text: str, limit: float) -> bool:
    try:
        return float(text) < limit
    except ValueError:
        return False


def check_pages(path: Path, tiff: Any) -> None:
    """Raise an error if a file has so many pages or tags that listing them would take minutes."""
    if tiff.is_ndpi:  # its offsets have more bits than its tags have room for
        return
    order, big = tiff.byteorder, tiff.is_bigtiff
    count, offset = struct.Struct(order + ("Q" if big else "H")), struct.Struct(order + ("Q" if big else "I"))
    entry = struct.Struct(order + ("HHQ" if big else "HHI"))
    entry_bytes = 20 if big else 12
    pages = tags = sub_pages = 0
    with path.open("rb") as file:
        file.seek(8 if big else 4)
        data = file.read(offset.size)
        while len(data) == offset.size and (place := offset.unpack(data)[0]):
            file.seek(place)
            data = file.read(count.size)
            if len(data) < count.size:
                return
            here = count.unpack(data)[0]
            pages, tags = pages + 1, tags + here
            if pages > _MOST_PAGES or tags > _MOST_TAGS:
                raise ComirSearchError(
                    f"{path.name} contains more than {_MOST_PAGES:,} pages or {_MOST_TAGS:,} tags: it is a stack "
                    "or damaged, save the one plane to use"
                )
            listed = file.read(here * entry_bytes)
            for start in range(0, len(listed) - entry_bytes + 1, entry_bytes):
                code, _, number = entry.unpack_from(listed, start)
                sub_pages += number if code == _SUB_PAGES_TAG else 0
            if sub_pages > _MOST_SUB_PAGES:
                raise ComirSearchError(
                    f"{path.name} lists {sub_pages:,} levels: it is damaged, copy or export it again"
                )
            data = file.read(offset.size)


@dataclass(frozen=True)
class Choice:
    """The image that is the slide, the other images in the file, and notes about the choice."""

    image: TiffImage
    others: list[TiffImage]
    notes: list[str]


def choose_image(images: list[TiffImage], name: str) -> Choice:
    """Return the first image of a file that is not a label, macro, thumbnail or preview.

    Raises
    ------
    ComirSearchError
        If there is no image.
    """
    if not images:
        raise ComirSearchError(
            f"{name} contains no image: it is damaged or truncated, copy or export it again"
        )
    slides = [image for image in images if not image.is_aside and not _is_preview(image, images)]
    slides = slides or [max(images, key=lambda image: image.shape[0] * image.shape[1])]
    chosen = slides[0]
    notes = []
    if len(slides) > 1:
        notes.append(say_choice(str(chosen), [str(image) for image in slides[1:]]))
    for axis, (number, count) in chosen.siblings.items():
        notes.append(
            f"{_AXES[axis]} {number + 1} of {count}: this file contains only one of a set, the others are in "
            "other files"
        )
    return Choice(chosen, [image for image in images if image is not chosen], notes)


def say_choice(chosen: str, others: list[str]) -> str:
    """Return a note that says which of several images is used."""
    named = "; ".join(others[:_MOST_NAMED]) + ("; ..." if len(others) > _MOST_NAMED else "")
    return f"image 1 of {len(others) + 1} ({chosen}) is used; not used: {named}"


def _is_preview(image: TiffImage, images: list[TiffImage]) -> bool:
    """Whether an image without its own description is a smaller copy of another one."""
    return image.ome is None and any(
        not other.is_aside and is_smaller_copy(other.shape, image.shape) for other in images
    )


def check_planes(image: TiffImage, name: str) -> None:
    """Raise an error if an image is a stack or has several grey channels: the user must choose one."""
    if image.planes:
        count = 1
        for size in image.planes.values():
            count *= size
        inside = " x ".join(f"{size} ({axis})" for axis, size in image.planes.items())
        kinds = ", ".join(_PLURALS.get(axis, f"planes along {axis}") for axis in image.planes)
        raise ComirSearchError(
            f"{name} contains {count} planes, {inside}: save the one to use as a single grey or RGB image "
            f"(it has several {kinds})"
        )
