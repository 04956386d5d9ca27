"""The synthetic sample, made on first use and kept in the user's cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comir_search.progress import Job, finish

SEED = 0


def sample_steps(folder: Path | None = None) -> Job[Path]:
    """Make the sample unless it is there, and return its folder with slides/ and queries/."""
    import shutil

    from platformdirs import user_cache_path

    from comir_search.sample.synthesis import make_sample_steps

    folder = folder or user_cache_path("napari-comir-search") / f"sample-{SEED}"
    if not (folder / "truth.csv").exists():  # written last
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        yield from make_sample_steps(folder, SEED)
    return folder


def open_sample() -> list[tuple[Any, dict[str, Any], str]]:
    """Open the sample in the dock, which makes it beside the window; without a window, as layers."""
    from napari_comir_search.commands import find_dock
    from napari_comir_search.readers import read_slides

    dock = find_dock()
    if dock is not None:
        dock.workbench.open_sample()
        return []
    folder = finish(sample_steps())
    return read_slides([str(min((folder / part).iterdir())) for part in ("slides", "queries")])
