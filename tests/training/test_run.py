"""A training that is watched, stopped and resumed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from comir_search.errors import BatchIncomplete, ComirSearchError
from comir_search.model.calibration import Calibration
from comir_search.model.model import BF, SHG, load_model
from comir_search.opencv import cv2
from comir_search.progress import Tick, finish
from comir_search.training import run as training_run
from comir_search.training.pairs import Pair
from comir_search.training.paused import read_paused
from comir_search.training.run import TrainingReport, train_steps
from comir_search.training.run_files import RunFiles
from comir_search.training.trainer import Recipe, Trainer
from comir_search.training.validation import Best, Validation, choose_validation

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
    ("names", "sentence"),
    [(["x"], "no pair named 'x'"), (["a", "b", "c"], "All pairs are in the validation set")],
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


def test_a_model_has_no_confidence_but_its_own(folders, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    assert finish(run(folders, out)).calibration is None
    assert load_model(out, "cpu").calibration is None
    own = Calibration((1.0, 2.0, 3.0, 4.0, -5.0), 0.9)
    finish(run(folders, out, calibration=own))
    assert load_model(out, "cpu").calibration == own


def test_pairs_that_cannot_be_used_are_left_out_by_name(folders, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    (folders[0] / "a.png").write_bytes(b"no image")
    for folder in folders:
        cv2.imwrite(str(folder / "small.png"), paint(9, 80))
    notes: list[str] = []
    with pytest.raises(BatchIncomplete) as caught:
        finish(run(folders, out, validation=["a", "b"]), lambda tick: notes.append(tick.note))
    incomplete = caught.value
    assert [each.name for each in incomplete.left_out] == ["a", "small"] and incomplete.n_members == 4
    assert "a.png" in incomplete.left_out[0].reason and "only 80 x 80 px" in incomplete.left_out[1].reason
    assert [note.split(" is left out")[0] for note in notes if note] == ["The pair a", "The pair small"]
    card = load_model(out, "cpu").card
    assert card == incomplete.result.card | {"validation": card["validation"]}
    assert card["training"]["images"] == ["c"] and card["validation"]["images"] == ["b"]


def test_a_training_of_no_pair_fails_by_the_pairs_own_reasons(folders, tmp_path: Path) -> None:
    for name in "abc":
        (folders[1] / f"{name}.png").write_bytes(b"no image")
    with pytest.raises(BatchIncomplete, match="3 of 3 were left out") as caught:
        finish(run(folders, tmp_path / "m.safetensors"))
    assert caught.value.result is None
    with pytest.raises(ComirSearchError, match=r"a\.png") as single:
        finish(run(folders, tmp_path / "m.safetensors", names=["a"]))
    assert not isinstance(single.value, BatchIncomplete)
    assert not list(tmp_path.glob("m.safetensors*"))


def test_a_training_that_does_not_converge_is_stopped(folders, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Trainer, "_place_loss", lambda self, batch: self.log_scale * float("nan"))
    with pytest.raises(ComirSearchError, match="does not converge: at step 1 "):
        finish(run(folders, tmp_path / "m.safetensors"))
    assert not list(tmp_path.glob("m.safetensors*"))


@pytest.mark.parametrize("resume", [False, True])
def test_a_file_that_is_no_checkpoint_is_not_overwritten(folders, tmp_path: Path, resume: bool) -> None:
    foreign = tmp_path / "m.safetensors.checkpoint"
    finish(run(folders, foreign))  # a model of that name
    for content in (b"my notes", foreign.read_bytes()):
        foreign.write_bytes(content)
        with pytest.raises(ComirSearchError, match=r"m\.safetensors\.checkpoint is damaged.*move it away"):
            finish(run(folders, tmp_path / "m.safetensors", resume=resume))
        assert foreign.read_bytes() == content and not (tmp_path / "m.safetensors").exists()
        assert read_paused(tmp_path / "m.safetensors") is None


@pytest.fixture(params=["compact", "tiramisu"])
def paused(request, tmp_path: Path) -> RunFiles:
    """Return a run after one step, which has just been saved."""
    image = paint(0, 256).astype(np.float32)[..., None] / 255
    pairs = [Pair("a", np.repeat(image, 3, axis=2), image)]
    recipe = Recipe(request.param, comir_channels=1, steps=3, batch=1, crop_px=128)
    trainer = Trainer(pairs, (3, 1), recipe, torch.device("cpu"))
    files = RunFiles(tmp_path / "m.safetensors", trainer, "hash", [], 2.0)
    files.losses = [(1, trainer.advance(trainer.sampler.draw(1, 0)))]
    files.save()
    return files


def test_a_checkpoint_of_either_network_is_read_as_it_was_written(paused: RunFiles, tmp_path: Path) -> None:
    before = paused.checkpoint.read_bytes()
    paused.load()
    paused.save()
    assert paused.checkpoint.read_bytes() == before
    found = read_paused(tmp_path / "m.safetensors")
    assert found is not None and (found.done, found.steps, found.pixel_size_um) == (1, 3, 2.0)


@pytest.mark.parametrize("paused", ["compact"], indirect=True)
def test_a_broken_checkpoint_is_refused_in_words(paused: RunFiles, tmp_path: Path) -> None:
    content, rng = paused.checkpoint.read_bytes(), np.random.default_rng(0)
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length]
    broken = [
        header.replace(b'\\"step\\": 1', wrong)
        for wrong in (b'\\"step\\": 4', b'\\"step\\": -1', b'\\"step\\": null', b'\\"step\\": 1e99')
    ]
    broken += [
        header.replace(b'\\"losses\\": [[', b'\\"losses\\": [[NaN, 1], ['),
        header.replace(b"log_scale", b"log_scalf"),
    ]
    broken += [
        header.replace(b"optimiser.3.step", b"optimiser.3.stop"),
        header.replace(b'"F32"', b'"I32"', 1),
    ]
    for text in broken:
        assert text != header
        paused.checkpoint.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
        with pytest.raises(ComirSearchError, match=r"m\.safetensors\.checkpoint "):
            paused.load()
    for number in range(100):
        bytes_ = bytearray(content)
        bytes_[int(rng.integers(length))] = int(rng.integers(256))
        paused.checkpoint.write_bytes(bytes_ if number % 4 else bytes_[: int(rng.integers(len(bytes_)))])
        read_paused(tmp_path / "m.safetensors")
        try:
            paused.load()
        except ComirSearchError as error:
            assert str(paused.checkpoint) in str(error)
