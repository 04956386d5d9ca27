"""Who does the work of a search: this process, or a cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from comir_search.compute.threads import Result, Running, run_side_by_side

if TYPE_CHECKING:
    from comir_search.index.index import Index


class SearchRunner(Protocol):
    """Looks at many places of many slides in the same way."""

    def run(
        self, tool: Callable[..., Result], jobs: Sequence[tuple[Any, ...]], bytes_each: int = 0
    ) -> Running[Result]:
        """Call `tool` with every job's entries.

        Parameters
        ----------
        tool : callable
            To be pickled small, since it may travel: it goes without what is
            quickly made again.
        jobs : sequence of tuple
            Each begins with an `IndexedSlide`; the rest can be pickled.
        bytes_each : int
            Memory that a job takes: the larger, the fewer run at a time in one process.

        Yields
        ------
        done : int
            Jobs that are finished: at first none, at last all.
        results : list
            What the tool returned, in the order of the jobs; None where a job is
            not finished. The same list every time.
        """

    def close(self) -> None:
        """Release what doing the work needed."""


class LocalSearchRunner:
    """Work in this process, each core on a job of its own."""

    def run(
        self, tool: Callable[..., Result], jobs: Sequence[tuple[Any, ...]], bytes_each: int = 0
    ) -> Running[Result]:
        """Do jobs, see `SearchRunner`."""
        return run_side_by_side(tool, jobs, bytes_each)

    def close(self) -> None:
        """Do nothing: nothing was started."""


def open_search_runner(
    index: Index, *, workers: int | None = None, scheduler: str | None = None
) -> SearchRunner:
    """Choose who searches an index; close it after the last query.

    Parameters
    ----------
    index : Index
        Where workers of a cluster see it under the same name, or behind a URL.
    workers : int, optional
        Work in so many processes on this machine, instead of in this one.
    scheduler : str, optional
        Work on the cluster of the `dask.distributed` scheduler at this address.

    Raises
    ------
    ComirSearchError
        If `distributed` is not installed, or the scheduler does not answer.
    """
    if workers is None and scheduler is None:
        return LocalSearchRunner()
    from comir_search.retrieval.cluster import ClusterSearchRunner

    return ClusterSearchRunner(index, scheduler=scheduler, workers=workers)
