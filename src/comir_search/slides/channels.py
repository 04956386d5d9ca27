"""Bring images to the number of channels that a modality needs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from comir_search.errors import ComirSearchError


def as_channels(image: NDArray[np.generic], channels: int, name: str, modality: str) -> NDArray[np.generic]:
    """Bring an image to (rows, columns, channels).

    An RGB image with three equal channels counts as grey. A grey image is repeated
    where colour is needed.

    Parameters
    ----------
    image : ndarray (rows, columns) or (rows, columns, channels)
    channels : int
        Number of channels needed: 1 or 3.
    name : str
        File name, for messages.
    modality : str
        Name of the modality, for messages.

    Returns
    -------
    ndarray (rows, columns, channels)

    Raises
    ------
    ComirSearchError
        If the image is in colour but the modality is grey, or if it contains NaN or
        infinity: a network would spread these over their neighbourhood.
    """
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise ComirSearchError(
            f"{name} contains pixels that are not numbers (NaN or infinity): export it again."
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
    """Return whether an image (rows, columns[, channels]) has one channel, or several equal ones."""
    return image.ndim == 2 or bool((image == image[..., :1]).all())
