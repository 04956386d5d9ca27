"""The demo: the shipped model, trained on real pairs only, finds the synthetic queries.

What README and docs do with the sample is done here, so that it is made only once.
"""

import json
import re
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO

import pytest
from PIL import Image

from comir_search.cli import main
from comir_search.study.project import Project

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Folder of the demo, what the command printed, and which programs it started."""
    folder, started, printed = tmp_path_factory.mktemp("sample") / "demo", [], StringIO()
    with pytest.MonkeyPatch.context() as patched, redirect_stdout(printed):
        patched.setattr(subprocess, "Popen", started.append)
        assert main(["demo", "--out", str(folder), "--gui", "--device", "cpu"]) == 0
    return folder, printed.getvalue(), started


def test_demo_finds_its_patches(demo):
    folder, printed, started = demo
    assert "6 of 6 answers are right." in printed and "simulated" in printed
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


def test_the_documented_commands_on_the_sample_work(demo, documented_commands, command, monkeypatch):
    folder = demo[0]
    monkeypatch.chdir(folder.parent)
    on_sample = [
        words
        for words in documented_commands
        if words[0] == "comir-search" and any(word.startswith("demo/") for word in words)
    ]
    for words in on_sample:
        answer = command(*words[1:])
        assert answer.code == 0, f"{' '.join(words)}: {answer.err}"
    assert {words[1] for words in on_sample} >= {"info", "search", "evaluate-slide", "verify"}

    report = json.loads((folder.parent / "report.json").read_text())
    assert report["hit"]["1"] == 1.0 and report["n_absent"] == 1 and report["median_error_um"] < 4


def test_the_documented_python_works_on_the_sample(demo, documents, monkeypatch, capsys):
    monkeypatch.chdir(demo[0].parent)
    for text in documents.values():
        for block in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            exec(block, {})
    assert capsys.readouterr().out.startswith("True The first place stands out")
