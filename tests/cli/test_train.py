from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from comir_search import load_model
from comir_search.training import run as training_run
from comir_search.training.trainer import Recipe

from .conftest import paint_brightfield, paint_signal, write_image


@pytest.fixture
def pairs(tmp_path, monkeypatch) -> Path:
    """Two pairs, and a recipe that is quick enough for a test."""

    def small(architecture: str, steps: int | None, seed: int) -> Recipe:
        return Recipe(architecture, steps=steps or 3, batch=2, crop_px=96, seed=seed)

    monkeypatch.setattr(training_run, "_recipe", small)
    few_words = partial(training_run.learn_vocabulary_steps, n_words=16, dimensions=4)
    monkeypatch.setattr(training_run, "learn_vocabulary_steps", few_words)
    for seed, name in enumerate("ab"):
        write_image(tmp_path / "bf" / f"{name}.tif", paint_brightfield(256, 256, seed), pixel_size_um=None)
        write_image(tmp_path / "shg" / f"{name}.tif", paint_signal(256, 256, seed), pixel_size_um=None)
    return tmp_path


def test_the_model_that_is_written_embeds_and_indexes(command, pairs, slide_file):
    out = pairs / "my.safetensors"
    folders = ("--bf", pairs / "bf", "--shg", pairs / "shg")
    answer = command("train", *folders, "--out", out, "--pixel-size", 2.5, "--seed", 3, "--device", "cpu")
    assert answer.code == 0, answer.err
    assert "3 steps on 2 pairs" in answer.out and "not calibrated" in answer.out
    model = load_model(out, "cpu")
    assert (model.pixel_size_um, model.modalities) == (2.5, ("bf", "shg"))
    assert model.card["training"]["seed"] == 3 and model.card["training"]["images"] == ["a", "b"]
    written = sorted(path.name for path in pairs.iterdir() if path.is_file())
    assert written == ["my.safetensors", "my.safetensors.loss.csv"]

    indexed = command("index", slide_file, "--index", pairs / "index", "--model", out, "--device", "cpu")
    assert indexed.code == 0, indexed.err
    assert json.loads((pairs / "index" / "index.json").read_text())["model"] == model.words_fingerprint


def test_the_same_seed_trains_the_same_model_on_the_images_asked_for(command, pairs):
    folders = ("--bf", pairs / "bf", "--shg", pairs / "shg")
    outs = [pairs / f"{number}.safetensors" for number in range(2)]
    for out in outs:
        assert command("train", *folders, "--out", out, "--names", "b", "--device", "cpu").code == 0
    first, second = (load_model(out, "cpu") for out in outs)
    assert first.card["training"]["images"] == ["b"]
    for name, tensor in first.networks.state_dict().items():
        np.testing.assert_allclose(tensor.numpy(), second.networks.state_dict()[name].numpy(), err_msg=name)


def test_a_broken_pair_is_left_out_by_name_and_the_model_is_written(command, pairs):
    (pairs / "shg" / "b.tif").write_bytes(b"no image")
    folders = ("--bf", pairs / "bf", "--shg", pairs / "shg")
    answer = command("train", *folders, "--out", pairs / "my.safetensors", "--device", "cpu")
    assert answer.code == 1
    assert "1 of 2 were left out" in answer.err and "b.tif" in answer.sentence and "on 1 pairs" in answer.out
    assert load_model(pairs / "my.safetensors", "cpu").card["training"]["images"] == ["a"]


def test_a_pixel_size_that_no_model_has_is_refused(command, pairs):
    folders = ("--bf", pairs / "bf", "--shg", pairs / "shg")
    answer = command("train", *folders, "--out", pairs / "my.safetensors", "--pixel-size", 1000)
    assert answer.code == 1 and "works at 0.02 to 100 um" in answer.sentence
