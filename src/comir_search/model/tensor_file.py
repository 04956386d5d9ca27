"""Read safetensors files safely: their header is checked before their tensors are read.

Only small modules are imported, so the plugin can look into a file quickly.
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
    """An open file: its metadata, and the shapes and types of its tensors; see `open_tensors`.

    Attributes
    ----------
    metadata : dict of str to str
        Text values, not checked.
    shapes : dict of str to tuple of int
        Shape of each tensor; together they are no larger than the file.
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
        """Return the shapes of the tensors whose names start with a prefix, by the rest of the name."""
        return {name.removeprefix(prefix): s for name, s in self.shapes.items() if name.startswith(prefix)}

    def read(self, name: str) -> NDArray[Any]:
        """Return a copy of a tensor as float32 or int64; all values are finite.

        Raises
        ------
        BadDocument
            If its data type is different, or a value is NaN or infinity.
        """
        kind = self._dtypes[name]
        if kind not in (*FLOATS, *INTEGERS):
            raise BadDocument(str(self.path), f"{quote(name)} has the type {kind}", self.advice)
        with np.errstate(over="ignore"):  # overflow gives infinity, which is refused below
            values = np.array(self._file.get_tensor(name), np.int64 if kind in INTEGERS else np.float32)
        if not np.isfinite(values).all():
            raise BadDocument(
                str(self.path), f"{quote(name)} contains values that are not numbers", self.advice
            )
        return values

    def read_group(self, prefix: str, expected: Mapping[str, Shape]) -> dict[str, NDArray[Any]]:
        """Read the tensors whose names start with a prefix, if they are exactly the expected ones.

        Raises
        ------
        BadDocument
            If a tensor is missing, unexpected or of another shape; then nothing is read.
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
        What the user should give if there is no such file, such as "a model file".
    advice : str
        What the user can do if it is damaged, such as "train or copy it again".

    Yields
    ------
    TensorFile

    Raises
    ------
    ComirSearchError
        If it is not a regular file, cannot be read, or is not a safetensors file.
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
    """Raise an error if a path is not a regular file: reading from a pipe could wait for ever.

    Parameters
    ----------
    path : Path
    wanted : str
        What the user should give instead.

    Raises
    ------
    ComirSearchError
    """
    try:
        if path.is_file():
            return
        is_what = "is a folder" if path.is_dir() else "is not a regular file" if path.exists() else ""
    except (OSError, ValueError) as error:  # no permission, or an impossible name
        raise ComirSearchError(f"{path} cannot be read ({error}); give {wanted}.") from error
    raise ComirSearchError(f"{path} {is_what or 'does not exist'}; give {wanted}.")


def find_misfit(expected: Mapping[str, Shape], found: Mapping[str, Shape]) -> str:
    """Return how tensors differ from those of a network, "" if they do not.

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
    """Return a text from a file, shortened to be quoted in a sentence."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    return line if len(line) <= 80 else f"{line[:79]}…"
