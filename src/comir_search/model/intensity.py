"""Normalise stored intensities for the networks.

Brightfield is divided by the full scale of its data type, since its white level is
meaningful. A signal modality (SHG) is stretched between percentiles of its own content,
because files often have 12-bit values in 16 bits and gains differ between microscopes.
It is then compressed by asinh, which keeps faint fibres visible.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

LOG_FULL_SCALE = "log_full_scale"  # ln(1 + x): the input of the published CoMIR networks for SHG
KINDS = ("full_scale", LOG_FULL_SCALE, "signal")
SIGNAL_KNEE = 5.0
SIGNAL_LIMIT = 2.0


@dataclass(frozen=True)
class Intensity:
    """How to scale an image's values to about [0, 1].

    Parameters
    ----------
    kind : {"full_scale", "log_full_scale", "signal"}
        Scaled by the data type, the same after ln(1 + x), or stretched by content.
    low, high : float
        Stored values that become 0 and 1.
    """

    kind: str
    low: float
    high: float

    def to_dict(self) -> dict[str, str | float]:
        """Return JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, str | float]) -> Intensity:
        """Build from `to_dict`'s values."""
        return cls(str(values["kind"]), float(values["low"]), float(values["high"]))

    def apply(self, image: NDArray[np.generic]) -> NDArray[np.float32]:
        """Normalise an image of any shape; float32, same shape."""
        scaled = (image.astype(np.float32) - self.low) / (self.high - self.low)
        if self.kind == "full_scale":
            return np.clip(scaled, 0, 1)
        if self.kind == LOG_FULL_SCALE:
            return np.log1p(np.clip(scaled, 0, 1))
        return np.arcsinh(SIGNAL_KNEE * np.clip(scaled, 0, SIGNAL_LIMIT)) / np.float32(
            np.arcsinh(SIGNAL_KNEE)
        )


def measure_intensity(samples: NDArray[np.generic], kind: str, dtype: np.dtype) -> Intensity:
    """Measure the normalisation of an image from its pixels or a representative sample.

    Parameters
    ----------
    samples : ndarray
        Pixel values, any shape.
    kind : {"full_scale", "log_full_scale", "signal"}
    dtype : dtype
        The stored data type. The full scale is its maximum for 8-bit images; 16-bit
        and float brightfield is scaled by its own 99.9th percentile.
    """
    values = np.asarray(samples, np.float32).ravel()
    if kind in ("full_scale", LOG_FULL_SCALE):
        high = 255.0 if dtype == np.uint8 else float(np.percentile(values, 99.9))
        return Intensity(kind, 0.0, max(high, 1e-6))
    low, high = (float(value) for value in np.percentile(values, (1.0, 99.5)))
    return Intensity(kind, low, max(high, low + max(1e-6, 1e-3 * abs(low))))
