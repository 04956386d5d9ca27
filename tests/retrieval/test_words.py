"""The sliding bag of words: its look-ups, its cells, its quarter turns."""

import numpy as np
import pytest
import torch

from comir_search.matching.query import Query
from comir_search.matching.word_maps import POOL
from comir_search.model.vocabulary import (
    NO_WORD,
    Vocabulary,
    join_channels,
    turn_entries,
    turn_projections,
)
from comir_search.opencv import cv2
from comir_search.progress import finish
from comir_search.retrieval import words as module
from comir_search.retrieval.words import BagOfWords
from comir_search.training.vocabulary_learning import learn_vocabulary_steps

STRIDE, STEP = 2, 4


def smooth_noise(seed: int, rows: int, columns: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((2, rows, columns)).astype(np.float32)
    smooth = np.stack([cv2.GaussianBlur(channel, (0, 0), 5.0) for channel in noise])
    return np.tanh(smooth / smooth.std())


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    pairs = []
    for seed in range(3):
        comir = (smooth_noise(seed, 200, 200) + 1) / 2
        noise = 0.03 * np.random.default_rng(seed).standard_normal(comir.shape).astype(np.float32)
        pairs.append((comir, np.clip(comir + noise, 0, 1)))
    return finish(learn_vocabulary_steps(pairs, stride=STRIDE, pixel_size_um=2.0, n_words=96, dimensions=8))


def test_vocabulary_follows_the_stride(vocabulary):
    assert vocabulary.step_px == STEP
    assert vocabulary.block_px == (16, 32, 48, 64)
    assert vocabulary.words.shape == (4, 96, 8)
    assert (vocabulary.idf >= 0).all()


def test_assigned_words_are_the_nearest(vocabulary):
    projected = vocabulary.project((smooth_noise(9, 80, 96) + 1) / 2)
    words = vocabulary.assign(projected)
    for block in range(4):
        distances = torch.cdist(projected[block].flatten(0, 1), torch.from_numpy(vocabulary.words[block]))
        chosen = distances.gather(1, torch.from_numpy(words[block].astype(np.int64)).reshape(-1, 1))[:, 0]
        assert torch.allclose(chosen, distances.min(1).values, atol=1e-3)


def test_strips_do_not_show(vocabulary):
    grey = torch.from_numpy((smooth_noise(10, 700, 60) + 1) / 2)  # more than two strips high
    whole = vocabulary.project_joined(join_channels(grey, vocabulary.step_px, vocabulary.block_px))
    assert torch.allclose(vocabulary.project(grey), whole, atol=1e-2)
    agreement = (vocabulary.assign(vocabulary.project(grey)) == vocabulary.assign(whole)).mean()
    assert agreement > 0.999


def test_flat_places_have_no_word(vocabulary):
    assert (
        vocabulary.assign(vocabulary.project(np.full((2, 64, 64), module.GLASS, np.float32))) == NO_WORD
    ).all()


def test_quarter_turns_permute_descriptors():
    grey = (smooth_noise(4, 160, 160) + 1) / 2
    joined = join_channels(grey, STEP, (32,))
    turned = join_channels(np.ascontiguousarray(np.rot90(grey, axes=(1, 2))), STEP, (32,))
    permuted = turn_entries(torch.rot90(joined, 1, (1, 2)), 1)
    # One pixel apart (see its notes), so alike but not equal; a wrong order or sign would not be alike at all.
    cosine = torch.nn.functional.cosine_similarity(permuted, turned, dim=-1)[:, 8:-8, 8:-8]
    assert float(cosine.mean()) > 0.95
    assert torch.equal(turn_entries(joined, 4), joined)


def test_turned_projections_stand_for_turned_descriptors(vocabulary):
    joined = join_channels((smooth_noise(5, 96, 80) + 1) / 2, STEP, vocabulary.block_px)
    for turns, projection in enumerate(turn_projections(vocabulary)):
        expected = vocabulary.project_joined(turn_entries(joined, turns))
        assert torch.allclose(vocabulary.project_joined(joined, projection), expected, atol=1e-4)


class WordSlide:
    """A slide that is nothing but its word map."""

    def __init__(self, words: np.ndarray) -> None:
        self.words, self.words_shape = words, words.shape

    def read_words(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        part = np.full((len(self.words), height, width), NO_WORD, np.uint16)
        _, rows, columns = self.words.shape
        top, bottom, left, right = max(y, 0), min(y + height, rows), max(x, 0), min(x + width, columns)
        part[:, top - y : bottom - y, left - x : right - x] = self.words[:, top:bottom, left:right]
        return part

    def count_words(self, n_words: int) -> np.ndarray:
        return np.stack([np.bincount(words.ravel(), minlength=NO_WORD + 1)[:n_words] for words in self.words])


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_query_is_found_among_all_windows(vocabulary, turns, monkeypatch):
    monkeypatch.setattr(module, "PART_POINTS", 64)  # so that parts have borders to be wrong at
    comir = smooth_noise(20, 400, 480)
    slide = WordSlide(vocabulary.assign(vocabulary.project((comir + 1) / 2)))
    frequencies = module.word_frequencies(vocabulary, [slide])
    assert np.allclose(frequencies.sum(axis=1), 1)
    x, y, side = 300, 180, 112
    content = comir[:, y - side // 2 : y + side // 2, x - side // 2 : x + side // 2]
    shown = np.ascontiguousarray(
        np.rot90(content, turns, axes=(1, 2))
    )  # counter-clockwise, as the design says
    bag = BagOfWords(Query("q", shown, (side, side), side * 4.0, side * 4.0, 1.0), vocabulary, frequencies)
    assert list(bag.describe(8))[-1] == (2, 2)
    for _, _, places in module.scan_slides(bag, [(0, slide)], 20, 12.0):
        pass
    assert np.hypot(places[0].x - x, places[0].y - y) < 12
    assert places[0].angle_deg % 360 == pytest.approx(90.0 * turns)


def test_of_many_parts_those_whose_words_fit_are_scored(vocabulary, monkeypatch):
    monkeypatch.setattr(module, "PART_POINTS", 64)
    monkeypatch.setattr(module, "PART_LIMIT", 2)
    # A coarse tissue, of which the query is, lies in the second column of the parts, a fine one around it, glass in
    # the last.
    coarse = np.stack([cv2.resize(channel, (400, 640)) for channel in smooth_noise(20, 160, 100)])
    comir = coarse[:, :112, :112]
    words = vocabulary.assign(vocabulary.project((smooth_noise(21, 768, 1024) + 1) / 2))
    words[:, :128, 64:128] = vocabulary.assign(vocabulary.project((coarse + 1) / 2))[:, 28:156, 28:92]
    words[:, :, 192:] = NO_WORD
    words = np.concatenate([words, words[:, :, 130:132]], 2)  # a last column of narrow parts
    slide = WordSlide(words)
    bag = BagOfWords(
        Query("q", comir, (112, 112), 448.0, 448.0, 1.0),
        vocabulary,
        module.word_frequencies(vocabulary, [slide]),
    )
    for _ in bag.describe(8):
        pass
    scored = []
    monkeypatch.setattr(bag, "scan", lambda slide, number, part, *_: scored.append(part) or [])
    *_, (done, total, _) = module.scan_slides(bag, [(0, slide)], 20, 12.0)
    assert done == total == 15 + 2
    assert sorted(scored) == [(64, 0), (64, 64)]


def test_scores_do_not_depend_on_the_parts(vocabulary):
    words = vocabulary.assign(vocabulary.project((smooth_noise(21, 320, 320) + 1) / 2))
    slide = WordSlide(words)
    query = Query("q", smooth_noise(22, 80, 80), (80, 80), 320.0, 320.0, 1.0)
    bag = BagOfWords(query, vocabulary, module.word_frequencies(vocabulary, [slide]))
    for _ in bag.describe(4):
        pass
    halo = bag.scorer.halo_points
    whole, _ = bag.scorer.score(slide.read_words(-halo, -halo, 80 + 2 * halo, 80 + 2 * halo))
    part, _ = bag.scorer.score(slide.read_words(40 - halo, 20 - halo, 30 + 2 * halo, 30 + 2 * halo))
    edge, top, left, side = (points // POOL for points in (halo, 20, 40, 30))
    inner = part[edge:-edge, edge:-edge]
    expected = whole[edge + top : edge + top + side, edge + left : edge + left + side]
    assert inner.shape == expected.shape == (side, side)
    assert np.allclose(inner, expected, atol=1e-4)
