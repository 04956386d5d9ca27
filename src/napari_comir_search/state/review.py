"""What becomes of a query's answer: when it is kept, which positions stay, and how a review is summed up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from psygnal import Signal, SignalGroup

from comir_search.records import SearchResult, Verdict
from comir_search.study.entries import Judgement, ProjectQuery, same_place
from comir_search.study.freshness import sizes_differ


class SessionEvents(SignalGroup):
    """The events of a session: which part has changed."""

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


def changed_since(query: ProjectQuery, result: SearchResult) -> str:
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


def with_moved(query: ProjectQuery, result: SearchResult, verdicts: dict[int, Judgement]) -> SearchResult:
    """Return an answer with the places that were moved by hand in the one before, unless rejected.

    They come after it; one that was found again stands where it was found, as it was moved.

    Parameters
    ----------
    query : ProjectQuery
        With the earlier answer.
    result : SearchResult
        The new answer.
    verdicts : dict of int to Judgement
        On the earlier answer, by rank.
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


def describe_moved(result: SearchResult) -> str:
    """Return which candidates of an answer are positions that were moved by hand, "" where none is."""
    ranks = [str(candidate.rank) for candidate in result.candidates if candidate.by_hand]
    if not ranks:
        return ""
    which = f"candidate {ranks[0]}" if len(ranks) == 1 else f"candidates {', '.join(ranks)}"
    return f"The positions that you moved by hand were kept, as {which}."


def describe_counts(counts: dict[Verdict, int]) -> str:
    """Return the summary of a review in one sentence."""
    total = sum(counts.values())
    return (
        f"All {total} candidates are judged: {counts[Verdict.ACCEPTED]} accepted, "
        f"{counts[Verdict.REJECTED]} rejected, {counts[Verdict.UNSURE]} unsure."
        if total
        else "There are no candidates to judge: search for a query first."
    )
