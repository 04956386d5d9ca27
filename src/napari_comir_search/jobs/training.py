"""A model is trained: its options, the check of the pairs, and the training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from comir_search.errors import ComirSearchError
from comir_search.progress import Job, Tick
from comir_search.training.options import TrainOptions
from napari_comir_search.jobs.threads import leave_a_core

SUFFIX = ".safetensors"
DEFAULT_STEPS = 5400  # the recipe's own


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


def train_steps(
    folders: tuple[Path, Path],
    out: Path,
    options: TrainOptions,
    kept_back: int,
    should_stop: Callable[[], bool],
) -> Job[Trained]:
    """Train a model and write it; ticks carry a `TrainingReport`.

    Parameters
    ----------
    folders : (Path, Path)
        Of equally named images: the first side's and the second side's.
    out : Path
        The model file.
    options : TrainOptions
        `names` are the pairs to use.
    kept_back : int
        How many of these pairs are the validation set.
    should_stop : callable
        Once it returns True, the best networks so far are written.
    """
    from comir_search.training.run import train_steps as engine_steps
    from comir_search.training.validation import choose_validation

    yield Tick("reading pairs", 0, 0)
    leave_a_core()
    if not out.parent.is_dir():
        raise ComirSearchError(f"{out.parent} is not a folder: choose another folder for the model.")
    validation = tuple(choose_validation(options.names or (), kept_back))
    options = replace(options, validation=validation)
    model = yield from engine_steps(*folders, out, options, should_stop=should_stop)
    training, measured = model.card["training"], model.card.get("validation")
    done = training.get("steps_done", training["steps"])
    sentence = f"{out.name} was trained for {done} steps on {len(training['images'])} pairs"
    if measured is not None:
        share = f"{100 * measured['hit_rate']:.0f} %"
        sentence += f"; at step {measured['step']} it found {share} of the validation queries"
    return Trained(out, f"{sentence}.")
