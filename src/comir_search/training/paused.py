"""Read quickly from a checkpoint how far a paused training came; only small modules are imported."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from comir_search.documents import BadDocument, Count, Micrometres, convert, decode
from comir_search.errors import ComirSearchError
from comir_search.model.tensor_file import TensorFile, open_tensors

WANTED = "the checkpoint of a paused training"
ADVICE = "move it away to start anew"
Share = Annotated[float, Meta(ge=0, le=1)]
Steps = Annotated[int, Meta(ge=1, le=10**9)]


@dataclass(frozen=True)
class _Recipe:
    steps: Steps


@dataclass(frozen=True)
class RunState:
    """The metadata of a checkpoint.

    Parameters
    ----------
    recipe : dict
        The settings of the training.
    data_sha256 : str
        Hash of the training pairs.
    step : int
        Steps done.
    losses : tuple of (int, float)
        Step and loss of each step.
    validation : tuple of str
        Names of the validation set.
    hit_rates : tuple of (int, float)
        See `comir_search.training.validation.Best`.
    pixel_size_um : float or None
        Pixel size of the model, None if the checkpoint does not contain it.
    """

    recipe: dict[str, Any]
    data_sha256: str
    step: Steps
    losses: Annotated[tuple[tuple[Count, float], ...], Meta(min_length=1)]
    validation: tuple[str, ...] = ()
    hit_rates: tuple[tuple[Count, Share], ...] = ()
    pixel_size_um: Micrometres | None = None

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        recipe: _Recipe = convert(self.recipe, _Recipe, name=WANTED, advice=ADVICE)
        return recipe.steps


def read_state(file: TensorFile) -> RunState:
    """Return the metadata of an open checkpoint.

    Raises
    ------
    BadDocument
        If it is not a checkpoint, or damaged.
    """
    name = str(file.path)
    if "run" not in file.metadata:
        raise BadDocument(name, "it is not a checkpoint of a training", ADVICE)
    state: RunState = decode(file.metadata["run"], RunState, name=name, advice=ADVICE)
    if state.step > state.steps:
        raise BadDocument(name, f"it claims {state.step} of {state.steps} steps", ADVICE)
    return state


@dataclass(frozen=True)
class PausedTraining:
    """The settings of a paused training, and how far it came.

    Parameters
    ----------
    done, steps : int
        Training steps done, and all training steps.
    kept_back : int
        Number of pairs in the validation set.
    pixel_size_um : float or None
        Pixel size of the model, None if the checkpoint does not contain it.
    """

    done: int
    steps: int
    kept_back: int
    pixel_size_um: float | None


def checkpoint_of(out: Path) -> Path:
    """Return the path of a model's checkpoint."""
    return out.with_name(out.name + ".checkpoint")


def require_own_checkpoint(out: Path) -> None:
    """Raise an error if another file has the checkpoint's name, since training would overwrite it.

    Raises
    ------
    ComirSearchError
    """
    checkpoint = checkpoint_of(out)
    if os.path.lexists(checkpoint):
        with open_tensors(checkpoint, wanted=WANTED, advice=ADVICE) as file:
            if "run" not in file.metadata:
                raise BadDocument(str(checkpoint), "it is not a checkpoint of a training", ADVICE)


def read_paused(out: Path) -> PausedTraining | None:
    """Return the paused training of a model, None if there is none or it cannot be read."""
    try:
        with open_tensors(checkpoint_of(out), wanted=WANTED, advice=ADVICE) as file:
            state = read_state(file)
    except ComirSearchError:
        return None  # the error is shown when the user resumes it
    return PausedTraining(state.step, state.steps, len(state.validation), state.pixel_size_um)
