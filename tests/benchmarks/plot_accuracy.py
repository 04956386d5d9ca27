"""Draw the figure of docs/accuracy.md from the rows that bench_accuracy.py wrote: run by hand (needs matplotlib).

    python tests/benchmarks/plot_accuracy.py /tmp/accuracy/rows.jsonl docs/images/accuracy.png

The second panel takes the rows of every --beside. Rows of several seeds are averaged.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

SIZES_PX = (64, 96, 128, 192)
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#888888"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    by_row: dict[str, list[dict]] = {}
    for line in args.rows.read_text().splitlines():
        row = json.loads(line)
        by_row.setdefault(row["row"], []).append(row)
    public = {name: [row for row in rows if row["beside"] == ["public"]] for name, rows in by_row.items()}
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.1), layout="constrained")
    draw_sizes(axes[0], public)
    draw_gallery(axes[1], by_row)
    draw_reliability(axes[2], [row for rows in public.values() for row in rows])
    figure.savefig(args.out, dpi=160)


def draw_sizes(axis: plt.Axes, by_row: dict[str, list[dict]]) -> None:
    """Draw the hit rates over the queries' size."""
    sizes = [size for size in SIZES_PX if f"{size} px" in by_row]
    for rank, colour, label in (("1", BLUE, "at first place"), ("10", ORANGE, "among the first ten")):
        hits = [mean([row["hit"][rank] for row in by_row[f"{size} px"]]) for size in sizes]
        axis.plot([2 * size for size in sizes], hits, "o-", color=colour, label=label)
    axis.set(ylim=(0, 1.03), xlabel="side of the query (µm)", ylabel="right place")
    axis.legend(frameon=False, loc="lower right")


def draw_gallery(axis: plt.Axes, by_row: dict[str, list[dict]]) -> None:
    """Draw the hit rate over how much tissue is searched."""
    for size, colour in ((192, BLUE), (96, ORANGE)):
        hits: dict[float, list[float]] = {}
        for row in by_row.get(f"{size} px", []):
            hits.setdefault(round(row["tissue_mm2"]), []).append(row["hit"]["1"])
        areas = sorted(hits)
        axis.plot(areas, [mean(hits[area]) for area in areas], "o-", color=colour, label=f"{2 * size} µm")
    axis.set(xscale="log", ylim=(0, 1.03), xlabel="tissue searched (mm²)", ylabel="first place right")
    axis.legend(frameon=False, loc="lower right", title="side of the query")


def draw_reliability(axis: plt.Axes, rows: list[dict]) -> None:
    """Draw the share of right first places over their confidence, of all queries together."""
    pooled: dict[float, list[dict]] = {}
    for row in rows:
        for part in row["reliability"]["bins"]:
            pooled.setdefault(part["from"], []).append(part)
    count = sum(part["n"] for parts in pooled.values() for part in parts)
    axis.plot([0, 1], [0, 1], "--", color=GREY, lw=1)
    error = 0.0
    for parts in pooled.values():
        n = sum(part["n"] for part in parts)
        confidence, right = (
            sum(part[key] * part["n"] for part in parts) / n for key in ("confidence", "right")
        )
        axis.scatter(confidence, right, s=20 + 120 * (n / count) ** 0.5, color=BLUE, clip_on=False)
        error += n / count * abs(confidence - right)
    axis.set(xlim=(0, 1), ylim=(0, 1.03), xlabel="confidence of the first place", ylabel="first place right")
    axis.text(0.97, 0.05, f"{count} queries\ncalibration error {error:.3f}", color=GREY, ha="right")


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
