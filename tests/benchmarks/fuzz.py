"""Feed the program malformed input of six kinds, and fail where it does anything but refuse it in words.

    python tests/benchmarks/fuzz.py --minutes 5
    python tests/benchmarks/fuzz.py --kinds images models --cases 500 --seed 3
    python tests/benchmarks/fuzz.py --replay images:3:17

A case fails on any exception but ComirSearchError, a crash, 20 s of processor time,
memory over the kind's budget, a file changed that is not the case's own, or code of
the input being run. Case N of a seed is always the same; the inputs of failures are
kept, and can be run again.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from fuzzing.campaign import KINDS, Campaign, describe, run_campaign


def main() -> int:
    """Run the fuzz test; return 1 where anything failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="default: all")
    parser.add_argument("--minutes", type=float, default=1.0, help="for all kinds together (default: 1)")
    parser.add_argument("--cases", type=int, help="cases of each kind, instead of --minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--replay", metavar="KIND:SEED:NUMBER", help="run one case again and show all of it")
    parser.add_argument(
        "--keep",
        type=Path,
        default=Path(tempfile.gettempdir()) / "comir-fuzz-failures",
        help="folder for the inputs of failures (default: %(default)s)",
    )
    arguments = parser.parse_args()
    if hasattr(os, "nice"):
        os.nice(10)
    if arguments.replay:
        return replay(arguments.replay, arguments.keep)
    tallies = run_campaign(
        arguments.kinds,
        seed=arguments.seed,
        seconds=60 * arguments.minutes / len(arguments.kinds),
        cases=arguments.cases,
        keep=arguments.keep,
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )
    print(describe(tallies))
    return int(any(tally.failures for tally in tallies))


def replay(name: str, keep: Path) -> int:
    """Run one case again; its input is kept whatever comes of it."""
    kind, seed, number = name.split(":")
    with (
        tempfile.TemporaryDirectory(prefix="comir-fuzz-", ignore_cleanup_errors=True) as room,
        Campaign(kind, int(seed), Path(room), keep) as campaign,
    ):
        failures = campaign.run(int(number))
        kept = campaign.keep_case(int(number))
    print("\n".join(map(str, failures)) or f"{name} does not fail; input in {kept}")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
