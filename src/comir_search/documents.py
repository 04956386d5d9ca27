"""Check data from files: decode JSON and database rows into typed records, or raise an error.

Every JSON file, every JSON text inside another file (safetensors, SQLite) and every
row of a database goes through `decode` or `convert` before it is used. Data that do
not match the type (a missing key, text instead of a number, a value out of range, NaN,
too deep nesting) raise `BadDocument`. Its message names the file and what to do.

Ranges are part of the types: `Annotated[float, Meta(gt=0)]`, or the short names below.
A record that checks more raises ValueError in its ``__post_init__``.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from comir_search.errors import ComirSearchError

T = TypeVar("T")

# The largest possible side of an image, in pixels, in any file format.
MAX_SIDE_PX = 4_000_000
# Possible pixel sizes when a user gives them; the range for pixel sizes from files is narrower.
Micrometres = Annotated[float, Meta(gt=0, le=1e5)]
SidePx = Annotated[int, Meta(ge=1, le=MAX_SIDE_PX)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Fingerprint = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]

MAX_DEPTH = 32
MAX_PROBLEM = 300
DIGEST = "digest"


class BadDocument(ComirSearchError):
    """A file, or a part of it, is damaged: its content is not as expected.

    Parameters
    ----------
    name : str
        The file and the part of it, in the user's words.
    problem : str
        What is wrong, without a full stop.
    advice : str
        What the user can do, without a full stop.
    """

    def __init__(self, name: str, problem: str, advice: str) -> None:
        self.name, self.problem, self.advice = name, problem, advice
        super().__init__(f"{name} is damaged ({problem}); {advice}.")

    def __reduce__(self) -> tuple[Any, ...]:
        # By default only the message would be pickled, but this exception has more arguments.
        return type(self), (self.name, self.problem, self.advice)


def decode(content: bytes | str, type: type[T] | Any, *, name: str, advice: str) -> T:
    """Decode JSON into a type.

    Parameters
    ----------
    content : bytes or str
    type : type
        A dataclass or another type that msgspec decodes; its ranges are checked.
        Unknown keys are ignored, since a newer version may write more.
    name : str
        Name of the document in the message.
    advice : str
        What the user can do, such as "run `comir-search repair --index my.index`".

    Returns
    -------
    An instance of `type`; its numbers are finite.

    Raises
    ------
    BadDocument
        If the content is not JSON or does not match the type.
    """
    try:
        values: Any = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadDocument(name, _problem(error), advice) from None
    return convert(values, type, name=name, advice=advice)


def convert(values: Any, type: type[T] | Any, *, name: str, advice: str) -> T:
    """Convert values of unknown types, such as a row of a database, to a type.

    Parameters
    ----------
    values : object
        Numbers, texts and containers of them.
    type, name, advice
        See `decode`.

    Returns
    -------
    An instance of `type`; its numbers are finite.

    Raises
    ------
    BadDocument
        If the values do not match the type.
    """
    try:
        _check_values(values, 0)
        result: T = msgspec.convert(values, type)
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise BadDocument(name, _problem(error), advice) from None
    return result


def with_digest(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return JSON-ready values and, under the key ``digest``, a hash of them."""
    return {**values, DIGEST: digest_of(values)}


def digest_of(values: Mapping[str, Any]) -> str:
    """Return the hash of JSON-ready values without their own ``digest``: 32 hex digits."""
    content = {key: value for key, value in values.items() if key != DIGEST}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def has_wrong_digest(values: Mapping[str, Any]) -> bool:
    """Return whether values contain a wrong digest; documents of older versions contain none."""
    return DIGEST in values and values[DIGEST] != digest_of(values)


def _check_values(value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("it contains a number that is not finite")
    if isinstance(value, Mapping):
        for item in value.values():
            _check_values(item, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_values(item, depth + 1)


def _problem(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    # The message may quote the wrong value, at any length.
    text = " ".join(str(error)[:MAX_PROBLEM].rstrip(".").split())
    return text or type(error).__name__
