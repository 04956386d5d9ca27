"""Train without one stain group and test on it; train on photographs: run by hand.

    python tests/benchmarks/bench_generalisation.py --shared ../shared --work /tmp/generalisation [--steps 600]

For each group of ``he_shg_tma`` a model learns from the cores of the three others and searches for
patches of the left-out cores, on a slide of all its cores beside the public slides. For ``vis_nir``
a model learns from 30 pairs of colour and near-infrared photographs and searches for patches of the
other 10. Prints one row each; trains on one thread per core that torch is given.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Sequence
from pathlib import Path

from tma_slide import make_tma_slide

from comir_search.evaluation.localisation import evaluate_slide_steps
from comir_search.index.build import index_slides_steps
from comir_search.opencv import cv2
from comir_search.progress import finish
from comir_search.training.run import train_steps

GROUPS = ("1B", "2B", "X", "pancreas")
PHOTOGRAPHS = "vis_nir"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, required=True, help="folder with data/ and tools/")
    parser.add_argument("--work", type=Path, required=True, help="folder for models, slides and indexes")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--queries-per-core", type=int, default=8)
    parser.add_argument("--rows", nargs="+", default=[*GROUPS, PHOTOGRAPHS])
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    for row in args.rows:
        result = photographs(args) if row == PHOTOGRAPHS else left_out_group(args, row)
        print(json.dumps({"row": row, **result}), flush=True)


def left_out_group(args: argparse.Namespace, group: str) -> dict:
    """Train on the other groups, search for patches of this one."""
    data = args.shared / "data" / "he_shg_tma"
    with open(data / "pairs.csv", newline="") as file:
        groups = {row["id"]: row["group"] for row in csv.DictReader(file)}
    sides = (data / "he_aligned", data / "shg")
    model = train(args, group, sides, [name for name, its in groups.items() if its != group])
    names = [name for name, its in groups.items() if its == group]
    options = ["--query-size", 192, "--upsample", 2, "--queries-per-core", args.queries_per_core]
    folder = make_tma_slide(args.shared, sides, args.work / group, names, options)
    slides = args.shared / "data" / "wsi"
    stated = [slides / "CMU-1-Small-Region.svs", slides / "fibrosis_HE_quarter.tif"]
    return search(args, group, model, folder, stated)


def photographs(args: argparse.Namespace) -> dict:
    """Train on 30 photographs, search for near-infrared patches of the other 10."""
    data = args.shared / "data" / PHOTOGRAPHS
    with open(data / "pairs.csv", newline="") as file:
        names = [row["id"] for row in csv.DictReader(file)]
    sides = (data / "rgb", data / "nir")
    model = train(args, PHOTOGRAPHS, sides, names[:30])
    options = ["--query-size", 128, "--min-tissue", 0, "--queries-per-core", args.queries_per_core]
    tested = tuple(as_png(side, names[30:], args.work / side.name) for side in sides)
    folder = make_tma_slide(args.shared, tested, args.work / PHOTOGRAPHS, names[30:], options)
    return search(args, PHOTOGRAPHS, model, folder, [])


def as_png(side: Path, names: Sequence[str], out: Path) -> Path:
    """Copy JPEG images as PNG, which is what ``make_tma_slide.py`` reads."""
    out.mkdir(exist_ok=True)
    for name in names:
        cv2.imwrite(str(out / f"{name}.png"), cv2.imread(str(side / f"{name}.jpg"), cv2.IMREAD_UNCHANGED))
    return out


def train(args: argparse.Namespace, name: str, sides: tuple[Path, Path], names: Sequence[str]) -> Path:
    """Train a model, or open the one that an earlier run left."""
    out = args.work / f"{name}_{args.steps}.safetensors"
    started = time.monotonic()
    if not out.is_file():
        finish(train_steps(*sides, out, names=names, steps=args.steps))
        print(f"{name}: trained on {len(names)} pairs in {time.monotonic() - started:.0f} s", flush=True)
    return out


def search(args: argparse.Namespace, name: str, model: Path, folder: Path, others: Sequence[Path]) -> dict:
    """Index the slide and the others, search for every query, count."""
    path = args.work / f"index_{name}_{args.steps}"
    index = finish(index_slides_steps([folder / "slides", *others], path, model=model))
    return finish(evaluate_slide_steps(index, folder / "queries", folder / "truth.csv"))


if __name__ == "__main__":
    main()
