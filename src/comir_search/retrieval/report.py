"""The result of a search from its verified places: candidates, confidence, reason, seconds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from comir_search.geometry import normalise_angle_deg
from comir_search.index.index import Index, IndexedSlide
from comir_search.matching.places import Place
from comir_search.matching.query import Query
from comir_search.records import Candidate, Provenance, SearchResult
from comir_search.retrieval.confidence import measure
from comir_search.retrieval.query import LITTLE_EVIDENCE


class Clock:
    """Measures how many seconds each stage takes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._started = self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Add the time since the last call to the time of a stage."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now
        self.seconds["total"] = now - self._started


CLOSE_SCORES = 0.03  # places whose scores differ by less fit about equally well


@dataclass(frozen=True)
class Coverage:
    """How many slides of an index are searched.

    Parameters
    ----------
    searched : int
        Number of searched slides.
    of : int
        Number of all slides, including unfinished and damaged ones.
    damaged : int
        Number of slides whose slide.json is damaged.
    repair : str
        The command that repairs them.
    """

    searched: int
    of: int
    damaged: int = 0
    repair: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether no slide was left out."""
        return self.searched >= self.of


class Reporter:
    """Turns places into candidates and results.

    Parameters
    ----------
    index : Index
    query : Query
    slides : list of IndexedSlide
        All slides of the index.
    top : int
        Number of candidates that the user wants.
    coverage : Coverage
    provenance : Provenance
        Provenance of the final result.
    """

    def __init__(
        self,
        index: Index,
        query: Query,
        slides: list[IndexedSlide],
        top: int,
        coverage: Coverage,
        provenance: Provenance,
    ) -> None:
        self.size_um = index.model.comir_pixel_size_um
        self.calibration = index.model.calibration
        self.query, self.slides, self.top = query, slides, top
        self.coverage, self.provenance = coverage, provenance

    def candidates(self, places: Sequence[Place]) -> tuple[tuple[Candidate, ...], bool]:
        """Return verified places as candidates, and whether the first one can be trusted.

        They are sorted by confidence. If the model was never calibrated, there is no
        confidence, and they are sorted by score.
        """
        if not places or self.calibration is None:
            return self.ranked(sorted(places, key=lambda place: -place.score)), False
        features = measure(
            [place.score for place in places], self.query.signal, self.query.short_side_px * self.size_um
        )
        confidences = self.calibration.confidence(features)
        order = sorted(range(len(places)), key=lambda i: (-confidences[i], -places[i].score))
        candidates = tuple(
            self._candidate(places[number], rank, float(confidences[number]))
            for rank, number in enumerate(order, 1)
        )
        return candidates, confidences[order[0]] >= self.calibration.threshold

    def ranked(self, places: Sequence[Place]) -> tuple[Candidate, ...]:
        """Return places as candidates without confidence, in the same order."""
        return tuple(self._candidate(place, rank, None) for rank, place in enumerate(places, 1))

    def _candidate(self, place: Place, rank: int, confidence: float | None) -> Candidate:
        slide = self.slides[place.slide]
        to_px = self.size_um / slide.pixel_size_um
        return Candidate(
            rank=rank,
            slide=slide.name,
            center_x_px=float(place.x * to_px),
            center_y_px=float(place.y * to_px),
            pixel_size_um=slide.pixel_size_um,
            width_um=self.query.width_um * place.scale,
            height_um=self.query.height_um * place.scale,
            angle_deg=normalise_angle_deg(-place.angle_deg if place.mirrored else place.angle_deg),
            mirrored=place.mirrored,
            score=place.score,
            confidence=confidence,
            fingerprint=slide.fingerprint,
            scale=place.scale,
        )

    def result(self, places: Sequence[Place], clock: Clock) -> SearchResult:
        """Return the final result."""
        candidates, found = self.candidates(places)
        return SearchResult(
            self.query.name,
            bool(found),
            self._reason(candidates, bool(found)),
            dict(clock.seconds),
            candidates[: self.top],
            self.query.signal,
            provenance=self.provenance,
        )

    def partial(self, places: Sequence[Place], clock: Clock) -> SearchResult | None:
        """Return a preliminary result: places sorted by their present scores, without confidence."""
        if not places:
            return None
        ordered = sorted(places, key=lambda place: -place.score)[: self.top]
        return SearchResult(
            self.query.name,
            False,
            "still searching",
            dict(clock.seconds),
            self.ranked(ordered),
            self.query.signal,
            finished=False,
        )

    def _reason(self, candidates: tuple[Candidate, ...], found: bool) -> str:
        """Return one sentence: why the query was found or not, and what limits the answer."""
        parts = [self._judgement(candidates, found)]
        coverage = self.coverage
        if coverage.damaged or not (found or coverage.is_whole):
            parts.append(f"only {coverage.searched} of {coverage.of} slides were searched")
        if coverage.damaged:
            verb = "is" if coverage.damaged == 1 else "are"
            parts.append(f"{coverage.damaged} {verb} damaged: run {coverage.repair}")
        if len(candidates) < self.top:
            parts.append(f"there are no more than {len(candidates)} distinct places")
        return "; ".join(parts) + "."

    def _judgement(self, candidates: tuple[Candidate, ...], found: bool) -> str:
        signal = f"{self.query.signal:.0%} of the patch carries signal"
        if found:
            return f"The first place stands out (confidence {candidates[0].confidence:.0%}); {signal}"
        if self.query.mismatch:
            return f"No place can be trusted: {self.query.mismatch}"
        if self.query.signal < LITTLE_EVIDENCE:
            return (
                f"The patch is too dark or too empty to be placed ({signal}); take a larger or brighter one"
            )
        if not candidates:
            return f"No place fits; {signal}"
        first = candidates[0]
        if first.confidence is None:
            return (
                "This model was never calibrated, so its places have no confidence and none can be called found: "
                f"compare the first ones by eye, or search with a calibrated model; {signal}"
            )
        margin = first.score - candidates[1].score if len(candidates) > 1 else first.score
        several = margin < CLOSE_SCORES
        why = "several places fit about equally well" if several else "the best place fits too poorly"
        return f"No place can be trusted: {why} (confidence {first.confidence:.0%}); {signal}"
