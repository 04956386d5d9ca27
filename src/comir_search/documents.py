"""Documents that may come from anywhere: JSON and rows, decoded into typed records or refused.

Every JSON file, every JSON text inside another file (safetensors, SQLite) and
every row of a database goes through `decode` or `convert` before it is used.
What does not fit the type (a missing key, text for a number, a value out of
range, a number that is not finite, nesting without end) is a `BadDocument`,
whose sentence names the document and the way out.

Ranges are part of the types: `Annotated[float, Meta(gt=0)]`, or the short names
below. A record that checks more raises ValueError in its ``__post_init__``.
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

# The largest side of an image, in pixels, that any file format here can state and mean.
MAX_SIDE_PX = 4_000_000
# What can be a microscope's pixel at all; what a *file* may state unasked is narrower.
Micrometres = Annotated[float, Meta(gt=0, le=1e5)]
SidePx = Annotated[int, Meta(ge=1, le=MAX_SIDE_PX)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Fingerprint = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]

MAX_DEPTH = 32
MAX_PROBLEM = 300
DIGEST = "digest"


class BadDocument(ComirSearchError):
    """A document that does not hold what it should.

    Parameters
    ----------
    name : str
        The file, and the part of it, as the user knows it.
    problem : str
        What is wrong, without a full stop.
    advice : str
        The way out, without a full stop.
    """

    def __init__(self, name: str, problem: str, advice: str) -> None:
        self.name, self.problem, self.advice = name, problem, advice
        super().__init__(f"{name} is damaged ({problem}); {advice}.")

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are pickled by their message alone, and this one is made of more.
        return type(self), (self.name, self.problem, self.advice)


def decode(content: bytes | str, type: type[T] | Any, *, name: str, advice: str) -> T:
    """Decode JSON into a type.

    Parameters
    ----------
    content : bytes or str
    type : type
        A dataclass, or anything else that msgspec decodes; ranges included.
        Keys that it does not name are ignored: a newer program may write more.
    name : str
        What the document is called in the message.
    advice : str
        The way out, as in "run `comir-search repair --index my.index`".

    Returns
    -------
    An instance of `type`; its numbers are finite.

    Raises
    ------
    BadDocument
        If the content is no JSON or does not fit the type.
    """
    try:
        values: Any = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadDocument(name, _problem(error), advice) from None
    return convert(values, type, name=name, advice=advice)


def convert(values: Any, type: type[T] | Any, *, name: str, advice: str) -> T:
    """Turn values of unknown types, such as a row of a database, into a type; see `decode`."""
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
    """Return the hash of JSON-ready values, their own ``digest`` left out: 32 hex digits."""
    told = {key: value for key, value in values.items() if key != DIGEST}
    text = json.dumps(told, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def has_wrong_digest(values: Mapping[str, Any]) -> bool:
    """Return whether values hold a digest that is not theirs; documents of older versions hold none."""
    return DIGEST in values and values[DIGEST] != digest_of(values)


def _check_values(value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number that is not finite")
    if isinstance(value, Mapping):
        for item in value.values():
            _check_values(item, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_values(item, depth + 1)


def _problem(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    # What is wrong may be quoted there, at any length.
    text = " ".join(str(error)[:MAX_PROBLEM].rstrip(".").split())
    return text or type(error).__name__
