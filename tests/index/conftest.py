"""The index's tests run on a model without torch, in small regions."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import fake_model


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> fake_model.FakeModel:
    """A model that stands in for the shipped one."""
    for name, module in fake_model.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    return fake_model.FakeModel()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with slides/disc.tif, 750 x 750 CoMIR pixels, and its index in regions of 256 model pixels."""
    from comir_search.index.build import index_slides
    from comir_search.index.index import Index

    folder = tmp_path_factory.mktemp("finished")
    (folder / "slides").mkdir()
    fake_model.write_slide(folder / "slides" / "disc.tif")
    with pytest.MonkeyPatch.context() as patch:
        for name, module in fake_model.modules().items():
            patch.setitem(sys.modules, name, module)
        Index.create(folder / "index", fake_model.FakeModel(), "bf", region_px=256)
        index_slides([folder / "slides"], folder / "index")
    return folder


@pytest.fixture
def slide_file(finished: Path, tmp_path: Path) -> Path:
    """A copy of the slide."""
    shutil.copytree(finished / "slides", tmp_path / "slides")
    return tmp_path / "slides" / "disc.tif"


@pytest.fixture
def index(fake, finished: Path, slide_file: Path, tmp_path: Path):
    """A copy of its index."""
    from comir_search.documents import with_digest
    from comir_search.index.index import Index

    shutil.copytree(finished / "index", tmp_path / "index")
    (record,) = (tmp_path / "index").rglob("slide.json")
    values = json.loads(record.read_text())
    record.write_text(json.dumps(with_digest(values | {"absolute_path": str(slide_file)})))
    return Index.open(tmp_path / "index")
