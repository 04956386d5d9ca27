"""Safetensors files that may come from anywhere: looked at before they are read.

Nothing heavy is imported, so that a window can look into a file at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from comir_search.documents import BadDocument
from comir_search.errors import ComirSearchError

FLOATS = ("F16", "F32", "F64")
INTEGERS = ("I64",)
MAX_TENSORS = 10_000
LISTED = 3

Shape = tuple[int, ...]


class TensorFile:
    """An open file: its text, and the shapes and types of its tensors; see `open_tensors`.

    Attributes
    ----------
    metadata : dict of str to str
        Not checked.
    shapes : dict of str to tuple of int
        Of each tensor; together they are no larger than the file.
    """

    def __init__(self, path: Path, advice: str, file: Any) -> None:
        self.path, self.advice, self._file = path, advice, file
        self.metadata: dict[str, str] = file.metadata() or {}
        names = list(file.keys())
        if len(names) > MAX_TENSORS:
            raise BadDocument(str(path), f"it lists {len(names)} tensors", advice)
        slices = {name: file.get_slice(name) for name in names}
        self.shapes: dict[str, Shape] = {name: tuple(part.get_shape()) for name, part in slices.items()}
        self._dtypes: dict[str, str] = {name: part.get_dtype() for name, part in slices.items()}

    def group(self, prefix: str) -> dict[str, Shape]:
        """Return the shapes of the tensors whose names begin with a prefix, by the rest of the name."""
        return {name.removeprefix(prefix): s for name, s in self.shapes.items() if name.startswith(prefix)}

    def read(self, name: str) -> NDArray[Any]:
        """Return a copy of a tensor: float32 or int64, and finite.

        Raises
        ------
        BadDocument
            If its type is another, or a value is not a number.
        """
        kind = self._dtypes[name]
        if kind not in (*FLOATS, *INTEGERS):
            raise BadDocument(str(self.path), f"{quote(name)} has the type {kind}", self.advice)
        with np.errstate(over="ignore"):  # what overflows is refused below
            values = np.array(self._file.get_tensor(name), np.int64 if kind in INTEGERS else np.float32)
        if not np.isfinite(values).all():
            raise BadDocument(str(self.path), f"{quote(name)} holds values that are not numbers", self.advice)
        return values

    def read_group(self, prefix: str, expected: Mapping[str, Shape]) -> dict[str, NDArray[Any]]:
        """Read the tensors whose names begin with a prefix, once they are exactly those expected.

        Raises
        ------
        BadDocument
            If a tensor is missing, is one too many, or has another shape; nothing was read then.
        """
        problem = find_misfit(expected, self.group(prefix))
        if problem:
            raise BadDocument(str(self.path), problem, self.advice)
        return {name: self.read(prefix + name) for name in expected}


@contextmanager
def open_tensors(path: Path, *, wanted: str, advice: str) -> Iterator[TensorFile]:
    """Open a safetensors file.

    Parameters
    ----------
    path : Path
    wanted : str
        What to give instead where there is no file, as in "a model file".
    advice : str
        The way out where it is damaged, as in "train or copy it again".

    Yields
    ------
    TensorFile

    Raises
    ------
    ComirSearchError
        If it is no regular file, cannot be read, or is no safetensors file.
    """
    require_file(path, wanted)
    try:
        with safe_open(path, "numpy") as file:
            yield TensorFile(path, advice, file)
    except OSError as error:
        raise ComirSearchError(f"{path} cannot be read ({error.strerror or error}).") from error
    except SafetensorError as error:
        raise BadDocument(str(path), quote(str(error)), advice) from error


def require_file(path: Path, wanted: str) -> None:
    """Refuse what is no regular file: a pipe would be waited for without end.

    Parameters
    ----------
    path : Path
    wanted : str
        What to give instead.

    Raises
    ------
    ComirSearchError
    """
    try:
        if path.is_file():
            return
        is_what = "is a folder" if path.is_dir() else "is not a regular file" if path.exists() else ""
    except (OSError, ValueError) as error:  # not permitted, or a name that no file can have
        raise ComirSearchError(f"{path} cannot be read ({error}); give {wanted}.") from error
    raise ComirSearchError(f"{path} {is_what or 'does not exist'}; give {wanted}.")


def find_misfit(expected: Mapping[str, Shape], found: Mapping[str, Shape]) -> str:
    """Say by what tensors are not those that a network has; "" where they are.

    Parameters
    ----------
    expected, found : mapping of str to tuple of int
        Shapes by name.
    """
    for names, what in (
        (expected.keys() - found.keys(), "lacks"),
        (found.keys() - expected.keys(), "also has"),
    ):
        if names:
            listed = ", ".join(quote(name) for name in sorted(names)[:LISTED])
            return f"it {what} {listed}{', ...' if len(names) > LISTED else ''}"
    for name, shape in expected.items():
        if shape != found[name]:
            return f"{name} has the shape {quote(str(found[name]))} instead of {shape}"
    return ""


def quote(text: str) -> str:
    """Return a name or a reason out of a file as part of one sentence."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    return line if len(line) <= 80 else f"{line[:79]}…"
