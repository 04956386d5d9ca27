"""Measure what several worker processes gain over one process, indexing and searching.

    python tests/benchmarks/giant_slide.py --slides WSI --pairs PAIRS --out /tmp/giant/1 --gigapixels 1
    python tests/benchmarks/bench_workers.py /tmp/giant/1 [--workers 2] [--queries 8]

The command does the same job three times: in one process that may use one core, in one that may use all,
and with ``--workers``. Seconds are those of the clock, from start to end of the command, so starting the
workers counts. Both ratios say how many times as long the one process takes; the first is the one to expect
close to the number of workers. It means nothing while other jobs run: the machine has to be idle, and to
have as many cores as there are workers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

COMMAND = str(Path(sys.executable).with_name("comir-search"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="holds slides/ and queries/, as giant_slide.py writes them")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--queries", type=int, default=8, help="search for so many of them in one command")
    args = parser.parse_args()
    queries = sorted((args.folder / "queries").iterdir())
    queries = queries[:: max(1, len(queries) // args.queries)][: args.queries]
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        indexes = (Path(scratch) / str(number) for number in range(3))
        compare("index", lambda: ["index", args.folder / "slides", "--index", next(indexes)], args.workers)
        compare("search", lambda: ["search", *queries, "--index", Path(scratch) / "0"], args.workers)


def compare(job: str, make_command: Callable[[], list], workers: int) -> None:
    """Do a job in three ways; print how long each took."""
    cores = sorted(os.sched_getaffinity(0))
    row = {"job": job, "cores": len(cores), "workers": workers, "load_before": round(os.getloadavg()[0], 1)}
    row["one_core_s"] = seconds(make_command(), cores[:1])
    row["one_process_s"] = seconds(make_command(), cores)
    row["workers_s"] = seconds([*make_command(), "--workers", workers], cores)
    for name in ("one_core", "one_process"):
        row[f"ratio_to_{name}"] = round(row[f"{name}_s"] / row["workers_s"], 2)
    print(json.dumps(row), flush=True)


def seconds(command: list, cores: list[int]) -> float:
    """Return how long a command takes on some cores."""
    threads = {"OMP_NUM_THREADS": str(len(cores))}
    began = time.perf_counter()
    subprocess.run(
        [COMMAND, *(str(part) for part in command), "--device", "cpu"],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | threads,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    return round(time.perf_counter() - began, 1)


if __name__ == "__main__":
    main()
