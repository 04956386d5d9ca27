"""Prepare a query: check it, read it and embed it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from comir_search.errors import ComirSearchError
from comir_search.matching.query import Query
from comir_search.matching.templates import coarsen_to, shrink
from comir_search.model.embedding import code, decode, embed_array, embed_parts, intensity_of
from comir_search.model.intensity import Intensity
from comir_search.model.model import Model
from comir_search.slides import Slide
from comir_search.slides.channels import as_channels, is_grey

MIN_SIDE_PX = 32
MAX_PX = 100_000_000  # largest area of a query at the model's pixel size; 20 x 20 mm at 2 um
LARGEST_SHARE = 1.1  # largest area and side of a query, as shares of the largest slide's area and diagonal
LONGEST_COMIR_PX = 2048  # diagonal of the CoMIR that is kept; for larger queries a coarser level is kept
EMBED_BYTES = 800 << 20  # memory for embedding; a query that needs more is embedded part by part
PART_PX, OVERVIEW_PX = 1024, 512
# A patch with a smaller share of informative pixels shows too little to be found.
LITTLE_EVIDENCE = 0.05


def check_query(model: Model, slide: Slide, modality: str) -> tuple[int, int]:
    """Check a query without reading its pixels.

    Parameters
    ----------
    model : Model
    slide : Slide
        Image of the query.
    modality : str
        Modality of the query.

    Returns
    -------
    height, width : int
        Pixels of the model's size.

    Raises
    ------
    PixelSizeMissing
        If the pixel size is not known.
    ComirSearchError
        If it is too small or too large, or the model has no such modality.
    """
    model.modality(modality)
    size_um = slide.require_pixel_size()
    height, width = slide.scaled_shape(model.pixel_size_um)
    size = f"{width} x {height} px at the model's {model.pixel_size_um:g} um"
    doubt = f"(its pixel size is taken as {size_um:g} um: correct that with --pixel-size if it is wrong)"
    if min(height, width) < MIN_SIDE_PX:
        raise ComirSearchError(
            f"{slide.name} is only {size}; a query needs at least {MIN_SIDE_PX} px, that is "
            f"{MIN_SIDE_PX * model.pixel_size_um:g} um, on its shorter side {doubt}."
        )
    if height * width > MAX_PX:
        raise ComirSearchError(
            f"{slide.name} is {size}; a query may have {MAX_PX // 10**6} million px at most: "
            f"give a smaller part of it {doubt}."
        )
    return height, width


def check_fits(slide: Slide, slides_um: Sequence[tuple[float, float]]) -> None:
    """Raise an error if a query is larger than every slide, because its pixel size is then wrong.

    Parameters
    ----------
    slide : Slide
        Image of the query, with a known pixel size.
    slides_um : sequence of (float, float)
        Height and width of each slide.

    Raises
    ------
    ComirSearchError
    """
    size_um = slide.require_pixel_size()
    height_um, width_um = (length * size_um for length in slide.level_shapes[0])
    largest_um2 = max(height * width for height, width in slides_um)
    longest_um = max(math.hypot(height, width) for height, width in slides_um)
    if (
        height_um * width_um > LARGEST_SHARE * largest_um2
        or max(height_um, width_um) > LARGEST_SHARE * longest_um
    ):
        raise ComirSearchError(
            f"{slide.name} covers {width_um:.0f} x {height_um:.0f} um, more than the largest slide: its pixel size "
            f"({size_um:g} um) is probably wrong; give it with --pixel-size."
        )


def prepare_query(model: Model, slide: Slide, modality: str, *, mirrored: bool = False) -> Query:
    """Read a query, check it, and embed it.

    A large query is embedded part by part and kept at a coarser level, which bounds the
    memory.

    Parameters
    ----------
    model : Model
    slide : Slide
        The query's image.
    modality : str
    mirrored : bool
        Whether to flip it left to right first.

    Raises
    ------
    PixelSizeMissing
        If the pixel size is not known.
    ComirSearchError
        If the query is too small or too large, has only one value, has values that are
        not finite, or is in colour although its modality is grey.
    """
    shape = check_query(model, slide, modality)
    image = _QueryImage(model, slide, modality, shape, mirrored)
    image.check_differs()
    size_um = model.comir_pixel_size_um
    height_um, width_um = (length * slide.require_pixel_size() for length in slide.level_shapes[0])
    size_px = height_um / size_um, width_um / size_um
    level = coarsen_to(math.hypot(*size_px), LONGEST_COMIR_PX)
    factor = 2**level
    rows, columns = (-(-length // model.stride) for length in shape)
    comir = np.empty((model.comir_channels, -(-rows // factor), -(-columns // factor)), np.float32)
    informative = 0
    for row, column, latents in image.embed(factor):
        part = decode(code(latents))
        informative += int(((part**2).sum(axis=0) > 0.25 * len(part)).sum())
        part = shrink(part, factor)
        y, x = row // factor, column // factor
        comir[:, y : y + part.shape[1], x : x + part.shape[2]] = part
    return Query(
        slide.name,
        comir,
        size_px,
        height_um,
        width_um,
        informative / (rows * columns),
        mirrored,
        level,
        _mismatch(model, slide.name, modality) if image.is_grey_for_colour else "",
    )


class _QueryImage:
    """The pixels of a query at the model's pixel size, checked while they are read."""

    def __init__(
        self, model: Model, slide: Slide, modality: str, shape: tuple[int, int], mirrored: bool
    ) -> None:
        self.model, self.slide, self.modality = model, slide, modality
        self.shape, self.mirrored = shape, mirrored
        self.channels = model.channels_of(modality)
        self.is_grey_for_colour = self.channels > 1
        self._lowest, self._highest = math.inf, -math.inf
        self._intensity: Intensity | None = None

    @property
    def holds_anything(self) -> bool:
        """Whether the pixels differ."""
        return self._highest > self._lowest

    def check_differs(self) -> None:
        """Raise an error if all pixels have the same value, before anything is embedded.

        If the overview has only one value, details may still differ. The whole image is
        then read.
        """
        overview = self.slide.overview(OVERVIEW_PX)[0]
        if overview.max() > overview.min():
            return
        height, width = self.shape
        for y in range(0, height, PART_PX):
            for x in range(0, width, PART_PX):
                self.read(x, y, min(PART_PX, width - x), min(PART_PX, height - y))
                if self.holds_anything:
                    return
        raise ComirSearchError(
            f"{self.slide.name} is constant: all its pixels have the same value, so it cannot be found; "
            "choose another image."
        )

    def read(self, x: int, y: int, width: int, height: int) -> NDArray[np.float32]:
        """Return a part with normalised intensities.

        Parameters
        ----------
        x, y, width, height : int
            See `comir_search.model.embedding.Reader`.
        """
        start = self.shape[1] - x - width if self.mirrored else x
        image = self.slide.read_scaled(self.model.pixel_size_um, start, y, width, height)
        self.is_grey_for_colour &= is_grey(image)
        image = as_channels(image, self.channels, self.slide.name, self.modality)
        self._lowest = min(self._lowest, float(image.min()))
        self._highest = max(self._highest, float(image.max()))
        if self._intensity is None:  # after the checks, because their messages explain more
            self._intensity = intensity_of(self.model, self.slide, self.modality)
        normalised = self._intensity.apply(image)
        return normalised[:, ::-1] if self.mirrored else normalised

    def embed(self, factor: int) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
        """Yield (row, column, latents) of each part; rows and columns are multiples of `factor` CoMIR pixels."""
        height, width = self.shape
        model = self.model
        if height * width * model.bytes_per_px <= EMBED_BYTES and factor == 1:
            whole = np.ascontiguousarray(self.read(0, 0, width, height))
            yield 0, 0, embed_array(model, whole, self.modality)
            return
        affordable_px = math.isqrt(EMBED_BYTES // model.bytes_per_px) - 2 * model.halo_px
        step = math.lcm(model.tile_multiple, model.stride * factor)
        side_px = max(min(PART_PX, affordable_px) // step, 1) * step
        yield from embed_parts(model, self.read, self.shape, self.modality, side_px)


def _mismatch(model: Model, name: str, modality: str) -> str:
    """Return the sentence for a grey image whose modality is in colour."""
    other = model.other(modality)
    advice = (
        f"; if it is {other}, search for it with --modality {other}" if model.channels_of(other) == 1 else ""
    )
    return f"{name} is a grey image, but {modality} images are in colour{advice}"
