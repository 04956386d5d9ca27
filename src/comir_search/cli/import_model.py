"""Convert a published CoMIR checkpoint to a model file; nothing in it is run."""

from __future__ import annotations

import argparse
from pathlib import Path

from comir_search.cli import arguments

HELP = "convert a published CoMIR checkpoint"
PUBLISHED_PIXEL_SIZE_UM = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments."""
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT.pt", help="file of the CoMIR release")
    parser.add_argument("--out", type=Path, required=True, metavar="MODEL", help="model file to write")
    parser.add_argument(
        "--pixel-size",
        type=arguments.positive_float,
        default=PUBLISHED_PIXEL_SIZE_UM,
        metavar="UM",
        help="um per pixel of its training images, which the file does not state (default: %(default)g)",
    )


def run(args: argparse.Namespace) -> int:
    """Convert one checkpoint."""
    from comir_search.model.checkpoint import import_checkpoint

    model = import_checkpoint(args.checkpoint, pixel_size_um=args.pixel_size)
    model.save(args.out)
    print(
        f"{args.out}: CoMIRs of {model.comir_channels} channel(s), images taken at {model.pixel_size_um:g} um"
    )
    if model.architecture == "tiramisu-aerial":
        print(
            "Its colour side takes blue, green, red in this order, as the published aerial images hold them."
        )
    print("It holds no vocabulary yet: it embeds and evaluates, but cannot index.")
    return 0
