"""Create local features by name."""

from __future__ import annotations

from pathlib import Path

import torch

from comir_search.errors import ComirSearchError
from comir_search.evaluation.baselines.extractor import Extractor
from comir_search.evaluation.baselines.resnet import ResnetFeatures
from comir_search.evaluation.baselines.sift import Sift
from comir_search.evaluation.baselines.surf import DenseSurf

NAMES = ("surf", "sift", "sift-dense", "resnet")


def make_extractor(name: str, device: torch.device, weights: Path | None = None) -> Extractor:
    """Create an extractor by name.

    Parameters
    ----------
    name : {"surf", "sift", "sift-dense", "resnet"}
    device : torch.device
        Where SURF and ResNet run.
    weights : Path, optional
        File of the ResNet weights.

    Raises
    ------
    ComirSearchError
        If the name is unknown, or ResNet has no weights.
    """
    if name == "surf":
        return DenseSurf(device)
    if name in ("sift", "sift-dense"):
        return Sift(dense=name == "sift-dense")
    if name == "resnet":
        return ResnetFeatures(weights, device)
    raise ComirSearchError(f"There are no features named {name!r}; use one of {', '.join(NAMES)}.")
