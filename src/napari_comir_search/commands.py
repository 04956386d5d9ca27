"""What the command palette and the menus call; each acts on the dock of the current window."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from comir_search.records import Verdict
from napari_comir_search.settings import PLUGIN

if TYPE_CHECKING:
    from napari_comir_search.widgets.dock import SearchDock


def find_dock() -> SearchDock | None:
    """Return the dock of the current window, opening it if need be; None without a window."""
    import napari

    viewer = napari.current_viewer()
    if viewer is None:
        return None
    _, dock = viewer.window.add_plugin_dock_widget(PLUGIN, "CoMIR search")
    return dock


def open_search() -> None:
    """Open the dock."""
    find_dock()


def open_training() -> None:
    """Open the training beside the dock."""
    if (dock := find_dock()) is not None:
        dock.open_training()


def use_model(path: Path) -> None:
    """Work with a model from now on, in the project of the current window."""
    if (dock := find_dock()) is not None:
        dock.workbench.use_model(path)


def accept_candidate() -> None:
    """Accept the current candidate."""
    _judge(Verdict.ACCEPTED)


def reject_candidate() -> None:
    """Reject the current candidate."""
    _judge(Verdict.REJECTED)


def leave_candidate() -> None:
    """Be unsure about the current candidate."""
    _judge(Verdict.UNSURE)


def go_to_unverified() -> None:
    """Go to the next candidate nobody has judged."""
    if (dock := find_dock()) is not None:
        dock.workbench.step_unverified()


def undo_verdict() -> None:
    """Take the last verdict back."""
    if (dock := find_dock()) is not None:
        dock.workbench.undo()


def show_keys() -> None:
    """Show the keyboard table."""
    if (dock := find_dock()) is not None:
        dock.show_keys()


def _judge(verdict: Verdict) -> None:
    if (dock := find_dock()) is not None:
        dock.workbench.judge(verdict)
