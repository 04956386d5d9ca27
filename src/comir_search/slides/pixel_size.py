"""The pixel size of an image, and where it is stated."""

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
# Programs write these when they know nothing about the image: dots per inch of screens and printers.
_PRINT_DPI = (
    1, 72, 75, 96, 100, 120, 144, 150, 180, 200, 240, 300, 350, 360, 400, 600, 720, 1200, 1440, 2400, 2880,
    4800,
)  # fmt: skip
_PHILIPS_SPACING = re.compile(r'DICOM_PIXEL_SPACING"[^>]*>[^0-9]*([0-9.]+)[^0-9]+([0-9.]+)')
SMALLEST_UM, LARGEST_UM = 0.02, 20.0  # what a microscope's or scanner's pixel may be
_USER_SMALLEST_UM, _USER_LARGEST_UM = 1e-3, 1e3
_SQUARE_WITHIN = 0.02
_MICROMANAGER_TAG = 51123


@dataclass(frozen=True)
class PixelSize:
    """A pixel size in um, None where it is not known, and its source.

    `doubt` says why what the file states was not believed, and what to do.
    """

    um: float | None
    source: str
    doubt: str = ""


MISSING = PixelSize(None, "missing")


def user_pixel_size(pixel_size_um: float) -> PixelSize:
    """Check and wrap the pixel size that a user gives."""
    value = float(pixel_size_um)
    if not (math.isfinite(value) and _USER_SMALLEST_UM <= value <= _USER_LARGEST_UM):
        raise ComirSearchError(
            f"a pixel size of {pixel_size_um} um is not possible: give micrometres per pixel, from "
            f"{_USER_SMALLEST_UM:g} to {_USER_LARGEST_UM:g}"
        )
    return PixelSize(value, "user")


def believe(name: str, x_um: float, y_um: float, source: str, *, density: bool = False) -> PixelSize:
    """Return the pixel size that a file states, if it can be that of a microscope.

    The one gate for every source. Print densities, and sizes outside 0.02 to 20 um, are
    not believed: the pixel size then counts as missing, and its `doubt` says why.
    Differences between the axes of up to 2 % are averaged.

    Parameters
    ----------
    name : str
        File name, for messages.
    x_um, y_um : float
        What is stated.
    source : str
        What states it.
    density : bool
        Whether it is stated as pixels per length, as printers do.

    Raises
    ------
    ComirSearchError
        Where pixels are far from square.
    """
    if not all(math.isfinite(value) and value > 0 for value in (x_um, y_um)):
        return MISSING
    dpi = 25400 / x_um
    if abs(dpi - 1) < 0.02:
        return MISSING  # nobody means one pixel per inch
    is_print = any(abs(dpi - usual) < 0.02 * math.sqrt(usual) for usual in _PRINT_DPI)
    if is_print or not all(SMALLEST_UM <= value <= LARGEST_UM for value in (x_um, y_um)):
        reason = (
            f"which is a print density ({dpi:.4g} dpi)"
            if is_print or (density and x_um > LARGEST_UM)
            else f"which is no pixel of a microscope ({SMALLEST_UM:g} to {LARGEST_UM:g} um)"
        )
        return PixelSize(
            None, MISSING.source, f"the file states {x_um:.4g} um ({source}), {reason}: give --pixel-size"
        )
    if abs(x_um - y_um) > _SQUARE_WITHIN * max(x_um, y_um):
        raise ComirSearchError(
            f"{name}: its pixels are not square ({x_um:.4g} x {y_um:.4g} um, {source}): resample it "
            "to square pixels, or give --pixel-size if the file is wrong"
        )
    return PixelSize(x_um if x_um == y_um else math.sqrt(x_um * y_um), source)


def first_believed(stated: Iterable[PixelSize]) -> PixelSize:
    """Return the first pixel size that is known, else the first doubt, else that it is missing."""
    doubted = MISSING
    for pixel_size in stated:
        if pixel_size.um is not None:
            return pixel_size
        if not doubted.doubt:
            doubted = pixel_size
    return doubted


def parse_number(text: Any) -> float | None:
    """Return a number as a file states it, with a point or a comma; None for anything else."""
    try:
        return float(str(text).strip().replace(",", "."))
    except ValueError:
        return None


def unit_in_um(unit: str | None) -> float | None:
    """Return micrometres per unit of length, None for what is not a length."""
    return _UM_PER_UNIT.get(str(unit or "").replace("\\u00B5", "µ").strip().lower())


def resolution_pixel_size(name: str, x: float, y: float, unit_um: float, source: str) -> PixelSize:
    """Return the pixel size that is stated as pixels per unit.

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
    if not (x > 0 and y > 0) or x == y == 1:
        return MISSING
    return believe(name, unit_um / x, unit_um / y, source, density=True)


def tiff_pixel_sizes(tiff: Any, page: Any, name: str) -> Iterator[PixelSize]:
    """Yield what a TIFF file states, vendors' own statements before the resolution tag.

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
    """Return Micro-Manager's pixel size, 0 where there is none or it was never calibrated."""
    about = page.tags.valueof(_MICROMANAGER_TAG)
    if isinstance(about, (str, bytes)):
        try:
            about = json.loads(about)
        except (ValueError, RecursionError):
            return 0.0
    return (parse_number(about.get("PixelSizeUm")) or 0.0) if isinstance(about, dict) else 0.0


def _rational(value: Any) -> float:
    """Return a TIFF rational as a number, 0 where it is none."""
    try:
        return float(value[0]) / float(value[1])
    except (TypeError, ValueError, ZeroDivisionError, IndexError, OverflowError):
        return 0.0
