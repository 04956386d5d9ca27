"""Read and cut the images for the compared searches, and convert them to a representation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from comir_search.evaluation.protocol import Window
from comir_search.model.embedding import code, embed_array
from comir_search.model.intensity import measure_intensity
from comir_search.model.model import Model
from comir_search.opencv import cv2
from comir_search.slides import open_slide
from comir_search.training.pairs import read_image


@dataclass(frozen=True)
class View:
    """One window or query.

    Parameters
    ----------
    image : ndarray (rows, columns, channels)
        The image at the model's pixel size.
    modality : str
    pixels : ndarray (channels, rows, columns) uint8
        Its representation, with the same rows and columns.
    """

    image: NDArray[Any]
    modality: str
    pixels: NDArray[np.uint8]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.pixels.shape[1], self.pixels.shape[2]

    def cut(self, window: Window) -> View:
        """Return the part that a window covers."""
        rows = slice(window.y, window.y + window.height)
        columns = slice(window.x, window.x + window.width)
        return View(self.image[rows, columns], self.modality, self.pixels[:, rows, columns])


class Viewer:
    """Reads images and converts them to a representation.

    Parameters
    ----------
    model : Model
    representation : {"comir", "raw"}
        CoMIRs enlarged to the pixels of the image, or the image itself in grey.
    default_pixel_size_um : float
        For images without a pixel size.
    """

    def __init__(self, model: Model, representation: str, default_pixel_size_um: float) -> None:
        self.model, self.representation = model, representation
        self.default_pixel_size_um = default_pixel_size_um

    def read(self, path: Path, modality: str) -> NDArray[Any]:
        """Read an image at the model's pixel size, (rows, columns, channels)."""
        return read_image(
            path,
            modality,
            self.model.channels_of(modality),
            pixel_size_um=self.model.pixel_size_um,
            default_pixel_size_um=self.default_pixel_size_um,
        )

    def pixel_size_of(self, path: Path) -> float | None:
        """Return the pixel size in the file of an image, or None."""
        with open_slide(path) as slide:
            return slide.pixel_size_um

    def normalise(self, image: NDArray[Any], modality: str) -> NDArray[np.float32]:
        """Normalise the intensities of an image for the networks."""
        kind = self.model.modality(modality).intensity
        return measure_intensity(image, kind, image.dtype).apply(image)

    def view(self, image: NDArray[Any], modality: str) -> View:
        """Convert an image to the representation."""
        image = image if image.ndim == 3 else image[..., None]
        normalised = self.normalise(image, modality)
        if self.representation == "raw":
            grey = np.clip(normalised, 0, 1).mean(axis=2)
            return View(image, modality, np.rint(255 * grey).astype(np.uint8)[None])
        coded = code(embed_array(self.model, normalised, modality))
        return View(image, modality, _enlarge(coded, self.model.stride, image.shape[:2]))


def _enlarge(coded: NDArray[np.uint8], stride: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Enlarge CoMIRs from the network's stride to the rows and columns of the image."""
    if stride == 1:
        return coded[:, : shape[0], : shape[1]]
    size = coded.shape[2] * stride, coded.shape[1] * stride
    enlarged = [cv2.resize(channel, size, interpolation=cv2.INTER_LINEAR) for channel in coded]
    return np.stack(enlarged)[:, : shape[0], : shape[1]]
