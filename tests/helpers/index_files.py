"""What two indexes of the same slides have in common: every byte."""

from __future__ import annotations

import json
from pathlib import Path

from comir_search.documents import digest_of


def files_of(index_path: Path) -> dict[str, bytes]:
    """Return every file of an index by name, except the lock and what knows absolute paths."""
    return {
        path.relative_to(index_path).as_posix(): path.read_bytes()
        for path in sorted(index_path.rglob("*"))
        if path.is_file() and path.name not in ("writer.lock", "slide.json", "progress.json")
    }


def assert_same_index(first: Path, second: Path) -> None:
    """Check that two indexes are equal bit for bit, but for where their slides lay."""
    left, right = files_of(first), files_of(second)
    assert list(left) == list(right)
    assert [name for name in left if left[name] != right[name]] == []
    for file in first.rglob("slide.json"):
        records = [json.loads((path / file.relative_to(first)).read_text()) for path in (first, second)]
        for record in records:
            assert record.pop("digest") == digest_of(record)
            del record["absolute_path"], record["relative_path"]
        assert records[0] == records[1]
