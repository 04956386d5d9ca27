"""Embed an image: write its CoMIR as a TIFF with one page per channel."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from comir_search.cli import arguments
from comir_search.cli.progress import show

HELP = "write the CoMIR of an image as TIFF"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments."""
    parser.add_argument("image", type=Path, metavar="IMAGE", help="slide or image, any size")
    arguments.add_modality(
        parser, "the image's modality in the model (shipped model: bf or shg)", required=True
    )
    parser.add_argument("--out", type=Path, required=True, metavar="OUT.tif", help="file to write")
    parser.add_argument("--float", action="store_true", help="write 32-bit values instead of 8-bit ones")
    arguments.add_model(parser)
    arguments.add_pixel_size(parser)
    arguments.add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Embed one image."""
    from comir_search.export.comir_tiff import write_comir
    from comir_search.model.embedding import embed_image_steps
    from comir_search.model.model import load_model
    from comir_search.slides import open_slide

    model = load_model(args.model, args.device)
    with open_slide(args.image, pixel_size_um=args.pixel_size) as slide:
        for note in slide.info.notes:
            print(note, file=sys.stderr)
        comir = show(embed_image_steps(model, slide, args.modality, as_float=args.float))
    write_comir(args.out, comir, model.comir_pixel_size_um)
    channels, height, width = comir.shape
    size_um = model.comir_pixel_size_um
    print(f"{args.out}: {channels} channels, {width} x {height} px of {size_um:g} um, {comir.dtype}")
    return 0
