"""A baseline like histology search engines: one deep embedding for each window, compared by cosine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from comir_search.evaluation.baselines.resnet import ResNet, load_resnet, resnet_maps
from comir_search.evaluation.views import View, Viewer
from comir_search.model.model import Model
from comir_search.progress import Job, Tick


class GlobalVector:
    """Ranks windows by the cosine between their embedding and the query's.

    Parameters
    ----------
    viewer : Viewer
    weights : Path, optional
        Weights of a ResNet. Its last block embeds the representation. Without it, the
        deepest features of the model's own networks embed the images.
    """

    def __init__(self, viewer: Viewer, weights: Path | None) -> None:
        self._viewer = viewer
        self._resnet: ResNet | None = None
        if weights is not None:
            self._resnet = load_resnet(weights, viewer.model.device)

    def prepare_steps(self, windows: Sequence[View]) -> Job[None]:
        """Embed the repository."""
        embeddings = []
        for number, window in enumerate(windows):
            yield Tick("embedding the repository", number, len(windows))
            embeddings.append(self._embed(window))
        self._embeddings = np.stack(embeddings)

    def rank_steps(self, query: View) -> Job[list[int]]:
        """Return all windows, the most similar first."""
        yield from ()
        return np.argsort(-(self._embeddings @ self._embed(query)), kind="stable").tolist()

    def _embed(self, view: View) -> NDArray[np.float32]:
        if self._resnet is None:
            vector = _deepest_features(
                self._viewer.model, self._viewer.normalise(view.image, view.modality), view.modality
            )
        else:
            channels = view.pixels / np.float32(255)
            vector = np.concatenate(
                [resnet_maps(self._resnet, channel).mean(axis=(1, 2)) for channel in channels]
            )
        return vector / np.maximum(np.linalg.norm(vector), np.finfo(np.float32).eps)


def _deepest_features(model: Model, image: NDArray[np.float32], modality: str) -> NDArray[np.float32]:
    """Return the mean over the image of each feature of the network's coarsest level."""
    network = model.networks[modality]
    level = network.bottleneck if hasattr(network, "bottleneck") else network.down[-1]
    collected: list[torch.Tensor] = []
    handle = level.register_forward_hook(lambda _module, _inputs, output: collected.append(output))
    multiple = model.tile_multiple
    padded = np.pad(
        image, ((0, -image.shape[0] % multiple), (0, -image.shape[1] % multiple), (0, 0)), mode="symmetric"
    )
    try:
        with torch.inference_mode():
            network(torch.from_numpy(padded.transpose(2, 0, 1)[None].copy()).to(model.device))
    finally:
        handle.remove()
    vector: NDArray[np.float32] = collected[0][0].mean(dim=(1, 2)).cpu().numpy()
    return vector
