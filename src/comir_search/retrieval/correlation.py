"""Masked, locally normalised correlation of turned templates with CoMIRs, by FFT.

The score of a template at a place is the cosine of the two over all channels
and all pixels under the template's mask, with a floor under the local energy:
without it empty glass, which correlates with anything, wins.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from comir_search.retrieval.templates import Templates

# Energy per pixel (sum over channels of squared decoded values) added to that
# under a window. The networks were trained with the same number.
ENERGY_FLOOR = 0.02


@dataclass(frozen=True)
class Spectra:
    """Templates transformed for windows of one size.

    Parameters
    ----------
    pixels : Tensor (angles, channels, size, size // 2 + 1) complex64
    masks : Tensor (angles, size, size // 2 + 1) complex64
    norms : Tensor (angles,)
        Root of the templates' energy.
    areas : Tensor (angles,)
        Pixels under the masks.
    side, size : int
        Sides of the templates and of the windows, pixels.
    """

    pixels: Tensor
    masks: Tensor
    norms: Tensor
    areas: Tensor
    side: int
    size: int


def transform_templates(templates: Templates, size: int) -> Spectra:
    """Transform templates for windows of `size` pixels."""
    norms = (templates.pixels**2).sum((1, 2, 3)).clamp(min=1e-12).sqrt()
    return Spectra(
        torch.fft.rfft2(templates.pixels, s=(size, size)).conj().resolve_conj(),
        torch.fft.rfft2(templates.masks, s=(size, size)).conj().resolve_conj(),
        norms,
        templates.masks.sum((1, 2)),
        templates.side,
        size,
    )


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
    scores = []
    for first in range(0, len(spectra.norms), chunk):
        part = slice(first, first + chunk)
        products = torch.fft.irfft2(_sum_products(spectra.pixels[part], window_spectra), s=(size, size))
        energy = torch.fft.irfft2(spectra.masks[part] * energy_spectrum, s=(size, size))
        floor = ENERGY_FLOOR * spectra.areas[part, None, None]
        norms = (energy[:, :places, :places].clamp(min=0) + floor).sqrt() * spectra.norms[part, None, None]
        scores.append(products[:, :places, :places] / norms)
    return torch.cat(scores)
