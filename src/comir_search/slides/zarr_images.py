"""The images in an OME-Zarr folder: one, or several in the layout of bioformats2raw."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from comir_search.errors import ComirSearchError
from comir_search.slides.tiff_images import is_aside, say_choice

_LAYOUT = "bioformats2raw.layout"
_MOST_LEVELS = 64
_MOST_SERIES = 1000
_NAME = re.compile(r"[^/\\\0]+(/[^/\\\0]+)*")


@dataclass(frozen=True)
class ZarrImage:
    """A multiscale image.

    Parameters
    ----------
    name : str
    attributes : dict
        OME metadata of its group.
    multiscale : dict
        First entry of its `multiscales`.
    arrays : list
        Zarr arrays, finest level first.
    signed : dict
        All metadata that the fingerprint covers.
    group : str
        Path of its group in the folder, "" for the folder itself.
    notes, others : list of str
        Notes about the choice; the images that were not chosen.
    """

    name: str
    attributes: dict[str, Any]
    multiscale: dict[str, Any]
    arrays: list[Any]
    signed: dict[str, Any]
    group: str = ""
    notes: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    @property
    def version(self) -> str:
        """Version of OME-Zarr."""
        if "ome" in self.signed:
            return str(self.attributes.get("version", "0.5"))
        return str(self.multiscale.get("version", "0.4"))

    @property
    def axes(self) -> list[str]:
        """Names of the axes, in lower case."""
        axes = self.multiscale.get("axes", "tczyx")
        return [str(axis["name"] if isinstance(axis, dict) else axis).lower() for axis in axes]

    def __str__(self) -> str:
        sizes = dict(zip(self.axes, self.arrays[0].shape, strict=True))
        size = f"{sizes.get('x')} x {sizes.get('y')} px"
        return f"{self.name!r}, {size}" if self.name else size


def choose_image(group: Any, name: str) -> ZarrImage:
    """Return the image of a Zarr group: its own, or the first of several that is not a label or macro.

    Raises
    ------
    ComirSearchError
        If there is no image.
    """
    signed = dict(group.attrs)
    described = _describe(signed)
    if described.get("multiscales"):
        return _read_image(group, signed, name)
    if _LAYOUT in described:
        images = list(_list_series(group, name))
        if images:
            slides = [image for image in images if not is_aside(image.name)] or images
            chosen = slides[0]
            others = [str(image) for image in images if image is not chosen]
            if len(slides) > 1:
                chosen.notes.append(say_choice(str(chosen), [str(image) for image in slides[1:]]))
            chosen.others.extend(others)
            return chosen
    if "plate" in described or "well" in described:
        raise ComirSearchError(f"{name} is a plate or a well: choose one of the images in it")
    raise ComirSearchError(
        f"{name} is a Zarr folder without OME metadata: export it as OME-Zarr 0.4 or 0.5, or choose the image "
        "in it"
    )


def _describe(signed: dict[str, Any]) -> dict[str, Any]:
    described = signed.get("ome", signed)
    return described if isinstance(described, dict) else {}


def _list_series(group: Any, name: str) -> Iterator[ZarrImage]:
    """Yield the numbered images of the bioformats2raw layout."""
    listed: Any = None
    if "OME" in group:
        listed = _describe(dict(group["OME"].attrs)).get("series")
    keys = [str(key) for key in listed] if isinstance(listed, list) else [str(n) for n in range(_MOST_SERIES)]
    for key in keys[:_MOST_SERIES]:
        if not _is_inside(key) or key not in group:
            if listed is None:
                return
            continue
        series = group[key]
        signed = dict(series.attrs)
        if _describe(signed).get("multiscales"):
            yield _read_image(series, signed, name)


def _read_image(group: Any, signed: dict[str, Any], name: str) -> ZarrImage:
    attributes = _describe(signed)
    multiscale = attributes["multiscales"][0]
    paths = [str(dataset["path"]) for dataset in multiscale["datasets"]]
    if not 0 < len(paths) <= _MOST_LEVELS or not all(map(_is_inside, paths)):
        raise ComirSearchError(f"{name} refers to levels outside its folder: it is damaged, export it again")
    arrays = [group[path] for path in paths]
    described_as = str(multiscale.get("name") or "")
    return ZarrImage(described_as, attributes, multiscale, arrays, signed, group.path.strip("/"))


def _is_inside(path: str) -> bool:
    """Whether a path in the metadata stays below the folder of the metadata."""
    return bool(_NAME.fullmatch(path)) and not {".", ".."} & set(path.split("/"))
