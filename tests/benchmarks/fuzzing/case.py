"""One malformed input, and what came of using it."""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from comir_search.errors import ComirSearchError

T = TypeVar("T")
MEBIBYTE = 1 << 20


@dataclass
class Case:
    """A malformed input in a folder of its own.

    Parameters
    ----------
    folder : Path
        Everything of the case is below it.
    target : Path
        The malformed file or folder.
    owned : list of Path
        What may be written, with all that is below; everything else must stay as it is.
    canaries : list of Path
        Files of somebody else's inside what is owned: they must stay, too.
    notes : list of str
        What was broken.
    thorough : bool
        Whether what takes longest is tried, too.
    """

    folder: Path
    target: Path
    owned: list[Path] = field(default_factory=list)
    canaries: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    thorough: bool = True

    @classmethod
    def begin(cls, folder: Path, target: str) -> Case:
        """Make the folder of a case, whose input will have that name."""
        case = cls(folder, folder / target)
        for owned in (case.out, case.scratch):
            owned.mkdir(parents=True)
            case.owned.append(owned)
        case.victim.write_bytes(b"a file of somebody else")
        return case

    @property
    def scratch(self) -> Path:
        """Folder for temporary files."""
        return self.folder / "tmp"

    @property
    def victim(self) -> Path:
        """File outside the input, which hostile names point to."""
        return self.folder / "victim.txt"

    @property
    def out(self) -> Path:
        """Folder for what an action writes."""
        return self.folder / "out"

    @property
    def executed(self) -> Path:
        """File that code hidden in an input would make."""
        return self.folder / "executed"

    def add_canary(self, path: Path, content: bytes = b"a file of somebody else") -> Path:
        """Put a file where it must stay."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.canaries.append(path)
        return path


@dataclass
class Step:
    """What one action on the input came to: "accepted", "refused" or "raw"."""

    name: str
    outcome: str
    error: str = ""
    place: str = ""


class Attempt:
    """Tries actions, each whatever became of those before, and remembers how each ended."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def __call__(self, name: str, action: Callable[[], T]) -> T | None:
        """Return what an action returns, or None where it failed."""
        try:
            result = action()
        except ComirSearchError as error:
            self.steps.append(Step(name, "refused", str(error)))
        except BaseException as error:  # noqa: BLE001 (that is what is looked for)
            what = "".join(traceback.format_exception_only(error)).strip()
            self.steps.append(Step(name, "raw", what, _place_of(error)))
        else:
            self.steps.append(Step(name, "accepted"))
            return result
        return None

    def complain(self, name: str, problem: str) -> None:
        """Note that what an action made is wrong, although it raised nothing."""
        self.steps.append(Step(name, "raw", problem, name))


class Kind(Protocol):
    """A kind of input: the modules `images`, `models`, ... are such."""

    MEMORY_BYTES: int

    def make_bases(self, folder: Path) -> None:
        """Write sound inputs, the same bytes each time."""

    def copy_bases(self, bases: Path, folder: Path) -> list[Case]:
        """Return the sound inputs as cases, each in a folder below the one given."""

    def write_case(self, bases: Path, folder: Path, rng: np.random.Generator) -> Case:
        """Write one malformed input into a folder of its own."""

    def act(self, case: Case, attempt: Attempt) -> None:
        """Use the input as a user would."""


def pick(rng: np.random.Generator, items: Any) -> Any:
    """Return one of a sequence, unchanged in type."""
    return items[int(rng.integers(len(items)))]


def copy_tree(source: Path, target: Path) -> Path:
    """Copy a file or a folder with what is in it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copyfile(source, target)
    return target


def _place_of(error: BaseException) -> str:
    """Return the last line of the program's own that an error went through, as file:line function."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "comir_search" in Path(frame.filename).parts]
    if not own:
        return ""
    file = Path(own[-1].filename)
    parts = file.parts[file.parts.index("comir_search") + 1 :]
    return f"{'/'.join(parts)}:{own[-1].lineno} {own[-1].name}"
