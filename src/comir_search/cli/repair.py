"""Rebuild the damaged parts of an index, and nothing else.

The file of a slide is needed if the finest level of its CoMIR is damaged.
"""

from __future__ import annotations

import argparse

from comir_search.cli import arguments
from comir_search.cli.progress import show

HELP = "rebuild the damaged parts of an index"
STOPPED = "Stopped; what is repaired is kept, and the same command goes on from there."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments."""
    arguments.add_index(parser)
    arguments.add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Repair, and print what was rebuilt."""
    from comir_search.index.check import repair_steps

    repaired = show(repair_steps(args.index, device=args.device))
    for damage in repaired:
        print(f"rebuilt {damage}")
    print(f"{args.index}: sound")
    return 0
