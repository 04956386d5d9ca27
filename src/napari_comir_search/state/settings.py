"""The user's preferences: napari's settings page, filled from the manifest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PLUGIN = "napari-comir-search"


@dataclass(frozen=True)
class Preferences:
    """What the settings page holds; the manifest says what each means."""

    candidates: int = 10
    mirrored: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    model: str = ""
    reviewer: str = ""


def read_preferences() -> Preferences:
    """Return the preferences as they are now; the defaults where napari knows no such page."""
    try:
        from napari.settings import get_plugin_settings

        settings = get_plugin_settings(PLUGIN)
    except (ImportError, KeyError):
        return Preferences()
    return Preferences(
        candidates=settings.search.candidates,
        mirrored=settings.search.mirrored,
        device=settings.computing.device,
        model=settings.computing.model,
        reviewer=settings.review.reviewer,
    )
