"""Where a search runs: in this process, or on the workers of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from comir_search.compute.threads import Result, Running, run_side_by_side

if TYPE_CHECKING:
    from comir_search.index.index import Index


class SearchRunner(Protocol):
    """Calls one function for many positions on many slides."""

    def run(
        self, tool: Callable[..., Result], jobs: Sequence[tuple[Any, ...]], bytes_each: int = 0
    ) -> Running[Result]:
        """Call `tool` once for each job.

        Parameters
        ----------
        tool : callable
            It may be sent to other processes, so its pickle should be small and leave
            out everything that can be computed again quickly.
        jobs : sequence of tuple
            Each job holds the arguments of one call. The first is an `IndexedSlide`;
            the others can be pickled.
        bytes_each : int
            Memory that one job needs. The more it is, the fewer jobs run at a time
            in one process.

        Yields
        ------
        done : int
            Number of finished jobs, from 0 to all.
        results : list
            The returned values in the order of the jobs, None for unfinished jobs. It
            is the same list every time.
        """

    def close(self) -> None:
        """Stop the workers, or disconnect from them."""


class LocalSearchRunner:
    """Search in this process, with one job on each core."""

    def run(
        self, tool: Callable[..., Result], jobs: Sequence[tuple[Any, ...]], bytes_each: int = 0
    ) -> Running[Result]:
        """Call `tool` once for each job; see `SearchRunner`.

        Parameters
        ----------
        tool : callable
        jobs : sequence of tuple
        bytes_each : int
        """
        return run_side_by_side(tool, jobs, bytes_each)

    def close(self) -> None:
        """Do nothing, because there are no workers."""


def open_search_runner(
    index: Index, *, workers: int | None = None, scheduler: str | None = None
) -> SearchRunner:
    """Choose where an index is searched. Close the runner after the last query.

    Parameters
    ----------
    index : Index
        For a cluster: in a folder that all workers see under the same path, or at a
        URL.
    workers : int, optional
        Number of worker processes to start on this machine. By default this process
        itself searches.
    scheduler : str, optional
        Address of the `dask.distributed` scheduler of a running cluster.

    Raises
    ------
    ComirSearchError
        If `distributed` is not installed, or the scheduler does not answer.
    """
    if workers is None and scheduler is None:
        return LocalSearchRunner()
    from comir_search.retrieval.cluster import ClusterSearchRunner

    return ClusterSearchRunner(index, scheduler=scheduler, workers=workers)
