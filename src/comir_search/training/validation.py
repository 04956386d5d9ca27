"""Measure during training how well the networks find patches of the validation set."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from comir_search.matching.correlation import correlate_window, transform_templates
from comir_search.matching.templates import shrink, turn_templates
from comir_search.model.embedding import code, decode, embed_array
from comir_search.model.model import Modality, Model
from comir_search.opencv import cv2
from comir_search.progress import Job, Tick
from comir_search.training.pairs import Pair

QUERIES_PER_PAIR = 4
LEVEL = 1  # pyramid level: low, since patches and pairs are small
ANGLES_DEG = np.arange(-165, 181, 15)
HIT_SHARE = 0.25  # of the query's side
LARGEST_SHARE = 0.65  # of the pair's shorter side: a rotated query must fit inside


def choose_validation(names: Sequence[str], count: int, seed: int = 0) -> list[str]:
    """Return the names of the validation set; at least one pair is left for training.

    Parameters
    ----------
    names : sequence of str
        Names of all pairs.
    count : int
        Size of the validation set.
    seed : int
    """
    count = min(count, len(names) - 1)
    chosen = np.random.default_rng(seed).permutation(len(names))[: max(count, 0)]
    return sorted(names[number] for number in chosen)


class Validation:
    """Rotated patches of one modality, searched in the other modality of the validation set.

    Parameters
    ----------
    pairs : sequence of Pair
        The validation set.
    sides : sequence of Modality
        Patches are cut from the second modality and searched in the first.
    query_px : int
        Largest side of a patch, pixels of the pairs.
    seed : int
        Seed of the positions and angles, which are the same in each measurement.
    """

    def __init__(self, pairs: Sequence[Pair], sides: Sequence[Modality], query_px: int, seed: int) -> None:
        self.pairs, self.sides = list(pairs), tuple(sides)
        rng = np.random.default_rng([seed, 1])
        self._queries = [
            (number, *_cut(pair.second, query_px, rng))
            for number, pair in enumerate(self.pairs)
            for _ in range(QUERIES_PER_PAIR)
        ]

    def hit_rate_steps(
        self, networks: Sequence[nn.Module], architecture: str, comir_channels: int, tick: Tick
    ) -> Job[float]:
        """Return the share of patches that are found at the right position, in [0, 1].

        Parameters
        ----------
        networks : sequence of Module
            Networks of the two modalities; they are copied, not changed.
        architecture : str
        comir_channels : int
        tick : Tick
            Yielded where the job may be stopped.
        """
        first, second = (side.name for side in self.sides)
        names = {side.name: copy.deepcopy(net) for side, net in zip(self.sides, networks, strict=True)}
        device = next(networks[0].parameters()).device
        model = Model(
            nn.ModuleDict(names),
            (self.sides[0], self.sides[1]),
            architecture=architecture,
            comir_channels=comir_channels,
            pixel_size_um=1.0,
        ).to(device.type)
        comirs = []
        for pair in self.pairs:
            comirs.append(decode(code(embed_array(model, pair.first, first))))
            yield tick
        hits = 0
        for number, image, center, side_px in self._queries:
            query = decode(code(embed_array(model, image, second)))
            found, place = _locate(query, side_px / model.stride, comirs)
            error_px = np.hypot(*(place * model.stride - center))
            hits += int(found == number and error_px <= HIT_SHARE * side_px)
            yield tick
        return hits / len(self._queries)


class Best:
    """The best networks so far; among equally good ones the latest.

    Attributes
    ----------
    hit_rate : float or None
        None before the first measurement.
    step : int
    history : list of (int, float)
        Every step at which the hit rate was measured.
    weights : dict of str to Tensor
    """

    def __init__(self) -> None:
        self.hit_rate: float | None = None
        self.step = 0
        self.history: list[tuple[int, float]] = []
        self.weights: dict[str, Tensor] = {}

    def take(self, step: int, hit_rate: float, weights: Mapping[str, Tensor]) -> None:
        """Record a measurement, and keep the weights if no earlier ones were better.

        Parameters
        ----------
        step : int
        hit_rate : float
            In [0, 1].
        weights : mapping of str to Tensor
        """
        self.history.append((step, hit_rate))
        if self.hit_rate is None or hit_rate >= self.hit_rate:
            self.hit_rate, self.step = hit_rate, step
            self.weights = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}


def _cut(
    image: NDArray[np.float32], query_px: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float64], int]:
    """Cut a rotated patch from the inside of an image; return it with its centre (x, y) and its side."""
    rows, columns = image.shape[:2]
    side = int(min(query_px, LARGEST_SHARE * min(rows, columns)))
    reach = side / np.sqrt(2)
    center = rng.uniform([reach, reach], [columns - reach, rows - reach])
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.hstack([turn, (center - 0.5 - turn @ [(side - 1) / 2, (side - 1) / 2])[:, None]])
    patch = cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return np.asarray(patch.reshape(side, side, -1), np.float32), center, side


def _locate(
    query: NDArray[np.float32], size_px: float, comirs: Sequence[NDArray[np.float32]]
) -> tuple[int, NDArray[np.float64]]:
    """Return the number of the CoMIR in which a query fits best, and its centre (x, y) there, CoMIR pixels."""
    templates = turn_templates(query, (size_px, size_px), [float(a) for a in ANGLES_DEG], level=LEVEL)
    factor, margin = 2**LEVEL, templates.side // 2
    coarse = [torch.from_numpy(np.ascontiguousarray(shrink(comir, factor))) for comir in comirs]
    size = max(max(comir.shape[1:]) for comir in coarse) + 2 * margin
    spectra = transform_templates(templates, size + size % 2)
    best, found, place = -np.inf, 0, np.zeros(2)
    for number, comir in enumerate(coarse):
        rows, columns = comir.shape[1:]
        window = torch.zeros(len(comir), spectra.size, spectra.size)
        window[:, margin : margin + rows, margin : margin + columns] = comir
        scores = correlate_window(spectra, window).amax(0)[:rows, :columns]
        value, position = scores.flatten().max(0)
        if float(value) > best:
            y, x = divmod(int(position), scores.shape[1])
            best, found, place = float(value), number, np.array([x, y], float) * factor
    return found, place
