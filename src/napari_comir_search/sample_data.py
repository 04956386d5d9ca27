"""The synthetic sample, made on first use and kept in the user's cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SEED = 0


def sample_folder() -> Path:
    """Return the folder of the sample, making it first if need be."""
    import shutil

    from platformdirs import user_cache_path

    from comir_search.evaluation.synthesis import make_sample

    folder = user_cache_path("napari-comir-search") / f"sample-{SEED}"
    if not (folder / "truth.csv").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        make_sample(folder, seed=SEED)
    return folder


def open_sample_slide() -> list[tuple[Any, dict[str, Any], str]]:
    """Return the synthetic brightfield slide."""
    from napari_comir_search.readers import read_slides

    return read_slides([str(sorted((sample_folder() / "slides").iterdir())[0])])


def open_sample_query() -> list[tuple[Any, dict[str, Any], str]]:
    """Return a synthetic SHG patch of it."""
    from napari_comir_search.readers import read_slides

    return read_slides([str(sorted((sample_folder() / "queries").iterdir())[0])])
