"""Truth tables: every line is what it should be, or is named."""

import csv
import io
import math
import os

import numpy as np
import pytest

from comir_search.errors import ComirSearchError
from comir_search.evaluation.localisation import Truth, read_truth, summarise
from comir_search.evaluation.stages import StagedResult
from comir_search.records import Candidate

COLUMNS = "query,slide,core,center_x_px,center_y_px,center_x_um,center_y_um,angle_deg,mirrored"
LINES = (
    "a.tif,s.tif,c1,10.5,20,5,10,-30.5,0",
    "b.tif,s.tif,c2,11,21,5,10,170,1",
    "sub/c.tif,,c3,,,,,12,0",
)


@pytest.fixture
def table(tmp_path):
    """Write lines as a table."""

    def write(*lines, encoding="utf-8"):
        path = tmp_path / "truth.csv"
        path.write_bytes("\n".join([*lines, ""]).encode(encoding, "surrogatepass"))
        return path

    return write


def test_a_table_is_read_as_it_is_written(table):
    for encoding in ("utf-8", "utf-8-sig"):
        first, second, third = read_truth(table(COLUMNS, *LINES, encoding=encoding))
        assert first == Truth("a.tif", "s.tif", 10.5, 20.0, -30.5, False, "c1")
        assert second.mirrored and second.angle_deg == 170
        assert third.query == "sub/c.tif" and third.slide == "" and math.isnan(third.x_px)
    (short,) = read_truth(table("query,slide,center_x_px,center_y_px,angle_deg,mirrored", "a,s,1,2,,True"))
    assert short == Truth("a", "s", 1.0, 2.0, 0.0, True)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("d.tif,s.tif,c,left,20,,,0,0", "center_x_px"),
        ("d.tif,s.tif,c,nan,20,,,0,0", "not finite"),
        ("d.tif,s.tif,c,-1,20,,,0,0", "center_x_px"),
        ("d.tif,s.tif,c,1,1e300,,,0,0", "center_y_px"),
        ("d.tif,s.tif,c,,20,,,0,0", "centre is missing"),
        ("d.tif,s.tif,c,1,20,,,inf,0", "not finite"),
        ("d.tif,s.tif,c,1,20,,,1000,0", "angle_deg"),
        ("d.tif,s.tif,c,1,20,,,0,maybe", "mirrored"),
        (",s.tif,c,1,20,,,0,0", "query"),
        ("../d.tif,s.tif,c,1,20,,,0,0", "no file name below"),
        ("/d.tif,s.tif,c,1,20,,,0,0", "no file name below"),
        ("d\0.tif,s.tif,c,1,20,,,0,0", ""),
        ("d.tif,s.tif,c,1,20", "more or fewer fields than the first line"),
        ("d.tif,s.tif,c,1,20,,,0,0,0", "more or fewer fields than the first line"),
        ("b.tif,s.tif,c,1,20,,,0,0", "query of line 3 is listed again"),
        ("d.tif,s.tif," + "c" * 200_000 + ",1,20,,,0,0", "field"),
        ('"d.tif"x,s.tif,c,1,20,,,0,0', "expected"),
    ],
)
def test_a_line_that_is_wrong_is_named(table, line, word):
    with pytest.raises(
        ComirSearchError, match=rf"truth\.csv, line 5, is damaged \(.*{word}.*\); correct the table"
    ):
        read_truth(table(COLUMNS, *LINES, line))


@pytest.mark.parametrize(
    ("lines", "word"),
    [
        (("",), "no column 'query'"),
        ((COLUMNS.replace("angle_deg", "angle"),), "no column 'angle_deg'"),
        ((COLUMNS.replace(",", ";"),), "semicolons"),
        ((COLUMNS + ",query",), "two columns with the same name"),
    ],
)
def test_a_table_of_other_columns_is_refused(table, lines, word):
    with pytest.raises(ComirSearchError, match=rf"truth\.csv .*{word}"):
        read_truth(table(*lines))


def test_other_text_and_other_files_are_refused(table, tmp_path):
    for encoding in ("utf-16", "latin-1"):
        with pytest.raises(ComirSearchError, match=r"truth\.csv.*(UTF-8|no column)"):
            read_truth(table(COLUMNS, "\xe9.tif" + LINES[0][5:], encoding=encoding))
    os.mkfifo(tmp_path / "pipe.csv")
    for name, word in (("pipe.csv", "not a regular file"), ("none.csv", "does not exist"), (".", "folder")):
        with pytest.raises(ComirSearchError, match=word):
            read_truth(tmp_path / name)


def test_broken_tables_are_read_or_refused_in_words(table):
    """A short form of tests/benchmarks/fuzz.py."""
    rng = np.random.default_rng(0)
    cells = ["", "nan", "1e999", "-1", "\0", '"', "..", "\ud800", "9" * 400, "1,2", "0x10", "\r", "=1+1"]
    path = table()
    for number in range(400):
        rows = [line.split(",") for line in (COLUMNS, *LINES)]
        row = rows[int(rng.integers(len(rows)))]
        row[int(rng.integers(len(row)))] = cells[int(rng.integers(len(cells)))]
        buffer = io.StringIO()
        csv.writer(buffer).writerows(rows)
        content = bytearray(buffer.getvalue().encode("utf-8", "surrogatepass"))
        if number % 2:
            content[int(rng.integers(len(content)))] = int(rng.integers(256))
        path.write_bytes(content)
        try:
            truths = read_truth(path)
        except ComirSearchError as error:
            assert "truth.csv" in str(error) and "\n" not in str(error) and len(str(error)) < 600
        else:
            assert all(math.isfinite(truth.x_px) for truth in truths if truth.slide)


def answer(confidence, found):
    candidate = Candidate(1, "s.tif", 10, 10, 1.0, 50, 50, 0, False, 0.5, confidence)
    return Truth("q", "s.tif", 10, 10, 0, False), StagedResult("q", found, "", {"total": 1.0}, (candidate,))


def test_a_model_that_was_never_calibrated_is_not_judged_by_what_it_calls_found():
    report = summarise([answer(None, False)] * 3)
    found = report["found"]
    assert [found[name] for name in ("n", "precision", "coverage", "false_found")] == [None] * 4
    assert "never calibrated" in found["note"] and report["hit"]["1"] == 1.0
    assert summarise([answer(0.9, True)])["found"] == {
        "n": 1,
        "precision": 1.0,
        "coverage": 1.0,
        "false_found": None,
    }
    assert summarise([])["seconds_per_query"] == {"median": None, "max": None}
