"""Correlation by FFT against what defines it."""

import numpy as np
import pytest
import torch

from comir_search.matching.correlation import (
    ENERGY_FLOOR,
    MEAN_SHARE,
    box_means,
    correlate_window,
    transform_templates,
)
from comir_search.matching.templates import turn_templates

SIDE, SIZE = 12, 40


def some_comir(seed: int, side: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.tanh(rng.standard_normal((3, side, side)) + [[[0.8]], [[-0.4]], [[0.0]]]).astype(np.float32)


@pytest.mark.parametrize(("height", "width"), [(12, 12), (4, 16), (16, 4)])
@pytest.mark.parametrize("more_angles", [[], [45.0, 90.0]])
def test_score_is_the_cosine_less_most_of_the_means(height, width, more_angles):
    query = some_comir(0, 16)[:, :height, :width]
    window = torch.from_numpy(some_comir(1, SIZE))
    window[:, :, 20:] += 0.6  # another tissue begins: beside a long query means differ from those under it
    templates = turn_templates(query, (height, width), [0.0, *more_angles])
    scores = correlate_window(transform_templates(templates, SIZE), window)
    places = SIZE - templates.side + 1
    assert scores.shape == (1 + len(more_angles), places, places)
    assert float(scores.abs().max()) <= 1
    left, top = (templates.side - width) // 2, (templates.side - height) // 2
    for x, y in [(0, 0), (places - 1, 3), (5, 11)]:
        inner = window[:, y + top : y + top + height, x + left : x + left + width]
        template, part = (
            image - MEAN_SHARE * image.mean((1, 2), keepdim=True)
            for image in (torch.from_numpy(query), inner)
        )
        norm = template.norm() * ((part**2).sum() + ENERGY_FLOOR * height * width).sqrt()
        assert float(scores[0, y, x]) == pytest.approx(float((template * part).sum() / norm), abs=1e-4)


@pytest.mark.parametrize("size_px", [(SIDE, SIDE), (8.0, SIDE)], ids=["square", "rectangle"])
def test_shared_masks_change_nothing(size_px):
    angles = [0.0, 30.0, 90.0, 120.0, 180.0, -60.0, -90.0]
    query, window = some_comir(2, SIDE), torch.from_numpy(some_comir(3, SIZE))
    spectra = transform_templates(turn_templates(query, size_px, angles), SIZE)
    assert len(spectra.masks) == (2 if size_px[0] == size_px[1] else 4)
    together = correlate_window(spectra, window)
    for number, angle in enumerate(angles):
        alone = correlate_window(transform_templates(turn_templates(query, size_px, [angle]), SIZE), window)
        assert torch.allclose(together[number], alone[0], atol=1e-3)


@pytest.mark.parametrize("with_glass", [False, True])
def test_rough_scores_of_a_square_are_nearly_the_exact_ones(with_glass):
    """Beside glass, too, where a turned copy's corners alone may lie on tissue."""
    side = 14
    query, window = some_comir(2, side), torch.from_numpy(some_comir(3, 60))
    if with_glass:
        window[:, :, 30:] = 0
    window[:, 20 : 20 + side, 20 : 20 + side] = torch.from_numpy(query)
    templates = turn_templates(query, (side, side), [0.0, 30.0, 45.0, 90.0])
    exact, rough = (
        correlate_window(transform_templates(templates, 60, roughly=roughly), window)
        for roughly in (False, True)
    )
    assert int(rough.argmax()) == int(exact.argmax())
    assert float(rough.max()) < 1.02
    off = float((rough - exact).abs().max())
    assert 1e-4 < off < 0.03


@pytest.mark.parametrize("size_px", [(4.0, 16.0), (16.0, 4.0)])
def test_rough_scores_of_a_long_query_are_exact(size_px):
    query, window = some_comir(2, 16)[:, : int(size_px[0]), : int(size_px[1])], some_comir(3, SIZE)
    templates = turn_templates(query, size_px, [0.0, 30.0, 90.0])
    exact, rough = (
        correlate_window(transform_templates(templates, SIZE, roughly=roughly), torch.from_numpy(window))
        for roughly in (False, True)
    )
    assert torch.equal(rough, exact)


def test_box_means_are_means_over_windows():
    images = torch.from_numpy(some_comir(4, 20))
    expected = torch.nn.functional.avg_pool2d(images, 7, 1)
    assert torch.allclose(box_means(images, 7), expected, atol=1e-5)
