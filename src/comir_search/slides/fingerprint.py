"""Hashes that know a slide again after it was moved or renamed."""

from __future__ import annotations

import hashlib
from pathlib import Path

_PIECES = 16
_PIECE_BYTES = 16 << 10


def file_fingerprint(path: Path) -> str:
    """Return a hash of a file's size and of pieces spread over it: 32 hex digits.

    Reads at most 256 KB, so it is quick for files of any size.
    """
    size = path.stat().st_size
    digest = hashlib.blake2b(size.to_bytes(8, "little"), digest_size=16)
    with path.open("rb") as file:
        for piece in range(_PIECES):
            file.seek(max(0, size - _PIECE_BYTES) * piece // (_PIECES - 1))
            digest.update(file.read(_PIECE_BYTES))
    return digest.hexdigest()


def content_fingerprint(*parts: bytes) -> str:
    """Return a hash of the parts given: 32 hex digits."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()
