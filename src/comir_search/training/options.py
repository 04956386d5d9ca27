"""The options of a training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from comir_search.options import DeviceOptions, option


@dataclass(frozen=True)
class TrainOptions(DeviceOptions):
    """How a model is trained.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda"}
    names : sequence of str, optional
        Use only these images.
    pixel_size_um : float
        Pixel size of the model, also used for images that give none.
    architecture : {"compact", "tiramisu"}
    steps : int, optional
        Training steps; by default 5400 for the compact network and the published
        736 for the Tiramisu.
    seed : int
        Seed of weights and batches.
    resume : bool
        Continue from the checkpoint of an interrupted run.
    validation : sequence of str
        Names of the validation set, which is not used for training. The networks
        with the best hit rate on it are written, instead of the last ones.
    """

    names: tuple[str, ...] | None = option(
        None, "use only these images (names without suffix)", metavar="NAME"
    )
    pixel_size_um: float = option(
        2.0, "um per pixel of the model, and of images without a pixel size", metavar="UM", unit="um", above=0
    )
    architecture: Literal["compact", "tiramisu"] = option(
        "compact", "network: compact, or the published and slower tiramisu", flag="--arch"
    )
    steps: int | None = option(
        None, "training steps", otherwise="5400 for compact, 736 for tiramisu", metavar="N", low=1
    )
    seed: int = option(0, "seed of weights and batches", metavar="N")
    resume: bool = option(False, "continue an interrupted training from its last checkpoint")
    validation: tuple[str, ...] = option((), "images to keep back from training, to measure with", flag="")
