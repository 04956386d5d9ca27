"""Both losses against what defines them."""

import math

import numpy as np
import pytest
import torch

from comir_search.training.loss import activation_penalty, match_map, patch_info_nce, place_info_nce


def published_double_loop(first: torch.Tensor, second: torch.Tensor, temperature: float) -> float:
    """InfoNCE exactly as the paper writes it, one pair at a time."""
    latents = [*first, *second]
    count = len(first)
    rows = []
    for i, anchor in enumerate(latents):
        positive = (i + count) % (2 * count)
        scores = [-float(((anchor - other) ** 2).mean()) / temperature for other in latents]
        total = sum(math.exp(score) for k, score in enumerate(scores) if k != i)
        rows.append(-scores[positive] + math.log(total))
    return sum(rows) / len(rows)


@pytest.mark.parametrize(("count", "channels", "temperature"), [(2, 1, 0.5), (7, 3, 0.1), (12, 1, 0.5)])
def test_patch_loss_equals_the_published_double_loop(count, channels, temperature):
    generator = torch.Generator().manual_seed(count)
    first = torch.randn(count, channels, 9, 11, generator=generator)
    second = first + 0.3 * torch.randn(count, channels, 9, 11, generator=generator)
    expected = published_double_loop(first, second, temperature)
    assert float(patch_info_nce(first, second, temperature)) == pytest.approx(expected, abs=1e-5)


def test_patch_loss_is_the_chance_level_for_equal_latents():
    latents = torch.zeros(6, 1, 4, 4)
    assert float(patch_info_nce(latents, latents)) == pytest.approx(math.log(2 * 6 - 1), abs=1e-6)


def test_activation_penalty_counts_both_norms():
    first, second = torch.full((2, 1, 2, 2), 3.0), torch.zeros(2, 1, 2, 2)
    expected = 1e-4 * ((1 + 24) + (1 + 72)) / 16
    assert float(activation_penalty(first, second)) == pytest.approx(expected, rel=1e-5)


def test_match_map_is_the_cosine_of_template_and_window():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 20, 22, generator=generator)
    templates = torch.randn(3, 3, 6, 6, generator=generator)
    scores = match_map(templates, maps, floor=0.5)
    assert scores.shape == (3, 2, 15, 17)
    for n, m, y, x in [(0, 0, 0, 0), (2, 1, 14, 16), (1, 0, 7, 3)]:
        window = maps[m, :, y : y + 6, x : x + 6]
        cosine = (templates[n] * window).sum() / (templates[n].norm() * ((window**2).sum() + 0.5 * 36).sqrt())
        assert float(scores[n, m, y, x]) == pytest.approx(float(cosine), abs=1e-4)


def test_place_loss_falls_when_templates_lie_at_their_places():
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(4, 2, 40, 40, generator=generator)
    corners = [(3, 5), (10, 20), (17, 0), (22, 11)]
    templates = torch.stack([maps[i, :, y : y + 12, x : x + 12] for i, (x, y) in enumerate(corners)])
    places = torch.tensor(corners, dtype=torch.float32)
    scale = torch.tensor(20.0)
    right = float(place_info_nce(templates, maps, places, scale, 0.01))
    wrong = float(place_info_nce(templates, maps, places + 6, scale, 0.01))
    # One of about nine positives is exact: the mean over them costs ln 7 at most.
    assert right < 2.1
    assert wrong > right + 5


def test_place_loss_has_gradients_for_both_sides():
    maps = torch.randn(3, 2, 24, 24, requires_grad=True)
    templates = torch.randn(3, 2, 8, 8, requires_grad=True)
    place_info_nce(templates, maps, torch.full((3, 2), 8.0), torch.tensor(10.0), 0.02).backward()
    for tensor in (maps, templates):
        assert np.isfinite(tensor.grad.numpy()).all()
        assert float(tensor.grad.abs().sum()) > 0
