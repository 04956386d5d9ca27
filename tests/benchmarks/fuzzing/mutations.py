"""Breaking bytes and documents: bluntly, or where it hurts."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from fuzzing.case import pick

SIZES = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**24, 2**30, 2**31 - 1, 2**31, 2**32 - 1)
SIZES_64 = (*SIZES, 2**32, 2**40, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
NUMBERS = ("0", "-1", "1", "7", "1e9", "99999999", "2147483648", "9223372036854775807", "1e400", "nan")
MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'><svg onload=alert(3)>"
TEXTS = (
    "",
    "\0",
    "nul\0inside",
    "a" * 70_000,
    "\ud800",
    "\u202e\u0000\uffff",
    "../../victim",
    "../victim.txt",
    "..",
    ".",
    "/etc/passwd",
    "/",
    "C:\\Windows",
    "file:///etc/passwd",
    MARKUP,
    "=1+cmd|' /C calc'!A0",
    "%s%n{0}{__class__}",
    "0" * 32,
    "1e400",
    "nan",
    "true",
)


class Raw(str):
    """JSON text that stands for a value which `json.dumps` cannot or must not write."""


RAW_VALUES = (
    Raw("1e400"),
    Raw("-1e999"),
    Raw("NaN"),
    Raw("Infinity"),
    Raw("-Infinity"),
    Raw("1" * 5000),
    Raw("[" * 3000 + "]" * 3000),
    Raw('{"a":' * 3000 + "1" + "}" * 3000),
    Raw('"\\ud800"'),
    Raw("0.1" + "1" * 400),
    Raw("1e-400"),
)
VALUES = (
    *RAW_VALUES,
    *TEXTS,
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    3,
    255,
    65536,
    2**31,
    2**53,
    2**63 - 1,
    2**63,
    2**64,
    10**30,
    0.0,
    -0.0,
    0.5,
    1e-12,
    1e-320,
    1e9,
    1e19,
    1.7e308,
    [],
    {},
    [[]],
    [None],
    [0] * 1000,
    {"": ""},
)


def break_bytes(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """Return bytes with one to three things wrong, and what they are."""
    notes = []
    for _ in range(int(rng.integers(1, 4))):
        name, operation = pick(rng, _OPERATIONS)
        data = operation(data, rng)
        notes.append(name)
    return data, ", ".join(notes)


def break_document(text: str, rng: np.random.Generator) -> tuple[str, str]:
    """Return JSON text with one to three values wrong, or no JSON at all, and what was done."""
    try:
        values: Any = json.loads(text) if rng.random() < 0.92 else None
    except (ValueError, RecursionError):  # it was broken before
        values = None
    if values is None:
        return _break_text(text, rng), "text of the JSON"
    notes = []
    for _ in range(int(rng.integers(1, 4))):
        values, note = break_value(values, rng)
        notes.append(note)
    return dump(values), "; ".join(notes)


def break_value(root: Any, rng: np.random.Generator) -> tuple[Any, str]:
    """Return a JSON-ready value with something wrong at a random place, and what that is."""
    root = json.loads(json.dumps(root)) if not _holds_raw(root) else root
    places = list(_places(root))
    if not places:
        value = pick(rng, VALUES)
        return value, f"all = {_short(value)}"
    holder, key, path = pick(rng, places)
    value = holder[key]
    choice = rng.random()
    if choice < 0.12:
        del holder[key]
        return root, f"{path} removed"
    if choice < 0.2 and isinstance(holder, dict):
        holder[f"{key}{pick(rng, ('', 's', '_', chr(0)))}x"] = holder.pop(key)
        return root, f"{path} renamed"
    if choice < 0.3:
        other, other_key, other_path = pick(rng, places)
        try:
            holder[key], other[other_key] = other[other_key], holder[key]
            json.dumps(root)
        except (ValueError, IndexError, KeyError):  # it would hold itself
            holder[key] = None
            return root, f"{path} = None"
        return root, f"{path} and {other_path} exchanged"
    if choice < 0.38:
        holder[key] = pick(rng, ([value], {"value": value}, str(value), [value, value], [value] * 40))
        return root, f"{path} wrapped"
    if choice < 0.55 and isinstance(value, int | float) and not isinstance(value, bool):
        holder[key] = pick(
            rng,
            (
                -value,
                value * 2,
                value + 1,
                value - 1,
                value * 1_000_000,
                value + 0.5,
                value * 1e-6,
                str(value),
            ),
        )
        return root, f"{path} = {_short(holder[key])}"
    if choice < 0.6 and isinstance(value, list | dict):
        extra = pick(rng, VALUES)
        if isinstance(value, list):
            value.insert(int(rng.integers(len(value) + 1)), extra)
        else:
            value[pick(rng, ("", "extra", "__class__", "path"))] = extra
        return root, f"{path} + {_short(extra)}"
    holder[key] = pick(rng, VALUES)
    return root, f"{path} = {_short(holder[key])}"


def dump(values: Any) -> str:
    """Return JSON text, `Raw` values as they are."""
    raw: list[str] = []

    def mark(value: Any) -> Any:
        if isinstance(value, Raw):
            raw.append(value)
            return f"\x01raw{len(raw) - 1}\x01"
        if isinstance(value, dict):
            return {key: mark(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [mark(item) for item in value]
        return value

    text = json.dumps(mark(values), indent=1)
    return re.sub(r'"\\u0001raw(\d+)\\u0001"', lambda match: raw[int(match.group(1))], text)


def break_number(text: str, rng: np.random.Generator) -> str:
    """Return text with one of its numbers changed, or broken as text where it holds none."""
    found = list(re.finditer(r"-?\d+(\.\d+)?", text))
    if not found:
        return _break_text(text, rng)
    match = pick(rng, found)
    return text[: match.start()] + pick(rng, NUMBERS) + text[match.end() :]


def _holds_raw(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_raw, value.values()))
    if isinstance(value, list):
        return any(map(_holds_raw, value))
    return isinstance(value, Raw)


def _places(value: Any, path: str = "") -> Any:
    """Yield (holder, key, name) of every value inside."""
    if isinstance(value, dict):
        items: Any = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return
    for key, item in items:
        name = f"{path}.{key}" if path else str(key)
        yield value, key, name
        yield from _places(item, name)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:30]}... ({len(text)} characters)"


def _break_text(text: str, rng: np.random.Generator) -> str:
    middle = len(text) // 2
    return str(
        pick(
            rng,
            (
                "",
                "null",
                "[]",
                "{}",
                "0",
                '"text"',
                text + text,
                text[:middle],
                text + "\0\0\0",
                "\ufeff" + text,
                "[" * 100_000,
                '{"a":' * 100_000,
                text.replace("{", "{{", 1),
                text.replace(":", "", 1),
                text.replace('"', "'"),
                text + " " * 300_000,
            ),
        )
    )


# Bytes


def _span(data: bytes, rng: np.random.Generator, longest: int = 4096) -> tuple[int, int]:
    """Return a piece of the data; pieces near its ends, where headers lie, are likelier."""
    if not data:
        return 0, 0
    at = int(rng.integers(len(data)))
    near = min(len(data), 512)
    if rng.random() < 0.4:
        at = int(rng.integers(near))
    elif rng.random() < 0.2:
        at = len(data) - 1 - int(rng.integers(near))
    return at, min(len(data), at + 1 + int(rng.integers(longest)))


def _flip_bits(data: bytes, rng: np.random.Generator) -> bytes:
    broken = bytearray(data)
    for _ in range(int(rng.integers(1, 17))):
        at, _ = _span(data, rng)
        if at < len(broken):
            broken[at] ^= 1 << int(rng.integers(8))
    return bytes(broken)


def _truncate(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(len(data) + 1))]


def _cut(data: bytes, rng: np.random.Generator) -> bytes:
    first, last = _span(data, rng)
    return data[:first] + data[last:]


def _zero(data: bytes, rng: np.random.Generator) -> bytes:
    first, last = _span(data, rng)
    return data[:first] + bytes(last - first) + data[last:]


def _scramble(data: bytes, rng: np.random.Generator) -> bytes:
    first, last = _span(data, rng, 64)
    return data[:first] + rng.bytes(last - first) + data[last:]


def _repeat(data: bytes, rng: np.random.Generator) -> bytes:
    first, last = _span(data, rng)
    return data[:last] + data[first:last] * int(rng.integers(1, 5)) + data[last:]


def _splice(data: bytes, rng: np.random.Generator) -> bytes:
    first, last = _span(data, rng)
    at, _ = _span(data, rng)
    return data[:at] + data[first:last] + data[at + last - first :]


def _set_size(data: bytes, rng: np.random.Generator) -> bytes:
    width = pick(rng, (1, 2, 4, 8))
    value = pick(rng, SIZES_64) % (1 << 8 * width)
    at, _ = _span(data, rng)
    return data[:at] + value.to_bytes(width, pick(rng, ("little", "big"))) + data[at + width :]


def _set_float(data: bytes, rng: np.random.Generator) -> bytes:
    value = pick(rng, (float("nan"), float("inf"), -1.0, 0.0, 1e300, 1e-300))
    at, _ = _span(data, rng)
    return data[:at] + struct.pack("<d", value) + data[at + 8 :]


def _set_digits(data: bytes, rng: np.random.Generator) -> bytes:
    found = list(re.finditer(rb"\d+", data[: 1 << 16]))
    if not found:
        return _set_size(data, rng)
    match = pick(rng, found)
    return data[: match.start()] + pick(rng, NUMBERS).encode() + data[match.end() :]


def _append(data: bytes, rng: np.random.Generator) -> bytes:
    return data + rng.bytes(int(rng.integers(1, 5000)))


def _empty(data: bytes, rng: np.random.Generator) -> bytes:
    return pick(rng, (b"", data[:1], data[:8], b"\0" * len(data)))


_OPERATIONS: tuple[tuple[str, Callable[[bytes, np.random.Generator], bytes]], ...] = (
    ("bits flipped", _flip_bits),
    ("bits flipped", _flip_bits),
    ("size field", _set_size),
    ("size field", _set_size),
    ("number", _set_digits),
    ("floating-point number", _set_float),
    ("truncated", _truncate),
    ("piece cut out", _cut),
    ("zeros", _zero),
    ("noise", _scramble),
    ("piece repeated", _repeat),
    ("piece moved", _splice),
    ("bytes appended", _append),
    ("nearly empty", _empty),
)
