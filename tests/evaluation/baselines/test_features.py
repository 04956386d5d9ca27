"""The choice of local features by name."""

import pytest
import torch

from comir_search.errors import ComirSearchError
from comir_search.evaluation.baselines.features import make_extractor

CPU = torch.device("cpu")


def test_unknown_features_are_refused():
    with pytest.raises(ComirSearchError, match="no features named 'orb'"):
        make_extractor("orb", CPU)
