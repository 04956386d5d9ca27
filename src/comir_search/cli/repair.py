"""Rebuild the damaged parts of an index; the other parts are not changed.

If the finest CoMIR level of a slide is damaged, the file of the slide is needed.
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
    """Repair the index, and print the rebuilt parts."""
    from comir_search.index.check import repair_steps

    repaired = show(repair_steps(args.index, device=args.device))
    for damage in repaired:
        print(f"rebuilt {damage}")
    print(f"{args.index}: sound")
    return 0
