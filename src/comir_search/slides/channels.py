"""Channels: grey images where grey is asked, colour where colour is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from comir_search.errors import ComirSearchError


def as_channels(image: NDArray[np.generic], channels: int, name: str, modality: str) -> NDArray[np.generic]:
    """Bring an image to (rows, columns, channels).

    RGB with equal channels counts as grey; grey where colour is asked is repeated.

    Raises
    ------
    ComirSearchError
        If a colour image is given where the modality is grey, or values are not
        finite: a network would spread them over all that it looks at.
    """
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise ComirSearchError(
            f"{name} holds values that are not numbers (NaN or infinity); export it again."
        )
    image = image[..., None] if image.ndim == 2 else image
    if image.shape[2] == channels:
        return image
    if channels == 1:
        if not is_grey(image):
            raise ComirSearchError(
                f"{name} is a colour image, but {modality} images are grey; give a one-channel image "
                f"or choose the other modality."
            )
        return image[..., :1]
    return np.repeat(image[..., :1], channels, axis=2)


def is_grey(image: NDArray[np.generic]) -> bool:
    """Return whether an image (rows, columns[, channels]) has one channel, or equal ones."""
    return image.ndim == 2 or bool((image == image[..., :1]).all())
