"""Projects: durable, reopened exactly, moved, refused."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from comir_search.errors import ComirSearchError
from comir_search.records import Candidate, SearchResult, SlideInfo, Verdict
from comir_search.study import database
from comir_search.study.freshness import NOT_KNOWN, STOPPED, describe_state, inputs_of
from comir_search.study.project import Project, pack_image


def candidate(rank=1, x=1000.125, angle_deg=12.3, slide="liver.svs"):
    return Candidate(
        rank, slide, x, 1 / 3, 0.5, 400.0, 380.0, angle_deg, False, 0.7, 0.9, fingerprint="f" + slide
    )


def result():
    return SearchResult(
        "q.tif",
        True,
        "A clear match.",
        {"total": 1.5},
        (candidate(1), candidate(2, x=9000.0), candidate(3, x=50.0)),
    )


def slide_info(path, fingerprint="f1"):
    path = Path(path)
    return SlideInfo(
        path.name,
        str(path),
        "OME-TIFF",
        100,
        90,
        3,
        "uint8",
        ((90, 100),),
        0.5,
        "OME PhysicalSizeX",
        fingerprint,
    )


@pytest.fixture
def project(tmp_path):
    with Project.create(tmp_path / "work.comirproj") as project:
        yield project


def test_reopens_exactly(project, tmp_path):
    image = np.arange(12, dtype=np.uint16).reshape(3, 4)
    project.add_slide(slide_info(tmp_path / "liver.svs"))
    drawn = project.add_query("drawn", modality="shg", pixel_size_um=0.3, source={"layer": "a"}, image=image)
    in_file = project.add_query("q.tif", path=tmp_path / "q.tif", modality="shg")
    project.set_result(drawn, result(), {"index": "i", "top": 10})
    project.set_verdict(drawn, candidate(1), Verdict.ACCEPTED, note="beyond doubt", reviewer="Ada")
    project.settings = {"top": 10, "index": "/somewhere"}
    project.view = {"center": [1.25, 7.5]}
    before = (project.slides, project.queries, project.history(drawn), project.settings, project.view)
    project.close()

    with Project.open(project.path) as again:
        assert (again.slides, again.queries, again.history(drawn), again.settings, again.view) == before
        assert again.queries[0].result == result()
        np.testing.assert_array_equal(again.query_image(drawn), image)
        assert again.query_image(drawn).dtype == image.dtype
        assert again.query_image(in_file) is None
        assert os.listdir(tmp_path) == ["work.comirproj"]


def test_queries_can_be_corrected(project):
    query = project.add_query("q", modality="shg", pixel_size_um=0.5)
    project.update_query(query, pixel_size_um=0.25)
    assert (project.query(query).modality, project.query(query).pixel_size_um) == ("shg", 0.25)
    project.update_query(query, modality="bf")
    assert (project.query(query).modality, project.query(query).pixel_size_um) == ("bf", 0.25)


def test_verdicts_keep_reviewer_time_and_note(project):
    query = project.add_query("q")
    assert project.history(query, candidate()) == []
    project.set_verdict(query, candidate(), Verdict.ACCEPTED, note="fibres agree", reviewer="Ada")
    project.set_verdict(query, candidate(), Verdict.UNSURE, reviewer="Grace")
    project.set_verdict(query, candidate(2, x=9000.0), Verdict.REJECTED)
    last = project.history(query, candidate())[-1]
    assert (last.verdict, last.reviewer, last.note) == (Verdict.UNSURE, "Grace", "")
    assert [event.verdict for event in project.history(query)] == [
        Verdict.ACCEPTED,
        Verdict.UNSURE,
        Verdict.REJECTED,
    ]
    assert project.history(query, candidate())[0].note == "fibres agree"
    assert last.time.endswith("+00:00") and last.time >= project.history(query)[0].time


def test_verdict_stays_with_its_place(project):
    query = project.add_query("q")
    project.set_result(query, result())
    project.set_verdict(query, candidate(2, x=9000.0), Verdict.REJECTED)
    assert project.verdicts_of(query)[2].verdict is Verdict.REJECTED
    nudged, turned = candidate(1, x=9004.0, angle_deg=14), candidate(2, x=9004.0, angle_deg=90)
    project.set_result(query, SearchResult("q", True, "", {}, (nudged, turned)))
    verdicts = project.verdicts_of(query)
    assert list(verdicts) == [1] and verdicts[1].verdict is Verdict.REJECTED


def test_a_removed_query_comes_back_with_its_answer_and_verdicts(project):
    query = project.add_query("q", image=np.ones((4, 5), np.uint8))
    project.set_result(query, result())
    project.set_verdict(query, candidate(), Verdict.ACCEPTED)
    before = project.queries
    project.remove_query(query)
    assert project.queries == []
    with pytest.raises(KeyError):
        project.query(query)
    other = project.add_query("next")
    assert other != query
    project.restore_query(query)
    assert [entry.id for entry in project.queries] == [query, other] and project.queries[:1] == before
    assert project.verdicts_of(query)[1].verdict is Verdict.ACCEPTED
    assert project.query_image(query).shape == (4, 5)


def test_verdict_survives_kill_9(tmp_path):
    path = tmp_path / "work.comirproj"
    script = f"""
import os, signal
from comir_search.study.project import Project
from comir_search.records import Candidate, Verdict
project = Project.create({str(path)!r})
query = project.add_query("q")
for i in range(20):
    candidate = Candidate(1, "s", 1000.0 * i, 0, 1, 9, 9, 0, False, 1, 1)
    project.set_verdict(query, candidate, Verdict.ACCEPTED, note=str(i))
os.kill(os.getpid(), {int(signal.SIGKILL)})
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with Project.open(path) as project:
        assert [event.note for event in project.history(project.queries[0].id)] == [str(i) for i in range(20)]


def test_commits_wait_for_the_disk(project):
    assert project._connection.execute("PRAGMA synchronous").fetchone() == (3,)
    assert project._connection.in_transaction is False


def test_project_and_slides_move_together(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "slides").mkdir(parents=True)
    (here / "slides" / "a.tif").write_bytes(b"a")
    with Project.create(here / "work.comirproj") as project:
        project.add_slide(slide_info(here / "slides" / "a.tif"))
    shutil.move(here, there)
    with Project.open(there / "work.comirproj") as project:
        assert project.slides[0].path == str(there / "slides" / "a.tif")
        assert project.missing_slides() == []


def test_moved_slides_are_found_by_fingerprint(tmp_path, project):
    slides = pytest.importorskip("comir_search.slides")
    import tifffile

    rng = np.random.default_rng(0)
    for name in ("a.tif", "b.tif"):
        pixels = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        tifffile.imwrite(tmp_path / name, pixels, photometric="rgb", resolution=(2e4, 2e4), resolutionunit=3)
        with slides.open_slide(tmp_path / name) as slide:
            project.add_slide(slide.info)
    (tmp_path / "archive").mkdir()
    shutil.move(tmp_path / "a.tif", tmp_path / "archive" / "renamed.tif")
    shutil.move(tmp_path / "b.tif", tmp_path / "archive" / "b.tif")
    assert [slide.name for slide in project.missing_slides()] == ["a.tif", "b.tif"]
    assert project.relocate_slides([tmp_path / "archive"]) == []
    assert [Path(slide.path).name for slide in project.slides] == ["renamed.tif", "b.tif"]


def test_save_as_copies_and_keeps_paths_valid(tmp_path, project):
    (tmp_path / "a.tif").write_bytes(b"a")
    project.add_slide(slide_info(tmp_path / "a.tif"))
    project.settings = {"top": 5}
    (tmp_path / "sub").mkdir()
    with project.save_as(tmp_path / "sub" / "copy.comirproj") as copy:
        assert copy.slides[0].path == str(tmp_path / "a.tif")
        copy.settings = {"top": 7}
        assert project.settings == {"top": 5}


@pytest.mark.parametrize("content", [b"", b"a,b,c\n" * 500])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "table.comirproj"
    path.write_bytes(content)
    with pytest.raises(ComirSearchError, match="is not a project"):
        Project.open(path)
    assert path.read_bytes() == content


def test_other_database_is_refused(tmp_path):
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE slide (a)")
    connection.close()
    with pytest.raises(ComirSearchError, match="is not a project"):
        Project.open(path)


def test_newer_format_is_refused(project):
    project._connection.execute("PRAGMA user_version = 99")
    project.close()
    with pytest.raises(ComirSearchError, match=r"newer version \(format 99.*update"):
        Project.open(project.path)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(ComirSearchError, match="does not exist"):
        Project.open(tmp_path / "none.comirproj")
    assert os.listdir(tmp_path) == []


def test_full_disk_is_said_and_keeps_what_was(project):
    query = project.add_query("q")
    (pages,) = project._connection.execute("PRAGMA page_count").fetchone()
    project._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(ComirSearchError, match="the disk is full"):
        project.add_query("big", image=np.random.default_rng(0).integers(0, 255, (200, 200), dtype=np.uint8))
    assert [entry.id for entry in project.queries] == [query]


def test_read_only_file_is_said(project):
    project.add_query("q")
    project._connection.execute("PRAGMA query_only = 1")  # what SQLite says of a write-protected file
    with pytest.raises(ComirSearchError, match="is read-only: save the project under another name"):
        project.add_query("r")
    assert len(project.queries) == 1


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may write everywhere")
def test_write_protected_project_can_be_read(project):
    project.add_query("q")
    project.close()
    project.path.chmod(0o444)
    with Project.open(project.path) as protected:
        assert protected.queries[0].name == "q"
        with pytest.raises(ComirSearchError, match="is read-only"):
            protected.add_query("r")


def test_locked_by_another_program_is_said(project):
    other = sqlite3.connect(project.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    project._connection.execute("PRAGMA busy_timeout = 50")
    with pytest.raises(ComirSearchError, match="another program"):
        project.add_query("q")
    other.execute("ROLLBACK")
    other.close()
    project.add_query("q")


# Projects of format 1

OLD_SCHEMA = """
CREATE TABLE slide (
    fingerprint TEXT PRIMARY KEY, name TEXT NOT NULL,
    relative_path TEXT NOT NULL, absolute_path TEXT NOT NULL,
    pixel_size_um REAL, pixel_size_source TEXT NOT NULL
);
CREATE TABLE query (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL,
    relative_path TEXT NOT NULL, absolute_path TEXT NOT NULL,
    modality TEXT NOT NULL, pixel_size_um REAL, source TEXT NOT NULL, image BLOB,
    result TEXT, provenance TEXT NOT NULL
);
CREATE TABLE verdict (
    id INTEGER PRIMARY KEY AUTOINCREMENT, query_id INTEGER NOT NULL REFERENCES query (id) ON DELETE CASCADE,
    candidate TEXT NOT NULL, verdict TEXT NOT NULL, note TEXT NOT NULL,
    reviewer TEXT NOT NULL, time TEXT NOT NULL
);
CREATE INDEX verdict_of_query ON verdict (query_id);
CREATE TABLE state (name TEXT PRIMARY KEY, value TEXT NOT NULL);
PRAGMA application_id = 1129270610;
PRAGMA user_version = 1;
"""
OLD_CANDIDATE = {
    "rank": 1, "slide": "a.svs", "center_x_px": 100.0, "center_y_px": 90.0, "pixel_size_um": 0.5,
    "width_um": 61.0, "height_um": 50.0, "angle_deg": 10.0, "mirrored": False, "score": 0.5, "confidence": 0.9,
    "fingerprint": "0" * 32,
}  # fmt: skip


@pytest.fixture
def old(tmp_path):
    """A project as format 1 wrote it."""
    path = tmp_path / "old.comirproj"
    answer = {
        "query": "q", "found": True, "reason": "Found.", "seconds": {"total": 1.0}, "candidates": [OLD_CANDIDATE],
        "signal": 0.4, "first_stage": {},
    }  # fmt: skip
    options = {"top": 10, "mirror": True, "slides": []}
    made_by = {"index": "/i", "model": "m", "options": options}
    query = ("q", "", "", "shg", 1.0, json.dumps({"shape": [50, 60]}), pack_image(np.eye(50, 60)))
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(OLD_SCHEMA)
        connection.execute("INSERT INTO slide VALUES (?, 'a.svs', '', '/no/a.svs', 0.5, 'user')", ("0" * 32,))
        insert = (
            "INSERT INTO query (name, relative_path, absolute_path, modality, pixel_size_um, source, image, result,"
            " provenance) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        )
        connection.execute(insert, (*query, json.dumps(answer), json.dumps(made_by)))
        unfinished = json.dumps(answer | {"found": False, "reason": "still searching"})
        connection.execute(insert, (*query, unfinished, json.dumps(made_by | {"stopped": True})))
        connection.execute(
            "INSERT INTO verdict (query_id, candidate, verdict, note, reviewer, time)"
            " VALUES (1, ?, 'accepted', 'n', 'Ada', '2025-01-01T00:00:00+00:00')",
            (json.dumps(OLD_CANDIDATE),),
        )
        connection.execute("""INSERT INTO state VALUES ('settings', '{"index": "/i"}')""")
        connection.commit()
    return path


def check_old(project):
    first, second = project.queries
    assert first.result.found and first.result.candidates == (Candidate(**OLD_CANDIDATE),)
    assert project.verdicts_of(first.id)[1].note == "n" and project.query_image(first.id).shape == (50, 60)
    assert project.slides[0].pixel_size_um == 0.5 and project.settings == {"index": "/i"}
    inputs = inputs_of(project)
    assert describe_state(first, inputs) == NOT_KNOWN  # and not out of date
    # What an older version stored of a stopped search is no answer, and its numbers mean nothing.
    assert describe_state(second, inputs) == STOPPED
    assert not second.result.found and second.result.candidates[0].confidence is None


def test_a_project_of_format_1_goes_on(old):
    with Project.open(old) as project:
        check_old(project)
        project.update_query(1, pixel_size_um=3.0)
        state = describe_state(project.query(1), inputs_of(project))
        assert state == "out of date: the query's pixel size was about 1.02 µm, now 3 µm"
    with Project.open(old) as project:
        assert project.query(1).pixel_size_um == 3.0
        assert project._connection.execute("PRAGMA user_version").fetchone() == (2,)


def test_a_project_of_format_1_on_a_read_only_disk_is_read(old, monkeypatch):
    whole = database._take_steps

    def refuse_on_disk(connection, version):
        if connection.execute("PRAGMA database_list").fetchone()[2]:
            connection.execute("PRAGMA query_only = ON")  # what SQLite says of a write-protected file
        whole(connection, version)

    monkeypatch.setattr(database, "_take_steps", refuse_on_disk)
    before = old.read_bytes()
    with Project.open(old) as project:
        check_old(project)
        with pytest.raises(ComirSearchError, match="is read-only: save the project under another name"):
            project.add_query("r")
        project.save_as(old.with_name("new.comirproj")).close()
    assert old.read_bytes() == before
    with Project.open(old.with_name("new.comirproj")) as project:
        check_old(project)


def test_a_way_up_that_fails_leaves_the_old_project(old, monkeypatch):
    monkeypatch.setitem(database.STEPS, 1, (*database.STEPS[1], ("none", "x", "TEXT", "")))
    before = old.read_bytes()
    with pytest.raises(ComirSearchError):
        Project.open(old)
    assert old.read_bytes() == before


def test_two_slides_of_one_fingerprint_are_two(project, tmp_path):
    first = replace(slide_info(tmp_path / "a.tif"), identity="mine")
    second = replace(slide_info(tmp_path / "b.tif"), identity="other", fingerprint="other")
    project.add_slide(first)
    project.add_slide(second)
    assert [(slide.name, slide.fingerprint, slide.identity) for slide in project.slides] == [
        ("a.tif", "f1", "mine"), ("b.tif", "other", "other"),
    ]  # fmt: skip
    project.add_slide(replace(first, identity=""))
    assert project.slides[0].identity == "mine"  # what is known is not forgotten
