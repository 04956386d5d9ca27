"""The published search: bag of words over windows, re-ranked by a second one over query-sized patches."""

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
    """Rank windows for queries as the published pipeline does.

    Parameters
    ----------
    extractor : Extractor
    vocabulary_size : int
        Words of all channels together, for either stage.
    rerank : {"none", "bow", "pose"}
        How the first hits are ordered anew: not, as published, or by the
        product's correlation.
    rerank_top : int
        How many hits that sees.
    seed : int
    device : torch.device
        Where clustering runs.
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
        """Learn the vocabulary on the repository and index its windows."""
        self._windows = windows
        keys = [(number,) for number in range(len(windows))]
        indexed = yield from self._index_steps(windows, keys, "repository")
        if indexed is None:
            raise ComirSearchError(
                "These features find nothing to describe in the repository; choose others."
            )
        self._vocabulary, self._index = indexed

    def rank_steps(self, query: View) -> Job[list[int]]:
        """Return the windows in the order of their likeness to the query, best first."""
        ranking = self._index.rank(self._vocabulary.count(self._describe(query)))
        hits, rest = ranking[: self._rerank_top], ranking[self._rerank_top :]
        if self._rerank == "bow":
            hits = yield from self._rerank_by_words(query, hits)
        elif self._rerank == "pose":
            hits = yield from rerank_by_correlation(query, self._windows, hits)
        return hits + rest

    def _rerank_by_words(self, query: View, hits: Sequence[int]) -> Job[list[int]]:
        """Order hits by their best query-sized patch, in a vocabulary made of those patches alone.

        Hits whose patches all fall under the thresholds keep their old order, last.
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
        """Learn a vocabulary on views and index them; None where a channel has no descriptor at all."""
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
        """Return the descriptors of every channel; those with a key are kept while there is room."""
        if key in self._kept:
            return self._kept[key]
        unit = np.float32(1 / 255)
        descriptors = [self._extractor.describe(channel * unit) for channel in view.pixels]
        size = sum(channel.nbytes for channel in descriptors)
        if key is not None and self._kept_bytes + size <= _KEPT_BYTES:
            self._kept[key] = descriptors
            self._kept_bytes += size
        return descriptors
