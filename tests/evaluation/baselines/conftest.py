"""What the tests of the rivals share."""

import numpy as np
import pytest

from comir_search.opencv import cv2


@pytest.fixture
def image():
    noise = np.random.default_rng(0).random((96, 104), np.float32)
    return cv2.GaussianBlur(noise, (0, 0), 2) * 3 - 1
