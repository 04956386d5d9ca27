"""A search that also returns the places of its first stages, to measure how many queries each stage finds."""

from __future__ import annotations

from dataclasses import dataclass, field

from comir_search.index.index import Index
from comir_search.progress import Job
from comir_search.records import Candidate, SearchResult
from comir_search.retrieval.options import SearchOptions
from comir_search.retrieval.search import QuerySearch
from comir_search.retrieval.workers import SearchRunner
from comir_search.slides import Slide


@dataclass(frozen=True)
class StagedResult(SearchResult):
    """The result of a search with the places of its first stages.

    Parameters
    ----------
    first_stage : dict of str to tuple of Candidate
        Places before the verification ("bow", "correlation") and after its coarsest
        round ("fused"), best first. Stages that the method does not use are missing.
    """

    first_stage: dict[str, tuple[Candidate, ...]] = field(default_factory=dict)


def search_stages_steps(
    index: Index, query: Slide, options: SearchOptions, runner: SearchRunner | None = None
) -> Job[StagedResult]:
    """Search for a query, and return the places of each stage too.

    With the method "auto", the words are always compared here, even if the search does
    not need them. Their time is then not counted.

    Parameters
    ----------
    index : Index
    query : Slide
    options : SearchOptions
    runner : SearchRunner, optional
        Where the search runs; by default in this process.
    """
    search = QuerySearch(index, query, options, runner)
    result = yield from search.run_steps()
    if options.method == "auto":
        yield from search.ask_words_steps()
    places = {"bow": search.by_words, "correlation": search.by_correlation, "fused": search.fused}
    first_stage = {stage: search.rank(found) for stage, found in places.items() if found is not None}
    return StagedResult(**vars(result), first_stage=first_stage)
