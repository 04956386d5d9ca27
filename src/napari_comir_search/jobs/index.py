"""Slides enter an index, and an index is opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from comir_search.errors import BatchIncomplete, ComirSearchError, LeftOut
from comir_search.index.index import Index
from comir_search.index.layout import MAX_AREA_PX
from comir_search.index.lock import writer_lock
from comir_search.index.options import IndexOptions
from comir_search.index.slide_group import group_names
from comir_search.index.storage import INDEX_FILE, Storage
from comir_search.progress import Job, Tick
from comir_search.records import SlideInfo
from comir_search.slides import open_slide
from napari_comir_search.jobs.threads import leave_a_core
from napari_comir_search.jobs.thumbnails import THUMBNAIL_PX
from napari_comir_search.state.items import IndexState, SlideItem
from napari_comir_search.state.names import find_record, names_in


@dataclass(frozen=True)
class OpenedIndex:
    """An index with how far each slide has come in it."""

    path: Path
    index: Index | None
    states: dict[str, IndexState]


def open_index_steps(path: Path, items: Sequence[SlideItem], options: IndexOptions) -> Job[OpenedIndex]:
    """Open an index, if there is one in that folder, and see which slides are in it.

    Parameters
    ----------
    path : Path
        The index folder.
    items : sequence of SlideItem
        The slides of the project.
    options : IndexOptions
        The device, and the model that is compared with the one of the index.
    """
    yield Tick("opening the index", 0, 0)
    index = _open_index(path, options.device)
    yield Tick("opening the index", 1, 2)
    return OpenedIndex(path, index, _states_in(index, items, options))


def index_steps(
    path: Path, items: Sequence[SlideItem], repository: Sequence[SlideItem], options: IndexOptions
) -> Job[OpenedIndex]:
    """Index slides one after the other; each is searchable once it is done.

    Ticks carry the `OpenedIndex` as it stands after each slide.

    Parameters
    ----------
    path : Path
        The index folder; made if it is not there.
    items : sequence of SlideItem
        The slides to index.
    repository : sequence of SlideItem
        All slides of the project.
    options : IndexOptions
    """
    from comir_search.index.build import STOPS_ALL, index_slides_steps

    leave_a_core()
    if options.modality is None and not (path / "index.json").exists():
        options = replace(options, modality=_guess_modality(repository, options))
    index: Index | None = None
    left_out: list[LeftOut] = []
    for item in items:
        _check_writable(path)
        try:
            if item.state is IndexState.STALE:
                yield Tick(f"opening {item.info.name}", 0, 0)
                _check_readable(path, item.info)
                yield Tick(f"removing {item.info.name} from the index", 0, 0)
                _take_out(path, item.info)
            is_given = item.info.pixel_size_source == "user"
            one = replace(options, pixel_size_um=item.info.pixel_size_um if is_given else None)
            index = yield from index_slides_steps([Path(item.info.path)], path, one)
        except ComirSearchError as error:
            if len(items) == 1 or isinstance(error, STOPS_ALL) or isinstance(error.__cause__, STOPS_ALL):
                for each in left_out:
                    yield Tick(f"indexing {item.info.name}", 0, 0, note=each.reason)
                raise  # what goes wrong with the index or its disk would do so for each of the others
            left_out.append(LeftOut(item.info.name, str(error)))  # the others are indexed all the same
            continue
        now = OpenedIndex(path, index, _states_in(index, repository, options))
        yield Tick(f"{item.info.name} indexed", 1, 1, now)
    if index is None:
        index = _open_index(path, options.device)
    opened = OpenedIndex(path, index, _states_in(index, repository, options))
    if left_out:
        raise BatchIncomplete(opened, tuple(left_out), len(items))
    return opened


def _check_writable(path: Path) -> None:
    """Refuse to go on where another process writes to an index, as it would be for every slide."""
    storage = Storage(path)
    if storage.exists(INDEX_FILE):
        with writer_lock(storage):
            pass


def _check_readable(path: Path, info: SlideInfo) -> None:
    """Refuse to index again what cannot be: while its old entry is still there."""
    layout = Index.open(path, "cpu").layout
    with open_slide(info.path, pixel_size_um=info.pixel_size_um) as slide:
        if info.identity and slide.identity != info.identity:
            raise ComirSearchError(
                f"{info.path} has been replaced by another slide: remove it from the project and add it again."
            )
        height, width = slide.scaled_shape(layout.model_pixel_size_um)
        if height * width > MAX_AREA_PX:
            raise ComirSearchError(
                f"{info.name} is too large to be indexed with {info.pixel_size_um:g} µm per pixel: correct its pixel "
                "size, or cut it into parts."
            )
        slide.overview(THUMBNAIL_PX)


def _take_out(path: Path, info: SlideInfo) -> None:
    """Remove a slide from an index, before it is indexed again with another pixel size."""
    index = Index.open(path, "cpu")
    record = find_record((slide.record for slide in index.slides), info)
    if record is not None:
        index.remove(record.fingerprint)


def _open_index(path: Path, device: str) -> Index | None:
    if not (path / "index.json").exists():
        return None
    index = Index.open(path, device=device)
    _ = index.model.embedding_fingerprint  # loaded and measured here, not when the window asks for it
    return index


def _guess_modality(repository: Sequence[SlideItem], options: IndexOptions) -> str | None:
    """Return the modality whose number of channels all slides have, None unless it is one."""
    from comir_search.model.model import load_model

    model = load_model(options.model, "cpu")
    channels = {item.info.channels for item in repository}
    fitting = [side for side in model.modalities if channels == {model.channels_of(side)}]
    return fitting[0] if len(fitting) == 1 else None


def _states_in(
    index: Index | None, items: Sequence[SlideItem], options: IndexOptions
) -> dict[str, IndexState]:
    """Return how far each slide has come, by its key."""
    if index is None:
        return {}
    done = IndexState.DONE if _is_own_model(index, options) else IndexState.OTHER_MODEL
    complete = names_in([slide.record for slide in index.slides], (item.info for item in items))
    states = dict.fromkeys(complete, done)
    left = [item for item in items if item.fingerprint not in states]
    names = set(group_names(index.storage)) - {slide.fingerprint for slide in index.slides} if left else ()
    begun = [progress for name in sorted(names) if (progress := index.read_progress(name))]
    part = names_in([progress.target.record for progress in begun], (item.info for item in left))
    return states | dict.fromkeys(part, IndexState.PART)


def _is_own_model(index: Index, options: IndexOptions) -> bool:
    """Whether an index was made with the model of the user's choice."""
    if options.model is None or not options.model.is_file():
        return True  # no other model was chosen, or its file is missing: the index contains its own
    from comir_search.model.model import load_model

    return load_model(options.model, "cpu").words_fingerprint == index.model_fingerprint
