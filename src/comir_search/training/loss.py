"""The two contrastive losses: the published one over patches, and ours over positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

POSITIVE_RADIUS_PX = 1.5  # CoMIR pixels: the alignment of real pairs is not more exact
IGNORED_RADIUS_PX = 3.5  # positions near the right one count neither as right nor as wrong


def patch_info_nce(first: Tensor, second: Tensor, temperature: float = 0.5) -> Tensor:
    """Return the published InfoNCE loss with the MSE critic.

    Source: Pielawski, Wetzer et al., NeurIPS 2020. Each of the 2 N latents is an
    anchor. Its counterpart is the positive, the other 2 N - 2 (of both modalities) are
    the negatives. The result equals that of the published double loop.

    Parameters
    ----------
    first, second : Tensor (N, channels, rows, columns)
        CoMIRs of the two modalities; row i of one belongs to row i of the other.
    temperature : float
    """
    latents = torch.cat([first, second]).flatten(1)
    # |a - b|^2 = |a|^2 + |b|^2 - 2ab is inexact in float32 for nearly equal rows.
    exact = latents.double()
    squares = (exact**2).sum(1)
    distances = (squares[:, None] + squares[None] - 2 * exact @ exact.T) / latents.shape[1]
    similarity = -distances / temperature
    count = len(first)
    similarity = similarity.masked_fill(
        torch.eye(2 * count, dtype=torch.bool, device=first.device), -torch.inf
    )
    positives = torch.arange(2 * count, device=first.device).roll(count)
    return torch.nn.functional.cross_entropy(similarity, positives).to(first.dtype)


def activation_penalty(first: Tensor, second: Tensor) -> Tensor:
    """Return the published regulariser of raw latents, 1e-4 (R1 + R2)."""
    latents = torch.cat([first.flatten(), second.flatten()])
    return 1e-4 * (2 + latents.abs().sum() + (latents**2).sum()) / latents.numel()


def match_map(templates: Tensor, maps: Tensor, floor: float) -> Tensor:
    """Correlate every template with every map, at every position where it fits.

    Parameters
    ----------
    templates : Tensor (N, channels, side, side)
    maps : Tensor (M, channels, rows, columns)
    floor : float
        Energy per pixel that is added to the energy of each window. Without it empty
        glass would score best.

    Returns
    -------
    Tensor (N, M, rows - side + 1, columns - side + 1)
        Cosine of template and window over all channels, in [-1, 1].
    """
    side, (rows, columns) = templates.shape[-1], maps.shape[-2:]
    spectra = _cross_spectra(torch.fft.rfft2(templates, s=(rows, columns)), torch.fft.rfft2(maps))
    fits = (slice(None), slice(None), slice(rows - side + 1), slice(columns - side + 1))
    products = torch.fft.irfft2(spectra, s=(rows, columns))[fits]
    energy = torch.nn.functional.avg_pool2d((maps**2).sum(1, keepdim=True), side, 1)[:, 0] * side**2
    norms = (templates**2).sum((1, 2, 3)).add(1e-6).sqrt()
    return products / (norms[:, None, None, None] * (energy + floor * side**2).sqrt()[None])


def _cross_spectra(first: Tensor, second: Tensor) -> Tensor:
    """Return conj(first) x second summed over channels, for every pair, (N, M, rows, frequencies).

    It uses real batched products, since complex ones of this shape are slow on the CPU.
    """
    rows, columns = first.shape[-2:]
    a = first.flatten(2).permute(2, 0, 1)
    b = second.flatten(2).permute(2, 1, 0)
    left = torch.cat([a.real, a.imag], 2).contiguous()
    real = torch.bmm(left, torch.cat([b.real, b.imag], 1).contiguous())
    imaginary = torch.bmm(left, torch.cat([b.imag, -b.real], 1).contiguous())
    for part in (real, imaginary):
        if part.requires_grad:  # a strided gradient would make the backward product slow
            part.register_hook(Tensor.contiguous)
    product = torch.complex(real.permute(1, 2, 0).contiguous(), imaginary.permute(1, 2, 0).contiguous())
    return product.unflatten(2, (rows, columns))


def place_info_nce(templates: Tensor, maps: Tensor, places: Tensor, scale: Tensor, floor: float) -> Tensor:
    """Return the InfoNCE loss over all positions of all maps in the batch.

    As in a search, template i must correlate best at its own position in map i,
    compared with every other position of that map and every position of the other
    maps. Some of these are crops of the same core.

    Parameters
    ----------
    templates : Tensor (N, channels, side, side)
    maps : Tensor (N, channels, rows, columns)
    places : Tensor (N, 2)
        (column, row) of template i's top-left corner in map i, CoMIR pixels.
    scale : Tensor ()
        Inverse temperature.
    floor : float
        See `match_map`.
    """
    scores = match_map(templates, maps, floor)
    count, _, rows, columns = scores.shape
    y = torch.arange(rows, device=scores.device, dtype=places.dtype)[None, :, None]
    x = torch.arange(columns, device=scores.device, dtype=places.dtype)[None, None, :]
    distance = torch.hypot(x - places[:, 0, None, None], y - places[:, 1, None, None])
    own = torch.arange(count, device=scores.device)
    at_home = scores[own, own] * scale
    positive = torch.logsumexp(at_home.masked_fill(distance > POSITIVE_RADIUS_PX, -torch.inf).flatten(1), 1)
    positive = positive - math.log(math.pi * POSITIVE_RADIUS_PX**2)
    logits = scores * scale
    ignored = torch.zeros_like(logits, dtype=torch.bool)
    ignored[own, own] = distance <= IGNORED_RADIUS_PX
    negative = torch.logsumexp(logits.masked_fill(ignored, -torch.inf).flatten(1), 1)
    return (torch.logaddexp(positive, negative) - positive).mean()
