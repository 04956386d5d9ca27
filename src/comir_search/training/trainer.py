"""Training the two networks of a model on aligned pairs."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from comir_search.matching.correlation import ENERGY_FLOOR
from comir_search.model.networks import build_network
from comir_search.training.loss import activation_penalty, patch_info_nce, place_info_nce
from comir_search.training.pairs import Pair
from comir_search.training.sampling import Batch, Frame, Sampler

TEMPLATE_SHARES = (0.34, 0.42, 0.5)  # sides of the templates, as shares of a crop's side


@dataclass(frozen=True)
class Recipe:
    """The settings of a training.

    Parameters
    ----------
    architecture : {"compact", "tiramisu"}
        The compact network is trained with the loss over positions, the published
        one with the published loss and rotations by quarter turns (C4).
    comir_channels : int
    steps, batch, crop_px : int
    learning_rate, weight_decay : float
        For AdamW with a one-cycle schedule.
    seed : int
    """

    architecture: str = "compact"
    comir_channels: int = 8
    steps: int = 5400
    batch: int = 16
    crop_px: int = 160
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    seed: int = 0


class Trainer:
    """The state of one training: networks, optimiser, step.

    Parameters
    ----------
    pairs : sequence of Pair
    channels : (int, int)
        Input channels of the two modalities.
    recipe : Recipe
    device : torch.device
    """

    def __init__(
        self, pairs: Sequence[Pair], channels: Sequence[int], recipe: Recipe, device: torch.device
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.device = recipe, device
        self.over_places = recipe.architecture == "compact"
        self.sampler = Sampler(pairs, recipe.crop_px, recipe.seed, one_frame=not self.over_places)
        self.networks = nn.ModuleList(
            build_network(recipe.architecture, count, recipe.comir_channels) for count in channels
        ).to(device, memory_format=torch.channels_last)
        self.stride = int(self.networks[0].stride)
        self.log_scale = nn.Parameter(torch.tensor(float(np.log(14.0)), device=device))
        # The published loss has a fixed temperature.
        self.parameters = [*self.networks.parameters(), *([self.log_scale] if self.over_places else [])]
        self.optimiser = torch.optim.AdamW(
            self.parameters, recipe.learning_rate, weight_decay=recipe.weight_decay, foreach=True
        )
        self.step = 0

    def advance(self, batch: Batch) -> float:
        """Take one step; return the loss."""
        torch.manual_seed(self.recipe.seed * 1_000_003 + self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.learning_rate * learning_rate_share(self.step, self.recipe.steps)
        self.networks.train()
        loss = self._place_loss(batch) if self.over_places else self._patch_loss(batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for network in self.networks:
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        self.optimiser.step()
        with torch.no_grad():
            self.log_scale.clamp_(max=float(np.log(60.0)))
        self.step += 1
        return float(loss.detach())

    def _embed(self, side: int, crops: NDArray[np.float32] | Tensor) -> Tensor:
        images = torch.as_tensor(crops, device=self.device).contiguous(memory_format=torch.channels_last)
        # bfloat16 doubles the speed on CPUs that support it; weights and loss stay in float32.
        with torch.autocast(self.device.type, torch.bfloat16):
            latents: Tensor = self.networks[side](images)
        return latents.float()

    def _place_loss(self, batch: Batch) -> Tensor:
        maps = [
            torch.tanh(self._embed(side, crops) / 2) for side, crops in enumerate((batch.first, batch.second))
        ]
        frames = (batch.first_frames, batch.second_frames)
        share = TEMPLATE_SHARES[self.step % len(TEMPLATE_SHARES)]
        side_px = int(share * maps[0].shape[-1])
        scale = self.log_scale.exp()
        losses = []
        for query, target in ((1, 0), (0, 1)):
            templates = _turn_templates(
                maps[query], frames[query], frames[target], batch.places, side_px, self.stride
            )
            places = _places_in_maps(frames[target], batch.places, side_px, self.sampler.crop_px, self.stride)
            losses.append(
                place_info_nce(
                    templates, maps[target], torch.as_tensor(places).to(templates), scale, ENERGY_FLOOR
                )
            )
        return (losses[0] + losses[1]) / 2

    def _patch_loss(self, batch: Batch) -> Tensor:
        """Return the published loss of crops in one frame, with rotation by quarter turns and back."""
        latents = []
        for side, crops in enumerate((batch.first, batch.second)):
            turns = torch.randint(4, (len(crops),))
            images = torch.as_tensor(crops)
            turned = torch.stack(
                [torch.rot90(image, int(k), (1, 2)) for image, k in zip(images, turns, strict=True)]
            )
            embedded = self._embed(side, turned)
            latents.append(
                torch.stack(
                    [torch.rot90(latent, -int(k), (1, 2)) for latent, k in zip(embedded, turns, strict=True)]
                )
            )
        return patch_info_nce(*latents) + activation_penalty(*latents)


def learning_rate_share(step: int, steps: int) -> float:
    """Return the share of the peak learning rate: a rise over a tenth of the steps, then a cosine decay."""
    warm_up = max(1, steps // 10)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def _turn_templates(
    maps: Tensor,
    own: list[Frame],
    wanted: list[Frame],
    places: NDArray[np.float64],
    side_px: int,
    stride: int,
) -> Tensor:
    """Resample each map around its position into the other modality's frame, (N, channels, side_px, side_px)."""
    middle_px = (maps.shape[-1] * stride - 1) / 2
    offsets = (np.arange(side_px) - (side_px - 1) / 2) * stride
    grid_x, grid_y = np.meshgrid(offsets, offsets)
    offsets = np.stack([grid_x, grid_y], axis=-1)
    grids = []
    for frame, target, place in zip(own, wanted, places, strict=True):
        points = offsets @ target.matrix.T + place - frame.center
        pixels = points @ np.linalg.inv(frame.matrix).T + middle_px
        grids.append((2 * pixels + 1) / (maps.shape[-1] * stride) - 1)
    grid = torch.as_tensor(np.stack(grids), dtype=maps.dtype, device=maps.device)
    return nn.functional.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _places_in_maps(
    frames: list[Frame], places: NDArray[np.float64], side_px: int, crop_px: int, stride: int
) -> NDArray[np.float64]:
    """Return the top-left corner (column, row) of the template at each position, map pixels."""
    corners = []
    for frame, place in zip(frames, places, strict=True):
        pixel = np.linalg.solve(frame.matrix, place - frame.center) + (crop_px - 1) / 2
        corners.append((pixel + 0.5) / stride - 0.5 - (side_px - 1) / 2)
    return np.stack(corners)


def prefetch(sampler: Sampler, count: int, first_step: int, steps: int) -> Iterator[Batch]:
    """Draw batches in a thread, a few in advance.

    Parameters
    ----------
    sampler : Sampler
    count : int
        Crop pairs of a batch.
    first_step : int
        Step of the first batch.
    steps : int
        Steps of the whole training.
    """
    ready: queue.Queue[Batch | Exception] = queue.Queue(maxsize=3)
    stopped = threading.Event()

    def put(item: Batch | Exception) -> None:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for step in range(first_step, steps):
                if stopped.is_set():
                    return
                put(sampler.draw(count, step))
        except Exception as error:  # noqa: BLE001  (it is raised again when the batch is requested)
            put(error)

    thread = threading.Thread(target=work, name="training batches", daemon=True)
    thread.start()
    try:
        for _ in range(first_step, steps):
            item = ready.get()
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
