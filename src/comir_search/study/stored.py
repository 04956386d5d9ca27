"""Convert a project's rows and JSON texts to records, and check their types, ranges and sizes.

A project may be damaged or come from another person. This module checks all of its
content before it is used.
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

# For a query's pixels: the size that is always accepted, and the largest compression of larger ones.
SURE_BYTES, MOST_PACKED = 2**28, 50
HEADER_BYTES = 2**13
LONGEST_RATIO = 1e4  # largest ratio of a candidate's sides


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
    """A row of the table ``query``, without its pixels."""

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
    """The parts of a query's origin that are used; other parts are only shown."""

    pixel_size: Text = ""
    shape: tuple[Side, Side] | None = None
    contrast: tuple[Finite, Finite, Finite] | None = None
    notes: tuple[Text, ...] = ()


class _Shown(msgspec.Struct):
    """The parts of an older answer's provenance that are used."""

    options: dict[str, Any] = {}
    stopped: bool = False


class Settings(msgspec.Struct):
    """The parts of a project's settings that are used; other parts are only shown."""

    index: Text = ""
    model: Text = ""
    search: SearchSettings | None = None


class SearchSettings(msgspec.Struct):
    """The search options of a project."""

    top: Annotated[int, Meta(ge=1, le=10_000)] = 10
    mirror: bool = False
    method: Literal["auto", "correlation", "words"] = "auto"


class View(msgspec.Struct):
    """The view of a project's window; damaged parts are ignored."""

    query: int | None = None
    rank: int | None = None
    slide: Name | None = None
    center: Annotated[list[Finite], Meta(min_length=2, max_length=3)] | None = None
    zoom: Annotated[float, Meta(gt=0, le=1e9)] | None = None


def decode_source(text: str, name: str) -> dict[str, Any]:
    """Decode the origin of a query."""
    return _decode_checked(text, _Source, name)


def decode_shown(text: str, name: str) -> dict[str, Any]:
    """Decode the provenance of an answer, to be shown."""
    return _decode_checked(text, _Shown, name)


def decode_settings(text: str, name: str) -> dict[str, Any]:
    """Decode settings."""
    return _decode_checked(text, Settings, name)


def decode_object(text: str, name: str) -> dict[str, Any]:
    """Decode a JSON object."""
    values: dict[str, Any] = decode(text, dict[str, Any], name=name, advice=ADVICE)
    return values


def decode_view(values: dict[str, Any]) -> View:
    """Return the view of a window, without damaged parts."""
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
        raise BadDocument(name, "two candidates have the same rank", ADVICE)
    return result


def _decode_checked(text: str, type: Any, name: str) -> dict[str, Any]:
    values = decode_object(text, name)
    convert(values, type, name=name, advice=ADVICE)
    return values


def _check(candidate: Candidate, name: str) -> None:
    """Raise an error if a candidate is impossible."""
    width_um, height_um = candidate.width_um, candidate.height_um
    sides_px = [side_um / max(candidate.pixel_size_um, 1e-9) for side_um in (width_um, height_um)]
    center_px = max(abs(candidate.center_x_px), abs(candidate.center_y_px))
    checks = {
        f"rank {candidate.rank}": 1 <= candidate.rank <= 10**6,
        f"a pixel size of {candidate.pixel_size_um:g} um": 1e-4 <= candidate.pixel_size_um <= 1e4,
        "a position outside every slide": center_px <= 4 * MAX_SIDE_PX,
        f"a size of {width_um:g} x {height_um:g} um": min(sides_px) >= 1
        and max(sides_px) <= min(MAX_SIDE_PX, LONGEST_RATIO * min(sides_px)),
        f"a rotation of {candidate.angle_deg:g} degrees": abs(candidate.angle_deg) <= 360,
        f"a scale of {candidate.scale:g}": 0.01 <= candidate.scale <= 100,
        f"a confidence of {candidate.confidence}": candidate.confidence is None
        or 0 <= candidate.confidence <= 1,
        f"a score of {candidate.score:g}": abs(candidate.score) <= 1e6,
        "a name that is too long": max(len(candidate.slide), len(candidate.fingerprint)) <= 2**12,
    }
    for problem, is_right in checks.items():
        if not is_right:
            raise BadDocument(name, problem, ADVICE)


# The errors of NumPy's header reader, which parses headers as Python code, also of old versions.
_MALFORMED = (
    *(ValueError, TypeError, KeyError, SyntaxError, EOFError, OverflowError, RecursionError),
    tokenize.TokenError,
)


def pack_image(image: np.ndarray) -> bytes:
    """Return an image as bytes, as a project stores it."""
    with io.BytesIO() as buffer:
        np.save(buffer, image, allow_pickle=False)
        return zlib.compress(buffer.getvalue(), 1)


def unpack_image(packed: Any, name: str) -> np.ndarray:
    """Return the image from `pack_image`'s bytes; its size is checked before it is unpacked.

    Raises
    ------
    BadDocument
        If it is not such an image, or would take far more memory than its stored size
        suggests.
    """
    if not isinstance(packed, bytes):
        raise BadDocument(name, "it has no pixels", ADVICE)
    unpacker = zlib.decompressobj()
    try:
        with io.BytesIO(unpacker.decompress(packed, HEADER_BYTES)) as head:
            version = np.lib.format.read_magic(head)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, is_fortran, dtype = read[version](head)
            rest = head.read()
        n_bytes = math.prod(shape) * dtype.itemsize
        if dtype.kind not in "buif" or not 2 <= len(shape) <= 3 or min(shape) < 1 or max(shape) > MAX_SIDE_PX:
            raise ValueError(f"they are an array of {shape} {dtype}, not an image")
        if n_bytes > max(SURE_BYTES, MOST_PACKED * len(packed)):
            raise ValueError(f"{n_bytes >> 20} MB are compressed into {len(packed) >> 10} kB")
        values = np.empty(n_bytes, np.uint8)
        filled = 0
        piece, left = rest, unpacker.unconsumed_tail
        while piece:
            if filled + len(piece) > n_bytes:
                raise ValueError("there are more pixels than the image's size")
            values[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
            filled += len(piece)
            piece, left = unpacker.decompress(left, 2**20), unpacker.unconsumed_tail
        if filled < n_bytes:
            raise ValueError("there are fewer pixels than the image's size")
        return values.view(dtype).reshape(shape, order="F" if is_fortran else "C")
    except _MALFORMED as error:
        raise BadDocument(name, f"its pixels cannot be read: {str(error)[:200]}", ADVICE) from None
    except (zlib.error, MemoryError) as error:
        raise BadDocument(
            name, f"its pixels cannot be read: {str(error)[:200] or 'out of memory'}", ADVICE
        ) from None
