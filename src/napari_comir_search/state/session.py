"""What is open: slides, an index, queries, their answers and what was judged of them.

A session is the model behind the window. It knows neither Qt nor layers; it
tells who listens what has changed, and keeps everything in a project file from
the first moment, so that there is nothing to save. Its methods are quick; slow
work is in `jobs`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from comir_search.index.index import Index
from comir_search.index.indexed_slide import IndexedSlide
from comir_search.records import Candidate, SlideInfo, Verdict
from comir_search.study.entries import Judgement, ProjectQuery, ProjectSlide, same_place
from comir_search.study.freshness import Inputs, describe_state, sizes_differ
from comir_search.study.project import Project, is_same_file
from comir_search.study.stored import View, decode_view
from napari_comir_search.state.items import IndexState, SlideItem, missing_item
from napari_comir_search.state.names import names_in
from napari_comir_search.state.review import Review, SessionEvents, Step

SEARCHABLE = (IndexState.DONE, IndexState.OTHER_MODEL)


class Session(Review):
    """One study at work.

    Parameters
    ----------
    folder : path
        Where projects lie that have no name yet.
    reviewer : str, optional
        Name kept with each verdict; by default the user who is logged in.
    """

    def __init__(self, folder: str | Path, reviewer: str | None = None) -> None:
        super().__init__()
        self.events = SessionEvents()
        self.reviewer = reviewer
        self._folder = Path(folder)
        self._untitled: Path | None = None  # the file that this session made for a project without a name
        self.project = self._new_project()
        self._clear()

    def _clear(self) -> None:
        self._slides: dict[str, SlideItem] = {}
        self._missing: dict[str, SlideItem] = {}
        self.index: Index | None = None
        self._names: dict[str, str] = {}  # of slides in the index, by their keys
        self._states: dict[str, IndexState] = {}  # as the index was opened: corrected sizes left aside
        self.left_out: frozenset[str] = frozenset()  # slides that the user does not want to be searched
        self._image: tuple[int, np.ndarray | None] | None = None
        Review.__init__(self)

    # The project

    def _new_project(self) -> Project:
        self._folder.mkdir(parents=True, exist_ok=True)
        stem = f"untitled {datetime.now():%Y-%m-%d %H.%M.%S}"
        path = self._folder / f"{stem}.comirproj"
        number = 1
        while path.exists():
            number += 1
            path = self._folder / f"{stem} ({number}).comirproj"
        self._untitled = path
        return Project.create(path)

    @property
    def is_untitled(self) -> bool:
        """Whether the user has not yet said where the project belongs."""
        return self.project.path == self._untitled

    @property
    def is_empty(self) -> bool:
        """Whether the project holds neither slides nor queries."""
        return not self._slides and not self._queries

    def open_project(self, path: str | Path) -> None:
        """Leave the present project and open another.

        Raises
        ------
        ComirSearchError
            When it is missing, damaged or not a project; the present one stays.
        """
        self.take_project(Project.open(path))

    def take_project(self, project: Project) -> None:
        """Leave the present project and go on with one that has just been opened."""
        self._leave_project()
        self.project, self._untitled = project, None
        self._clear()
        self._queries = project.queries
        view = self.view
        known = [query.id for query in self._queries]
        self._query_id = view.query if view.query in known else known[-1] if known else None
        self._take_answer(view.rank)
        self._tell_all()

    def new_project(self) -> None:
        """Leave the present project and begin an empty one."""
        self._leave_project()
        self.project = self._new_project()
        self._clear()
        self._tell_all()

    def save_as(self, path: str | Path) -> None:
        """Go on under another name, in another place; an untitled project moves there."""
        self._keep_view()
        before, untitled = self.project, self._untitled
        self.project, self._untitled = before.save_as(path), None
        before.close()
        if untitled == before.path and not is_same_file(before.path, self.project.path):
            before.path.unlink(missing_ok=True)
        self._queries = self.project.queries
        self.events.project.emit()

    def close(self) -> None:
        """Close the project; the session is not used afterwards."""
        self._leave_project()

    def _leave_project(self) -> None:
        self._keep_view()
        unused = self.is_untitled and self.is_empty and not self.project.slides
        self.project.close()
        if unused:
            self.project.path.unlink(missing_ok=True)

    @property
    def view(self) -> View:
        """How the window looked when the project was left."""
        return decode_view(self.project.view)

    def keep_view(self, **values: Any) -> None:
        """Remember more of how the window looks (JSON-ready)."""
        self.project.view = self.project.view | values

    def _keep_view(self) -> None:
        self.keep_view(query=self._query_id, rank=self._rank)

    def _tell_all(self) -> None:
        for event in (self.events.project, self.events.slides, self.events.queries, self.events.query):
            event.emit()
        self.events.result.emit()
        self.events.candidate.emit()

    # The repository

    @property
    def slides(self) -> list[SlideItem]:
        """The slides whose files are there, in the order they came."""
        return list(self._slides.values())

    @property
    def missing(self) -> list[SlideItem]:
        """The project's slides whose files are not where they were."""
        return list(self._missing.values())

    def note_missing(self, slides: Iterable[ProjectSlide]) -> None:
        """Take note of which of the project's slides were not found."""
        self._missing = {slide.fingerprint: missing_item(slide) for slide in slides}
        self._find_names()
        self.events.slides.emit()

    def slide(self, fingerprint: str) -> SlideItem | None:
        """Return a slide by its fingerprint."""
        return self._slides.get(fingerprint)

    def slide_of(self, candidate: Candidate) -> SlideItem | None:
        """Return the slide that a candidate lies on."""
        if candidate.fingerprint:
            return self._slides.get(self.key_of(candidate.fingerprint) or "")
        return next((item for item in self.slides if item.info.name == candidate.slide), None)

    def add_slides(self, infos: Iterable[SlideInfo]) -> list[SlideItem]:
        """Add slides, or note their new place; return the ones that are new."""
        before, infos = set(self._slides), list(infos)
        self._find_names(infos)
        for info in infos:
            self.project.add_slide(info)
            self._slides[info.fingerprint] = self._item(info)
            self._missing.pop(info.fingerprint, None)
        self.events.slides.emit()
        return [item for fingerprint, item in self._slides.items() if fingerprint not in before]

    def _item(self, info: SlideInfo) -> SlideItem:
        """Return a slide with its state: that of the index, unless it was indexed otherwise than it is now."""
        state = self._states.get(info.fingerprint, IndexState.NONE)
        if self.index is None or state not in SEARCHABLE:
            return SlideItem(info, state)
        held = self._indexed.get(self._names.get(info.fingerprint, ""))
        if held is None:
            return SlideItem(info)
        if info.pixel_size_um is not None and sizes_differ(held.pixel_size_um, info.pixel_size_um):
            state = IndexState.STALE
        return SlideItem(info, state, held.pixel_size_um)

    @property
    def _indexed(self) -> dict[str, IndexedSlide]:
        """The slides of the index, by their names in it."""
        return {} if self.index is None else {slide.fingerprint: slide for slide in self.index.slides}

    def _find_names(self, infos: Iterable[SlideInfo] = ()) -> None:
        """Find out what the project's slides, and others that are to be its, are called in the index."""
        listed = [item.info for item in (*self.missing, *self.slides)]
        records = [] if self.index is None else [slide.record for slide in self.index.slides]
        self._names = names_in(records, [*listed, *infos])

    def name_of(self, key: str) -> str | None:
        """Return what a slide of the project is called in the index, None where that is another slide's name.

        What the index does not hold goes by its key.
        """
        return self._names.get(key, None if key in self._indexed else key)

    def key_of(self, name: str) -> str | None:
        """Return the key of the slide that is called so in the index, None where the project does not list it."""
        if name in self._indexed:
            return next((key for key, own in self._names.items() if own == name), None)
        return name

    @property
    def names(self) -> dict[str, str | None]:
        """What the slides are called in the index, and in answers, by their keys; see `name_of`."""
        return {item.fingerprint: self.name_of(item.fingerprint) for item in (*self.slides, *self.missing)}

    def remove_slide(self, fingerprint: str) -> None:
        """Take a slide out of the project; neither file nor index are touched, and it can be brought back."""
        self.project.remove_slide(fingerprint)
        item = self._slides.pop(fingerprint, None) or self._missing.pop(fingerprint, None)
        if item is not None:
            self._undo.append(Step(partial(self._restore_slide, item), f"{item.info.name} is back."))
        self.events.slides.emit()

    def _restore_slide(self, item: SlideItem) -> None:
        self.project.restore_slide(item.fingerprint)
        self._find_names([item.info])
        if item.state is IndexState.MISSING:
            self._missing[item.fingerprint] = item
        else:
            self._slides[item.fingerprint] = self._item(item.info)
        order = [slide.fingerprint for slide in self.project.slides]
        self._slides = {key: self._slides[key] for key in order if key in self._slides}
        self.events.slides.emit()

    def set_pixel_size(self, fingerprint: str, pixel_size_um: float) -> None:
        """Correct a slide's pixel size; where it was indexed with another, it has to be indexed again."""
        item = self._slides[fingerprint]
        info = replace(item.info, pixel_size_um=float(pixel_size_um), pixel_size_source="user")
        self.project.add_slide(info)
        self._slides[fingerprint] = self._item(info)
        self.events.slides.emit()

    @property
    def index_path(self) -> Path | None:
        """The index folder: the one chosen, else one beside the first slide."""
        chosen = self.project.settings.get("index")
        if chosen:
            path = Path(chosen)
            if self._slides and not path.exists():
                moved = Path(self.slides[0].info.path).parent / path.name
                return moved if (moved / "index.json").is_file() else path  # it moved with its slides
            return path
        if self._slides:
            return Path(self.slides[0].info.path).parent / "repository.comirindex"
        return None

    @property
    def model(self) -> str:
        """The model file chosen for this project, "" where none was."""
        return str(self.project.settings.get("model", ""))

    def set_model(self, path: str | Path) -> None:
        """Choose a model file for this project."""
        self.project.settings = self.project.settings | {"model": str(path)}

    def set_index(
        self, path: str | Path, index: Index | None, states: Mapping[str, IndexState] | None = None
    ) -> None:
        """Take in an index as just opened or written, and how far each slide has come."""
        self.index = index
        if self.project.settings.get("index") != str(path):
            self.project.settings = self.project.settings | {"index": str(path)}
        self._states = dict(states or {})
        self._find_names()
        self._slides = {fingerprint: self._item(item.info) for fingerprint, item in self._slides.items()}
        self.events.slides.emit()

    def mark_damaged(self, name: str) -> None:
        """Note that the part of the index cannot be read that holds the slide of this name."""
        item = self._slides.get(self.key_of(name) or "")
        if item is not None:
            self._states[item.fingerprint] = IndexState.DAMAGED
            self._slides[item.fingerprint] = self._item(item.info)
            self.events.slides.emit()

    @property
    def searchable(self) -> list[SlideItem]:
        """The slides that can be searched."""
        return [item for item in self.slides if item.state in SEARCHABLE]

    # Searching

    @property
    def chosen(self) -> list[str]:
        """The slides that would be searched now."""
        return [item.fingerprint for item in self.searchable if item.fingerprint not in self.left_out]

    @property
    def scope(self) -> list[str] | None:
        """What a search is to look through: all that the index holds (None), or the slides of these names in it.

        Never a slide that the index holds otherwise than it is now.
        """
        unwanted = {
            self.name_of(key)
            for key in self._names
            if key in self.left_out or (key in self._slides and self._slides[key].state not in SEARCHABLE)
        }
        indexed = list(self._indexed)
        wanted = [name for name in indexed if name not in unwanted]
        return None if len(wanted) == len(indexed) else wanted

    def set_search_options(self, top: int, mirror: bool) -> None:
        """Note how queries are searched in this project."""
        options = {"top": top, "mirror": mirror}
        if self.search_options != options:
            self.project.settings = self.project.settings | {"search": options}
            self.events.result.emit()

    @property
    def search_options(self) -> dict[str, Any] | None:
        """How queries are searched in this project, None where that was never said."""
        kept = self.project.settings.get("search")
        return None if kept is None else {"top": 10, "mirror": False} | kept

    @property
    def inputs(self) -> Inputs:
        """What a search would be computed from now."""
        named = [(self.name_of(item.fingerprint), item) for item in (*self.slides, *self.missing)]
        listed = [(name, item) for name, item in named if name is not None]
        scope = self.scope
        model = None if self.index is None else self.index.model
        return Inputs(
            stated_um={
                name: item.info.pixel_size_um for name, item in listed if item.info.pixel_size_um is not None
            },
            indexed_um=None if self.index is None else {k: v.pixel_size_um for k, v in self._indexed.items()},
            chosen=None if scope is None else frozenset(scope),
            names={name: item.info.name for name, item in listed},
            options=self.search_options,
            embedding=None if model is None else model.embedding_fingerprint,
            words=None if model is None else model.words_fingerprint,
            model=None if model is None else model.fingerprint,
        )

    @property
    def answer_state(self) -> str:
        """What has to be said of the current query's stored answer; see `describe_state`."""
        return "" if self.query is None else describe_state(self.query, self.inputs)

    @property
    def coverage(self) -> str:
        """How many of the slides the current answer looked through, "" where it was all of them."""
        origin = None if self.result is None else self.result.provenance
        if origin is None:
            return ""
        known = {name or key for key, name in self.names.items()}
        total = len(known | set(origin.slides))
        return "" if len(origin.slides) >= total else f"{len(origin.slides)} of {total} slides searched."

    # Queries

    @property
    def queries(self) -> list[ProjectQuery]:
        """The queries, in the order they came."""
        return list(self._queries)

    def add_query(
        self, name: str, image: np.ndarray | None = None, packed: bytes | None = None, **description: Any
    ) -> ProjectQuery:
        """Add a query and make it the current one; see `Project.add_query`.

        `packed` is `image` as the project keeps it, where that was made already.
        """
        key = self.project.add_query(name, image=image if packed is None else packed, **description)
        self._image = (key, image)
        self._queries = self.project.queries
        self.events.queries.emit()
        self.select_query(key)
        return self.project.query(key)

    def query_image(self, query_id: int) -> np.ndarray | None:
        """Return a query's pixels, None where they lie in a file; the last ones asked for are at hand."""
        if self._image is None or self._image[0] != query_id:
            self._image = (query_id, self.project.query_image(query_id))
        return self._image[1]

    def remove_query(self, query_id: int) -> None:
        """Take a query out, with its result and verdicts; all of it can be brought back."""
        query = self.project.query(query_id)
        self.project.remove_query(query_id)
        places = [other.id for other in self._queries]
        self._queries = self.project.queries
        self._undo.append(
            Step(
                partial(self._restore_query, query_id), f"{query.name} is back, with its answer and verdicts."
            )
        )
        was_current = query_id == self._query_id
        if was_current:
            near = min(places.index(query_id), len(self._queries) - 1)
            self.select_query(self._queries[near].id if self._queries else None)
        self.events.queries.emit()

    def _restore_query(self, query_id: int) -> None:
        self.project.restore_query(query_id)
        self._queries = self.project.queries
        self.events.queries.emit()
        self.select_query(query_id)

    def count_verdicts(self, query_id: int) -> int:
        """Return how many places of a query, of this or an earlier answer, are judged."""
        last: list[Judgement] = []
        for event in self.project.history(query_id):
            place = event.candidate
            last = [
                other
                for other in last
                if place and other.candidate and not same_place(other.candidate, place)
            ]
            last.append(event)
        return sum(event.verdict is not Verdict.NONE for event in last)

    def update_query(
        self, query_id: int, *, modality: str | None = None, pixel_size_um: float | None = None
    ) -> None:
        """Correct a query's modality or pixel size."""
        self.project.update_query(query_id, modality=modality, pixel_size_um=pixel_size_um)
        self._queries = self.project.queries
        if query_id == self._query_id:
            self.events.query.emit()
            self.events.result.emit()  # which may be out of date now
