"""The version of this program, as it was installed."""

from __future__ import annotations

from importlib.metadata import version


def find_version() -> str:
    """Return the version of the installed distribution."""
    return version("napari-comir-search")
