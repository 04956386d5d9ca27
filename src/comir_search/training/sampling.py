"""Training batches: rotated crops of aligned pairs, and the points that they share.

Each image is rotated by a random angle *before* a crop is cut from its interior, so
crops have no filled corners. The two images of a pair are changed in colour, rotation,
shift and scale independently (with `one_frame` only in colour). `Batch` keeps the
frames of the crops, for the loss to compare them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from comir_search.opencv import cv2
from comir_search.training.pairs import Pair

CROPS_PER_PAIR = 4  # crops of the same core are hard negatives of each other
MAX_SHIFT_PX = 22.0
MAX_SCALE_ERROR = 0.03
FREE_SHARE = 0.15  # share of crops at random positions, whatever they show


@dataclass(frozen=True)
class Frame:
    """The position of a crop in its pair: pair = center + matrix @ (crop - middle)."""

    center: NDArray[np.float64]
    matrix: NDArray[np.float64]


@dataclass(frozen=True)
class Batch:
    """One training step's crops.

    Parameters
    ----------
    first, second : ndarray (N, channels, side, side) float32
    first_frames, second_frames : list of Frame
        In pixels of the pair, pixel-centre indices.
    places : ndarray (N, 2)
        The point that both crops of a pair contain, pixels of the pair.
    """

    first: NDArray[np.float32]
    second: NDArray[np.float32]
    first_frames: list[Frame]
    second_frames: list[Frame]
    places: NDArray[np.float64]


class Sampler:
    """Draw training batches from pairs.

    Parameters
    ----------
    pairs : sequence of Pair
    crop_px : int
        Side of a crop.
    seed : int
        A batch depends only on the seed and the step, so a resumed training uses the
        same batches as an uninterrupted one.
    one_frame : bool
        Whether both images of a crop show the same pixels, as the published loss
        requires.
    """

    def __init__(self, pairs: Sequence[Pair], crop_px: int, seed: int, *, one_frame: bool = False) -> None:
        self.pairs = list(pairs)
        self.crop_px = crop_px
        self.seed = seed
        self.one_frame = one_frame
        self.rng = np.random.default_rng(seed)
        self._evidence = [_evidence(pair, crop_px) for pair in self.pairs]

    def draw(self, count: int, step: int) -> Batch:
        """Return the batch of a step: `count` crop pairs, `CROPS_PER_PAIR` from each chosen pair."""
        self.rng = np.random.default_rng([self.seed, step])
        groups = -(-count // CROPS_PER_PAIR)
        chosen = self.rng.choice(len(self.pairs), groups, replace=groups > len(self.pairs))
        drawn = [self._crop(index) for index in np.repeat(chosen, CROPS_PER_PAIR)[:count]]
        first, second, first_frames, second_frames, places = zip(*drawn, strict=True)
        return Batch(
            np.ascontiguousarray(np.stack(first).transpose(0, 3, 1, 2)),
            np.ascontiguousarray(np.stack(second).transpose(0, 3, 1, 2)),
            list(first_frames),
            list(second_frames),
            np.stack(places),
        )

    def _crop(
        self, index: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], Frame, Frame, NDArray[np.float64]]:
        pair, rng = self.pairs[index], self.rng
        rows, columns = pair.first.shape[:2]
        place = self._place(index)
        flip = np.diag([-1.0, 1.0]) if rng.random() < 0.5 else np.eye(2)
        change = flip * np.exp(rng.uniform(-0.12, 0.12))
        crops: list[NDArray[np.float32]] = []
        frames: list[Frame] = []
        for image in (pair.first, pair.second):
            if not (frames and self.one_frame):
                frames.append(self._frame(place, change, (rows, columns)))
            crops.append(_cut(image, frames[-1], self.crop_px, rng))
        recoloured = [
            (_recolour_stain if crop.shape[2] == 3 else _recolour_signal)(crop, rng) for crop in crops
        ]
        return recoloured[0], recoloured[1], frames[0], frames[-1], place

    def _frame(
        self, place: NDArray[np.float64], change: NDArray[np.float64], shape: tuple[int, int]
    ) -> Frame:
        """Draw a rotated, shifted and slightly rescaled frame near a point of an image."""
        rng, (rows, columns) = self.rng, shape
        margin = self.crop_px / np.sqrt(2)
        radius, direction = MAX_SHIFT_PX * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
        center = place + radius * np.array([np.cos(direction), np.sin(direction)])
        # Shift only towards the interior: a shift back must not exceed MAX_SHIFT_PX.
        low, high = np.minimum(place, margin), np.maximum(place, np.array([columns, rows]) - 1 - margin)
        angle = rng.uniform(0, 2 * np.pi)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = change @ turn * np.exp(rng.uniform(-MAX_SCALE_ERROR, MAX_SCALE_ERROR))
        return Frame(np.clip(center, low, high), matrix)

    def _place(self, index: int) -> NDArray[np.float64]:
        rng, evidence = self.rng, self._evidence[index]
        rows, columns = self.pairs[index].first.shape[:2]
        margin = min(self.crop_px / np.sqrt(2), (min(rows, columns) - 1) / 2)
        for _ in range(50):
            place = rng.uniform(
                [margin, margin], [columns - 1 - margin, rows - 1 - margin] + np.array([1e-6, 1e-6])
            )
            if rng.random() < max(FREE_SHARE, evidence[int(place[1]), int(place[0])]):
                break
        return place


def _evidence(pair: Pair, crop_px: int) -> NDArray[np.float32]:
    """Return the local contrast of both images relative to their best, (rows, columns) in [0, 1]."""
    shares = []
    window = (crop_px // 2, crop_px // 2)
    for image in (pair.first, pair.second):
        grey = image.mean(axis=2)
        spread = cv2.blur(grey**2, window) - cv2.blur(grey, window) ** 2
        spread = np.sqrt(np.maximum(spread, 0))
        shares.append(np.clip(spread / max(float(np.percentile(spread, 80)), 1e-6), 0, 1))
    return np.minimum(shares[0], shares[1]).astype(np.float32)


def _cut(
    image: NDArray[np.float32], frame: Frame, side: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Cut a rotated crop, (side, side, channels)."""
    middle = (side - 1) / 2
    matrix = np.hstack([frame.matrix, (frame.center - frame.matrix @ [middle, middle])[:, None]])
    interpolation = cv2.INTER_LINEAR if rng.random() < 0.5 else cv2.INTER_CUBIC
    crop = cv2.warpAffine(
        image,
        matrix,
        (side, side),
        flags=interpolation | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return np.asarray(crop.reshape(side, side, -1), np.float32)


def _degrade(crop: NDArray[np.float32], rng: np.random.Generator, noise: float) -> NDArray[np.float32]:
    """Blur some crops, add noise to some."""
    if rng.random() < 0.4:
        crop = cv2.GaussianBlur(crop, (0, 0), rng.uniform(0.3, 1.3)).reshape(crop.shape)
    if rng.random() < 0.5:
        crop = crop + rng.uniform(0, noise) * rng.standard_normal(crop.shape, np.float32)
    return crop


def _recolour_stain(crop: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Vary stain and lamp: mix and scale optical densities, tint the background, change gamma."""
    density = -np.log(np.clip(crop, 1 / 255, 1))
    mix = np.eye(3) + rng.normal(0, 0.08, (3, 3))
    density = np.maximum(density @ mix.astype(np.float32), 0) * np.exp(rng.normal(0, 0.2, 3)).astype(
        np.float32
    )
    density = density ** np.float32(np.exp(rng.normal(0, 0.12))) + np.abs(rng.normal(0, 0.08, 3)).astype(
        np.float32
    )
    crop = np.exp(-density)
    if rng.random() < 0.08:
        crop = np.repeat(crop.mean(axis=2, keepdims=True), 3, axis=2)
    return np.clip(_degrade(crop, rng, 0.04), 0, 1).astype(np.float32)


def _recolour_signal(crop: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Vary gain, offset and gamma of a signal image."""
    crop = np.clip(crop, 0, None) ** np.float32(np.exp(rng.normal(0, 0.25)))
    crop = crop * np.float32(np.exp(rng.normal(0, 0.25))) + np.float32(rng.normal(0, 0.03))
    return np.clip(_degrade(crop, rng, 0.08), 0, 1.6).astype(np.float32)
