"""Draw the README's figure from the rows that bench_accuracy.py wrote: run by hand (needs matplotlib).

    python tests/benchmarks/plot_accuracy.py /tmp/accuracy/rows.jsonl resources/images/accuracy.png \
        --gallery 13:0.93 --gallery 156:0.9

``--gallery MPX:HIT`` adds a point to the second panel: the size of everything searched, megapixels of
2 um, and the share of 192 px queries at first place.
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
    parser.add_argument("--gallery", nargs="*", default=[], metavar="MPX:HIT")
    args = parser.parse_args()
    by_row: dict[str, list[dict]] = {}
    for line in args.rows.read_text().splitlines():
        row = json.loads(line)
        by_row.setdefault(row["row"], []).append(row)
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.1), layout="constrained")
    draw_sizes(axes[0], by_row)
    draw_gallery(axes[1], [tuple(map(float, point.split(":"))) for point in args.gallery])
    draw_reliability(axes[2], by_row["192 px, half absent"])
    figure.savefig(args.out, dpi=160)


def draw_sizes(axis: plt.Axes, by_row: dict[str, list[dict]]) -> None:
    """Draw the hit rates over the queries' size."""
    sizes = [size for size in SIZES_PX if f"{size} px" in by_row]
    for rank, colour in (("1", BLUE), ("10", ORANGE)):
        hits = [mean([row["hit"][rank] for row in by_row[f"{size} px"]]) for size in sizes]
        axis.plot([2 * size for size in sizes], hits, "o-", color=colour, label=f"among the first {rank}")
    axis.set(ylim=(0, 1.03), xlabel="side of the query (µm)", ylabel="found at the right place")
    axis.legend(frameon=False, loc="lower right")


def draw_gallery(axis: plt.Axes, points: list[tuple[float, ...]]) -> None:
    """Draw the hit rate over the size of what is searched."""
    points = sorted(points)
    axis.plot(*zip(*points, strict=True), "o-", color=BLUE) if points else None
    axis.set(
        xscale="log",
        ylim=(0, 1.03),
        xlabel="slides searched (megapixels of 2 µm)",
        ylabel="first place right",
    )


def draw_reliability(axis: plt.Axes, rows: list[dict]) -> None:
    """Draw the share of right first places over their confidence."""
    bins = [part for row in rows for part in row["reliability"]["bins"]]
    axis.plot([0, 1], [0, 1], "--", color=GREY, lw=1)
    axis.scatter(
        [part["confidence"] for part in bins],
        [part["right"] for part in bins],
        s=[8 + 1.5 * part["n"] for part in bins],
        color=BLUE,
        clip_on=False,
    )
    ece = mean([row["reliability"]["ece"] for row in rows])
    axis.set(xlim=(0, 1), ylim=(0, 1.03), xlabel="confidence", ylabel="first place right")
    axis.text(0.05, 0.93, f"expected calibration error {ece:.3f}", color=GREY)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
