"""Ctrl-C and kill -9 in the middle of long commands, then the same command again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from patience import within

from .conftest import paint_brightfield, paint_signal, write_image

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="Windows has neither SIGINT nor SIGKILL for others"),
    pytest.mark.usefixtures("heeds_ctrl_c"),
]

EXECUTABLE = Path(sys.executable).with_name("comir-search")
LONGEST_S = 120.0


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [EXECUTABLE, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def stop_when(
    process: subprocess.Popen[str], ready: Callable[[], bool], sign: signal.Signals
) -> tuple[int, str]:
    """Send a signal as soon as `ready` says so; return the exit code and what is on stderr."""
    deadline = time.monotonic() + LONGEST_S
    while not ready():
        assert process.poll() is None, f"it ended by itself: {process.stderr.read()}"
        assert time.monotonic() < deadline, "it never got so far"
        time.sleep(0.02)
    process.send_signal(sign)
    with within(4):  # a second on an idle machine
        _, err = process.communicate(timeout=LONGEST_S)
    return process.returncode, err


def finish(*arguments: object) -> None:
    subprocess.run([EXECUTABLE, *map(str, arguments)], check=True, capture_output=True, timeout=600)


def assert_nothing_half_written(folder: Path) -> None:
    assert [path for path in folder.rglob("*") if ".part" in path.name] == []


def slide_content(index: Path) -> dict[str, bytes]:
    """Return the arrays of an index's slides, file by file."""
    return {
        str(path.relative_to(index)): path.read_bytes()
        for path in sorted(index.glob("slides/*/*/**/c/**/*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def large_slide(tmp_path_factory) -> Path:
    """Slide of several regions."""
    return write_image(tmp_path_factory.mktemp("large") / "large.ome.tif", paint_brightfield(320, 3100))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, large_slide) -> dict[str, bytes]:
    """Return what an index holds that was made in one go."""
    index = tmp_path_factory.mktemp("undisturbed") / "index"
    finish("index", large_slide, "--index", index, "--device", "cpu")
    return slide_content(index)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill-9"])
def test_index_goes_on_where_it_stopped(tmp_path, large_slide, undisturbed, sign):
    index = tmp_path / "index"
    arguments = ("index", large_slide, "--index", index, "--device", "cpu")
    code, err = stop_when(start(*arguments), lambda: any(index.glob("slides/*/comir/0/c/**/?")), sign)
    if sign == signal.SIGINT:
        assert code == 130
        assert (
            err.splitlines()[-1]
            == "Stopped; what is finished is kept, and the same command goes on from there."
        )
        assert "Traceback" not in err
        assert_nothing_half_written(index)
    else:
        assert code == -signal.SIGKILL
    assert list(index.rglob("slide.json")) == []

    finish(*arguments)
    assert len(list(index.rglob("slide.json"))) == 1
    assert slide_content(index) == undisturbed
    assert_nothing_half_written(index)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    for seed, name in enumerate("ab"):
        write_image(folder / "bf" / f"{name}.tif", paint_brightfield(320, 320, seed))
        write_image(folder / "shg" / f"{name}.tif", paint_signal(320, 320, seed))
    return folder


SMALL_AND_CAREFUL = (
    "import sys, functools, comir_search.training.run as run\n"
    "run.CHECKPOINT_EVERY = 1\n"
    "run._recipe = lambda _, steps, seed: run.Recipe(steps=steps, batch=4, crop_px=96, seed=seed)\n"
    "run.learn_vocabulary_steps = functools.partial(run.learn_vocabulary_steps, n_words=16, dimensions=4)\n"
    "from comir_search.cli import main\n"
    "sys.exit(main(sys.argv[1:]))"
)


def train_command(pairs: Path, out: Path, *extra: str) -> list[str]:
    """Return a training of a few small steps that writes a checkpoint at each."""
    options = [
        "--bf",
        pairs / "bf",
        "--shg",
        pairs / "shg",
        "--out",
        out,
        "--steps",
        5,
        "--device",
        "cpu",
        *extra,
    ]
    return [sys.executable, "-c", SMALL_AND_CAREFUL, "train", *map(str, options)]


@pytest.fixture(scope="module")
def trained_in_one_go(tmp_path_factory, pairs) -> Path:
    out = tmp_path_factory.mktemp("whole") / "whole.safetensors"
    subprocess.run(train_command(pairs, out), check=True, capture_output=True, timeout=600)
    return out


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill-9"])
def test_train_goes_on_where_it_stopped(tmp_path, pairs, trained_in_one_go, sign):
    out, checkpoint = tmp_path / "model.safetensors", tmp_path / "model.safetensors.checkpoint"
    process = subprocess.Popen(
        train_command(pairs, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    code, err = stop_when(process, checkpoint.exists, sign)
    if sign == signal.SIGINT:
        assert code == 130
        assert (
            err.splitlines()[-1]
            == "Stopped; the same command with --resume goes on from the last checkpoint."
        )
        assert_nothing_half_written(tmp_path)
    assert not out.exists()

    subprocess.run(train_command(pairs, out, "--resume"), check=True, capture_output=True, timeout=600)
    assert not checkpoint.exists()
    steps = (tmp_path / "model.safetensors.loss.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in steps] == ["step", "1", "2", "3", "4", "5"]
    assert_same_networks(out, trained_in_one_go)


def assert_same_networks(first: Path, second: Path) -> None:
    from comir_search import load_model

    one, other = (load_model(path, "cpu").networks.state_dict() for path in (first, second))
    for name, tensor in one.items():
        np.testing.assert_allclose(tensor.numpy(), other[name].numpy(), rtol=1e-4, atol=1e-5, err_msg=name)
