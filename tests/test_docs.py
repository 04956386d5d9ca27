"""The documentation: its commands are understood, its links and file names lead somewhere.

Its commands on the sample are run in `tests/cli/test_demo.py`.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from comir_search.cli import COMMANDS

CHECKOUT = Path(__file__).resolve().parent.parent


def test_the_command_understands_every_documented_line(documented_commands, command, monkeypatch):
    for name in COMMANDS:
        monkeypatch.setattr(f"comir_search.cli.{name.replace('-', '_')}.run", lambda args: 0)
    lines = [words for words in documented_commands if words[0] == "comir-search"]
    assert {words[1] for words in lines} >= {"index", "search", "train", "evaluate", "evaluate-slide"}
    answers = {" ".join(words): command(*words[1:]) for words in lines}
    assert {line: answer.err for line, answer in answers.items() if answer.code} == {}


def test_make_has_every_documented_target(documented_commands, documents):
    makefile = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):(?!=)", makefile, re.MULTILINE))
    named = [words for words in documented_commands if words[0] == "make"]
    named += [line.split() for text in documents.values() for line in re.findall(r"`(make [^`\n]+)`", text)]
    asked_for = {word for words in named for word in words[1:] if re.fullmatch(r"[a-z0-9-]+", word)}
    assert asked_for >= {"demo", "test", "lint", "docs"}
    assert asked_for <= targets


def test_pip_finds_every_documented_extra(documented_commands):
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    packages = [words[-1] for words in documented_commands if words[:2] == ["pip", "install"]]
    assert packages
    for package in packages:
        name, extra = re.fullmatch(r"([\w-]+)\[(\w+)\]", package).groups()
        assert name == project["name"] and extra in project["optional-dependencies"]


def test_every_link_leads_somewhere(documents):
    dead = []
    for file, text in documents.items():
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            path, _, anchor = link.partition("#")
            target = (file.parent / path).resolve() if path else file
            if "://" in link or (target.exists() and not anchor):
                continue
            if not target.exists() or anchor not in _anchors(target.read_text(encoding="utf-8")):
                dead.append(f"{file.name}: {link}")
    assert dead == []


def _anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_file_that_is_named_exists(documents):
    named = {
        (file.name, path)
        for file, text in documents.items()
        for path in re.findall(r"(?<![\w/.])(?:src|tests|docs|\.ci)/[\w./-]*\w", text)
    }
    assert len(named) > 30
    assert sorted(each for each in named if not (CHECKOUT / each[1]).exists()) == []


@pytest.mark.parametrize("package", ["comir_search", "napari_comir_search"])
def test_the_tree_names_every_folder(documents, package):
    text = documents[CHECKOUT / "docs" / "architecture.md"]
    tree = re.search(rf"^src/{package}/.*\n((?: +.*\n)+)", text, re.MULTILINE)
    drawn = re.findall(r"^ +(\w+)/", tree[1], re.MULTILINE)
    folders = {file.parent.name for file in (CHECKOUT / "src" / package).rglob("*/__init__.py")} - {package}
    assert set(drawn) == folders and len(drawn) == len(folders)


def test_the_readme_names_every_subcommand(documents):
    text = documents[CHECKOUT / "README.md"]
    table = text[text.index("| command | does |") :].split("\n\n")[0]
    assert [name for name in COMMANDS if f"`{name}`" not in table] == []


def test_the_readme_is_short(documents):
    assert len(documents[CHECKOUT / "README.md"].splitlines()) < 180


def test_every_page_is_listed(documents):
    listed = (CHECKOUT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [file.name for file in documents if file.parent.name == "docs"]
    assert pages and [name for name in pages if f": {name}\n" not in listed] == []
