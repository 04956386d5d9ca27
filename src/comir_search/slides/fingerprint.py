"""Hashes that know a slide again after it was moved or renamed.

There are two. The *fingerprint* is quick to compute and is the name of a slide in
indexes and projects; it looks at little of a slide, so two different slides may
have the same one. The *identity* looks at the structure of the whole and at pieces
spread over all of it. Where even that is equal, `is_same_content` decides.
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
_IDENTITY_PIECE_BYTES = 64 << 10  # a disk that turns, or a share, takes long for each piece
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
    """Return a hash of the parts given: 32 hex digits."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def identity_of(path: str | Path) -> str:
    """Return a hash of a slide's structure and of pieces spread over all of it: 32 hex digits.

    It stays the same when the slide is moved or renamed. It covers the names and
    sizes of all files of the slide (the image of an OME-Zarr that is read, and not
    its labels; the companions of an MRXS) and at most about 4 MB of their content:
    all of it where there is no more, else as much of each level as of any other,
    in pieces spread over it.

    Parameters
    ----------
    path : str or Path
        A file or a folder.

    Raises
    ------
    ComirSearchError
        Where a file cannot be read.
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
    """Whether two slides hold the same bytes in the same files, whatever the slides are called.

    Reads both as a whole, in bounded memory, and stops at the first difference.

    Raises
    ------
    ComirSearchError
        Where a file cannot be read.
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
    """One file of a slide: its name within the slide, where it lies, and its size in bytes.

    What is no regular file (a pipe, a device) counts as empty: it is never opened.
    """

    name: str
    path: Path
    size: int


def _list_members(path: Path) -> list[_Member]:
    """Return the files of a slide, sorted by name. The slide's own name is in none of them."""
    if path.is_dir():
        return list(_list_image(path))
    companions = list_companions(path)
    if path.suffix.lower() == ".dcm":  # any file of a series stands for all of it
        files = sorted([path, *companions], key=lambda file: file.name)
        return [_Member(str(number), file, _size_of(file)) for number, file in enumerate(files)]
    members = [_Member("", path, _size_of(path))]
    for companion in companions:
        if companion.is_dir():  # it is called as the slide is
            members.extend(_walk_members(companion, "companion/", set()))
        elif companion.exists():
            members.append(_Member(companion.name, companion, _size_of(companion)))
    return members


def _walk_members(folder: Path, prefix: str, walked: set[str]) -> Iterator[_Member]:
    """Yield the files below a folder; hidden ones only where they are Zarr's."""
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
    """Yield the files of the image of an OME-Zarr that is read: those of its group and of its levels.

    What else the folder holds, such as labels that were drawn later, does not change
    the image. Of a folder that holds no image it is all files.
    """
    import zarr

    from comir_search.slides.zarr_images import choose_image  # which needs slides, which need this module
    from comir_search.slides.zarr_store import CheckedStore

    try:
        image = choose_image(zarr.open_group(CheckedStore(path), mode="r"), path.name)
    except OSError:
        raise
    except Exception:  # noqa: BLE001  (Zarr raises whatever there is of a folder that holds no image)
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
    """Return the files of each array of a Zarr folder, one group for all others."""
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
    """Yield pieces spread over files laid end to end; all of them where they are within the limit."""
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
