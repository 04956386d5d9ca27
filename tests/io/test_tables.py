"""Result tables."""

import csv

from comir_search.io.entries import Judgement
from comir_search.io.tables import COLUMNS, write_csv
from comir_search.records import Candidate, SearchResult, Verdict


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
