from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from comir_search import load_model

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
    assert "found among those on no slide" in answer.out and " -" in answer.out


@pytest.mark.parametrize(
    ("method", "stages"),
    [
        ("words", {"bow_100": 1.0, "fused_100": 1.0}),
        ("correlation", {"correlation_100": 1.0, "fused_100": 1.0}),
    ],
)
def test_a_method_has_the_recall_of_its_own_stages(command, index_folder, queries, method, stages):
    report = queries / "report.json"
    answer = command(
        *(
            "evaluate-slide",
            "--index",
            index_folder,
            "--modality",
            "bf",
            "--method",
            method,
            "--json",
            report,
        ),
        *("--queries", queries / "queries", "--truth", queries / "truth.csv"),
    )
    assert answer.code == 0, answer.err
    values = json.loads(report.read_text())
    assert values["hit"]["1"] == 1.0
    assert values["recall"] == {"bow_100": None, "correlation_100": None, "fused_100": None} | stages


@pytest.mark.parametrize("method", ["auto", "correlation", "words"])
def test_each_method_finds_a_crop_of_the_slide(command, index_folder, queries, method):
    query, found = queries / "queries" / "crop_1.ome.tif", queries / "found.json"
    options = ("--index", index_folder, "--modality", "bf", "--method", method, "--json", found)
    answer = command("search", query, *options)
    assert answer.code == 0, answer.err
    [result] = json.loads(found.read_text())
    first = result["candidates"][0]
    assert result["found"] and first["confidence"] > 0.9 and abs(first["angle_deg"]) < 2
    assert abs(first["center_x_px"] - 480) < 2 and abs(first["center_y_px"] - 380) < 2
    assert ("correlation" in result["seconds"]) == (method != "words")


@pytest.mark.parametrize(
    ("content", "word"), [("", "column"), ("query,slide\n", "column"), (",".join(COLUMNS) + "\n", "no query")]
)
def test_a_table_that_is_none_is_refused(command, index_folder, queries, content, word):
    (queries / "truth.csv").write_text(content)
    arguments = ("--queries", queries / "queries", "--truth", queries / "truth.csv")
    answer = command("evaluate-slide", "--index", index_folder, *arguments)
    assert answer.code == 1
    assert "truth.csv" in answer.sentence and word in answer.sentence


def test_queries_that_cannot_be_searched_are_left_out_by_name(command, index_folder, queries):
    (queries / "queries" / "crop_1.ome.tif").write_bytes(b"no image")
    report = queries / "report.json"
    arguments = ("--queries", queries / "queries", "--truth", queries / "truth.csv", "--json", report)
    answer = command("evaluate-slide", "--index", index_folder, "--modality", "bf", *arguments)
    assert answer.code == 1
    assert "1 of 2 were left out" in answer.err and "crop_1.ome.tif" in answer.sentence
    values = json.loads(report.read_text())
    assert (values["n_queries"], values["hit"]["1"]) == (1, 1.0) and "hit at 1" in answer.out

    for query in (queries / "queries").iterdir():
        query.unlink()
    answer = command("evaluate-slide", "--index", index_folder, "--modality", "bf", *arguments)
    assert answer.code == 1 and "2 of 2 were left out" in answer.err
    assert json.loads(report.read_text())["n_queries"] == 0


def test_a_model_without_calibration_is_evaluated_without_it(command, queries, tmp_path, slide_file):
    model = load_model(device="cpu")
    model.calibration = None
    model.save(tmp_path / "own.safetensors")
    made = command("index", slide_file, "--index", tmp_path / "own", "--model", tmp_path / "own.safetensors")
    assert made.code == 0, made.err
    arguments = (
        "--queries",
        queries / "queries",
        "--truth",
        queries / "truth.csv",
        "--json",
        tmp_path / "r.json",
    )
    answer = command("evaluate-slide", "--index", tmp_path / "own", "--modality", "bf", *arguments)
    assert answer.code == 0, answer.err
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["hit"]["1"] == 1.0
    assert report["found"]["n"] is None and "never calibrated" in answer.out
