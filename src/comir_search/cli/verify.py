"""Check every file of an index, and list the damaged parts."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from comir_search.cli import arguments
from comir_search.cli.progress import show
from comir_search.errors import ComirSearchError

HELP = "check an index for damage"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments."""
    arguments.add_index(parser)
    arguments.add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print the damaged parts; fail if there are any."""
    from comir_search.index.check import verify_steps

    damages = show(verify_steps(args.index))
    arguments.write_json(args.json, [asdict(damage) for damage in damages])
    for damage in damages:
        print(damage)
    if damages:
        count = "1 part" if len(damages) == 1 else f"{len(damages)} parts"
        raise ComirSearchError(
            f"{args.index}: {count} damaged; run `comir-search repair --index {args.index}`."
        )
    print(f"{args.index}: sound")
    return 0
