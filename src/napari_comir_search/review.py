"""The answer to the current query, and what is judged of it: the part of a session that is reviewed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from psygnal import Signal, SignalGroup

from comir_search.io.entries import Judgement, ProjectQuery
from comir_search.io.project import Project
from comir_search.records import Candidate, SearchResult, Verdict


class SessionEvents(SignalGroup):
    """What a session tells: which part has changed."""

    project = Signal()
    slides = Signal()
    queries = Signal()
    query = Signal()  # another query is current, or the current one changed
    result = Signal()
    candidate = Signal()  # another candidate is current
    judgement = Signal()


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
        self._undo: list[tuple[int, Candidate, Judgement]] = []

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
        """Show what a running search has found so far."""
        if query_id == self._query_id:
            self._partial = result
            self._take_answer(self._rank)
            self.events.result.emit()
            self.events.candidate.emit()

    def end_search(
        self, query_id: int, result: SearchResult | None = None, provenance: dict[str, Any] | None = None
    ) -> None:
        """Keep a search's answer; without one, keep what it had found when it stopped."""
        result = self._partial if result is None and query_id == self._query_id else result
        if result is not None:
            self.project.set_result(query_id, result, provenance)
            self._queries = self.project.queries
        if query_id == self._query_id:
            self._partial = None
            self._take_answer(self._rank)
            self.events.result.emit()
            self.events.candidate.emit()

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
        """Correct a candidate's place; verdicts stay with the place on which they were given."""
        query, result = self.query, self.result
        if query is None or result is None or self.is_refining:
            return
        candidates = tuple(
            candidate if other.rank == candidate.rank else other for other in result.candidates
        )
        self.project.set_result(query.id, replace(result, candidates=candidates), query.provenance)
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
        self._undo.append((query.id, candidate, before))
        self._record(query.id, candidate, verdict, before.note if note is None else note)

    def undo(self) -> bool:
        """Take the last verdict back, whichever query it was on; return False where none is left."""
        if not self._undo:
            return False
        query_id, candidate, before = self._undo.pop()
        if query_id != self._query_id:
            self.select_query(query_id)
        self._record(query_id, candidate, before.verdict, before.note)
        self.select_candidate(candidate.rank)
        return True

    def _record(self, query_id: int, candidate: Candidate, verdict: Verdict, note: str) -> None:
        self.project.set_verdict(query_id, candidate, verdict, note=note, reviewer=self.reviewer)
        self._judgements = self.project.verdicts_of(query_id)
        self.events.judgement.emit()

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many of the current candidates were given each verdict."""
        verdicts = [self.verdict(candidate.rank) for candidate in self.candidates]
        return {verdict: verdicts.count(verdict) for verdict in Verdict}


def describe_counts(counts: dict[Verdict, int]) -> str:
    """Return the summary of a review in one sentence."""
    total = sum(counts.values())
    return (
        f"All {total} candidates are judged: {counts[Verdict.ACCEPTED]} accepted, "
        f"{counts[Verdict.REJECTED]} rejected, {counts[Verdict.UNSURE]} unsure."
        if total
        else "There are no candidates to judge: search a query first."
    )
