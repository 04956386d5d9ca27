"""Readers for napari: whole slides, and our own projects and indexes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from comir_search.errors import ComirSearchError

LayerData = tuple[Any, dict[str, Any], str]
Reader = Callable[[Any], list[Any]]


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
    from comir_search.progress import finish
    from comir_search.slides import open_slide
    from napari_comir_search.jobs import open_slide_steps
    from napari_comir_search.layers import slide_layer

    layers = []
    for one in _as_list(path):
        with open_slide(one) as slide:
            info = slide.info
        layers.append(slide_layer(*finish(open_slide_steps(info))))
    return layers


def read_project(path: str | list[str]) -> list[tuple[None]]:
    """Open a project, an index or a folder of slides in the dock; it adds no layer by itself."""
    from napari_comir_search.commands import find_dock

    dock = find_dock()
    if dock is None:
        raise ComirSearchError("This opens in a napari window: start napari first.")
    dock.workbench.take(_as_list(path))
    return [(None,)]


def _is_slide(path: Path) -> bool:
    from comir_search.slides.folder import is_zarr

    return path.exists() and (not path.is_dir() or path.suffix == ".zarr" or is_zarr(path))


def _holds_slides(folder: Path) -> bool:
    """Whether a folder is one of slides, as far as its own files tell: napari waits for the answer."""
    from comir_search.slides.folder import SUFFIXES

    if not folder.is_dir() or _is_slide(folder):
        return False
    return any(entry.suffix.lower() in SUFFIXES for entry in folder.iterdir())


def _as_list(path: str | list[str]) -> list[str]:
    return list(path) if isinstance(path, list | tuple) else [path]
