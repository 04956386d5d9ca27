"""The published search: a bag of words ranks windows, and a second one over small patches re-ranks them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from comir_search.errors import ComirSearchError
from comir_search.evaluation.baselines.extractor import Extractor
from comir_search.evaluation.correlation_rerank import rerank_by_correlation
from comir_search.evaluation.protocol import split_windows
from comir_search.evaluation.published_words import (
    SAMPLE_LIMIT,
    PublishedVocabulary,
    WordIndex,
    learn_vocabulary_steps,
    strongest,
)
from comir_search.evaluation.views import View
from comir_search.progress import Job, Tick

Descriptors = list[NDArray[np.float32]]

_KEPT_BYTES = 1 << 30


class PublishedSearch:
    """Ranks windows for queries like the published pipeline.

    Parameters
    ----------
    extractor : Extractor
    vocabulary_size : int
        Number of words of all channels together, in each stage.
    rerank : {"none", "bow", "pose"}
        How the first hits are ranked again: not at all, with a bag of words like
        the published pipeline, or with this program's correlation.
    rerank_top : int
        How many hits are ranked again.
    seed : int
    device : torch.device
        Where the clustering runs.
    """

    def __init__(
        self,
        extractor: Extractor,
        *,
        vocabulary_size: int,
        rerank: str,
        rerank_top: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self._extractor, self._vocabulary_size = extractor, vocabulary_size
        self._rerank, self._rerank_top = rerank, rerank_top
        self._seed, self._device = seed, device
        self._windows: Sequence[View] = ()
        self._kept: dict[tuple[int, ...], Descriptors] = {}
        self._kept_bytes = 0

    def prepare_steps(self, windows: Sequence[View]) -> Job[None]:
        """Learn the vocabulary from the repository, and index its windows."""
        self._windows = windows
        keys = [(number,) for number in range(len(windows))]
        indexed = yield from self._index_steps(windows, keys, "repository")
        if indexed is None:
            raise ComirSearchError(
                "These features find nothing to describe in the repository; choose others."
            )
        self._vocabulary, self._index = indexed

    def rank_steps(self, query: View) -> Job[list[int]]:
        """Return the windows, the most similar to the query first."""
        ranking = self._index.rank(self._vocabulary.count(self._describe(query)))
        hits, rest = ranking[: self._rerank_top], ranking[self._rerank_top :]
        if self._rerank == "bow":
            hits = yield from self._rerank_by_words(query, hits)
        elif self._rerank == "pose":
            hits = yield from rerank_by_correlation(query, self._windows, hits)
        return hits + rest

    def _rerank_by_words(self, query: View, hits: Sequence[int]) -> Job[list[int]]:
        """Sort hits by their best patch of the query's size, with a vocabulary of these patches alone.

        Hits without a patch above the thresholds come last, in their old order.
        """
        boxes = {hit: split_windows("", self._windows[hit].shape, query.shape) for hit in hits}
        owners = [hit for hit in hits for _ in boxes[hit]]
        keys = [(hit, box.x, box.y, box.width, box.height) for hit in hits for box in boxes[hit]]
        patches = [self._windows[hit].cut(box) for hit in hits for box in boxes[hit]]
        indexed = (yield from self._index_steps(patches, keys, "re-ranking")) if patches else None
        if indexed is None:
            return list(hits)
        vocabulary, index = indexed
        ranked = index.rank(vocabulary.count(self._describe(query)))
        return list(dict.fromkeys([owners[patch] for patch in ranked] + list(hits)))

    def _index_steps(
        self, views: Sequence[View], keys: Sequence[tuple[int, ...]], stage: str
    ) -> Job[tuple[PublishedVocabulary, WordIndex] | None]:
        """Learn a vocabulary from views and index them; None if a channel has no descriptor."""
        random = np.random.default_rng(self._seed)
        n_channels = len(views[0].pixels)
        share = max(1, SAMPLE_LIMIT // (len(views) * n_channels))
        samples: list[Descriptors] = [[] for _ in range(n_channels)]
        for number, (view, key) in enumerate(zip(views, keys, strict=True)):
            yield Tick(f"describing the {stage}", number, len(views))
            for sample, descriptors in zip(samples, self._describe(view, key), strict=True):
                drawn = (
                    random.permutation(len(descriptors))[:share] if len(descriptors) > share else slice(None)
                )
                sample.append(descriptors[drawn])
        pooled = [np.concatenate(sample) for sample in samples]
        if not all(len(sample) for sample in pooled):
            return None
        pooled = [strongest(sample, self._extractor.strength(sample)) for sample in pooled]
        vocabulary = yield from learn_vocabulary_steps(
            pooled, self._vocabulary_size, seed=self._seed, device=self._device, stage=f"vocabulary, {stage}"
        )
        counts = []
        for number, (view, key) in enumerate(zip(views, keys, strict=True)):
            yield Tick(f"words of the {stage}", number, len(views))
            counts.append(vocabulary.count(self._describe(view, key)))
        return vocabulary, WordIndex(np.stack(counts))

    def _describe(self, view: View, key: tuple[int, ...] | None = None) -> Descriptors:
        """Return the descriptors of every channel. Those with a key are cached while there is space."""
        if key in self._kept:
            return self._kept[key]
        unit = np.float32(1 / 255)
        descriptors = [self._extractor.describe(channel * unit) for channel in view.pixels]
        size = sum(channel.nbytes for channel in descriptors)
        if key is not None and self._kept_bytes + size <= _KEPT_BYTES:
            self._kept[key] = descriptors
            self._kept_bytes += size
        return descriptors
