"""What is open: slides, an index, queries, their answers and what was judged of them.

A session is the model behind the window. It knows neither Qt nor layers; it
emits an event for each change, and keeps everything in a project file from
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
from comir_search.records import Candidate, SearchResult, SlideInfo, Verdict
from comir_search.retrieval.options import SearchOptions
from comir_search.study.entries import Judgement, ProjectQuery, ProjectSlide, same_place
from comir_search.study.freshness import Inputs, describe_state, sizes_differ
from comir_search.study.project import Project, is_same_file
from comir_search.study.stored import View, decode_view
from napari_comir_search.state.items import IndexState, SlideItem, missing_item
from napari_comir_search.state.names import names_in
from napari_comir_search.state.review import SessionEvents, Step, changed_since, describe_moved, with_moved

SEARCHABLE = (IndexState.DONE, IndexState.OTHER_MODEL)
KEPT = ("top", "mirror", "method")  # of the options of a search, in a project


class Session:
    """One study at work.

    Parameters
    ----------
    folder : path
        Where projects lie that have no name yet.
    reviewer : str, optional
        Name kept with each verdict; by default the user who is logged in.
    """

    def __init__(self, folder: str | Path, reviewer: str | None = None) -> None:
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
        self._queries: list[ProjectQuery] = []
        self._query_id: int | None = None
        self._partial: SearchResult | None = None
        self._judgements: dict[int, Judgement] = {}
        self._rank: int | None = None
        self._undo: list[Step] = []

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
        """Close the project. The session cannot be used any more."""
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
        """Set which of the project's slides were not found."""
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
        """Remove a slide from the project. Its file and the index stay; undo brings it back."""
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
        """Use an index that was just opened or written, with the state of each slide.

        Parameters
        ----------
        path : path
            The index folder.
        index : Index or None
            None where there is none yet.
        states : mapping of str to IndexState, optional
            By the slides' keys in the project.
        """
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

    @property
    def search_options(self) -> SearchOptions | None:
        """How queries are searched in this project, None where that was not chosen yet."""
        kept = self.project.settings.get("search")
        return None if kept is None else SearchOptions(**{name: kept[name] for name in KEPT if name in kept})

    @search_options.setter
    def search_options(self, options: SearchOptions) -> None:
        kept = {name: getattr(options, name) for name in KEPT}
        if self.project.settings.get("search") != kept:
            self.project.settings = self.project.settings | {"search": kept}
            self.events.result.emit()

    @property
    def inputs(self) -> Inputs:
        """What a search would be computed from now."""
        named = [(self.name_of(item.fingerprint), item) for item in (*self.slides, *self.missing)]
        listed = [(name, item) for name, item in named if name is not None]
        scope, options = self.scope, self.search_options
        model = None if self.index is None else self.index.model
        return Inputs(
            stated_um={
                name: item.info.pixel_size_um for name, item in listed if item.info.pixel_size_um is not None
            },
            indexed_um=None if self.index is None else {k: v.pixel_size_um for k, v in self._indexed.items()},
            chosen=None if scope is None else frozenset(scope),
            names={name: item.info.name for name, item in listed},
            options=None if options is None else options.to_dict(),
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

        Parameters
        ----------
        name : str
        image : ndarray, optional
            The pixels, where they are in no file.
        packed : bytes, optional
            `image` as the project stores it, where that was made already.
        **description
            See `Project.add_query`.
        """
        key = self.project.add_query(name, image=image if packed is None else packed, **description)
        self._image = (key, image)
        self._queries = self.project.queries
        self.events.queries.emit()
        self.select_query(key)
        return self.project.query(key)

    def query_image(self, query_id: int) -> np.ndarray | None:
        """Return a query's pixels, None where they are in a file; those read last are cached."""
        if self._image is None or self._image[0] != query_id:
            self._image = (query_id, self.project.query_image(query_id))
        return self._image[1]

    def remove_query(self, query_id: int) -> None:
        """Remove a query with its result and verdicts; undo brings them back."""
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
        """Correct a query's modality or pixel size.

        Parameters
        ----------
        query_id : int
        modality : str, optional
        pixel_size_um : float, optional
        """
        self.project.update_query(query_id, modality=modality, pixel_size_um=pixel_size_um)
        self._queries = self.project.queries
        if query_id == self._query_id:
            self.events.query.emit()
            self.events.result.emit()  # which may be out of date now

    @property
    def query(self) -> ProjectQuery | None:
        """The current query."""
        return next((query for query in self._queries if query.id == self._query_id), None)

    def select_query(self, query_id: int | None) -> None:
        """Make a query the current one."""
        self._query_id = query_id
        self._partial = None
        self._take_answer(None)
        self.events.query.emit()
        self.events.result.emit()
        self.events.candidate.emit()

    # Answers

    @property
    def result(self) -> SearchResult | None:
        """The current query's answer, or what is known of it while the search runs."""
        if self._partial is not None:
            return self._partial
        return None if self.query is None else self.query.result

    @property
    def is_mirrored(self) -> bool:
        """Whether the last search of the current query included its mirror image."""
        return self.query is not None and bool(self.query.provenance.get("options", {}).get("mirror"))

    @property
    def is_refining(self) -> bool:
        """Whether the answer shown is still being worked on."""
        return self._partial is not None

    def show_partial(self, query_id: int, result: SearchResult) -> None:
        """Show what a running search has found so far, without confidences, which come last."""
        if query_id == self._query_id:
            candidates = tuple(replace(candidate, confidence=None) for candidate in result.candidates)
            self._partial = replace(result, found=False, finished=False, candidates=candidates)
            self._take_answer(self._rank)
            self.events.result.emit()
            self.events.candidate.emit()

    def end_search(
        self, query_id: int, result: SearchResult | None = None, provenance: dict[str, Any] | None = None
    ) -> str:
        """Keep a search's answer; of one that was stopped or failed nothing, the earlier answer stays.

        Parameters
        ----------
        query_id : int
        result : SearchResult, optional
            None where the search was stopped or failed.
        provenance : dict, optional
            By default that of `result`.

        Returns
        -------
        str
            What became of the answer, "" where it was just kept.
        """
        said = ""
        query = next((query for query in self._queries if query.id == query_id), None)
        if result is not None and result.finished and query is not None:
            said = changed_since(query, result)
            if not said:
                whole = with_moved(query, result, self.project.verdicts_of(query_id))
                self.project.set_result(query_id, whole, provenance)
                self._queries = self.project.queries
                self._undo = [step for step in self._undo if step.moved_in != query_id]
                said = describe_moved(whole)
        if query_id == self._query_id:
            self._partial = None
            self._take_answer(self._rank)
            self.events.result.emit()
            self.events.candidate.emit()
        return said

    def _take_answer(self, rank: int | None) -> None:
        """Read the verdicts on the answer, and stay on a candidate of it."""
        result, query = self.result, self.query
        if result is None or query is None:
            self._judgements, self._rank = {}, None
            return
        self._judgements = {} if self._partial is not None else self.project.verdicts_of(query.id)
        ranks = [candidate.rank for candidate in result.candidates]
        self._rank = rank if rank in ranks else ranks[0] if ranks else None

    # Candidates

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The current answer's candidates, best first."""
        return () if self.result is None else self.result.candidates

    @property
    def candidate(self) -> Candidate | None:
        """The current candidate."""
        return next((candidate for candidate in self.candidates if candidate.rank == self._rank), None)

    @property
    def judgements(self) -> dict[int, Judgement]:
        """The last verdict on each candidate, by rank."""
        return dict(self._judgements)

    def verdict(self, rank: int) -> Verdict:
        """Return what was last said of a candidate."""
        judgement = self._judgements.get(rank)
        return Verdict.NONE if judgement is None else judgement.verdict

    def select_candidate(self, rank: int | None) -> None:
        """Make a candidate the current one."""
        if rank != self._rank and (rank is None or rank in [other.rank for other in self.candidates]):
            self._rank = rank
            self.events.candidate.emit()

    def replace_candidate(self, candidate: Candidate) -> None:
        """Move a candidate by hand; verdicts stay with the place on which they were given.

        How sure the search was of the place that it found says nothing of this
        one, so it has no confidence.
        """
        query, result = self.query, self.result
        if query is None or result is None or self.is_refining or not result.finished:
            return
        before = next((other for other in result.candidates if other.rank == candidate.rank), None)
        if before is None:
            return
        self._put(query.id, replace(candidate, by_hand=True, confidence=None))
        said = f"Candidate {before.rank} is back where it was."
        self._undo.append(Step(partial(self._put, query.id, before), said, moved_in=query.id))

    def _put(self, query_id: int, candidate: Candidate) -> None:
        """Put a candidate in the place of the one of its rank."""
        if query_id != self._query_id:
            self.select_query(query_id)
        query = self.query
        if query is None or query.result is None:
            return
        candidates = tuple(
            candidate if other.rank == candidate.rank else other for other in query.result.candidates
        )
        self.project.set_result(query.id, replace(query.result, candidates=candidates), query.provenance)
        self._queries = self.project.queries
        self._take_answer(candidate.rank)
        self.events.result.emit()
        self.events.candidate.emit()

    def step_candidate(self, step: int) -> None:
        """Go to the next (1) or previous (-1) candidate, around the end."""
        ranks = [candidate.rank for candidate in self.candidates]
        if ranks:
            position = ranks.index(self._rank) if self._rank in ranks else -1
            self.select_candidate(ranks[(position + step) % len(ranks)])

    def step_unverified(self) -> bool:
        """Go to the next candidate without a verdict; return False where none is left."""
        ranks = [candidate.rank for candidate in self.candidates]
        start = ranks.index(self._rank) + 1 if self._rank in ranks else 0
        for rank in ranks[start:] + ranks[:start]:
            if self.verdict(rank) is Verdict.NONE:
                self.select_candidate(rank)
                return True
        return False

    def judge(self, verdict: Verdict, note: str | None = None) -> None:
        """Give a verdict on the current candidate; it is on the disk when this returns.

        Without `note` an earlier one stays.
        """
        query, candidate = self.query, self.candidate
        if query is None or candidate is None or self.is_refining:
            return
        before = self._judgements.get(candidate.rank, Judgement(Verdict.NONE))
        self._record(query.id, candidate, verdict, before.note if note is None else note)
        self._undo.append(Step(partial(self._take_back, query.id, candidate, before)))

    @property
    def can_undo(self) -> bool:
        """Whether something was done that can be undone."""
        return bool(self._undo)

    def undo(self) -> Step | None:
        """Undo what was done last, whichever query it was on; return it, None where nothing is left."""
        if not self._undo:
            return None
        step = self._undo[-1]
        step.undo()
        self._undo.remove(step)  # only now: where the disk refused, it can be tried again
        return step

    def _take_back(self, query_id: int, candidate: Candidate, before: Judgement) -> None:
        if all(query.id != query_id for query in self._queries):
            return
        if query_id != self._query_id:
            self.select_query(query_id)
        self._record(query_id, candidate, before.verdict, before.note)
        self.select_candidate(candidate.rank)

    def _record(self, query_id: int, candidate: Candidate, verdict: Verdict, note: str) -> None:
        self.project.set_verdict(query_id, candidate, verdict, note=note, reviewer=self.reviewer)
        self._judgements = self.project.verdicts_of(query_id)
        self.events.judgement.emit()

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many of the current candidates were given each verdict."""
        verdicts = [self.verdict(candidate.rank) for candidate in self.candidates]
        return {verdict: verdicts.count(verdict) for verdict in Verdict}
