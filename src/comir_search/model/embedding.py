"""Embed images of any size in tiles; thanks to halos the result is the same as for the whole image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from comir_search.model.intensity import Intensity, measure_intensity
from comir_search.model.model import Model
from comir_search.progress import Job, Tick
from comir_search.slides import Slide
from comir_search.slides.channels import as_channels
from comir_search.slides.resample import find_taps, resample

CODE_ZERO = 127.5  # the 8-bit code of a latent of 0
TILE_PX = 1024
SAMPLE_PX = 256
SAMPLES = 16


def code(latents: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Code latents at 8 bits as round(255 * sigmoid(latent)), the same for every image."""
    return np.rint(255 / (1 + np.exp(-latents))).astype(np.uint8)


def decode(coded: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
    """Decode 8-bit values, or means of them, to float32 in [-1, 1] (tanh of half the latent)."""
    return (coded.astype(np.float32) - CODE_ZERO) / np.float32(CODE_ZERO)


def intensity_of(model: Model, slide: Slide, modality: str) -> Intensity:
    """Measure the normalisation of an image.

    A small image is measured as a whole. In a large one, the fields with most signal
    are measured. Both are read at the model's pixel size, so the result does not
    depend on the pyramid.

    Parameters
    ----------
    model : Model
    slide : Slide
    modality : str
    """
    side = model.modality(modality)
    height, width = slide.scaled_shape(model.pixel_size_um)
    if side.intensity == "full_scale" and slide.dtype == np.uint8:
        return measure_intensity(np.zeros(1, np.uint8), side.intensity, np.dtype(np.uint8))
    if height * width <= SAMPLES * SAMPLE_PX**2:
        image = slide.read_scaled(model.pixel_size_um, 0, 0, width, height)
        return measure_intensity(
            as_channels(image, side.channels, slide.name, modality), side.intensity, image.dtype
        )
    sides = min(SAMPLE_PX, height), min(SAMPLE_PX, width)
    cells = _brightness(slide, model.pixel_size_um, (height, width), sides)
    # Every second field of the brighter half: signal, but not only from the brightest corner.
    order = np.argsort(cells, axis=None)[::-1][: 2 * SAMPLES : 2]
    fields = [
        slide.read_scaled(
            model.pixel_size_um, int(column) * sides[1], int(row) * sides[0], sides[1], sides[0]
        )
        for row, column in zip(*np.unravel_index(order, cells.shape), strict=True)
    ]
    stacked = as_channels(np.concatenate(fields), side.channels, slide.name, modality)
    return measure_intensity(stacked, side.intensity, stacked.dtype)


def _brightness(
    slide: Slide, pixel_size_um: float, shape: tuple[int, int], sides: tuple[int, int]
) -> NDArray[np.float32]:
    """Return the mean of every whole cell of a grid that starts at the slide's corner.

    Parameters
    ----------
    slide : Slide
    pixel_size_um : float
        Pixel size to which shape and sides refer.
    shape : (int, int)
        Height and width of the slide.
    sides : (int, int)
        Height and width of a cell.
    """
    overview, size_um = slide.overview()
    assert size_um is not None  # scaled_shape has checked this
    grey = np.asarray(overview, np.float32).reshape(*overview.shape[:2], -1).mean(axis=2)
    # A cell is not a whole number of the overview's pixels: with a rounded number, cells would drift away.
    rows, columns = (
        find_taps(0, length // side, side * pixel_size_um / size_um, pixels)
        for length, side, pixels in zip(shape, sides, grey.shape, strict=True)
    )
    covered = grey[slice(*rows.span), slice(*columns.span)]
    return np.asarray(resample(covered, rows, columns, 0.0), np.float32)


class Reader(Protocol):
    """Reads parts of an image, normalised."""

    def __call__(self, x: int, y: int, width: int, height: int) -> NDArray[np.float32]:
        """Return a part inside the image, (height, width, channels)."""


def embed_parts(
    model: Model, read: Reader, shape: tuple[int, int], modality: str, side_px: int
) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
    """Embed an image part by part, with the same result as `embed_array` on the whole image.

    Parameters
    ----------
    model : Model
    read : callable
        See `Reader`.
    shape : (int, int)
        Height and width of the image, pixels.
    modality : str
    side_px : int
        Side of a part, a multiple of the stride and of the network's multiple.

    Yields
    ------
    row, column : int
        Position of the part's first CoMIR pixel.
    latents : ndarray (CoMIR channels, rows, columns) float32
    """
    margin, halo = _margin_px(model), model.halo_px
    ends = [length + -length % model.tile_multiple + margin for length in shape]
    for y in range(0, shape[0], side_px):
        for x in range(0, shape[1], side_px):
            # The whole image has nothing beyond the margin either.
            spans = [
                (max(at - halo, -margin), min(at + side_px + halo, end))
                for at, end in zip((y, x), ends, strict=True)
            ]
            rows, columns = (_reflect(*span, length) for span, length in zip(spans, shape, strict=True))
            top, left = int(rows.min()), int(columns.min())
            inside = read(left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top)
            latents = _run(model, inside[np.ix_(rows - top, columns - left)], modality)
            row, column = ((at - span[0]) // model.stride for at, span in zip((y, x), spans, strict=True))
            height, width = (
                -(-min(side_px, length - at) // model.stride)
                for at, length in zip((y, x), shape, strict=True)
            )
            yield (
                y // model.stride,
                x // model.stride,
                latents[:, row : row + height, column : column + width],
            )


def _reflect(start: int, stop: int, length: int) -> NDArray[np.intp]:
    """Return the pixel indices of [start, stop) along an axis, mirrored at its borders ("symmetric")."""
    places = np.arange(start, stop) % (2 * length)
    return np.where(places < length, places, 2 * length - 1 - places)


def _margin_px(model: Model) -> int:
    """Return the width of the margin that is added around an image by reflection."""
    return -(-min(model.halo_px, 64) // model.tile_multiple) * model.tile_multiple


def embed_array(model: Model, image: NDArray[np.float32], modality: str) -> NDArray[np.float32]:
    """Embed a normalised image.

    Parameters
    ----------
    model : Model
    image : ndarray (rows, columns, channels) float32
        Any size; padded by reflection to the network's multiple.
    modality : str

    Returns
    -------
    ndarray (CoMIR channels, ceil(rows / stride), ceil(columns / stride)) float32
        Latents.
    """
    rows, columns = image.shape[:2]
    margin = _margin_px(model)
    pads = [(margin, margin + -extent % model.tile_multiple) for extent in (rows, columns)]
    padded = np.pad(image, (*pads, (0, 0)), mode="symmetric")
    latents = _run(model, padded, modality)
    first = margin // model.stride
    return latents[:, first : first + -(-rows // model.stride), first : first + -(-columns // model.stride)]


def embed_region(
    model: Model, slide: Slide, modality: str, intensity: Intensity, x: int, y: int, width: int, height: int
) -> NDArray[np.uint8]:
    """Embed a part of a slide; neighbouring parts agree with the whole.

    Parameters
    ----------
    model : Model
    slide : Slide
    modality : str
    intensity : Intensity
        Normalisation of the slide, from `intensity_of`.
    x, y, width, height : int
        The part, in model pixels from the slide's corner; multiples of
        ``model.tile_multiple``.

    Returns
    -------
    ndarray (CoMIR channels, height / stride, width / stride) uint8
    """
    latents = _embed_part(model, slide, modality, intensity, x, y, width, height)
    return code(latents)


def embed_image_steps(
    model: Model, slide: Slide, modality: str, *, as_float: bool = False
) -> Job[NDArray[np.uint8] | NDArray[np.float32]]:
    """Embed a whole image tile by tile.

    Parameters
    ----------
    model : Model
    slide : Slide
    modality : str
    as_float : bool
        Return latents instead of 8-bit codes.

    Returns
    -------
    ndarray (CoMIR channels, rows, columns)
        uint8 codes, or float32 latents with `as_float`. The side of a CoMIR pixel is
        ``model.comir_pixel_size_um``.
    """
    height, width = slide.scaled_shape(model.pixel_size_um)
    shape = (model.comir_channels, -(-height // model.stride), -(-width // model.stride))
    comir = np.zeros(shape, np.float32 if as_float else np.uint8)
    intensity = intensity_of(model, slide, modality)
    tile = -(-TILE_PX // model.tile_multiple) * model.tile_multiple
    origins = [(y, x) for y in range(0, height, tile) for x in range(0, width, tile)]
    for done, (y, x) in enumerate(origins):
        yield Tick(f"embedding {slide.name}", done, len(origins))
        latents = _embed_part(model, slide, modality, intensity, x, y, tile, tile)
        row, column = y // model.stride, x // model.stride
        rows, columns = min(latents.shape[1], shape[1] - row), min(latents.shape[2], shape[2] - column)
        part = latents if as_float else code(latents)
        comir[:, row : row + rows, column : column + columns] = part[:, :rows, :columns]
    return comir


def _embed_part(
    model: Model, slide: Slide, modality: str, intensity: Intensity, x: int, y: int, width: int, height: int
) -> NDArray[np.float32]:
    halo, stride = model.halo_px, model.stride
    image = slide.read_scaled(model.pixel_size_um, x - halo, y - halo, width + 2 * halo, height + 2 * halo)
    image = as_channels(image, model.channels_of(modality), slide.name, modality)
    latents = _run(model, intensity.apply(image), modality)
    inner = halo // stride
    return latents[:, inner : inner + height // stride, inner : inner + width // stride]


def _run(model: Model, image: NDArray[np.float32], modality: str) -> NDArray[np.float32]:
    tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].to(model.device)
    with torch.inference_mode():
        latents = model.network(modality)(tensor.contiguous(memory_format=torch.channels_last))
    result: NDArray[np.float32] = latents[0].float().cpu().numpy()
    return result
