"""Find the slides in folders."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from comir_search.errors import ComirSearchError

SUFFIXES = frozenset({
    ".tif", ".tiff", ".btf", ".tf8", ".svs", ".ndpi", ".scn", ".qptiff", ".png", ".jpg", ".jpeg",
    ".bif", ".mrxs", ".vms", ".vmu", ".dcm", ".czi", ".svslide",
})  # fmt: skip
_INDEX_FILES = (
    "index.json",
    "model.safetensors",
)  # an index is a Zarr hierarchy, and may lie beside the slides
_SERIES_TAG = b"\x20\x00\x0e\x00UI"  # DICOM's SeriesInstanceUID, explicit little endian


def find_slides(paths: Sequence[str | Path]) -> list[Path]:
    """Return the slides among files and in folders, each once, sorted.

    Folders are searched at any depth. A file that is named is taken whatever it
    is called. Hidden files and the companions of slides in several files (MRXS,
    VMS, DICOM) are left out, and so are indexes; an OME-Zarr folder is one slide.

    Parameters
    ----------
    paths : sequence of str or Path

    Raises
    ------
    ComirSearchError
        Where a path does not exist, or a folder holds no slide.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise ComirSearchError(f"{path} does not exist: check the path")
        slides = sorted(_walk(path, set())) if path.is_dir() and not is_zarr(path) else [path]
        if not slides:
            raise ComirSearchError(
                f"the folder {path} holds no slide: name one with files such as .ome.tif, .svs, .png or .zarr"
            )
        for slide in slides:
            found.setdefault(slide.resolve(), slide)
    return list(found.values())


def is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr group."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zattrs"))


def _walk(folder: Path, walked: set[Path]) -> Iterator[Path]:
    """Yield the slides below a folder, companions left out, unless it was walked by another way (links)."""
    here = folder.resolve()
    if here in walked:
        return
    walked.add(here)
    entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    companions = _list_companions(entries)
    seen_series: set[bytes] = set()
    for entry in entries:
        if entry.name in companions:
            continue
        if entry.is_dir():
            if all((entry / name).is_file() for name in _INDEX_FILES):
                continue
            if is_zarr(entry):
                yield entry
            else:
                yield from _walk(entry, walked)
        elif entry.suffix.lower() == ".dcm":
            series = _read_series(entry)
            if series not in seen_series:
                seen_series.add(series)
                yield entry
        elif entry.suffix.lower() in SUFFIXES and entry.is_file():
            yield entry


def _list_companions(entries: list[Path]) -> set[str]:
    """Return the names of files and folders that belong to another file here."""
    companions = {entry.stem for entry in entries if entry.suffix.lower() == ".mrxs"}
    for entry in entries:
        if entry.suffix.lower() in (".vms", ".vmu") and entry.is_file():
            text = entry.read_bytes()[: 1 << 16].decode("latin-1")
            companions.update(
                value.strip() for value in re.findall(r"^\w*File[^=]*=(.+)$", text, re.MULTILINE)
            )
    return companions


def _read_series(path: Path) -> bytes:
    """Return the DICOM series of a file, or its name where it states none."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
    at = head.find(_SERIES_TAG)
    if at < 0:
        return path.name.encode()
    start = at + len(_SERIES_TAG) + 2
    return head[start : start + int.from_bytes(head[start - 2 : start], "little")]
