"""The pixel size of an image, and its source."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from comir_search.errors import ComirSearchError

_UM_PER_UNIT = {
    "km": 1e9, "m": 1e6, "dm": 1e5, "cm": 1e4, "mm": 1e3, "nm": 1e-3, "pm": 1e-6, "å": 1e-4, "in": 25400.0,
    "inch": 25400.0, "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0,
    "micrometre": 1.0, "nanometer": 1e-3, "nanometre": 1e-3, "millimeter": 1e3, "millimetre": 1e3,
    "centimeter": 1e4, "meter": 1e6, "angstrom": 1e-4,
}  # fmt: skip
# Resolutions of screens and printers (dots per inch): programs write them if the true one is unknown.
_PRINT_DPI = (
    1, 72, 75, 96, 100, 120, 144, 150, 180, 200, 240, 300, 350, 360, 400, 600, 720, 1200, 1440, 2400, 2880,
    4800,
)  # fmt: skip
_PHILIPS_SPACING = re.compile(r'DICOM_PIXEL_SPACING"[^>]*>[^0-9]*([0-9.]+)[^0-9]+([0-9.]+)')
SMALLEST_UM, LARGEST_UM = 0.02, 20.0  # plausible pixel sizes of microscopes and scanners
_USER_SMALLEST_UM, _USER_LARGEST_UM = 1e-3, 1e3
_SQUARE_WITHIN = 0.02
_MICROMANAGER_TAG = 51123


@dataclass(frozen=True)
class PixelSize:
    """A pixel size in um (None if unknown) and its source.

    `doubt` says why the pixel size in the file was rejected, and what to do.
    """

    um: float | None
    source: str
    doubt: str = ""


MISSING = PixelSize(None, "missing")


def user_pixel_size(pixel_size_um: float) -> PixelSize:
    """Return the pixel size that a user gives, if it is possible."""
    value = float(pixel_size_um)
    if not (math.isfinite(value) and _USER_SMALLEST_UM <= value <= _USER_LARGEST_UM):
        raise ComirSearchError(
            f"a pixel size of {pixel_size_um} um is not possible: give micrometres per pixel, from "
            f"{_USER_SMALLEST_UM:g} to {_USER_LARGEST_UM:g}"
        )
    return PixelSize(value, "user")


def believe(name: str, x_um: float, y_um: float, source: str, *, density: bool = False) -> PixelSize:
    """Return the pixel size that a file gives, if a microscope can have it.

    Every pixel size from a file is checked here. Print densities and sizes outside
    0.02 to 20 um are rejected: the pixel size then counts as missing, and its `doubt`
    says why. If the axes differ by up to 2 %, their mean is used.

    Parameters
    ----------
    name : str
        File name, for messages.
    x_um, y_um : float
        The pixel size in the file.
    source : str
        The tag or field that gives it.
    density : bool
        Whether the file gives it as pixels per length, as printers do.

    Raises
    ------
    ComirSearchError
        If pixels are far from square.
    """
    if not all(math.isfinite(value) and value > 0 for value in (x_um, y_um)):
        return MISSING
    dpi = 25400 / x_um
    if abs(dpi - 1) < 0.02:
        return MISSING  # one pixel per inch is never meant
    is_print = any(abs(dpi - usual) < 0.02 * math.sqrt(usual) for usual in _PRINT_DPI)
    if is_print or not all(SMALLEST_UM <= value <= LARGEST_UM for value in (x_um, y_um)):
        reason = (
            f"which is a print density ({dpi:.4g} dpi)"
            if is_print or (density and x_um > LARGEST_UM)
            else f"which is not possible for a microscope ({SMALLEST_UM:g} to {LARGEST_UM:g} um)"
        )
        return PixelSize(
            None, MISSING.source, f"the file gives {x_um:.4g} um ({source}), {reason}: give --pixel-size"
        )
    if abs(x_um - y_um) > _SQUARE_WITHIN * max(x_um, y_um):
        raise ComirSearchError(
            f"{name}: its pixels are not square ({x_um:.4g} x {y_um:.4g} um, {source}): resample it "
            "to square pixels, or give --pixel-size if the file is wrong"
        )
    return PixelSize(x_um if x_um == y_um else math.sqrt(x_um * y_um), source)


def first_believed(stated: Iterable[PixelSize]) -> PixelSize:
    """Return the first known pixel size, otherwise the first with a doubt, otherwise `MISSING`."""
    doubted = MISSING
    for pixel_size in stated:
        if pixel_size.um is not None:
            return pixel_size
        if not doubted.doubt:
            doubted = pixel_size
    return doubted


def parse_number(text: Any) -> float | None:
    """Return a number written with a point or a comma; None for any other text."""
    try:
        return float(str(text).strip().replace(",", "."))
    except ValueError:
        return None


def unit_in_um(unit: str | None) -> float | None:
    """Return micrometres per unit of length, None if it is not a unit of length."""
    return _UM_PER_UNIT.get(str(unit or "").replace("\\u00B5", "µ").strip().lower())


def resolution_pixel_size(name: str, x: float, y: float, unit_um: float, source: str) -> PixelSize:
    """Return a pixel size that the file gives as pixels per unit.

    Parameters
    ----------
    name : str
        File name, for messages.
    x, y : float
        Pixels per unit.
    unit_um : float
        The unit in um: 10,000 (cm) or 25,400 (inch).
    source : str
        The tag or field that gives it.
    """
    if not (x > 0 and y > 0) or x == y == 1:
        return MISSING
    return believe(name, unit_um / x, unit_um / y, source, density=True)


def tiff_pixel_sizes(tiff: Any, page: Any, name: str) -> Iterator[PixelSize]:
    """Yield the pixel sizes in a TIFF file, vendors' own fields before the resolution tag.

    Parameters
    ----------
    tiff : tifffile.TiffFile
    page : tifffile.TiffPage
        First page of level 0.
    name : str
        File name, for messages.
    """
    description = page.description or ""
    if tiff.is_svs and (mpp := re.search(r"\|\s*MPP\s*=\s*([0-9.,eE+-]+)", description)):
        um = parse_number(mpp[1]) or 0.0
        yield believe(name, um, um, "Aperio MPP")
    if tiff.is_philips and (spacings := _PHILIPS_SPACING.findall(description)):
        sizes = [(parse_number(y) or 0.0, parse_number(x) or 0.0) for y, x in spacings]
        y_mm, x_mm = min(sizes)  # one for each level
        yield believe(name, x_mm * 1e3, y_mm * 1e3, "Philips pixel spacing")
    if tiff.is_lsm:
        about = tiff.lsm_metadata or {}
        x_m, y_m = (parse_number(about.get(f"VoxelSize{axis}")) or 0.0 for axis in "XY")
        yield believe(name, x_m * 1e6, y_m * 1e6, "LSM VoxelSizeX")
    um = _micromanager_um(page)
    if um:
        yield believe(name, um, um, "Micro-Manager PixelSizeUm")
    x, y = (_rational(page.tags.valueof(code)) for code in (282, 283))
    if tiff.is_imagej and x > 0 and y > 0:
        about = tiff.imagej_metadata or {}
        x_unit_um = unit_in_um(about.get("unit"))
        y_unit_um = unit_in_um(about["yunit"]) if "yunit" in about else x_unit_um
        if x_unit_um and y_unit_um:
            yield believe(name, x_unit_um / x, y_unit_um / y, "ImageJ", density=x_unit_um >= 1e3)
    unit_um = {2: 25400.0, 3: 10000.0}.get(page.tags.valueof(296, 2))
    if unit_um is not None:
        yield resolution_pixel_size(name, x, y, unit_um, "TIFF resolution tag")


def _micromanager_um(page: Any) -> float:
    """Return Micro-Manager's pixel size, 0 if there is none or it was never calibrated."""
    about = page.tags.valueof(_MICROMANAGER_TAG)
    if isinstance(about, (str, bytes)):
        try:
            about = json.loads(about)
        except (ValueError, RecursionError):
            return 0.0
    return (parse_number(about.get("PixelSizeUm")) or 0.0) if isinstance(about, dict) else 0.0


def _rational(value: Any) -> float:
    """Return a TIFF rational as a number, 0 if it is not one."""
    try:
        return float(value[0]) / float(value[1])
    except (TypeError, ValueError, ZeroDivisionError, IndexError, OverflowError):
        return 0.0
