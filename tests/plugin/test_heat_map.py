"""The heat map over the slide."""

from __future__ import annotations

import numpy as np
import pytest

from napari_comir_search.view.heat_map import NAME
from napari_comir_search.widgets.dock import SearchDock

from .conftest import settle


def test_the_map_lies_on_the_slide_and_peaks_at_the_first_candidate(qtbot, searched_dock: SearchDock) -> None:
    dock = searched_dock
    box, viewer = dock.results.heat_box, dock.viewer
    assert box.toolTip() and not box.isHidden()
    box.click()
    settle(qtbot, dock)
    layer = viewer.layers[NAME]
    first = dock.session.candidates[0]
    row, column = np.unravel_index(np.nanargmax(layer.data), layer.data.shape)
    _, y, x = (0, *layer.data_to_world((row, column)))
    assert x == pytest.approx(first.center_x_um, abs=12) and y == pytest.approx(first.center_y_um, abs=12)
    names = [other.name for other in viewer.layers]
    assert names.index("first.ome.tif") < names.index(NAME) < names.index("Candidates")
    assert len({str(other.units) for other in viewer.layers}) == 1
    box.click()
    assert NAME not in viewer.layers


def test_the_map_follows_query_and_slide(qtbot, searched_dock: SearchDock) -> None:
    dock = searched_dock
    dock.results.heat_box.click()
    settle(qtbot, dock)
    first, second = dock.session.slides
    dock.workbench.view.show(second.fingerprint)  # it is not indexed
    settle(qtbot, dock)
    assert NAME not in dock.viewer.layers and dock.results.heat_box.isChecked()
    dock.workbench.view.show(first.fingerprint)
    settle(qtbot, dock)
    before = dock.viewer.layers[NAME].data
    query = dock.session.query
    dock.session.update_query(query.id, pixel_size_um=1.1)
    settle(qtbot, dock)
    assert not np.array_equal(before, dock.viewer.layers[NAME].data, equal_nan=True)
    dock.workbench.new_project()
    settle(qtbot, dock)
    assert NAME not in dock.viewer.layers


def test_stopping_unchecks_the_box(qtbot, searched_dock: SearchDock) -> None:
    dock = searched_dock
    dock.results.heat_box.click()
    dock.results.heat_progress.stop_button.click()
    settle(qtbot, dock)
    assert not dock.results.heat_box.isChecked() and NAME not in dock.viewer.layers
