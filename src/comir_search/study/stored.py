"""How a project's rows and JSON texts become records: typed, in range, bounded, or refused.

A project may be damaged, or sent by a stranger. Nothing of it is used before it
has gone through here.
"""

from __future__ import annotations

import io
import math
import tokenize
import zlib
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from comir_search.documents import MAX_SIDE_PX, BadDocument, Micrometres, convert, decode
from comir_search.records import Candidate, SearchResult, Verdict
from comir_search.study.database import ADVICE

Text = Annotated[str, Meta(max_length=2**20)]
Name = Annotated[str, Meta(max_length=2**12)]
Side = Annotated[int, Meta(ge=0, le=MAX_SIDE_PX)]
Finite = Annotated[float, Meta(ge=-1e300, le=1e300)]

# Of a query's pixels: what is always taken, and how well larger ones may be packed.
SURE_BYTES, MOST_PACKED = 2**28, 50
HEADER_BYTES = 2**13
LONGEST_RATIO = 1e4  # of a place's sides


class SlideRow(msgspec.Struct, array_like=True):
    """A row of the table ``slide``."""

    name: Name
    relative_path: Text
    absolute_path: Text
    fingerprint: Name
    pixel_size_um: Micrometres | None
    pixel_size_source: Text
    identity: Name


class QueryRow(msgspec.Struct, array_like=True):
    """A row of the table ``query``, but its pixels."""

    id: int
    name: Name
    relative_path: Text
    absolute_path: Text
    modality: Name
    pixel_size_um: Micrometres | None
    source: str
    result: str | None
    provenance: str
    has_image: int


class VerdictRow(msgspec.Struct, array_like=True):
    """A row of the table ``verdict``."""

    verdict: Verdict
    note: Text
    reviewer: Text
    time: Name
    candidate: str


class _Source(msgspec.Struct, rename={"pixel_size": "pixel size"}):
    """What is used of where a query comes from; all else in it is only shown."""

    pixel_size: Text = ""
    shape: tuple[Side, Side] | None = None
    contrast: tuple[Finite, Finite, Finite] | None = None
    notes: tuple[Text, ...] = ()


class _Shown(msgspec.Struct):
    """What is used of an older answer's provenance."""

    options: dict[str, Any] = {}
    stopped: bool = False


class Settings(msgspec.Struct):
    """What is used of a project's settings; all else in them is only shown."""

    index: Text = ""
    model: Text = ""
    search: SearchSettings | None = None


class SearchSettings(msgspec.Struct):
    """How queries are searched in a project."""

    top: Annotated[int, Meta(ge=1, le=10_000)] = 10
    mirror: bool = False
    method: Literal["auto", "correlation", "words"] = "auto"


class View(msgspec.Struct):
    """How a project's window looked; a part that is damaged is not worth a word."""

    query: int | None = None
    rank: int | None = None
    slide: Name | None = None
    center: Annotated[list[Finite], Meta(min_length=2, max_length=3)] | None = None
    zoom: Annotated[float, Meta(gt=0, le=1e9)] | None = None


def decode_source(text: str, name: str) -> dict[str, Any]:
    """Decode where a query comes from."""
    return _decode_checked(text, _Source, name)


def decode_shown(text: str, name: str) -> dict[str, Any]:
    """Decode what made an answer, to be shown."""
    return _decode_checked(text, _Shown, name)


def decode_settings(text: str, name: str) -> dict[str, Any]:
    """Decode settings."""
    return _decode_checked(text, Settings, name)


def decode_object(text: str, name: str) -> dict[str, Any]:
    """Decode a JSON object."""
    values: dict[str, Any] = decode(text, dict[str, Any], name=name, advice=ADVICE)
    return values


def decode_view(values: dict[str, Any]) -> View:
    """Return how a window looked, without the parts that cannot be used."""
    view = View()
    for part in View.__struct_fields__:
        if part in values:
            try:
                one: View = convert({part: values[part]}, View, name="view", advice=ADVICE)
            except BadDocument:
                continue
            setattr(view, part, getattr(one, part))
    return view


def decode_candidate(text: str, name: str) -> Candidate:
    """Decode a candidate."""
    candidate: Candidate = decode(text, Candidate, name=name, advice=ADVICE)
    _check(candidate, name)
    return candidate


def decode_result(text: str, name: str) -> SearchResult:
    """Decode an answer."""
    result: SearchResult = decode(text, SearchResult, name=name, advice=ADVICE)
    for candidate in result.candidates:
        _check(candidate, name)
    ranks = [candidate.rank for candidate in result.candidates]
    if len(set(ranks)) < len(ranks):
        raise BadDocument(name, "two candidates have one rank", ADVICE)
    return result


def _decode_checked(text: str, type: Any, name: str) -> dict[str, Any]:
    values = decode_object(text, name)
    convert(values, type, name=name, advice=ADVICE)
    return values


def _check(candidate: Candidate, name: str) -> None:
    """Refuse a place that no search can have found."""
    width_um, height_um = candidate.width_um, candidate.height_um
    sides_px = [side_um / max(candidate.pixel_size_um, 1e-9) for side_um in (width_um, height_um)]
    center_px = max(abs(candidate.center_x_px), abs(candidate.center_y_px))
    checks = {
        f"rank {candidate.rank}": 1 <= candidate.rank <= 10**6,
        f"a pixel size of {candidate.pixel_size_um:g} um": 1e-4 <= candidate.pixel_size_um <= 1e4,
        "a place off every slide": center_px <= 4 * MAX_SIDE_PX,
        f"a place of {width_um:g} x {height_um:g} um": min(sides_px) >= 1
        and max(sides_px) <= min(MAX_SIDE_PX, LONGEST_RATIO * min(sides_px)),
        f"turned by {candidate.angle_deg:g} degrees": abs(candidate.angle_deg) <= 360,
        f"scale {candidate.scale:g}": 0.01 <= candidate.scale <= 100,
        f"confidence {candidate.confidence}": candidate.confidence is None or 0 <= candidate.confidence <= 1,
        f"score {candidate.score:g}": abs(candidate.score) <= 1e6,
        "a name without end": max(len(candidate.slide), len(candidate.fingerprint)) <= 2**12,
    }
    for problem, is_right in checks.items():
        if not is_right:
            raise BadDocument(name, problem, ADVICE)


# What NumPy's reader of headers raises; it takes them for Python, of old versions too.
_MALFORMED = (
    *(ValueError, TypeError, KeyError, SyntaxError, EOFError, OverflowError, RecursionError),
    tokenize.TokenError,
)


def pack_image(image: np.ndarray) -> bytes:
    """Return an image as a project keeps it."""
    with io.BytesIO() as buffer:
        np.save(buffer, image, allow_pickle=False)
        return zlib.compress(buffer.getvalue(), 1)


def unpack_image(packed: Any, name: str) -> np.ndarray:
    """Return the image that `pack_image` packed; how large it is is known before it is read.

    Raises
    ------
    BadDocument
        If it is no such image, or would take far more memory than an image packed
        so small can need.
    """
    if not isinstance(packed, bytes):
        raise BadDocument(name, "no pixels", ADVICE)
    unpacker = zlib.decompressobj()
    try:
        with io.BytesIO(unpacker.decompress(packed, HEADER_BYTES)) as head:
            version = np.lib.format.read_magic(head)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, is_fortran, dtype = read[version](head)
            rest = head.read()
        n_bytes = math.prod(shape) * dtype.itemsize
        if dtype.kind not in "buif" or not 2 <= len(shape) <= 3 or min(shape) < 1 or max(shape) > MAX_SIDE_PX:
            raise ValueError(f"an array of {shape} {dtype}, not an image")
        if n_bytes > max(SURE_BYTES, MOST_PACKED * len(packed)):
            raise ValueError(f"{n_bytes >> 20} MB packed into {len(packed) >> 10} kB")
        values = np.empty(n_bytes, np.uint8)
        filled = 0
        piece, left = rest, unpacker.unconsumed_tail
        while piece:
            if filled + len(piece) > n_bytes:
                raise ValueError("more pixels than its size says")
            values[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
            filled += len(piece)
            piece, left = unpacker.decompress(left, 2**20), unpacker.unconsumed_tail
        if filled < n_bytes:
            raise ValueError("fewer pixels than its size says")
        return values.view(dtype).reshape(shape, order="F" if is_fortran else "C")
    except _MALFORMED as error:
        raise BadDocument(name, f"its pixels: {str(error)[:200]}", ADVICE) from None
    except (zlib.error, MemoryError) as error:
        raise BadDocument(name, f"its pixels: {str(error)[:200] or 'out of memory'}", ADVICE) from None
