"""A training that is watched, stopped and resumed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from comir_search.comir import training_run
from comir_search.comir.model import BF, SHG, load_model
from comir_search.comir.pairs import Pair
from comir_search.comir.training import Recipe
from comir_search.comir.training_run import TrainingReport, train_steps
from comir_search.comir.validation import Best, Validation, choose_validation
from comir_search.errors import ComirSearchError
from comir_search.opencv import cv2
from comir_search.progress import Tick, finish

RECIPE = Recipe(comir_channels=2, steps=6, batch=2, crop_px=96)


def paint(seed: int, side: int = 240) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((side, side)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 5.0)
    return (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)


@pytest.fixture(autouse=True)
def few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = partial(training_run.learn_vocabulary_steps, n_words=16, dimensions=4)
    monkeypatch.setattr(training_run, "learn_vocabulary_steps", quick)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    made = tmp_path / "bf", tmp_path / "shg"
    for folder in made:
        folder.mkdir()
    for seed, name in enumerate("abc"):
        image = paint(seed)
        cv2.imwrite(str(made[0] / f"{name}.png"), np.stack([image, 255 - image, image // 2], axis=-1))
        cv2.imwrite(str(made[1] / f"{name}.png"), image)
    return made


def run(folders: tuple[Path, Path], out: Path, **options):
    return train_steps(*folders, out, device="cpu", recipe=RECIPE, **options)


class Grey(nn.Module):
    """A network that cannot be better: both sides look the same to it."""

    stride, tile_multiple, halo_px, bytes_per_px = 2, 2, 0, 100

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(10.0))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        grey = nn.functional.avg_pool2d(image.mean(1, keepdim=True), 2)
        return self.gain * (grey - 0.5)


class Noise(Grey):
    """A network that cannot be worse."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.randn_like(super().forward(image))


@pytest.mark.parametrize(("network", "lowest", "highest"), [(Grey, 0.9, 1.0), (Noise, 0.0, 0.3)])
def test_hit_rate_says_how_well_patches_are_placed(network, lowest: float, highest: float) -> None:
    torch.manual_seed(0)
    images = [paint(seed).astype(np.float32)[..., None] / 255 for seed in range(3)]
    pairs = [Pair(str(number), np.repeat(image, 3, axis=2), image) for number, image in enumerate(images)]
    trained = [network().train() for _ in range(2)]
    validation = Validation(pairs, (BF, SHG), 120, seed=0)
    hit_rate = finish(validation.hit_rate_steps(trained, "compact", 1, Tick("training", 1, 2)))
    assert lowest <= hit_rate <= highest
    assert all(network.training and network.gain.requires_grad for network in trained)


def test_the_best_networks_are_kept_and_of_equal_ones_the_later() -> None:
    best = Best()
    for step, hit_rate in enumerate((0.2, 0.6, 0.6, 0.4), 1):
        best.take(step, hit_rate, {"weight": torch.tensor(float(step))})
    assert (best.step, best.hit_rate, float(best.weights["weight"])) == (3, 0.6, 3.0)
    assert [step for step, _ in best.history] == [1, 2, 3, 4]


def test_pairs_kept_back_are_not_learned_from(folders, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    reports: list[TrainingReport] = []
    job = run(folders, out, validation=["b"])
    model = finish(job, lambda tick: reports.append(tick.partial) if tick.partial else None)
    assert [report.step for report in reports] == [1, 2, 3, 4, 5, 6]
    assert all(np.isfinite(report.loss) for report in reports)
    assert len(reports[-1].hit_rates) == 6
    card = load_model(out, "cpu").card
    assert card["training"]["images"] == ["a", "c"] and card["validation"]["images"] == ["b"]
    assert card["validation"]["hit_rate"] == max(rate for _, rate in reports[-1].hit_rates)
    assert model.vocabulary is not None


def test_stopping_early_writes_the_model(folders, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    steps: list[int] = []
    job = run(folders, out, validation=["a"], should_stop=lambda: len(steps) >= 2)
    finish(job, lambda tick: steps.append(tick.done) if tick.partial else None)
    card = load_model(out, "cpu").card
    assert card["training"]["steps_done"] == 3
    assert not out.with_name("m.safetensors.checkpoint").exists()


@pytest.mark.parametrize("while_measuring", [False, True])
def test_a_training_that_is_closed_goes_on_as_if_nothing_had_been(
    folders, tmp_path: Path, while_measuring: bool
) -> None:
    out, whole = tmp_path / "m.safetensors", tmp_path / "whole.safetensors"
    finish(run(folders, whole, validation=["c"]))
    job = run(folders, out, validation=["c"])
    for tick in job:
        if tick.stage == "training" and tick.done == 3 and while_measuring == (tick.partial is None):
            break
    job.close()
    assert not out.exists() and out.with_name("m.safetensors.checkpoint").is_file()
    finish(run(folders, out, validation=["c"], resume=True))
    first, second = (load_model(path, "cpu") for path in (out, whole))
    assert first.card["validation"] == second.card["validation"]
    for name, tensor in first.networks.state_dict().items():
        np.testing.assert_allclose(tensor.numpy(), second.networks.state_dict()[name].numpy(), atol=2e-3)


def test_a_checkpoint_of_other_validation_pairs_is_refused(folders, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    job = run(folders, out, validation=["c"])
    next(tick for tick in job if tick.partial)
    job.close()
    with pytest.raises(ComirSearchError, match="other images, steps"):
        finish(run(folders, out, validation=["b"], resume=True))


@pytest.mark.parametrize(
    ("names", "sentence"), [(["x"], "no pair named 'x'"), (["a", "b", "c"], "All pairs are kept back")]
)
def test_what_cannot_be_kept_back_is_said(folders, tmp_path: Path, names, sentence) -> None:
    with pytest.raises(ComirSearchError, match=sentence):
        finish(run(folders, tmp_path / "m.safetensors", validation=names))


def test_choosing_leaves_something_to_learn_from() -> None:
    names = [f"core {number}" for number in range(10)]
    assert choose_validation(names, 3) == choose_validation(names, 3)
    assert len(choose_validation(names, 3)) == 3
    assert len(choose_validation(names, 50)) == 9
    assert choose_validation(["only"], 1) == []
