"""The published bag of words: clustering, frequency limits, thresholds, cosine."""

import numpy as np
import torch

from comir_search.evaluation.published_words import (
    PublishedVocabulary,
    WordIndex,
    assign,
    cluster_steps,
    learn_vocabulary_steps,
    strongest,
)
from comir_search.progress import finish

CPU = torch.device("cpu")


def blobs(n_blobs, per_blob, seed=0):
    random = np.random.default_rng(seed)
    middles = random.normal(0, 10, (n_blobs, 8))
    return (
        (middles[:, None] + random.normal(0, 0.1, (n_blobs, per_blob, 8))).reshape(-1, 8).astype(np.float32)
    )


def test_clustering_is_seeded_and_finds_blobs():
    points = blobs(6, 200)
    centres = finish(cluster_steps(points, 24, seed=1, device=CPU, stage="words"))
    again = finish(cluster_steps(points, 24, seed=1, device=CPU, stage="words"))
    assert torch.equal(centres, again)
    _, squares = assign(torch.from_numpy(points), centres)
    assert squares.mean() < 1  # a blob without a centre would be at more than 10 squared


def test_assignment_is_the_nearest_centre():
    random = torch.Generator().manual_seed(0)
    points, centres = torch.randn(300, 16, generator=random), torch.randn(40, 16, generator=random)
    words, squares = assign(points, centres)
    distances = torch.cdist(points, centres) ** 2
    assert torch.equal(words, distances.argmin(1))
    torch.testing.assert_close(squares, distances.min(1).values, atol=1e-3, rtol=1e-3)


def test_vocabulary_shrinks_to_the_descriptors_and_counts_by_channel():
    samples = [blobs(5, 1), blobs(3, 1, seed=1)]
    vocabulary = finish(learn_vocabulary_steps(samples, 100, seed=0, device=CPU, stage="words"))
    assert vocabulary.size == 8
    counts = vocabulary.count([samples[0][:2], samples[1]])
    assert counts[:5].sum() == 2 and (counts[5:] == 1).all()
    assert not vocabulary.count([samples[0][:0], samples[1][:0]]).any()


def test_strongest_are_four_in_five():
    descriptors = np.arange(10, dtype=np.float32)[:, None]
    strength = np.array([5, 1, 9, 2, 8, 7, 3, 6, 4, 0], np.float32)
    assert strongest(descriptors, strength).ravel().tolist() == [0, 2, 3, 4, 5, 6, 7, 8]


def test_words_of_one_image_in_134_and_of_nearly_all_are_ignored():
    counts = np.zeros((134, 4), np.float32)
    counts[0, 0] = 1  # in one image: below 1 %
    counts[:, 1] = 1  # in all: above 90 %
    counts[:2, 2] = 1
    counts[2:9, 3] = 1
    index = WordIndex(counts)
    assert index.rank(np.array([1, 0, 0, 0], np.float32)) == []
    assert index.rank(np.array([0, 1, 0, 0], np.float32)) == []
    assert index.rank(np.array([1, 1, 1, 0], np.float32)) == [0, 1]


def test_ranking_is_by_weighted_cosine_with_stable_ties():
    counts = np.array([[4, 1, 0], [1, 4, 0], [1, 4, 0], [0, 0, 9]], np.float32)
    index = WordIndex(counts)
    assert index.rank(np.array([1, 4, 0], np.float32)) == [1, 2, 0]
    idf = np.log(4 / np.array([3, 3, 1]))
    weights = counts * idf / np.linalg.norm(counts * idf, axis=1, keepdims=True)
    np.testing.assert_allclose(index._weights, weights, rtol=1e-5)


def test_image_that_shares_too_few_words_is_not_returned():
    counts = np.zeros((3, 250), np.float32)
    counts[0, :200], counts[1, 0], counts[2, 200:] = 1, 1, 1
    assert WordIndex(counts).rank(np.eye(1, 250, dtype=np.float32)[0] + (np.arange(250) < 200)) == [0]


def test_empty_query_finds_nothing():
    vocabulary = PublishedVocabulary((torch.zeros(2, 4),))
    assert WordIndex(np.eye(2, dtype=np.float32)).rank(vocabulary.count([np.zeros((0, 4), np.float32)])) == []
