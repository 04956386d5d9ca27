import json
import pickle
from dataclasses import dataclass

import pytest

from comir_search.documents import (
    BadDocument,
    Count,
    Micrometres,
    convert,
    decode,
    has_wrong_digest,
    with_digest,
)

ADVICE = "restore it from a copy"


@dataclass(frozen=True)
class Note:
    name: str
    pixel_size_um: Micrometres
    count: Count = 0
    values: tuple[float, ...] = ()

    def __post_init__(self):
        if not self.name:
            raise ValueError("a name is missing")


def read(text):
    return decode(text, Note, name="note.json", advice=ADVICE)


def test_what_fits_is_decoded_and_unknown_keys_are_ignored():
    note = read(b'{"name": "a", "pixel_size_um": 2, "values": [1, 2.5], "later": {"x": 1}}')
    assert note == Note("a", 2.0, 0, (1.0, 2.5))
    assert isinstance(note.pixel_size_um, float)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '{"name": "a"}',
        '{"name": 1, "pixel_size_um": 1}',
        '{"name": "", "pixel_size_um": 1}',
        '{"name": "a", "pixel_size_um": "1"}',
        '{"name": "a", "pixel_size_um": -1}',
        '{"name": "a", "pixel_size_um": 0}',
        '{"name": "a", "pixel_size_um": true}',
        '{"name": "a", "pixel_size_um": NaN}',
        '{"name": "a", "pixel_size_um": Infinity}',
        '{"name": "a", "pixel_size_um": 1e999}',
        '{"name": "a", "pixel_size_um": 1, "count": -1}',
        '{"name": "a", "pixel_size_um": 1, "count": 1.5}',
        '{"name": "a", "pixel_size_um": 1, "count": 1' + "0" * 400 + "}",
        '{"name": "a", "pixel_size_um": 1, "values": [[1]]}',
        '{"name": "\\ud800", "pixel_size_um": 1, "x": ' + "[" * 100 + "]" * 100 + "}",
        '{"name": "a", "pixel_size_um": 1, "x": ' + "[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_what_does_not_fit_is_refused_by_name_and_with_a_way_out(text):
    with pytest.raises(
        BadDocument, match=r"^note\.json is damaged \(.+\); restore it from a copy\.$"
    ) as caught:
        read(text)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)


def test_values_that_are_no_json_are_checked_too():
    with pytest.raises(BadDocument, match="not finite"):
        convert({"name": "a", "pixel_size_um": float("nan")}, Note, name="row", advice=ADVICE)
    with pytest.raises(BadDocument):
        convert(("a", b"b"), tuple[str, str], name="row", advice=ADVICE)


def test_a_digest_tells_that_a_value_was_changed():
    values = with_digest({"a": 1.5, "b": [1, None, "µ"]})
    assert not has_wrong_digest(json.loads(json.dumps(values)))
    assert has_wrong_digest(values | {"a": 3.0})
    assert has_wrong_digest(values | {"c": 0})
    assert not has_wrong_digest({"a": 1.5})
