"""The answer to the current query, and what is judged of it: the part of a session that is reviewed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from psygnal import Signal, SignalGroup

from comir_search.records import Candidate, SearchResult, Verdict
from comir_search.study.entries import Judgement, ProjectQuery, same_place
from comir_search.study.freshness import sizes_differ
from comir_search.study.project import Project


class SessionEvents(SignalGroup):
    """What a session tells: which part has changed."""

    project = Signal()
    slides = Signal()
    queries = Signal()
    query = Signal()  # another query is current, or the current one changed
    result = Signal()
    candidate = Signal()  # another candidate is current
    judgement = Signal()


@dataclass(frozen=True)
class Step:
    """Something that was done and can be undone.

    Parameters
    ----------
    undo : callable
    said : str
        What is said once it is undone, "" where the window shows it anyway.
    moved_in : int or None
        Of a place moved by hand: the query that it answers.
    """

    undo: Callable[[], None]
    said: str = ""
    moved_in: int | None = None


class Review:
    """Candidates and verdicts of the current query; `Session` adds slides, index and queries."""

    events: SessionEvents
    project: Project
    reviewer: str | None

    def __init__(self) -> None:
        self._queries: list[ProjectQuery] = []
        self._query_id: int | None = None
        self._partial: SearchResult | None = None
        self._judgements: dict[int, Judgement] = {}
        self._rank: int | None = None
        self._undo: list[Step] = []

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
        """Whether the current query was last sought mirrored, too."""
        return self.query is not None and bool(self.query.provenance.get("options", {}).get("mirror"))

    @property
    def is_refining(self) -> bool:
        """Whether the answer shown is still being worked on."""
        return self._partial is not None

    def show_partial(self, query_id: int, result: SearchResult) -> None:
        """Show what a running search has found so far; how sure it is nobody knows yet."""
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

        Returns
        -------
        str
            What became of the answer, "" where it was just kept.
        """
        said = ""
        query = next((query for query in self._queries if query.id == query_id), None)
        if result is not None and result.finished and query is not None:
            said = _changed_since(query, result)
            if not said:
                whole = _with_moved(query, result, self.project.verdicts_of(query_id))
                self.project.set_result(query_id, whole, provenance)
                self._queries = self.project.queries
                self._undo = [step for step in self._undo if step.moved_in != query_id]
                said = _say_kept(whole)
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
        """Go to the next candidate nobody has judged; return False where none is left."""
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


def _changed_since(query: ProjectQuery, result: SearchResult) -> str:
    """Return why an answer is not to this query as it is now, "" where it is."""
    origin, size_um = result.provenance, query.pixel_size_um
    if origin is None or size_um is None:
        return ""
    changed = ""
    if sizes_differ(origin.pixel_size_um, size_um):
        changed = (
            f"The pixel size of {query.name} was changed from {origin.pixel_size_um:g} to {size_um:g} µm"
        )
    elif query.modality and origin.modality != query.modality:
        changed = f"The kind of {query.name} was changed"
    return f"{changed} during the search, so its answer was not kept: search again." if changed else ""


def _with_moved(query: ProjectQuery, result: SearchResult, verdicts: dict[int, Judgement]) -> SearchResult:
    """Return an answer with the places that were moved by hand in the one before, unless rejected.

    They come after it; one that was found again stands where it was found, as it was moved.
    """
    if query.result is None:
        return result
    before, now = query.result.provenance, result.provenance
    ratio = 1.0 if before is None or now is None else now.pixel_size_um / before.pixel_size_um
    kept = list(result.candidates)
    for candidate in query.result.candidates:
        judgement = verdicts.get(candidate.rank)
        if candidate.by_hand and (judgement is None or judgement.verdict is not Verdict.REJECTED):
            size_um = {} if now is None else now.slides
            place = replace(
                candidate,
                rank=len(kept) + 1,
                width_um=candidate.width_um * ratio,
                height_um=candidate.height_um * ratio,
                pixel_size_um=size_um.get(candidate.fingerprint, candidate.pixel_size_um),
            )
            again = next((other for other in kept if same_place(place, other)), None)
            if again is None:
                kept.append(place)
            elif not again.by_hand:
                kept[kept.index(again)] = replace(place, rank=again.rank)
    return replace(result, candidates=tuple(kept))


def _say_kept(result: SearchResult) -> str:
    ranks = [str(candidate.rank) for candidate in result.candidates if candidate.by_hand]
    if not ranks:
        return ""
    which = f"candidate {ranks[0]}" if len(ranks) == 1 else f"candidates {', '.join(ranks)}"
    return f"What you moved by hand was kept, as {which}."


def describe_counts(counts: dict[Verdict, int]) -> str:
    """Return the summary of a review in one sentence."""
    total = sum(counts.values())
    return (
        f"All {total} candidates are judged: {counts[Verdict.ACCEPTED]} accepted, "
        f"{counts[Verdict.REJECTED]} rejected, {counts[Verdict.UNSURE]} unsure."
        if total
        else "There are no candidates to judge: search a query first."
    )
