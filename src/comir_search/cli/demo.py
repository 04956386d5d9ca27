"""Try the program on synthetic slides and queries: index, search and draw the result.

This writes slides/, queries/, truth.csv, index/, overlay.png and demo.comirproj, a project
for the napari plugin. The images are simulated and show no real tissue.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from comir_search.cli import arguments
from comir_search.cli.progress import show
from comir_search.cli.search import draw_overlay, search_all_steps
from comir_search.records import format_confidence

if TYPE_CHECKING:
    from comir_search.index.index import Index
    from comir_search.records import SearchResult

HELP = "make synthetic slides and queries, index, search, draw"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments."""
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("comir-search-demo"),
        metavar="DIR",
        help="where to write (default: comir-search-demo)",
    )
    parser.add_argument("--gui", action="store_true", help="open the result in napari")
    arguments.add_device(parser)


def run(args: argparse.Namespace) -> int:
    """Run the demo."""
    from comir_search.index.build import index_slides_steps
    from comir_search.model.model import load_model
    from comir_search.sample.synthesis import make_sample_steps

    started_s = time.monotonic()
    model = load_model(device=args.device)
    sample = show(make_sample_steps(args.out))
    job = index_slides_steps(
        sample.slides, args.out / "index", model=model, modality="bf", device=args.device
    )
    index = show(job)
    results = [result for _, result in show(search_all_steps(index, sample.queries))]
    draw_overlay(args.out / "overlay.png", index, results, sample.queries)
    project = args.out / "demo.comirproj"
    if not project.exists():  # an existing project may contain the user's verdicts
        _write_project(project, index, sample.queries, results)
    with sample.truth.open(newline="", encoding="utf-8") as file:
        _print_answers(results, list(csv.DictReader(file)))
    print(f"Slides, queries, index and picture (overlay.png) are in {args.out}", end="")
    print(f"; this took {time.monotonic() - started_s:.0f} s.")
    if args.gui:
        subprocess.Popen([sys.executable, "-m", "napari", str(project)])
    return 0


def _print_answers(results: Sequence[SearchResult], truth: Sequence[dict[str, str]]) -> None:
    """Compare the first candidate of each query with its true position, and print how many are right."""
    from comir_search.geometry import angle_difference_deg

    print("Synthetic slides and queries: simulated, no real tissue.\n")
    width = max(len(result.query) for result in results)
    print(f"{'query':<{width}}  answer     confidence  slide                place off  angle off")
    right = 0
    for result, row in zip(results, truth, strict=True):
        answer = "found" if result.found else "not found"
        best = result.candidates[0] if result.candidates else None
        confidence = format_confidence(best)
        line = f"{result.query:<{width}}  {answer:<9}  {confidence:>10}  "
        if not row["slide"]:
            right += not result.found
            print(line + "is on none of the slides")
            continue
        off_um = off_deg = float("inf")
        if best is not None and best.slide == row["slide"]:
            dx_um = best.center_x_um - float(row["center_x_um"])
            dy_um = best.center_y_um - float(row["center_y_um"])
            off_um = (dx_um**2 + dy_um**2) ** 0.5
            off_deg = angle_difference_deg(best.angle_deg, float(row["angle_deg"]))
        is_right = result.found and off_um <= 0.25 * float(row["side_um"])
        right += is_right
        slide = best.slide if best else ""
        place = f"{slide:<19}  {off_um:>6.1f} um  {off_deg:>5.1f} deg" if off_um < float("inf") else slide
        print(line + place)
    print(f"\n{right} of {len(results)} answers are right.")


def _write_project(
    path: Path, index: Index, queries: Sequence[Path], results: Sequence[SearchResult]
) -> None:
    """Write a project with the results, for the plugin."""
    from comir_search.errors import ComirSearchError
    from comir_search.index.index import find_slide
    from comir_search.slides import open_slide
    from comir_search.study.project import Project

    with Project.create(path) as project:
        for slide in index.slides:
            try:
                with open_slide(find_slide(slide), pixel_size_um=slide.pixel_size_um) as file:
                    project.add_slide(file.info)
            except ComirSearchError:
                continue  # a slide of an earlier demo whose file no longer exists
        for query, result in zip(queries, results, strict=True):
            assert result.provenance is not None  # a finished search always has its provenance
            key = project.add_query(
                query.name,
                path=str(query),
                modality=result.provenance.modality,
                pixel_size_um=result.provenance.pixel_size_um,
            )
            project.set_result(key, result, asdict(result.provenance))
        project.settings = {"index": str(Path(index.path).absolute())}
