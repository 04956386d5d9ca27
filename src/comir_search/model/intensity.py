"""From stored intensities to what a network takes in.

Brightfield is divided by its type's full scale: its white is meaningful. A
signal modality (SHG) is stretched by its own content, robustly, because 12-bit
values lie in 16-bit files and gains differ between instruments; then compressed
by asinh, which keeps faint fibres visible.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

LOG_FULL_SCALE = "log_full_scale"  # ln(1 + x): what the published CoMIR networks take SHG as
KINDS = ("full_scale", LOG_FULL_SCALE, "signal")
SIGNAL_KNEE = 5.0
SIGNAL_LIMIT = 2.0


@dataclass(frozen=True)
class Intensity:
    """How to bring an image's values to [0, 1] or thereabouts.

    Parameters
    ----------
    kind : {"full_scale", "log_full_scale", "signal"}
        Brightfield-like, or stretched by content.
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
    """Measure the normalisation of an image from its pixels, or a fair sample of them.

    Parameters
    ----------
    samples : ndarray
        Pixel values, any shape.
    kind : {"full_scale", "log_full_scale", "signal"}
    dtype : dtype
        The stored type: full scale is its maximum for 8-bit images; 16-bit and
        float brightfield is scaled by its own 99.9th percentile.
    """
    values = np.asarray(samples, np.float32).ravel()
    if kind in ("full_scale", LOG_FULL_SCALE):
        high = 255.0 if dtype == np.uint8 else float(np.percentile(values, 99.9))
        return Intensity(kind, 0.0, max(high, 1e-6))
    low, high = (float(value) for value in np.percentile(values, (1.0, 99.5)))
    return Intensity(kind, low, max(high, low + max(1e-6, 1e-3 * abs(low))))
