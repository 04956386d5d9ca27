"""Small images, made here, that the shipped model indexes in a second or two."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

from comir_search.opencv import cv2

PIXEL_SIZE_UM = 2.0


@pytest.fixture
def heeds_ctrl_c() -> Iterator[None]:
    """Let child processes begin with SIGINT as at a keyboard, also where `nohup` or a script had it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def paint_structure(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return a picture in [0, 1] with structure from 4 px upwards."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width), np.float32)
    for step in (4, 16, 64):
        coarse = rng.random((height // step + 2, width // step + 2), dtype=np.float32)
        image += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return (image - image.min()) / (image.max() - image.min())


def paint_brightfield(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return a picture stained like tissue, (height, width, 3) uint8."""
    stained = paint_structure(height, width, seed)[..., None]
    return (235 - stained * np.array([60, 150, 80])).astype(np.uint8)


def paint_signal(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return a dark picture with bright fibres, (height, width) uint8."""
    return (255 * paint_structure(height, width, seed) ** 4).astype(np.uint8)


def write_image(path: Path, image: np.ndarray, pixel_size_um: float | None = PIXEL_SIZE_UM) -> Path:
    """Write an OME-TIFF, or where no pixel size is given a plain TIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    photometric = "rgb" if image.ndim == 3 else "minisblack"
    if pixel_size_um is None:
        tifffile.imwrite(path, image, photometric=photometric, metadata=None)
    else:
        axes = "YXS" if image.ndim == 3 else "YX"
        metadata = {"axes": axes, "PhysicalSizeX": pixel_size_um, "PhysicalSizeY": pixel_size_um}
        tifffile.imwrite(path, image, ome=True, photometric=photometric, metadata=metadata, tile=(256, 256))
    return path


@pytest.fixture(scope="session")
def slide_file(tmp_path_factory) -> Path:
    """Brightfield slide of 1.3 x 1 mm."""
    return write_image(tmp_path_factory.mktemp("slides") / "slide.ome.tif", paint_brightfield(512, 640))


@pytest.fixture(scope="session")
def query_file(tmp_path_factory) -> Path:
    """Signal patch of 0.26 mm that lies nowhere."""
    return write_image(tmp_path_factory.mktemp("queries") / "patch.ome.tif", paint_signal(128, 128, seed=1))


@pytest.fixture(scope="session")
def _made_index(tmp_path_factory, slide_file) -> Path:
    from comir_search.cli import main

    path = tmp_path_factory.mktemp("made") / "index"
    assert main(["index", str(slide_file), "--index", str(path)]) == 0
    return path


@pytest.fixture
def index_folder(_made_index, tmp_path) -> Path:
    """Return an index of `slide_file`, for this test alone."""
    return Path(shutil.copytree(_made_index, tmp_path / "index"))
