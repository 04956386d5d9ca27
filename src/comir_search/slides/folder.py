"""Find the slides in folders."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from comir_search.errors import BatchIncomplete, ComirSearchError, LeftOut
from comir_search.slides.guard import unreadable

SUFFIXES = frozenset({
    ".tif", ".tiff", ".btf", ".tf8", ".svs", ".ndpi", ".scn", ".qptiff", ".png", ".jpg", ".jpeg",
    ".bif", ".mrxs", ".vms", ".vmu", ".dcm", ".czi", ".svslide",
})  # fmt: skip
_INDEX_FILES = (
    "index.json",
    "model.safetensors",
)  # an index is a Zarr folder too, and may be stored beside the slides
_NAMES_COMPANIONS = (".mrxs", ".vms", ".vmu", ".vsi")
_SERIES_TAG = b"\x20\x00\x0e\x00UI"  # DICOM's SeriesInstanceUID, explicit little endian


def find_slides(paths: Sequence[str | Path], left_out: list[LeftOut] | None = None) -> list[Path]:
    """Return the slides among files and in folders, each once, sorted.

    Folders are searched with all their subfolders. A file given by name is always
    included, whatever its suffix. Hidden files, indexes and the companion files of
    a slide (MRXS, VMS, DICOM) are left out. An OME-Zarr folder is one slide. A file
    that cannot be read does not stop the search for the others.

    Parameters
    ----------
    paths : sequence of str or Path
    left_out : list of LeftOut, optional
        Paths that are missing or cannot be read are added to this list, with the
        reason. Without it they raise an error.

    Raises
    ------
    ComirSearchError
        Without `left_out`: if a path does not exist, or a folder contains no slide.
    BatchIncomplete
        Without `left_out`: if a folder or file below a folder cannot be read.
        Its `result` contains the slides that were found.
    """
    found: dict[Path, Path] = {}
    failed: list[LeftOut] = []
    for path in map(Path, paths):
        try:
            slides = _find_below(path, failed)
        except ComirSearchError as error:
            if left_out is None:
                raise
            failed.append(LeftOut(str(path), str(error)))
        else:
            for slide in slides:
                found.setdefault(slide.resolve(), slide)
    if left_out is not None:
        left_out.extend(failed)
    elif failed:
        raise BatchIncomplete(list(found.values()), tuple(failed), len(found) + len(failed))
    return list(found.values())


def _find_below(path: Path, failed: list[LeftOut]) -> list[Path]:
    """Return a file, or the slides below a folder; add paths that cannot be read to `failed`."""
    before = len(failed)
    try:
        path.stat()
        if not path.is_dir() or is_zarr(path):
            return [path]
        slides = sorted(_walk(path, set(), failed))
    except FileNotFoundError as error:
        raise ComirSearchError(f"{path} does not exist: check the path") from error
    except OSError as error:
        raise unreadable(path, error) from error
    if not slides and len(failed) == before:
        raise ComirSearchError(
            f"the folder {path} contains no slide: choose one with files such as .ome.tif, .svs, .png or .zarr"
        )
    return slides


def is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr group."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zattrs"))


def _walk(folder: Path, walked: set[Path], failed: list[LeftOut]) -> Iterator[Path]:
    """Yield the slides below a folder, without companion files; skip a folder that a link already led to."""
    here = folder.resolve()
    if here in walked:
        return
    walked.add(here)
    try:
        entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    except OSError as error:
        failed.append(LeftOut(str(folder), str(unreadable(folder, error))))
        return
    companions: set[str] = set()
    for entry in entries:
        if entry.suffix.lower() in _NAMES_COMPANIONS and entry.is_file():
            with _noting(entry, failed):
                companions.update(companion.name for companion in list_companions(entry))
    seen_series: set[bytes] = set()
    for entry in entries:
        if entry.name in companions:
            continue
        with _noting(entry, failed):
            if entry.is_dir():
                if all((entry / name).is_file() for name in _INDEX_FILES):
                    continue
                if is_zarr(entry):
                    yield entry
                else:
                    yield from _walk(entry, walked, failed)
            elif entry.suffix.lower() == ".dcm" and entry.is_file():
                series = _read_series(entry)
                if series not in seen_series:
                    seen_series.add(series)
                    yield entry
            elif entry.suffix.lower() in SUFFIXES and entry.is_file():
                yield entry


@contextlib.contextmanager
def _noting(entry: Path, failed: list[LeftOut]) -> Iterator[None]:
    """Note that an entry cannot be read, and continue."""
    try:
        yield
    except OSError as error:
        failed.append(LeftOut(str(entry), str(unreadable(entry, error))))


def list_companions(path: Path) -> list[Path]:
    """Return the companions of a slide (MRXS, VMS, VMU, VSI, DICOM): files and folders beside it.

    Names written in the slide's file count only if they lie beside it; they cannot
    lead to another folder. The companions need not exist.
    """
    suffix = path.suffix.lower()
    if suffix == ".mrxs":
        return [path.with_suffix("")]
    if suffix == ".vsi":
        return [path.with_name(f"_{path.stem}_")]
    if suffix in (".vms", ".vmu"):
        return [path.with_name(name) for name in list_named_files(path) if is_plain_name(name)]
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


def list_named_files(path: Path) -> list[str]:
    """Return the names of other files that a VMS or VMU file lists; nothing for other formats."""
    if path.suffix.lower() not in (".vms", ".vmu"):
        return []
    with path.open("rb") as file:
        text = file.read(1 << 16).decode("latin-1")
    return sorted({name.strip() for name in re.findall(r"^\w*File[^=]*=(.+)$", text, re.MULTILINE)})


def is_plain_name(name: str) -> bool:
    """Whether a name written in a file is a plain file name, not a path to another folder."""
    return bool(name) and name not in (".", "..") and not any(part in name for part in "/\\\0")


def _read_series(path: Path) -> bytes:
    """Return the DICOM series of a file, or the file's name if it gives no series."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
    at = head.find(_SERIES_TAG)
    if at < 0:
        return path.name.encode()
    start = at + len(_SERIES_TAG) + 2
    return head[start : start + int.from_bytes(head[start - 2 : start], "little")]
