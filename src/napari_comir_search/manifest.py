"""What `napari.yaml` names: readers, the sample, commands and the training beside the slides.

Nothing imports this module, and no other looks for the dock of a window.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comir_search.errors import ComirSearchError
from comir_search.progress import finish
from comir_search.records import Verdict
from comir_search.slides import open_slide
from comir_search.slides.folder import SUFFIXES, is_zarr
from napari_comir_search.jobs.sample import sample_steps
from napari_comir_search.jobs.slides import open_slide_steps
from napari_comir_search.state.settings import PLUGIN
from napari_comir_search.view.slide import slide_layer

if TYPE_CHECKING:
    from napari_comir_search.widgets.dock import SearchDock
    from napari_comir_search.widgets.training import TrainingWidget

LayerData = tuple[Any, dict[str, Any], str]
Reader = Callable[[Any], list[Any]]


def find_dock() -> SearchDock | None:
    """Return the dock of the current window, opening it if need be; None without a window."""
    import napari

    viewer = napari.current_viewer()
    if viewer is None:
        return None
    _, dock = viewer.window.add_plugin_dock_widget(PLUGIN, "CoMIR search")
    return dock


def get_slide_reader(path: str | list[str]) -> Reader | None:
    """Return a reader for a slide, or for several."""
    return read_slides if all(_is_slide(Path(one)) for one in _as_list(path)) else None


def get_project_reader(path: str | list[str]) -> Reader | None:
    """Return a reader for one project file, one index folder or one folder of slides."""
    paths = [Path(one) for one in _as_list(path)]
    if len(paths) != 1:
        return None
    is_project = paths[0].suffix == ".comirproj" and paths[0].is_file()
    is_index = (paths[0] / "index.json").is_file()
    return read_project if is_project or is_index or _holds_slides(paths[0]) else None


def read_slides(path: str | list[str]) -> list[LayerData]:
    """Open slides as multiscale layers in um."""
    layers = []
    for one in _as_list(path):
        with open_slide(one) as slide:
            info = slide.info
        layers.append(slide_layer(*finish(open_slide_steps(info))))
    return layers


def read_project(path: str | list[str]) -> list[tuple[None]]:
    """Open a project, an index or a folder of slides in the dock; it adds no layer by itself."""
    dock = find_dock()
    if dock is None:
        raise ComirSearchError("Projects and indexes open in a napari window: start napari first.")
    dock.workbench.take(_as_list(path))
    return [(None,)]


def open_sample() -> list[tuple[Any, dict[str, Any], str]]:
    """Open the sample in the dock, or without a window as layers."""
    dock = find_dock()
    if dock is not None:
        dock.workbench.open_sample()
        return []
    folder = finish(sample_steps())
    return read_slides([str(min((folder / part).iterdir())) for part in ("slides", "queries")])


def open_search() -> None:
    """Open the dock."""
    find_dock()


def make_training() -> TrainingWidget:
    """Return the training for a window of its own; its model goes to the dock of the current window."""
    from napari_comir_search.widgets.training import TrainingWidget  # reading slides needs no Qt

    return TrainingWidget(use_model)


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
    """Mark the current candidate as unsure."""
    _judge(Verdict.UNSURE)


def go_to_unverified() -> None:
    """Go to the next candidate without a verdict."""
    if (dock := find_dock()) is not None:
        dock.workbench.step_unverified()


def undo_verdict() -> None:
    """Undo the last verdict."""
    if (dock := find_dock()) is not None:
        dock.workbench.undo()


def show_keys() -> None:
    """Show the keyboard table."""
    if (dock := find_dock()) is not None:
        dock.show_keys()


def _judge(verdict: Verdict) -> None:
    if (dock := find_dock()) is not None:
        dock.workbench.judge(verdict)


def _is_slide(path: Path) -> bool:
    return path.exists() and (not path.is_dir() or path.suffix == ".zarr" or is_zarr(path))


def _holds_slides(folder: Path) -> bool:
    """Whether a folder contains slides; subfolders are not searched, as napari waits for the answer."""
    if not folder.is_dir() or _is_slide(folder):
        return False
    return any(entry.suffix.lower() in SUFFIXES for entry in folder.iterdir())


def _as_list(path: str | list[str]) -> list[str]:
    return list(path) if isinstance(path, list | tuple) else [path]
