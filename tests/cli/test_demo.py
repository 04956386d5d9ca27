"""The demo: the shipped model, trained on real pairs only, finds the synthetic patches."""

import json
import subprocess
import sys

import pytest
from PIL import Image

from comir_search.study.project import Project


@pytest.mark.slow
def test_demo_finds_its_patches(command, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(subprocess, "Popen", started.append)
    answer = command("demo", "--out", tmp_path / "demo", "--gui", "--device", "cpu")
    assert answer.code == 0, answer.err
    assert "6 of 6 answers are right." in answer.out and "simulated" in answer.out
    folder = tmp_path / "demo"
    assert {path.name for path in folder.iterdir()} == {
        "slides",
        "queries",
        "truth.csv",
        "index",
        "overlay.png",
        "demo.comirproj",
    }
    with Image.open(folder / "overlay.png") as picture:
        assert picture.width > 800
    with Project.open(folder / "demo.comirproj") as project:
        assert len(project.slides) == 2 and len(project.queries) == 6
        assert [query.result.found for query in project.queries] == [True] * 5 + [False]
    assert started == [[sys.executable, "-m", "napari", str(folder / "demo.comirproj")]]

    answer = command(
        "evaluate-slide",
        *("--index", folder / "index", "--queries", folder / "queries", "--truth", folder / "truth.csv"),
        *("--json", tmp_path / "out.json"),
    )
    assert answer.code == 0, answer.err
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["hit"]["1"] == 1.0 and report["n_absent"] == 1 and report["median_error_um"] < 4
