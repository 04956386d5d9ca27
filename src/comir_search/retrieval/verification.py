"""Verification: correlate the places of the first stages again, from coarse to fine."""

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

FINE_SHARE = 2  # number of places in the second round for each place of the last round
LAST_PLACES = 12  # least number of places in the last round
SCALE_STEPS = (0.975, 1.0, 1.025)
SHOW_EVERY = 8


@dataclass(frozen=True)
class _Round:
    """Settings of one round of verification.

    Parameters
    ----------
    level : int
        Number of levels above the finest one.
    margin_px : int
        How far a place may move, in pixels of the level.
    shares : tuple of float
        Changes of the angle to try, in units of the angle step.
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
    """Refines places of a query and of its mirror image.

    Parameters
    ----------
    finders : dict of bool to PoseFinder
        One for places that are not mirrored (False), one for mirrored places (True).
    angle_offsets_deg, scales : tuple of float
        See `PoseFinder.refine`.
    """

    finders: dict[bool, PoseFinder]
    angle_offsets_deg: tuple[float, ...]
    scales: tuple[float, ...]

    @property
    def bytes_each(self) -> int:
        """Memory that one place needs: rotated copies of the query, their spectra and the scores."""
        finder = next(iter(self.finders.values()))
        side = finder.query.diagonal_px / 2**finder.level + 2 * finder.margin_px
        return int(24 * len(self.angle_offsets_deg) * len(finder.query.comir) * side**2)

    def refine(self, slide: IndexedSlide, place: Place) -> Place:
        """Return a place with a better position and rotation, and its new score."""
        return self.finders[place.mirrored].refine(
            place, partial(read_level, slide), self.angle_offsets_deg, self.scales
        )


class Verifier:
    """Finds position and rotation of one query more exactly in each round, and keeps the best places.

    Parameters
    ----------
    queries : sequence of Query
        The query, and its mirror image if that is searched too.
    slides : sequence of IndexedSlide
        All slides of the index.
    step_deg : float
        Step between the angles that the first stages tried.
    radius_px : float
        Places closer than this, in CoMIR pixels, count as one.
    top : int
        Least number of places to keep at the end.
    runner : SearchRunner
    finest_level : int
        Level of the final position and rotation, see `choose_finest_level`.
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
            Makes a preliminary result from the places that are refined already.
        wanted : int
            Continue until there are this many places, or no more are waiting.

        Returns
        -------
        best : list of Place
            At most `count` places with their final scores, best first.
        coarsest : list of Place
            The places after the coarsest round alone.
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
