"""The slide folders of an index: which ones this program made, and which files it may delete.

A folder below ``slides`` is ours if its name is 32 hex digits and a JSON file of this
program in it contains the same digits. Files in it are deleted one by one, by the
exact names that this program and Zarr give them. All other files stay, and so does
everything behind a link.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass

from comir_search.documents import BadDocument, Fingerprint
from comir_search.errors import ComirSearchError
from comir_search.index.slide_record import PROGRESS_FILE, REMOVED_FILE, SLIDE_FILE, SLIDES
from comir_search.index.storage import Storage

_GROUP = re.compile(r"[0-9a-f]{32}")
_ARRAY = r"(?:tissue|words|comir/\d)"
_FILES = re.compile(
    rf"(?:slide|progress|removed)\.json|(?:(?:comir|{_ARRAY})/)?zarr\.json|{_ARRAY}/c(?:/\d+){{2,3}}"
)
# Temporary files of killed runs: ours, of this and older versions, and Zarr's.
_TEMPORARY = re.compile(
    r"\.(?:slide|progress|removed)\.(?:comir-)?[0-9a-f]{8}\.part\.json"
    rf"|(?:(?:comir|{_ARRAY})/)?zarr\.[0-9a-f]{{32}}\.partial"
    rf"|{_ARRAY}/c(?:/\d+){{2,3}}\.[0-9a-f]{{32}}\.partial"
)
_TEMPORARY_BESIDE = re.compile(r"\.(?:index|model)\.(?:comir-)?[0-9a-f]{8}\.part\.(?:json|safetensors)")


@dataclass(frozen=True)
class _Named:
    fingerprint: Fingerprint


@dataclass(frozen=True)
class _Begun:
    record: _Named


class ForeignFiles(ComirSearchError):
    """A file or folder that this program did not write has a name that an index uses."""


def folder_of(name: str) -> str:
    """Return the folder of a slide, by its name in the index.

    Raises
    ------
    ForeignFiles
        If it is not the name of a slide.
    """
    if not is_group_name(name):
        raise ForeignFiles(f"{name!r} is not the name of a slide in an index: that is 32 hex digits.")
    return f"{SLIDES}/{name}"


def is_group_name(name: str) -> bool:
    """Whether a folder of this name may belong to a slide."""
    return _GROUP.fullmatch(name) is not None


def group_names(storage: Storage) -> list[str]:
    """Return the names of the folders that may belong to slides, sorted."""
    return [name for name in storage.folders(SLIDES) if is_group_name(name)]


def is_recorded(storage: Storage, name: str) -> bool:
    """Whether a JSON file in a slide's folder shows that this program made it."""
    return any(_named_in(storage, name, file) == name for file in (SLIDE_FILE, REMOVED_FILE, PROGRESS_FILE))


def check_place(storage: Storage) -> None:
    """Check that a new index would not use a folder with other files.

    Raises
    ------
    ForeignFiles
        If its folder for slides exists already.
    """
    for name in storage.entries(SLIDES) if storage.is_own(SLIDES) else [SLIDES]:
        if is_group_name(name) and is_recorded(storage, name):
            raise ForeignFiles(
                f"{storage.location} contains slides of an index but no index.json, which says how they were made; "
                "restore index.json from a copy, or choose another folder."
            )
        if name != "zarr.json":
            raise ForeignFiles(
                f"{storage.location}/{SLIDES} exists and does not belong to an index ({name}), but an index stores its "
                "own data under that name; choose another folder with --index."
            )
    if storage.exists(SLIDES):
        raise ForeignFiles(f"{storage.location}/{SLIDES} is a file; choose another folder with --index.")


def check_group(storage: Storage, name: str) -> None:
    """Check that a slide may be written into its folder.

    Raises
    ------
    ComirSearchError
        If this program did not make the folder, or if it is a link.
    """
    folder = folder_of(name)
    storage.check_own(folder)
    if is_recorded(storage, name):
        return
    for file in storage.sizes(folder):
        if not _is_ours(file):
            raise ForeignFiles(
                f"{storage.location}/{folder} contains a file that does not belong to the index ({file}); move it "
                "elsewhere."
            )


def clear_group(storage: Storage, name: str, keep: str = "") -> int:
    """Delete the files that this program wrote of a slide, except one.

    Parameters
    ----------
    storage : Storage
    name : str
        The slide's name in the index.
    keep : str
        The JSON file that stays; it shows that the folder is ours.

    Returns
    -------
    int
        Bytes freed.
    """
    folder = folder_of(name)
    storage.check_own(folder)
    freed_bytes = 0
    for file, size in storage.sizes(folder).items():
        if file != keep and _is_ours(file):
            storage.delete(f"{folder}/{file}")
            freed_bytes += size
    storage.prune(folder)
    return freed_bytes


def delete_group(storage: Storage, name: str) -> int:
    """Delete all files that this program wrote of a slide, its JSON file last; return the bytes freed."""
    return clear_group(storage, name, REMOVED_FILE) + clear_group(storage, name)


def delete_leftovers(storage: Storage, name: str) -> int:
    """Delete the temporary files of killed runs in a slide's folder; return the bytes freed."""
    folder = folder_of(name)
    left = {file: size for file, size in storage.sizes(folder).items() if _TEMPORARY.fullmatch(file)}
    for file in left:
        storage.delete(f"{folder}/{file}")
    return sum(left.values())


def delete_leftovers_beside(storage: Storage) -> int:
    """Delete the temporary files of killed runs beside index.json; return the bytes freed."""
    freed_bytes = 0
    for name in storage.entries(""):
        if _TEMPORARY_BESIDE.fullmatch(name):
            freed_bytes += len(storage.read(name) or b"")
            storage.delete(name)
    return freed_bytes


def _named_in(storage: Storage, name: str, file: str) -> str:
    """Return the slide's name in a JSON file of its folder, "" if there is none."""
    path = f"{folder_of(name)}/{file}"
    with suppress(BadDocument):
        if file == PROGRESS_FILE:
            begun = storage.read_document(path, _Begun, "")
            return begun.record.fingerprint if begun else ""
        named = storage.read_document(path, _Named, "")
        return named.fingerprint if named else ""
    return ""


def _is_ours(file: str) -> bool:
    return bool(_FILES.fullmatch(file) or _TEMPORARY.fullmatch(file))
