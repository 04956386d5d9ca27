"""What tests of every part share."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real images, which are not part of the repository."""
    folder = Path(os.environ.get("COMIR_SEARCH_SHARED_DATA") or CHECKOUT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"needs the real images in {folder} (or COMIR_SEARCH_SHARED_DATA)")
    return folder


@dataclass(frozen=True)
class Answer:
    """What a command did: its exit code, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one sentence on stderr, after the lines that say what was being done."""
        return self.err.strip().splitlines()[-1]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]):
    """Run ``comir-search`` in this process: ``command("info", path) -> Answer``."""

    def run(*arguments: object) -> Answer:
        from comir_search.cli import main

        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Answer(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def run_python():
    """Run Python code in a process of its own and return what it prints."""

    def run(code: str) -> str:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def documents() -> dict[Path, str]:
    """Texts of the documentation by file."""
    files = [CHECKOUT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    files += sorted((CHECKOUT / "docs").glob("*.md"))
    return {file: file.read_text(encoding="utf-8") for file in files}


@pytest.fixture(scope="session")
def documented_commands(documents) -> list[list[str]]:
    """Return the words of each command in the documentation's code blocks, in their order."""
    blocks = [
        block
        for text in documents.values()
        for block in re.findall(r"^```(?:sh|bash)?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    without_prompt = [re.sub(r"^(?:\w+\$\s+)?(?:[A-Z_]+=\S+\s+)*", "", line) for line in lines]
    programs = ("comir-search", "make", "pip")
    return [shlex.split(line, comments=True) for line in without_prompt if line.startswith(programs)]
