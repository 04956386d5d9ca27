"""What is judged is kept, whatever happens; what moved is found; what is handed over is exact."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from comir_search.geometry import center_to_corner
from comir_search.records import Candidate, SearchResult
from napari_comir_search.state.session import Session
from napari_comir_search.widgets.dock import SearchDock

from .conftest import settle

JUDGE_AND_DIE = """
import os, signal, sys
import napari
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from napari_comir_search.widgets.dock import SearchDock

viewer = napari.Viewer(show=True)
dock = SearchDock(viewer, folder=sys.argv[2])
viewer.window.add_dock_widget(dock, name="CoMIR search", area="right")
dock.workbench.open_project(sys.argv[1])
canvas = viewer.window._qt_viewer.canvas.native
canvas.setFocus()
for key in "ynx":
    QTest.keyClick(canvas, key, Qt.KeyboardModifier.ShiftModifier)
os.kill(os.getpid(), signal.SIGKILL)
"""


def candidates(slide: str = "first.ome.tif", fingerprint: str = "") -> tuple[Candidate, ...]:
    return tuple(
        Candidate(
            rank, slide, 301.25 + 90 * rank, 257.75, 1.0, 180.0, 120.0, 33.0 * rank, rank == 2, 0.5, 0.9 / rank,
            fingerprint,
        )
        for rank in (1, 2, 3)
    )  # fmt: skip


def make_project(folder: Path) -> Path:
    session = Session(folder, reviewer="Ada")
    query = session.add_query("q", np.zeros((50, 60), np.uint8), modality="shg", pixel_size_um=1.0)
    session.end_search(query.id, SearchResult("q", True, "Found.", {"total": 1.0}, candidates()))
    session.save_as(folder / "study.comirproj")
    session.close()
    return folder / "study.comirproj"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_verdicts_survive_kill_9(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", JUDGE_AND_DIE, project, tmp_path / "projects"],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    with sqlite3.connect(f"file:{project}?mode=ro", uri=True) as connection:
        kept = connection.execute("SELECT verdict FROM verdict ORDER BY id").fetchall()
    assert [verdict for (verdict,) in kept] == ["accepted", "rejected"]
    again = Session(tmp_path / "projects")
    again.open_project(project)
    assert [again.verdict(rank).value for rank in (1, 2, 3)] == ["accepted", "rejected", "none"]
    assert again.judgements[1].time and again.judgements[1].reviewer
    again.close()


@pytest.fixture
def dock(qtbot, make_napari_viewer, study, tmp_path: Path) -> Iterator[SearchDock]:
    """A dock with the study's slides, one of them indexed."""
    viewer = make_napari_viewer(show=True)
    dock = SearchDock(viewer, folder=tmp_path / "projects")
    viewer.window.add_dock_widget(dock, name="CoMIR search", area="right")
    dock.workbench.take([study.slides])
    settle(qtbot, dock)
    yield dock
    dock.leave()
    settle(qtbot, dock)


def test_slides_that_moved_are_asked_for_once(qtbot, dock: SearchDock, study, tmp_path: Path) -> None:
    dock.workbench.save_as(tmp_path / "study.comirproj")
    dock.workbench.new_project()
    study.slides.rename(tmp_path / "elsewhere")
    asked: list[list[str]] = []
    dock.workbench.slides_missed.connect(lambda names: asked.append(names) if names else None)
    dock.workbench.open_project(tmp_path / "study.comirproj")
    settle(qtbot, dock)
    assert asked == [["first.ome.tif", "second.ome.tif"]]
    assert "first.ome.tif and 1 more are no longer where they were" in dock.message.text
    assert not dock.locate_button.isHidden()
    listed = [dock.repository.model.item(dock.repository.model.index(row)) for row in range(2)]
    assert [(item.info.name, item.state.value) for item in listed] == [
        ("first.ome.tif", "file missing"), ("second.ome.tif", "file missing"),
    ]  # fmt: skip
    assert listed[0].size_text == f"was in {study.slides}" and dock.session.slides == []
    assert dock.session.searchable == []
    dock.workbench.relocate(tmp_path / "elsewhere")
    settle(qtbot, dock)
    # The index lay beside the slides and moved with them.
    assert [item.info.name for item in dock.session.searchable] == ["first.ome.tif"]
    assert dock.session.index_path == tmp_path / "elsewhere" / "repository.comirindex"
    assert [item.info.name for item in dock.session.slides] == ["first.ome.tif", "second.ome.tif"]
    dock.workbench.new_project()
    dock.workbench.open_project(tmp_path / "study.comirproj")
    settle(qtbot, dock)
    assert len(asked) == 1 and len(dock.session.slides) == 2 and not dock.session.missing
    assert dock.locate_button.isHidden()
    study_of_none = Session(tmp_path / "others")
    study_of_none.save_as(tmp_path / "none.comirproj")
    study_of_none.close()
    (tmp_path / "elsewhere").rename(tmp_path / "gone")
    dock.workbench.open_project(tmp_path / "study.comirproj")
    settle(qtbot, dock)
    assert not dock.locate_button.isHidden()
    dock.workbench.open_project(tmp_path / "none.comirproj")  # what another project misses is its own
    settle(qtbot, dock)
    assert dock.locate_button.isHidden()


def test_one_slide_is_gone_and_another_is_spoilt(qtbot, dock: SearchDock, study, tmp_path: Path) -> None:
    dock.workbench.save_as(tmp_path / "study.comirproj")
    dock.workbench.new_project()
    settle(qtbot, dock)
    (study.slides / "first.ome.tif").unlink()
    (study.slides / "second.ome.tif").write_bytes(b"spoilt")
    told: list[str] = []
    dock.workbench.failed.connect(told.append)
    dock.workbench.open_project(tmp_path / "study.comirproj")
    settle(qtbot, dock)
    assert [slide.info.name for slide in dock.session.missing] == ["first.ome.tif"]
    assert len(told) == 1 and "second.ome.tif" in told[0]
    assert dock.message.text == told[0]  # the one that is gone is listed, this one is not
    assert not dock.locate_button.isHidden()
    assert len(dock.session.project.slides) == 2


def test_a_project_opens_where_it_was_left(qtbot, dock: SearchDock, tmp_path: Path) -> None:
    shown = dock.session.slides[1]
    dock.workbench.view.show(shown.fingerprint)
    settle(qtbot, dock)
    camera = dock.viewer.scene.camera
    camera.center, camera.zoom = (0.0, 123.0, 234.0), 3.25
    dock.workbench.save_as(tmp_path / "study.comirproj")
    dock.workbench.new_project()
    settle(qtbot, dock)
    camera.center, camera.zoom = (0.0, 1.0, 2.0), 1.0
    dock.workbench.open_project(tmp_path / "study.comirproj")
    settle(qtbot, dock)
    assert dock.workbench.view.shown == shown.fingerprint
    assert tuple(camera.center[-2:]) == (123.0, 234.0) and camera.zoom == 3.25


def test_rectangles_come_back_from_geojson_within_a_pixel(
    qtbot, make_napari_viewer, study, tmp_path: Path
) -> None:
    viewer = make_napari_viewer()
    dock = SearchDock(viewer, folder=tmp_path / "projects")
    viewer.window.add_dock_widget(dock, name="CoMIR search", area="right")
    dock.workbench.take([study.slides / "first.ome.tif"])
    settle(qtbot, dock)
    fingerprint = dock.session.slides[0].fingerprint
    query = dock.session.add_query("q", np.zeros((120, 180), np.uint8), modality="bf", pixel_size_um=1.0)
    result = SearchResult("q", True, "Found.", {"total": 1.0}, candidates(fingerprint=fingerprint))
    dock.session.end_search(query.id, result)
    settle(qtbot, dock)
    dock.export.export("geojson", tmp_path / "out.geojson")
    settle(qtbot, dock)
    features = json.loads((tmp_path / "out.geojson").read_text())["features"]
    rings = [np.array(feature["geometry"]["coordinates"][0]) for feature in features]
    shapes = dock.workbench.view.candidates.outlines.data
    assert len(rings) == len(shapes) == 3
    for ring, shape in zip(rings, shapes, strict=True):
        np.testing.assert_array_equal(ring[0], ring[-1])
        drawn_px = center_to_corner(np.asarray(shape)[:, ::-1])
        # QuPath turns a ring as it likes; each drawn corner is one of its corners.
        distances = np.hypot(*(ring[:-1, None] - drawn_px[None]).transpose(2, 0, 1))
        assert distances.min(axis=0).max() < 1 and distances.min(axis=1).max() < 1
    dock.leave()
    settle(qtbot, dock)
