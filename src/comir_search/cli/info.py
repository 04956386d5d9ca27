"""Describe slides: format, size, levels, pixel size and its source, other images in the file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from comir_search.cli.arguments import add_json, write_json

if TYPE_CHECKING:
    from comir_search.records import SlideInfo

HELP = "describe slides: size, levels, pixel size and its source, other images in the file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("slides", type=Path, nargs="+", metavar="SLIDE", help="slides, or folders of slides")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print the properties of each slide. If a slide cannot be read, the others are still printed."""
    from comir_search.errors import BatchIncomplete, ComirSearchError, LeftOut
    from comir_search.slides import find_slides, open_slide

    left_out: list[LeftOut] = []
    paths = find_slides(args.slides, left_out)
    described: list[SlideInfo] = []
    for path in paths:
        try:
            with open_slide(path) as slide:
                described.append(slide.info)
        except ComirSearchError as error:
            left_out.append(LeftOut(str(path), str(error)))
        else:
            print(_describe(described[-1]))
    write_json(args.json, [info.to_dict() for info in described])
    if len(left_out) == 1 and not described:
        raise ComirSearchError(left_out[0].reason)
    if left_out:
        raise BatchIncomplete(described, tuple(left_out), len(described) + len(left_out))
    return 0


def _describe(info: SlideInfo) -> str:
    """Return a paragraph on one slide."""
    sizes = ", ".join(f"{width} x {height}" for height, width in info.level_shapes_px)
    if info.pixel_size_um is None:
        pixel_size = "not known: give --pixel-size where the slide is used"
        extent = ""
    else:
        pixel_size = f"{info.pixel_size_um:.4g} um ({info.pixel_size_source})"
        width_mm, height_mm = (side * info.pixel_size_um / 1000 for side in (info.width_px, info.height_px))
        extent = f", {width_mm:.3g} x {height_mm:.3g} mm"
    rows = {
        "format": info.format,
        "size": f"{info.width_px} x {info.height_px} px{extent}",
        "pixels": f"{'RGB' if info.channels == 3 else 'grey'}, {info.dtype}",
        "levels": f"{len(info.level_shapes_px)} ({sizes})",
        "pixel size": pixel_size,
        "fingerprint": info.fingerprint,
    }
    lines = [f"  {name:<12} {value}" for name, value in rows.items()]
    lines += [f"  {'also in it':<12} {other}" for other in info.other_images]
    lines += [f"  {'note':<12} {note}" for note in info.notes]
    return "\n".join([info.name, *lines])
