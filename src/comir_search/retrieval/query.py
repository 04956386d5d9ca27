"""The query: read, checked, embedded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from comir_search.comir.embedding import code, decode, embed_array, intensity_of
from comir_search.comir.model import Model
from comir_search.comir.pairs import as_channels
from comir_search.errors import ComirSearchError, PixelSizeMissing
from comir_search.slides import Slide

MIN_SIDE_PX = 32
# Below this share of informative pixels a patch holds too little to be placed.
LITTLE_EVIDENCE = 0.05


@dataclass(frozen=True)
class Query:
    """A query as the search sees it.

    Parameters
    ----------
    name : str
    comir : ndarray (channels, rows, columns) float32
        Decoded; the top-left corner is the query's.
    size_px : (float, float)
        Height and width of the query, CoMIR pixels.
    height_um, width_um : float
    signal : float
        Share of the CoMIR's pixels that say anything, in [0, 1].
    mirrored : bool
        Whether the image was flipped left-right before embedding.
    """

    name: str
    comir: NDArray[np.float32]
    size_px: tuple[float, float]
    height_um: float
    width_um: float
    signal: float
    mirrored: bool = False

    @property
    def short_side_px(self) -> float:
        """Shorter side, CoMIR pixels."""
        return min(self.size_px)


def prepare_query(model: Model, slide: Slide, modality: str, *, mirrored: bool = False) -> Query:
    """Read a query whole, check it and embed it.

    Parameters
    ----------
    model : Model
    slide : Slide
        The query's image.
    modality : str
    mirrored : bool
        Flip it left-right first.

    Raises
    ------
    PixelSizeMissing
        If it states no pixel size.
    ComirSearchError
        If it is too small, constant, not finite, or coloured where the modality is grey.
    """
    if slide.pixel_size_um is None:
        raise PixelSizeMissing(f"{slide.name} states no pixel size; give it with --pixel-size UM.")
    height, width = slide.scaled_shape(model.pixel_size_um)
    if min(height, width) < MIN_SIDE_PX:
        raise ComirSearchError(
            f"{slide.name} is only {width} x {height} px at the model's {model.pixel_size_um:g} um; a query needs "
            f"at least {MIN_SIDE_PX} px, that is {MIN_SIDE_PX * model.pixel_size_um:g} um, on its shorter side "
            f"(its pixel size is taken as {slide.pixel_size_um:g} um: correct that with --pixel-size if it is wrong)."
        )
    image = slide.read_scaled(model.pixel_size_um, 0, 0, width, height)
    image = as_channels(image, model.channels_of(modality), slide.name, modality)
    if image.max() == image.min():
        raise ComirSearchError(f"{slide.name} is constant: it shows nothing that could be found.")
    normalised = intensity_of(model, slide, modality).apply(image)
    if mirrored:
        normalised = normalised[:, ::-1]
    comir = decode(code(embed_array(model, np.ascontiguousarray(normalised), modality)))
    full_height, full_width = slide.level_shapes[0]
    height_um, width_um = full_height * slide.pixel_size_um, full_width * slide.pixel_size_um
    size_um = model.comir_pixel_size_um
    energy = (comir**2).sum(axis=0)
    return Query(
        slide.name,
        comir,
        (height_um / size_um, width_um / size_um),
        height_um,
        width_um,
        float((energy > 0.25 * len(comir)).mean()),
        mirrored,
    )
