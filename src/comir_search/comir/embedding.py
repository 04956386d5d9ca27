"""Embedding images of any size: tiles with halos that agree with the whole."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from comir_search.comir.intensity import Intensity, measure_intensity
from comir_search.comir.model import Model
from comir_search.comir.pairs import as_channels
from comir_search.progress import Job, Tick
from comir_search.slides import Slide

CODE_ZERO = 127.5  # the 8-bit code of a latent of 0
TILE_PX = 1024
SAMPLE_PX = 256
SAMPLES = 16


def code(latents: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Code latents at 8 bits, round(255 * sigmoid(latent)): the same for every image."""
    return np.rint(255 / (1 + np.exp(-latents))).astype(np.uint8)


def decode(coded: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return coded values in [-1, 1] (tanh of half the latent), float32."""
    return (coded.astype(np.float32) - CODE_ZERO) / np.float32(CODE_ZERO)


def intensity_of(model: Model, slide: Slide, modality: str) -> Intensity:
    """Measure how an image of a modality is to be normalised.

    Small images are measured whole, at the model's pixel size; of large ones
    the fields with most signal in the overview are, so that what is measured
    does not depend on the pyramid.
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
    overview, size_um = slide.overview()
    grey = np.asarray(overview, np.float32).reshape(*overview.shape[:2], -1).mean(axis=2)
    assert size_um is not None  # scaled_shape has asked for it
    cell = max(1, round(SAMPLE_PX * model.pixel_size_um / size_um))
    rows, columns = max(1, grey.shape[0] // cell), max(1, grey.shape[1] // cell)
    cells = grey[: rows * cell, : columns * cell].reshape(rows, cell, columns, cell).mean(axis=(1, 3))
    # Every second of the brighter half: signal, but not its brightest corner alone.
    order = np.argsort(cells, axis=None)[::-1][: 2 * SAMPLES : 2]
    fields = [
        slide.read_scaled(
            model.pixel_size_um, int(column * SAMPLE_PX), int(row * SAMPLE_PX), SAMPLE_PX, SAMPLE_PX
        )
        for row, column in zip(*np.unravel_index(order, cells.shape), strict=True)
    ]
    stacked = as_channels(np.concatenate(fields), side.channels, slide.name, modality)
    return measure_intensity(stacked, side.intensity, stacked.dtype)


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
    margin = min(model.halo_px, 64)
    multiple = model.tile_multiple
    margin = -(-margin // multiple) * multiple
    pads = [(margin, margin + -extent % multiple) for extent in (rows, columns)]
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
        The slide's, from `intensity_of`.
    x, y, width, height : int
        The part, in pixels of the model's size from the slide's corner;
        multiples of ``model.tile_multiple``.

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

    Returns
    -------
    ndarray (CoMIR channels, rows, columns)
        uint8 codes, or float32 latents with `as_float`; one CoMIR pixel covers
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
