"""SIFT at its own keypoints and on the grid of dense SURF."""

import numpy as np
import torch

from comir_search.evaluation.baselines.features import make_extractor

CPU = torch.device("cpu")


def test_sift_at_keypoints_and_on_the_grid(image):
    keypoints = make_extractor("sift", CPU).describe(image)
    grid = make_extractor("sift-dense", CPU).describe(image)
    assert len(keypoints) and keypoints.shape[1] == 128
    assert grid.shape == (4 * 12 * 13, 128)
    np.testing.assert_allclose(np.linalg.norm(grid, axis=1), 1, atol=1e-3)
    assert make_extractor("sift", CPU).describe(np.zeros((64, 64), np.float32)).shape == (0, 128)
