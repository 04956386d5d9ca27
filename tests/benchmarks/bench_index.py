"""Measure indexing and searching against the size of the slide.

    python tests/benchmarks/giant_slide.py --slides WSI --pairs PAIRS --out /tmp/giant/1 --gigapixels 1
    python tests/benchmarks/bench_index.py /tmp/giant/0.1 /tmp/giant/1 /tmp/giant/10 [--queries 8]

Each folder holds slides/, queries/ and truth.csv, as ``giant_slide.py`` writes them. Every slide is
indexed by the command in a process of its own, and searched in another: the first query cold, with the
index dropped from the page cache, the others warm. Seconds of wall clock depend on the machine and on what
else runs there, so they are printed beside processor seconds, bytes and the ratio to the named peer: the
network alone on as many pixels, in the same run. One row of JSON a slide.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--queries", type=int, default=8, help="search for so many of them")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--keep-index", action="store_true", help="search the index of an earlier run")
    parser.add_argument("--workers", type=int, help="index in so many processes")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        search_all(args.folders[0], args.queries, args.device)
        return
    for folder in args.folders:
        row = {"slide": next((folder / "slides").iterdir()).name}
        index = folder / "index"
        if not args.keep_index:
            shutil.rmtree(index, ignore_errors=True)
            more = ["--workers", str(args.workers)] if args.workers else []
            row |= run_measured(
                [
                    str(Path(sys.executable).with_name("comir-search")),
                    "index",
                    str(folder / "slides"),
                    "--index",
                    str(index),
                    "--device",
                    args.device,
                    *more,
                ],
                "index",
            )[0]
        row |= describe(index)
        if not args.keep_index:
            row["index_s_per_network_s"] = round(row["index_wall_s"] / network_s(index, row["stored_mpx"]), 2)
        forget_pages(index)
        command = [sys.executable, __file__, str(folder), "--child", "--queries", str(args.queries)]
        spent, answer = run_measured([*command, "--device", args.device], "search")
        print(json.dumps(row | spent | json.loads(answer)), flush=True)


def run_measured(command: list[str], stage: str) -> tuple[dict, str]:
    """Run a command; return what it and its children took, and what it printed."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    answer = process.stdout.read()
    _, status, own = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        f"{stage}_wall_s": round(time.perf_counter() - began, 1),
        f"{stage}_user_s": round(after.ru_utime - before.ru_utime, 1),
        f"{stage}_system_s": round(after.ru_stime - before.ru_stime, 1),
        f"{stage}_peak_mb": round(own.ru_maxrss / 1024),
    }, answer


def describe(path: Path) -> dict:
    """Return what the parts of an index take."""
    from comir_search.index.index import Index

    index = Index.open(path, "cpu")
    (slide,) = index.slides
    layout = index.layout
    stored_mpx = float(slide.grid.stored.sum()) * (layout.chunk_px * layout.stride) ** 2 / 1e6
    parts: dict[str, int] = {}
    for name, size in index.storage.sizes(slide.folder).items():
        part = name.split("/c/")[0] if "/c/" in name else "metadata"
        parts[part] = parts.get(part, 0) + size
    return {
        "slide_gpx": round(slide.width_px * slide.height_px / 1e9, 2),
        "tissue_mpx": round(float(slide.tissue.sum()) * 256 / 1e6, 2),
        "stored_mpx": round(stored_mpx, 2),
        "index_mb": round(sum(parts.values()) / 1e6, 2),
        "parts_mb": {part: round(size / 1e6, 2) for part, size in sorted(parts.items())},
    }


def network_s(path: Path, mpx: float) -> float:
    """Return the seconds that the network alone takes for so many megapixels."""
    import torch

    from comir_search.index.index import Index

    index = Index.open(path, "cpu")
    network = index.model.network(index.modality)
    image = torch.zeros(1, index.model.channels_of(index.modality), 1024, 1024)
    image = image.contiguous(memory_format=torch.channels_last)
    taken = []
    with torch.inference_mode():
        for _ in range(4):
            began = time.perf_counter()
            network(image)
            taken.append(time.perf_counter() - began)
    return min(taken) / (1024**2 / 1e6) * mpx


def forget_pages(folder: Path) -> None:
    """Drop a folder's files from the page cache, where the system can."""
    for path in folder.rglob("*"):
        if path.is_file() and hasattr(os, "posix_fadvise"):
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def search_all(folder: Path, count: int, device: str) -> None:
    """Search for queries one after the other; print when lists came and how many were right."""
    began = time.perf_counter()
    import torch  # noqa: F401

    from comir_search.evaluation.localisation import read_truth, summarise
    from comir_search.index.index import Index
    from comir_search.retrieval.search import search_steps

    imported_s = time.perf_counter() - began
    truths = read_truth(folder / "truth.csv")
    truths = truths[:: max(1, len(truths) // count)][:count]
    began, began_cpu = time.perf_counter(), time.process_time()
    index = Index.open(folder / "index", device)
    first_s, last_s, cpu_s, answers, stages = [], [], [], [], []
    for truth in truths:
        job = search_steps(index, folder / "queries" / truth.query)
        seen_s = None
        while True:
            try:
                tick = next(job)
            except StopIteration as stop:
                result = stop.value
                break
            if seen_s is None and tick.partial is not None:
                seen_s = time.perf_counter() - began
        last_s.append(time.perf_counter() - began)
        first_s.append(last_s[-1] if seen_s is None else seen_s)
        cpu_s.append(time.process_time() - began_cpu)
        answers.append((truth, result))
        stages.append(result.seconds)
        began, began_cpu = time.perf_counter(), time.process_time()
    summary = summarise(answers)
    print(
        json.dumps(
            {
                "import_s": round(imported_s, 1),
                "cold_first_list_s": round(first_s[0], 2),
                "cold_verified_s": round(last_s[0], 2),
                "cold_cpu_s": round(cpu_s[0], 2),
                "cold_stages_s": {stage: round(taken, 2) for stage, taken in stages[0].items()},
                "warm_first_list_s": round(statistics.median(first_s[1:]), 2) if first_s[1:] else None,
                "warm_verified_s": round(statistics.median(last_s[1:]), 2) if last_s[1:] else None,
                "warm_cpu_s": round(statistics.median(cpu_s[1:]), 2) if cpu_s[1:] else None,
                "warm_stages_s": {stage: round(taken, 2) for stage, taken in stages[-1].items()},
                "hit": summary["hit"],
                "n": len(answers),
            }
        )
    )


if __name__ == "__main__":
    main()
