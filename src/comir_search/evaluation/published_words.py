"""The published bag of words: a vocabulary by mini-batch k-means, and ranking by tf-idf and cosine.

The choices and defaults are those of the published pipeline (MATLAB's ``bagOfFeatures``
and ``retrieveImages``). The vocabulary is learnt from the strongest 80 % of all
descriptors. Words in fewer than 1 % or more than 90 % of the images are ignored. An
image is only returned if it shares 1 % of the query's words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from comir_search.progress import Job, Tick

STRONGEST_SHARE = 0.8
WORD_FREQUENCY_RANGE = (0.01, 0.9)
MATCH_THRESHOLD = 0.01
MAX_PASSES = 20
# A vocabulary is learnt from at most this many descriptors, which are 500 MB.
SAMPLE_LIMIT = 2_000_000

_LEAST_IMPROVEMENT = 2e-3
_CHUNK_ELEMENTS = 2**24

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class PublishedVocabulary:
    """Visual words of each channel.

    Parameters
    ----------
    centres : tuple of Tensor (words, d)
        One for each channel of the images. The numbers of the words continue from one
        channel to the next.
    """

    centres: tuple[Tensor, ...]

    @property
    def size(self) -> int:
        """Number of words of all channels together."""
        return sum(len(centres) for centres in self.centres)

    def count(self, descriptors: Sequence[FloatArray]) -> FloatArray:
        """Return how often each word occurs in an image, (size,), from its channels' descriptors."""
        counts = [
            torch.bincount(assign(torch.from_numpy(channel).to(centres), centres)[0], minlength=len(centres))
            for channel, centres in zip(descriptors, self.centres, strict=True)
        ]
        return torch.cat(counts).cpu().numpy().astype(np.float32)


def strongest(descriptors: FloatArray, strength: FloatArray) -> FloatArray:
    """Return the strongest 80 % of the descriptors, in the same order."""
    count = round(STRONGEST_SHARE * len(descriptors))
    kept = np.argpartition(-strength, count - 1)[:count] if 0 < count < len(descriptors) else slice(None)
    return descriptors[np.sort(kept)] if isinstance(kept, np.ndarray) else descriptors


def learn_vocabulary_steps(
    samples: Sequence[FloatArray], n_words: int, *, seed: int, device: torch.device, stage: str
) -> Job[PublishedVocabulary]:
    """Learn the words of every channel.

    Parameters
    ----------
    samples : sequence of ndarray (n, d) float32
        Descriptors of each channel.
    n_words : int
        Number of words of all channels together. Each channel gets an equal part, but
        not more words than it has descriptors.
    seed : int
    device : torch.device
    stage : str
        Text of the ticks.
    """
    per_channel = max(1, n_words // len(samples))
    centres = []
    for channel, sample in enumerate(samples):
        name = f"{stage}, channel {channel + 1}" if len(samples) > 1 else stage
        centres.append(
            (yield from cluster_steps(sample, per_channel, seed=seed + channel, device=device, stage=name))
        )
    return PublishedVocabulary(tuple(centres))


def cluster_steps(
    descriptors: FloatArray, n_words: int, *, seed: int, device: torch.device, stage: str
) -> Job[Tensor]:
    """Cluster descriptors by mini-batch k-means (Sculley 2010), at most `MAX_PASSES` over the data.

    Parameters
    ----------
    descriptors : ndarray (n, d) float32
    n_words : int
        Number of clusters.
    seed : int
    device : torch.device
    stage : str
        Text of the ticks.

    Returns
    -------
    Tensor (min(n_words, n), d) float32
        The cluster centres, on the device.
    """
    random = torch.Generator().manual_seed(seed)
    points = torch.from_numpy(np.ascontiguousarray(descriptors, np.float32)).to(device)
    n_words = min(n_words, len(points))
    centres = points[torch.randperm(len(points), generator=random)[:n_words].to(device)].clone()
    counts = torch.zeros(n_words, device=device)
    batch = max(8192, 2 * n_words)
    last = float("inf")
    for number in range(MAX_PASSES):
        order = torch.randperm(len(points), generator=random).to(device)
        error = 0.0
        for start in range(0, len(points), batch):
            yield Tick(stage, number * len(points) + start, MAX_PASSES * len(points))
            members = points[order[start : start + batch]]
            words, squares = assign(members, centres)
            error += float(squares.sum())
            added = torch.bincount(words, minlength=n_words).to(counts)
            sums = torch.zeros_like(centres).index_add_(0, words, members)
            counts += added
            centres += (sums - added[:, None] * centres) / counts.clamp(min=1)[:, None]
        if error > (1 - _LEAST_IMPROVEMENT) * last:
            break
        last = error
    return centres


def assign(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest centre of every point and the squared distance to it."""
    half_squares = (centres**2).sum(1) / 2
    words = torch.empty(len(points), dtype=torch.long, device=points.device)
    products = torch.empty(len(points), device=points.device)
    step = max(1, _CHUNK_ELEMENTS // len(centres))
    for start in range(0, len(points), step):
        part = slice(start, start + step)
        scores = torch.addmm(half_squares, points[part], centres.T, beta=-1)
        products[part], words[part] = scores.max(1)
    return words, ((points**2).sum(1) - 2 * products).clamp(min=0)


class WordIndex:
    """The weighted words of images, to rank the images for a query by cosine.

    Parameters
    ----------
    counts : ndarray (images, words)
        How often each word occurs in each image.
    """

    def __init__(self, counts: FloatArray) -> None:
        n_images = len(counts)
        occurs = counts > 0
        images_with_word = occurs.sum(axis=0)
        least, most = (share * n_images for share in WORD_FREQUENCY_RANGE)
        self._used = (images_with_word >= max(least, 1)) & (images_with_word <= most)
        self._idf = np.log(n_images / images_with_word[self._used]).astype(np.float32)
        self._occurs = occurs[:, self._used].astype(np.float32)
        self._weights = self._weigh(counts)

    def _weigh(self, counts: FloatArray) -> FloatArray:
        weights = counts[..., self._used] * self._idf
        norms = np.linalg.norm(weights, axis=-1, keepdims=True)
        return weights / np.maximum(norms, np.finfo(np.float32).tiny)

    def rank(self, counts: FloatArray) -> list[int]:
        """Return the images that share enough words with the query, best first; equal ones keep their order."""
        scores = self._weights @ self._weigh(counts)
        in_query = (counts[self._used] > 0).astype(np.float32)
        shared = self._occurs @ in_query
        enough = (shared > 0) & (shared >= MATCH_THRESHOLD * in_query.sum())
        order = np.argsort(-scores, kind="stable")
        return [int(image) for image in order if enough[image]]
