"""Train a model on two folders of aligned images with equal names.

Next to the model, the loss curve is written (OUT.loss.csv). Until the training ends there
is also its state (OUT.checkpoint), from which --resume continues.
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from comir_search.cli.progress import show
from comir_search.errors import BatchIncomplete
from comir_search.options import add_arguments as add_arguments_of
from comir_search.options import from_arguments
from comir_search.progress import Tick
from comir_search.training.options import TrainOptions

if TYPE_CHECKING:
    from comir_search.model.model import Model

Result = TypeVar("Result")

HELP = "train a model on aligned pairs of images"
STOPPED = "Stopped; the same command with --resume goes on from the last checkpoint."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments."""
    parser.add_argument(
        "--bf", type=Path, required=True, metavar="DIR", help="images of one side (brightfield)"
    )
    parser.add_argument(
        "--shg", type=Path, required=True, metavar="DIR", help="images of the other side, with equal names"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="MODEL", help="model file to write")
    add_arguments_of(parser, TrainOptions)


def run(args: argparse.Namespace) -> int:
    """Train a model."""
    from comir_search.training.run import train_steps

    job = train_steps(args.bf, args.shg, args.out, from_arguments(TrainOptions, args))
    try:
        _describe(show(_stopping_between_steps(job)), args)
    except BatchIncomplete as incomplete:
        if incomplete.result is not None:
            _describe(incomplete.result, args)
        raise
    return 0


def _describe(model: Model, args: argparse.Namespace) -> None:
    """Print the written files and whether the model is calibrated."""
    training = model.card["training"]
    print(
        f"{args.out}: {args.arch} network, {training['steps']} steps on {len(training['images'])} pairs, "
        f"final loss {training['final_loss']:g}"
    )
    print(f"Loss curve: {args.out}.loss.csv")
    if model.calibration is None:
        print(
            "Confidence: not calibrated. A search with this model ranks places, but cannot give the probability "
            "that each of them is right."
        )


def _stopping_between_steps(job: Generator[Tick, None, Result]) -> Generator[Tick, None, Result]:
    """Let Ctrl-C stop the job after the present step, so that its state is saved; a second one stops at once."""
    pressed: list[int] = []

    def note(number: int, frame: Any) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        while True:
            try:
                tick = next(job)
            except StopIteration as stop:
                return stop.value
            yield tick
            if pressed:
                raise KeyboardInterrupt
    finally:
        job.close()
        signal.signal(signal.SIGINT, before)
