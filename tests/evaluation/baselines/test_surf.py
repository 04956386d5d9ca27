"""Dense SURF, as the paper uses it."""

import numpy as np
import torch

from comir_search.evaluation.baselines.features import make_extractor
from comir_search.matching.surf import dense_surf

CPU = torch.device("cpu")


def test_surf_is_dense_surf(image):
    extractor = make_extractor("surf", CPU)
    descriptors = extractor.describe(image)
    np.testing.assert_allclose(descriptors, dense_surf(image).descriptors)
    np.testing.assert_allclose(extractor.strength(descriptors), descriptors.var(axis=1))
