"""A model is trained: its options, the check of the pairs, and the training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from comir_search.errors import ComirSearchError
from comir_search.progress import Job, Tick
from comir_search.training.pair_check import CheckedPairs, check_pairs_steps
from napari_comir_search.jobs.threads import leave_a_core

SUFFIX = ".safetensors"
DEFAULT_STEPS = 5400  # the recipe's own
DEFAULT_PIXEL_SIZE_UM = 2.0


@dataclass(frozen=True)
class TrainingOptions:
    """What to train on, and how.

    Parameters
    ----------
    first, second : Path
        Folders of equally named images.
    out : Path
        The model file.
    names : tuple of str
        The pairs to use.
    kept_back : int
        How many of them are not learned from, to see how well others are placed.
    pixel_size_um : float
        Of the model, and of images whose files give none.
    steps : int
    device : {"auto", "cpu", "cuda"}
    resume : bool
        Go on where a training into the same file was paused.
    """

    first: Path
    second: Path
    out: Path
    names: tuple[str, ...]
    kept_back: int = 0
    pixel_size_um: float = DEFAULT_PIXEL_SIZE_UM
    steps: int = DEFAULT_STEPS
    device: str = "auto"
    resume: bool = False


@dataclass(frozen=True)
class Trained:
    """A model that was written, and what is known of it."""

    path: Path
    sentence: str


def suggest_kept_back(count: int) -> int:
    """Return how many of `count` pairs to keep back: about a fifth, and two to learn from at least."""
    return max(0, min(round(count / 5) or 1, count - 2))


def suggest_out(folder: Path) -> Path:
    """Return a model file beside a folder of images that does not replace another."""
    path, number = folder.parent / f"model{SUFFIX}", 1
    while path.exists():
        number += 1
        path = folder.parent / f"model {number}{SUFFIX}"
    return path


def check_steps(first: Path, second: Path, pixel_size_um: float) -> Job[CheckedPairs]:
    """Check the pairs of two folders; ticks carry each `CheckedPair`."""
    leave_a_core()
    checked = yield from check_pairs_steps(first, second, pixel_size_um=pixel_size_um)
    return checked


def train_steps(options: TrainingOptions, should_stop: Callable[[], bool]) -> Job[Trained]:
    """Train a model and write it; ticks carry a `TrainingReport`.

    Parameters
    ----------
    options : TrainingOptions
    should_stop : callable
        Once it returns True, the best networks so far are written.
    """
    from comir_search.training.run import train_steps as engine_steps
    from comir_search.training.validation import choose_validation

    yield Tick("reading pairs", 0, 0)
    leave_a_core()
    if not options.out.parent.is_dir():
        raise ComirSearchError(f"{options.out.parent} is not a folder: choose another folder for the model.")
    model = yield from engine_steps(
        options.first,
        options.second,
        options.out,
        names=options.names,
        pixel_size_um=options.pixel_size_um,
        steps=options.steps,
        device=options.device,
        resume=options.resume,
        validation=choose_validation(options.names, options.kept_back),
        should_stop=should_stop,
    )
    training, validation = model.card["training"], model.card.get("validation")
    done = training.get("steps_done", training["steps"])
    sentence = f"{options.out.name} was trained for {done} steps on {len(training['images'])} pairs"
    if validation is not None:
        share = f"{100 * validation['hit_rate']:.0f} %"
        sentence += f"; at step {validation['step']} it found {share} of the validation queries"
    return Trained(options.out, f"{sentence}.")
