"""Verification: places of the first stages, correlated again from coarse to fine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from comir_search.index.index import IndexedSlide
from comir_search.index.levels import read_level
from comir_search.matching.places import Place, keep_distinct
from comir_search.matching.pose import PoseFinder
from comir_search.matching.query import Query
from comir_search.progress import Job, Tick
from comir_search.records import SearchResult
from comir_search.retrieval.workers import SearchRunner

FINE_SHARE = 2  # places of the second round, for each of the last
LAST_PLACES = 12  # of the last round, at least
SCALE_STEPS = (0.975, 1.0, 1.025)
SHOW_EVERY = 8


@dataclass(frozen=True)
class _Round:
    """How places are looked at at one level.

    Parameters
    ----------
    level : int
        Above the finest.
    margin_px : int
        How far a place may move, pixels of the level.
    shares : tuple of float
        Angles to try, as shares of the angle step.
    scales : tuple of float
    """

    level: int
    margin_px: int
    shares: tuple[float, ...]
    scales: tuple[float, ...] = (1.0,)


ROUNDS = (
    _Round(1, 6, (-0.5, 0.0, 0.5)),
    _Round(0, 8, (-0.25, 0.0, 0.25), SCALE_STEPS),
    _Round(0, 4, (-0.125, 0.0, 0.125)),
)


@dataclass(frozen=True)
class PoseRound:
    """Refine places of a query and of its mirror image in the same way.

    Parameters
    ----------
    finders : dict of bool to PoseFinder
        For places that are not mirrored, and for those that are.
    angle_offsets_deg, scales : tuple of float
        As of `PoseFinder.refine`.
    """

    finders: dict[bool, PoseFinder]
    angle_offsets_deg: tuple[float, ...]
    scales: tuple[float, ...]

    @property
    def bytes_each(self) -> int:
        """Memory that one place takes: its turned copies, their spectra and what is made of them."""
        finder = next(iter(self.finders.values()))
        side = finder.query.diagonal_px / 2**finder.level + 2 * finder.margin_px
        return int(24 * len(self.angle_offsets_deg) * len(finder.query.comir) * side**2)

    def refine(self, slide: IndexedSlide, place: Place) -> Place:
        """Return a place on a slide moved, turned and scored anew."""
        return self.finders[place.mirrored].refine(
            place, partial(read_level, slide), self.angle_offsets_deg, self.scales
        )


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
        Where place and angle are found in the end, see `choose_finest_level`.
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
        self.top, self.count = top, max(top, LAST_PLACES)
        self.runner, self.finest_level = runner, finest_level

    def verify_steps(
        self,
        places: Sequence[Place],
        show: Callable[[Sequence[Place]], SearchResult | None] = lambda _: None,
        *,
        wanted: int = 0,
    ) -> Job[tuple[list[Place], list[Place]]]:
        """Correlate places again.

        All places take part in the first round, and the best of each round in the next.
        If fewer than `wanted` distinct places are left at the end, more places
        continue, beginning with those that had come to the latest round.

        Parameters
        ----------
        places : sequence of Place
        show : callable
            Makes the ticks' partial result of the places refined so far.
        wanted : int
            Go on until there are so many, or none is held back.

        Returns
        -------
        best : list of Place
            With their final scores, best first; at most `count`.
        coarsest : list of Place
            After the coarsest round alone.
        """
        waiting: list[list[Place]] = [list(places), [], []]
        at_a_time = len(places), FINE_SHARE * self.count, self.count
        coarsest: list[Place] = []
        best: list[Place] = []
        while any(waiting) and (not best or len(best) < wanted):
            number = max(number for number, held in enumerate(waiting) if held)
            batch, waiting[number] = (
                waiting[number][: at_a_time[number]],
                waiting[number][at_a_time[number] :],
            )
            finished = yield from self._refine_steps(
                ROUNDS[number], batch, show if number else lambda _: None
            )
            if number + 1 == len(ROUNDS):
                best = keep_distinct([*best, *finished], self.radius_px, self.count)
                continue
            following = [*waiting[number + 1], *finished]
            waiting[number + 1] = keep_distinct(following, self.radius_px, len(following))
            if not number:
                coarsest = list(waiting[1])
        return best, coarsest

    def _refine_steps(
        self,
        how: _Round,
        places: Sequence[Place],
        show: Callable[[Sequence[Place]], SearchResult | None],
    ) -> Job[list[Place]]:
        level = self.finest_level + how.level
        finders = {flag: PoseFinder(query, level, how.margin_px) for flag, query in self.queries.items()}
        poses = PoseRound(finders, tuple(share * self.step_deg for share in how.shares), how.scales)
        work = [(self.slides[place.slide], place) for place in places]
        refined: list[Place | None] = []
        shown = 0
        for done, refined in self.runner.run(poses.refine, work, poses.bytes_each):
            partial = None
            if done >= shown + SHOW_EVERY:
                partial, shown = show([place for place in refined if place]), done
            yield Tick(f"pose, level {level}", done, len(work), partial)
        return [place for place in refined if place]
