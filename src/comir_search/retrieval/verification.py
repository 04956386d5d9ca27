"""Verification: places of the first stages, correlated again from coarse to fine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from comir_search.progress import Job, Tick
from comir_search.records import SearchResult
from comir_search.retrieval.index import IndexedSlide
from comir_search.retrieval.places import Place, keep_distinct
from comir_search.retrieval.pose import PoseFinder, PoseRound
from comir_search.retrieval.query import Query
from comir_search.retrieval.runner import SearchRunner

FINE_PLACES = 24
LAST_PLACES = 12
SCALE_STEPS = (0.975, 1.0, 1.025)
SHOW_EVERY = 8


class Verifier:
    """Finds place and angle of one query ever more exactly, and keeps the best places.

    Parameters
    ----------
    queries : sequence of Query
        The query, and mirrored if that is looked for.
    slides : sequence of IndexedSlide
        All of the index.
    step_deg : float
        Between the angles that the first stages tried.
    radius_px : float
        Places closer than this, CoMIR pixels, are one.
    top : int
        Keep at least so many in the end.
    runner : SearchRunner
    finest_level : int
        Where place and angle are found in the end: 0, but coarser for large
        queries, which are as exact there, in a fraction of the time.
    """

    def __init__(
        self,
        queries: Sequence[Query],
        slides: Sequence[IndexedSlide],
        step_deg: float,
        radius_px: float,
        top: int,
        runner: SearchRunner,
        finest_level: int = 0,
    ) -> None:
        self.queries, self.slides = {query.mirrored: query for query in queries}, slides
        self.step_deg, self.radius_px = step_deg, radius_px
        self.count = max(top, LAST_PLACES)
        self.runner, self.finest_level = runner, finest_level

    def verify_steps(
        self, places: Sequence[Place], show: Callable[[Sequence[Place]], SearchResult | None]
    ) -> Job[tuple[list[Place], list[Place]]]:
        """Correlate places again.

        Parameters
        ----------
        places : sequence of Place
        show : callable
            Makes the ticks' partial result of the places refined so far.

        Returns
        -------
        best : list of Place
            With their final scores, best first.
        coarsest : list of Place
            After the coarsest round alone.
        """
        finest = self.finest_level
        rounds = (
            # level, margin, offsets as shares of the angle step, how many go on, scales
            (finest + 1, 6, (-0.5, 0.0, 0.5), FINE_PLACES, (1.0,)),
            (finest, 8, (-0.25, 0.0, 0.25), LAST_PLACES, SCALE_STEPS),
            (finest, 4, (-0.125, 0.0, 0.125), self.count, (1.0,)),
        )
        coarsest: list[Place] = []
        best = list(places)
        for number, (level, margin_px, shares, count, scales) in enumerate(rounds):
            finders = {flag: PoseFinder(query, level, margin_px) for flag, query in self.queries.items()}
            poses = PoseRound(finders, tuple(share * self.step_deg for share in shares), scales)
            work = [(self.slides[place.slide], place) for place in best]
            refined: list[Place | None] = []
            shown = 0
            for done, refined in self.runner.run(poses.refine, work, poses.bytes_each):
                partial = None
                if number and done >= shown + SHOW_EVERY:
                    partial, shown = show([place for place in refined if place]), done
                yield Tick(f"pose, level {level}", done, len(work), partial)
            finished = [place for place in refined if place]
            if not number:
                coarsest = keep_distinct(finished, self.radius_px, len(finished))
            best = keep_distinct(finished, self.radius_px, count)
        return best, coarsest
