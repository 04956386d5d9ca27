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
_NAMES_COMPANIONS = (".mrxs", ".vms", ".vmu", ".vsi")
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
    companions = {
        companion.name
        for entry in entries
        if entry.suffix.lower() in _NAMES_COMPANIONS and entry.is_file()
        for companion in list_companions(entry)
    }
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


def list_companions(path: Path) -> list[Path]:
    """Return the files and folders beside a slide that belong to it: of MRXS, VMS, VMU, VSI and DICOM.

    Names that a slide states are taken as names beside it only, never as paths
    that lead elsewhere. They need not exist.
    """
    suffix = path.suffix.lower()
    if suffix == ".mrxs":
        return [path.with_suffix("")]
    if suffix == ".vsi":
        return [path.with_name(f"_{path.stem}_")]
    if suffix in (".vms", ".vmu"):
        with path.open("rb") as file:
            text = file.read(1 << 16).decode("latin-1")
        stated = (name.strip() for name in re.findall(r"^\w*File[^=]*=(.+)$", text, re.MULTILINE))
        return [path.with_name(name) for name in sorted(set(stated)) if is_plain_name(name)]
    if suffix == ".dcm":
        series = _read_series(path)
        return [
            other
            for other in sorted(path.parent.iterdir())
            if other.name != path.name
            and other.suffix.lower() == ".dcm"
            and other.is_file()
            and _read_series(other) == series
        ]
    return []


def is_plain_name(name: str) -> bool:
    """Whether a name that a file states is that of a file beside it, and no path that leads elsewhere."""
    return bool(name) and name not in (".", "..") and not any(part in name for part in "/\\\0")


def _read_series(path: Path) -> bytes:
    """Return the DICOM series of a file, or its name where it states none."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
    at = head.find(_SERIES_TAG)
    if at < 0:
        return path.name.encode()
    start = at + len(_SERIES_TAG) + 2
    return head[start : start + int.from_bytes(head[start - 2 : start], "little")]
