"""The folders of an index that hold a slide each: which are ours, and what of them may be deleted.

A folder below ``slides`` is ours where its name is 32 hex digits and a document in
it, that this program wrote, names the same digits. Within it, files are deleted
one by one, by the exact names that this program and Zarr give them: whatever else
lies there, or behind a link, stays.
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
# What a writer that was killed leaves: ours, of this version and of older ones, and Zarr's.
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
    """Where an index keeps its own data, there is something that this program did not write."""


def folder_of(name: str) -> str:
    """Return the folder of a slide, by its name in the index.

    Raises
    ------
    ForeignFiles
        If that is no name of a slide.
    """
    if not is_group_name(name):
        raise ForeignFiles(f"{name!r} is not the name of a slide in an index: that is 32 hex digits.")
    return f"{SLIDES}/{name}"


def is_group_name(name: str) -> bool:
    """Whether a folder of that name may be a slide's."""
    return _GROUP.fullmatch(name) is not None


def group_names(storage: Storage) -> list[str]:
    """Return the names of the folders that may be slides', sorted."""
    return [name for name in storage.folders(SLIDES) if is_group_name(name)]


def is_recorded(storage: Storage, name: str) -> bool:
    """Whether this program made a slide's folder: a document in it says so."""
    return any(_named_in(storage, name, file) == name for file in (SLIDE_FILE, REMOVED_FILE, PROGRESS_FILE))


def check_place(storage: Storage) -> None:
    """Make sure that a new index would lie in nothing of somebody else's.

    Raises
    ------
    ForeignFiles
        If its folder for slides is taken.
    """
    for name in storage.entries(SLIDES) if storage.is_own(SLIDES) else [SLIDES]:
        if is_group_name(name) and is_recorded(storage, name):
            raise ForeignFiles(
                f"{storage.location} holds slides of an index but no index.json, so it is not known what they were "
                "made with; restore it from a copy, or choose another folder."
            )
        if name != "zarr.json":
            raise ForeignFiles(
                f"{storage.location}/{SLIDES} is there already and is not of an index ({name}), but an index keeps its "
                "own data under that name; choose another folder with --index."
            )
    if storage.exists(SLIDES):
        raise ForeignFiles(f"{storage.location}/{SLIDES} is a file; choose another folder with --index.")


def check_group(storage: Storage, name: str) -> None:
    """Make sure that a slide may be written into its folder.

    Raises
    ------
    ComirSearchError
        If the folder is somebody else's, or is a link.
    """
    folder = folder_of(name)
    storage.check_own(folder)
    if is_recorded(storage, name):
        return
    for file in storage.sizes(folder):
        if not _is_ours(file):
            raise ForeignFiles(
                f"{storage.location}/{folder} holds a file that is not of the index ({file}); move it elsewhere."
            )


def clear_group(storage: Storage, name: str, keep: str = "") -> int:
    """Delete what this program wrote of a slide, but for one document.

    Parameters
    ----------
    storage : Storage
    name : str
        The slide's name in the index.
    keep : str
        The document that stays, so that the folder is known as ours until the end.

    Returns
    -------
    int
        Bytes given back.
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
    """Delete what this program wrote of a slide, last the document that says so; return the bytes given back."""
    return clear_group(storage, name, REMOVED_FILE) + clear_group(storage, name)


def delete_leftovers(storage: Storage, name: str) -> int:
    """Delete what writers that were killed left in a slide's folder; return the bytes given back."""
    folder = folder_of(name)
    left = {file: size for file, size in storage.sizes(folder).items() if _TEMPORARY.fullmatch(file)}
    for file in left:
        storage.delete(f"{folder}/{file}")
    return sum(left.values())


def delete_leftovers_beside(storage: Storage) -> int:
    """Delete what writers that were killed left of index.json and the model; return the bytes given back."""
    freed_bytes = 0
    for name in storage.entries(""):
        if _TEMPORARY_BESIDE.fullmatch(name):
            freed_bytes += len(storage.read(name) or b"")
            storage.delete(name)
    return freed_bytes


def _named_in(storage: Storage, name: str, file: str) -> str:
    """Return the name of a slide that a document in its folder states, empty where there is none."""
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
