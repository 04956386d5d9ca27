"""Measure how long a query takes against how many slides the index holds.

    python tests/benchmarks/bench_repository.py /tmp/giant/1 --slides 1 2 5 10 20 50

The folder is one that ``bench_index.py`` has indexed. Its slide's part of the index is copied under other
names (by hard links where the disk has them), so every copy costs what a slide costs. The peer is the same
query on one slide, in the same run; processor seconds are given beside those of the clock, because other
jobs disturb them less.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--slides", type=int, nargs="+", default=[1, 2, 5, 10, 20, 50])
    parser.add_argument("--queries", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    queries = sorted((args.folder / "queries").iterdir())
    queries = queries[:: max(1, len(queries) // args.queries)][: args.queries]
    first: dict[str, float] = {}
    for count in args.slides:
        with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
            copy_slides(args.folder / "index", Path(scratch) / "index", count)
            row = search(Path(scratch) / "index", queries, args.device)
        first = first or row
        row["cpu_ratio"] = round(row["cpu_s"] / first["cpu_s"], 2)
        print(json.dumps({"slides": count, **row}), flush=True)


def copy_slides(source: Path, target: Path, count: int) -> None:
    """Write an index of `count` copies of the one slide of another."""
    (slide,) = (record.parent for record in (source / "slides").glob("*/slide.json"))
    (target / "slides").mkdir(parents=True)
    for name in ("index.json", "model.safetensors"):
        shutil.copy(source / name, target / name)
    for number in range(count):
        fingerprint = f"{number:032x}"
        copy = target / "slides" / fingerprint
        shutil.copytree(slide, copy, copy_function=link, ignore=shutil.ignore_patterns("slide.json"))
        record = json.loads((slide / "slide.json").read_text())
        record |= {"fingerprint": fingerprint, "name": f"{number}_{record['name']}"}
        (copy / "slide.json").write_text(json.dumps(record))


def link(source: str, target: str) -> None:
    """Link a file where the disk can, else copy it."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def search(index_path: Path, queries: list[Path], device: str) -> dict[str, float]:
    """Search for each query; return medians, the first query apart because it is cold."""
    from comir_search.index.index import Index
    from comir_search.retrieval.search import search as search_for

    index = Index.open(index_path, device)
    taken = []
    for query in queries:
        began, began_cpu = time.perf_counter(), time.process_time()
        result = search_for(query, index)
        taken.append((time.perf_counter() - began, time.process_time() - began_cpu, result.seconds))
    warm = taken[1:] or taken
    return {
        "cold_wall_s": round(taken[0][0], 2),
        "cold_cpu_s": round(taken[0][1], 2),
        "wall_s": round(statistics.median(wall for wall, _, _ in warm), 2),
        "cpu_s": round(statistics.median(cpu for _, cpu, _ in warm), 2),
        "stages_wall_s": {stage: round(seconds, 2) for stage, seconds in warm[-1][2].items()},
        "cache_mb": round(index.cache.n_bytes / 1e6),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


if __name__ == "__main__":
    main()
