"""Index slides: compute and store the data for searching.

A missing index is created. Slides that are in the index already are skipped, and an
interrupted run continues where it stopped. Slides that cannot be indexed are named at the
end, and the exit code is then 1. If --model differs from the model of the index only in its
calibration, it replaces that model, and no slide is computed again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from comir_search import options
from comir_search.cli import arguments
from comir_search.cli.progress import show
from comir_search.errors import BatchIncomplete
from comir_search.index.options import IndexOptions

if TYPE_CHECKING:
    from comir_search.index.index import Index

HELP = "add slides to an index"
STOPPED = "Stopped; what is finished is kept, and the same command goes on from there."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments."""
    parser.add_argument(
        "slides", type=Path, nargs="+", metavar="SLIDE_OR_FOLDER", help="slides, or folders of them"
    )
    arguments.add_index(parser)
    options.add_arguments(parser, IndexOptions)


def run(args: argparse.Namespace) -> int:
    """Create an index or add to it."""
    from comir_search.index.build import index_slides_steps

    job = index_slides_steps(args.slides, args.index, options.from_arguments(IndexOptions, args))
    try:
        _print_slides(args.index, show(job))
    except BatchIncomplete as incomplete:
        if incomplete.result is not None:
            _print_slides(args.index, incomplete.result)
        raise
    return 0


def _print_slides(path: Path, index: Index) -> None:
    count = len(index.slides)
    print(f"{path}: {count} slide{'' if count == 1 else 's'}, {index.modality}")
    for slide in index.slides:
        print(f"  {slide.name}  {slide.width_px} x {slide.height_px} px  {slide.pixel_size_um:g} um/px")
