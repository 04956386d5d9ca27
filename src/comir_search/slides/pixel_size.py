"""The pixel size of an image, and where it is stated."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from comir_search.errors import ComirSearchError

_UM_PER_UNIT = {
    "km": 1e9, "m": 1e6, "dm": 1e5, "cm": 1e4, "mm": 1e3, "nm": 1e-3, "pm": 1e-6, "å": 1e-4, "in": 25400.0,
    "inch": 25400.0, "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0,
    "micrometre": 1.0, "nanometer": 1e-3, "nanometre": 1e-3, "millimeter": 1e3, "millimetre": 1e3,
    "centimeter": 1e4, "meter": 1e6, "angstrom": 1e-4,
}  # fmt: skip
# Programs write these when they know nothing about the image.
_PRINT_DPI = (1, 72, 75, 96, 100, 120, 144, 150, 180, 200, 240, 300, 400, 600, 720, 1200)
_PHILIPS_SPACING = re.compile(r'DICOM_PIXEL_SPACING"[^>]*>[^0-9]*([0-9.]+)[^0-9]+([0-9.]+)')
_LARGEST_UM = 100.0
_SQUARE_WITHIN = 0.02


@dataclass(frozen=True)
class PixelSize:
    """A pixel size in um, None where nobody states it, and its source."""

    um: float | None
    source: str


MISSING = PixelSize(None, "missing")


def user_pixel_size(pixel_size_um: float) -> PixelSize:
    """Check and wrap the pixel size that a user gives."""
    value = float(pixel_size_um)
    if not (math.isfinite(value) and value > 0):
        raise ComirSearchError(f"a pixel size of {pixel_size_um} um is not possible: give a number above 0")
    return PixelSize(value, "user")


def square_pixel_size(name: str, x_um: float, y_um: float, source: str) -> PixelSize:
    """Return the pixel size of an image that states one for each axis.

    Differences of up to 2 % are averaged.

    Raises
    ------
    ComirSearchError
        Where pixels are further from square.
    """
    if not all(math.isfinite(value) and value > 0 for value in (x_um, y_um)):
        return MISSING
    if abs(x_um - y_um) > _SQUARE_WITHIN * max(x_um, y_um):
        raise ComirSearchError(
            f"{name}: its pixels are not square ({x_um:.4g} x {y_um:.4g} um, {source}): resample it "
            "to square pixels, or give --pixel-size if the file is wrong"
        )
    return PixelSize(x_um if x_um == y_um else math.sqrt(x_um * y_um), source)


def unit_in_um(unit: str | None) -> float | None:
    """Return micrometres per unit of length, None for what is not a length."""
    return _UM_PER_UNIT.get((unit or "").replace("\\u00B5", "µ").strip().lower())


def resolution_pixel_size(name: str, x: float, y: float, unit_um: float, source: str) -> PixelSize:
    """Return the pixel size of pixels per unit, unless it is a print default.

    Parameters
    ----------
    name : str
        File name, for messages.
    x, y : float
        Pixels per unit.
    unit_um : float
        The unit in um: 10,000 (cm) or 25,400 (inch).
    source : str
        What states it.
    """
    if not (x > 0 and y > 0):
        return MISSING
    dpi = x / unit_um * 25400
    if unit_um / x > _LARGEST_UM or any(
        abs(dpi - default) < 0.02 * math.sqrt(default) for default in _PRINT_DPI
    ):
        return MISSING
    return square_pixel_size(name, unit_um / x, unit_um / y, source)


def tiff_pixel_size(tiff: Any, page: Any, name: str) -> PixelSize:
    """Read the pixel size of a TIFF file.

    Vendors' own statements go before the resolution tag.

    Parameters
    ----------
    tiff : tifffile.TiffFile
    page : tifffile.TiffPage
        First page of level 0.
    name : str
        File name, for messages.
    """
    description = page.description or ""
    if tiff.is_svs and (mpp := re.search(r"\|\s*MPP\s*=\s*([0-9.eE+-]+)", description)):
        return square_pixel_size(name, float(mpp[1]), float(mpp[1]), "Aperio MPP")
    if tiff.is_ome:
        found = ome_pixel_size(tiff.ome_metadata, page.imagewidth, page.imagelength, name)
        if found.um is not None:
            return found
    if tiff.is_philips and (spacings := _PHILIPS_SPACING.findall(description)):
        y_mm, x_mm = min((float(y), float(x)) for y, x in spacings)  # one for each level
        return square_pixel_size(name, x_mm * 1e3, y_mm * 1e3, "Philips pixel spacing")
    x, y = (_rational(page.tags.valueof(code)) for code in (282, 283))
    unit = page.tags.valueof(296, 2)
    if tiff.is_imagej:
        unit_um = unit_in_um((tiff.imagej_metadata or {}).get("unit"))
        if unit_um and x > 0 and y > 0:
            return square_pixel_size(name, unit_um / x, unit_um / y, "ImageJ")
    unit_um = {2: 25400.0, 3: 10000.0}.get(int(unit))
    if unit_um is None:
        return MISSING
    return resolution_pixel_size(name, x, y, unit_um, "TIFF resolution tag")


def ome_pixel_size(xml: str, width_px: int, height_px: int, name: str) -> PixelSize:
    """Read PhysicalSizeX and Y of the image of that size from OME-XML."""
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return MISSING
    pixels = [element for element in root.iter() if element.tag.rpartition("}")[2] == "Pixels"]
    size = (str(width_px), str(height_px))
    pixels.sort(key=lambda element: (element.get("SizeX"), element.get("SizeY")) != size)
    for element in pixels[:1]:
        sides = []
        for axis in "XY":
            value, unit_um = (
                element.get(f"PhysicalSize{axis}"),
                unit_in_um(element.get(f"PhysicalSize{axis}Unit", "µm")),
            )
            if value is None or unit_um is None:
                return MISSING
            sides.append(float(value) * unit_um)
        return square_pixel_size(name, sides[0], sides[1], "OME PhysicalSizeX")
    return MISSING


def _rational(value: Any) -> float:
    """Return a TIFF rational as a number, 0 where it is none."""
    if value is None:
        return 0.0
    try:
        return float(value[0]) / float(value[1])
    except (TypeError, ZeroDivisionError, IndexError):
        return 0.0
