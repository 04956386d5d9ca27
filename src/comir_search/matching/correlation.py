"""Masked, locally normalised correlation of rotated templates with CoMIRs, by FFT.

The score of a template at a position is the cosine between template and window, over
all channels and all pixels under the template's mask, after most of their means were
subtracted. A constant is added to the local energy: without it empty glass would score
best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from comir_search.matching.templates import Templates

# Energy per pixel (sum over channels of squared decoded values) that is added to the energy
# of a window. The networks were trained with the same number.
ENERGY_FLOOR = 0.02
# Share of each channel's mean that is subtracted from template and window. Tissue of one kind
# has the same mean, so the plain cosine (0) is high everywhere in it. But the mean carries
# information too, which the zero-mean cosine (1) loses.
MEAN_SHARE = 0.6
LONG_SHARE = 0.42  # a roughly square query fills at least this share of the square around its rotated copies


@dataclass(frozen=True)
class Spectra:
    """Templates transformed for windows of one size.

    Parameters
    ----------
    pixels : Tensor (size * (size // 2 + 1), channels, angles) complex64
        Spectra of the templates, after most of their means and the contribution of
        the window's own mean were subtracted, divided by their norm. Frequencies come
        first: windows times templates is then a matrix product per frequency, which
        reads every template once.
    masks : Tensor (masks, size, size // 2 + 1) complex64
        Spectra of the masks: for a square query one for each angle up to 90 degrees,
        for a rectangle up to 180; or a single one for all angles.
    mask_of : list of int
        Number of each template's mask.
    areas : Tensor (masks,)
        Pixels under the masks.
    box_px : int
        Side of the square over which a window's means are taken; 0 if they are taken
        under the masks.
    side, size : int
        Sides of the templates and of the windows, pixels.
    """

    pixels: Tensor
    masks: Tensor
    mask_of: list[int]
    areas: Tensor
    box_px: int
    side: int
    size: int

    @property
    def places(self) -> int:
        """Number of positions along an axis where a template fits into a window."""
        return self.size - self.side + 1


def transform_templates(templates: Templates, size: int, *, roughly: bool = False) -> Spectra:
    """Transform templates for windows of `size` pixels.

    Parameters
    ----------
    templates : Templates
    size : int
    roughly : bool
        For a roughly square query, take the energy of windows under the mean of all
        masks. This is faster, but scores are not exact cosines.
    """
    side, area = templates.side, float(templates.masks[0].sum())
    # For a roughly square query the window's means are taken over one square of the same area, since means
    # under the rotated masks need a transform for every mask and channel. A long query needs the masks: beside
    # it, the tissue in the square around its copies may be quite different.
    box_px = min(side, 2 * round(area**0.5 / 2)) if area >= LONG_SHARE * side**2 else 0
    first, mask_of = _distinct(templates.masks)
    masks = templates.masks[first]
    areas = masks.sum((1, 2))
    supports = templates.masks
    if box_px:
        spare = (side - box_px) // 2
        supports = torch.zeros(1, side, side)
        supports[:, spare : spare + box_px, spare : spare + box_px] = 1
    shares = areas[mask_of, None, None] / supports.sum((1, 2), keepdim=True) * supports
    means = templates.pixels.sum((2, 3)) / areas[mask_of, None]
    pixels = templates.pixels - MEAN_SHARE * means[:, :, None, None] * templates.masks[:, None]
    norms = (pixels**2).sum((1, 2, 3)).clamp(min=1e-12).sqrt()
    # A window's mean under the mask is linear in the window: it can be subtracted from the template instead.
    pixels -= MEAN_SHARE * (1 - MEAN_SHARE) * means[:, :, None, None] * shares[:, None]
    pixels /= norms[:, None, None, None]
    if roughly and box_px:
        masks, mask_of, areas = masks.mean(0, keepdim=True), [0] * len(mask_of), areas.mean(0, keepdim=True)
    return Spectra(
        torch.fft.rfft2(pixels, s=(size, size)).conj().flatten(2).permute(2, 1, 0).contiguous(),
        torch.fft.rfft2(masks, s=(size, size)).conj().resolve_conj(),
        mask_of,
        areas,
        box_px,
        side,
        size,
    )


def _distinct(masks: Tensor) -> tuple[list[int], list[int]]:
    """Return the numbers of the distinct masks, and for each mask which of these equals it."""
    numbers: dict[bytes, int] = {}
    first: list[int] = []
    mask_of = []
    for position, mask in enumerate((masks * 1024).round().to(torch.int16).numpy()):
        key = mask.tobytes()
        if key not in numbers:
            numbers[key] = len(first)
            first.append(position)
        mask_of.append(numbers[key])
    return first, mask_of


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


def correlate_window(spectra: Spectra, window: Tensor) -> Tensor:
    """Correlate every template with one window, at every position where it fits.

    Parameters
    ----------
    spectra : Spectra
    window : Tensor (channels, size, size)
        Decoded CoMIR.

    Returns
    -------
    Tensor (angles, places, places)
        Element (a, y, x) is the score of template a with its top-left corner
        at (x, y).
    """
    return correlate_windows(spectra, window[None], [weigh_places(spectra, window)])[0]


def correlate_windows(spectra: Spectra, windows: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """Correlate every template with several windows, as `correlate_window` does with one.

    Parameters
    ----------
    spectra : Spectra
    windows : Tensor (n, channels, size, size)
    weights : sequence of n Tensor
        Result of `weigh_places` for each window.

    Returns
    -------
    list of n Tensor (angles, places, places)
    """
    size, places = spectra.size, spectra.places
    n_windows, n_angles = len(windows), len(spectra.mask_of)
    # Windows times templates for each frequency; whole matrices are transposed, which torch does fastest.
    of_windows = torch.fft.rfft2(windows).flatten(2).flatten(0, 1).T.contiguous()
    products = torch.bmm(of_windows.unflatten(1, (n_windows, -1)), spectra.pixels)
    products = products.flatten(1).T.contiguous().reshape(n_windows, n_angles, size, size // 2 + 1)
    correlated = []
    for own, weight in zip(products, weights, strict=True):
        scores = torch.fft.irfft2(own, s=(size, size))[:, :places, :places]
        scores *= weight if len(weight) == 1 else weight[spectra.mask_of]
        correlated.append(scores)
    return correlated


def weigh_places(spectra: Spectra, window: Tensor) -> Tensor:
    """Return the factors that turn products into cosines: 1 / sqrt(energy of the window under each mask).

    Parameters
    ----------
    spectra : Spectra
    window : Tensor (channels, size, size)

    Returns
    -------
    Tensor (masks, places, places)
    """
    size, places = spectra.size, spectra.places
    energies = torch.fft.irfft2(spectra.masks * torch.fft.rfft2((window**2).sum(0)), s=(size, size))
    areas = spectra.areas[:, None, None]
    if spectra.box_px:
        spare = (spectra.side - spectra.box_px) // 2
        inner = slice(spare, size - spare)
        means = box_means(window[:, inner, inner], spectra.box_px)[None]
    else:
        sums = torch.fft.irfft2(spectra.masks[:, None] * torch.fft.rfft2(window), s=(size, size))
        means = sums[..., :places, :places] / areas[:, None]
    weights = energies[:, :places, :places] - MEAN_SHARE * (2 - MEAN_SHARE) * areas * (means**2).sum(1)
    return weights.clamp_(min=0).add_(ENERGY_FLOOR * areas).rsqrt_()
