"""The index's tests run on a small network in a real model, in small regions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import small

from comir_search.documents import with_digest
from comir_search.index.build import index_slides
from comir_search.index.index import Index
from comir_search.model import model as models


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model, as a file."""
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    small.make_model().save(path)
    return path


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, model_file: Path) -> models.Model:
    """The small model, which takes the place of the shipped one."""
    monkeypatch.setattr(models, "build_network", small.build_network)
    monkeypatch.setattr(models, "DEFAULT_MODEL", model_file)
    return models.load_model(device="cpu")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, model_file: Path) -> Path:
    """A folder with slides/disc.tif, 750 x 750 CoMIR pixels, and its index in regions of 256 model pixels."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "slides").mkdir()
    small.write_slide(folder / "slides" / "disc.tif")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "build_network", small.build_network)
        Index.create(folder / "index", models.load_model(model_file, "cpu"), "bf", region_px=256)
        index_slides([folder / "slides"], folder / "index")
    return folder


@pytest.fixture
def slide_file(finished: Path, tmp_path: Path) -> Path:
    """A copy of the slide."""
    shutil.copytree(finished / "slides", tmp_path / "slides")
    return tmp_path / "slides" / "disc.tif"


@pytest.fixture
def index(model: models.Model, finished: Path, slide_file: Path, tmp_path: Path) -> Index:
    """A copy of its index."""
    shutil.copytree(finished / "index", tmp_path / "index")
    (record,) = (tmp_path / "index").rglob("slide.json")
    values = json.loads(record.read_text())
    record.write_text(json.dumps(with_digest(values | {"absolute_path": str(slide_file)})))
    return Index.open(tmp_path / "index")
