"""A training that was paused, as far as its checkpoint tells it at once: nothing heavy is imported."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open


@dataclass(frozen=True)
class PausedTraining:
    """With what a training was begun, and how far it came.

    Parameters
    ----------
    done, steps : int
        Training steps done, and in all.
    kept_back : int
        Pairs that are not learned from.
    pixel_size_um : float or None
        At which the model works, None where the checkpoint does not say.
    """

    done: int
    steps: int
    kept_back: int
    pixel_size_um: float | None


def checkpoint_of(out: Path) -> Path:
    """Return where a paused training of a model lies."""
    return out.with_name(out.name + ".checkpoint")


def read_paused(out: Path) -> PausedTraining | None:
    """Return the paused training of a model, None where there is none or it cannot be read."""
    checkpoint = checkpoint_of(out)
    if not checkpoint.is_file():
        return None
    try:
        with safe_open(checkpoint, "numpy") as file:
            run = json.loads((file.metadata() or {})["run"])
        size_um = run.get("pixel_size_um")
        return PausedTraining(
            int(run["step"]),
            int(run["recipe"]["steps"]),
            len(run.get("validation", [])),
            None if size_um is None else float(size_um),
        )
    except (SafetensorError, ValueError, KeyError, TypeError, OSError):
        return None  # whoever goes on from it hears why it cannot be
