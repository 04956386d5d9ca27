"""From what the stages measured to the probability that a candidate is right.

A logistic regression on a few measurements, fitted on searches whose answer is
known, among them queries whose tissue is not in the index at all (see
`comir_search.evaluation.calibration`). It belongs to the model; a model without
one has no confidence, and none of its places counts as found.
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
    """A calibration as a file holds it."""

    weights: tuple[Annotated[float, Meta(ge=-1e6, le=1e6)], ...]
    threshold: Annotated[float, Meta(ge=0, le=1)]
    features: tuple[str, ...] = FEATURES

    def __post_init__(self) -> None:
        if self.features != FEATURES:
            raise ValueError("its confidence was fitted on measurements that this program does not make")
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
            Of unknown types.
        name, advice : str
            See `comir_search.documents.convert`.

        Raises
        ------
        BadDocument
            If they are of another type, number or range.
        """
        document: _Document = convert(dict(values), _Document, name=name, advice=advice)
        return cls(document.weights, document.threshold)

    def confidence(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability of being right for rows of `FEATURES`."""
        logits = np.asarray(features, float) @ self.weights[:-1] + self.weights[-1]
        return 1 / (1 + np.exp(-logits))
