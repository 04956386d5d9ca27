"""A search with the places that its first stages found, for the recall of each."""

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
    """A search's result, with the places of its first stages.

    Parameters
    ----------
    first_stage : dict of str to tuple of Candidate
        Places before their verification ("bow", "correlation") and after its
        coarsest round ("fused"), best first; of the stages that the method has.
    """

    first_stage: dict[str, tuple[Candidate, ...]] = field(default_factory=dict)


def search_stages_steps(
    index: Index, query: Slide, options: SearchOptions, runner: SearchRunner | None = None
) -> Job[StagedResult]:
    """Search for a query, and keep what each stage found.

    The method "auto" asks the words here also where the search needs none; their
    time does not count then.

    Parameters
    ----------
    index : Index
    query : Slide
    options : SearchOptions
    runner : SearchRunner, optional
        By default this process.
    """
    search = QuerySearch(index, query, options, runner)
    result = yield from search.run_steps()
    if options.method == "auto":
        yield from search.ask_words_steps()
    places = {"bow": search.by_words, "correlation": search.by_correlation, "fused": search.fused}
    first_stage = {stage: search.rank(found) for stage, found in places.items() if found is not None}
    return StagedResult(**vars(result), first_stage=first_stage)
