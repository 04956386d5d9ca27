"""Free the space of slides that were removed from an index.

If the indexing of a slide was interrupted, its finished part is kept, unless the slide is
named with --remove.
"""

from __future__ import annotations

import argparse

from comir_search.cli import arguments
from comir_search.cli.progress import show

HELP = "free the space of removed slides"
STOPPED = "Stopped; the same command goes on from there."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments."""
    arguments.add_index(parser)
    parser.add_argument(
        "--remove",
        nargs="+",
        default=[],
        metavar="SLIDE",
        help="slides to remove from the index first, by file name or fingerprint",
    )


def run(args: argparse.Namespace) -> int:
    """Compact the index, and print what was removed and kept."""
    from comir_search.index.check import compact_steps

    done = show(compact_steps(args.index, remove=args.remove))
    for name in done.removed:
        print(f"removed {name}")
    for name in done.interrupted:
        print(f"kept {name}, which is not finished: index it again, or name it with --remove")
    print(f"{args.index}: {done.freed_bytes / 1e6:.1f} MB freed")
    return 0
