"""SHG is sought in brightfield in the window, by the shipped model: what the plugin is for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QFileDialog

from comir_search.progress import finish
from comir_search.sample.synthetic_tissue import simulate_tissue_steps
from napari_comir_search.widgets.dock import SearchDock

from .conftest import settle, write_slide

LEFT, TOP, SIDE = 620, 380, 384  # level-0 pixels of 1 um


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """slides/ with one slide of simulated tissue, and the SHG of a part of it, a quarter turn counter-clockwise."""
    folder = tmp_path_factory.mktemp("across")
    (folder / "slides").mkdir()
    tissue = finish(simulate_tissue_steps(1500, 1200, seed=3))
    write_slide(folder / "slides" / "stained.ome.tif", tissue.brightfield)
    emission = np.rot90(tissue.emission[TOP : TOP + SIDE, LEFT : LEFT + SIDE])
    counts = 96 + 70 * np.random.default_rng(0).poisson(40 * np.clip(emission, 0, None) + 0.3)
    tifffile.imwrite(
        folder / "patch.tif",
        np.clip(counts, 0, 4095).astype(np.uint16),
        resolution=(1e4, 1e4),
        resolutionunit="CENTIMETER",
    )
    return folder


def test_an_shg_query_is_found_on_a_stained_slide(
    qtbot, make_napari_viewer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer = make_napari_viewer(show=True)
    dock = SearchDock(viewer, folder=tmp_path / "projects")
    viewer.window.add_dock_widget(dock, name="CoMIR search", area="right")
    session = dock.session
    try:
        dock.workbench.take([folder / "slides"])
        settle(qtbot, dock)
        QTest.mouseClick(dock.repository.index_button, Qt.MouseButton.LeftButton)
        settle(qtbot, dock)
        assert len(session.searchable) == 1 and session.index.modality == "bf"
        monkeypatch.setattr(QFileDialog, "getOpenFileNames", lambda *_: ([str(folder / "patch.tif")], ""))
        QTest.mouseClick(dock.query.open_button, Qt.MouseButton.LeftButton)
        settle(qtbot, dock)
        assert session.query.modality == "shg"  # guessed from its one channel
        QTest.mouseClick(dock.search.go_button, Qt.MouseButton.LeftButton)
        settle(qtbot, dock)
        best = session.candidate
        assert (best.rank, best.mirrored) == (1, False)
        assert np.hypot(best.center_x_px - LEFT - SIDE / 2, best.center_y_px - TOP - SIDE / 2) < 6
        assert abs(best.angle_deg - 90) < 2
        assert best.confidence > 0.5
    finally:
        dock.leave()
        settle(qtbot, dock)
