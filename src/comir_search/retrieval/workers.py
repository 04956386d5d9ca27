"""Where a search runs: in this process or on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from comir_search.compute.threads import Result, Running, run_side_by_side

if TYPE_CHECKING:
    from comir_search.index.index import Index


class SearchRunner(Protocol):
    """Runs the same function on many places of many slides."""

    def run(
        self, tool: Callable[..., Result], jobs: Sequence[tuple[Any, ...]], bytes_each: int = 0
    ) -> Running[Result]:
        """Call a function once for each job.

        Parameters
        ----------
        tool : callable
            The function. It may be sent to other processes, so its pickle leaves out
            data that can be computed again quickly.
        jobs : sequence of tuple
            Arguments of each call. The first is an `IndexedSlide`; the others can be pickled.
        bytes_each : int
            Memory that one job needs. The more it is, the fewer jobs run at the same time.

        Yields
        ------
        done : int
            Number of finished jobs, from 0 to all.
        results : list
            The returned values, in the order of the jobs; None for a job that is not
            finished. It is the same list every time.
        """

    def close(self) -> None:
        """Free the resources of the runner."""


class LocalSearchRunner:
    """Runs jobs in this process, one on each core."""

    def run(
        self, tool: Callable[..., Result], jobs: Sequence[tuple[Any, ...]], bytes_each: int = 0
    ) -> Running[Result]:
        """Run jobs in this process.

        Parameters
        ----------
        tool, jobs, bytes_each
            See `SearchRunner.run`.
        """
        return run_side_by_side(tool, jobs, bytes_each)

    def close(self) -> None:
        """Do nothing: there is nothing to free."""


def open_search_runner(
    index: Index, *, workers: int | None = None, scheduler: str | None = None
) -> SearchRunner:
    """Choose where an index is searched. Close the runner after the last query.

    Parameters
    ----------
    index : Index
        For a cluster: in a folder that all workers see under the same path, or at a URL.
    workers : int, optional
        Search in this many processes on this machine, instead of in this one.
    scheduler : str, optional
        Address of a `dask.distributed` scheduler on whose cluster to search.

    Raises
    ------
    ComirSearchError
        If `distributed` is not installed, or the scheduler does not answer.
    """
    if workers is None and scheduler is None:
        return LocalSearchRunner()
    from comir_search.retrieval.cluster import ClusterSearchRunner

    return ClusterSearchRunner(index, scheduler=scheduler, workers=workers)
