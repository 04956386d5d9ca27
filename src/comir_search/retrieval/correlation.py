"""Masked, locally normalised correlation of turned templates with CoMIRs, by FFT.

The score of a template at a place is the cosine of the two over all channels
and all pixels under the template's mask, less most of their means, with a floor
under the local energy: without it empty glass, which correlates with anything,
wins.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from comir_search.retrieval.templates import Templates

# Energy per pixel (sum over channels of squared decoded values) added to that
# under a window. The networks were trained with the same number.
ENERGY_FLOOR = 0.02
# Of each channel's mean under the template, removed from template and window before
# they are compared. Tissue of one kind shares its mean, so the plain cosine (0) is
# high in all of it; but the mean says something, so the zero-mean cosine (1) is blinder.
MEAN_SHARE = 0.6
LONG_SHARE = 0.42  # of the square around its turned copies that a squarish query fills; 0.5 at most


@dataclass(frozen=True)
class Spectra:
    """Templates transformed for windows of one size.

    Parameters
    ----------
    pixels : Tensor (angles, channels, size, size // 2 + 1) complex64
    masks : Tensor (masks, size, size // 2 + 1) complex64
        A square query has one for each angle up to 90 degrees, a rectangle up to 180.
    mask_of : Tensor (angles,) int64
        Each template's mask.
    norms : Tensor (angles,)
        Root of the templates' energy.
    areas : Tensor (angles,)
        Pixels under the masks.
    means : Tensor (angles, channels)
        Of the templates, before `MEAN_SHARE` of them was removed.
    side, size : int
        Sides of the templates and of the windows, pixels.
    """

    pixels: Tensor
    masks: Tensor
    mask_of: Tensor
    norms: Tensor
    areas: Tensor
    means: Tensor
    side: int
    size: int


def transform_templates(templates: Templates, size: int) -> Spectra:
    """Transform templates for windows of `size` pixels."""
    areas = templates.masks.sum((1, 2))
    means = templates.pixels.sum((2, 3)) / areas[:, None]
    pixels = templates.pixels - MEAN_SHARE * means[:, :, None, None] * templates.masks[:, None]
    first, mask_of = _distinct(templates.masks)
    return Spectra(
        torch.fft.rfft2(pixels, s=(size, size)).conj().resolve_conj(),
        torch.fft.rfft2(templates.masks[first], s=(size, size)).conj().resolve_conj(),
        mask_of,
        (pixels**2).sum((1, 2, 3)).clamp(min=1e-12).sqrt(),
        areas,
        means,
        templates.side,
        size,
    )


def _distinct(masks: Tensor) -> tuple[list[int], Tensor]:
    """Return the numbers of distinct masks, and for each mask which of these it is like."""
    numbers: dict[bytes, int] = {}
    first: list[int] = []
    mask_of = []
    for position, mask in enumerate((masks * 1024).round().to(torch.int16).numpy()):
        key = mask.tobytes()
        if key not in numbers:
            numbers[key] = len(first)
            first.append(position)
        mask_of.append(numbers[key])
    return first, torch.tensor(mask_of)


def box_means(images: Tensor, side: int) -> Tensor:
    """Return the means over every window of side x side pixels, by running sums.

    Parameters
    ----------
    images : Tensor (..., rows, columns)
    side : int

    Returns
    -------
    Tensor (..., rows - side + 1, columns - side + 1)
    """
    sums = torch.nn.functional.pad(images, (1, 0, 1, 0)).cumsum(-1).cumsum(-2)
    rows = sums[..., side:, :] - sums[..., :-side, :]
    return (rows[..., side:] - rows[..., :-side]) / side**2


def _sum_products(spectra: Tensor, window: Tensor) -> Tensor:
    """Return the sum over channels of (angles, channels, ...) x (channels, ...)."""
    total = spectra[:, 0] * window[0]
    for channel in range(1, len(window)):
        total.addcmul_(spectra[:, channel], window[channel])
    return total


def correlate_window(spectra: Spectra, window: Tensor, chunk: int = 12) -> Tensor:
    """Correlate every template with one window, at every place where it fits.

    Parameters
    ----------
    spectra : Spectra
    window : Tensor (channels, size, size)
        Decoded CoMIR.
    chunk : int
        Angles at a time, which bounds the memory.

    Returns
    -------
    Tensor (angles, size - side + 1, size - side + 1)
        Element (a, y, x) is the score of template a with its top-left corner
        at (x, y).
    """
    size, places = spectra.size, spectra.size - spectra.side + 1
    window_spectra = torch.fft.rfft2(window)
    energy_spectrum = torch.fft.rfft2((window**2).sum(0))
    local = _local_means(spectra, window, window_spectra)
    mean_of = spectra.mask_of if len(local) > 1 else torch.zeros_like(spectra.mask_of)
    removed = MEAN_SHARE * (2 - MEAN_SHARE) * (local**2).sum(1)
    # Turned copies share masks, and with them the energy under each window.
    energies = torch.fft.irfft2(spectra.masks * energy_spectrum, s=(size, size))[:, :places, :places]
    # What the window's mean takes from the product: the templates keep some of theirs.
    kept = torch.empty(len(spectra.norms), places, places)
    for number, means in enumerate(local):
        own = mean_of == number
        kept[own] = MEAN_SHARE * (1 - MEAN_SHARE) * torch.tensordot(spectra.means[own], means, 1)
    scores = []
    for first in range(0, len(spectra.norms), chunk):
        part = slice(first, first + chunk)
        areas = spectra.areas[part, None, None]
        products = torch.fft.irfft2(_sum_products(spectra.pixels[part], window_spectra), s=(size, size))
        products = products[:, :places, :places] - areas * kept[part]
        energy = energies[spectra.mask_of[part]] - areas * removed[mean_of[part]]
        energy = energy.clamp_(min=0).add_(ENERGY_FLOOR * areas)
        scores.append(products / (energy.sqrt() * spectra.norms[part, None, None]))
    return torch.cat(scores)


def _local_means(spectra: Spectra, window: Tensor, window_spectra: Tensor) -> Tensor:
    """Return the window's mean around every place, (masks or 1, channels, places, places).

    Of a squarish query over one square as large as the template: the turned
    masks' own means cost a transform for every mask and channel. A long one
    needs them, for what lies beside it in that square may be quite different.
    """
    places = spectra.size - spectra.side + 1
    area = float(spectra.areas[0])
    if area < LONG_SHARE * spectra.side**2:
        sums = torch.fft.irfft2(spectra.masks[:, None] * window_spectra, s=(spectra.size, spectra.size))
        return sums[..., :places, :places] / spectra.masks[:, 0, 0].real[:, None, None, None]
    side = min(spectra.side, 2 * round(area**0.5 / 2))
    spare = (spectra.side - side) // 2
    inner = slice(spare, spectra.size - spare)
    return box_means(window[:, inner, inner], side)[None]
