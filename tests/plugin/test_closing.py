"""What a project held is let go when another one takes its place."""

from __future__ import annotations

import gc
import weakref

from comir_search.progress import Tick
from napari_comir_search.worker import JobRunner

from .conftest import settle


class Large:
    """Stands for an index with its model and its chunks."""


def steps(large: Large):
    for done in range(10_000):
        yield Tick("working", done, 10_000, partial=large)


def test_a_project_that_was_left_holds_nothing(qtbot, searched_dock) -> None:
    dock = searched_dock
    dock.workbench.show_heat_map(True)
    settle(qtbot, dock)
    fingerprint = dock.session.candidate.fingerprint
    kept = {
        "project": weakref.ref(dock.session.project),
        "index": weakref.ref(dock.session.index),
        "model": weakref.ref(dock.session.index.model),
        "indexed slide": weakref.ref(dock.session.index.slides[0]),
        "slide": weakref.ref(dock.workbench.view._slides[fingerprint]),
        "level": weakref.ref(dock.workbench.view._slides[fingerprint].levels[0]),
        "layer": weakref.ref(dock.workbench.view.layer(fingerprint)),
        "heat map": weakref.ref(dock.workbench.heat.layer),
    }
    dock.workbench.new_project()
    settle(qtbot, dock)
    qtbot.wait(300)  # Qt deletes controls when it is idle
    gc.collect()
    assert not [name for name, reference in kept.items() if reference() is not None]


def test_a_cancelled_job_holds_nothing(qtbot) -> None:
    """napari remembers its workers; what they worked on must not live as long."""
    runner = JobRunner()
    large = Large()
    reference = weakref.ref(large)
    with qtbot.waitSignal(runner.ticked, timeout=5000):
        runner.run("Working", steps(large))
    worker = runner._worker  # as napari holds it
    with qtbot.waitSignal(runner.ended, timeout=5000) as ended:
        runner.cancel()
    assert ended.args == ["cancelled"]
    del large
    qtbot.wait(50)
    gc.collect()
    assert worker is not None and reference() is None


def test_memory_is_given_back_once_the_jobs_have_stopped(qtbot, monkeypatch, searched_dock) -> None:
    dock, given_back = searched_dock, []
    monkeypatch.setattr(
        "napari_comir_search.housekeeping.give_memory_back",
        lambda: given_back.append([runner.is_running for runner in dock.workbench.runners]),
    )
    dock.workbench.search(5, False)
    dock.workbench.new_project()
    settle(qtbot, dock)
    qtbot.waitUntil(lambda: bool(given_back), timeout=5000)
    assert len(given_back) == 1 and not any(given_back[0])
