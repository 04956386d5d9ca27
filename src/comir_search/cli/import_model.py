"""Convert a checkpoint of the CoMIR authors to a model file; code in the checkpoint is never run."""

from __future__ import annotations

import argparse
from pathlib import Path

from comir_search.cli import arguments

HELP = "convert a published CoMIR checkpoint"
PUBLISHED_PIXEL_SIZE_UM = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments."""
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT.pt", help="checkpoint to convert")
    parser.add_argument("--out", type=Path, required=True, metavar="MODEL", help="model file to write")
    parser.add_argument(
        "--pixel-size",
        type=arguments.positive_float,
        default=PUBLISHED_PIXEL_SIZE_UM,
        metavar="UM",
        help="um per pixel of its training images, which is not in the file (default: %(default)g)",
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
        print("Its colour side takes blue, green, red in this order, like the published aerial images.")
    print("It has no vocabulary: embed and evaluate can use it, index cannot.")
    return 0
