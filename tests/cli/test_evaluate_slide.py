from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from .conftest import PIXEL_SIZE_UM, paint_brightfield, write_image

SIDE_PX = 160
COLUMNS = (
    "query",
    "slide",
    "center_x_px",
    "center_y_px",
    "center_x_um",
    "center_y_um",
    "angle_deg",
    "mirrored",
)


@pytest.fixture
def queries(tmp_path) -> Path:
    """Brightfield crops of the slide, which brightfield must find, and the table of their places."""
    slide = paint_brightfield(512, 640)
    rows = []
    for number, (x, y) in enumerate([(96, 64), (400, 300)]):
        name = f"crop_{number}.ome.tif"
        write_image(tmp_path / "queries" / name, slide[y : y + SIDE_PX, x : x + SIDE_PX])
        center = (x + SIDE_PX / 2, y + SIDE_PX / 2)
        in_um = tuple(value * PIXEL_SIZE_UM for value in center)
        rows.append(dict(zip(COLUMNS, (name, "slide.ome.tif", *center, *in_um, 0, 0), strict=True)))
    with open(tmp_path / "truth.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path


def test_crops_of_the_slide_are_hits(command, index_folder, queries):
    answer = command(
        *("evaluate-slide", "--index", index_folder, "--modality", "bf", "--json", queries / "report.json"),
        *("--queries", queries / "queries", "--truth", queries / "truth.csv"),
    )
    assert answer.code == 0, answer.err
    report = json.loads((queries / "report.json").read_text())
    assert (report["n_queries"], report["n_absent"]) == (2, 0)
    assert report["hit"] == {"1": 1.0, "5": 1.0, "10": 1.0}
    assert report["median_error_um"] < PIXEL_SIZE_UM
    assert report["recall"] == {"bow_100": 1.0, "correlation_100": 1.0, "fused_100": 1.0}
    assert report["found"]["false_found"] is None
    assert "hit at 1" in answer.out and "1.00" in answer.out
    assert "found among those with none" in answer.out and " -" in answer.out


@pytest.mark.parametrize(
    ("content", "word"), [("", "column"), ("query,slide\n", "column"), (",".join(COLUMNS) + "\n", "no query")]
)
def test_a_table_that_is_none_is_refused(command, index_folder, queries, content, word):
    (queries / "truth.csv").write_text(content)
    arguments = ("--queries", queries / "queries", "--truth", queries / "truth.csv")
    answer = command("evaluate-slide", "--index", index_folder, *arguments)
    assert answer.code == 1
    assert "truth.csv" in answer.sentence and word in answer.sentence


def test_a_query_that_is_not_there_is_named(command, index_folder, queries):
    (queries / "queries" / "crop_1.ome.tif").unlink()
    arguments = ("--queries", queries / "queries", "--truth", queries / "truth.csv")
    answer = command("evaluate-slide", "--index", index_folder, "--modality", "bf", *arguments)
    assert answer.code == 1
    assert "crop_1.ome.tif" in answer.sentence
