"""Hashes that recognise a slide after it was moved or renamed.

The *fingerprint* is quick to compute; indexes and projects use it as the slide's
name. It covers only a small part of a slide, so two different slides can share one.
The *identity* covers the structure of the whole slide and pieces spread over it. If
two identities are equal, `is_same_content` compares every byte.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from comir_search.slides.folder import list_companions
from comir_search.slides.guard import unreadable

_PIECES = 16
_PIECE_BYTES = 16 << 10
_IDENTITY_BYTES = 4 << 20
_IDENTITY_PIECE_BYTES = 64 << 10  # hard disks and network shares are slow for many small pieces
_COMPARED_BYTES = 1 << 20
_ARRAY_METADATA = (".zarray", "zarr.json")
_GROUP_METADATA = (".zgroup", ".zattrs", "zarr.json")


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
    """Return a hash of the given parts: 32 hex digits."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def identity_of(path: str | Path) -> str:
    """Return a hash of a slide's structure and of pieces spread over all of it: 32 hex digits.

    It stays the same when the slide is moved or renamed. It covers the names and
    sizes of all files of the slide, with the companion files of an MRXS but without
    the labels of an OME-Zarr. It also covers their content: all of it up to about
    4 MB, above that pieces spread evenly over each level.

    Parameters
    ----------
    path : str or Path
        A file or a folder.

    Raises
    ------
    ComirSearchError
        If a file cannot be read.
    """
    path = Path(path)
    try:
        members = _list_members(path)
        digest = hashlib.blake2b(digest_size=16)
        for member in members:
            digest.update(f"{member.name}\0{member.size}\0".encode("utf-8", "surrogateescape"))
        small = sum(member.size for member in members) <= _IDENTITY_BYTES
        groups = [members] if small else _group_by_level(members)
        for group in groups:
            for piece in _read_pieces(group, _IDENTITY_BYTES // len(groups)):
                digest.update(piece)
    except OSError as error:
        raise unreadable(path, error) from error
    return digest.hexdigest()


def stored_bytes(path: Path) -> int:
    """Return the size of all files of a slide together."""
    try:
        members = _walk_members(path, "", set()) if path.is_dir() else _list_members(path)
        return sum(member.size for member in members)
    except OSError as error:
        raise unreadable(path, error) from error


def is_same_content(first: str | Path, second: str | Path) -> bool:
    """Whether two slides contain the same bytes in the same files; the slides' own names may differ.

    Reads both slides completely, in bounded memory, and stops at the first difference.

    Raises
    ------
    ComirSearchError
        If a file cannot be read.
    """
    first, second = Path(first), Path(second)
    path = first
    try:
        if first.samefile(second):
            return True
        ours = _list_members(first)
        path = second
        theirs = _list_members(second)
        if [(one.name, one.size) for one in ours] != [(other.name, other.size) for other in theirs]:
            return False
        return all(
            _is_same_file(one.path, other.path)
            for one, other in zip(ours, theirs, strict=True)
            if one.size > 0
        )
    except OSError as error:
        raise unreadable(Path(error.filename or path), error) from error


@dataclass(frozen=True)
class _Member:
    """One file of a slide: its name within the slide, its path, and its size in bytes.

    A pipe or a device counts as an empty file and is never opened.
    """

    name: str
    path: Path
    size: int


def _list_members(path: Path) -> list[_Member]:
    """Return the files of a slide, sorted by name. Their names do not include the slide's own name."""
    if path.is_dir():
        return list(_list_image(path))
    companions = list_companions(path)
    if path.suffix.lower() == ".dcm":  # any file of a series represents the whole series
        files = sorted([path, *companions], key=lambda file: file.name)
        return [_Member(str(number), file, _size_of(file)) for number, file in enumerate(files)]
    members = [_Member("", path, _size_of(path))]
    for companion in companions:
        if companion.is_dir():  # its name follows the slide's name
            members.extend(_walk_members(companion, "companion/", set()))
        elif companion.exists():
            members.append(_Member(companion.name, companion, _size_of(companion)))
    return members


def _walk_members(folder: Path, prefix: str, walked: set[str]) -> Iterator[_Member]:
    """Yield the files below a folder; of hidden files only Zarr's metadata."""
    here = os.path.realpath(folder)
    if here in walked:
        return
    walked.add(here)
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.name.startswith(".") and not entry.name.startswith(".z"):
            continue
        if entry.is_dir():
            yield from _walk_members(Path(entry.path), f"{prefix}{entry.name}/", walked)
        else:
            yield _Member(prefix + entry.name, Path(entry.path), _size_of(Path(entry.path)))


def _list_image(path: Path) -> Iterator[_Member]:
    """Yield the files of the OME-Zarr image that is read: its group's metadata and its levels.

    Other content of the folder, such as labels drawn later, does not belong to the
    image. If the folder contains no image, all its files are yielded.
    """
    import zarr

    from comir_search.slides.zarr_images import (
        choose_image,
    )  # imported here: it imports slides, which import this module
    from comir_search.slides.zarr_store import CheckedStore

    try:
        image = choose_image(zarr.open_group(CheckedStore(path), mode="r"), path.name)
    except OSError:
        raise
    except Exception:  # noqa: BLE001  (Zarr raises many kinds of errors for a folder without an image)
        yield from _walk_members(path, "", set())
        return
    prefix = f"{image.group}/" if image.group else ""
    for name in _GROUP_METADATA:
        file = path / prefix / name
        if file.is_file():
            yield _Member(prefix + name, file, _size_of(file))
    for level in sorted({array.path.strip("/") for array in image.arrays}):
        yield from _walk_members(path / level, f"{level}/", set())


def _size_of(path: Path) -> int:
    about = path.stat()
    return about.st_size if stat.S_ISREG(about.st_mode) else 0


def _group_by_level(members: list[_Member]) -> list[list[_Member]]:
    """Return the files of a Zarr folder, grouped by array, with one more group for all other files."""
    arrays = {
        member.name.rpartition("/")[0]
        for member in members
        if member.name.rpartition("/")[2] in _ARRAY_METADATA and "/" in member.name
    }
    groups: dict[str, list[_Member]] = {}
    for member in members:
        above = member.name.split("/")[:-1]
        parents = ("/".join(above[:depth]) for depth in range(len(above), 0, -1))
        groups.setdefault(next((name for name in parents if name in arrays), ""), []).append(member)
    return list(groups.values())


def _read_pieces(members: list[_Member], limit_bytes: int) -> Iterator[bytes]:
    """Yield pieces spread over all files together, or all content if it is within the limit."""
    total = sum(member.size for member in members)
    number = max(limit_bytes // _IDENTITY_PIECE_BYTES, 2)
    if total <= number * _IDENTITY_PIECE_BYTES:
        for member in members:
            if member.size:
                yield member.path.read_bytes()
        return
    starts = [(total - _IDENTITY_PIECE_BYTES) * piece // (number - 1) for piece in range(number)]
    next_start, member_start = 0, 0
    for member in members:
        member_end = member_start + member.size
        if next_start < number and starts[next_start] < member_end:
            with member.path.open("rb") as file:
                while next_start < number and starts[next_start] < member_end:
                    file.seek(starts[next_start] - member_start)
                    yield file.read(_IDENTITY_PIECE_BYTES)
                    next_start += 1
        member_start = member_end


def _is_same_file(first: Path, second: Path) -> bool:
    with first.open("rb") as one, second.open("rb") as other:
        while True:
            ours, theirs = one.read(_COMPARED_BYTES), other.read(_COMPARED_BYTES)
            if ours != theirs:
                return False
            if not ours:
                return True
