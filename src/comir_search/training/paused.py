"""A training that was paused, as far as its checkpoint tells it at once: nothing heavy is imported."""

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
    """What a checkpoint says beside its tensors.

    Parameters
    ----------
    recipe : dict
        With what the training was begun.
    data_sha256 : str
        Of the pairs that are learned from.
    step : int
        Steps done.
    losses : tuple of (int, float)
        Of each step.
    validation : tuple of str
        Images kept back.
    hit_rates : tuple of (int, float)
        See `comir_search.training.validation.Best`.
    pixel_size_um : float or None
        At which the model works, None where the checkpoint does not say.
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
    """Return what an open checkpoint says.

    Raises
    ------
    BadDocument
        If it is none, or damaged.
    """
    name = str(file.path)
    if "run" not in file.metadata:
        raise BadDocument(name, "it is no checkpoint of a training", ADVICE)
    state: RunState = decode(file.metadata["run"], RunState, name=name, advice=ADVICE)
    if state.step > state.steps:
        raise BadDocument(name, f"{state.step} of {state.steps} steps are done", ADVICE)
    return state


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


def require_own_checkpoint(out: Path) -> None:
    """Refuse to train where a file has the checkpoint's name and is none: it would be overwritten.

    Raises
    ------
    ComirSearchError
    """
    checkpoint = checkpoint_of(out)
    if os.path.lexists(checkpoint):
        with open_tensors(checkpoint, wanted=WANTED, advice=ADVICE) as file:
            if "run" not in file.metadata:
                raise BadDocument(str(checkpoint), "it is no checkpoint of a training", ADVICE)


def read_paused(out: Path) -> PausedTraining | None:
    """Return the paused training of a model, None where there is none or it cannot be read."""
    try:
        with open_tensors(checkpoint_of(out), wanted=WANTED, advice=ADVICE) as file:
            state = read_state(file)
    except ComirSearchError:
        return None  # whoever goes on from it hears why it cannot be
    return PausedTraining(state.step, state.steps, len(state.validation), state.pixel_size_um)
