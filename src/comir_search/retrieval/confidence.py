"""The features from which the calibration computes the confidence of a candidate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def measure(scores: Sequence[float], signal: float, side_um: float) -> NDArray[np.float64]:
    """Return the features of every candidate of one search.

    Parameters
    ----------
    scores : sequence of float
        Correlation of each candidate at the finest level.
    signal : float
        Share of the query's pixels that are informative.
    side_um : float
        Length of the query's shorter side.

    Returns
    -------
    ndarray (len(scores), len(FEATURES))
        The margin is the difference to the best *other* candidate. It is negative for
        all candidates but the first.
    """
    values = np.asarray(scores, float)
    margins = np.empty_like(values)
    for number in range(len(values)):
        others = np.delete(values, number)
        margins[number] = values[number] - (others.max() if len(others) else 0.0)
    constant = np.ones_like(values)
    return np.stack([values, margins, signal * constant, np.log(side_um / 256.0) * constant], axis=1)
