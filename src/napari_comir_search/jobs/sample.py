"""The synthetic sample, made on first use and kept in the user's cache."""

from __future__ import annotations

import shutil
from pathlib import Path

from platformdirs import user_cache_path

from comir_search.progress import Job
from comir_search.sample.synthesis import make_sample_steps

SEED = 0


def sample_steps(folder: Path | None = None) -> Job[Path]:
    """Make the sample unless it is there, and return its folder with slides/ and queries/."""
    folder = folder or user_cache_path("napari-comir-search") / f"sample-{SEED}"
    if not (folder / "truth.csv").exists():  # written last
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        yield from make_sample_steps(folder, SEED)
    return folder
