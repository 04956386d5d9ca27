"""Crops know where they come from."""

import numpy as np
import pytest
import torch

from comir_search.training import sampling
from comir_search.training.pairs import Pair
from comir_search.training.sampling import Sampler
from comir_search.training.trainer import (
    Recipe,
    Trainer,
    _places_in_maps,
    _turn_templates,
    learning_rate_share,
)


@pytest.fixture(scope="module")
def pairs():
    """Pairs whose two sides are the same smooth pattern."""
    rng = np.random.default_rng(3)
    made = []
    for number in range(3):
        y, x = np.mgrid[:300, :320] / 9.0
        pattern = sum(
            np.sin(x * np.cos(a) * f + y * np.sin(a) * f + p)
            for a, f, p in zip(
                rng.uniform(0, 6, 12), rng.uniform(0.3, 1, 12), rng.uniform(0, 6, 12), strict=True
            )
        )
        image = ((pattern - pattern.min()) / np.ptp(pattern)).astype(np.float32)[..., None]
        made.append(Pair(str(number), np.repeat(image, 3, axis=2), image))
    return made


def test_batches_depend_on_seed_and_step_alone(pairs):
    sampler = Sampler(pairs, 96, seed=5)
    later = sampler.draw(8, step=7)
    sampler.draw(8, step=8)
    again = Sampler(pairs, 96, seed=5).draw(8, step=7)
    assert np.array_equal(later.first, again.first)
    assert not np.array_equal(later.first, Sampler(pairs, 96, seed=6).draw(8, step=7).first)


def test_crops_have_no_filled_corners(pairs):
    sampler = Sampler([Pair(p.name, p.first * 0 + 0.5, p.second) for p in pairs], 96, seed=0)
    batch = sampler.draw(12, 0)
    for frame in (*batch.first_frames, *batch.second_frames):
        corners = np.array([[0, 0], [95, 0], [95, 95], [0, 95]]) - 47.5
        points = corners @ frame.matrix.T + frame.center
        # Enlarged crops may look over the border by their scale, never by a corner.
        assert (points > -15).all()
        assert (points < [335, 315]).all()


@pytest.fixture
def uncoloured(monkeypatch):
    """Crops keep their colours."""
    for name in ("_recolour_stain", "_recolour_signal"):
        monkeypatch.setattr(sampling, name, lambda crop, rng: crop)


def test_published_loss_gets_both_sides_of_a_crop_in_one_frame(pairs, uncoloured):
    recipe = Recipe("tiramisu", comir_channels=1, crop_px=64)
    batch = Trainer(pairs, (3, 1), recipe, torch.device("cpu")).sampler.draw(8, 0)
    for first, second in zip(batch.first, batch.second, strict=True):
        np.testing.assert_allclose(first[0], second[0], atol=0.02)  # linear or cubic
    assert all(
        np.array_equal(first.matrix, second.matrix) and np.array_equal(first.center, second.center)
        for first, second in zip(batch.first_frames, batch.second_frames, strict=True)
    )


def test_turned_template_matches_the_other_side_at_its_place(pairs, uncoloured):
    """The geometry of the loss: without recolouring, both sides agree pixel by pixel."""
    batch = Sampler(pairs, 96, seed=1).draw(8, 0)
    side, stride = 20, 2
    maps = [
        torch.nn.functional.avg_pool2d(torch.from_numpy(crops[:, :1]), 2)
        for crops in (batch.first, batch.second)
    ]
    frames = (batch.first_frames, batch.second_frames)
    for query, target in ((0, 1), (1, 0)):
        templates = _turn_templates(maps[query], frames[query], frames[target], batch.places, side, stride)
        corners = _places_in_maps(frames[target], batch.places, side, 96, stride)
        for template, image, (x, y) in zip(templates, maps[target], corners, strict=True):
            column, row = round(x), round(y)
            window = image[0, row : row + side, column : column + side]
            agreement = np.corrcoef(template[0].flatten(), window.flatten())[0, 1]
            assert agreement > 0.97


def test_learning_rate_rises_then_falls():
    shares = [learning_rate_share(step, 100) for step in range(100)]
    assert max(shares) == pytest.approx(1.0)
    assert shares[0] < 0.2
    assert shares[-1] < 0.01


@pytest.mark.parametrize(("architecture", "channels"), [("compact", 4), ("tiramisu", 1)])
def test_a_few_steps_lower_the_loss(pairs, architecture, channels):
    recipe = Recipe(
        architecture, channels, steps=14, batch=4, crop_px=96 if architecture == "compact" else 64
    )
    trainer = Trainer(pairs, (3, 1), recipe, torch.device("cpu"))
    batch = trainer.sampler.draw(recipe.batch, 0)
    losses = [trainer.advance(batch) for _ in range(recipe.steps)]
    assert np.mean(losses[-3:]) < losses[0] - 0.3
