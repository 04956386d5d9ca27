"""A small real slide with a real index: an untrained network finds brightfield in brightfield."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("NAPARI_ASYNC", "0")

PIXEL_SIZE_UM = 1.0
SLIDE_SHAPE = (800, 1000)


@dataclass(frozen=True)
class Study:
    """A folder with two slides, a model and an index of the first slide."""

    folder: Path

    @property
    def slides(self) -> Path:
        return self.folder / "slides"

    @property
    def index(self) -> Path:
        return self.slides / "repository.comirindex"

    @property
    def model(self) -> Path:
        return self.folder / "tiny.safetensors"


def paint_tissue(shape: tuple[int, int], seed: int) -> np.ndarray:
    """Return something like stained tissue: blobs and fibres of many sizes, no two places alike."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    density = sum(
        gaussian_filter(rng.standard_normal(shape).astype(np.float32), sigma) * sigma for sigma in (2, 5, 12)
    )
    stain = 1 / (1 + np.exp(-2 * density / density.std()))
    colour = np.stack([stain * absorption for absorption in (0.5, 1.3, 0.7)], axis=-1)
    return (255 * np.exp(-colour)).astype(np.uint8)


def write_slide(path: Path, image: np.ndarray) -> None:
    import tifffile

    with tifffile.TiffWriter(path, ome=True) as file:
        metadata = {"axes": "YXS", "PhysicalSizeX": PIXEL_SIZE_UM, "PhysicalSizeY": PIXEL_SIZE_UM}
        options = {"tile": (256, 256), "photometric": "rgb", "compression": "deflate"}
        file.write(image, subifds=2, metadata=metadata, **options)
        for step in (2, 4):
            file.write(image[::step, ::step], subfiletype=1, **options)


def make_model():
    """Return an untrained model, the same every time, with a vocabulary of its own CoMIRs."""
    import torch
    from torch import nn

    from comir_search.model.embedding import code, decode, embed_array
    from comir_search.model.model import BF, SHG, Model
    from comir_search.model.networks import build_network
    from comir_search.progress import finish
    from comir_search.training.vocabulary_learning import learn_vocabulary_steps

    torch.manual_seed(0)
    networks = nn.ModuleDict({side.name: build_network("compact", side.channels, 4) for side in (BF, SHG)})
    model = Model(
        networks,
        (BF, SHG),
        architecture="compact",
        comir_channels=4,
        pixel_size_um=2.0,
        card={"name": "untrained"},
    )
    image = paint_tissue((192, 192), seed=9).astype(np.float32) / 255
    # An untrained network answers faintly; scale its last layer so that the 8-bit code is used.
    comir = embed_array(model, image, "bf")
    last = [
        layer for layer in networks["bf"].modules() if isinstance(layer, nn.Conv2d) and layer.bias is not None
    ][-1]
    with torch.no_grad():
        last.bias -= torch.from_numpy(comir.mean(axis=(1, 2)))
        scale = torch.from_numpy(2 / comir.std(axis=(1, 2)))
        last.weight *= scale[:, None, None, None]
        last.bias *= scale
    model = model.to("cpu")
    coded = (decode(code(embed_array(model, image, "bf"))) + 1) / 2
    noise = np.random.default_rng(0).normal(0, 0.05, coded.shape).astype(np.float32)
    pairs = [(coded, np.clip(coded + noise, 0, 1))]
    model.vocabulary = finish(
        learn_vocabulary_steps(pairs, stride=model.stride, pixel_size_um=2.0, n_words=32, dimensions=8)
    )
    return model


@pytest.fixture(scope="session")
def made_study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    from comir_search.index.build import index_slides

    study = Study(tmp_path_factory.mktemp("study"))
    study.slides.mkdir()
    write_slide(study.slides / "first.ome.tif", paint_tissue(SLIDE_SHAPE, 1))
    make_model().save(study.model)
    index_slides(
        [study.slides / "first.ome.tif"], study.index, model=study.model, modality="bf", device="cpu"
    )
    write_slide(study.slides / "second.ome.tif", paint_tissue((500, 600), 2))
    return study


@pytest.fixture
def study(made_study: Study, tmp_path: Path) -> Study:
    """A copy of the study that a test may change."""
    shutil.copytree(made_study.folder, tmp_path / "study")
    return Study(tmp_path / "study")


def settle(qtbot, dock) -> None:
    """Wait until nothing runs any more."""
    qtbot.waitUntil(lambda: not any(runner.is_running for runner in dock.workbench.runners), timeout=300_000)


@pytest.fixture
def searched_dock(qtbot, make_napari_viewer, study: Study, tmp_path: Path):
    """A dock in a window with an answer; the first candidate lies on the indexed slide."""
    from comir_search.retrieval.options import SearchOptions
    from comir_search.slides import open_slide
    from napari_comir_search.widgets.dock import SearchDock

    viewer = make_napari_viewer(show=True)
    viewer.window.resize(1280, 800)
    dock = SearchDock(viewer, folder=tmp_path / "projects")
    viewer.window.add_dock_widget(dock, name="CoMIR search", area="right")
    dock.workbench.take([study.slides])
    settle(qtbot, dock)
    with open_slide(study.slides / "first.ome.tif") as slide:
        image = np.asarray(slide.read_level(0, 400, 300, 200, 220))
    dock.session.add_query("q", image, modality="bf", pixel_size_um=1.0)
    settle(qtbot, dock)
    dock.workbench.search(SearchOptions(top=5))
    settle(qtbot, dock)
    yield dock
    dock.leave()
    settle(qtbot, dock)
