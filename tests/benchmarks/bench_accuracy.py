"""Rebuild the accuracy table of the README: run by hand.

    python tests/benchmarks/bench_accuracy.py --shared ../shared --work /tmp/accuracy [--model MODEL] [--seed 0]

Builds slides and queries from the validation cores with ``make_tma_slide.py``, indexes them together
with the public slides as distractors, and prints one row per kind of query. With --fit it fits the
confidence on training cores instead, half of whose queries lie on no slide, and writes it into MODEL.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from comir_search.comir.model import DEFAULT_MODEL, load_model
from comir_search.evaluation.calibration import collect, fit_calibration, reliability
from comir_search.evaluation.localisation import search_all_steps, summarise
from comir_search.progress import finish
from comir_search.retrieval.index import Index
from comir_search.retrieval.indexing import index_slides_steps

ROWS = {
    "192 px": ["--query-size", "192"],
    "128 px": ["--query-size", "128"],
    "96 px": ["--query-size", "96"],
    "192 px, raw SHG, 12 bits": [
        "--query-size",
        "192",
        "--query-bits",
        "12",
        "--query-gain",
        "0.1",
        "1",
        "RAW",
    ],
    "192 px, pixel size 5 % off": ["--query-size", "192", "--pixel-size-error", "0.05"],
    "192 px, half mirrored": ["--query-size", "192", "--mirrored-share", "0.5", "MIRROR"],
    "192 px, half absent": ["--query-size", "192", "ABSENT"],
    "192 px, BF in SHG": ["--query-size", "192", "--query-side", "bf", "BF"],
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, required=True, help="folder with data/ and tools/")
    parser.add_argument("--work", type=Path, required=True, help="folder for slides, queries and indexes")
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--queries-per-core", type=int, default=16)
    parser.add_argument("--rows", nargs="+", default=list(ROWS))
    parser.add_argument("--fit", action="store_true")
    args = parser.parse_args()
    bench = Bench(args)
    if args.fit:
        bench.fit()
        return
    for row in args.rows:
        print(json.dumps({"row": row, **bench.measure(row)}), flush=True)


class Bench:
    """Slides, indexes and searches below one folder."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.pairs = args.shared / "data" / "he_shg_tma"
        with open(self.pairs / "pairs.csv", newline="") as file:
            self.split = {row["id"]: row["split"] for row in csv.DictReader(file)}

    def names(self, split: str) -> list[str]:
        return [name for name, its in self.split.items() if its == split]

    def build(self, name: str, names: list[str], options: list[str], absent: list[str]) -> Path:
        folder = self.args.work / name
        command = [sys.executable, self.args.shared / "tools" / "make_tma_slide.py"]
        command += ["--bf", self.pairs / "he_aligned", "--shg", self.pairs / "shg", "--out", folder]
        command += ["--upsample", "2", "--seed", self.args.seed, "--names", *names, *options]
        command += ["--absent", *absent] if absent else []
        subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
        return folder

    def index(self, folder: Path, kind: str, distractors: bool, modality: str = "bf") -> Index:
        """Index a folder's slide, or open the index of another folder of this kind: their slides are the same."""
        model = load_model(self.args.model)
        path = self.args.work / f"index_{kind}_{self.args.seed}_{model.fingerprint[:8]}"
        if path.is_dir():
            return Index.open(path)
        index = finish(index_slides_steps([folder / "slides"], path, model=model, modality=modality))
        if distractors:
            slides = self.args.shared / "data" / "wsi"
            stated = [slides / "CMU-1-Small-Region.svs", slides / "fibrosis_HE_quarter.tif"]
            index = finish(index_slides_steps(stated, path))
            tcga = slides / "TCGA-CR-7395-01A-01-TS1.svs"
            index = finish(index_slides_steps([tcga], path, pixel_size_um=0.5))
        return index

    def measure(self, row: str) -> dict:
        options = [option for option in ROWS[row] if not option.isupper()]
        flags = {option for option in ROWS[row] if option.isupper()}
        names, absent = self.names("validation"), []
        if "RAW" in flags:
            options += ["--query-images", str(self.pairs / "shg_raw")]
        if "ABSENT" in flags:  # as many absent queries as present ones, of cores the model never saw
            absent = names[::2]
            names = [*names, *self.names("train")[:1]]
        name = "".join(c if c.isalnum() else "_" for c in row) + f"_{self.args.seed}"
        options += ["--queries-per-core", str(self.args.queries_per_core)]
        folder = self.build(name, names, options, absent)
        kind = "absent" if "ABSENT" in flags else "shg" if "BF" in flags else "bf"
        index = self.index(folder, kind, kind != "shg", "shg" if kind == "shg" else "bf")
        truth = folder / "truth.csv"
        answers = finish(search_all_steps(index, folder / "queries", truth, mirror="MIRROR" in flags))
        result = summarise(answers)
        confidences = np.array([r.candidates[0].confidence for _, r in answers])
        _, right, first = collect(answers)
        result["reliability"] = reliability(confidences, right[first])
        result["misses"] = sorted({t.group for t, r in answers if t.slide and not r.found})
        return result

    def fit(self) -> None:
        names = self.names("train")
        answers = []
        for size in ("192", "112"):
            for half in (0, 1):
                absent = names[half::2]
                options = ["--query-size", size, "--queries-per-core", "2"]
                folder = self.build(f"fit_{size}_{half}", names, options, absent)
                index = self.index(folder, f"fit{half}", distractors=False)
                answers += finish(search_all_steps(index, folder / "queries", folder / "truth.csv"))
        model = load_model(self.args.model, "cpu")
        model.calibration = fit_calibration(answers)
        features, right, first = collect(answers)
        confidence = model.calibration.confidence(features[first])
        print(model.calibration, "right", right[first].mean(), reliability(confidence, right[first])["ece"])
        model.card["calibration"] = {
            "images": names,
            "queries": len(answers),
            "absent": sum(not truth.slide for truth, _ in answers),
        }
        model.save(self.args.model)


if __name__ == "__main__":
    main()
