"""Maintain an index: verify every chunk, rebuild damaged ones, free the space of removed slides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from comir_search.documents import BadDocument
from comir_search.errors import ComirSearchError
from comir_search.index.index import MODEL_FILE, Index, find_slide
from comir_search.index.indexed_slide import DamagedChunk, IndexedSlide
from comir_search.index.layout import comir_array
from comir_search.index.lock import writer_lock
from comir_search.index.slide_group import (
    delete_group,
    delete_leftovers,
    delete_leftovers_beside,
    folder_of,
    group_names,
    is_recorded,
)
from comir_search.index.slide_record import REMOVED_FILE, SLIDE_FILE, SlideRecord
from comir_search.index.steps import (
    derive_block,
    embed_pixels,
    measure_tissue,
    read_block,
    read_region,
    tissue_to_chunks,
)
from comir_search.index.storage import CannotRead
from comir_search.progress import Job, Tick
from comir_search.slides import open_slide

Position = tuple[int, int]


@dataclass(frozen=True)
class Damage:
    """One damaged part of an index.

    Parameters
    ----------
    slide : str
        The slide's name; empty for a part of the index as a whole.
    fingerprint : str
    part : str
        An array ("comir/0", "words", ...) or a file ("slide.json", ...).
    chunk : (int, int) or None
        Row and column of the damaged chunk; None if the whole part is damaged.
    problem : str
    """

    slide: str
    fingerprint: str
    part: str
    chunk: Position | None
    problem: str

    def __str__(self) -> str:
        place = self.part if self.chunk is None else f"{self.part} chunk {self.chunk[0]}/{self.chunk[1]}"
        return f"{self.slide or 'index'}: {place}: {self.problem}"


@dataclass(frozen=True)
class Compaction:
    """Result of compacting an index.

    Parameters
    ----------
    freed_bytes : int
    removed : tuple of str
        Names of the slides whose space was freed.
    interrupted : tuple of str
        Names of unfinished slides; their parts were kept.
    """

    freed_bytes: int
    removed: tuple[str, ...]
    interrupted: tuple[str, ...]


def verify_steps(index_path: str | Path) -> Job[list[Damage]]:
    """Read every chunk of every complete slide, and the model.

    Returns
    -------
    list of Damage
        Empty if nothing is damaged.

    Raises
    ------
    ComirSearchError
        If there is no index, or its index.json is damaged.
    """
    index = Index.open(index_path, "cpu")
    yield Tick("verifying the model", 0, 1)
    damages = [*_check_model(index), *_check_records(index)]
    for slide in index.slides:
        damages += yield from _check_slide_steps(slide)
    return damages


def repair_steps(index_path: str | Path, *, device: str = "auto") -> Job[list[Damage]]:
    """Rebuild the parts that `verify_steps` finds damaged, and nothing else.

    Chunks of the finest CoMIR and of the tissue mask are rebuilt from the slide's
    file, all others from the finest CoMIR.

    Returns
    -------
    list of Damage
        The parts that were rebuilt.

    Raises
    ------
    ComirSearchError
        If another process writes to the index; or if a part cannot be rebuilt, after
        all other parts were.
    """
    index = Index.open(index_path, device)
    with writer_lock(index.storage):
        yield Tick("verifying the model", 0, 1)
        for damage in _check_model(index):
            raise ComirSearchError(
                f"The {MODEL_FILE} in {index.path} cannot be rebuilt ({damage.problem}); copy the model "
                "with which the index was made there again."
            )
        repaired: list[Damage] = []
        failures: list[ComirSearchError] = []
        for damage in _check_records(index):
            try:
                _repair_record(index, damage.fingerprint)
                repaired.append(damage)
            except ComirSearchError as failure:
                failures.append(failure)
        index.refresh()
        for slide in index.slides:
            try:
                repaired += yield from _repair_slide_steps(index, slide)
            except ComirSearchError as failure:
                failures.append(failure)
    if failures:
        raise failures[0]
    return repaired


def compact_steps(index_path: str | Path, *, remove: Sequence[str] = ()) -> Job[Compaction]:
    """Delete files that no longer belong to an index.

    These are removed slides, and temporary files of runs that were killed. The
    finished parts of an interrupted run are kept, and so is every file that this
    program did not write.

    Parameters
    ----------
    index_path : path or str
    remove : sequence of str
        Names or fingerprints of slides to remove first, finished or not.

    Raises
    ------
    ComirSearchError
        If no slide, or more than one, has a name given in `remove`; if another
        process writes to the index; or if a slide to remove lies behind a link.
    """
    index = Index.open(index_path, "cpu")
    storage = index.storage
    with writer_lock(storage):
        groups = {name: index.find_record(name) for name in group_names(storage)}
        for name in [_find_group(index, groups, wanted) for wanted in remove]:
            _retire(index, name)
        freed_bytes = delete_leftovers_beside(storage)
        removed, interrupted = [], []
        for number, (name, record) in enumerate(groups.items()):
            yield Tick("compacting", number, len(groups))
            if not storage.is_own(folder_of(name)) or not is_recorded(storage, name):
                continue
            known_as = name if record is None else record.name
            if storage.exists(f"{folder_of(name)}/{SLIDE_FILE}"):
                freed_bytes += delete_leftovers(storage, name)
            elif storage.exists(f"{folder_of(name)}/{REMOVED_FILE}"):
                freed_bytes += delete_group(storage, name)
                removed.append(known_as)
            else:
                freed_bytes += delete_leftovers(storage, name)
                interrupted.append(known_as)
    return Compaction(freed_bytes, tuple(removed), tuple(interrupted))


def _check_model(index: Index) -> list[Damage]:
    try:
        _ = index.model
    except CannotRead:
        raise
    except ComirSearchError as error:
        return [Damage("", "", MODEL_FILE, None, str(error).rstrip("."))]
    return []


def _check_records(index: Index) -> list[Damage]:
    """Find the slides whose slide.json is damaged."""
    damages = []
    for name in group_names(index.storage):
        try:
            index.read_record(name)
        except BadDocument as error:
            record = index.find_record(name)
            known_as = name if record is None else record.name
            damages.append(Damage(known_as, name, SLIDE_FILE, None, error.problem))
    return damages


def _check_slide_steps(slide: IndexedSlide) -> Job[list[Damage]]:
    """Read every chunk of a slide."""
    chunks = [(array, chunk) for array in slide.layout.arrays for chunk in slide.grid.chunks(array)]
    damages: list[Damage] = []
    bad_arrays = set()
    for array in slide.layout.arrays:
        try:
            slide.check_array(array)
        except DamagedChunk as damage:
            bad_arrays.add(array)
            damages.append(Damage(slide.name, slide.fingerprint, array, None, damage.problem))
    for number, (array, chunk) in enumerate(chunks):
        yield Tick(f"verifying {slide.name}", number, len(chunks))
        if array in bad_arrays:
            continue
        try:
            slide.read_chunk(array, chunk)
        except DamagedChunk as damage:
            damages.append(Damage(slide.name, slide.fingerprint, array, chunk, damage.problem))
    return damages


def _repair_record(index: Index, fingerprint: str) -> None:
    """Write slide.json again from the record that indexing kept."""
    progress = index.read_progress(fingerprint)
    if progress is None or any(progress.left(kind) for kind in progress.cells):
        raise ComirSearchError(
            f"Slide {fingerprint} in the index {index.path} cannot be rebuilt; remove it with "
            f"`comir-search compact --index {index.path} --remove {fingerprint}` and index the slide again."
        )
    index.write_record(progress.target.record)


def _repair_slide_steps(index: Index, slide: IndexedSlide) -> Job[list[Damage]]:
    """Rebuild the damaged parts of a slide; return a list of them."""
    damages = yield from _check_slide_steps(slide)
    if not damages:
        return []
    described = [damage for damage in damages if damage.chunk is None]
    for damage in described:
        slide.create_array(damage.part)
    if described:  # their chunks can only be read after this
        damages = [*described, *(yield from _check_slide_steps(slide))]
    bad: dict[str, set[Position]] = {}
    for damage in damages:
        if damage.chunk is not None:
            bad.setdefault(damage.part, set()).add(damage.chunk)
    model, stage = index.model, f"repairing {slide.name}"
    from_slide = bad.keys() & {"tissue", comir_array(0)}
    if from_slide:
        yield Tick(stage, 0, 0)
        with open_slide(find_slide(slide), pixel_size_um=slide.pixel_size_um) as source:
            if "tissue" in bad:
                tissue = measure_tissue(source, model, index.modality, slide.layout)
                chunks = tissue_to_chunks(tissue)
                slide.write_chunks("tissue", (made for made in chunks if made[0] in bad["tissue"]))
            for region in _unique(slide.grid.region_of(chunk) for chunk in bad.get(comir_array(0), ())):
                yield Tick(stage, 0, 0)
                pixels = read_region(source, slide, model, region)
                chunks = embed_pixels(pixels, slide, model, index.modality, region)
                slide.write_chunks(
                    comir_array(0), (made for made in chunks if made[0] in bad[comir_array(0)])
                )
    derived = [array for array in slide.layout.derived_arrays if array in bad]
    for block in _unique(slide.grid.block_of(array, chunk) for array in derived for chunk in bad[array]):
        yield Tick(stage, 0, 0)
        made = derive_block(read_block(slide, block), slide, model, block, tuple(derived))
        for array, parts in made.items():
            slide.write_chunks(array, (part for part in parts if part[0] in bad[array]))
    for array, positions in bad.items():
        for chunk in positions:
            slide.read_chunk(array, chunk)
    return damages


def _find_group(index: Index, groups: dict[str, SlideRecord | None], wanted: str) -> str:
    """Return the fingerprint of the slide with the wanted name or fingerprint."""
    found = [
        fingerprint
        for fingerprint, record in groups.items()
        if wanted == fingerprint or (record is not None and wanted == record.name)
    ]
    if not found:
        names = ", ".join(sorted(record.name for record in groups.values() if record is not None)) or "none"
        raise ComirSearchError(f"The index {index.path} contains no slide {wanted}; its slides are: {names}.")
    if len(found) > 1:
        raise ComirSearchError(
            f"The index {index.path} contains {len(found)} slides named {wanted}; choose one by its fingerprint: "
            f"{' or '.join(found)}."
        )
    return found[0]


def _retire(index: Index, name: str) -> None:
    """Remove a slide from the index by deleting the slide.json that readers look for."""
    folder = folder_of(name)
    index.storage.write_document(f"{folder}/{REMOVED_FILE}", {"fingerprint": name})
    index.storage.delete(f"{folder}/{SLIDE_FILE}")


def _unique(positions: Iterable[Position]) -> list[Position]:
    return sorted(set(positions))
