"""The confidence: the probability that a candidate is right, from the measurements of a search.

It is a logistic regression on a few measurements, fitted on searches with known answers.
Some of these queries are on no slide of the index (see
`comir_search.evaluation.calibration`). The calibration is part of the model. Without it
candidates have no confidence, and none counts as found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from comir_search.documents import convert

FEATURES = ("score", "margin", "signal", "log_side")


@dataclass(frozen=True)
class _Document:
    """A calibration as it is stored in a file."""

    weights: tuple[Annotated[float, Meta(ge=-1e6, le=1e6)], ...]
    threshold: Annotated[float, Meta(ge=0, le=1)]
    features: tuple[str, ...] = FEATURES

    def __post_init__(self) -> None:
        if self.features != FEATURES:
            raise ValueError("its confidence uses measurements that this program does not have")
        if len(self.weights) != len(FEATURES) + 1:
            raise ValueError(f"its confidence has {len(self.weights)} weights, not {len(FEATURES) + 1}")


@dataclass(frozen=True)
class Calibration:
    """Weights of the logistic regression.

    Parameters
    ----------
    weights : tuple of float
        One for each of `FEATURES`, then the intercept.
    threshold : float
        Confidence from which a first candidate counts as found.
    """

    weights: tuple[float, ...]
    threshold: float

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {**asdict(self), "features": list(FEATURES)}

    @classmethod
    def from_dict(
        cls,
        values: Mapping[str, Any],
        *,
        name: str = "The calibration",
        advice: str = "calibrate the model again",
    ) -> Calibration:
        """Build from `to_dict`'s values.

        Parameters
        ----------
        values : mapping
            Values of unknown types.
        name, advice : str
            See `comir_search.documents.convert`.

        Raises
        ------
        BadDocument
            If their type, number or range is wrong.
        """
        document: _Document = convert(dict(values), _Document, name=name, advice=advice)
        return cls(document.weights, document.threshold)

    def confidence(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability of being right for rows of `FEATURES`."""
        logits = np.asarray(features, float) @ self.weights[:-1] + self.weights[-1]
        return 1 / (1 + np.exp(-logits))
