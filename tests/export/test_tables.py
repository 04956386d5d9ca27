"""Result tables."""

import csv
from dataclasses import replace

from comir_search.export.tables import COLUMNS, write_csv
from comir_search.records import Candidate, SearchResult, Verdict
from comir_search.study.entries import Judgement


def test_rows_and_columns(tmp_path):
    candidates = tuple(
        Candidate(rank, "é, b.svs", 100.0 * rank, 50.0, 0.5, 400.0, 300.0, -12.0, True, 0.5, 0.25)
        for rank in (1, 2)
    )
    results = [
        SearchResult("q.tif", True, "A match.", {}, candidates),
        SearchResult("r.tif", False, "Nothing."),
    ]
    verdicts = [{2: Judgement(Verdict.REJECTED, 'not "it"\nat all', "Ada", "2025-01-01T00:00:00+00:00")}, {}]
    write_csv(tmp_path / "out.csv", results, verdicts)
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert tuple(reader.fieldnames) == COLUMNS
    assert [(row["query"], row["rank"], row["found"]) for row in rows] == [
        ("q.tif", "1", "1"),
        ("q.tif", "2", "1"),
        ("r.tif", "", "0"),
    ]
    assert rows[0]["slide"] == "é, b.svs" and float(rows[0]["center_x_um"]) == 50.0
    assert rows[0]["mirrored"] == "1" and rows[0]["verdict"] == "none"
    assert rows[1]["verdict"] == "rejected" and rows[1]["note"] == 'not "it"\nat all'
    assert rows[2]["reason"] == "Nothing." and rows[2]["slide"] == ""


def read(path):
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


PLACE = Candidate(1, "a.svs", 100.0, 50.0, 0.5, 400.0, 300.0, -12.0, True, -0.5, 0.25, "f" * 32)


def test_excel_reads_the_letters_right(tmp_path):
    write_csv(tmp_path / "out.csv", [SearchResult("µ.tif", True, "", {}, (PLACE,))])
    assert (tmp_path / "out.csv").read_bytes().startswith(b"\xef\xbb\xbfquery,")
    assert read(tmp_path / "out.csv")[0]["query"] == "µ.tif"


def test_no_text_is_a_formula_and_numbers_stay_numbers(tmp_path):
    names = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1")
    results = [SearchResult(name, True, name, {}, (replace(PLACE, slide=name),)) for name in names]
    verdicts = [{1: Judgement(Verdict.ACCEPTED, name, name, "")} for name in names]
    write_csv(tmp_path / "out.csv", results, verdicts, list(names))
    for row, name in zip(read(tmp_path / "out.csv"), names, strict=True):
        for column in ("query", "slide", "note", "reviewer", "reason", "state"):
            assert row[column] == f"'{name}"
        assert float(row["angle_deg"]) == -12.0 and float(row["score"]) == -0.5


def test_two_slides_of_one_name_are_told_apart(tmp_path):
    other = replace(PLACE, rank=2, fingerprint="e" * 32)
    write_csv(tmp_path / "out.csv", [SearchResult("q", True, "", {}, (PLACE, other))])
    assert [row["fingerprint"] for row in read(tmp_path / "out.csv")] == ["f" * 32, "e" * 32]


def test_what_is_not_known_is_empty_and_what_is_out_of_date_is_said(tmp_path):
    moved = replace(PLACE, by_hand=True, confidence=None)
    uncalibrated = replace(PLACE, rank=2, confidence=None)
    write_csv(
        tmp_path / "out.csv",
        [SearchResult("q", True, "", {}, (moved, uncalibrated))],
        states=["out of date: x"],
    )
    first, second = read(tmp_path / "out.csv")
    assert (first["by_hand"], first["confidence"], first["score"]) == ("1", "", "")
    assert (second["by_hand"], second["confidence"], second["score"]) == ("0", "", "-0.5")
    assert first["state"] == second["state"] == "out of date: x"
