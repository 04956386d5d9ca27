"""Rebuild the accuracy tables of docs/accuracy.md: run by hand.

    python tests/benchmarks/bench_accuracy.py --shared ../shared --work /tmp/accuracy [--model MODEL] [--seed 0]

Builds slides and queries from the validation cores with ``make_tma_slide.py``, indexes them together
with the public slides as distractors, and prints one row per kind of query (also to WORK/rows.jsonl,
which ``plot_accuracy.py`` draws). --beside takes other distractors: ``public``, and folders of indexes
that the same model made, say of ``giant_slide.py``'s slides; none at all leaves the cores alone. With
--fit it fits the confidence instead, on patches of which half lie on no slide, and writes it into MODEL;
what it prints is judged on cores left out of the fit.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tma_slide import make_tma_slide

from comir_search.evaluation.calibration import collect, fit_calibration, reliability
from comir_search.evaluation.localisation import Truth, search_all_steps, summarise
from comir_search.index.build import index_slides_steps
from comir_search.index.index import MODEL_FILE, Index
from comir_search.model.model import DEFAULT_MODEL, load_model
from comir_search.progress import finish
from comir_search.records import SearchResult

Answers = list[tuple[Truth, SearchResult]]

SIZE_192 = ["--query-size", "192"]
ROWS = {
    "192 px": SIZE_192,
    "128 px": ["--query-size", "128"],
    "96 px": ["--query-size", "96"],
    "64 px": ["--query-size", "64"],
    "192 px, 30 degrees at most": [*SIZE_192, "--max-rotation", "30"],
    "192 px, raw SHG, 12 bits": [*SIZE_192, "--query-bits", "12", "--query-gain", "0.1", "1", "RAW"],
    "192 px, pixel size 5 % off": [*SIZE_192, "--pixel-size-error", "0.05"],
    "192 px, half mirrored": [*SIZE_192, "--mirrored-share", "0.5", "MIRROR"],
    "192 px, half absent": [*SIZE_192, "ABSENT"],
    "192 px, BF in SHG": [*SIZE_192, "--query-side", "bf", "BF"],
}
FIT_SIZES = ("192", "128", "96")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, required=True, help="folder with data/ and tools/")
    parser.add_argument("--work", type=Path, required=True, help="folder for slides, queries and indexes")
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--queries-per-core", type=int, default=16)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), metavar="ROW")
    parser.add_argument("--beside", nargs="*", default=["public"], metavar="INDEX")
    parser.add_argument("--fit", action="store_true")
    args = parser.parse_args()
    bench = Bench(args.shared, args.work, args.model, args.seed, args.beside)
    if args.fit:
        bench.fit()
        return
    for row in args.rows:
        answers = bench.search(row, args.queries_per_core)
        line = json.dumps(
            {
                "row": row,
                "seed": args.seed,
                "beside": args.beside,
                "tissue_mm2": bench.tissue_mm2,
                **report(answers),
            }
        )
        print(line, flush=True)
        with open(args.work / "rows.jsonl", "a") as file:
            file.write(line + "\n")


class Bench:
    """Slides, indexes and searches below one folder."""

    def __init__(
        self, shared: Path, work: Path, model: Path, seed: int, beside: Sequence[str] = ("public",)
    ) -> None:
        self.shared, self.work, self.seed, self.beside = shared, work, seed, beside
        self.model = load_model(model)
        self.model_file = model
        self.pairs = shared / "data" / "he_shg_tma"
        self.tissue_mm2 = 0.0  # in the index last searched
        with open(self.pairs / "pairs.csv", newline="") as file:
            self.groups = {
                row["id"]: row["group"] for row in csv.DictReader(file) if row["split"] == "validation"
            }

    def build(self, name: str, names: Sequence[str], absent: Sequence[str], options: Sequence[str]) -> Path:
        """Make a slide of cores and queries of known place."""
        sides = self.pairs / "he_aligned", self.pairs / "shg"
        options = ["--upsample", 2, "--seed", self.seed, *options]
        options += ["--absent", *absent] if absent else []
        return make_tma_slide(self.shared, sides, self.work / f"{name}_{self.seed}", names, options)

    def index(self, kind: str, folder: Path, modality: str = "bf") -> Index:
        """Index the slide of one kind of folders (equal in all of them) beside the public ones."""
        beside = "".join(f"_{Path(name).parent.name}{Path(name).name}" for name in self.beside)
        path = self.work / f"index_{kind}{beside}_{self.model.words_fingerprint[:8]}"
        if path.is_dir():
            shutil.copyfile(self.model_file, path / MODEL_FILE)  # the confidence may have been fitted since
            return Index.open(path)
        if modality == "bf":
            for name in self.beside:
                other = self._distractors() if name == "public" else Path(name)
                shutil.copytree(other, path, dirs_exist_ok=True)
        return finish(index_slides_steps([folder / "slides"], path, model=self.model, modality=modality))

    def _distractors(self) -> Path:
        path = self.work / f"distractors_{self.model.words_fingerprint[:8]}"
        if not path.is_dir():
            slides = self.shared / "data" / "wsi"
            stated = [slides / "CMU-1-Small-Region.svs", slides / "fibrosis_HE_quarter.tif"]
            finish(index_slides_steps(stated, path, model=self.model))
            tcga = slides / "TCGA-CR-7395-01A-01-TS1.svs"
            finish(index_slides_steps([tcga], path, pixel_size_um=0.5))
        return path

    def search(self, row: str, queries_per_core: int) -> Answers:
        """Search for all queries of one row."""
        options = [option for option in ROWS[row] if not option.isupper()]
        flags = {option for option in ROWS[row] if option.isupper()}
        options += ["--queries-per-core", str(queries_per_core)]
        if "RAW" in flags:
            options += ["--query-images", str(self.pairs / "shg_raw")]
        name = "".join(c if c.isalnum() else "_" for c in row)
        if "ABSENT" in flags:
            return self._search_halves(name, options)
        folder = self.build(name, list(self.groups), [], options)
        index = self.index("shg", folder, "shg") if "BF" in flags else self.index("bf", folder)
        self.tissue_mm2 = sum(
            float(slide.tissue.sum()) * slide.tissue_pixel_size_um**2 / 1e6 for slide in index.slides
        )
        return _search(index, folder, mirror="MIRROR" in flags)

    def _search_halves(self, name: str, options: Sequence[str]) -> Answers:
        """Search for all cores' queries in two indexes, each of which lacks the other's cores."""
        answers = []
        names = list(self.groups)
        for half in (0, 1):
            folder = self.build(f"{name}_half{half}", names, names[1 - half :: 2], options)
            answers += _search(self.index(f"half{half}", folder), folder)
        return answers

    def fit(self) -> None:
        """Fit the confidence, judge it on cores left out, write it into the model."""
        answers = []
        for size in FIT_SIZES:
            options = ["--query-size", size, "--queries-per-core", "4"]
            answers += self._search_halves(f"fit_{size}", options)
        confidences, rights, founds = [], [], []
        for core in self.groups:
            calibration = fit_calibration([answer for answer in answers if answer[0].group != core])
            features, right, first = collect([answer for answer in answers if answer[0].group == core])
            confidences.append(calibration.confidence(features[first]))
            rights.append(right[first])
            founds.append(confidences[-1] >= calibration.threshold)
        confidence, right, found = (np.concatenate(parts) for parts in (confidences, rights, founds))
        model = load_model(self.model_file, "cpu")
        model.calibration = fit_calibration(answers)
        model.card["calibration"] = {
            "images": list(self.groups),
            "queries": len(answers),
            "absent": sum(not truth.slide for truth, _ in answers),
            "left_out": {
                "threshold": model.calibration.threshold,
                "precision": float(right[found].mean()),
                "coverage": float(found.sum() / sum(bool(truth.slide) for truth, _ in answers)),
                "ece": reliability(confidence, right)["ece"],
            },
        }
        model.save(self.model_file)
        print(json.dumps(model.card["calibration"]), model.calibration)


def _search(index: Index, folder: Path, *, mirror: bool = False) -> Answers:
    return finish(search_all_steps(index, folder / "queries", folder / "truth.csv", mirror=mirror))


def report(answers: Answers) -> dict:
    """Return the counts of one row."""
    result = summarise(answers)
    confidences = np.array([r.candidates[0].confidence for _, r in answers if r.candidates])
    _, right, first = collect(answers)
    result["reliability"] = reliability(confidences, right[first])
    stages = [r.seconds for _, r in answers]
    result["stage_seconds"] = {
        stage: float(np.median([seconds.get(stage, 0.0) for seconds in stages])) for stage in stages[0]
    }
    result["missed_cores"] = sorted(
        truth.group for truth, r in answers if truth.slide and summarise([(truth, r)])["hit"]["1"] == 0
    )
    return result


if __name__ == "__main__":
    main()
