"""Learn the vocabulary from the CoMIRs of training pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh
from torch import Tensor

from comir_search.model.vocabulary import NO_WORD, Vocabulary, join_channels
from comir_search.opencv import cv2
from comir_search.progress import Job, Tick

ANGLES_DEG = (0.0, 30.0, 60.0)  # twelve angles together with quarter turns, which cost no time
WINDOW_UM = 384.0
_SHRINKAGE = 0.1
_MATCHED_POINTS = 50_000  # enough for covariances of 512 dimensions and 2048 words, with little memory
_WORD_SAMPLES_PER_WORD = 60


def learn_vocabulary_steps(
    pairs: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
    *,
    stride: int,
    pixel_size_um: float,
    n_words: int = 2048,
    dimensions: int = 32,
    seed: int = 0,
) -> Job[Vocabulary]:
    """Learn projection and words.

    Parameters
    ----------
    pairs : sequence of (first, second)
        CoMIRs of both images of each training pair, (channels, rows, columns), in
        [0, 1].
    stride : int
        Model pixels per CoMIR pixel. The grid step is 8 and the blocks are 32 to 128
        *model* pixels.
    pixel_size_um : float
        Pixel size of the model.
    n_words : int
        Words per block size; fewer if there are fewer descriptors.
    dimensions : int
        Dimensions of the projected descriptors.
    seed : int
    """
    step_px = max(1, 8 // stride)
    block_px = tuple(block // stride for block in (32, 64, 96, 128))
    rng = np.random.default_rng(seed)
    matched: list[tuple[Tensor, Tensor]] = []
    turns = [(pair, angle) for pair in pairs for angle in ANGLES_DEG]
    for done, (pair, angle) in enumerate(turns):
        yield Tick("describing training CoMIRs", done, len(turns))
        both = [join_channels(turn_inside(side, angle), step_px, block_px) for side in pair]
        keep = ~((both[0] == 0).all(-1) | (both[1] == 0).all(-1)).any(0)
        points = torch.nonzero(keep.flatten())[:, 0]
        points = points[rng.permutation(len(points))[: _MATCHED_POINTS // len(turns)]]
        matched.append((both[0].flatten(1, 2)[:, points], both[1].flatten(1, 2)[:, points]))
    first, second = (torch.cat([pair[side] for pair in matched], 1) for side in (0, 1))
    projections, offsets, words, idfs = [], [], [], []
    for block in range(len(block_px)):
        yield Tick("learning the vocabulary", block, len(block_px))
        projection, offset = _discriminants(first[block].numpy(), second[block].numpy(), dimensions)
        samples = np.concatenate([first[block].numpy(), second[block].numpy()]) @ projection - offset
        projections.append(projection)
        offsets.append(offset)
        words.append(_cluster(samples, n_words, seed))
    n_words = min(len(block_words) for block_words in words)
    vocabulary = Vocabulary(
        step_px,
        block_px,
        np.stack(projections),
        np.stack(offsets),
        np.stack([block_words[:n_words] for block_words in words]),
        np.ones((len(block_px), n_words), np.float32),
    )
    window = max(1, round(WINDOW_UM / pixel_size_um / stride / step_px))
    maps = [vocabulary.assign(vocabulary.project(first_side)) for first_side, _ in pairs]
    idfs = [
        _inverse_document_frequency([m[block] for m in maps], n_words, window)
        for block in range(len(block_px))
    ]
    return Vocabulary(
        step_px, block_px, vocabulary.projection, vocabulary.offset, vocabulary.words, np.stack(idfs)
    )


def turn_inside(comir: NDArray[np.float32], angle_deg: float) -> NDArray[np.float32]:
    """Return the largest upright square inside the rotated CoMIR, so it has no filled corners."""
    if angle_deg == 0:
        return comir
    rows, columns = comir.shape[1:]
    angle = np.deg2rad(angle_deg)
    side = int(min(rows, columns) / (abs(np.cos(angle)) + abs(np.sin(angle))))
    matrix = cv2.getRotationMatrix2D(((columns - 1) / 2, (rows - 1) / 2), angle_deg, 1.0)
    matrix[:, 2] += (side - 1) / 2 - np.array([(columns - 1) / 2, (rows - 1) / 2])
    return np.stack([cv2.warpAffine(channel, matrix, (side, side)) for channel in comir])


def _discriminants(
    first: NDArray[np.float32], second: NDArray[np.float32], dimensions: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the directions in which matching points agree and others do not.

    This is linear discriminant analysis with one class per point. The scatter within
    classes comes from the differences of the two modalities, the scatter between
    classes from their means. Projected descriptors have unit scatter within classes.
    """
    middle, half = (first + second) / 2, (first - second) / 2
    within = np.cov(half.T)
    within += _SHRINKAGE * np.trace(within) / len(within) * np.eye(len(within))
    between = np.cov(middle.T)
    count = len(within)
    _, vectors = eigh(between, within, subset_by_index=(count - dimensions, count - 1))
    projection = (vectors[:, ::-1]).astype(np.float32)
    return projection, (middle.mean(axis=0) @ projection).astype(np.float32)


def _cluster(samples: NDArray[np.float32], n_words: int, seed: int) -> NDArray[np.float32]:
    """Return k-means centres."""
    from sklearn.cluster import MiniBatchKMeans

    rng = np.random.default_rng(seed)
    count = min(len(samples), _WORD_SAMPLES_PER_WORD * n_words)
    samples = samples[rng.choice(len(samples), count, replace=False)]
    kmeans = MiniBatchKMeans(
        min(n_words, len(samples)),
        batch_size=8192,
        n_init=1,
        max_iter=20,
        random_state=seed,
        reassignment_ratio=0.0,
    )
    return kmeans.fit(samples).cluster_centers_.astype(np.float32)


def _inverse_document_frequency(
    maps: Sequence[NDArray[np.uint16]], n_words: int, window: int
) -> NDArray[np.float32]:
    """Return ln((1 + windows) / (1 + windows that contain the word)) for each word."""
    count, holding = 0, np.zeros(n_words)
    for word_map in maps:
        step = max(1, window // 2)
        for y in range(0, max(1, word_map.shape[0] - window + 1), step):
            for x in range(0, max(1, word_map.shape[1] - window + 1), step):
                present = np.unique(word_map[y : y + window, x : x + window])
                holding[present[present != NO_WORD]] += 1
                count += 1
    return np.log((1 + count) / (1 + holding)).astype(np.float32)
